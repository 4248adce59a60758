//! The listener: connections in, bounded in number, size of headers and patience; drained at the end.

mod places;

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
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Gateway, gateway::Peer};
use places::{Place, Places};

/// What a listener allows.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Connections at one time. When there are more, the one that has been without a request for longest makes room; while all have one, more
    /// wait in the system's own queue.
    pub connections: usize,
    /// Terminals, forwarded ports and other upgrades at one time, which no longer count as connections ([`Gateway::with_upgrades`]).
    pub upgrades: usize,
    /// How long a connection has been without a request at least before it has to make room.
    pub grace: Duration,
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
            upgrades: 4096,
            grace: Duration::from_secs(1),
            head: 256 * 1024,
            head_within: Duration::from_secs(20),
            drain: Duration::from_secs(5),
        }
    }
}

/// Bytes of an answer that wait in the system for being sent, beyond those that are under way.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 128 * 1024;
/// Files that are kept for something else than callers' connections and what stands behind each: tunnels, watches, logs.
const OTHER_FILES: u64 = 512;

/// Between two words about connections that cannot be accepted.
const COMPLAIN: Duration = Duration::from_secs(60);

impl ServerLimits {
    /// As by default, but no more connections than this process may have files for: each may need another one, to a member or to the kube-apiserver.
    /// Upgrades, which stay for long, take a quarter of them at most.
    #[must_use]
    pub fn for_files(files: u64) -> Self {
        let limits = Self::default();
        let pairs = files.saturating_sub(OTHER_FILES).max(OTHER_FILES / 2) / 2;
        let pairs = usize::try_from(pairs).unwrap_or(usize::MAX);
        Self {
            connections: limits.connections.min(pairs),
            upgrades: limits.upgrades.min(pairs / 4),
            ..limits
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
    let places = Places::new(limits.connections, limits.grace);
    let mut complained: Option<Instant> = None;
    loop {
        let accepted = stop.run_until_cancelled(async {
            // Nobody has to make room before somebody is there who needs it.
            let accepted = listener.accept().await?;
            Ok::<_, io::Error>((places.take().await, accepted))
        });
        let (place, stream, peer) = match accepted.await {
            None => break,
            Some(Ok((place, (stream, peer)))) => (place, stream, peer),
            Some(Err(error)) => {
                // It goes on for as long as somebody keeps it so, one connection in and one out.
                if complained.is_none_or(|at| at.elapsed() >= COMPLAIN) {
                    complained = Some(Instant::now());
                    tracing::warn!(%error, "accept a connection");
                }
                // Out of file handles, mostly: others have to close first.
                places.make_room();
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Small answers must not wait for acknowledgements.
        let _ = stream.set_nodelay(true);
        // Or the system keeps megabytes for each caller that reads slowly or not at all, which it then lacks for all others. Where it cannot be told so,
        // it does as it will.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
        let (gateway, stop, cut, encryption) = (
            gateway.clone(),
            stop.clone(),
            cut.clone(),
            encryption.clone(),
        );
        tracker.spawn(async move {
            let taken = Arc::clone(&place);
            let serving = async {
                match acceptor(encryption, &stream, limits).await {
                    None => connection(stream, peer, gateway, limits, taken, stop).await,
                    Some(acceptor) => {
                        let handshake = timeout(limits.head_within, acceptor.accept(stream));
                        if let Ok(Ok(stream)) = handshake.await {
                            connection(stream, peer, gateway, limits, taken, stop).await;
                        }
                    }
                }
            };
            tokio::select! {
                () = cut.cancelled() => {}
                () = place.cut.cancelled() => {}
                () = serving => {}
            }
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
    place: Arc<Place>,
    stop: CancellationToken,
) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (gateway, begun) = (gateway.clone(), place.begin());
        async move {
            let Some(under_way) = begun else {
                return std::future::pending().await;
            };
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            let answer = gateway.serve(request).await;
            Ok::<Response, Infallible>(places::held(answer, under_way))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_what_is_behind_them() {
        for (files, connections, upgrades) in [
            (u64::MAX, 10_000, 4096),
            (20_512, 10_000, 2500),
            (4096, 1792, 448),
            (1024, 256, 64),
            (256, 128, 32),
        ] {
            let limits = ServerLimits::for_files(files);
            let allowed = (limits.connections, limits.upgrades);
            assert_eq!(allowed, (connections, upgrades), "{files}");
        }
    }
}
