//! The server's half of a websocket handshake (RFC 6455), for the streams of Pods.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::connect::{Body, full};
use crate::status::ApiError;

/// Largest message, and frame, that is read.
const LARGEST: usize = 1 << 20;

/// What the client is answered.
pub(crate) struct Handshake {
    protocol: &'static str,
    accept: HeaderValue,
}

/// The value of a header; empty if it is absent.
pub(crate) fn value(headers: &HeaderMap, name: &str) -> String {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned()
}

impl Handshake {
    /// Reads the client's half; `protocols` are those that are spoken here, the best first.
    ///
    /// # Errors
    /// 400 for what is no handshake, or offers nothing that is spoken.
    pub fn read(headers: &HeaderMap, protocols: &[&'static str]) -> Result<Handshake, ApiError> {
        let offered = value(headers, "sec-websocket-protocol");
        let protocol = protocols
            .iter()
            .find(|known| offered.split(',').any(|name| name.trim() == **known))
            .ok_or_else(|| {
                let known = protocols.join(", ");
                ApiError::bad_request(format!(
                    "none of the offered subprotocols is known: use one of {known}"
                ))
            })?;
        let key = value(headers, "sec-websocket-key");
        if key.is_empty() {
            return Err(ApiError::bad_request("Sec-WebSocket-Key is missing"));
        }
        let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()))
            .map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(Handshake { protocol, accept })
    }

    /// The answer that ends HTTP on the connection.
    pub fn response(self) -> Response<Body> {
        let mut response = switching("websocket");
        let headers = response.headers_mut();
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(self.protocol),
        );
        response
    }
}

/// 101 to another protocol.
pub(crate) fn switching(protocol: &'static str) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// The websocket on a connection that has been upgraded.
pub(crate) async fn open<S>(connection: S) -> WebSocketStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}
