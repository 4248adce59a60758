//! Workspaces, `tenant.kubesphere.io` (tenancy.md §1): what users create on the host, and what stands for it in
//! each cluster.

use std::collections::BTreeMap;

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::definition::{Shape, cluster_scoped};

/// Label that names the workspace of a namespace, a role, a group.
pub const WORKSPACE_LABEL: &str = "kubesphere.io/workspace";

/// A workspace in one cluster: the owner of its namespaces. Written by controllers only.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tenant.kubesphere.io",
    version = "v1alpha1",
    kind = "Workspace",
    plural = "workspaces",
    singular = "workspace",
    status = "WorkspaceStatus",
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkspaceSpec {
    /// The user who administers it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub manager: String,
    /// Whether its namespaces are closed to others; absent and false mean the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_isolation: Option<bool>,
}

/// Has no fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceStatus {}

/// What users create: a workspace, and in which clusters it shall be.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tenant.kubesphere.io",
    version = "v1alpha2",
    kind = "WorkspaceTemplate",
    plural = "workspacetemplates",
    singular = "workspacetemplate",
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(default)]
pub struct WorkspaceTemplateSpec {
    /// The workspace.
    pub template: Template,
    /// Where.
    pub placement: Placement,
    /// What is otherwise in some clusters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
}

/// A [`Workspace`] to be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Template {
    /// Stored without labels and annotations: the schema knows none.
    pub metadata: ObjectMeta,
    /// Its spec.
    pub spec: WorkspaceSpec,
}

/// In which clusters. `clusters` wins over `clusterSelector`; neither means in none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    /// By name; an empty list is a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clusters: Option<Vec<ClusterName>>,
    /// By the labels of the Cluster objects; empty means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_selector: Option<LabelSelector>,
}

/// Names a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterName {
    /// The Cluster object's name.
    pub name: String,
}

/// Changes for one cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Override {
    /// Which.
    pub cluster_name: String,
    /// The changes, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cluster_overrides: Vec<Change>,
}

/// One change, in the manner of JSON Patch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// `add`, `remove` or `replace`; empty means `replace`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// JSON pointer into the [`Workspace`].
    pub path: String,
    /// What to put there.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub value: Value,
}

impl Placement {
    /// Whether a cluster of this name with these labels is meant.
    #[must_use]
    pub fn selects(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        match (&self.clusters, &self.cluster_selector) {
            (Some(clusters), _) => clusters.iter().any(|cluster| cluster.name == name),
            (None, Some(selector)) => matches(selector, labels),
            (None, None) => false,
        }
    }
}

/// Whether labels meet a selector. An operator that is not known selects nothing.
fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let exact = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    exact
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && expressions.into_iter().all(|expression| {
            let value = labels.get(&expression.key);
            let listed = || {
                let mut values = expression.values.iter().flatten();
                value.is_some_and(|value| values.any(|one| one == value))
            };
            match expression.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

fn workspace_spec() -> Value {
    json!({
        "type": "object",
        "properties": { "manager": { "type": "string" }, "networkIsolation": { "type": "boolean" } }
    })
}

fn definition(version: &str, kind: &str, plural: &str, fields: Value) -> CustomResourceDefinition {
    cluster_scoped(&Shape {
        group: "tenant.kubesphere.io",
        version,
        category: "tenant",
        kind,
        plural,
        columns: json!([]),
        fields,
        required: &[],
    })
}

/// The CustomResourceDefinition `workspaces.tenant.kubesphere.io`.
#[must_use]
pub fn workspace_definition() -> CustomResourceDefinition {
    definition(
        "v1alpha1",
        "Workspace",
        "workspaces",
        json!({ "spec": workspace_spec(), "status": { "type": "object" } }),
    )
}

/// The CustomResourceDefinition `workspacetemplates.tenant.kubesphere.io`.
#[must_use]
pub fn workspace_template_definition() -> CustomResourceDefinition {
    let string = json!({ "type": "string" });
    let strings = json!({ "type": "array", "items": string });
    let expression = json!({
        "type": "object",
        "required": ["key", "operator"],
        "properties": { "key": string, "operator": string, "values": strings }
    });
    let placement = json!({
        "type": "object",
        "properties": {
            "clusterSelector": {
                "type": "object",
                "properties": {
                    "matchExpressions": { "type": "array", "items": expression },
                    "matchLabels": { "type": "object", "additionalProperties": string }
                }
            },
            "clusters": {
                "type": "array",
                "items": { "type": "object", "required": ["name"], "properties": { "name": string } }
            }
        }
    });
    let change = json!({
        "type": "object",
        "required": ["path"],
        "properties": {
            "op": { "type": "string", "pattern": "^(add|remove|replace)?$" },
            "path": string,
            "value": { "x-kubernetes-preserve-unknown-fields": true }
        }
    });
    let overrides = json!({
        "type": "array",
        "items": {
            "type": "object",
            "required": ["clusterName"],
            "properties": {
                "clusterName": string,
                "clusterOverrides": { "type": "array", "items": change }
            }
        }
    });
    definition(
        "v1alpha2",
        "WorkspaceTemplate",
        "workspacetemplates",
        json!({
            "spec": {
                "type": "object",
                "required": ["placement", "template"],
                "properties": {
                    "overrides": overrides,
                    "placement": placement,
                    "template": {
                        "type": "object",
                        "properties": { "metadata": { "type": "object" }, "spec": workspace_spec() }
                    }
                }
            }
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_selects_by_name_first_then_by_labels() {
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        for (placement, expected) in [
            (json!({}), false),
            (json!({"clusters": []}), false),
            (json!({"clusters": [], "clusterSelector": {}}), false),
            (json!({"clusters": [{"name": "m"}]}), true),
            (json!({"clusters": [{"name": "n"}]}), false),
            (json!({"clusterSelector": {}}), true),
            (
                json!({"clusterSelector": {"matchLabels": {"zone": "a"}}}),
                true,
            ),
            (
                json!({"clusterSelector": {"matchLabels": {"zone": "b"}}}),
                false,
            ),
            (
                json!({"clusterSelector": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}}),
                true,
            ),
            (
                json!({"clusterSelector": {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}}),
                false,
            ),
            (
                json!({"clusterSelector": {"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}}),
                false,
            ),
            (
                json!({"clusterSelector": {"matchExpressions": [{"key": "zone", "operator": "Near"}]}}),
                false,
            ),
        ] {
            let read: Placement = serde_json::from_value(placement.clone()).unwrap();
            assert_eq!(read.selects("m", &labels), expected, "{placement}");
        }
    }
}
