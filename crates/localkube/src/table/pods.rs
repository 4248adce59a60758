//! Pods: the one table with a state machine behind its Status column.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{
    AGE, NAME, NONE, age, at, column, condition_is_true, duration, instant, is_deleted, list_at,
    name, text_at, text_or, wide,
};
use crate::builtin::fields::text;
use crate::kind::Column;

pub(crate) const COLUMNS: &[Column] = &[
    NAME,
    column("Ready"),
    column("Status"),
    column("Restarts"),
    AGE,
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

pub(crate) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarise(pod);
    let restarts = match summary.last_restart {
        Some(time) if summary.restarts != 0 => {
            let ago = duration(now.duration_since(time));
            format!("{} ({ago} ago)", summary.restarts)
        }
        _ => summary.restarts.to_string(),
    };
    let address = text_at(
        list_at(pod, "/status/podIPs")
            .first()
            .unwrap_or(&Value::Null),
        "/ip",
    );
    let address = match address {
        "" => text_or(pod, "/status/podIP", NONE),
        address => address,
    };
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now),
        address.into(),
        text_or(pod, "/spec/nodeName", NONE).into(),
        text_or(pod, "/status/nominatedNodeName", NONE).into(),
        readiness_gates(pod).into(),
    ]
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list_at(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let open = gates
        .iter()
        .filter(|gate| condition_is_true(pod, text(gate, "conditionType")))
        .count();
    format!("{open}/{}", gates.len())
}

struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

fn summarise(pod: &Value) -> Summary {
    let init_containers = list_at(pod, "/spec/initContainers");
    let is_sidecar = |name: &str| {
        init_containers.iter().any(|container| {
            text(container, "name") == name && text(container, "restartPolicy") == "Always"
        })
    };
    let sidecars = init_containers
        .iter()
        .filter(|container| text(container, "restartPolicy") == "Always")
        .count();
    let mut summary = Summary {
        reason: text_or(pod, "/status/reason", text_at(pod, "/status/phase")).to_owned(),
        ready: 0,
        total: list_at(pod, "/spec/containers").len() + sidecars,
        restarts: 0,
        last_restart: None,
    };
    let gated = list_at(pod, "/status/conditions").iter().any(|condition| {
        text(condition, "type") == "PodScheduled" && text(condition, "reason") == "SchedulingGated"
    });
    if gated {
        summary.reason = "SchedulingGated".to_owned();
    }

    let (mut sidecar_restarts, mut sidecar_last) = (0, None);
    let mut initializing = false;
    for (index, status) in list_at(pod, "/status/initContainerStatuses")
        .iter()
        .enumerate()
    {
        count_restart(status, &mut summary.restarts, &mut summary.last_restart);
        let sidecar = is_sidecar(text(status, "name"));
        if sidecar {
            count_restart(status, &mut sidecar_restarts, &mut sidecar_last);
        }
        let terminated = at(status, "/state/terminated");
        if !terminated.is_null() && exit_code(terminated) == 0 {
            continue;
        }
        if sidecar && status.get("started") == Some(&Value::Bool(true)) {
            summary.ready += usize::from(is_ready(status));
            continue;
        }
        let waiting = text_at(status, "/state/waiting/reason");
        summary.reason = if !terminated.is_null() {
            format!("Init:{}", termination(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", init_containers.len())
        };
        initializing = true;
        break;
    }

    if !initializing || condition_is_true(pod, "Initialized") {
        summary.restarts = sidecar_restarts;
        summary.last_restart = sidecar_last;
        let mut running = false;
        for status in list_at(pod, "/status/containerStatuses").iter().rev() {
            count_restart(status, &mut summary.restarts, &mut summary.last_restart);
            let waiting = text_at(status, "/state/waiting/reason");
            let terminated = at(status, "/state/terminated");
            if !waiting.is_empty() {
                summary.reason = waiting.to_owned();
            } else if !terminated.is_null() {
                summary.reason = termination(terminated);
            } else if is_ready(status) && !at(status, "/state/running").is_null() {
                running = true;
                summary.ready += 1;
            }
        }
        if summary.reason == "Completed" && running {
            let reason = if condition_is_true(pod, "Ready") {
                "Running"
            } else {
                "NotReady"
            };
            summary.reason = reason.to_owned();
        }
    }

    let over = matches!(text_at(pod, "/status/phase"), "Succeeded" | "Failed");
    if is_deleted(pod) && text_at(pod, "/status/reason") == "NodeLost" {
        summary.reason = "Unknown".to_owned();
    } else if is_deleted(pod) && !over {
        summary.reason = "Terminating".to_owned();
    }
    summary
}

fn count_restart(status: &Value, restarts: &mut i64, last: &mut Option<Timestamp>) {
    *restarts += at(status, "/restartCount").as_i64().unwrap_or(0);
    let finished = instant(at(status, "/lastState/terminated/finishedAt"));
    *last = (*last).max(finished);
}

fn is_ready(status: &Value) -> bool {
    status.get("ready") == Some(&Value::Bool(true))
}

fn exit_code(terminated: &Value) -> i64 {
    at(terminated, "/exitCode").as_i64().unwrap_or(0)
}

fn termination(terminated: &Value) -> String {
    match (
        text(terminated, "reason"),
        at(terminated, "/signal").as_i64(),
    ) {
        ("", Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        ("", _) => format!("ExitCode:{}", exit_code(terminated)),
        (reason, _) => reason.to_owned(),
    }
}

pub(crate) const TEMPLATE_COLUMNS: &[Column] = &[
    NAME,
    column("Containers"),
    column("Images"),
    column("Pod Labels"),
];

/// PodTemplates.
pub(crate) fn template_cells(object: &Value, _: Timestamp) -> Vec<Value> {
    let (names, images) = super::cells::containers(at(object, "/template/spec"));
    vec![
        name(object),
        names,
        images,
        json!(super::cells::labels(at(
            object,
            "/template/metadata/labels"
        ))),
    ]
}
