//! `apps`, `batch`, `autoscaling` and `policy`.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{
    AGE, NAME, NONE, UNKNOWN, UNSET, age, at, boolean, column, condition_is_true, containers,
    duration, instant, int_or_string, integer, is_deleted, labels, list_at, name, number_at,
    selector, since, text_at, text_or, wide,
};
use crate::builtin::fields::text;
use crate::kind::Column;

pub(crate) const DEPLOYMENT: &[Column] = &[
    NAME,
    column("Ready"),
    column("Up-to-date"),
    column("Available"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

pub(crate) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(at(object, "/spec/template/spec"));
    vec![
        name(object),
        ready_of_desired(object),
        number_at(object, "/status/updatedReplicas").into(),
        number_at(object, "/status/availableReplicas").into(),
        age(object, now),
        names,
        images,
        selector(at(object, "/spec/selector")).into(),
    ]
}

fn ready_of_desired(object: &Value) -> Value {
    format!(
        "{}/{}",
        number_at(object, "/status/readyReplicas"),
        number_at(object, "/spec/replicas")
    )
    .into()
}

pub(crate) const REPLICA_SET: &[Column] = super::core::REPLICATION_CONTROLLER;

pub(crate) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    replicas(object, selector(at(object, "/spec/selector")), now)
}

/// ReplicationControllers have a plain map for a selector.
pub(crate) fn replication_controller(object: &Value, now: Timestamp) -> Vec<Value> {
    replicas(object, labels(at(object, "/spec/selector")), now)
}

fn replicas(object: &Value, selector: String, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(at(object, "/spec/template/spec"));
    vec![
        name(object),
        number_at(object, "/spec/replicas").into(),
        number_at(object, "/status/replicas").into(),
        number_at(object, "/status/readyReplicas").into(),
        age(object, now),
        names,
        images,
        selector.into(),
    ]
}

pub(crate) const STATEFUL_SET: &[Column] = &[
    NAME,
    column("Ready"),
    AGE,
    wide("Containers"),
    wide("Images"),
];

pub(crate) fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(at(object, "/spec/template/spec"));
    vec![
        name(object),
        ready_of_desired(object),
        age(object, now),
        names,
        images,
    ]
}

pub(crate) const DAEMON_SET: &[Column] = &[
    NAME,
    integer("Desired"),
    integer("Current"),
    integer("Ready"),
    integer("Up-to-date"),
    integer("Available"),
    column("Node Selector"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

pub(crate) fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(at(object, "/spec/template/spec"));
    let mut cells = vec![name(object)];
    for field in [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ] {
        cells.push(number_at(object, &format!("/status/{field}")).into());
    }
    cells.extend([
        labels(at(object, "/spec/template/spec/nodeSelector")).into(),
        age(object, now),
        names,
        images,
        selector(at(object, "/spec/selector")).into(),
    ]);
    cells
}

pub(crate) const CONTROLLER_REVISION: &[Column] =
    &[NAME, column("Controller"), column("Revision"), AGE];

pub(crate) fn controller_revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let owner = list_at(object, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner.get("controller") == Some(&Value::Bool(true)));
    let controller = match owner {
        Some(owner) => {
            let kind = text(owner, "kind").to_lowercase();
            let name = text(owner, "name");
            match text(owner, "apiVersion").split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{name}"),
                None => format!("{kind}/{name}"),
            }
        }
        None => NONE.to_owned(),
    };
    vec![
        name(object),
        controller.into(),
        number_at(object, "/revision").into(),
        age(object, now),
    ]
}

pub(crate) const JOB: &[Column] = &[
    NAME,
    column("Status"),
    column("Completions"),
    column("Duration"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

pub(crate) fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = if condition_is_true(object, "Complete") {
        "Complete"
    } else if condition_is_true(object, "Failed") {
        "Failed"
    } else if is_deleted(object) {
        "Terminating"
    } else {
        ["Suspended", "FailureTarget", "SuccessCriteriaMet"]
            .into_iter()
            .find(|condition| condition_is_true(object, condition))
            .unwrap_or("Running")
    };
    let succeeded = number_at(object, "/status/succeeded");
    let parallelism = number_at(object, "/spec/parallelism");
    let completions = match at(object, "/spec/completions").as_i64() {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let started = instant(at(object, "/status/startTime"));
    let ended = instant(at(object, "/status/completionTime")).unwrap_or(now);
    let took = started.map_or(String::new(), |start| duration(ended.duration_since(start)));
    let (names, images) = containers(at(object, "/spec/template/spec"));
    vec![
        name(object),
        status.into(),
        completions.into(),
        took.into(),
        age(object, now),
        names,
        images,
        selector(at(object, "/spec/selector")).into(),
    ]
}

pub(crate) const CRON_JOB: &[Column] = &[
    NAME,
    column("Schedule"),
    column("Timezone"),
    boolean("Suspend"),
    integer("Active"),
    column("Last Schedule"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

pub(crate) fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(at(object, "/spec/jobTemplate/spec/template/spec"));
    let last = match at(object, "/status/lastScheduleTime") {
        Value::Null => NONE.to_owned(),
        time => since(time, now),
    };
    let suspended = match at(object, "/spec/suspend") {
        Value::Bool(true) => "True",
        Value::Bool(false) => "False",
        _ => UNSET,
    };
    vec![
        name(object),
        text_at(object, "/spec/schedule").into(),
        text_or(object, "/spec/timeZone", NONE).into(),
        suspended.into(),
        list_at(object, "/status/active").len().into(),
        last.into(),
        age(object, now),
        names,
        images,
        selector(at(object, "/spec/jobTemplate/spec/selector")).into(),
    ]
}

pub(crate) const AUTOSCALER: &[Column] = &[
    NAME,
    column("Reference"),
    column("Targets"),
    column("MinPods"),
    column("MaxPods"),
    column("Replicas"),
    AGE,
];

pub(crate) fn autoscaler(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        format!(
            "{}/{}",
            text_at(object, "/spec/scaleTargetRef/kind"),
            text_at(object, "/spec/scaleTargetRef/name")
        )
        .into(),
        targets(object).into(),
        int_or_string(at(object, "/spec/minReplicas"), UNSET).into(),
        number_at(object, "/spec/maxReplicas").into(),
        number_at(object, "/status/currentReplicas").into(),
        age(object, now),
    ]
}

fn targets(object: &Value) -> String {
    let metrics = list_at(object, "/spec/metrics");
    if metrics.is_empty() {
        return NONE.to_owned();
    }
    let current = list_at(object, "/status/currentMetrics");
    let parts: Vec<String> = metrics
        .iter()
        .enumerate()
        .map(|(index, metric)| target(metric, current.get(index).unwrap_or(&Value::Null)))
        .collect();
    const MOST: usize = 2;
    let shown = parts.get(..MOST).unwrap_or(&parts).join(", ");
    match parts.len().checked_sub(MOST) {
        Some(more) if more > 0 => format!("{shown} + {more} more..."),
        _ => shown,
    }
}

/// One metric as `current/target`.
fn target(metric: &Value, current: &Value) -> String {
    let (field, prefix) = match text(metric, "type") {
        "Resource" => (
            "resource",
            format!("{}: ", text_at(metric, "/resource/name")),
        ),
        "ContainerResource" => (
            "containerResource",
            format!("{}: ", text_at(metric, "/containerResource/name")),
        ),
        "Pods" => ("pods", String::new()),
        "Object" => ("object", String::new()),
        "External" => ("external", String::new()),
        _ => return "<unknown type>".to_owned(),
    };
    let wanted = at(metric, &format!("/{field}/target"));
    let seen = at(current, &format!("/{field}/current"));
    let average = at(wanted, "/averageValue");
    if !average.is_null() {
        let seen = int_or_string(at(seen, "/averageValue"), UNKNOWN);
        let suffix = match field {
            "object" | "external" => " (avg)",
            _ => "",
        };
        return format!("{prefix}{seen}/{}{suffix}", int_or_string(average, UNKNOWN));
    }
    if matches!(field, "object" | "external") {
        let seen = int_or_string(at(seen, "/value"), UNKNOWN);
        return format!("{seen}/{}", int_or_string(at(wanted, "/value"), UNKNOWN));
    }
    let percent = |value: &Value, otherwise: &str| match value.as_i64() {
        Some(number) => format!("{number}%"),
        None => otherwise.to_owned(),
    };
    format!(
        "{prefix}{}/{}",
        percent(at(seen, "/averageUtilization"), UNKNOWN),
        percent(at(wanted, "/averageUtilization"), "<auto>")
    )
}

pub(crate) const DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    column("Min Available"),
    column("Max Unavailable"),
    integer("Allowed Disruptions"),
    AGE,
];

pub(crate) fn disruption_budget(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        int_or_string(at(object, "/spec/minAvailable"), "N/A").into(),
        int_or_string(at(object, "/spec/maxUnavailable"), "N/A").into(),
        number_at(object, "/status/disruptionsAllowed").into(),
        age(object, now),
    ]
}
