//! The seam between the API and the node: subresources that are not stored objects.

use futures::future::BoxFuture;
use serde_json::Value;

/// Bodies of requests and answers inside this room: streamed, never collected unless a handler says so.
pub type Body = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, BoxError>;
/// Whatever broke a stream.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where a request came from. [`crate::serve::serve`] puts it in the extensions of each request; requests made
/// inside the process have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub std::net::SocketAddr);

/// A `connect` request that has been authenticated, authorised, and whose object exists.
pub struct Connect {
    /// `pods`, `services` or `nodes`.
    pub resource: String,
    /// `log`, `exec`, `attach`, `portforward` or `proxy`.
    pub subresource: String,
    pub namespace: String,
    /// As in the path; for `services` it may be `[scheme:]name[:port]`.
    pub name: String,
    /// The stored object.
    pub object: Value,
    /// What follows `/proxy` in the path, with its leading slash; empty if nothing does.
    pub rest: String,
    /// The request as it came: its query, upgrade extension and body are untouched.
    pub request: http::Request<Body>,
}

impl Connect {
    /// The client's address, unless the request was made inside the process.
    pub fn peer(&self) -> Option<std::net::SocketAddr> {
        let peer = self.request.extensions().get::<PeerAddress>();
        peer.map(|peer| peer.0)
    }
}

/// The node side: answers logs, exec and proxied requests.
pub trait Connector: Send + Sync + 'static {
    /// Answers one request. Failures are Status answers, never dropped connections.
    fn connect(&self, connect: Connect) -> BoxFuture<'static, http::Response<Body>>;
}

/// A body that is there already.
pub fn full(bytes: impl Into<bytes::Bytes>) -> Body {
    use http_body_util::BodyExt;
    http_body_util::Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// An error as an answer: its Status as JSON, with its code.
pub fn refuse(error: &crate::status::ApiError) -> http::Response<Body> {
    let mut response = http::Response::new(full(error.to_status().to_string()));
    *response.status_mut() =
        http::StatusCode::from_u16(error.code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}
