//! Keeps members told of the host's signing keys, changes the keys when they are old, and takes them from members that left federated trust.
//!
//! Where a rotation stands is what the Secret says, and nothing else: whoever reads it goes on from there, and of two at once one comes too late.

pub(crate) mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use jiff::SignedDuration;
use kah_api::cluster::Trust;
use kah_cluster::{
    Host,
    retry::{Pauses, Retry},
    trust::{
        TrustError, keys,
        rotation::{MemberKeys, Memory, Pace, Step, Told, next_step, refusing},
        survey, tell, withdraw_ended,
    },
    with_causes,
};
use kah_iam::federated::{KeyRecord, KeysError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Steps of one round; what is left is done in the next one.
const STEPS: usize = 8;
/// Members that something is done about at the same time.
const AT_ONCE: usize = 16;
/// For taking the keys from one member: more than every wait inside together.
const WITHDRAW_WITHIN: Duration = Duration::from_secs(40);
/// For one step: every wait inside is bounded too, that of the host's own kube-apiserver by this.
const STEP_WITHIN: Duration = Duration::from_secs(60);

/// Runs until stopped.
pub async fn run(host: Host, stop: CancellationToken) {
    run_at(host, Pace::default(), stop).await;
}

/// The same at another pace.
pub async fn run_at(host: Host, pace: Pace, stop: CancellationToken) {
    let mut changes = host.registry.signer().changes();
    let mut seen = Seen::default();
    loop {
        let round = round(&host, &pace, &mut seen);
        let Some(again) = stop.run_until_cancelled(round).await else {
            return;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            // The signer lives as long as the host.
            Ok(()) = changes.changed() => {}
            () = back(&host) => {}
            () = tokio::time::sleep(Duration::try_from(again).unwrap_or_default()) => {}
        }
    }
}

/// Ends when a federated member that was away is there again: it may not know the keys by which its callers are vouched for now.
async fn back(host: &Host) {
    let mut changes = host.registry.changes();
    let away = || -> BTreeSet<String> {
        let members = host.registry.members().into_iter();
        let away = members.filter(|member| member.trust() == Trust::Federated && member.is_away());
        away.map(|member| member.name().to_owned()).collect()
    };
    let mut before = away();
    while changes.changed().await.is_ok() {
        let now = away();
        if before.iter().any(|name| !now.contains(name)) {
            return;
        }
        before = now;
    }
    std::future::pending().await
}

/// What is remembered from round to round; without it a rotation only takes a little longer.
#[derive(Default)]
struct Seen {
    memory: Memory,
    /// From whom the host's keys could not be taken, and when that is tried again.
    withdrawals: BTreeMap<String, (Pauses, Instant)>,
    /// Who kept the next key from signing when somebody looked last.
    refusing: Vec<String>,
}

/// Looks, acts, and says when to look again.
async fn round(host: &Host, pace: &Pace, seen: &mut Seen) -> SignedDuration {
    withdraw(host, &mut seen.withdrawals).await;
    for _ in 0..STEPS {
        match tokio::time::timeout(STEP_WITHIN, step(host, pace, &mut seen.memory)).await {
            Ok(Ok(Step::Wait(now))) => {
                if !now.is_empty() && now != seen.refusing {
                    tracing::warn!(members = ?now, "members do not accept the next key yet");
                }
                seen.refusing = now;
                return pace.look;
            }
            Ok(Ok(Step::Rest)) => return rest(host, pace),
            Ok(Ok(done)) => tracing::info!(step = ?done, "signing keys"),
            // Another replica did it.
            Ok(Err(TrustError::Keys(KeysError::UnderWay | KeysError::NoNext))) => {}
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "signing keys; trying again"
                );
                return pace.rest;
            }
            Err(_) => {
                tracing::warn!("signing keys: a step took too long; trying again");
                return pace.rest;
            }
        }
    }
    pace.look
}

/// Takes the host's keys from members that left federated trust, from several at once; one where that fails is left alone for a while.
async fn withdraw(host: &Host, failed: &mut BTreeMap<String, (Pauses, Instant)>) {
    let members = host.registry.members();
    failed.retain(|name, _| members.iter().any(|member| member.name() == name));
    let now = Instant::now();
    let due = members
        .into_iter()
        .filter(|member| failed.get(member.name()).is_none_or(|(_, at)| *at <= now))
        .map(|member| {
            let withdrawn = async move {
                let withdrawn = withdraw_ended(host, &member);
                let ended = tokio::time::timeout(WITHDRAW_WITHIN, withdrawn).await;
                let late = "take the host's keys from the member";
                let ended = ended.unwrap_or(Err(TrustError::Silent(late)));
                (member.name().to_owned(), ended)
            };
            withdrawn.boxed()
        });
    let due: Vec<_> = due.collect();
    let mut done = futures::stream::iter(due).buffer_unordered(AT_ONCE);
    while let Some((name, ended)) = done.next().await {
        match ended {
            Ok(()) => {
                failed.remove(&name);
            }
            Err(error) => {
                tracing::info!(
                    cluster = name,
                    error = &error as &dyn std::error::Error,
                    "take the host's keys from a member; trying again later"
                );
                let (pauses, at) = failed
                    .entry(name)
                    .or_insert_with(|| (Pauses::of(Retry::REFUSED), now));
                *at = Instant::now() + pauses.failed();
            }
        }
    }
}

/// Sooner than a whole rest where a retired key is to be forgotten.
fn rest(host: &Host, pace: &Pace) -> SignedDuration {
    let keys = host.registry.signer().keys();
    let retiring = keys.is_some_and(|(_, keys)| keys.records().len() > 1);
    if retiring { pace.look } else { pace.rest }
}

/// The keys that this replica knows of.
fn records(host: &Host) -> Vec<KeyRecord> {
    let keys = host.registry.signer().keys();
    keys.map_or_else(Vec::new, |(_, keys)| keys.records().to_vec())
}

/// Decides and does one step.
async fn step(host: &Host, pace: &Pace, memory: &mut Memory) -> Result<Step, TrustError> {
    let records = records(host);
    let mut members: Vec<MemberKeys> = survey(host).await.into_iter().map(|one| one.keys).collect();
    if records != self::records(host) {
        // What members have been told was compared with keys that are others by now: nobody may have heard of one that is to sign.
        return Ok(Step::Wait(Vec::new()));
    }
    let now = host.clock.now();
    memory.fill_in(&mut members, now, pace.grace);
    loop {
        let step = next_step(&records, now, &members, pace);
        match &step {
            Step::First => {
                keys::signing(host).await?;
            }
            Step::Next => {
                keys::change(host, |keys| keys.make_next(now)).await?;
            }
            Step::Promote => {
                let behind = refusing(&records, &members);
                if !behind.is_empty() {
                    tracing::warn!(members = ?behind, "the next key signs although these members do not accept it: somebody said so");
                }
                keys::change(host, |keys| {
                    // Of others nobody was asked.
                    if keys.records() == records {
                        keys.promote(now)
                    } else {
                        Err(KeysError::NoNext)
                    }
                })
                .await?;
            }
            Step::Forget(ids) => {
                keys::change(host, |keys| {
                    keys.forget(ids);
                    Ok(())
                })
                .await?;
            }
            Step::Publish(names) => {
                let failed = publish(host, names).await;
                let told = names
                    .iter()
                    .filter(|name| !failed.iter().any(|(it, _)| it == *name));
                memory.published(&told.cloned().collect::<Vec<_>>(), now);
                if failed.len() == names.len() {
                    // Whoever cannot be told holds up nothing that can be done without it.
                    for (cluster, words) in failed {
                        tracing::info!(cluster, words, "the member cannot be told of the keys now");
                        let member = members.iter_mut().find(|one| one.cluster == cluster);
                        if let Some(member) = member {
                            member.told = Told::Away(words);
                        }
                    }
                    continue;
                }
            }
            Step::Wait(_) | Step::Rest => {}
        }
        return Ok(step);
    }
}

/// Tells members, several at once, and gives those that could not be told.
async fn publish(host: &Host, names: &[String]) -> Vec<(String, String)> {
    let told = names.iter().filter_map(|name| {
        let member = host.registry.get(name)?;
        let told = async move {
            let told = tell(host, &member).await;
            Some((name.clone(), with_causes(&told.err()?)))
        };
        Some(told.boxed())
    });
    let told: Vec<_> = told.collect();
    let mut told = futures::stream::iter(told).buffer_unordered(AT_ONCE);
    let mut failed = Vec::new();
    while let Some(one) = told.next().await {
        failed.extend(one);
    }
    failed
}
