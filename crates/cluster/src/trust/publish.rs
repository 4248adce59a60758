//! What a member is told to trust: its ConfigMap `hub-trust`.
//!
//! Invariant: what another host told it is kept in the same ConfigMap by the write that replaces it, until the member belongs to this host ([`settle`]);
//! whoever takes this host's words away before that puts the other's back, also after the process that replaced them was killed.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::ConfigMap};
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
/// Tries of a write that somebody else came before; fewer than of the host's own objects, since each may take [`ANSWER`] twice.
const TRIES: usize = 4;

/// The key under which another host's words are kept, JSON. It is binary data, which nobody takes for trust.
const KEPT: &str = "replaced.json";
/// Words that are longer, encoded, are not replaced: they could not be kept for sure. A host's are some hundred bytes for each of its keys.
const MOST_KEPT: usize = 64 * 1024;

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
    /// Another host had told it this, now or before a publication that was never settled.
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

/// What another host than `issuer` had told the member, as it was kept.
pub(super) fn kept(map: &ConfigMap, issuer: &str) -> Option<BTreeMap<String, String>> {
    let kept = &map.binary_data.as_ref()?.get(KEPT)?.0;
    if kept.len() > MOST_KEPT {
        return None;
    }
    let data = serde_json::from_slice(kept).ok()?;
    foreign(Some(&data), issuer).is_some().then_some(data)
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
            Some(mut map) => {
                let before = kept(&map, trusted.issuer());
                let same = map.data.as_ref() == Some(&data);
                let of = foreign(map.data.as_ref(), trusted.issuer());
                let outcome = match (of, over, before) {
                    (None, _, Some(before)) => Published::Replaced(before),
                    (None, _, None) if same => Published::Unchanged,
                    (None, _, None) => Published::Changed,
                    (Some(of), Over::Own, _) => return Err(TrustError::Foreign(of)),
                    (Some(of), Over::Any, _) => {
                        let before = map.data.take().unwrap_or_default();
                        let text = serde_json::to_vec(&before).unwrap_or_default();
                        if text.len() > MOST_KEPT {
                            return Err(TrustError::Foreign(of));
                        }
                        map.binary_data = Some([(KEPT.to_owned(), ByteString(text))].into());
                        Published::Replaced(before)
                    }
                };
                if same {
                    return Ok(outcome);
                }
                map.data = Some(data.clone());
                if !matches!(outcome, Published::Replaced(_)) {
                    map.binary_data = None;
                }
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

/// The member behind this client belongs to `issuer` now: what another host had told it is kept no longer.
///
/// # Errors
/// [`TrustError`].
pub(super) async fn settle(client: &Client, issuer: &str) -> Result<(), TrustError> {
    let mut tries = 0;
    loop {
        let Some(mut map) = read(client).await? else {
            return Ok(());
        };
        if kept(&map, issuer).is_none() || foreign(map.data.as_ref(), issuer).is_some() {
            return Ok(());
        }
        map.binary_data = None;
        let (maps, parameters) = (maps(client), PostParams::default());
        let written = within(
            "settle ConfigMap hub-trust of the member",
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

/// Makes undone what `issuer` published, where a member is not to trust it after all: it trusts whom it trusted before.
///
/// # Errors
/// [`TrustError`].
pub async fn undo(client: &Client, issuer: &str, published: &Published) -> Result<(), TrustError> {
    match published {
        Published::Created => take(client, issuer, None).await,
        Published::Replaced(before) => take(client, issuer, Some(before)).await,
        Published::Changed | Published::Unchanged => Ok(()),
    }
}

/// The member behind this client trusts `issuer` no more; what it was told by another host stays, and what was kept of one comes back.
///
/// # Errors
/// [`TrustError`].
pub async fn withdraw(client: &Client, issuer: &str) -> Result<(), TrustError> {
    take(client, issuer, None).await
}

/// Takes the words of `issuer` away; in their place come those of `before`, or what was kept.
async fn take(
    client: &Client,
    issuer: &str,
    before: Option<&BTreeMap<String, String>>,
) -> Result<(), TrustError> {
    let maps = maps(client);
    let mut tries = 0;
    loop {
        let Some(mut map) = read(client).await? else {
            return Ok(());
        };
        let of = map.data.as_ref().and_then(|data| data.get("issuer"));
        // Words of nobody are not those that took the place of another's.
        if of.map_or(before.is_some(), |of| of != issuer) {
            return Ok(());
        }
        let taken = match before.cloned().or_else(|| kept(&map, issuer)) {
            Some(before) => {
                map.data = Some(before);
                map.binary_data = None;
                let parameters = PostParams::default();
                let replaced = within(
                    "put back ConfigMap hub-trust of the member",
                    maps.replace(HOST_TRUST, &parameters, &map),
                );
                replaced.await.map(drop)
            }
            None => {
                let parameters = DeleteParams {
                    preconditions: Some(Preconditions {
                        resource_version: map.resource_version(),
                        uid: map.uid(),
                    }),
                    ..DeleteParams::default()
                };
                let deleted = within(
                    "delete ConfigMap hub-trust of the member",
                    maps.delete(HOST_TRUST, &parameters),
                );
                deleted.await.map(drop)
            }
        };
        match taken {
            Ok(()) => return Ok(()),
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

    async fn member() -> Cluster {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut options = Options::new("member");
        options.controllers = false;
        options.objects = vec![serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": seed::NAMESPACE},
        })];
        Cluster::start(options).await.unwrap()
    }

    #[tokio::test]
    async fn another_hosts_words_are_replaced_only_where_somebody_said_so_and_come_back() {
        let member = member().await;
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

        // A process that was killed leaves them where each later one finds them: one that fails, too, or that takes its keys away.
        publish(&client, &theirs, Over::Any).await.unwrap();
        publish(&client, &ours, Over::Any).await.unwrap();
        let later = of("kubeaihub:ours");
        for ours in [&ours, &later] {
            let again = publish(&client, ours, Over::Own).await.unwrap();
            assert_eq!(again, Published::Replaced(theirs.to_data()));
        }
        assert_eq!(told(&client).await, Some(later.to_data()));
        withdraw(&client, ours.issuer()).await.unwrap();
        assert_eq!(told(&client).await, Some(theirs.to_data()));
        withdraw(&client, ours.issuer()).await.unwrap();
        assert_eq!(told(&client).await, Some(theirs.to_data()));

        // Where the member belongs to us they come back no more.
        publish(&client, &ours, Over::Any).await.unwrap();
        settle(&client, ours.issuer()).await.unwrap();
        let again = publish(&client, &ours, Over::Own).await.unwrap();
        assert_eq!(again, Published::Unchanged);
        withdraw(&client, ours.issuer()).await.unwrap();
        assert_eq!(told(&client).await, None);
    }

    #[tokio::test]
    async fn words_that_are_too_long_to_be_kept_are_not_replaced() {
        let member = member().await;
        let client = member.client();
        let keys = SigningKeys::first(jiff::Timestamp::UNIX_EPOCH).unwrap();
        let mut map = ConfigMap::default();
        map.metadata.name = Some(HOST_TRUST.into());
        let long = "x".repeat(MOST_KEPT);
        map.data = Some(
            [("issuer", "another"), ("keys", &long)]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
        );
        maps(&client)
            .create(&PostParams::default(), &map)
            .await
            .unwrap();
        let ours = keys.trusted("kubeaihub:ours", "m");
        let refused = publish(&client, &ours, Over::Any).await.unwrap_err();
        assert!(matches!(refused, TrustError::Foreign(_)), "{refused}");
        assert_eq!(told(&client).await, map.data);
    }
}
