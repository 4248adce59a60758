//! Keeps members told of the host's signing keys, changes the keys when they are old, and takes them from members that left federated trust.
//!
//! Where a rotation stands is what the Secret says, and nothing else: whoever reads it goes on from there, and of two at once one comes too late.

pub(crate) mod wanted;

use std::time::Duration;

use jiff::SignedDuration;
use kah_cluster::{
    Host,
    trust::{
        TrustError, keys,
        rotation::{MemberKeys, Memory, Pace, Step, Told, next_step},
        survey, tell, withdraw_ended,
    },
    with_causes,
};
use kah_iam::federated::{KeyRecord, KeysError};
use tokio_util::sync::CancellationToken;

/// Steps of one round; what is left is done in the next one.
const STEPS: usize = 8;
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
            () = tokio::time::sleep(Duration::try_from(again).unwrap_or_default()) => {}
        }
    }
}

/// What is remembered from round to round; without it a rotation only takes a little longer.
#[derive(Default)]
struct Seen {
    memory: Memory,
    /// Who kept the next key from signing when somebody looked last.
    refusing: Vec<String>,
}

/// Looks, acts, and says when to look again.
async fn round(host: &Host, pace: &Pace, seen: &mut Seen) -> SignedDuration {
    for member in host.registry.members() {
        if let Err(error) = withdraw_ended(host, &member).await {
            tracing::info!(
                cluster = member.name(),
                error = &error as &dyn std::error::Error,
                "take the host's keys from a member; trying again"
            );
        }
    }
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

/// Sooner than a whole rest where a retired key is to be forgotten.
fn rest(host: &Host, pace: &Pace) -> SignedDuration {
    let keys = host.registry.signer().keys();
    let retiring = keys.is_some_and(|(_, keys)| keys.records().len() > 1);
    if retiring { pace.look } else { pace.rest }
}

/// Decides and does one step.
async fn step(host: &Host, pace: &Pace, memory: &mut Memory) -> Result<Step, TrustError> {
    let mut members: Vec<MemberKeys> = survey(host).await.into_iter().map(|one| one.keys).collect();
    let keys = host.registry.signer().keys();
    let records: Vec<KeyRecord> = keys.map_or_else(Vec::new, |(_, keys)| keys.records().to_vec());
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
                keys::change(host, |keys| keys.promote(now)).await?;
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

/// Tells members, and gives those that could not be told.
async fn publish(host: &Host, names: &[String]) -> Vec<(String, String)> {
    let mut failed = Vec::new();
    for name in names {
        let Some(member) = host.registry.get(name) else {
            continue;
        };
        if let Err(error) = tell(host, &member).await {
            failed.push((name.clone(), with_causes(&error)));
        }
    }
    failed
}
