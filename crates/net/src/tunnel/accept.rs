//! The end that is dialled.

use std::{io, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::WebSocketIo;

/// What [`session`](super::session) runs over at the end that is dialled.
pub type Transport = tokio_rustls::server::TlsStream<WebSocketIo<TokioIo<Upgraded>>>;

/// A request that does not ask for a websocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request does not ask for a websocket of version 13")]
pub struct NoUpgrade;

/// The answer to a request for a websocket, and the connection that it becomes once the answer was sent.
///
/// # Errors
/// [`NoUpgrade`]
pub fn answer<B>(request: &mut Request<B>) -> Result<(Response<()>, OnUpgrade), NoUpgrade> {
    let key = key(request.method(), request.headers()).ok_or(NoUpgrade)?;
    let upgrade = request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or(NoUpgrade)?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    Ok((response, upgrade))
}

fn key(method: &Method, headers: &HeaderMap) -> Option<HeaderValue> {
    let protocols = crate::upgrade_protocols(headers)?;
    let websocket = method == Method::GET
        && crate::is_upgrade(headers)
        && protocols
            .to_str()
            .is_ok_and(|protocols| protocols.eq_ignore_ascii_case("websocket"))
        && headers
            .get(header::SEC_WEBSOCKET_VERSION)
            .is_some_and(|version| version == "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    if !websocket || key.len() != 24 {
        return None;
    }
    HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()
}

/// Waits for the connection to change its protocol, and for TLS inside. Whoever asks limits the time.
///
/// # Errors
/// What the other side did not do.
pub async fn accept(upgrade: OnUpgrade, tls: Arc<ServerConfig>) -> io::Result<Transport> {
    let upgraded = upgrade.await.map_err(io::Error::other)?;
    let socket = WebSocketIo::server(TokioIo::new(upgraded)).await;
    let handshake = tokio_rustls::TlsAcceptor::from(tls).accept(socket);
    match handshake.into_fallible().await {
        Ok(transport) => Ok(transport),
        Err((error, mut socket)) => {
            // The other side is told why: the words wait in the websocket still.
            let _ = socket.shutdown().await;
            Err(error)
        }
    }
}
