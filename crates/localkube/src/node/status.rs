//! What a Pod's status says, computed from the state of its containers. No IO.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Waiting {
        reason: &'static str,
        message: String,
    },
    Running {
        since: jiff::Timestamp,
    },
    Terminated(Exit),
}

/// How a run of a container ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    pub code: i32,
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `StartError`, …
    pub reason: &'static str,
    pub message: Option<String>,
    pub started: jiff::Timestamp,
    pub finished: jiff::Timestamp,
    /// `localkube://…`.
    pub id: String,
}

/// A container as the node sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub name: String,
    pub image: String,
    pub state: State,
    pub last: Option<Exit>,
    pub restarts: i32,
    pub ready: bool,
    pub started: bool,
    /// Of the current or last run; empty before the first.
    pub id: String,
}

impl View {
    /// A container that was not started yet.
    pub fn new(name: &str, image: &str) -> View {
        View {
            name: name.to_owned(),
            image: image.to_owned(),
            state: State::Waiting {
                reason: "ContainerCreating",
                message: String::new(),
            },
            last: None,
            restarts: 0,
            ready: false,
            started: false,
            id: String::new(),
        }
    }
}

/// Times in statuses have whole seconds.
pub fn seconds(now: jiff::Timestamp) -> Time {
    Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))
}

fn terminated(exit: &Exit) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: exit.code,
            // The runtime reports a death by signal as code 128+n and names no signal.
            signal: None,
            reason: Some(exit.reason.to_owned()),
            message: exit.message.clone(),
            started_at: Some(seconds(exit.started)),
            finished_at: Some(seconds(exit.finished)),
            container_id: Some(exit.id.clone()),
        }),
        ..ContainerState::default()
    }
}

fn container(view: &View) -> ContainerStatus {
    let state = match &view.state {
        State::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some((*reason).to_owned()),
                message: Some(message.clone()).filter(|text| !text.is_empty()),
            }),
            ..ContainerState::default()
        },
        State::Running { since } => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(seconds(*since)),
            }),
            ..ContainerState::default()
        },
        State::Terminated(exit) => terminated(exit),
    };
    ContainerStatus {
        name: view.name.clone(),
        image: view.image.clone(),
        image_id: if view.id.is_empty() {
            String::new()
        } else {
            view.image.clone()
        },
        container_id: Some(view.id.clone()).filter(|id| !id.is_empty()),
        ready: view.ready,
        started: Some(view.started),
        restart_count: view.restarts,
        state: Some(state),
        last_state: Some(view.last.as_ref().map(terminated).unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

/// `status.phase` of a Pod with these containers.
pub fn phase(views: &[View], restart_policy: &str) -> &'static str {
    let ended = |view: &View| match &view.state {
        State::Terminated(exit) => Some(exit.code),
        _ => None,
    };
    let codes: Vec<i32> = views.iter().filter_map(ended).collect();
    if codes.len() == views.len() && restart_policy != "Always" {
        if codes.iter().all(|code| *code == 0) {
            return "Succeeded";
        }
        if restart_policy == "Never" {
            return "Failed";
        }
    }
    let never_ran = views
        .iter()
        .any(|view| matches!(view.state, State::Waiting { .. }) && view.last.is_none());
    if never_ran { "Pending" } else { "Running" }
}

/// The whole status. Conditions keep their times while they hold.
pub fn compute(
    pod: &Pod,
    views: &[View],
    init: &[View],
    ip: Option<Ipv4Addr>,
    now: jiff::Timestamp,
) -> PodStatus {
    let spec = pod.spec.clone().unwrap_or_default();
    let old = pod.status.clone().unwrap_or_default();
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let phase = phase(views, policy);
    let finished = matches!(phase, "Succeeded" | "Failed");
    let not_ready: Vec<&str> = views
        .iter()
        .filter(|view| !view.ready)
        .map(|view| view.name.as_str())
        .collect();
    let gates_hold = spec.readiness_gates.iter().flatten().all(|gate| {
        let conditions = old.conditions.iter().flatten();
        conditions
            .into_iter()
            .any(|c| c.type_ == gate.condition_type && c.status == "True")
    });
    let unready = if finished && phase == "Succeeded" {
        Some(("PodCompleted", String::new()))
    } else if finished {
        Some(("PodFailed", String::new()))
    } else if !not_ready.is_empty() {
        let names = not_ready.join(" ");
        Some((
            "ContainersNotReady",
            format!("containers with unready status: [{names}]"),
        ))
    } else {
        None
    };
    let gate = (!gates_hold).then(|| {
        (
            "ReadinessGatesNotReady",
            "the status of pod readiness gate is not \"True\"".to_owned(),
        )
    });
    let mut conditions: Vec<PodCondition> = Vec::new();
    let mut put = |kind: &str, why: Option<(&str, String)>| {
        let status = if why.is_none() { "True" } else { "False" };
        let before = old.conditions.iter().flatten().find(|c| c.type_ == kind);
        let since = before
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time.clone());
        let (reason, message) = why.unzip();
        conditions.push(PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
            message: message.filter(|text| !text.is_empty()),
            last_transition_time: since.or(Some(seconds(now))),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        });
    };
    let started = ip.is_some() && !finished;
    put(
        "PodReadyToStartContainers",
        (!started).then(|| ("", String::new())),
    );
    put(
        "Initialized",
        (finished && phase == "Succeeded")
            .then(|| ("PodCompleted", String::new()))
            .filter(|_| false),
    );
    put("Ready", unready.clone().or(gate));
    put("ContainersReady", unready);
    put("PodScheduled", None);
    for condition in &mut conditions {
        condition.reason = condition.reason.take().filter(|reason| !reason.is_empty());
    }
    for other in old.conditions.iter().flatten() {
        if !conditions.iter().any(|c| c.type_ == other.type_) {
            conditions.push(other.clone());
        }
    }
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        host_ip: Some(Ipv4Addr::LOCALHOST.to_string()),
        host_ips: Some(vec![HostIP {
            ip: Ipv4Addr::LOCALHOST.to_string(),
        }]),
        pod_ip: ip.map(|ip| ip.to_string()),
        pod_ips: ip.map(|ip| vec![PodIP { ip: ip.to_string() }]),
        start_time: old.start_time.clone().or(Some(seconds(now))),
        container_statuses: Some(views.iter().map(container).collect()),
        init_container_statuses: Some(init.iter().map(container).collect::<Vec<_>>())
            .filter(|list| !list.is_empty()),
        qos_class: old.qos_class.clone().or(Some(qos(pod).to_owned())),
        observed_generation: pod.metadata.generation,
        message: old.message.clone(),
        reason: old.reason.clone(),
        ..PodStatus::default()
    }
}

/// Quality-of-service class: Guaranteed if every container limits what it requests, BestEffort if none does.
fn qos(pod: &Pod) -> &'static str {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let resources: Vec<_> = containers
        .map(|c| c.resources.clone().unwrap_or_default())
        .collect();
    let none = resources.iter().all(|r| {
        r.requests.iter().flatten().next().is_none() && r.limits.iter().flatten().next().is_none()
    });
    let full = !resources.is_empty()
        && resources.iter().all(|r| {
            ["cpu", "memory"].iter().all(|name| {
                let limit = r.limits.as_ref().and_then(|limits| limits.get(*name));
                let request = r.requests.as_ref().and_then(|requests| requests.get(*name));
                limit.is_some() && request.is_none_or(|request| Some(request) == limit)
            })
        });
    match (none, full) {
        (true, _) => "BestEffort",
        (false, true) => "Guaranteed",
        (false, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_the_containers() {
        let ended = |code| {
            State::Terminated(Exit {
                code,
                signal: None,
                reason: "Error",
                message: None,
                started: jiff::Timestamp::UNIX_EPOCH,
                finished: jiff::Timestamp::UNIX_EPOCH,
                id: String::new(),
            })
        };
        let running = || State::Running {
            since: jiff::Timestamp::UNIX_EPOCH,
        };
        let view = |state| View {
            state,
            ..View::new("c", "i")
        };
        let table = [
            (vec![View::new("c", "i")], "Always", "Pending"),
            (vec![view(running())], "Always", "Running"),
            (vec![view(ended(0))], "Always", "Running"),
            (vec![view(ended(0))], "Never", "Succeeded"),
            (vec![view(ended(1))], "Never", "Failed"),
            (vec![view(ended(1))], "OnFailure", "Running"),
            (vec![view(ended(0))], "OnFailure", "Succeeded"),
            (vec![view(ended(0)), view(running())], "Never", "Running"),
        ];
        for (views, policy, expected) in table {
            assert_eq!(phase(&views, policy), expected, "{policy} {views:?}");
        }
    }
}
