//! The TLS listener: HTTP/1.1 and HTTP/2, client certificates, limits, an orderly end.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

use crate::authentication::PeerCertificates;
use crate::connect::{Body, PeerAddress};

/// Connections served at once; more wait in the listener's queue.
const CONNECTIONS: usize = 4096;
/// For the TLS handshake, and for the head of each HTTP/1.1 request.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// All headers of one request together.
const HEAD_SIZE: u32 = 64 * 1024;
const STREAMS: u32 = 250;
/// What requests under way get to finish at the end.
const DRAIN: Duration = Duration::from_secs(5);
/// Pause after the system refuses a connection (e.g. no file descriptors left).
const REFUSED_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `shutdown`, then lets requests under way finish for a few seconds and cuts what is left.
///
/// Each request carries the client's certificates as [`PeerCertificates`], if it showed any; what they
/// are worth was judged by `tls`, and where it came from as [`PeerAddress`].
pub async fn serve<S>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    service: S,
    shutdown: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let (stream, peer, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(REFUSED_PAUSE).await;
                continue;
            }
        };
        let (acceptor, service) = (acceptor.clone(), service.clone());
        let (shutdown, cut) = (shutdown.clone(), cut.clone());
        connections.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = connection(stream, peer, acceptor, service, shutdown) => {}
            }
            drop(slot);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait())
        .await
        .is_err()
    {
        cut.cancel();
        connections.wait().await;
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, PeerAddress, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, PeerAddress(peer), slot))
}

async fn connection<S>(
    stream: TcpStream,
    address: PeerAddress,
    acceptor: TlsAcceptor,
    service: S,
    shutdown: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let handshake = async {
        if spoke_plainly(&stream).await? {
            return refuse_plain(stream).await.map(|()| None);
        }
        acceptor.accept(stream).await.map(Some)
    };
    let stream = tokio::select! {
        () = shutdown.cancelled() => return,
        handshake = tokio::time::timeout(HEAD_TIME, handshake) => match handshake {
            Ok(Ok(Some(stream))) => stream,
            Ok(Ok(None)) => return,
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                return;
            }
            Err(_) => return,
        },
    };
    let peer = stream
        .get_ref()
        .1
        .peer_certificates()
        .map(|chain| chain.iter().map(|part| part.clone().into_owned()).collect());
    let peer = PeerCertificates(Arc::new(peer.unwrap_or_default()));

    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_SIZE as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_SIZE)
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(Duration::from_secs(30));
    let handler = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(address);
        answer(service.clone(), request)
    });
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), handler);
    let mut serving = std::pin::pin!(serving);
    let mut draining = false;
    loop {
        tokio::select! {
            result = serving.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = shutdown.cancelled(), if !draining => {
                draining = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Boxed: the compiler cannot follow the body's type through the connection's future otherwise.
fn answer<S>(
    service: S,
    request: Request<Body>,
) -> BoxFuture<'static, Result<Response<Body>, Infallible>>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send,
{
    Box::pin(service.oneshot(request))
}

/// Whether the client speaks HTTP without TLS: a TLS record never starts with an upper-case letter.
async fn spoke_plainly(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0_u8; 1];
    let read = stream.peek(&mut first).await?;
    Ok(read == 1 && first[0].is_ascii_uppercase())
}

/// Answers plain HTTP on a TLS port as Go's servers do.
async fn refuse_plain(mut stream: TcpStream) -> io::Result<()> {
    // Reading what was sent keeps the answer from being lost to a reset.
    let mut sent = [0_u8; 4096];
    let _ = stream.try_read(&mut sent);
    stream
        .write_all(
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
        )
        .await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests;
