//! `networking.k8s.io` and `discovery.k8s.io`.

use super::defaults;
use super::row::{Group, Row};
use crate::kind::Kind;

const DISCOVERY: Group = Group("discovery.k8s.io", "v1");
const NETWORKING: Group = Group("networking.k8s.io", "v1");

pub(super) fn kinds() -> Vec<Kind> {
    [
        NETWORKING
            .cluster("ingressclasses", "IngressClass")
            .defaults(defaults::ingress_class)
            .generation(),
        NETWORKING
            .namespaced("ingresses", "Ingress")
            .defaults(defaults::ingress)
            .created(defaults::ingress_created)
            .short(&["ing"])
            .status()
            .generation(),
        NETWORKING
            .namespaced("networkpolicies", "NetworkPolicy")
            .defaults(defaults::network_policy)
            .short(&["netpol"])
            .generation(),
        DISCOVERY
            .namespaced("endpointslices", "EndpointSlice")
            .defaults(defaults::endpoint_slice)
            .generation(),
    ]
    .into_iter()
    .map(Row::build)
    .collect()
}
