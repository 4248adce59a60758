//! A stored credential that ends soon is replaced while it still works, where that is ours to do: it is one that the host had the member issue, or the
//! Cluster says `autoRestore: true`. Somebody's own kubeconfig is only warned about.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kah_cluster::{Host, clusters, doctor::Expiry, restore::renew_credential, with_causes};
use kube::{
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use serde_json::json;
use tokio::sync::watch;

use crate::cluster::{News, tell_event};

/// The annotation that says when it was tried last, so that no restart of this process makes more tries.
pub const ANNOTATION: &str = "hub.kubeaihub.io/credential-renewal";
/// Between two tries, where the credential lives long enough for that.
const DAY: SignedDuration = SignedDuration::from_hours(24);
/// Of a credential that ends sooner, in its last third, there are so many tries.
const TRIES: i32 = 3;
/// Between two tries in any case.
const LEAST: SignedDuration = SignedDuration::from_mins(1);
/// The longest wait: clocks may be set.
const LOOK: Duration = Duration::from_secs(3600);
/// Until an object that has changed meanwhile is seen, or the host's kube-apiserver takes a write.
const AGAIN: Duration = Duration::from_secs(15);

/// What a decision depends on.
#[derive(Debug, Clone, Copy)]
struct Case {
    leaving: bool,
    /// `spec.autoRestore`
    auto: bool,
    stored: Option<Expiry>,
    tried: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Nothing to do until the object changes, or until then.
    Wait(Option<Timestamp>),
    Renew(Expiry),
}

fn decide(case: &Case, now: Timestamp) -> Next {
    let ours = |expiry: &Expiry| case.auto || expiry.is_ours();
    let Some(expiry) = case.stored.filter(ours).filter(|_| !case.leaving) else {
        return Next::Wait(None);
    };
    // What has ended renews nothing any more.
    if !expiry.left(now).is_positive() {
        return Next::Wait(None);
    }
    let soon = expiry.ends.checked_sub(expiry.lead()).unwrap_or(now);
    let pause = DAY.min(expiry.lead() / TRIES).max(LEAST);
    let free = case.tried.and_then(|tried| tried.checked_add(pause).ok());
    let due = free.map_or(soon, |free| free.max(soon));
    if due > now || !expiry.is_soon(now) {
        return Next::Wait(Some(due));
    }
    Next::Renew(expiry)
}

impl Case {
    fn of(object: &DynamicObject, stored: Option<Expiry>) -> Self {
        let annotations = object.metadata.annotations.as_ref();
        let auto = object.data.pointer("/spec/autoRestore");
        Self {
            leaving: object.metadata.deletion_timestamp.is_some(),
            auto: auto.and_then(serde_json::Value::as_bool) == Some(true),
            stored,
            tried: annotations
                .and_then(|annotations| annotations.get(ANNOTATION))
                .and_then(|text| text.parse().ok()),
        }
    }
}

/// Works for one cluster until it is dropped. A renewal that is cut off leaves the stored credential, or the new one.
pub(crate) async fn run(host: &Host, name: &str, mut object: watch::Receiver<Arc<DynamicObject>>) {
    loop {
        let seen = object.borrow_and_update().clone();
        let member = host.registry.get(name);
        let stored = member.and_then(|member| member.credential());
        let now = host.clock.now();
        let wait = match decide(&Case::of(&seen, stored), now) {
            Next::Renew(expiry) => {
                Box::pin(attempt(host, name, &seen, expiry)).await;
                AGAIN
            }
            Next::Wait(None) => LOOK,
            Next::Wait(Some(due)) => {
                let left = Duration::try_from(due.duration_since(now)).unwrap_or_default();
                left.clamp(Duration::from_secs(1), LOOK)
            }
        };
        if let Ok(Err(_)) = tokio::time::timeout(wait, object.changed()).await {
            return;
        }
    }
}

async fn attempt(host: &Host, name: &str, seen: &DynamicObject, expiry: Expiry) {
    let now = host.clock.now();
    match write_down(host, name, seen, now).await {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => {
            tracing::warn!(cluster = name, %error, "write down that the credential is renewed");
            return;
        }
    }
    let Some(member) = host.registry.get(name) else {
        return;
    };
    let (warning, reason, message) = match renew_credential(host, &member).await {
        Ok(renewed) => {
            let until = renewed
                .ends
                .and_then(|ends| ends.round(jiff::Unit::Second).ok())
                .map_or_else(String::new, |ends| format!(" until {ends}"));
            let message = format!(
                "{}: the member has issued another credential to the host, good{until}.",
                expiry.words(now)
            );
            (false, "CredentialRenewed", message)
        }
        Err(error) => {
            let message = format!(
                "{}, and was not renewed: {}.",
                expiry.words(now),
                with_causes(&error)
            );
            tracing::warn!(cluster = name, "{message}");
            (true, "CredentialNotRenewed", message)
        }
    };
    let reason = reason.to_owned();
    let news = News {
        warning,
        reason,
        message,
    };
    tell_event(&host.client, seen, news, host.clock.now()).await;
}

/// Writes the try into the Cluster object, against the version that was decided upon; `false` where that has changed meanwhile.
async fn write_down(
    host: &Host,
    name: &str,
    seen: &DynamicObject,
    now: Timestamp,
) -> Result<bool, kube::Error> {
    let patch = json!({"metadata": {
        "resourceVersion": seen.metadata.resource_version,
        "annotations": {ANNOTATION: now.to_string()},
    }});
    let clusters = clusters(host.client.clone());
    match clusters
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hours * HOUR).unwrap()
    }

    #[test]
    fn the_table_of_decisions() {
        let stored = |from: Option<i64>, ends: i64| {
            Some(Expiry {
                what: "it",
                from: from.map(at),
                ends: at(ends),
            })
        };
        let case = |auto: bool, stored, tried: Option<i64>| Case {
            leaving: false,
            auto,
            stored,
            tried: tried.map(at),
        };
        let day = 24;
        let (theirs, ours) = (stored(None, 100 * day), stored(Some(10 * day), 100 * day));
        let short = stored(Some(0), 9);
        for (what, case, now, renews, until) in [
            ("it has no end", case(true, None, None), 0, false, None),
            (
                "it is theirs",
                case(false, theirs, None),
                99 * day,
                false,
                None,
            ),
            (
                "weeks are left",
                case(true, theirs, None),
                0,
                false,
                Some(70 * day),
            ),
            (
                "30 days are left",
                case(true, theirs, None),
                70 * day,
                false,
                Some(70 * day),
            ),
            (
                "fewer are left",
                case(true, theirs, None),
                70 * day + 1,
                true,
                None,
            ),
            (
                "ours, early",
                case(false, ours, None),
                69 * day,
                false,
                Some(70 * day),
            ),
            ("ours", case(false, ours, None), 71 * day, true, None),
            (
                "tried today",
                case(false, ours, Some(71 * day)),
                72 * day - 1,
                false,
                Some(72 * day),
            ),
            (
                "tried yesterday",
                case(false, ours, Some(71 * day)),
                72 * day,
                true,
                None,
            ),
            (
                "tried long ago",
                case(false, ours, Some(day)),
                69 * day,
                false,
                Some(70 * day),
            ),
            (
                "it has ended",
                case(true, ours, None),
                100 * day,
                false,
                None,
            ),
            ("short, early", case(false, short, None), 5, false, Some(6)),
            ("short", case(false, short, None), 7, true, None),
            (
                "short, tried",
                case(false, short, Some(7)),
                7,
                false,
                Some(8),
            ),
            (
                "short, tried before",
                case(false, short, Some(7)),
                8,
                true,
                None,
            ),
        ] {
            match decide(&case, at(now)) {
                Next::Renew(expiry) => {
                    assert!(renews && Some(expiry) == case.stored, "{what}");
                }
                Next::Wait(due) => {
                    assert!(!renews, "{what}");
                    assert_eq!(due, until.map(at), "{what}");
                }
            }
            let leaving = Case {
                leaving: true,
                ..case
            };
            assert_eq!(decide(&leaving, at(now)), Next::Wait(None), "{what}");
        }
    }
}
