//! `services/NAME/proxy` and `pods/NAME/proxy`: requests passed on to a Pod, as kube-apiserver does it.

mod endpoint;
mod forward;

use http::{Response, StatusCode, header};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connect::{Body, Connect, full, refuse};
use crate::status::ApiError;

pub(crate) use endpoint::ready;

/// Passes requests on. Clones share their connections.
#[derive(Clone)]
pub struct Proxy {
    client: kube::Client,
    upstream: forward::Upstream,
}

impl Proxy {
    /// A proxy that looks endpoints up with `client`. Upgraded connections belong to `tasks` and end with
    /// `shutdown`.
    pub fn new(client: kube::Client, tasks: TaskTracker, shutdown: CancellationToken) -> Proxy {
        Proxy {
            client,
            upstream: forward::Upstream::new(forward::Limits::default(), tasks, shutdown),
        }
    }

    /// Answers one request.
    pub async fn answer(&self, connect: Connect) -> Response<Body> {
        let path = connect.request.uri().path();
        if connect.rest.is_empty()
            && matches!(
                *connect.request.method(),
                http::Method::GET | http::Method::HEAD
            )
        {
            let query = connect.request.uri().query();
            let target = match query {
                Some(query) => format!("{path}/?{query}"),
                None => format!("{path}/"),
            };
            return redirect(&target);
        }
        let target = if connect.resource == "services" {
            endpoint::of_service(
                &self.client,
                &connect.namespace,
                &connect.name,
                &connect.object,
            )
            .await
        } else {
            endpoint::of_pod(&connect.name, &connect.object)
        };
        match target {
            Ok(target) => self.upstream.forward(target, connect).await,
            Err(error) => refuse(&error),
        }
    }
}

fn redirect(target: &str) -> Response<Body> {
    let mut response = Response::new(full(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    match target.parse() {
        Ok(value) => {
            response.headers_mut().insert(header::LOCATION, value);
            response
        }
        Err(_) => refuse(&ApiError::bad_request("the path cannot be redirected")),
    }
}

#[cfg(test)]
mod tests;
