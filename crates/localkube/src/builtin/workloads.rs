//! `apps`, `batch`, `autoscaling` and `policy`.

use super::row::{Group, Row};
use super::workload_defaults;
use super::workload_rules;
use crate::kind::Kind;
use crate::table;

const APPS: Group = Group("apps", "v1");
const AUTOSCALING: Group = Group("autoscaling", "v2");
const BATCH: Group = Group("batch", "v1");
const POLICY: Group = Group("policy", "v1");

/// Group `apps`.
pub(super) fn apps() -> Vec<Kind> {
    [
        APPS.namespaced("controllerrevisions", "ControllerRevision")
            .validate(workload_rules::controller_revision)
            .print(
                table::workloads::CONTROLLER_REVISION,
                table::workloads::controller_revision,
            ),
        APPS.namespaced("daemonsets", "DaemonSet")
            .validate(workload_rules::daemon_set)
            .print(table::workloads::DAEMON_SET, table::workloads::daemon_set)
            .defaults(workload_defaults::daemon_set)
            .created(workload_defaults::daemon_set_created)
            .updated(workload_defaults::daemon_set_updated)
            .short(&["ds"])
            .all()
            .status()
            .generation(),
        APPS.namespaced("deployments", "Deployment")
            .validate(workload_rules::deployment)
            .print(table::workloads::DEPLOYMENT, table::workloads::deployment)
            .defaults(workload_defaults::deployment)
            .created(workload_defaults::deployment_created)
            .short(&["deploy"])
            .all()
            .status()
            .scale()
            .generation(),
        APPS.namespaced("replicasets", "ReplicaSet")
            .validate(workload_rules::replica_set)
            .print(table::workloads::REPLICA_SET, table::workloads::replica_set)
            .defaults(workload_defaults::replica_set)
            .created(workload_defaults::replicas_created)
            .short(&["rs"])
            .all()
            .status()
            .scale()
            .generation()
            .select(&[("status.replicas", "0")]),
        APPS.namespaced("statefulsets", "StatefulSet")
            .validate(workload_rules::stateful_set)
            .print(
                table::workloads::STATEFUL_SET,
                table::workloads::stateful_set,
            )
            .defaults(workload_defaults::stateful_set)
            .created(workload_defaults::stateful_set_created)
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
            .validate(workload_rules::autoscaler)
            .print(table::workloads::AUTOSCALER, table::workloads::autoscaler)
            .defaults(workload_defaults::autoscaler)
            .created(workload_defaults::autoscaler_created)
            .short(&["hpa"])
            .all()
            .status(),
        BATCH
            .namespaced("cronjobs", "CronJob")
            .validate(workload_rules::cron_job)
            .print(table::workloads::CRON_JOB, table::workloads::cron_job)
            .defaults(workload_defaults::cron_job)
            .created(workload_defaults::deployment_created)
            .short(&["cj"])
            .all()
            .status()
            .generation(),
        BATCH
            .namespaced("jobs", "Job")
            .validate(workload_rules::job)
            .print(table::workloads::JOB, table::workloads::job)
            .defaults(workload_defaults::job)
            .created(workload_defaults::job_created)
            .all()
            .status()
            .generation(),
        POLICY
            .namespaced("poddisruptionbudgets", "PodDisruptionBudget")
            .validate(workload_rules::disruption_budget)
            .print(
                table::workloads::DISRUPTION_BUDGET,
                table::workloads::disruption_budget,
            )
            .defaults(workload_defaults::disruption_budget)
            .created(workload_defaults::disruption_budget_created)
            .short(&["pdb"])
            .status()
            .generation(),
    ]
    .into_iter()
    .map(Row::build)
    .collect()
}
