//! The status of a Deployment: counts and conditions, in the words that kubectl waits for.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::Bounds;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";

/// Builds the next status out of the last one.
pub struct Builder<'a> {
    pub deployment: &'a Deployment,
    pub bounds: Bounds,
    pub new: Option<&'a ReplicaSet>,
    pub old: &'a [ReplicaSet],
    /// Pods of all ReplicaSets that are on their way out.
    pub terminating: i32,
    pub now: jiff::Timestamp,
}

fn observed(set: &ReplicaSet) -> ReplicaSetStatus {
    set.status.clone().unwrap_or_default()
}

impl Builder<'_> {
    fn sets(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(self.new)
    }

    fn last(&self) -> DeploymentStatus {
        self.deployment.status.clone().unwrap_or_default()
    }

    /// Counts and the Available condition.
    pub fn counted(&self) -> DeploymentStatus {
        let sum = |of: fn(&ReplicaSetStatus) -> i32| -> i32 {
            self.sets().map(|set| of(&observed(set))).sum()
        };
        let available = sum(|s| s.available_replicas.unwrap_or(0));
        let asked: i32 = self
            .sets()
            .map(|set| {
                set.spec
                    .as_ref()
                    .and_then(|spec| spec.replicas)
                    .unwrap_or(0)
            })
            .sum();
        let nonzero = |number: i32| Some(number).filter(|n| *n != 0);
        let last = self.last();
        let mut status = DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: nonzero(sum(|s| s.replicas)),
            updated_replicas: nonzero(self.new.map_or(0, |set| observed(set).replicas)),
            ready_replicas: nonzero(sum(|s| s.ready_replicas.unwrap_or(0))),
            available_replicas: nonzero(available),
            unavailable_replicas: nonzero((asked - available).max(0)),
            terminating_replicas: Some(self.terminating),
            collision_count: last.collision_count,
            conditions: last.conditions,
        };
        let enough = available >= self.bounds.replicas - self.bounds.unavailable;
        let (value, reason, message) = if enough {
            (
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.",
            )
        } else {
            (
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
            )
        };
        self.set(&mut status, AVAILABLE, value, reason, message.to_owned());
        status
    }

    /// Counts, conditions, and when to look again because the deadline for progress passes.
    pub fn rolled(
        &self,
        failure: Option<(String, String)>,
    ) -> (DeploymentStatus, Option<Duration>) {
        let mut status = self.counted();
        let last = self.last();
        let spec = self.deployment.spec.as_ref();
        // i32::MAX is how "no deadline" is written.
        let deadline = spec
            .and_then(|spec| spec.progress_deadline_seconds)
            .filter(|seconds| *seconds != i32::MAX);
        let current = condition(&last, PROGRESSING).cloned();
        let name = match self.new {
            Some(set) => format!(
                "ReplicaSet {:?}",
                set.metadata.name.as_deref().unwrap_or_default()
            ),
            None => format!(
                "Deployment {:?}",
                self.deployment.metadata.name.as_deref().unwrap_or_default()
            ),
        };
        let mut pause = None;
        let reason = |condition: &Option<DeploymentCondition>| {
            condition
                .as_ref()
                .and_then(|c| c.reason.clone())
                .unwrap_or_default()
        };
        let settled = status.replicas == status.updated_replicas
            && reason(&current) == "NewReplicaSetAvailable";
        match deadline {
            None => remove(&mut status, PROGRESSING),
            Some(_) if settled => {}
            Some(seconds) => {
                if self.is_complete(&status) {
                    let message = format!("{name} has successfully progressed.");
                    self.set(
                        &mut status,
                        PROGRESSING,
                        "True",
                        "NewReplicaSetAvailable",
                        message,
                    );
                } else if has_progressed(&last, &status) {
                    let since = current
                        .as_ref()
                        .filter(|c| c.status == "True")
                        .and_then(|c| c.last_transition_time.clone());
                    remove(&mut status, PROGRESSING);
                    let message = format!("{name} is progressing.");
                    self.set(
                        &mut status,
                        PROGRESSING,
                        "True",
                        "ReplicaSetUpdated",
                        message,
                    );
                    if let Some(since) = since
                        && let Some(condition) = status
                            .conditions
                            .iter_mut()
                            .flatten()
                            .find(|c| c.type_ == PROGRESSING)
                    {
                        condition.last_transition_time = Some(since);
                    }
                    pause = Some(Duration::from_secs(seconds.try_into().unwrap_or(0)));
                } else if let Some(condition) = &current
                    && !matches!(
                        reason(&current).as_str(),
                        "ProgressDeadlineExceeded" | "DeploymentPaused"
                    )
                {
                    let from = condition
                        .last_update_time
                        .as_ref()
                        .map_or(self.now, |t| t.0);
                    let passed = self.now.as_millisecond() - from.as_millisecond();
                    let left = i64::from(seconds) * 1000 - passed;
                    if left <= 0 {
                        let message = format!("{name} has timed out progressing.");
                        self.set(
                            &mut status,
                            PROGRESSING,
                            "False",
                            "ProgressDeadlineExceeded",
                            message,
                        );
                    } else {
                        let left = u64::try_from(left).unwrap_or(0) + 100;
                        pause = Some(Duration::from_millis(left));
                    }
                }
            }
        }
        match failure {
            Some((reason, message)) => {
                self.set(&mut status, FAILURE, "True", &reason, message);
            }
            None => remove(&mut status, FAILURE),
        }
        (status, pause)
    }

    /// Whether the rollout is over, with all old Pods gone.
    pub fn is_complete(&self, status: &DeploymentStatus) -> bool {
        let wanted = Some(self.bounds.replicas).filter(|n| *n != 0);
        status.updated_replicas == wanted
            && status.replicas == wanted
            && status.available_replicas == wanted
            && status.observed_generation >= self.deployment.metadata.generation
    }

    /// Notes in a status what became of the Progressing condition, e.g. that a ReplicaSet was made.
    pub fn progressing(
        &self,
        status: &mut DeploymentStatus,
        value: &str,
        reason: &str,
        message: String,
    ) {
        self.set(status, PROGRESSING, value, reason, message);
    }

    fn set(
        &self,
        status: &mut DeploymentStatus,
        kind: &str,
        value: &str,
        reason: &str,
        message: String,
    ) {
        let current = condition(status, kind);
        if current.is_some_and(|c| c.status == value && c.reason.as_deref() == Some(reason)) {
            return;
        }
        let since = current
            .filter(|c| c.status == value)
            .and_then(|c| c.last_transition_time.clone());
        let condition = DeploymentCondition {
            type_: kind.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_update_time: Some(Time(self.now)),
            last_transition_time: since.or(Some(Time(self.now))),
        };
        remove(status, kind);
        status.conditions.get_or_insert_default().push(condition);
    }
}

/// A condition of a status.
pub fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let get = |value: Option<i32>| value.unwrap_or(0);
    let stale = |status: &DeploymentStatus| get(status.replicas) - get(status.updated_replicas);
    get(new.updated_replicas) > get(old.updated_replicas)
        || stale(new) < stale(old)
        || get(new.ready_replicas) > get(old.ready_replicas)
        || get(new.available_replicas) > get(old.available_replicas)
}
