//! `rbac.authorization.k8s.io`, the reviews of `authentication.k8s.io` and `authorization.k8s.io`.

use super::defaults;
use super::row::{Group, Row};
use super::rules;
use crate::kind::{Kind, NameRule};
use crate::table;

const AUTHENTICATION: Group = Group("authentication.k8s.io", "v1");
const AUTHORIZATION: Group = Group("authorization.k8s.io", "v1");
const RBAC: Group = Group("rbac.authorization.k8s.io", "v1");

/// The reviews.
pub(super) fn reviews() -> Vec<Kind> {
    [
        AUTHENTICATION
            .cluster("selfsubjectreviews", "SelfSubjectReview")
            .create_only(),
        AUTHENTICATION
            .cluster("tokenreviews", "TokenReview")
            .create_only(),
        AUTHORIZATION
            .namespaced("localsubjectaccessreviews", "LocalSubjectAccessReview")
            .create_only(),
        AUTHORIZATION
            .cluster("selfsubjectaccessreviews", "SelfSubjectAccessReview")
            .create_only(),
        AUTHORIZATION
            .cluster("selfsubjectrulesreviews", "SelfSubjectRulesReview")
            .create_only(),
        AUTHORIZATION
            .cluster("subjectaccessreviews", "SubjectAccessReview")
            .create_only(),
    ]
    .into_iter()
    .map(Row::build)
    .collect()
}

/// Roles and their bindings.
pub(super) fn roles() -> Vec<Kind> {
    [
        RBAC.cluster("clusterrolebindings", "ClusterRoleBinding")
            .validate(rules::cluster_role_binding)
            .print(table::system::ROLE_BINDING, table::system::role_binding)
            .defaults(defaults::role_binding)
            .names(NameRule::PathSegment),
        RBAC.cluster("clusterroles", "ClusterRole")
            .validate(rules::cluster_role)
            .defaults(defaults::role)
            .names(NameRule::PathSegment),
        RBAC.namespaced("rolebindings", "RoleBinding")
            .validate(rules::role_binding)
            .print(table::system::ROLE_BINDING, table::system::role_binding)
            .defaults(defaults::role_binding)
            .names(NameRule::PathSegment),
        RBAC.namespaced("roles", "Role")
            .validate(rules::role)
            .defaults(defaults::role)
            .names(NameRule::PathSegment),
    ]
    .into_iter()
    .map(Row::build)
    .collect()
}
