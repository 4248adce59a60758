//! Roles that count within one workspace, and groups (iam.md §2).

use std::borrow::Cow;

use k8s_openapi::{
    api::rbac::v1::{PolicyRule, RoleRef, Subject},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{api_version, binding, definition, rules};
use crate::definition::{Shape, cluster_scoped};

/// A role that counts in the workspace that its label names. Its rules stand at the top level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceRole {
    /// Always `iam.kubesphere.io/v1alpha2`.
    #[serde(default = "api_version")]
    pub api_version: String,
    /// Always `WorkspaceRole`.
    #[serde(default = "workspace_role")]
    pub kind: String,
    /// Name, labels, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it allows; null on the wire reads as none.
    #[serde(default)]
    pub rules: Option<Vec<PolicyRule>>,
}

/// Gives a [`WorkspaceRole`] to users and groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceRoleBinding {
    /// Always `iam.kubesphere.io/v1alpha2`.
    #[serde(default = "api_version")]
    pub api_version: String,
    /// Always `WorkspaceRoleBinding`.
    #[serde(default = "workspace_role_binding")]
    pub kind: String,
    /// Name, labels, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// To whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subjects: Option<Vec<Subject>>,
    /// Which role.
    pub role_ref: RoleRef,
}

/// A group of users in a workspace. Its spec and status have no fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Always `iam.kubesphere.io/v1alpha2`.
    #[serde(default = "api_version")]
    pub api_version: String,
    /// Always `Group`.
    #[serde(default = "group")]
    pub kind: String,
    /// Name, labels, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Empty.
    #[serde(default)]
    pub spec: Map<String, Value>,
    /// Empty.
    #[serde(default)]
    pub status: Map<String, Value>,
}

/// Puts users into a [`Group`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupBinding {
    /// Always `iam.kubesphere.io/v1alpha2`.
    #[serde(default = "api_version")]
    pub api_version: String,
    /// Always `GroupBinding`.
    #[serde(default = "group_binding")]
    pub kind: String,
    /// Name, labels, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Which group.
    #[serde(default)]
    pub group_ref: GroupRef,
    /// Who is in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
}

/// Names a group. As the API writes it, `kind` is the plural `groups`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupRef {
    /// `iam.kubesphere.io`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    /// `groups`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The group's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

fn workspace_role() -> String {
    "WorkspaceRole".to_owned()
}

fn workspace_role_binding() -> String {
    "WorkspaceRoleBinding".to_owned()
}

fn group() -> String {
    "Group".to_owned()
}

fn group_binding() -> String {
    "GroupBinding".to_owned()
}

cluster_resource!(WorkspaceRole, "WorkspaceRole", "workspaceroles");
cluster_resource!(
    WorkspaceRoleBinding,
    "WorkspaceRoleBinding",
    "workspacerolebindings"
);
cluster_resource!(Group, "Group", "groups");
cluster_resource!(GroupBinding, "GroupBinding", "groupbindings");

fn workspace_column() -> Value {
    json!({ "name": "Workspace", "type": "string", "jsonPath": r".metadata.labels.kubesphere\.io/workspace" })
}

/// The CustomResourceDefinition `workspaceroles.iam.kubesphere.io`.
#[must_use]
pub fn workspace_role_definition() -> CustomResourceDefinition {
    definition(
        "WorkspaceRole",
        "workspaceroles",
        json!([
            workspace_column(),
            { "name": "Alias", "type": "string", "jsonPath": r".metadata.annotations.kubesphere\.io/alias-name" }
        ]),
        rules(),
        &[],
    )
}

/// The CustomResourceDefinition `workspacerolebindings.iam.kubesphere.io`.
#[must_use]
pub fn workspace_role_binding_definition() -> CustomResourceDefinition {
    definition(
        "WorkspaceRoleBinding",
        "workspacerolebindings",
        json!([workspace_column()]),
        binding(),
        &["roleRef"],
    )
}

/// The CustomResourceDefinition `groups.iam.kubesphere.io`.
#[must_use]
pub fn group_definition() -> CustomResourceDefinition {
    group_kind(
        "Group",
        "groups",
        json!([workspace_column()]),
        json!({ "spec": { "type": "object" }, "status": { "type": "object" } }),
    )
}

/// The CustomResourceDefinition `groupbindings.iam.kubesphere.io`.
#[must_use]
pub fn group_binding_definition() -> CustomResourceDefinition {
    let string = json!({ "type": "string" });
    group_kind(
        "GroupBinding",
        "groupbindings",
        json!([
            { "name": "Group", "type": "string", "jsonPath": ".groupRef.name" },
            { "name": "Users", "type": "string", "jsonPath": ".users" }
        ]),
        json!({
            "groupRef": {
                "type": "object",
                "properties": { "apiGroup": string, "kind": string, "name": string }
            },
            "users": { "type": "array", "items": string }
        }),
    )
}

fn group_kind(kind: &str, plural: &str, columns: Value, fields: Value) -> CustomResourceDefinition {
    cluster_scoped(&Shape {
        group: "iam.kubesphere.io",
        version: "v1alpha2",
        category: "group",
        kind,
        plural,
        columns,
        fields,
        required: &[],
    })
}
