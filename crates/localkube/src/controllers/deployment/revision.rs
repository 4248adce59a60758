//! Annotations that carry a Deployment's history: revisions and the sizes that were asked for.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

pub const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";

const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// An annotation that holds a number.
pub fn number(annotations: Option<&BTreeMap<String, String>>, key: &str) -> Option<i64> {
    annotations?.get(key)?.parse().ok()
}

/// The revision of a ReplicaSet, 0 if it has none.
pub fn of(set: &ReplicaSet) -> i64 {
    number(set.metadata.annotations.as_ref(), REVISION).unwrap_or(0)
}

/// The annotations that the newest ReplicaSet of a Deployment has, given those it has now.
pub fn annotate(
    deployment: &Deployment,
    current: Option<&BTreeMap<String, String>>,
    revision: i64,
    replicas: i32,
    max: i32,
) -> BTreeMap<String, String> {
    let mut annotations = current.cloned().unwrap_or_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old = number(current, REVISION);
    if old.is_none_or(|old| old < revision) {
        if let Some(old) = old {
            let history = annotations.entry(HISTORY.to_owned()).or_default();
            if !history.is_empty() {
                history.push(',');
            }
            history.push_str(&old.to_string());
        }
        annotations.insert(REVISION.to_owned(), revision.to_string());
    }
    annotations.insert(DESIRED.to_owned(), replicas.to_string());
    annotations.insert(MAX.to_owned(), max.to_string());
    annotations
}
