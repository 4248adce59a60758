//! The way to this cluster's own kube-apiserver, with the account of this program (gateway.md §4).
//!
//! The caller's credential never travels here, and the account's never travels alone: without it nothing is sent.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, to_bytes},
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header, uri::PathAndQuery};
use kah_api::{status::Cause, status::Status};
use kah_net::{
    Address, ClientCertificate, Forward, Kind, Limits, ProxyError, Roots, TlsSettings, Upstream,
    UpstreamSettings, Verify,
};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A token file is read again after this long; a kubelet renews the token well before it expires.
const TOKEN_AGE: Duration = Duration::from_secs(60);
/// For a question of our own.
const QUESTION: Duration = Duration::from_secs(5);
/// An answer to a question of our own is not larger.
const LARGEST_ANSWER: usize = 64 * 1024;

/// Why the way to the kube-apiserver cannot be prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubeProxyError {
    /// The address is no URL.
    #[error("read the address of the kube-apiserver: {0}")]
    Address(String),
    /// Neither token nor client certificate, or one that cannot be used.
    #[error("read the credential for the kube-apiserver: {0}")]
    Credential(String),
    /// TLS cannot be set up.
    #[error("prepare the connection to the kube-apiserver")]
    Upstream(#[source] ProxyError),
}

/// Our account at the kube-apiserver.
enum Account {
    /// A client certificate, which the connection shows.
    Certificate,
    /// A header that stays.
    Header(HeaderValue),
    /// A token in a file that somebody renews.
    File(PathBuf, Mutex<Option<(Instant, HeaderValue)>>),
}

/// Sends requests to this cluster's kube-apiserver. Clones share connections.
#[derive(Clone)]
pub struct KubeProxy {
    upstream: Upstream,
    account: Arc<Account>,
}

impl std::fmt::Debug for KubeProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KubeProxy({})", self.upstream.name())
    }
}

impl KubeProxy {
    /// The same address, authority and account that a `kube::Client` of this configuration uses.
    ///
    /// # Errors
    /// [`KubeProxyError`] where the configuration asks for something that is not a token, a token file or a client certificate.
    pub fn new(
        config: &kube::Config,
        limits: Limits,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Result<Self, KubeProxyError> {
        let address = Address::parse(&config.cluster_url.to_string())
            .map_err(|error| KubeProxyError::Address(error.to_string()))?;
        let (account, client_certificate) = account(&config.auth_info)?;
        let roots = match &config.root_cert {
            None => Roots::Platform,
            Some(der) => Roots::Pem(der.iter().flat_map(|der| pem(der)).collect()),
        };
        let verify = if config.accept_invalid_certs {
            Verify::Nothing
        } else {
            Verify::Full
        };
        let upstream = Upstream::new(UpstreamSettings {
            tls: TlsSettings {
                roots,
                client_certificate,
                server_name: config.tls_server_name.clone(),
                verify,
            },
            limits,
            stop,
            tasks,
            ..UpstreamSettings::new(address)
        })
        .map_err(KubeProxyError::Upstream)?;
        Ok(Self {
            upstream,
            account: Arc::new(account),
        })
    }

    /// Sends a caller's request on and relays the answer, both streaming, until `ends`; a failure is told as a Status (differences.md R9).
    pub async fn forward(
        &self,
        request: Request<Body>,
        target: PathAndQuery,
        client: Option<IpAddr>,
        ends: Option<Arc<CancellationToken>>,
    ) -> Result<Response, Status> {
        let mut forward = Forward::new(target);
        forward.client = client;
        forward.ends = ends;
        forward.headers = self.headers().await?;
        match self.upstream.send(request, forward).await {
            Ok(response) => Ok(response.map(Body::new)),
            Err(error) => Err(fault("error trying to reach service", &error)),
        }
    }

    /// Asks something for ourselves; `None` where there is no usable answer within a few seconds.
    pub async fn ask(&self, path: &'static str) -> Option<Value> {
        tokio::time::timeout(QUESTION, self.question(path))
            .await
            .ok()
            .flatten()
    }

    async fn question(&self, path: &'static str) -> Option<Value> {
        let mut forward = Forward::new(PathAndQuery::from_static(path));
        forward.headers = self.headers().await.ok()?;
        let mut request = Request::new(Body::empty());
        request
            .headers_mut()
            .insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let response = self.upstream.send(request, forward).await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        let body = to_bytes(Body::new(response.into_body()), LARGEST_ANSWER)
            .await
            .ok()?;
        serde_json::from_slice(&body).ok()
    }

    /// Ends at once what goes on.
    pub fn close(&self) {
        self.upstream.close();
    }

    pub(crate) async fn headers(&self) -> Result<HeaderMap, Status> {
        let mut headers = HeaderMap::new();
        let value = match &*self.account {
            Account::Certificate => return Ok(headers),
            Account::Header(value) => value.clone(),
            Account::File(path, kept) => {
                let fresh = kept
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .as_ref()
                    .filter(|(read, _)| read.elapsed() < TOKEN_AGE)
                    .map(|(_, value)| value.clone());
                match fresh {
                    Some(value) => value,
                    None => {
                        let token = tokio::fs::read_to_string(path).await;
                        let value = token.ok().and_then(|token| bearer(&token)).ok_or_else(|| {
                            tracing::error!(path = %path.display(), "the token of this account cannot be read");
                            Status::internal_error("this server cannot read its own credential for the kube-apiserver")
                        })?;
                        *kept.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some((Instant::now(), value.clone()));
                        value
                    }
                }
            }
        };
        headers.insert(header::AUTHORIZATION, value);
        Ok(headers)
    }
}

/// A failure between us and another server as a Status: 504 for time, 502 for the rest, 400 where the request itself is at fault.
pub(crate) fn fault(trying: &str, error: &ProxyError) -> Status {
    let message = format!("{trying}: {error}: {}", error.root_cause());
    match error.kind() {
        Kind::Timeout | Kind::ConnectTimeout => Status::gateway_timeout(message, Vec::new()),
        Kind::Request => Status::bad_request(message),
        Kind::Closed => Status::service_unavailable(message, Vec::<Cause>::new(), 1),
        _ => Status::bad_gateway(message, Vec::new()),
    }
}

fn account(
    auth: &kube::config::AuthInfo,
) -> Result<(Account, Option<ClientCertificate>), KubeProxyError> {
    let refuse = |what: &str| KubeProxyError::Credential(what.to_owned());
    if let Some(path) = &auth.token_file {
        return Ok((Account::File(path.into(), Mutex::new(None)), None));
    }
    if let Some(token) = &auth.token {
        let value = bearer(token.expose_secret())
            .ok_or_else(|| refuse("the token cannot stand in a header"))?;
        return Ok((Account::Header(value), None));
    }
    let chain = part(
        auth.client_certificate_data.as_deref(),
        auth.client_certificate.as_deref(),
    )?;
    let key = part(
        auth.client_key_data
            .as_ref()
            .map(ExposeSecret::expose_secret),
        auth.client_key.as_deref(),
    )?;
    match (chain, key) {
        (Some(chain), Some(key)) => {
            Ok((Account::Certificate, Some(ClientCertificate { chain, key })))
        }
        _ => Err(refuse(
            "neither a token nor a client certificate with its key",
        )),
    }
}

/// What a kubeconfig gives as base64 or as a path.
fn part(data: Option<&str>, path: Option<&str>) -> Result<Option<Vec<u8>>, KubeProxyError> {
    match (data, path) {
        (Some(data), _) => STANDARD
            .decode(data.trim())
            .map(Some)
            .map_err(|_| KubeProxyError::Credential("it is not base64".to_owned())),
        (None, Some(path)) => std::fs::read(path)
            .map(Some)
            .map_err(|error| KubeProxyError::Credential(format!("{path}: {error}"))),
        (None, None) => Ok(None),
    }
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim())).ok()?;
    value.set_sensitive(true);
    (!token.trim().is_empty()).then_some(value)
}

fn pem(der: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(der);
    let mut out = b"-----BEGIN CERTIFICATE-----\n".to_vec();
    for line in text.as_bytes().chunks(64) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.extend_from_slice(b"-----END CERTIFICATE-----\n");
    out
}
