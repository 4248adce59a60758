//! A kube-apiserver that this program has an account with: a kube-apiserver of its own cluster.
//!
//! The caller's credential never travels here, and the account's never travels alone: without it nothing is sent.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header, uri::PathAndQuery};
use kah_net::{
    Address, Body, BoxError, ClientCertificate, Forward, Limits, ProxyError, Roots, TlsSettings,
    Upstream, UpstreamSettings, Verify,
};
use secrecy::ExposeSecret;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A token file is read again after this long; a kubelet renews the token well before it expires.
const TOKEN_AGE: Duration = Duration::from_secs(60);

/// Why the kube-apiserver cannot be asked with our account.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// The address is no URL.
    #[error("read the address of the kube-apiserver: {0}")]
    Address(String),
    /// Neither token nor client certificate, or one that cannot be used.
    #[error("read the credential for the kube-apiserver: {0}")]
    Credential(String),
    /// The connection cannot be prepared, or no answer came.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
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

/// Sends requests to a kube-apiserver with our own account. Clones share connections.
#[derive(Clone)]
pub struct OwnKubernetes {
    upstream: Upstream,
    account: Arc<Account>,
}

impl std::fmt::Debug for OwnKubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnKubernetes({})", self.upstream.name())
    }
}

impl OwnKubernetes {
    /// The same address, authority and account that a `kube::Client` of this configuration uses.
    ///
    /// # Errors
    /// [`AccountError`] where the configuration asks for something that is not a token, a token file or a client certificate.
    pub fn new(
        config: &kube::Config,
        limits: Limits,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Result<Self, AccountError> {
        let address = Address::parse(&config.cluster_url.to_string())
            .map_err(|error| AccountError::Address(error.to_string()))?;
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
        })?;
        Ok(Self {
            upstream,
            account: Arc::new(account),
        })
    }

    /// Sends a request on with our account and nobody else's credential. Both bodies stream.
    ///
    /// # Errors
    /// [`AccountError`]
    pub async fn send<B>(
        &self,
        request: Request<B>,
        target: PathAndQuery,
        client: Option<IpAddr>,
        ends: Option<Arc<CancellationToken>>,
    ) -> Result<Response<Body>, AccountError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let mut forward = Forward::new(target);
        forward.client = client;
        forward.ends = ends;
        forward.headers = self.headers().await?;
        Ok(self.upstream.send(request, forward).await?)
    }

    /// Ends at once what goes on.
    pub fn close(&self) {
        self.upstream.close();
    }

    async fn headers(&self) -> Result<HeaderMap, AccountError> {
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
                        let value =
                            token.ok().and_then(|token| bearer(&token)).ok_or_else(|| {
                                AccountError::Credential(format!(
                                    "{} holds no token",
                                    path.display()
                                ))
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

fn account(
    auth: &kube::config::AuthInfo,
) -> Result<(Account, Option<ClientCertificate>), AccountError> {
    let refuse = |what: &str| AccountError::Credential(what.to_owned());
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
fn part(data: Option<&str>, path: Option<&str>) -> Result<Option<Vec<u8>>, AccountError> {
    match (data, path) {
        (Some(data), _) => STANDARD
            .decode(data.trim())
            .map(Some)
            .map_err(|_| AccountError::Credential("it is not base64".to_owned())),
        (None, Some(path)) => std::fs::read(path)
            .map(Some)
            .map_err(|error| AccountError::Credential(format!("{path}: {error}"))),
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
