//! A scripted member: an HTTP server that records what reaches it and answers as a test says.
//!
//! It stands for a member's kube-apiserver or ks-apiserver wherever the bytes that arrive there are what a test is about. It needs nothing of ours.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The body of a [`Reply`].
pub type ReplyBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its method.
    pub method: Method,
    /// Path and query, as on the wire.
    pub target: String,
    /// The HTTP version of its connection.
    pub version: Version,
    /// All its headers.
    pub headers: HeaderMap,
    /// Which connection it came on, counted from 1.
    pub connection: usize,
}

impl Seen {
    /// A header's values, joined by ` | `; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        let values: Vec<_> = self
            .headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        values.join(" | ")
    }
}

/// How a request is answered.
pub enum Reply {
    /// With this.
    Answer(Response<ReplyBody>),
    /// Never; the connection stays open.
    Stall,
    /// The connection is dropped without an answer.
    Hangup,
    /// With the request's own body, as it comes.
    Echo,
    /// 101 to the protocol that was asked for; then every byte comes back, and the end is answered by the end.
    Upgrade,
}

/// A plain answer.
#[must_use]
pub fn answer(status: u16, content_type: &str, body: impl Into<Bytes>) -> Reply {
    let body = Full::new(body.into())
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    if let Ok(value) = content_type.parse() {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    Reply::Answer(response)
}

/// A `v1.Status` as Kubernetes writes it.
#[must_use]
pub fn status(code: u16, reason: &str, message: &str) -> Reply {
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    answer(code, "application/json", status.to_string())
}

/// An answer whose body comes through a channel: an item is sent at once, an error breaks the answer off, dropping the sender ends it well.
#[must_use]
pub fn stream() -> (mpsc::Sender<std::io::Result<Bytes>>, Reply) {
    let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(1);
    let frames = futures::stream::unfold(receiver, |mut receiver| async {
        let item = receiver.recv().await?;
        Some((item.map(Frame::data), receiver))
    });
    (
        sender,
        Reply::Answer(Response::new(BodyExt::boxed_unsync(StreamBody::new(
            frames,
        )))),
    )
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

struct Shared {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    opened: AtomicUsize,
    script: Box<Script>,
    stop: CancellationToken,
}

/// A running stand-in. Dropping it closes its listener and every connection.
pub struct Member {
    address: SocketAddr,
    tls: bool,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Member {
    /// Listens on a free port of 127.0.0.1 and answers as `script` says.
    ///
    /// # Errors
    /// Where no port can be opened.
    pub async fn start(
        tls: Option<ServerConfig>,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            script: Box::new(script),
            stop: CancellationToken::new(),
        });
        let tasks = TaskTracker::new();
        let secure = tls.is_some();
        let acceptor = tls.map(|config| tokio_rustls::TlsAcceptor::from(Arc::new(config)));
        let (all, owner) = (shared.clone(), tasks.clone());
        tasks.spawn(shared.stop.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, acceptor) = (all.clone(), acceptor.clone());
                let stop = shared.stop.clone();
                owner.spawn(stop.run_until_cancelled_owned(async move {
                    let _ = stream.set_nodelay(true);
                    let open = Open::new(&shared.connections);
                    let number = shared.opened.fetch_add(1, Ordering::AcqRel) + 1;
                    match acceptor {
                        None => serve(TokioIo::new(stream), shared.clone(), number).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(TokioIo::new(stream), shared.clone(), number).await;
                            }
                        }
                    }
                    drop(open);
                }));
            }
        }));
        Ok(Self {
            address,
            tls: secure,
            shared,
            tasks,
        })
    }

    /// `http(s)://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "{}://{}",
            if self.tls { "https" } else { "http" },
            self.address
        )
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far, in the order of arrival.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Connections that are open now, spliced ones included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// Connections that were ever opened.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.shared.opened.load(Ordering::Acquire)
    }

    /// Drops the listener and all connections, as a killed process does.
    pub async fn kill(&self) {
        self.shared.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

struct Open<'a>(&'a AtomicUsize);

impl<'a> Open<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Asks hyper to drop the connection.
#[derive(Debug)]
struct Dropped;

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hang up")
    }
}

impl std::error::Error for Dropped {}

async fn serve<I>(io: I, shared: Arc<Shared>, connection: usize)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    // A spliced connection outlives the HTTP one; it is driven here, so that it ends and is counted with it.
    let (upgrades, mut upgraded) = mpsc::unbounded_channel();
    let service = service_fn(|request: Request<Incoming>| {
        let (shared, upgrades) = (shared.clone(), upgrades.clone());
        async move { respond(request, &shared, connection, &upgrades).await }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection_with_upgrades(io, service).await;
    drop(upgrades);
    if let Some(upgrade) = upgraded.recv().await {
        let upgrade: hyper::upgrade::OnUpgrade = upgrade;
        if let Ok(both) = upgrade.await {
            let _: Result<(), Infallible> = {
                let _: () = echo(TokioIo::new(both)).await;
                Ok(())
            };
        }
    }
}

async fn echo(mut both: TokioIo<hyper::upgrade::Upgraded>) {
    let mut buffer = vec![0; 8192];
    while let Ok(length) = both.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        if both.write_all(bytes).await.is_err() || both.flush().await.is_err() {
            return;
        }
    }
    let _ = both.shutdown().await;
}

async fn respond(
    mut request: Request<Incoming>,
    shared: &Shared,
    connection: usize,
    upgrades: &mpsc::UnboundedSender<hyper::upgrade::OnUpgrade>,
) -> Result<Response<ReplyBody>, Dropped> {
    let seen = Seen {
        method: request.method().clone(),
        target: request
            .uri()
            .path_and_query()
            .map(ToString::to_string)
            .unwrap_or_default(),
        version: request.version(),
        headers: request.headers().clone(),
        connection,
    };
    shared
        .seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(seen.clone());
    match (shared.script)(&seen) {
        Reply::Answer(response) => Ok(response),
        Reply::Stall => std::future::pending().await,
        Reply::Hangup => Err(Dropped),
        Reply::Echo => Ok(Response::new(
            request
                .into_body()
                .map_err(std::io::Error::other)
                .boxed_unsync(),
        )),
        Reply::Upgrade => {
            let _ = upgrades.send(hyper::upgrade::on(&mut request));
            let mut response = Response::new(
                Empty::new()
                    .map_err(|never: Infallible| match never {})
                    .boxed_unsync(),
            );
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(
                header::CONNECTION,
                header::HeaderValue::from_static("Upgrade"),
            );
            for name in [header::UPGRADE, header::SEC_WEBSOCKET_PROTOCOL] {
                if let Some(value) = seen.headers.get(&name) {
                    headers.insert(name, value.clone());
                }
            }
            Ok(response)
        }
    }
}

/// A certificate authority, for members good and bad.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, PEM.
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// A fresh authority.
    ///
    /// # Errors
    /// Where no key can be made.
    pub fn new() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "scripted authority");
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// Its own certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for this name or address; one that ended in 2001 if `expired`.
    ///
    /// # Errors
    /// Where the name is none, or no key can be made.
    pub fn issue(&self, name: &str, expired: bool) -> Result<Pair, rcgen::Error> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        if expired {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        self.signed(name, params)
    }

    /// A certificate for this name or address that is good between these times, told in seconds since 1970.
    ///
    /// # Errors
    /// Where the name is none, or no key can be made.
    pub fn issue_between(&self, name: &str, begins: u64, ends: u64) -> Result<Pair, rcgen::Error> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(begins);
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(ends);
        self.signed(name, params)
    }

    fn signed(&self, name: &str, mut params: CertificateParams) -> Result<Pair, rcgen::Error> {
        let key = KeyPair::generate()?;
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair {
            certificate,
            key: key.serialize_pem(),
        })
    }
}

impl Pair {
    /// Serves with this certificate over HTTP/2 and HTTP/1.1; where `clients` is given, only to those whom that authority has certified.
    ///
    /// # Errors
    /// Where the PEM cannot be used.
    pub fn server(&self, clients: Option<&Authority>) -> anyhow::Result<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes())?)?;
                builder.with_client_cert_verifier(
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()?,
                )
            }
        };
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()?;
        let mut config =
            builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes())?)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
    fn certified(&self) -> anyhow::Result<CertifiedKey> {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Ok(CertifiedKey::from_der(chain, key, &provider)?)
    }
}

/// The certificate of a member that changes it while it runs.
#[derive(Debug)]
pub struct Changing(Mutex<Arc<CertifiedKey>>);

impl Changing {
    /// Serves as [`Pair::server`] does, with this certificate first.
    ///
    /// # Errors
    /// Where the PEM cannot be used.
    pub fn server(first: &Pair) -> anyhow::Result<(Arc<Self>, ServerConfig)> {
        let changing = Arc::new(Self(Mutex::new(Arc::new(first.certified()?))));
        let mut config = first.server(None)?;
        config.cert_resolver = changing.clone();
        Ok((changing, config))
    }

    /// Shows this one at the handshakes that come.
    ///
    /// # Errors
    /// Where the PEM cannot be used.
    pub fn change(&self, pair: &Pair) -> anyhow::Result<()> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair.certified()?);
        Ok(())
    }
}

impl ResolvesServerCert for Changing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        )
    }
}
