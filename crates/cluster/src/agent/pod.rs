//! A Pod of ks-apiserver, where names of Services mean nothing: an agent outside of its cluster's DNS, as on localkube.

use std::net::SocketAddr;

use futures::future::BoxFuture;
use http::{HeaderValue, Request, StatusCode, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::{List, api::core::v1::Pod};

use crate::OwnKubernetes;

/// Pods of ks-apiserver, as its Service selects them.
const PODS: &str =
    "/api/v1/namespaces/kubesphere-system/pods?labelSelector=app%3Dks-apiserver%2Ctier%3Dbackend";
/// Bytes of the list.
const LARGEST: usize = 4 * 1024 * 1024;

/// Where a ready one listens.
pub(super) fn address(kubernetes: OwnKubernetes) -> BoxFuture<'static, Option<SocketAddr>> {
    Box::pin(find(kubernetes))
}

async fn find(kubernetes: OwnKubernetes) -> Option<SocketAddr> {
    let mut request = Request::new(kah_net::empty());
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(header::ACCEPT, json);
    let target = PathAndQuery::from_static(PODS);
    let answer = kubernetes.send(request, target, None, None).await.ok()?;
    if answer.status() != StatusCode::OK {
        return None;
    }
    // In a box of its own, without which the compiler does not see that the whole may be sent between threads.
    let body: BoxFuture<'static, _> = Box::pin(Limited::new(answer.into_body(), LARGEST).collect());
    let list: List<Pod> = serde_json::from_slice(&body.await.ok()?.to_bytes()).ok()?;
    list.items.iter().find_map(listening)
}

fn listening(pod: &Pod) -> Option<SocketAddr> {
    let status = pod.status.as_ref()?;
    let ready = status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if !ready {
        return None;
    }
    let container = pod.spec.as_ref()?.containers.first()?;
    let port = container.ports.as_ref()?.first()?.container_port;
    let ip = status.pod_ip.as_ref()?.parse().ok()?;
    Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
}
