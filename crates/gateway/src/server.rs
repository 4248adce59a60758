//! The listener: connections in, bounded in number, size of headers and patience; drained at the end.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use http::Request;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Gateway, gateway::Peer};

/// What a listener allows.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Connections at one time; more wait in the system's own queue.
    pub connections: usize,
    /// Bytes of a request's head; a larger one is answered 431.
    pub head: usize,
    /// From the first byte of a request to the end of its head, and for a TLS handshake.
    pub head_within: Duration,
    /// How long requests may go on after the end was asked for.
    pub drain: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            head: 256 * 1024,
            head_within: Duration::from_secs(20),
            drain: Duration::from_secs(5),
        }
    }
}

/// What a listener speaks.
#[derive(Clone)]
pub enum Encryption {
    /// Plain HTTP.
    None,
    /// TLS.
    Tls(Arc<rustls::ServerConfig>),
    /// Both on one port; the first byte of a connection decides. kubectl sends a token over TLS only.
    Either(Arc<rustls::ServerConfig>),
}

/// The first byte of every TLS handshake (RFC 8446 §5.1); no HTTP method begins with it.
const HANDSHAKE: u8 = 22;

/// Serves a listener until `stop`, then lets requests end for as long as [`ServerLimits::drain`] says, and cuts what is left.
///
/// # Errors
/// Never for a single connection; an accept that fails for want of files is tried again.
pub async fn serve(
    listener: TcpListener,
    encryption: Encryption,
    gateway: Gateway,
    limits: ServerLimits,
    stop: CancellationToken,
) -> io::Result<()> {
    let tracker = TaskTracker::new();
    let cut = CancellationToken::new();
    let slots = Arc::new(Semaphore::new(limits.connections));
    loop {
        let accepted = stop.run_until_cancelled(async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        });
        let (slot, stream, peer) = match accepted.await {
            None => break,
            Some((Ok(slot), Ok((stream, peer)))) => (slot, stream, peer),
            Some((_, Err(error))) => {
                tracing::warn!(%error, "accept a connection");
                // Out of file handles, mostly: others have to close first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Some((Err(_closed), _)) => break,
        };
        // Small answers must not wait for acknowledgements.
        let _ = stream.set_nodelay(true);
        let (gateway, stop, cut, encryption) = (
            gateway.clone(),
            stop.clone(),
            cut.clone(),
            encryption.clone(),
        );
        tracker.spawn(async move {
            let _slot = slot;
            let serving = async {
                match acceptor(encryption, &stream, limits).await {
                    None => connection(stream, peer, gateway, limits, stop).await,
                    Some(acceptor) => {
                        let handshake = timeout(limits.head_within, acceptor.accept(stream));
                        if let Ok(Ok(stream)) = handshake.await {
                            connection(stream, peer, gateway, limits, stop).await;
                        }
                    }
                }
            };
            cut.run_until_cancelled(serving).await;
        });
    }
    drop(listener);
    tracker.close();
    if timeout(limits.drain, tracker.wait()).await.is_err() {
        tracing::info!(
            connections = tracker.len(),
            "cut the connections that are left"
        );
        cut.cancel();
        tracker.wait().await;
    }
    Ok(())
}

/// What decrypts this connection, if anything does. A client that stays silent is left to the limit on heads.
async fn acceptor(
    encryption: Encryption,
    stream: &tokio::net::TcpStream,
    limits: ServerLimits,
) -> Option<TlsAcceptor> {
    match encryption {
        Encryption::None => None,
        Encryption::Tls(tls) => Some(TlsAcceptor::from(tls)),
        Encryption::Either(tls) => {
            let mut first = [0];
            let peeked = timeout(limits.head_within, stream.peek(&mut first)).await;
            let encrypted = matches!(peeked, Ok(Ok(1))) && first == [HANDSHAKE];
            encrypted.then(|| TlsAcceptor::from(tls))
        }
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: SocketAddr,
    gateway: Gateway,
    limits: ServerLimits,
    stop: CancellationToken,
) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let gateway = gateway.clone();
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            Ok::<Response, Infallible>(gateway.serve(request).await)
        }
    });
    let head = u32::try_from(limits.head).unwrap_or(u32::MAX);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Names mean the same in any case; people and old scripts know them as `Content-Type`.
        .title_case_headers(true)
        .header_read_timeout(limits.head_within)
        .max_buf_size(limits.head.max(8192))
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(head)
        .max_concurrent_streams(250)
        .keep_alive_interval(Duration::from_secs(30));
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => Some(ended),
        () = stop.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %error, "a connection ended");
    }
}
