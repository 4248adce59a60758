//! One request to one address and its answer back, streaming both ways; upgrades are copied blindly.

use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::endpoint::Target;
use crate::connect::{Body, Connect, full, refuse};
use crate::status::ApiError;

/// How long unused connections are kept.
const IDLE: Duration = Duration::from_secs(30);

/// Headers of one hop (RFC 9110 §7.6.1) that are not passed on. `TE: trailers` is, as kube-apiserver does it.
const HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// What Go's `URL.EscapedPath` escapes in a path: all but `-._~` and `$&+,/:;=@`.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// How long is waited for a Pod.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until it accepts a connection.
    pub connect: Duration,
    /// From the request to the head of its answer.
    pub head: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connect: Duration::from_secs(10),
            head: Duration::from_secs(60),
        }
    }
}

/// Connections to Pods, kept and used again.
#[derive(Clone)]
pub struct Upstream {
    client: Client<HttpConnector, Body>,
    limits: Limits,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Upstream {
    /// Upgraded connections belong to `tasks` and end with `shutdown`.
    pub fn new(limits: Limits, tasks: TaskTracker, shutdown: CancellationToken) -> Upstream {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(limits.connect));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(16)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Upstream {
            client,
            limits,
            tasks,
            shutdown,
        }
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
        let peer = connect.peer();
        let prefix = prefix(&connect);
        let Connect { rest, request, .. } = connect;
        let (mut parts, body) = request.into_parts();
        let upgrade = upgrade_of(&parts.headers);
        let client_side = parts.extensions.remove::<OnUpgrade>();
        let path = utf8_percent_encode(&rest, PATH).to_string();
        // kube-apiserver loses the query of an upgrade; callers who need it there send it in a header of their own.
        let query = parts.uri.query().filter(|_| upgrade.is_none());
        let wanted = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        let Some(uri) = uri(&target, &wanted) else {
            return refuse(&ApiError::bad_request("the path cannot be passed on"));
        };
        let mut headers = parts.headers;
        strip(&mut headers);
        // The caller's credential is for us alone.
        headers.remove(header::AUTHORIZATION);
        // The Pod is told the host that the caller asked, as HTTP/1.1 or HTTP/2 names it.
        if !headers.contains_key(header::HOST)
            && let Some(authority) = parts.uri.authority()
            && let Ok(host) = HeaderValue::try_from(authority.as_str())
        {
            headers.insert(header::HOST, host);
        }
        if let Some(peer) = peer {
            append_peer(&mut headers, &peer.ip().to_canonical().to_string());
        }
        if let Some(protocol) = &upgrade {
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, protocol.clone());
        } else if let Ok(asked) = HeaderValue::try_from(format!("{prefix}{path}")) {
            headers.insert(FORWARDED_URI, asked);
        }
        let mut outgoing = http::Request::new(body);
        *outgoing.method_mut() = parts.method;
        *outgoing.uri_mut() = uri;
        *outgoing.headers_mut() = headers;
        let answer = tokio::time::timeout(self.limits.head, self.client.request(outgoing)).await;
        let mut response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                tracing::debug!(address = %target.address, %error, "a request could not be proxied");
                return unreachable(&target, &error);
            }
            Err(_) => {
                tracing::debug!(address = %target.address, "a proxied request was not answered in time");
                return refuse(&ApiError::new(
                    504,
                    "Timeout",
                    format!(
                        "error trying to reach service: no answer within {} s",
                        self.limits.head.as_secs_f32()
                    ),
                ));
            }
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let (Some(_), Some(client_side)) = (upgrade, client_side) else {
                return refuse(&ApiError::new(
                    502,
                    "BadGateway",
                    "error trying to reach service: it switched protocols without being asked",
                ));
            };
            let server_side = hyper::upgrade::on(&mut response);
            let shutdown = self.shutdown.clone();
            self.tasks.spawn(async move {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = splice(client_side, server_side) => {}
                }
            });
            let (parts, _) = response.into_parts();
            return Response::from_parts(parts, full(bytes::Bytes::new()));
        }
        let (mut parts, body) = response.into_parts();
        strip(&mut parts.headers);
        redirect_below(&prefix, &mut parts.headers);
        Response::from_parts(parts, body.map_err(Into::into).boxed_unsync())
    }
}

/// The path up to and including `/proxy`, with its names as they were asked for.
fn prefix(connect: &Connect) -> String {
    let path = format!(
        "/api/v1/namespaces/{}/{}/{}/proxy",
        connect.namespace, connect.resource, connect.name
    );
    utf8_percent_encode(&path, PATH).to_string()
}

fn uri(target: &Target, path: &str) -> Option<Uri> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Authority::try_from(target.address.to_string()).ok();
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

/// Adds the last hop to those that the request passed before.
fn append_peer(headers: &mut HeaderMap, peer: &str) {
    let earlier: Vec<&str> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let all = earlier.into_iter().chain([peer]).collect::<Vec<_>>();
    if let Ok(value) = HeaderValue::try_from(all.join(", ")) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// A redirect to a path of the Pod leads below the proxy again.
fn redirect_below(prefix: &str, headers: &mut HeaderMap) {
    let Some(Ok(location)) = headers.get(header::LOCATION).map(HeaderValue::to_str) else {
        return;
    };
    let is_path = location.starts_with('/') && !location.starts_with("//");
    if is_path
        && !location.starts_with(prefix)
        && let Ok(below) = HeaderValue::try_from(format!("{prefix}{location}"))
    {
        headers.insert(header::LOCATION, below);
    }
}

/// Why a Pod gave no answer, in the words of Go's client: people and programs look for them.
fn unreachable(target: &Target, error: &Error) -> Response<Body> {
    let mut cause: &dyn std::error::Error = error;
    let mut broke_off = false;
    while let Some(deeper) = cause.source() {
        cause = deeper;
        broke_off |= cause
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_incomplete_message);
    }
    let kind = cause
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind);
    let why = match kind {
        Some(std::io::ErrorKind::ConnectionRefused) => "connect: connection refused".to_owned(),
        Some(std::io::ErrorKind::TimedOut) => "i/o timeout".to_owned(),
        Some(std::io::ErrorKind::ConnectionReset) => "read: connection reset by peer".to_owned(),
        _ if broke_off => "EOF".to_owned(),
        _ => cause.to_string(),
    };
    let why = if error.is_connect() {
        format!("dial tcp {}: {why}", target.address)
    } else {
        why
    };
    refuse(&ApiError::new(
        503,
        "ServiceUnavailable",
        format!("error trying to reach service: {why}"),
    ))
}

async fn splice(client: OnUpgrade, server: OnUpgrade) {
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
