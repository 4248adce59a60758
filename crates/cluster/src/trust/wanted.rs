//! A Cluster that joins by an agent exists before anybody can ask the member anything. It is marked with the trust that it is to get, and gets that as
//! soon as the member can be asked; whoever moves its trust meanwhile has decided, and takes the mark off. As long as the mark stands and the trust is not
//! federated, nobody's token is sent there: that a member offers nothing is its own word, and must not get it what a shared secret gives away.

use kah_api::cluster::Trust;
use kah_iam::Offer;
use kube::core::DynamicObject;

use super::{
    Patience, Request, TrustError, WANTED,
    moves::{Word, move_on},
};
use crate::{Host, Member, offer::NoOffer};

/// What came of one try.
#[derive(Debug)]
pub enum Tried {
    /// It is federated.
    Moved,
    /// Its ks-apiserver answers, and offers no federated trust. The error says what shows it.
    Lacking(TrustError),
}

/// Whether this Cluster is to become federated.
#[must_use]
pub fn is_wanted(object: &DynamicObject) -> bool {
    object.metadata.deletion_timestamp.is_none() && is_marked(object)
}

/// Whether it has the mark.
pub(crate) fn is_marked(object: &DynamicObject) -> bool {
    let annotations = object.metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get(WANTED))
        .is_some_and(|wanted| wanted == Trust::Federated.as_str())
}

/// Makes a marked member federated, if it can be asked. Nothing is written before it has answered.
///
/// # Errors
/// [`TrustError`]; it is to be tried again.
pub async fn pursue(host: &Host, cluster: &str, by: &str) -> Result<Tried, TrustError> {
    let member = host
        .registry
        .get(cluster)
        .ok_or_else(|| TrustError::Unknown(cluster.to_owned()))?;
    match offered(&member).await {
        Ok(_) => {}
        Err(error @ TrustError::NotOffered { .. }) => return Ok(Tried::Lacking(error)),
        Err(error) => return Err(error),
    }
    let request = Request {
        cluster: cluster.to_owned(),
        trust: Trust::Federated,
        by: by.to_owned(),
        proof: host.proof().map_err(TrustError::Proof)?,
        patience: Patience::default(),
    };
    // A move is a large future; that of every member is not to hold one.
    Box::pin(move_on(host, &request, Word::Marked))
        .await
        .map(|_| Tried::Moved)
}

/// What a member offers, asked by the way of callers; refused for one that offers no federated trust, or does not answer.
pub(crate) async fn offered(member: &Member) -> Result<Offer, TrustError> {
    let cluster = || member.name().to_owned();
    member.offer().await.map_err(|error| match error {
        NoOffer::Lacking(evidence) => TrustError::NotOffered {
            cluster: cluster(),
            evidence,
        },
        NoOffer::Unknown { code, evidence } => TrustError::Unasked {
            cluster: cluster(),
            code,
            evidence,
        },
    })
}
