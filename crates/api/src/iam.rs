//! Users, roles, bindings and groups, `iam.kubesphere.io/v1alpha2` (iam.md §2).

use std::{borrow::Cow, fmt};

use k8s_openapi::{
    api::rbac::v1::{PolicyRule, RoleRef, Subject},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// Annotation whose non-empty value travels in tokens as `extra.uninitialized`.
pub const UNINITIALIZED_ANNOTATION: &str = "iam.kubesphere.io/uninitialized";
/// The role that may do everything.
pub const PLATFORM_ADMIN: &str = "platform-admin";
/// Set on objects that a host propagated to this cluster.
pub const MANAGED_LABEL: &str = "kubefed.io/managed";

/// What a password must look like: clear text with three kinds of characters, or a bcrypt string.
pub const PASSWORD_PATTERN: &str = r"^(.*[a-z].*[A-Z].*[0-9].*)$|^(.*[a-z].*[0-9].*[A-Z].*)$|^(.*[A-Z].*[a-z].*[0-9].*)$|^(.*[A-Z].*[0-9].*[a-z].*)$|^(.*[0-9].*[a-z].*[A-Z].*)$|^(.*[0-9].*[A-Z].*[a-z].*)$|^(\$2[ayb]\$.{56})$";

/// A user's own data.
#[derive(CustomResource, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "iam.kubesphere.io",
    version = "v1alpha2",
    kind = "User",
    plural = "users",
    singular = "user",
    status = "UserStatus",
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct UserSpec {
    /// Always written, may be empty.
    #[serde(default)]
    pub email: String,
    /// Preferred language.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lang: String,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Name for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display_name: String,
    /// Groups that the user is in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// bcrypt hash. Secret: never in an answer, a log or a debug output.
    #[serde(default, rename = "password", skip_serializing_if = "String::is_empty")]
    pub encrypted_password: String,
}

impl fmt::Debug for UserSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("UserSpec")
            .field("email", &self.email)
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

/// What is known of a user.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UserStatus {
    /// `Active`, `Disabled`, `AuthLimitExceeded`, or empty: not looked at yet.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When the state changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// Creation time of the newest login record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_login_time: Option<Time>,
}

/// A user's state as authentication asks for it (authentication.md §8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserState {
    /// May log in.
    Active,
    /// Refused everywhere.
    Disabled,
    /// Too many failed logins; tokens go on working.
    AuthLimitExceeded,
    /// Empty or unknown: no controller has looked at it yet. Tokens work, passwords do not.
    Pending,
}

impl User {
    /// The state, read from the status.
    #[must_use]
    pub fn state(&self) -> UserState {
        match self.status.as_ref().map(|status| status.state.as_str()) {
            Some("Active") => UserState::Active,
            Some("Disabled") => UserState::Disabled,
            Some("AuthLimitExceeded") => UserState::AuthLimitExceeded,
            _ => UserState::Pending,
        }
    }

    /// The annotation [`UNINITIALIZED_ANNOTATION`], if it is set and not empty.
    #[must_use]
    pub fn uninitialized(&self) -> Option<&str> {
        self.metadata
            .annotations
            .as_ref()?
            .get(UNINITIALIZED_ANNOTATION)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

/// A role that counts everywhere. Its rules stand at the top level, there is no `spec`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GlobalRole {
    /// Always `iam.kubesphere.io/v1alpha2`.
    #[serde(default = "api_version")]
    pub api_version: String,
    /// Always `GlobalRole`.
    #[serde(default = "global_role")]
    pub kind: String,
    /// Name, labels, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it allows; null on the wire reads as none.
    #[serde(default)]
    pub rules: Option<Vec<PolicyRule>>,
}

/// Gives a [`GlobalRole`] to users and groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GlobalRoleBinding {
    /// Always `iam.kubesphere.io/v1alpha2`.
    #[serde(default = "api_version")]
    pub api_version: String,
    /// Always `GlobalRoleBinding`.
    #[serde(default = "global_role_binding")]
    pub kind: String,
    /// Name, labels, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// To whom; the `apiGroup` of a subject is not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subjects: Option<Vec<Subject>>,
    /// Which role; only `kind` and `name` count.
    pub role_ref: RoleRef,
}

fn api_version() -> String {
    "iam.kubesphere.io/v1alpha2".to_owned()
}

fn global_role() -> String {
    "GlobalRole".to_owned()
}

fn global_role_binding() -> String {
    "GlobalRoleBinding".to_owned()
}

macro_rules! cluster_resource {
    ($kind:ident, $name:literal, $plural:literal) => {
        impl kube::Resource for $kind {
            type DynamicType = ();
            type Scope = k8s_openapi::ClusterResourceScope;

            fn kind((): &()) -> Cow<'_, str> {
                $name.into()
            }

            fn group((): &()) -> Cow<'_, str> {
                "iam.kubesphere.io".into()
            }

            fn version((): &()) -> Cow<'_, str> {
                "v1alpha2".into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

mod workspace;

pub use workspace::{
    Group, GroupBinding, GroupRef, WorkspaceRole, WorkspaceRoleBinding, group_binding_definition,
    group_definition, workspace_role_binding_definition, workspace_role_definition,
};

cluster_resource!(GlobalRole, "GlobalRole", "globalroles");
cluster_resource!(GlobalRoleBinding, "GlobalRoleBinding", "globalrolebindings");

impl GlobalRoleBinding {
    /// A binding of one user to one role, as the API writes it.
    #[must_use]
    pub fn for_user(name: &str, user: &str, role: &str) -> Self {
        Self {
            api_version: api_version(),
            kind: global_role_binding(),
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            subjects: Some(vec![Subject {
                api_group: Some("rbac.authorization.k8s.io".to_owned()),
                kind: "User".to_owned(),
                name: user.to_owned(),
                namespace: None,
            }]),
            role_ref: RoleRef {
                api_group: Some("iam.kubesphere.io".to_owned()),
                kind: "GlobalRole".to_owned(),
                name: role.to_owned(),
            },
        }
    }
}

fn definition(
    kind: &str,
    plural: &str,
    columns: serde_json::Value,
    fields: serde_json::Value,
    required: &[&str],
) -> CustomResourceDefinition {
    crate::definition::cluster_scoped(&crate::definition::Shape {
        group: "iam.kubesphere.io",
        version: "v1alpha2",
        category: "iam",
        kind,
        plural,
        columns,
        fields,
        required,
    })
}

/// The CustomResourceDefinition `users.iam.kubesphere.io`.
#[must_use]
pub fn user_definition() -> CustomResourceDefinition {
    definition(
        "User",
        "users",
        serde_json::json!([
            { "name": "Email", "type": "string", "jsonPath": ".spec.email" },
            { "name": "Status", "type": "string", "jsonPath": ".status.state" }
        ]),
        serde_json::json!({
            "spec": {
                "type": "object",
                "required": ["email"],
                "properties": {
                    "description": { "type": "string" },
                    "displayName": { "type": "string" },
                    "email": { "type": "string" },
                    "groups": { "type": "array", "items": { "type": "string" } },
                    "lang": { "type": "string" },
                    "password": { "type": "string", "minLength": 8, "maxLength": 64, "pattern": PASSWORD_PATTERN }
                }
            },
            "status": {
                "type": "object",
                "properties": {
                    "lastLoginTime": { "type": "string", "format": "date-time" },
                    "lastTransitionTime": { "type": "string", "format": "date-time" },
                    "reason": { "type": "string" },
                    "state": { "type": "string" }
                }
            }
        }),
        &["spec"],
    )
}

/// The schema of `rules` of a role.
fn rules() -> serde_json::Value {
    let strings = serde_json::json!({ "type": "array", "items": { "type": "string" } });
    serde_json::json!({
        "rules": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["verbs"],
                "properties": {
                    "apiGroups": strings,
                    "nonResourceURLs": strings,
                    "resourceNames": strings,
                    "resources": strings,
                    "verbs": strings
                }
            }
        }
    })
}

/// The schema of `roleRef` and `subjects` of a binding.
fn binding() -> serde_json::Value {
    let string = serde_json::json!({ "type": "string" });
    serde_json::json!({
        "roleRef": {
            "type": "object",
            "required": ["apiGroup", "kind", "name"],
            "properties": { "apiGroup": string, "kind": string, "name": string }
        },
        "subjects": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["kind", "name"],
                "properties": { "apiGroup": string, "kind": string, "name": string, "namespace": string }
            }
        }
    })
}

/// The CustomResourceDefinition `globalroles.iam.kubesphere.io`.
#[must_use]
pub fn global_role_definition() -> CustomResourceDefinition {
    definition(
        "GlobalRole",
        "globalroles",
        serde_json::json!([]),
        rules(),
        &[],
    )
}

/// The CustomResourceDefinition `globalrolebindings.iam.kubesphere.io`.
#[must_use]
pub fn global_role_binding_definition() -> CustomResourceDefinition {
    definition(
        "GlobalRoleBinding",
        "globalrolebindings",
        serde_json::json!([]),
        binding(),
        &["roleRef"],
    )
}
