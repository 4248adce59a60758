//! `apps`, `batch`, `autoscaling` and `policy`.

use super::row::{Group, Row};
use crate::kind::Kind;

const APPS: Group = Group("apps", "v1");
const AUTOSCALING: Group = Group("autoscaling", "v2");
const BATCH: Group = Group("batch", "v1");
const POLICY: Group = Group("policy", "v1");

/// Group `apps`.
pub(super) fn apps() -> Vec<Kind> {
    [
        APPS.namespaced("controllerrevisions", "ControllerRevision"),
        APPS.namespaced("daemonsets", "DaemonSet")
            .short(&["ds"])
            .all()
            .status()
            .generation(),
        APPS.namespaced("deployments", "Deployment")
            .short(&["deploy"])
            .all()
            .status()
            .scale()
            .generation(),
        APPS.namespaced("replicasets", "ReplicaSet")
            .short(&["rs"])
            .all()
            .status()
            .scale()
            .generation()
            .select(&[("status.replicas", "0")]),
        APPS.namespaced("statefulsets", "StatefulSet")
            .short(&["sts"])
            .all()
            .status()
            .scale()
            .generation(),
    ]
    .into_iter()
    .map(Row::build)
    .collect()
}

/// Groups `autoscaling`, `batch` and `policy`.
pub(super) fn others() -> Vec<Kind> {
    [
        AUTOSCALING
            .namespaced("horizontalpodautoscalers", "HorizontalPodAutoscaler")
            .short(&["hpa"])
            .all()
            .status(),
        BATCH
            .namespaced("cronjobs", "CronJob")
            .short(&["cj"])
            .all()
            .status()
            .generation(),
        BATCH.namespaced("jobs", "Job").all().status().generation(),
        POLICY
            .namespaced("poddisruptionbudgets", "PodDisruptionBudget")
            .short(&["pdb"])
            .status()
            .generation(),
    ]
    .into_iter()
    .map(Row::build)
    .collect()
}
