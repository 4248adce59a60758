//! From an address to a connection, with a typed reason when there is none.

use std::{
    fmt,
    future::Future,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use crate::{
    BoxError, Dial, Duplex, Gauges, Kind, Limits, ProxyError,
    error::{io_kind, tls_kind},
    gauge::Counted,
    shown::Memory,
};

/// Where an upstream listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Name or IP address, without the brackets of IPv6.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Address {
    /// Reads `http://HOST[:PORT]` or `https://HOST[:PORT]`; a path or query is not part of an address and is ignored, user information is refused.
    ///
    /// # Errors
    /// A text for people, where the URL has another scheme, no host, or user information.
    pub fn parse(url: &str) -> Result<Self, BoxError> {
        let uri: Uri = url.trim().parse()?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) => return Err("the URL is neither http nor https".into()),
            None => return Err("the URL has no scheme".into()),
        };
        let authority = uri.authority().ok_or("the URL has no host")?;
        if authority.as_str().contains('@') {
            return Err("the URL holds user information".into());
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        if host.is_empty() {
            return Err("the URL has no host".into());
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port })
    }

    /// `HOST:PORT`, with brackets around IPv6, and without the port that the scheme implies.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port == if self.tls { 443 } else { 80 } {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}://{}",
            if self.tls { "https" } else { "http" },
            self.authority()
        )
    }
}

/// Says which of the addresses that a name means may be asked. It is asked anew for each connection, of the very address that is then dialled: whoever
/// holds a name may let it mean something else at any time.
pub trait Allow: fmt::Debug + Send + Sync {
    /// Nothing where `ip`, which `host` means or is, may be asked.
    ///
    /// # Errors
    /// A text for people.
    fn check(&self, host: &str, ip: IpAddr) -> Result<(), BoxError>;
}

/// Opens connections to one address, whatever URL it is asked for.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) address: Arc<Address>,
    /// Makes the connections in the place of TCP.
    pub(crate) dial: Option<Arc<dyn Dial>>,
    pub(crate) allow: Option<Arc<dyn Allow>>,
    pub(crate) name: Arc<str>,
    pub(crate) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    pub(crate) limits: Limits,
    pub(crate) gauges: Arc<Gauges>,
    /// Whether the peer's last word was that it does not accept our certificate. In TLS 1.3 it says so after the handshake, where HTTP/2 keeps
    /// only the text of the fault.
    pub(crate) refused: Arc<AtomicBool>,
    pub(crate) shown: Memory,
}

impl Connector {
    pub(crate) async fn connect(self) -> Result<Wire, ProxyError> {
        if let Some(dial) = &self.dial {
            let dialled = async {
                dial.dial()
                    .await
                    .map_err(|error| ProxyError::because(error.kind, &self.name, error))
            };
            let stream = limited(self.limits.connect, &self.name, dialled).await?;
            if self.tls.is_none() {
                return Ok(Wire::new(Stream::Dialled(stream), false, &self));
            }
            let (stream, http2) = self.handshake(stream).await?;
            return Ok(Wire::new(Stream::Dialled(Box::new(stream)), http2, &self));
        }
        let tcp = self.tcp_within().await?;
        if self.tls.is_none() {
            return Ok(Wire::new(Stream::Plain(tcp), false, &self));
        }
        let (stream, http2) = self.handshake(tcp).await?;
        Ok(Wire::new(Stream::Tls(Box::new(stream)), http2, &self))
    }

    /// TLS, and whether HTTP/2 was chosen.
    pub(crate) async fn handshake<S: Duplex>(
        &self,
        stream: S,
    ) -> Result<(tokio_rustls::client::TlsStream<S>, bool), ProxyError> {
        let Some((config, server_name)) = &self.tls else {
            return Err(ProxyError::new(Kind::Settings, &self.name, None));
        };
        let handshake =
            tokio_rustls::TlsConnector::from(config.clone()).connect(server_name.clone(), stream);
        let handshake = async {
            handshake.await.map_err(|error| {
                let kind = match error
                    .get_ref()
                    .and_then(|inner| inner.downcast_ref::<rustls::Error>())
                {
                    Some(inner) => tls_kind(inner),
                    None => Kind::Tls,
                };
                ProxyError::because(kind, &self.name, error)
            })
        };
        let stream = limited(self.limits.handshake, &self.name, handshake).await?;
        let session = stream.get_ref().1;
        self.shown.note(session);
        let http2 = session.alpn_protocol() == Some(b"h2");
        Ok((stream, http2))
    }

    /// A TCP connection, within its time.
    pub(crate) async fn tcp_within(&self) -> Result<TcpStream, ProxyError> {
        limited(self.limits.connect, &self.name, self.tcp()).await
    }

    async fn tcp(&self) -> Result<TcpStream, ProxyError> {
        let tcp = tcp(&self.address, &self.name, self.allow.as_deref()).await?;
        keep_alive(&tcp, self.limits.keep_alive);
        Ok(tcp)
    }
}

/// TCP to the first of the host's addresses that accepts.
pub(crate) async fn tcp(
    address: &Address,
    name: &Arc<str>,
    allow: Option<&dyn Allow>,
) -> Result<TcpStream, ProxyError> {
    let host = address.host.as_str();
    let addresses = tokio::net::lookup_host((address.host.as_str(), address.port))
        .await
        .map_err(|error| ProxyError::because(Kind::NameNotResolved, name, error))?;
    let mut last = None;
    for address in addresses {
        if let Some(allow) = allow {
            allow
                .check(host, address.ip())
                .map_err(|error| ProxyError::new(Kind::NotAllowed, name, Some(error)))?;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        None => ProxyError::new(Kind::NameNotResolved, name, None),
        Some(error) => {
            let kind = match io_kind(&error) {
                Some(Kind::Timeout) => Kind::ConnectTimeout,
                _ => Kind::Unreachable,
            };
            ProxyError::because(kind, name, error)
        }
    })
}

/// A peer that vanished without a word is noticed although nobody writes to it.
fn keep_alive(tcp: &TcpStream, interval: Duration) {
    let probe = socket2::TcpKeepalive::new()
        .with_time(interval)
        .with_interval(interval)
        .with_retries(3);
    let _ = socket2::SockRef::from(tcp).set_tcp_keepalive(&probe);
}

pub(crate) async fn limited<T>(
    limit: Duration,
    name: &Arc<str>,
    work: impl Future<Output = Result<T, ProxyError>>,
) -> Result<T, ProxyError> {
    match timeout(limit, work).await {
        Ok(result) => result,
        Err(elapsed) => Err(ProxyError::because(Kind::ConnectTimeout, name, elapsed)),
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Wire;
    type Error = ProxyError;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, ProxyError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Dialled(Box<dyn Duplex>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Dialled(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Dialled(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Dialled(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Dialled(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Dialled(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Dialled(stream) => stream.is_write_vectored(),
        }
    }
}

/// A connection, counted while it is open.
pub(crate) struct Wire {
    io: TokioIo<Stream>,
    http2: bool,
    refused: Arc<AtomicBool>,
    _open: Counted,
}

impl Wire {
    fn new(stream: Stream, http2: bool, connector: &Connector) -> Self {
        Self {
            io: TokioIo::new(stream),
            http2,
            refused: connector.refused.clone(),
            _open: Counted::connection(&connector.gauges),
        }
    }
}

impl Wire {
    pub(crate) fn is_http2(&self) -> bool {
        self.http2
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.http2 {
            connected.negotiated_h2()
        } else {
            connected
        }
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &read
            && let Some(error) = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            && tls_kind(error) == Kind::CertificateRefused
        {
            self.refused.store(true, Ordering::Release);
        }
        read
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}
