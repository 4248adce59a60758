//! Which Rust type describes which built-in kind.

use k8s_openapi::api::{
    apps::v1 as apps, authentication::v1 as authentication, authorization::v1 as authorization,
    autoscaling::v2 as autoscaling, batch::v1 as batch, coordination::v1 as coordination,
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking, node::v1 as node,
    policy::v1 as policy, rbac::v1 as rbac, scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::{JsonSchema, Schema, SchemaGenerator};

/// Adds the schema of a type and all it refers to, and gives the reference.
type Describe = fn(&mut SchemaGenerator) -> Schema;

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// Adds ObjectMeta, which schemas of custom resources refer to.
pub(super) fn metadata(generator: &mut SchemaGenerator) -> Schema {
    of::<ObjectMeta>(generator)
}

/// The describer of a built-in kind.
pub(super) fn describe(group: &str, kind: &str) -> Option<Describe> {
    let describe: Describe = match (group, kind) {
        ("", "ConfigMap") => of::<core::ConfigMap>,
        ("", "Endpoints") => of::<core::Endpoints>,
        ("", "Event") => of::<core::Event>,
        ("", "LimitRange") => of::<core::LimitRange>,
        ("", "Namespace") => of::<core::Namespace>,
        ("", "Node") => of::<core::Node>,
        ("", "PersistentVolumeClaim") => of::<core::PersistentVolumeClaim>,
        ("", "PersistentVolume") => of::<core::PersistentVolume>,
        ("", "Pod") => of::<core::Pod>,
        ("", "PodTemplate") => of::<core::PodTemplate>,
        ("", "ReplicationController") => of::<core::ReplicationController>,
        ("", "ResourceQuota") => of::<core::ResourceQuota>,
        ("", "Secret") => of::<core::Secret>,
        ("", "ServiceAccount") => of::<core::ServiceAccount>,
        ("", "Service") => of::<core::Service>,
        ("apps", "ControllerRevision") => of::<apps::ControllerRevision>,
        ("apps", "DaemonSet") => of::<apps::DaemonSet>,
        ("apps", "Deployment") => of::<apps::Deployment>,
        ("apps", "ReplicaSet") => of::<apps::ReplicaSet>,
        ("apps", "StatefulSet") => of::<apps::StatefulSet>,
        ("autoscaling", "HorizontalPodAutoscaler") => of::<autoscaling::HorizontalPodAutoscaler>,
        ("batch", "CronJob") => of::<batch::CronJob>,
        ("batch", "Job") => of::<batch::Job>,
        ("policy", "PodDisruptionBudget") => of::<policy::PodDisruptionBudget>,
        ("networking.k8s.io", "IngressClass") => of::<networking::IngressClass>,
        ("networking.k8s.io", "Ingress") => of::<networking::Ingress>,
        ("networking.k8s.io", "NetworkPolicy") => of::<networking::NetworkPolicy>,
        ("discovery.k8s.io", "EndpointSlice") => of::<discovery::EndpointSlice>,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => of::<rbac::ClusterRoleBinding>,
        ("rbac.authorization.k8s.io", "ClusterRole") => of::<rbac::ClusterRole>,
        ("rbac.authorization.k8s.io", "RoleBinding") => of::<rbac::RoleBinding>,
        ("rbac.authorization.k8s.io", "Role") => of::<rbac::Role>,
        ("authentication.k8s.io", "SelfSubjectReview") => of::<authentication::SelfSubjectReview>,
        ("authentication.k8s.io", "TokenReview") => of::<authentication::TokenReview>,
        ("authorization.k8s.io", "LocalSubjectAccessReview") => {
            of::<authorization::LocalSubjectAccessReview>
        }
        ("authorization.k8s.io", "SelfSubjectAccessReview") => {
            of::<authorization::SelfSubjectAccessReview>
        }
        ("authorization.k8s.io", "SelfSubjectRulesReview") => {
            of::<authorization::SelfSubjectRulesReview>
        }
        ("authorization.k8s.io", "SubjectAccessReview") => of::<authorization::SubjectAccessReview>,
        ("storage.k8s.io", "CSIDriver") => of::<storage::CSIDriver>,
        ("storage.k8s.io", "CSINode") => of::<storage::CSINode>,
        ("storage.k8s.io", "StorageClass") => of::<storage::StorageClass>,
        ("storage.k8s.io", "VolumeAttachment") => of::<storage::VolumeAttachment>,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            of::<apiextensions::CustomResourceDefinition>
        }
        ("scheduling.k8s.io", "PriorityClass") => of::<scheduling::PriorityClass>,
        ("coordination.k8s.io", "Lease") => of::<coordination::Lease>,
        ("node.k8s.io", "RuntimeClass") => of::<node::RuntimeClass>,
        _ => return None,
    };
    Some(describe)
}
