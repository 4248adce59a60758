//! The built-in kinds, as rows: what is served, with which defaults and validation.

mod access;
mod check;
mod core;
mod cron;
mod defaults;
pub(crate) mod fields;
mod network;
mod network_rules;
pub(crate) mod pod_defaults;
mod pod_rules;
pub(crate) mod quantity;
mod row;
mod rules;
pub mod service;
mod system;
mod workload_defaults;
mod workload_rules;
mod workloads;

use serde_json::{Value, json};

use crate::kind::Kind;

/// Every built-in kind of every served version. Groups stand in discovery order, the kinds of one
/// group version in alphabetical order.
pub fn kinds() -> Vec<Kind> {
    [
        core::kinds(),
        workloads::apps(),
        access::reviews(),
        workloads::others(),
        network::kinds(),
        access::roles(),
        system::kinds(),
    ]
    .concat()
}

/// The objects that every new cluster has: its four namespaces, the `kubernetes` Service and the
/// two system priority classes. They lack uid, resourceVersion and creationTimestamp.
pub fn objects() -> Vec<Value> {
    let mut objects: Vec<Value> = ["default", "kube-node-lease", "kube-public", "kube-system"]
        .iter()
        .map(|name| {
            json!({
                "kind": "Namespace", "apiVersion": "v1",
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
                "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
            })
        })
        .collect();
    objects.push(json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": 6443}],
            "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "type": "ClusterIP", "sessionAffinity": "None",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    }));
    for (name, value, description) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        objects.push(json!({
            "kind": "PriorityClass", "apiVersion": "scheduling.k8s.io/v1",
            "metadata": {"name": name, "generation": 1},
            "value": value, "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        }));
    }
    objects
}

#[cfg(test)]
mod tests;
