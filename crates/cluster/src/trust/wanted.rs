//! A Cluster that joins by an agent exists before anybody can ask the member anything. It is marked with the trust that it is to get, and gets that as
//! soon as the member can be asked; whoever moves its trust meanwhile has decided, and takes the mark off.

use kah_api::cluster::Trust;
use kube::core::DynamicObject;

use super::{Patience, Request, TrustError, WANTED, claim, move_to, offered};
use crate::Host;

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
    let annotations = object.metadata.annotations.as_ref();
    object.metadata.deletion_timestamp.is_none()
        && annotations
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
        Err(error @ TrustError::NotOffered { .. }) if member.server_version().await.is_some() => {
            return Ok(Tried::Lacking(error));
        }
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
    Box::pin(move_to(host, &request))
        .await
        .map(|_| Tried::Moved)
}

/// Takes the mark off a member that is to stay with the shared secret.
///
/// # Errors
/// [`TrustError`].
pub async fn give_up(host: &Host, cluster: &str) -> Result<(), TrustError> {
    claim::change(host, cluster, |terms| {
        terms.settle();
        Ok(())
    })
    .await
}
