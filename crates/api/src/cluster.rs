//! The Cluster resource, `cluster.kubesphere.io/v1alpha1` (multicluster.md §2).

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// Presence of this label, whatever its value, marks the host cluster.
pub const HOST_LABEL: &str = "cluster-role.kubesphere.io/host";
/// The finalizer that the cluster controller sets.
pub const FINALIZER: &str = "finalizer.cluster.kubesphere.io";

/// What a Cluster asks for.
#[derive(CustomResource, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cluster.kubesphere.io",
    version = "v1alpha1",
    kind = "Cluster",
    plural = "clusters",
    singular = "cluster",
    status = "ClusterStatus",
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// When false the cluster is skipped by the original's controller.
    #[serde(default, skip_serializing_if = "is_false")]
    pub join_federation: bool,
    /// Shown as "Active"; nothing else reads it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub enable: bool,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// Whether a proxied cluster's API shall be published.
    #[serde(
        default,
        rename = "externalKubeAPIEnabled",
        skip_serializing_if = "is_false"
    )]
    pub external_kube_api_enabled: bool,
    /// How it is reached.
    #[serde(default)]
    pub connection: Connection,
    /// Ours: by what the member is to know callers who come through the host.
    #[serde(default, skip_serializing_if = "Trust::is_shared_secret")]
    pub trust: Trust,
    /// Ours: whether the host restores access by itself, within limits.
    #[serde(default, skip_serializing_if = "is_false")]
    pub auto_restore: bool,
}

/// By what a member knows callers who come through the host (DESIGN.md §4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// The caller's own token, which host and member check with the same `jwtSecret`.
    #[default]
    SharedSecret,
    /// A token for this member alone, signed with the host's private key.
    Federated,
}

impl Trust {
    /// The word for people and objects.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SharedSecret => "shared-secret",
            Self::Federated => "federated",
        }
    }

    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde asks for a reference"
    )]
    fn is_shared_secret(&self) -> bool {
        *self == Self::SharedSecret
    }
}

/// How the host reaches a cluster.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// `direct` or `proxy`.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// URL of the member's ks-apiserver; empty on a direct cluster: through its kube-apiserver.
    #[serde(
        default,
        rename = "kubesphereAPIEndpoint",
        skip_serializing_if = "String::is_empty"
    )]
    pub kubesphere_api_endpoint: String,
    /// URL of the member's kube-apiserver.
    #[serde(
        default,
        rename = "kubernetesAPIEndpoint",
        skip_serializing_if = "String::is_empty"
    )]
    pub kubernetes_api_endpoint: String,
    /// Public URL of a proxied cluster.
    #[serde(
        default,
        rename = "externalKubernetesAPIEndpoint",
        skip_serializing_if = "String::is_empty"
    )]
    pub external_kubernetes_api_endpoint: String,
    /// The member's kubeconfig, base64 on the wire. Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<ByteString>,
    /// Token of the tunnel's agent. Secret.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// Port of the tunnel for the kube-apiserver.
    #[serde(
        default,
        rename = "kubernetesAPIServerPort",
        skip_serializing_if = "Option::is_none"
    )]
    pub kubernetes_api_server_port: Option<u16>,
    /// Port of the tunnel for the ks-apiserver.
    #[serde(
        default,
        rename = "kubesphereAPIServerPort",
        skip_serializing_if = "Option::is_none"
    )]
    pub kubesphere_api_server_port: Option<u16>,
}

// The kubeconfig and the token are secrets: neither may show in any debug output.
impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("type", &self.kind)
            .field("kubesphereAPIEndpoint", &self.kubesphere_api_endpoint)
            .field("kubernetesAPIEndpoint", &self.kubernetes_api_endpoint)
            .field("kubeconfig", &self.kubeconfig.as_ref().map(|_| "[hidden]"))
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ClusterSpec {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ClusterSpec")
            .field("joinFederation", &self.join_federation)
            .field("enable", &self.enable)
            .field("provider", &self.provider)
            .field("connection", &self.connection)
            .field("trust", &self.trust)
            .field("auto_restore", &self.auto_restore)
            .finish_non_exhaustive()
    }
}

/// What is known of a Cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    /// Conditions; the writer puts a changed one at the end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ClusterCondition>,
    /// `gitVersion` of its kube-apiserver.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kubernetes_version: String,
    /// `gitVersion` of its ks-apiserver.
    #[serde(rename = "kubeSphereVersion", skip_serializing_if = "String::is_empty")]
    pub kubesphere_version: String,
    /// Number of nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_count: Option<i64>,
    /// Zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Which components it has.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub configz: BTreeMap<String, bool>,
    /// UID of its namespace `kube-system`: its identity.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Ours: what a look at the member found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub: Option<HubStatus>,
}

/// What a look at a member found, for people who list Clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HubStatus {
    /// `service-proxy`, `endpoint` or `tunnel`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route: String,
    /// The trust that is in force: [`Trust::as_str`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trust: String,
    /// How long the last answer took, as `12ms`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub latency: String,
    /// Days until the first of what the way to the member depends on ends: the stored credential, or its agent's certificate, and what its servers show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_days: Option<i64>,
}

/// One condition of a Cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterCondition {
    /// For example `Ready`, `HostAccess`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// When it was last written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Time>,
    /// When it last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// The word for machines.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The condition that is `False` while what answers for a Cluster is another cluster than the one that joined; absent otherwise.
pub const IDENTITY: &str = "Identity";
/// What every [`Stranger`]'s words begin with.
pub const STRANGER: &str = "what answers is not ";

/// Why what answers for a Cluster is not taken for the cluster that it stands for. `Display` says what to do; it repeats nothing that the member said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stranger {
    /// Its namespace kube-system has another UID than `status.uid`.
    Another {
        /// The Cluster's name.
        cluster: String,
    },
    /// It has the identity of another Cluster.
    Double {
        /// The Cluster's name.
        cluster: String,
        /// The other's.
        of: String,
    },
    /// What it tells is no identity.
    Nameless {
        /// The Cluster's name.
        cluster: String,
    },
}

impl std::fmt::Display for Stranger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(STRANGER)?;
        match self {
            Self::Another { cluster } => write!(
                f,
                "the cluster that joined as {cluster}: the UID of its namespace kube-system is not status.uid. Nothing is signed for it meanwhile. \
                 If it was set up anew, let it leave and join again: kah cluster leave {cluster}, then kah cluster join {cluster}"
            ),
            Self::Double { cluster, of } => write!(
                f,
                "a cluster of its own: it has the identity of the cluster {of}, which is in the fleet already. Nothing is signed for it meanwhile. \
                 Let the one leave that is too many, e.g. by kah cluster leave {cluster}"
            ),
            Self::Nameless { cluster } => write!(
                f,
                "the cluster that joined as {cluster}: its namespace kube-system has no UID that could be one. Nothing is signed for it meanwhile"
            ),
        }
    }
}

/// Whether this can be the UID of a namespace.
#[must_use]
pub fn is_uid(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(plain)
}

impl Cluster {
    /// Whether this object stands for the host cluster itself.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key(HOST_LABEL))
    }

    /// The condition of this type, if there is one.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&ClusterCondition> {
        self.status
            .as_ref()?
            .conditions
            .iter()
            .find(|condition| condition.kind == kind)
    }
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// The CustomResourceDefinition `clusters.cluster.kubesphere.io`.
#[must_use]
pub fn definition() -> CustomResourceDefinition {
    crate::definition::read(serde_json::json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "clusters.cluster.kubesphere.io" },
        "spec": {
            "group": "cluster.kubesphere.io",
            "names": { "kind": "Cluster", "listKind": "ClusterList", "plural": "clusters", "singular": "cluster" },
            "scope": "Cluster",
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "subresources": {},
                "additionalPrinterColumns": [
                    { "name": "Federated", "type": "boolean", "jsonPath": ".spec.joinFederation" },
                    { "name": "Provider", "type": "string", "jsonPath": ".spec.provider" },
                    { "name": "Active", "type": "boolean", "jsonPath": ".spec.enable" },
                    { "name": "Version", "type": "string", "jsonPath": ".status.kubernetesVersion" },
                    // Ours stand behind those that clients know.
                    { "name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status" },
                    { "name": "Access", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"HostAccess\")].reason" },
                    { "name": "Trust", "type": "string", "jsonPath": ".status.hub.trust" },
                    { "name": "Route", "type": "string", "jsonPath": ".status.hub.route" },
                    { "name": "Nodes", "type": "integer", "jsonPath": ".status.nodeCount" },
                    { "name": "Latency", "type": "string", "jsonPath": ".status.hub.latency" },
                    { "name": "Cert-Days", "type": "integer", "jsonPath": ".status.hub.certificateDays" }
                ],
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "apiVersion": { "type": "string" },
                        "kind": { "type": "string" },
                        "metadata": { "type": "object" },
                        "spec": {
                            "type": "object",
                            "properties": {
                                "joinFederation": { "type": "boolean" },
                                "enable": { "type": "boolean" },
                                "provider": { "type": "string" },
                                "trust": { "type": "string", "enum": ["shared-secret", "federated"] },
                                "autoRestore": { "type": "boolean" },
                                "externalKubeAPIEnabled": { "type": "boolean" },
                                "connection": {
                                    "type": "object",
                                    "properties": {
                                        "type": { "type": "string" },
                                        "kubesphereAPIEndpoint": { "type": "string" },
                                        "kubernetesAPIEndpoint": { "type": "string" },
                                        "externalKubernetesAPIEndpoint": { "type": "string" },
                                        "kubeconfig": { "type": "string", "format": "byte" },
                                        "token": { "type": "string" },
                                        "kubernetesAPIServerPort": { "type": "integer" },
                                        "kubesphereAPIServerPort": { "type": "integer" }
                                    }
                                }
                            }
                        },
                        "status": {
                            "type": "object",
                            "properties": {
                                "conditions": {
                                    "type": "array",
                                    "items": {
                                        "type": "object",
                                        "required": ["status", "type"],
                                        "properties": {
                                            "type": { "type": "string" },
                                            "status": { "type": "string" },
                                            "lastUpdateTime": { "type": "string", "format": "date-time" },
                                            "lastTransitionTime": { "type": "string", "format": "date-time" },
                                            "reason": { "type": "string" },
                                            "message": { "type": "string" }
                                        }
                                    }
                                },
                                "kubernetesVersion": { "type": "string" },
                                "kubeSphereVersion": { "type": "string" },
                                "nodeCount": { "type": "integer" },
                                "zones": { "type": "array", "items": { "type": "string" } },
                                "region": { "type": "string" },
                                "configz": { "type": "object", "additionalProperties": { "type": "boolean" } },
                                "uid": { "type": "string" },
                                "hub": {
                                    "type": "object",
                                    "properties": {
                                        "route": { "type": "string" },
                                        "trust": { "type": "string" },
                                        "latency": { "type": "string" },
                                        "certificateDays": { "type": "integer" }
                                    }
                                }
                            }
                        }
                    }
                } }
            }]
        }
    }))
}
