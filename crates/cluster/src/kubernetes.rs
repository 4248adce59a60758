//! A member's kube-apiserver as a [`kube::Client`], with the credential that the host stores for it.
//!
//! Reconcilers, doctor and restore use it; callers' requests never do.

use std::{
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
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(fault) = error.downcast_ref::<ProxyError>() {
            return Some(fault.kind());
        }
        next = match error {
            error if error.is::<kube::Error>() => match error.downcast_ref::<kube::Error>() {
                Some(kube::Error::Service(inner)) => Some(inner.as_ref()),
                _ => error.source(),
            },
            error => error.source(),
        };
    }
    None
}
