//! The REST API of a cluster, as one tower service.

mod answer;
mod body;
mod metadata;
mod path;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use tower::Service;

use crate::cluster::Options;
use crate::connect::{Body, BoxError};
use crate::identity::User;
use crate::store::Store;

/// The API. Clones share it.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
}

impl Api {
    /// An API over this store.
    pub fn new(store: Store, options: &Options) -> Api {
        let _ = options;
        Api {
            inner: Arc::new(Inner { store }),
        }
    }

    /// The objects behind it.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// A client that calls this API in the process, as `user`.
    pub fn client(&self, user: User) -> kube::Client {
        let service = As {
            api: self.clone(),
            user,
        };
        kube::Client::new(service, "default")
    }

    /// Answers one request. A [`User`] among its extensions is who it comes from; without one the
    /// request is authenticated.
    pub async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let _ = request;
        crate::connect::refuse(&crate::status::ApiError::internal("not served"))
    }
}

impl<B> Service<Request<B>> for Api
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let api = self.clone();
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { Ok(api.handle(request).await) })
    }
}

/// The API, with every request coming from one user.
#[derive(Clone)]
struct As {
    api: Api,
    user: User,
}

impl<B> Service<Request<B>> for As
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.user.clone());
        self.api.call(request)
    }
}
