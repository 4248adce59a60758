//! What several controllers need to know about Pods, and how they make them.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};

use super::{Context, Error, unless_gone};

/// Neither finished nor on its way out.
pub fn is_active(pod: &Pod) -> bool {
    !matches!(phase(pod), "Succeeded" | "Failed") && pod.metadata.deletion_timestamp.is_none()
}

/// `status.phase`, empty if there is none.
pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// Whether the Ready condition holds.
pub fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

fn ready_since(pod: &Pod) -> Option<jiff::Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|c| c.type_ == "Ready" && c.status == "True")?;
    Some(
        ready
            .last_transition_time
            .as_ref()
            .map_or(jiff::Timestamp::UNIX_EPOCH, |time| time.0),
    )
}

/// How long until a Pod counts as available: `Some(0)` if it is, `None` if it is not ready.
pub fn available_in(pod: &Pod, min_ready_seconds: i32, now: jiff::Timestamp) -> Option<Duration> {
    let since = ready_since(pod)?;
    let wanted = i64::from(min_ready_seconds) * 1000;
    let passed = now.as_millisecond() - since.as_millisecond();
    Some(Duration::from_millis(
        u64::try_from(wanted - passed).unwrap_or(0),
    ))
}

/// Order in which surplus Pods are deleted: first those whose loss costs least.
/// The rule is that of `k8s.io/kubernetes/pkg/controller.ActivePodsWithRanks`.
pub fn deletion_order(pod: &Pod) -> impl Ord + use<> {
    let spec = pod.spec.as_ref();
    let assigned = spec.and_then(|spec| spec.node_name.as_ref()).is_some();
    let running = match phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost: i64 = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"))
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0);
    let restarts: i64 = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .map(|status| i64::from(status.restart_count))
        .max()
        .unwrap_or(0);
    let ready = ready_since(pod);
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    // Newer before older, hence the reversed times.
    (
        assigned,
        running,
        ready.is_some(),
        cost,
        std::cmp::Reverse(ready),
        std::cmp::Reverse(restarts),
        std::cmp::Reverse(created),
    )
}

/// A Pod from a template; its name is made by the API from `prefix`, unless one is given.
pub fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    prefix: &str,
    owner: OwnerReference,
) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Makes a Pod.
pub async fn create(context: &Context, namespace: &str, pod: &Pod) -> Result<Pod, Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    api.create(&PostParams::default(), pod)
        .await
        .map_err(Error::doing("create a pod"))
}

/// Deletes exactly this Pod, not another that took its name. False if it had gone already.
pub async fn delete(context: &Context, pod: &Pod) -> Result<bool, Error> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: pod.metadata.uid.clone(),
        resource_version: None,
    });
    Ok(unless_gone(api.delete(name, &params).await, "delete a pod")?.is_some())
}
