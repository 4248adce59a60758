//! What an object is before it has anything: the structs that Go writes even when they are empty.
//!
//! Nobody owns these by creating the object, only what is in them.

use serde_json::{Value, json};

/// The empty object of a built-in kind; custom kinds have no structs.
pub(super) fn empty(kind: &str) -> Value {
    let template = || json!({"metadata": {}, "spec": {"containers": null}});
    match kind {
        "Deployment" => json!({"spec": {"strategy": {}, "template": template()}, "status": {}}),
        "StatefulSet" | "DaemonSet" => {
            json!({"spec": {"updateStrategy": {}, "template": template()}, "status": {}})
        }
        "ReplicaSet" | "Job" => json!({"spec": {"template": template()}, "status": {}}),
        "CronJob" => {
            json!({"spec": {"jobTemplate": {"metadata": {}, "spec": {"template": template()}}}, "status": {}})
        }
        "PodTemplate" => json!({"template": template()}),
        "Pod" => json!({"spec": {"containers": null}, "status": {}}),
        "Service" | "Ingress" => json!({"spec": {}, "status": {"loadBalancer": {}}}),
        "HorizontalPodAutoscaler" => json!({"spec": {"scaleTargetRef": {}}, "status": {}}),
        "CustomResourceDefinition" => {
            json!({"spec": {"names": {}}, "status": {"acceptedNames": {}}})
        }
        "PersistentVolumeClaim" => json!({"spec": {"resources": {}}, "status": {}}),
        "VolumeAttachment" => json!({"spec": {"source": {}}, "status": {}}),
        "Node" => {
            json!({"spec": {}, "status": {"daemonEndpoints": {"kubeletEndpoint": {}}, "nodeInfo": {}}})
        }
        "Event" => json!({"source": {}}),
        "CSINode" => json!({"spec": {"drivers": null}}),
        "Namespace"
        | "PersistentVolume"
        | "ReplicationController"
        | "ResourceQuota"
        | "PodDisruptionBudget" => json!({"spec": {}, "status": {}}),
        "Lease" | "LimitRange" | "IngressClass" | "NetworkPolicy" | "CSIDriver" => {
            json!({"spec": {}})
        }
        _ => json!({}),
    }
}
