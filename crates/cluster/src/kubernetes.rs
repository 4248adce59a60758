//! A member's kube-apiserver as a [`kube::Client`], with the credential that the host stores for it.
//!
//! Reconcilers, doctor and restore use it; callers' requests never do.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response, uri::PathAndQuery};
use kah_net::{Body, Forward, Kind, ProxyError, Upstream};
use kube::client;

/// Requests of a `kube::Client` over an upstream that adds the credential.
#[derive(Clone)]
struct Service(Upstream);

impl tower::Service<Request<client::Body>> for Service {
    type Response = Response<Body>;
    type Error = ProxyError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, ProxyError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<client::Body>) -> Self::Future {
        let upstream = self.0.clone();
        Box::pin(async move {
            let target = request
                .uri()
                .path_and_query()
                .cloned()
                .unwrap_or_else(|| PathAndQuery::from_static("/"));
            upstream.send(request, Forward::new(target)).await
        })
    }
}

/// A client over this upstream.
pub(crate) fn client(upstream: &Upstream) -> kube::Client {
    kube::Client::new(Service(upstream.clone()), "default")
}

/// The kind of fault on the way that a client's error came from, if it came from there.
#[must_use]
pub fn fault_of(error: &kube::Error) -> Option<Kind> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |error| {
        (*error).source()
    })
    .find_map(|error| error.downcast_ref::<ProxyError>())
    .map(ProxyError::kind)
}
