//! Trust between this host and its members (DESIGN.md §4): who holds which keys, and how a member is moved from one trust to the other.
//!
//! Invariants:
//! * A member is federated only after it was seen to accept a token of this host, and stays told of the host's keys until the last token has ended.
//! * What is done twice has the same outcome; what was cut off is finished by doing it again, or by the reconciler that follows [`rotation`].

mod claim;
mod error;
pub mod keys;
mod publish;
pub mod rotation;
mod survey;
mod wanted;

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use kah_api::cluster::Trust;
use kah_iam::federated::{LIFE, issuer};
use kube::Client;
use serde::Serialize;

use crate::{
    Answer, CallerCredential, Host, Member,
    guard::AddressGuard,
    identity::{identity, identity_within},
    join, restore,
};
use error::failed;

pub use claim::WANTED;
pub use error::TrustError;
pub use keys::{Rotation, rotate};
pub use publish::{Over, Published, publish, withdraw};
pub use survey::{Survey, survey};
pub use wanted::{Tried, is_wanted, pursue};
pub(crate) use wanted::{is_marked, offered};

/// A move claims a member for so long; one of the other direction waits for that at most.
const CLAIMED: SignedDuration = SignedDuration::from_secs(40);
/// The same where the member's configuration may have to be changed, and its ks-apiserver restarted.
const CLAIMED_FOR_RESTORE: SignedDuration = SignedDuration::from_secs(150);
/// The same while the host's keys are taken from a member; a move waits for the end of that. It ends before by a second at least.
const CLAIMED_TO_WITHDRAW: SignedDuration = SignedDuration::from_secs(12);
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(10);
/// Room for replicas of the host that hear late of what was moved, and for clocks.
const ROOM: SignedDuration = SignedDuration::from_secs(60);
/// Answers in a row by which a member is taken to accept: it may have more than one replica.
const STEADY: usize = 3;

/// The name by which members know the host behind this client.
///
/// # Errors
/// [`TrustError::Api`].
pub async fn issuer_of(client: &Client) -> Result<String, TrustError> {
    let uid = identity(client.clone())
        .await
        .map_err(failed("read the identity of the host"))?;
    Ok(issuer(&uid))
}

/// Lets a host and a member that nobody reaches yet know each other, by their kube-apiservers alone: the member is told the host's keys, of which the
/// first is made if need be. Gives the member's identity.
///
/// # Errors
/// [`TrustError`].
pub async fn acquaint(
    host: &Client,
    member: &Client,
    now: jiff::Timestamp,
) -> Result<String, TrustError> {
    let keys = keys::ensure(host, now).await?;
    let issuer = issuer_of(host).await?;
    let uid = identity(member.clone())
        .await
        .map_err(failed("read the identity of the member"))?;
    publish(member, &keys.trusted(&issuer, &uid), Over::Own).await?;
    Ok(uid)
}

/// How long each part may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a member to accept what it was told.
    pub accept: Duration,
    /// Between two looks.
    pub look: Duration,
    /// Where its configuration has to be changed.
    pub restore: restore::Patience,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            accept: Duration::from_secs(15),
            look: Duration::from_millis(100),
            restore: restore::Patience::default(),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The Cluster's name.
    pub cluster: String,
    /// Which trust.
    pub trust: Trust,
    /// Who asks.
    pub by: String,
    /// Their token of the host, by which acceptance is proven over the real route.
    pub proof: CallerCredential,
    /// Time limits.
    pub patience: Patience,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The Cluster's name.
    pub cluster: String,
    /// The trust that is in force.
    pub trust: Trust,
    /// Whether it was another one before.
    pub moved: bool,
    /// What was changed in the member's configuration for it.
    pub changes: Vec<restore::Change>,
    /// Whether its ks-apiserver was restarted for it.
    pub restarted: bool,
}

/// Moves a member to a trust, while requests go on. A member that is federated already is told the keys again.
///
/// # Errors
/// [`TrustError`]; the member is known to accept what it accepted before then.
pub async fn move_to(host: &Host, request: &Request) -> Result<Report, TrustError> {
    let cluster = request.cluster.as_str();
    let member = host
        .registry
        .get(cluster)
        .ok_or_else(|| TrustError::Unknown(cluster.to_owned()))?;
    if member.is_host() {
        return Err(TrustError::IsHost(cluster.to_owned()));
    }
    let within = match request.trust {
        Trust::Federated => CLAIMED,
        Trust::SharedSecret => CLAIMED_FOR_RESTORE,
    };
    let before = begin(host, request, within).await?;
    let moved = before != request.trust;
    let done = match request.trust {
        Trust::Federated => to_federated(host, request, &member, moved).await,
        Trust::SharedSecret => to_shared_secret(host, request, &member, moved).await,
    };
    match done {
        Ok(report) => {
            in_force(host, request).await;
            Ok(report)
        }
        Err(error) => {
            if moved && !matches!(error, TrustError::Busy { .. }) {
                // What stays behind is a claim that ends by itself.
                let _ = claim::change(host, cluster, |terms| {
                    if terms.is_moving(request.trust) {
                        terms.end();
                    }
                    Ok(())
                })
                .await;
            }
            Err(error)
        }
    }
}

/// Claims the member, and gives the trust that is in force. While the host's keys are taken from it, that is waited for: people go before, and what they
/// tell the member must not be taken away a moment later.
async fn begin(
    host: &Host,
    request: &Request,
    within: SignedDuration,
) -> Result<Trust, TrustError> {
    let patience = Duration::try_from(CLAIMED_TO_WITHDRAW).unwrap_or_default();
    let deadline = tokio::time::Instant::now() + patience + Duration::from_secs(1);
    loop {
        let now = host.clock.now();
        let begun = claim::change(host, &request.cluster, |terms| {
            if terms.trust() != request.trust {
                terms.begin(request.trust, &request.by, now, within)?;
            }
            if request.trust == Trust::SharedSecret {
                terms.settle();
            }
            Ok(terms.trust())
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

async fn to_federated(
    host: &Host,
    request: &Request,
    member: &Arc<Member>,
    moved: bool,
) -> Result<Report, TrustError> {
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
        });
    }
    if member.identity().is_none() {
        identify(host, member, &uid).await?;
    }
    let (proof, patience) = (&request.proof, &request.patience);
    let introduced = introduce(host, member, &uid, proof, patience, Over::Own).await;
    let published = match introduced {
        Ok(published) => published,
        Err(Refused { error, published }) => {
            // Nobody trusted this host there before, and nobody depends on it now.
            if moved && let Some(published) = published {
                undo(host, &client, &published).await;
            }
            return Err(error);
        }
    };
    claim::change(host, &request.cluster, |terms| {
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
    })
    .await?;
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

/// Takes back what a member was told, as far as it can be reached.
pub(crate) async fn take_back(host: &Host, client: &Client) {
    if let Some((issuer, _)) = host.registry.signer().keys()
        && let Err(error) = withdraw(client, &issuer).await
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "take trust back");
    }
}

/// Makes undone what a member was told for something that came to nothing, as far as it can be reached.
pub(crate) async fn undo(host: &Host, client: &Client, published: &Published) {
    if let Some((issuer, _)) = host.registry.signer().keys()
        && let Err(error) = publish::undo(client, &issuer, published).await
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "put trust back");
    }
}

/// An introduction that failed, and what it left on the member.
pub(crate) struct Refused {
    pub(crate) error: TrustError,
    pub(crate) published: Option<Published>,
}

/// Tells a member of the host's keys, and waits until it accepts a token that was minted for it.
pub(crate) async fn introduce(
    host: &Host,
    member: &Arc<Member>,
    uid: &str,
    proof: &CallerCredential,
    patience: &Patience,
    over: Over,
) -> Result<Published, Refused> {
    let refused = |error| Refused {
        error,
        published: None,
    };
    let offer = offered(member).await.map_err(refused)?;
    // Its ks-apiserver, asked by the way of callers, must be that of the cluster whose kube-apiserver we talk to.
    if offer.audience != uid {
        return Err(refused(TrustError::Other {
            cluster: member.name().to_owned(),
            found: offer.audience,
            known: uid.to_owned(),
        }));
    }
    keys::signing(host).await.map_err(refused)?;
    let trusted = host
        .registry
        .signer()
        .trusted(uid)
        .ok_or_else(|| refused(TrustError::NoIdentity(member.name().to_owned())))?;
    let client = member
        .kubernetes()
        .map_err(|error| refused(TrustError::Settings(error.clone())))?;
    let published = publish(&client, &trusted, over).await.map_err(refused)?;
    let candidate = member.with_trust(Trust::Federated, uid);
    let deadline = tokio::time::Instant::now() + patience.accept;
    let mut steady = 0;
    loop {
        match candidate.probe(proof).await {
            Answer::Accepted => {
                steady += 1;
                if steady == STEADY {
                    return Ok(published);
                }
                continue;
            }
            Answer::Refused { code, evidence } => {
                steady = 0;
                if tokio::time::Instant::now() >= deadline {
                    return Err(Refused {
                        error: TrustError::NotAccepted { code, evidence },
                        published: Some(published),
                    });
                }
            }
        }
        tokio::time::sleep(patience.look).await;
    }
}

async fn to_shared_secret(
    host: &Host,
    request: &Request,
    member: &Arc<Member>,
    moved: bool,
) -> Result<Report, TrustError> {
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
        .unwrap_or(jiff::Timestamp::MAX);
    claim::change(host, &request.cluster, |terms| {
        if terms.trust() == Trust::SharedSecret {
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

/// Takes the host's keys from a member that was moved away from federated trust, once its last token has ended. Does nothing before that, and nothing
/// while the member is moved back.
///
/// # Errors
/// [`TrustError`]; it is to be tried again.
pub async fn withdraw_ended(host: &Host, member: &Member) -> Result<(), TrustError> {
    let Some(ends) = member.annotation(claim::ENDS) else {
        return Ok(());
    };
    let now = host.clock.now();
    if ends.parse().is_ok_and(|ends: jiff::Timestamp| now < ends) {
        return Ok(());
    }
    let client = member
        .kubernetes()
        .map_err(|error| TrustError::Settings(error.clone()))?;
    let issuer = issuer_of(&host.client).await?;
    // Nobody waits for a member that does not even answer.
    publish::read(&client).await?;
    let due = claim::change(host, member.name(), |terms| {
        let due = terms.trust() == Trust::SharedSecret && terms.ends().is_some_and(|at| at <= now);
        if due {
            let (by, within) = (claim::WITHDRAWS, CLAIMED_TO_WITHDRAW);
            terms.begin(Trust::SharedSecret, by, now, within)?;
        }
        Ok(due)
    })
    .await?;
    if !due {
        return Ok(());
    }
    let withdrawn = tokio::time::timeout(WITHDRAWN_WITHIN, withdraw(&client, &issuer))
        .await
        .unwrap_or(Err(TrustError::Silent(
            "take the host's keys from the member",
        )));
    let ended = claim::change(host, member.name(), |terms| {
        if terms.is_moving(Trust::SharedSecret) {
            if withdrawn.is_ok() {
                terms.set_ends(None);
            }
            terms.end();
        }
        Ok(())
    })
    .await;
    withdrawn.and(ended)
}

/// What a member has been told of this host's keys.
pub(crate) async fn told(host: &Host, member: &Member) -> rotation::Told {
    let audience = member.identity().unwrap_or_default();
    let wanted = host.registry.signer().trusted(audience);
    survey::told(member, wanted.as_ref()).await
}

/// Tells a federated member the host's keys, as they are now.
///
/// # Errors
/// [`TrustError`].
pub async fn tell(host: &Host, member: &Member) -> Result<Published, TrustError> {
    keys::signing(host).await?;
    let audience = member.identity().unwrap_or_default();
    let trusted = host.registry.signer().trusted(audience);
    let client = member
        .kubernetes()
        .map_err(|error| TrustError::Settings(error.clone()))?;
    match trusted.filter(|_| !audience.is_empty()) {
        Some(trusted) => publish(&client, &trusted, Over::Own).await,
        None => Err(TrustError::NoIdentity(member.name().to_owned())),
    }
}
