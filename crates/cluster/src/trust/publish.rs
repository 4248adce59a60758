//! What a member is told to trust: its ConfigMap `hub-trust`.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kah_api::seed;
use kah_iam::{Trusted, federated::HOST_TRUST};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
    core::ObjectMeta,
};

use super::{TrustError, failed};

/// For one question to a member that may not answer.
const ANSWER: Duration = Duration::from_secs(4);
/// Tries of a write that somebody else came before.
const TRIES: usize = 4;

/// What came of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The member had been told nothing.
    Created,
    /// It had been told something else.
    Changed,
    /// It knew all this.
    Unchanged,
}

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), seed::NAMESPACE)
}

async fn within<T>(
    doing: &'static str,
    asked: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, TrustError> {
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(answer) => answer.map_err(failed(doing)),
        Err(_) => Err(TrustError::Silent(doing)),
    }
}

/// What the member behind this client has been told.
pub(super) async fn read(client: &Client) -> Result<Option<ConfigMap>, TrustError> {
    within(
        "read ConfigMap hub-trust of the member",
        maps(client).get_opt(HOST_TRUST),
    )
    .await
}

/// Tells the member behind this client to trust exactly this.
///
/// # Errors
/// [`TrustError`].
pub async fn publish(client: &Client, trusted: &Trusted) -> Result<Published, TrustError> {
    const WRITE: &str = "write ConfigMap hub-trust of the member";
    let (maps, data) = (maps(client), trusted.to_data());
    let mut tries = 0;
    loop {
        let found = read(client).await?;
        let (outcome, written) = match found {
            Some(map) if map.data.as_ref() == Some(&data) => return Ok(Published::Unchanged),
            Some(mut map) => {
                map.data = Some(data.clone());
                map.binary_data = None;
                let parameters = PostParams::default();
                let written = within(WRITE, maps.replace(HOST_TRUST, &parameters, &map)).await;
                (Published::Changed, written)
            }
            None => {
                let map = ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(HOST_TRUST.into()),
                        namespace: Some(seed::NAMESPACE.into()),
                        ..ObjectMeta::default()
                    },
                    data: Some(data.clone()),
                    ..ConfigMap::default()
                };
                let written = within(WRITE, maps.create(&PostParams::default(), &map)).await;
                (Published::Created, written)
            }
        };
        match written {
            Ok(_) => return Ok(outcome),
            Err(error) if error.is_conflict() && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// The member behind this client trusts `issuer` no more; what it was told by another host stays.
///
/// # Errors
/// [`TrustError`].
pub async fn withdraw(client: &Client, issuer: &str) -> Result<(), TrustError> {
    let mut tries = 0;
    loop {
        let Some(map) = read(client).await? else {
            return Ok(());
        };
        let of = map.data.as_ref().and_then(|data| data.get("issuer"));
        if of.is_some_and(|of| of != issuer) {
            return Ok(());
        }
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                resource_version: map.resource_version(),
                uid: map.uid(),
            }),
            ..DeleteParams::default()
        };
        let deleted = within(
            "delete ConfigMap hub-trust of the member",
            maps(client).delete(HOST_TRUST, &parameters),
        )
        .await;
        match deleted {
            Ok(_) => return Ok(()),
            Err(error) if error.is_absent() => return Ok(()),
            Err(error) if error.is_conflict() && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}
