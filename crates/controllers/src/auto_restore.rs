//! Access is restored without anybody asking, where a Cluster says `autoRestore: true`; and what another process began and did not end is ended,
//! whatever the Cluster says.
//!
//! Tries are written down in the Cluster object before they are made, so that no restart of this process makes more of them.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kah_api::cluster::Cluster;
use kah_cluster::{
    AccessCode, Host, clusters, doctor,
    restore::{self, Outcome, Report, RestoreError, STALE, State},
    with_causes,
};
use kube::{
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

use crate::{
    Metrics,
    cluster::{News, status::HOST_ACCESS, tell_event},
};

/// The annotation that holds the tries of the last day.
pub const ANNOTATION: &str = "hub.kubeaihub.io/auto-restore";
/// Who asks, as the state of a restore tells it.
pub const BY: &str = "controller";
/// Tries within [`WINDOW`] at most.
const MOST: usize = 3;
const WINDOW: SignedDuration = SignedDuration::from_hours(1);
/// Tries within [`DAY`] at most: a member that always says what a restore cures must not have its ks-apiserver restarted for ever.
const MOST_A_DAY: usize = 8;
/// How long tries are remembered.
const DAY: SignedDuration = SignedDuration::from_hours(24);
/// Between the first try and the second, and so on.
const PAUSES: [SignedDuration; MOST - 1] =
    [SignedDuration::from_mins(1), SignedDuration::from_mins(5)];
/// After something kept us from trying, doubled each time.
const AGAIN: Duration = Duration::from_secs(15);
const AGAIN_AT_MOST: Duration = Duration::from_secs(600);

/// What is written down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tries {
    tries: Vec<Timestamp>,
}

/// What a decision depends on.
#[derive(Debug, Clone, Default)]
struct Case {
    leaving: bool,
    /// `spec.autoRestore`
    wanted: bool,
    /// The cause of lost access, if a restore may repair it.
    repairable: Option<AccessCode>,
    /// A restore that has not ended.
    begun: Option<State>,
    tries: Vec<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    /// Nothing to do until the object changes, or until then.
    Wait(Option<Timestamp>),
    /// End what another process began.
    Resume,
    /// Repair it.
    Repair(AccessCode),
}

fn decide(case: &Case, now: Timestamp) -> Next {
    if case.leaving {
        return Next::Wait(None);
    }
    if let Some(begun) = &case.begun {
        return if now.duration_since(begun.renewed) >= STALE {
            Next::Resume
        } else {
            Next::Wait(begun.renewed.checked_add(STALE).ok())
        };
    }
    let (true, Some(code)) = (case.wanted, case.repairable) else {
        return Next::Wait(None);
    };
    let recent = recent(&case.tries, now, WINDOW);
    let free = match recent.as_slice() {
        [] => None,
        [first, ..] if recent.len() >= MOST => first.checked_add(WINDOW).ok(),
        [.., last] => PAUSES
            .get(recent.len() - 1)
            .and_then(|pause| last.checked_add(*pause).ok()),
    };
    let free = free.max(after_a_full_day(&case.tries, now));
    match free {
        Some(free) if free > now => Next::Wait(Some(free)),
        _ => Next::Repair(code),
    }
}

/// When there may be another one, where there were as many as there may be in a day.
fn after_a_full_day(tries: &[Timestamp], now: Timestamp) -> Option<Timestamp> {
    let of_day = recent(tries, now, DAY);
    let first = of_day.len().checked_sub(MOST_A_DAY)?;
    of_day.get(first)?.checked_add(DAY).ok()
}

fn recent(tries: &[Timestamp], now: Timestamp, window: SignedDuration) -> Vec<Timestamp> {
    let is_recent = |at: &&Timestamp| now.duration_since(**at) < window;
    let mut recent: Vec<Timestamp> = tries.iter().filter(is_recent).copied().collect();
    recent.sort_unstable();
    recent
}

impl Case {
    fn of(object: &DynamicObject) -> Self {
        let annotation = |name| object.metadata.annotations.as_ref()?.get(name);
        let read = serde_json::to_value(object)
            .ok()
            .and_then(|value| serde_json::from_value::<Cluster>(value).ok());
        let repairable = read.as_ref().and_then(|cluster| {
            let access = cluster.condition(HOST_ACCESS)?;
            let code: AccessCode = access.reason.parse().ok()?;
            // What ends soon is renewed on terms of its own.
            if code == AccessCode::CredentialExpiring {
                return None;
            }
            // Where people have to bring something (a fingerprint, a kubeconfig), nothing can be done without them.
            doctor::is_repaired_alone(code, &access.message).then_some(code)
        });
        let begun = annotation(restore::ANNOTATION)
            .and_then(|text| serde_json::from_str::<State>(text).ok())
            .filter(|state| !state.step.is_last());
        Self {
            leaving: object.metadata.deletion_timestamp.is_some(),
            wanted: read.is_some_and(|cluster| cluster.spec.auto_restore),
            repairable,
            begun,
            tries: annotation(ANNOTATION)
                .and_then(|text| serde_json::from_str::<Tries>(text).ok())
                .unwrap_or_default()
                .tries,
        }
    }
}

/// Works for one cluster until it is dropped. A restore that is cut off by that is ended by the next process.
pub(crate) async fn run(
    host: &Host,
    name: &str,
    metrics: &Metrics,
    mut object: watch::Receiver<Arc<DynamicObject>>,
) {
    let mut pause = AGAIN;
    loop {
        let seen = object.borrow_and_update().clone();
        let now = host.clock.now();
        let next = decide(&Case::of(&seen), now);
        let wait = match &next {
            Next::Wait(until) => {
                pause = AGAIN;
                until.map(|until| Duration::try_from(until.duration_since(now)).unwrap_or_default())
            }
            act => {
                // A restore is a large future; that of every member is not to hold one.
                let done = Box::pin(attempt(host, name, metrics, &seen, act)).await;
                match done {
                    // The object has changed, or will.
                    Ok(()) => Some(AGAIN),
                    Err(error) => {
                        tracing::warn!(cluster = name, "restore access: {}", with_causes(&error));
                        let this = pause;
                        pause = (pause * 2).min(AGAIN_AT_MOST);
                        // Changes of the object are no reason to try sooner.
                        tokio::time::sleep(this).await;
                        continue;
                    }
                }
            }
        };
        let changed = object.changed();
        let ended = match wait {
            Some(wait) => tokio::time::timeout(wait, changed).await.unwrap_or(Ok(())),
            None => changed.await,
        };
        if ended.is_err() {
            return;
        }
    }
}

/// What keeps a try from being made.
#[derive(Debug, thiserror::Error)]
enum NotTried {
    #[error("there is nothing to prove access with")]
    Proof(#[source] kah_cluster::proof::ProofError),
    #[error("write down the try")]
    Write(#[source] kube::Error),
    #[error("end what another process began")]
    Resume(#[source] RestoreError),
}

async fn attempt(
    host: &Host,
    name: &str,
    metrics: &Metrics,
    seen: &DynamicObject,
    next: &Next,
) -> Result<(), NotTried> {
    let proof = host.proof().map_err(NotTried::Proof)?;
    let code = match next {
        Next::Repair(code) => Some(*code),
        _ => None,
    };
    let tell = |warning, reason: &str, message: String| {
        let news = News {
            warning,
            reason: reason.to_owned(),
            message,
        };
        tell_event(&host.client, seen, news, host.clock.now())
    };
    if let Some(code) = code {
        let Some((number, of_day)) = write_down(host, name, seen)
            .await
            .map_err(NotTried::Write)?
        else {
            return Ok(());
        };
        let message = format!(
            "Restoring access because of {code}: try {number} of {MOST} within an hour, {of_day} of {MOST_A_DAY} within a day."
        );
        tell(false, "RestoringAccess", message).await;
    }
    let request = restore::Request {
        // What somebody else began says nothing of the credential.
        renew: code.is_some(),
        ..restore::Request::new(name, BY, proof)
    };
    let mut observer = |state: &State| {
        tracing::info!(cluster = name, step = ?state.step, keys = ?state.keys, "restore access");
        ControlFlow::Continue(())
    };
    let ended = Box::pin(restore::restore(host, &request, &mut observer)).await;
    let (warning, reason, outcome, message) = match &ended {
        Ok(report) => match report.outcome {
            Outcome::NothingToDo if code.is_none() => return Ok(()),
            // A try that was told has its end told, too.
            Outcome::NothingToDo => {
                let message = "Access was there again before anything was changed.".to_owned();
                (false, "AccessRestored", "NothingToDo", message)
            }
            _ => (false, "AccessRestored", "Restored", told(report)),
        },
        // Somebody else is at it.
        Err(RestoreError::Busy { .. }) => return Ok(()),
        Err(error) => {
            let message = format!("Access was not restored: {}.", with_causes(error));
            let outcome = match error {
                RestoreError::NotProven { .. } => "Undone",
                _ => "Failed",
            };
            (true, "RestoreFailed", outcome, message)
        }
    };
    metrics.restored(name, outcome);
    tell(warning, reason, message).await;
    match ended {
        // Undone is an end too; anything else leaves what was begun as it is.
        Err(error) if code.is_none() && outcome != "Undone" => Err(NotTried::Resume(error)),
        _ => Ok(()),
    }
}

/// What was done, as an Event says it.
fn told(report: &Report) -> String {
    let done: Vec<String> = report
        .actions
        .iter()
        .map(|action| format!("{}: {}, now {}", action.what, action.from, action.to))
        .collect();
    let what = match done.as_slice() {
        [] if report.resumed => "what another process had begun was finished".to_owned(),
        done => done.join("; "),
    };
    let restarted = if report.restarted {
        "; ks-apiserver was started again"
    } else {
        ""
    };
    format!("Access is restored: {what}{restarted}.")
}

/// Adds a try to those in the Cluster object, against the version that was decided upon; its number within the hour and within the day, or `None` where the object has
/// changed meanwhile.
async fn write_down(
    host: &Host,
    name: &str,
    seen: &DynamicObject,
) -> Result<Option<(usize, usize)>, kube::Error> {
    let now = host.clock.now();
    let mut tries = recent(&Case::of(seen).tries, now, DAY);
    tries.push(now);
    let number = (
        recent(&tries, now, WINDOW).len(),
        recent(&tries, now, DAY).len(),
    );
    let text = serde_json::to_string(&Tries { tries }).map_err(kube::Error::SerdeError)?;
    let patch = json!({"metadata": {
        "resourceVersion": seen.metadata.resource_version,
        "annotations": {ANNOTATION: text},
    }});
    let clusters = clusters(host.client.clone());
    match clusters
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(_) => Ok(Some(number)),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use kah_cluster::restore::Step;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn begun(renewed: i64) -> Option<State> {
        Some(State {
            id: "i".into(),
            by: "somebody".into(),
            holder: "h".into(),
            renewed: at(renewed),
            step: Step::Changed,
            restart: at(0),
            keys: Vec::new(),
            scaled: false,
            user: None,
            restarted: false,
            trust: None,
        })
    }

    #[test]
    fn the_table_of_decisions() {
        const CODE: AccessCode = AccessCode::TokenNotInCache;
        let lost = Case {
            wanted: true,
            repairable: Some(CODE),
            ..Case::default()
        };
        let tried = |times: &[i64]| Case {
            tries: times.iter().map(|time| at(*time)).collect(),
            ..lost.clone()
        };
        let hour = 3600;
        for (what, case, now, next) in [
            (
                "nothing is lost",
                Case {
                    repairable: None,
                    ..lost.clone()
                },
                0,
                Next::Wait(None),
            ),
            (
                "nobody asked for it",
                Case {
                    wanted: false,
                    ..lost.clone()
                },
                0,
                Next::Wait(None),
            ),
            (
                "it leaves",
                Case {
                    leaving: true,
                    begun: begun(-99),
                    ..lost.clone()
                },
                0,
                Next::Wait(None),
            ),
            ("the first try", lost.clone(), 0, Next::Repair(CODE)),
            ("just tried", tried(&[0]), 1, Next::Wait(Some(at(60)))),
            ("the second try", tried(&[0]), 60, Next::Repair(CODE)),
            (
                "tried twice",
                tried(&[0, 60]),
                61,
                Next::Wait(Some(at(360))),
            ),
            ("the third try", tried(&[0, 60]), 360, Next::Repair(CODE)),
            (
                "enough for an hour",
                tried(&[0, 60, 360]),
                361,
                Next::Wait(Some(at(hour))),
            ),
            (
                "enough for a day",
                tried(&[0, 2, 4, 6, 8, 10, 12, 14].map(|hours| hours * hour)),
                16 * hour,
                Next::Wait(Some(at(24 * hour))),
            ),
            (
                "the next day",
                tried(&[0, 2, 4, 6, 8, 10, 12, 14].map(|hours| hours * hour)),
                24 * hour,
                Next::Repair(CODE),
            ),
            // Two of the three are recent still, and the last is long enough ago.
            (
                "an hour later",
                tried(&[0, 60, 360]),
                hour,
                Next::Repair(CODE),
            ),
            (
                "one and a half hours later",
                tried(&[0, 60, 360]),
                hour + 1800,
                Next::Repair(CODE),
            ),
            (
                "somebody is at it",
                Case {
                    begun: begun(0),
                    ..lost.clone()
                },
                4,
                Next::Wait(Some(at(5))),
            ),
            (
                "somebody has left it",
                Case {
                    begun: begun(0),
                    wanted: false,
                    ..Case::default()
                },
                5,
                Next::Resume,
            ),
        ] {
            assert_eq!(decide(&case, at(now)), next, "{what}");
        }
    }

    #[test]
    fn a_case_is_read_from_the_object() {
        let object = |auto: bool, status: &str, reason: &str, message: &str| -> DynamicObject {
            serde_json::from_value(json!({
                "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster",
                "metadata": {"name": "m", "annotations": {ANNOTATION: "{\"tries\":[\"2027-01-15T08:00:00Z\"]}"}},
                "spec": {"autoRestore": auto},
                "status": {"conditions": [{"type": HOST_ACCESS, "status": status, "reason": reason, "message": message}]},
            }))
            .unwrap()
        };
        for (object, wanted, repairable) in [
            (
                object(true, "False", "TokenNotInCache", ""),
                true,
                Some(AccessCode::TokenNotInCache),
            ),
            (
                object(false, "False", "SignatureInvalid", ""),
                false,
                Some(AccessCode::SignatureInvalid),
            ),
            (object(true, "True", "Accepted", ""), true, None),
            (
                object(true, "True", "WrongRole", ""),
                true,
                Some(AccessCode::WrongRole),
            ),
            // What the member is to be is for people to decide.
            (
                object(
                    true,
                    "True",
                    "WrongRole",
                    "is \"host\", and multicluster.enable is true: it serves members of its own",
                ),
                true,
                None,
            ),
            (
                object(true, "False", "CredentialRejected", "401: Unauthorized"),
                true,
                None,
            ),
            (
                object(
                    true,
                    "True",
                    "CredentialRejected",
                    "401: Unauthorized; callers get through",
                ),
                true,
                Some(AccessCode::CredentialRejected),
            ),
            (object(true, "False", "ClockSkew", ""), true, None),
            (object(true, "True", "CredentialExpiring", ""), true, None),
            (
                object(
                    true,
                    "True",
                    "CredentialExpiring",
                    "It ends (the serving certificate of its kube-apiserver ends)",
                ),
                true,
                None,
            ),
            (object(true, "False", "TLSUntrusted", ""), true, None),
            (
                object(
                    true,
                    "False",
                    "MemberNotReady",
                    "Deployment ks-apiserver has 0 of 0 replicas ready",
                ),
                true,
                Some(AccessCode::MemberNotReady),
            ),
            (
                object(true, "False", "MemberNotReady", "no endpoints"),
                true,
                None,
            ),
        ] {
            let case = Case::of(&object);
            assert_eq!(
                (case.wanted, case.repairable),
                (wanted, repairable),
                "{case:?}"
            );
            assert_eq!(case.tries, [at(0)]);
        }
    }
}
