//! One request to one address and its answer back, streaming both ways; upgrades are copied blindly.

use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::endpoint::Target;
use crate::connect::{Body, Connect, full, refuse};
use crate::status::ApiError;

const CONNECT: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(30);

/// Headers of one hop (RFC 9110 §7.6.1) that are not passed on.
const HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Connections to Pods, kept and used again.
#[derive(Clone)]
pub struct Upstream {
    client: Client<HttpConnector, Body>,
}

impl Upstream {
    pub fn new() -> Upstream {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(16)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Upstream { client }
    }

    /// Sends the request to `target` and gives its answer, or why there is none.
    pub async fn forward(&self, target: Target, connect: Connect) -> Response<Body> {
        if target.https {
            return refuse(&ApiError::new(
                501,
                "NotImplemented",
                "localkube proxies plain http only",
            ));
        }
        let Connect { rest, request, .. } = connect;
        let (mut parts, body) = request.into_parts();
        let original = parts.uri.clone();
        let query = original
            .query()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        let path = if rest.is_empty() { "/" } else { &rest };
        let uri = uri(&target, &format!("{path}{query}"));
        let Some(uri) = uri else {
            return refuse(&ApiError::bad_request("the path cannot be passed on"));
        };
        let upgrade = upgrade_of(&parts.headers);
        let client_side = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let mut headers = parts.headers;
        let host = headers.get(header::HOST).cloned();
        strip(&mut headers);
        // The caller's credential is for us alone.
        headers.remove(header::AUTHORIZATION);
        headers.remove(header::HOST);
        forwarded(&mut headers, &original, host);
        if let Some(protocol) = &upgrade {
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, protocol.clone());
        }
        let mut outgoing = http::Request::new(body);
        *outgoing.method_mut() = parts.method;
        *outgoing.uri_mut() = uri;
        *outgoing.headers_mut() = headers;
        let mut response = match self.client.request(outgoing).await {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(address = %target.address, %error, "a request could not be proxied");
                return unreachable(&target, &error);
            }
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let (Some(_), Some(client_side)) = (upgrade, client_side)
        {
            let server_side = hyper::upgrade::on(&mut response);
            tokio::spawn(splice(client_side, server_side));
            let (parts, _) = response.into_parts();
            return Response::from_parts(parts, full(bytes::Bytes::new()));
        }
        let (mut parts, body) = response.into_parts();
        strip(&mut parts.headers);
        Response::from_parts(parts, body.map_err(Into::into).boxed_unsync())
    }
}

fn uri(target: &Target, path: &str) -> Option<Uri> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Authority::try_from(target.authority.as_str()).ok();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    asks.then(|| headers.get(header::UPGRADE).cloned())
        .flatten()
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|word| word.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP) {
        headers.remove(name);
    }
}

/// `X-Forwarded-*` as kube-apiserver sets them: the path it was asked for and the host it was asked at.
fn forwarded(headers: &mut HeaderMap, original: &Uri, host: Option<HeaderValue>) {
    if let Ok(path) = HeaderValue::try_from(original.path()) {
        headers.insert("x-forwarded-uri", path);
    }
    let host = host.or_else(|| HeaderValue::try_from(original.authority()?.as_str()).ok());
    if let Some(host) = host {
        headers.insert("x-forwarded-host", host);
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
}

fn unreachable(target: &Target, error: &hyper_util::client::legacy::Error) -> Response<Body> {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let address = target.address;
    let text = if error.is_connect() {
        // Go names the call that failed; clients look for these words.
        let why = match cause
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind)
        {
            Some(std::io::ErrorKind::ConnectionRefused) => "connect: connection refused".to_owned(),
            Some(std::io::ErrorKind::TimedOut) => "i/o timeout".to_owned(),
            _ => cause.to_string(),
        };
        format!("error trying to reach service: dial tcp {address}: {why}")
    } else {
        format!("error trying to reach service: {cause}")
    };
    refuse(&ApiError::new(503, "ServiceUnavailable", text))
}

async fn splice(client: hyper::upgrade::OnUpgrade, server: hyper::upgrade::OnUpgrade) {
    match tokio::try_join!(client, server) {
        Ok((client, server)) => {
            let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
                tracing::debug!(%error, "an upgraded connection broke");
            }
        }
        Err(error) => tracing::debug!(%error, "an upgrade did not come about"),
    }
}
