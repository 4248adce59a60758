//! Trust between this host and its members (DESIGN.md §4): who holds which keys, and how a member is moved from one trust to the other.
//!
//! Invariants:
//! * A member is federated only after it was seen to accept a token of this host, and stays told of the host's keys until the last token has ended.
//! * What is done twice has the same outcome; what was cut off is finished by doing it again, or by the reconciler that follows [`rotation`].

mod claim;
mod error;
pub mod keys;
mod moves;
mod publish;
pub mod rotation;
mod survey;
mod wanted;

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use kah_api::cluster::Trust;
use kah_iam::federated::issuer;
use kube::Client;
use serde::Serialize;

use crate::{Answer, CallerCredential, Host, Member, identity::identity, restore};
use error::failed;

pub use claim::WANTED;
pub use error::TrustError;
pub use keys::{Rotation, rotate};
pub use moves::move_to;
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

/// The member belongs to this host now: what another one had told it before is kept no longer. Where that fails, the reconciler does it.
pub(crate) async fn settle(host: &Host, client: &Client) {
    if let Some((issuer, _)) = host.registry.signer().keys()
        && let Err(error) = publish::settle(client, &issuer).await
    {
        tracing::info!(error = &error as &dyn std::error::Error, "settle trust");
    }
}

/// An introduction that failed, and what it left on the member.
pub(crate) struct Refused {
    pub(crate) error: TrustError,
    pub(crate) published: Option<Published>,
}

impl From<TrustError> for Refused {
    fn from(error: TrustError) -> Self {
        Self {
            error,
            published: None,
        }
    }
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
    let refused = Refused::from;
    let offer = offered(member).await?;
    // Its ks-apiserver, asked by the way of callers, must be that of the cluster whose kube-apiserver we talk to.
    if offer.audience != uid {
        return Err(refused(TrustError::Other {
            cluster: member.name().to_owned(),
            found: offer.audience,
            known: uid.to_owned(),
        }));
    }
    keys::signing(host).await?;
    let trusted = host
        .registry
        .signer()
        .trusted(uid)
        .ok_or_else(|| refused(TrustError::NoIdentity(member.name().to_owned())))?;
    let client = member
        .kubernetes()
        .map_err(|error| refused(TrustError::Settings(error.clone())))?;
    let published = publish(&client, &trusted, over).await?;
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

/// Takes the host's keys from a member that was moved away from federated trust, once its last token has ended, and from one whose move to federated
/// trust was cut off. Does nothing before that, and nothing while the member is moved back.
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
    let nonce = uuid::Uuid::new_v4().to_string();
    let due = claim::change(host, member.name(), |terms| {
        let due = terms.trust() == Trust::SharedSecret && terms.ends().is_some_and(|at| at <= now);
        if due {
            let (by, within) = (claim::WITHDRAWS, CLAIMED_TO_WITHDRAW);
            terms.begin(Trust::SharedSecret, by, &nonce, now, within)?;
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
        if terms.is_held_by(&nonce) {
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
        Some(trusted) => {
            let published = publish(&client, &trusted, Over::Own).await?;
            if matches!(published, Published::Replaced(_)) {
                publish::settle(&client, trusted.issuer()).await?;
            }
            Ok(published)
        }
        None => Err(TrustError::NoIdentity(member.name().to_owned())),
    }
}
