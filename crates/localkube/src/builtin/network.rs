//! `networking.k8s.io` and `discovery.k8s.io`.

use super::defaults;
use super::network_rules;
use super::row::{Group, Row};
use crate::kind::Kind;
use crate::table;

const DISCOVERY: Group = Group("discovery.k8s.io", "v1");
const NETWORKING: Group = Group("networking.k8s.io", "v1");

pub(super) fn kinds() -> Vec<Kind> {
    [
        NETWORKING
            .cluster("ingressclasses", "IngressClass")
            .validate(network_rules::ingress_class)
            .print(table::network::INGRESS_CLASS, table::network::ingress_class)
            .defaults(defaults::ingress_class)
            .generation(),
        NETWORKING
            .namespaced("ingresses", "Ingress")
            .validate(network_rules::ingress)
            .print(table::network::INGRESS, table::network::ingress)
            .defaults(defaults::ingress)
            .created(defaults::ingress_created)
            .short(&["ing"])
            .status()
            .generation(),
        NETWORKING
            .namespaced("networkpolicies", "NetworkPolicy")
            .validate(network_rules::network_policy)
            .print(
                table::network::NETWORK_POLICY,
                table::network::network_policy,
            )
            .defaults(defaults::network_policy)
            .short(&["netpol"])
            .generation(),
        DISCOVERY
            .namespaced("endpointslices", "EndpointSlice")
            .validate(network_rules::endpoint_slice)
            .print(
                table::network::ENDPOINT_SLICE,
                table::network::endpoint_slice,
            )
            .defaults(defaults::endpoint_slice)
            .generation(),
    ]
    .into_iter()
    .map(Row::build)
    .collect()
}
