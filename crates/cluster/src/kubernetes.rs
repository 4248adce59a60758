//! A member's kube-apiserver as a [`kube::Client`]: with the credential that the host stores for it, or, where that is rejected, by the way of callers
//! and as one of them.
//!
//! Reconcilers, doctor and restore use it; callers' requests never do.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, uri::PathAndQuery};
use kah_net::{Body, Forward, Kind, ProxyError, Upstream};
use kube::client;

use crate::{CallerCredential, Form, ForwardError, Hop, Member};

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

/// Requests of a `kube::Client` over the way of callers.
#[derive(Clone)]
struct ByCallersWay {
    member: Arc<Member>,
    caller: CallerCredential,
}

impl tower::Service<Request<client::Body>> for ByCallersWay {
    type Response = Response<Body>;
    type Error = ForwardError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, ForwardError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ForwardError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<client::Body>) -> Self::Future {
        let Self { member, caller } = self.clone();
        Box::pin(async move {
            let target = request
                .uri()
                .path_and_query()
                .cloned()
                .unwrap_or_else(|| PathAndQuery::from_static("/"));
            let hop = Hop {
                target,
                form: Form::Segment,
                caller,
                client: None,
                long_running: false,
                ends: None,
            };
            member.send(request, hop).await
        })
    }
}

/// A client that may at the member what this caller may there.
pub(crate) fn client_of_caller(member: &Arc<Member>, caller: &CallerCredential) -> kube::Client {
    let service = ByCallersWay {
        member: Arc::clone(member),
        caller: caller.clone(),
    };
    kube::Client::new(service, "default")
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
