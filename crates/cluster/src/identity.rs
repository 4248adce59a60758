//! What a cluster is known by: the UID of its namespace kube-system, which no other cluster has.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};

use crate::{
    Host,
    join::{JoinError, refuse_known},
};

/// For one question to a cluster that may not answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(3);

/// The identity of the cluster behind this client.
pub(crate) async fn identity(client: Client) -> Result<String, kube::Error> {
    let namespaces: Api<Namespace> = Api::all(client);
    let namespace = namespaces.get("kube-system").await?;
    Ok(namespace.metadata.uid.unwrap_or_default())
}

/// The same; `None` where it is not told within [`ANSWER`].
pub(crate) async fn identity_within(client: Client) -> Result<Option<String>, kube::Error> {
    match tokio::time::timeout(ANSWER, identity(client)).await {
        Ok(told) => told.map(Some),
        Err(_) => Ok(None),
    }
}

/// The other Cluster that has the identity `uid`, if there is one. An identity that is not yet written down for `cluster` is looked for as at a join:
/// by what is stored, and by asking members of which none is known.
///
/// # Errors
/// [`JoinError`] where that cannot be found out now.
pub async fn holder(host: &Host, cluster: &str, uid: &str) -> Result<Option<String>, JoinError> {
    let members = host.registry.members();
    let other = members
        .iter()
        .find(|member| member.name() != cluster && member.identity() == Some(uid));
    if let Some(other) = other {
        return Ok(Some(other.name().to_owned()));
    }
    let known = members
        .iter()
        .any(|member| member.name() == cluster && member.identity() == Some(uid));
    if known {
        return Ok(None);
    }
    match refuse_known(host, uid, Some(cluster)).await {
        Ok(()) => Ok(None),
        Err(JoinError::Same(other) | JoinError::IsHost(other)) => Ok(Some(other)),
        Err(error) => Err(error),
    }
}
