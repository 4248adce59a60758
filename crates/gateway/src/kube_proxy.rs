//! The way to this cluster's own kube-apiserver, with the account of this program (gateway.md §4).

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    response::Response,
};
use http::{HeaderValue, Request, StatusCode, header, uri::PathAndQuery};
use kah_api::{status::Cause, status::Status};
use kah_cluster::{AccountError, OwnKubernetes};
use kah_net::{Kind, Limits, ProxyError};
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// For a question of our own.
const QUESTION: Duration = Duration::from_secs(5);
/// An answer to a question of our own is not larger.
const LARGEST_ANSWER: usize = 64 * 1024;

/// Sends requests to this cluster's kube-apiserver. Clones share connections.
#[derive(Debug, Clone)]
pub struct KubeProxy(OwnKubernetes);

impl KubeProxy {
    /// The same address, authority and account that a `kube::Client` of this configuration uses.
    ///
    /// # Errors
    /// [`AccountError`] where the configuration asks for something that is not a token, a token file or a client certificate.
    pub fn new(
        config: &kube::Config,
        limits: Limits,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Result<Self, AccountError> {
        OwnKubernetes::new(config, limits, stop, tasks).map(Self)
    }

    /// Sends a caller's request on and relays the answer, both streaming, until `ends`; a failure is told as a Status (differences.md R9).
    pub async fn forward(
        &self,
        request: Request<Body>,
        target: PathAndQuery,
        client: Option<IpAddr>,
        ends: Option<Arc<CancellationToken>>,
    ) -> Result<Response, Status> {
        match self.0.send(request, target, client, ends).await {
            Ok(response) => Ok(response.map(Body::new)),
            Err(AccountError::Proxy(error)) => Err(fault("error trying to reach service", &error)),
            Err(error) => {
                tracing::error!(%error, "the account of this server cannot be used");
                Err(Status::internal_error(
                    "this server cannot read its own credential for the kube-apiserver",
                ))
            }
        }
    }

    /// Asks something for ourselves; `None` where there is no usable answer within a few seconds.
    pub async fn ask(&self, path: &'static str) -> Option<Value> {
        tokio::time::timeout(QUESTION, self.question(path))
            .await
            .ok()
            .flatten()
    }

    async fn question(&self, path: &'static str) -> Option<Value> {
        let mut request = Request::new(Body::empty());
        request
            .headers_mut()
            .insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let target = PathAndQuery::from_static(path);
        let response = self.0.send(request, target, None, None).await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        let body = to_bytes(Body::new(response.into_body()), LARGEST_ANSWER)
            .await
            .ok()?;
        serde_json::from_slice(&body).ok()
    }

    /// Ends at once what goes on.
    pub fn close(&self) {
        self.0.close();
    }
}

/// A failure between us and another server as a Status: 504 for time, 502 for the rest, 400 where the request itself is at fault.
pub(crate) fn fault(trying: &str, error: &ProxyError) -> Status {
    let message = format!("{trying}: {error}: {}", error.root_cause());
    match error.kind() {
        Kind::Timeout | Kind::ConnectTimeout => Status::gateway_timeout(message, Vec::new()),
        Kind::Request => Status::bad_request(message),
        Kind::Closed => Status::service_unavailable(message, Vec::<Cause>::new(), 1),
        _ => Status::bad_gateway(message, Vec::new()),
    }
}
