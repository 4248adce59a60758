//! `networking.k8s.io` and `discovery.k8s.io`.

use super::row::{Group, Row};
use crate::kind::Kind;

const DISCOVERY: Group = Group("discovery.k8s.io", "v1");
const NETWORKING: Group = Group("networking.k8s.io", "v1");

pub(super) fn kinds() -> Vec<Kind> {
    [
        NETWORKING
            .cluster("ingressclasses", "IngressClass")
            .generation(),
        NETWORKING
            .namespaced("ingresses", "Ingress")
            .short(&["ing"])
            .status()
            .generation(),
        NETWORKING
            .namespaced("networkpolicies", "NetworkPolicy")
            .short(&["netpol"])
            .generation(),
        DISCOVERY
            .namespaced("endpointslices", "EndpointSlice")
            .generation(),
    ]
    .into_iter()
    .map(Row::build)
    .collect()
}
