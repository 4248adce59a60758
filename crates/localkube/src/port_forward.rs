//! `pods/NAME/portforward`: connections of a client carried to a Pod's ports.
//!
//! The protocol is `portforward.k8s.io` over SPDY/3.1: for each connection a stream for its bytes and one for an
//! error, tied by a request ID. SPDY comes plainly after an upgrade (`Upgrade: SPDY/3.1`) or in the binary messages
//! of a websocket (`SPDY/3.1+portforward.k8s.io`), as kubectl 1.31 and later ask for it.

mod headers;
mod session;
mod spdy;
mod tunnel;

use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use http::{HeaderValue, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connect::{Body, Connect, refuse};
use crate::status::ApiError;
use crate::websocket::{self, Handshake};

pub use spdy::Error;

/// The protocol of a websocket that carries SPDY.
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
/// What is spoken over SPDY.
const PROTOCOL: &str = "portforward.k8s.io";
const PROTOCOL_HEADER: &str = "x-stream-protocol-version";

/// From a port of a Pod to where it can be reached.
pub type Resolve =
    Arc<dyn Fn(u16) -> BoxFuture<'static, std::io::Result<SocketAddr>> + Send + Sync>;

/// The Pod whose ports are reached.
#[derive(Clone)]
pub struct Pod {
    /// For error texts.
    pub name: String,
    /// For error texts.
    pub uid: String,
    pub resolve: Resolve,
}

/// A Pod, and who keeps the sessions with it.
pub struct Target {
    pub pod: Pod,
    /// Ends every session.
    pub stopped: CancellationToken,
    /// Owns the sessions.
    pub tasks: TaskTracker,
}

/// Answers a request for port-forwarding.
pub fn answer(target: Result<Target, ApiError>, connect: Connect) -> Response<Body> {
    match target.and_then(|target| start(target, connect)) {
        Ok(response) => response,
        Err(error) => refuse(&error),
    }
}

fn start(target: Target, connect: Connect) -> Result<Response<Body>, ApiError> {
    let mut request = connect.request;
    let headers = request.headers();
    let upgrade = websocket::value(headers, "upgrade").to_ascii_lowercase();
    let (response, tunnelled) = match upgrade.as_str() {
        "websocket" => (Handshake::read(headers, &[TUNNELLED])?.response(), true),
        "spdy/3.1" => (plainly(headers)?, false),
        _ => {
            return Err(ApiError::bad_request(
                "unable to upgrade: missing upgrade headers in request",
            ));
        }
    };
    let upgrade = hyper::upgrade::on(&mut request);
    target.tasks.clone().spawn(async move {
        let session = async {
            let connection = match upgrade.await {
                Ok(upgraded) => TokioIo::new(upgraded),
                Err(error) => {
                    tracing::debug!(%error, "port-forwarding did not come about");
                    return;
                }
            };
            let served = if tunnelled {
                let (reader, writer) = tunnel::split(websocket::open(connection).await);
                session::run(reader, writer, &target.pod).await
            } else {
                serve(connection, &target.pod).await
            };
            if let Err(error) = served {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "port-forwarding ended"
                );
            }
        };
        tokio::select! {
            () = target.stopped.cancelled() => {}
            () = session => {}
        }
    });
    Ok(response)
}

/// The answer to a client that speaks SPDY without a websocket.
fn plainly(headers: &http::HeaderMap) -> Result<Response<Body>, ApiError> {
    let offered: Vec<&str> = headers
        .get_all(PROTOCOL_HEADER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let mut response = websocket::switching("SPDY/3.1");
    // Clients of Kubernetes 1.0 offer nothing.
    if offered.contains(&PROTOCOL) {
        response
            .headers_mut()
            .insert(PROTOCOL_HEADER, HeaderValue::from_static(PROTOCOL));
    } else if !offered.is_empty() {
        return Err(ApiError::new(
            403,
            "Forbidden",
            format!(
                "unable to negotiate protocol: client supports [{}], server accepts [{PROTOCOL}]",
                offered.join(" ")
            ),
        ));
    }
    Ok(response)
}

/// Serves a client that speaks SPDY on this connection until it leaves.
///
/// # Errors
/// The connection broke, or the client does not speak SPDY.
pub async fn serve<S>(connection: S, pod: &Pod) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, writer) = tokio::io::split(connection);
    session::run(reader, writer, pod).await
}

#[cfg(test)]
mod tests;
