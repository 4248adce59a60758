//! Discovery documents, in the old forms and as `apidiscovery.k8s.io/v2`.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kind::Kind;

/// `GET /api`. `address` is host:port of this server.
pub fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `GET /apis`.
pub fn api_group_list(kinds: &[Arc<Kind>]) -> Value {
    let _ = kinds;
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
}

/// `GET /apis/{group}`; `None` if no kind has that group.
pub fn api_group(kinds: &[Arc<Kind>], group: &str) -> Option<Value> {
    let _ = (kinds, group);
    None
}

/// `GET /api/v1` (empty group) and `GET /apis/{group}/{version}`; `None` if nothing is served there.
pub fn api_resource_list(kinds: &[Arc<Kind>], group: &str, version: &str) -> Option<Value> {
    let _ = (kinds, group, version);
    None
}

/// The aggregated form of `GET /api` (`core`) or `GET /apis`: an APIGroupDiscoveryList. Answer it with
/// `application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList`.
pub fn aggregated(kinds: &[Arc<Kind>], core: bool) -> Value {
    let _ = (kinds, core);
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": []})
}
