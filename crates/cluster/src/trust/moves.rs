//! How a member is moved from one trust to the other.
//!
//! Invariants:
//! * What a move told a member is made undone only by whoever holds the claim, while nobody can move the member, and never once it is federated.
//! * From the claim on the Cluster says when what was told is taken away again (`ENDS`); the write that makes it federated takes that off.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kah_api::cluster::Trust;
use kah_iam::federated::LIFE;

use super::{
    CLAIMED, CLAIMED_FOR_RESTORE, CLAIMED_TO_WITHDRAW, Over, Published, ROOM, Refused, Report,
    Request, TrustError, WITHDRAWN_WITHIN, claim, failed, introduce, settle, undo,
};
use crate::{Answer, Host, Member, guard::AddressGuard, identity::identity_within, join, restore};

/// On whose word a member is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// Somebody's.
    Given,
    /// The mark's: good as long as nobody has taken it off.
    Marked,
}

/// A move that has begun.
struct Begun {
    /// The trust that was in force.
    before: Trust,
    /// By which the claim is known as this move's, where there is one.
    nonce: Option<String>,
}

/// Moves a member to a trust, while requests go on. A member that is federated already is told the keys again.
///
/// # Errors
/// [`TrustError`]; the member is known to accept what it accepted before then.
pub async fn move_to(host: &Host, request: &Request) -> Result<Report, TrustError> {
    move_on(host, request, Word::Given).await
}

pub(super) async fn move_on(
    host: &Host,
    request: &Request,
    word: Word,
) -> Result<Report, TrustError> {
    let cluster = request.cluster.as_str();
    let member = host
        .registry
        .get(cluster)
        .ok_or_else(|| TrustError::Unknown(cluster.to_owned()))?;
    if member.is_host() {
        return Err(TrustError::IsHost(cluster.to_owned()));
    }
    let begun = begin(host, request, word).await?;
    let moved = begun.before != request.trust;
    let done = match request.trust {
        Trust::Federated => to_federated(host, request, &member, moved).await,
        Trust::SharedSecret => to_shared_secret(host, request, &member, &begun)
            .await
            .map_err(Refused::from),
    };
    match done {
        Ok(report) => {
            in_force(host, request).await;
            Ok(report)
        }
        Err(Refused { error, published }) => {
            if let Some(nonce) = &begun.nonce
                && let Err(error) = give_up(host, &member, nonce, published).await
            {
                // What stays behind ends by itself, or is taken away then.
                let error = &error as &dyn std::error::Error;
                tracing::warn!(cluster, error, "make a move undone");
            }
            Err(error)
        }
    }
}

/// Claims the member, and gives what there was before. While the host's keys are taken from it, that is waited for: people go before, and what they
/// tell the member must not be taken away a moment later.
async fn begin(host: &Host, request: &Request, word: Word) -> Result<Begun, TrustError> {
    let patience = Duration::try_from(CLAIMED_TO_WITHDRAW).unwrap_or_default();
    let deadline = tokio::time::Instant::now() + patience + Duration::from_secs(1);
    let nonce = uuid::Uuid::new_v4().to_string();
    loop {
        let now = host.clock.now();
        let begun = claim::change(host, &request.cluster, |terms| {
            let before = terms.trust();
            if word == Word::Marked && !terms.is_marked() && before != request.trust {
                return Err(TrustError::Decided(request.cluster.clone()));
            }
            // One that is undecided is made to share the secret, though that is what its Cluster says.
            let undecided = request.trust == Trust::SharedSecret && terms.is_marked();
            let claims = before != request.trust || undecided;
            if claims {
                let within = match request.trust {
                    Trust::Federated => CLAIMED,
                    Trust::SharedSecret => CLAIMED_FOR_RESTORE,
                };
                terms.begin(request.trust, &request.by, &nonce, now, within)?;
                if request.trust == Trust::Federated {
                    let cut_off = now.saturating_add(CLAIMED + ROOM).unwrap_or(Timestamp::MAX);
                    terms.set_ends(terms.ends().max(Some(cut_off)));
                }
            } else {
                terms.refuse_opposite(request.trust, now)?;
            }
            if request.trust == Trust::SharedSecret {
                terms.settle();
            }
            Ok(Begun {
                before,
                nonce: claims.then(|| nonce.clone()),
            })
        })
        .await;
        match begun {
            Err(TrustError::Busy { by, .. })
                if by == claim::WITHDRAWS && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(request.patience.look).await;
            }
            begun => return begun,
        }
    }
}

/// Ends a move that came to nothing, and makes undone what it told the member; not where the member is federated by now, nor where somebody else has
/// claimed it. They need what was told; where they fail, too, it is taken away when the Cluster says.
async fn give_up(
    host: &Host,
    member: &Member,
    nonce: &str,
    published: Option<Published>,
) -> Result<(), TrustError> {
    // Otherwise it was known to the member before.
    let told = published.filter(|it| matches!(it, Published::Created | Published::Replaced(_)));
    let nothing = told.is_none();
    let undoes = claim::change(host, member.name(), |terms| {
        let now = host.clock.now();
        if nothing || terms.trust() == Trust::Federated || terms.is_claimed_beside(nonce, now) {
            if terms.is_held_by(nonce) {
                terms.end();
            }
            return Ok(false);
        }
        let (by, within) = (claim::WITHDRAWS, CLAIMED_TO_WITHDRAW);
        terms.begin(Trust::SharedSecret, by, nonce, now, within)?;
        Ok(true)
    })
    .await?;
    let Some(told) = told.filter(|_| undoes) else {
        return Ok(());
    };
    let client = member
        .kubernetes()
        .map_err(|error| TrustError::Settings(error.clone()))?;
    let undone = undo(host, &client, &told);
    let _ = tokio::time::timeout(WITHDRAWN_WITHIN, undone).await;
    claim::change(host, member.name(), |terms| {
        if terms.is_held_by(nonce) {
            terms.end();
        }
        Ok(())
    })
    .await
}

async fn to_federated(
    host: &Host,
    request: &Request,
    member: &Arc<Member>,
    moved: bool,
) -> Result<Report, Refused> {
    let client = member
        .kubernetes()
        .map_err(|error| TrustError::Settings(error.clone()))?;
    let uid = identity_within(client.clone())
        .await
        .map_err(failed("read the identity of the member"))?
        .ok_or(TrustError::Silent("read the identity of the member"))?;
    if let Some(known) = member.identity().filter(|known| *known != uid) {
        return Err(TrustError::Other {
            cluster: request.cluster.clone(),
            found: uid,
            known: known.to_owned(),
        }
        .into());
    }
    if member.identity().is_none() {
        identify(host, member, &uid).await?;
    }
    let (proof, patience) = (&request.proof, &request.patience);
    let introduced = introduce(host, member, &uid, proof, patience, Over::Own).await;
    let published = introduced?;
    let written = claim::change(host, &request.cluster, |terms| {
        if terms.trust() != Trust::Federated {
            if !terms.is_moving(Trust::Federated) {
                return Err(TrustError::Busy {
                    by: "somebody else".into(),
                    to: Trust::SharedSecret,
                });
            }
            terms.set_trust(Trust::Federated);
            terms.end();
        }
        let known = terms.identity().to_owned();
        if known != uid {
            return Err(TrustError::Other {
                cluster: request.cluster.clone(),
                found: uid.clone(),
                known,
            });
        }
        terms.settle();
        terms.set_ends(None);
        Ok(())
    });
    if let Err(error) = written.await {
        let published = Some(published);
        return Err(Refused { error, published });
    }
    if matches!(published, Published::Replaced(_)) {
        settle(host, &client).await;
    }
    tracing::info!(
        by = request.by,
        cluster = request.cluster,
        moved,
        ?published,
        "trust is federated"
    );
    Ok(Report {
        cluster: request.cluster.clone(),
        trust: Trust::Federated,
        moved,
        changes: Vec::new(),
        restarted: false,
    })
}

/// Writes down who a member is, before anything is signed for it: of two Clusters that claim one identity at the same time, both have written it by
/// the time that they look, and at least one sees the other.
async fn identify(host: &Host, member: &Member, uid: &str) -> Result<(), TrustError> {
    let known = |error| TrustError::Known(Box::new(error));
    let name = member.name();
    join::refuse_known(host, uid, Some(name))
        .await
        .map_err(known)?;
    let written = claim::change(host, name, |terms| {
        let before = terms.identity().to_owned();
        if before.is_empty() {
            terms.set_identity(uid);
        } else if before != uid {
            return Err(TrustError::Other {
                cluster: name.to_owned(),
                found: uid.to_owned(),
                known: before,
            });
        }
        Ok(before.is_empty())
    })
    .await?;
    if let Err(error) = join::refuse_known_stored(host, uid, Some(name)).await {
        if written {
            claim::change(host, name, |terms| {
                if terms.identity() == uid {
                    terms.set_identity("");
                }
                Ok(())
            })
            .await?;
        }
        return Err(known(error));
    }
    Ok(())
}

async fn to_shared_secret(
    host: &Host,
    request: &Request,
    member: &Arc<Member>,
    begun: &Begun,
) -> Result<Report, TrustError> {
    let moved = begun.before != Trust::SharedSecret;
    let mut report = Report {
        cluster: request.cluster.clone(),
        trust: Trust::SharedSecret,
        moved,
        changes: Vec::new(),
        restarted: false,
    };
    let shared = member.with_trust(Trust::SharedSecret, member.identity().unwrap_or_default());
    // One that was undecided was never asked with a token.
    if (moved || member.is_undecided()) && shared.probe(&request.proof).await != Answer::Accepted {
        let asked = restore::Request {
            cluster: request.cluster.clone(),
            by: request.by.clone(),
            dry_run: false,
            agreed: None,
            renew: false,
            proof: request.proof.clone(),
            kubeconfig: None,
            guard: AddressGuard::default(),
            accept_ca: None,
            patience: request.patience.restore,
        };
        let mut observer = |_: &restore::State| std::ops::ControlFlow::Continue(());
        let restored = restore::restore_shared_secret(host, &asked, &mut observer)
            .await
            .map_err(|error| TrustError::Restore(Box::new(error)))?;
        report.changes = restored.changes;
        report.restarted = restored.restarted;
    }
    let ends = host
        .clock
        .now()
        .saturating_add(SignedDuration::from_secs(LIFE.as_secs()) + ROOM)
        .unwrap_or(Timestamp::MAX);
    claim::change(host, &request.cluster, |terms| {
        if terms.trust() == Trust::SharedSecret {
            if begun
                .nonce
                .as_deref()
                .is_some_and(|it| terms.is_held_by(it))
            {
                terms.end();
            }
            return Ok(());
        }
        if !terms.is_moving(Trust::SharedSecret) {
            return Err(TrustError::Busy {
                by: "somebody else".into(),
                to: Trust::Federated,
            });
        }
        terms.set_trust(Trust::SharedSecret);
        terms.set_ends(Some(ends));
        terms.end();
        Ok(())
    })
    .await?;
    tracing::info!(
        by = request.by,
        cluster = request.cluster,
        moved,
        "trust is by the shared secret"
    );
    Ok(report)
}

/// Waits until this replica itself forwards by the new trust; others follow at their own time, and the member accepts both meanwhile.
async fn in_force(host: &Host, request: &Request) {
    let seen = async {
        while host
            .registry
            .get(&request.cluster)
            .is_some_and(|member| member.trust() != request.trust || member.is_undecided())
        {
            tokio::time::sleep(request.patience.look).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), seen).await;
}
