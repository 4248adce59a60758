//! What a member is told to trust: its ConfigMap `hub-trust`.

use std::{collections::BTreeMap, time::Duration};

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

/// Whose words a publication may take the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// This host's own, and none.
    Own,
    /// Those of any host: somebody said so.
    Any,
}

/// What came of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// The member had been told nothing.
    Created,
    /// It had been told something else by this host, or what is no trust in anybody.
    Changed,
    /// Another host had told it this.
    Replaced(BTreeMap<String, String>),
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

/// The host whose words this map holds, if that is another one; as far as a name may be long, since it is a member that tells it.
pub(super) fn foreign(data: Option<&BTreeMap<String, String>>, issuer: &str) -> Option<String> {
    let of = data?.get("issuer")?.as_str();
    let plain = |it: &char| it.is_ascii_alphanumeric() || "-._:/".contains(*it);
    let name = || of.chars().filter(plain).take(128).collect();
    (!of.is_empty() && of != issuer).then(name)
}

/// Tells the member behind this client to trust exactly this.
///
/// # Errors
/// [`TrustError`]; [`TrustError::Foreign`] where another host has told it something that may not be replaced.
pub async fn publish(
    client: &Client,
    trusted: &Trusted,
    over: Over,
) -> Result<Published, TrustError> {
    const WRITE: &str = "write ConfigMap hub-trust of the member";
    let (maps, data) = (maps(client), trusted.to_data());
    let mut tries = 0;
    loop {
        let found = read(client).await?;
        let (outcome, written) = match found {
            Some(map) if map.data.as_ref() == Some(&data) => return Ok(Published::Unchanged),
            Some(mut map) => {
                let outcome = match (foreign(map.data.as_ref(), trusted.issuer()), over) {
                    (None, _) => Published::Changed,
                    (Some(of), Over::Own) => return Err(TrustError::Foreign(of)),
                    (Some(_), Over::Any) => {
                        Published::Replaced(map.data.take().unwrap_or_default())
                    }
                };
                map.data = Some(data.clone());
                map.binary_data = None;
                let parameters = PostParams::default();
                let written = within(WRITE, maps.replace(HOST_TRUST, &parameters, &map)).await;
                (outcome, written)
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

/// Makes undone what `issuer` published, where a member is not to trust it after all: it trusts whom it trusted before.
///
/// # Errors
/// [`TrustError`].
pub async fn undo(client: &Client, issuer: &str, published: &Published) -> Result<(), TrustError> {
    let before = match published {
        Published::Created => return withdraw(client, issuer).await,
        Published::Replaced(before) => before,
        Published::Changed | Published::Unchanged => return Ok(()),
    };
    let mut tries = 0;
    loop {
        let Some(mut map) = read(client).await? else {
            return Ok(());
        };
        let of = map.data.as_ref().and_then(|data| data.get("issuer"));
        if of.is_none_or(|of| of != issuer) {
            return Ok(());
        }
        map.data = Some(before.clone());
        let (maps, parameters) = (maps(client), PostParams::default());
        let written = within(
            "put back ConfigMap hub-trust of the member",
            maps.replace(HOST_TRUST, &parameters, &map),
        );
        match written.await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_absent() => return Ok(()),
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

#[cfg(test)]
mod tests {
    use kah_iam::SigningKeys;
    use kah_localkube::{Cluster, Options};

    use super::*;

    async fn told(client: &Client) -> Option<BTreeMap<String, String>> {
        let map = read(client).await.unwrap();
        map.map(|map| map.data.unwrap_or_default())
    }

    #[tokio::test]
    async fn another_hosts_words_are_replaced_only_where_somebody_said_so_and_come_back() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut options = Options::new("member");
        options.controllers = false;
        options.objects = vec![serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": seed::NAMESPACE},
        })];
        let member = Cluster::start(options).await.unwrap();
        let client = member.client();
        let now = jiff::Timestamp::UNIX_EPOCH;
        let of = |issuer: &str| SigningKeys::first(now).unwrap().trusted(issuer, "m");
        let (ours, theirs) = (of("kubeaihub:ours"), of("kubeaihub:theirs"));

        // Where nobody was trusted before, nobody is afterwards.
        let created = publish(&client, &ours, Over::Own).await.unwrap();
        assert_eq!(created, Published::Created);
        undo(&client, ours.issuer(), &created).await.unwrap();
        assert_eq!(told(&client).await, None);

        publish(&client, &theirs, Over::Own).await.unwrap();
        let refused = publish(&client, &ours, Over::Own).await.unwrap_err();
        assert!(matches!(&refused, TrustError::Foreign(of) if of == "kubeaihub:theirs"));
        let words = refused.to_string();
        assert!(words.contains("delete configmap hub-trust"), "{words}");
        assert_eq!(told(&client).await, Some(theirs.to_data()));

        let replaced = publish(&client, &ours, Over::Any).await.unwrap();
        assert_eq!(replaced, Published::Replaced(theirs.to_data()));
        assert_eq!(told(&client).await, Some(ours.to_data()));
        undo(&client, ours.issuer(), &replaced).await.unwrap();
        assert_eq!(told(&client).await, Some(theirs.to_data()));
        // Done twice, and where somebody else wrote since, nothing happens.
        undo(&client, ours.issuer(), &replaced).await.unwrap();
        let third = of("kubeaihub:third");
        publish(&client, &third, Over::Any).await.unwrap();
        undo(&client, ours.issuer(), &replaced).await.unwrap();
        assert_eq!(told(&client).await, Some(third.to_data()));
    }
}
