//! What a member trusts: the ConfigMap `hub-trust`, followed while it runs.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwapOption;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kah_api::seed::NAMESPACE;
use kube::{Api, Client, ResourceExt, runtime::watcher};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{HOST_TRUST, KeyError, VerifyingKey};
use crate::users::{Change, follow};

/// More keys than a rotation ever needs are no set of keys.
const MOST_KEYS: usize = 16;

/// Why the data of a ConfigMap `hub-trust` gives no trust.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the texts say it
pub enum TrustError {
    #[error("read ConfigMap hub-trust: it has no {0}")]
    Missing(&'static str),
    #[error("read ConfigMap hub-trust: its audience is another cluster than this one")]
    Audience,
    #[error("read ConfigMap hub-trust: its keys are no JWK set")]
    Keys,
    #[error("read ConfigMap hub-trust")]
    Key(#[from] KeyError),
}

/// A host that a member trusts: its name, its public keys, and the one audience that its tokens must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    pub(super) issuer: String,
    pub(super) audience: String,
    keys: HashMap<String, VerifyingKey>,
}

impl Trusted {
    /// Trusts these keys of `issuer` for tokens that are meant for `audience`.
    #[must_use]
    pub fn new(
        issuer: &str,
        audience: &str,
        keys: impl IntoIterator<Item = (String, VerifyingKey)>,
    ) -> Self {
        Self {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            keys: keys.into_iter().collect(),
        }
    }

    /// Reads the data of the ConfigMap. `uid` is this cluster's own: trust that was given to another one is none.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn read(data: &BTreeMap<String, String>, uid: &str) -> Result<Self, TrustError> {
        let get = |name: &'static str| {
            data.get(name)
                .filter(|value| !value.is_empty())
                .ok_or(TrustError::Missing(name))
        };
        if get("audience")? != uid {
            return Err(TrustError::Audience);
        }
        let set: Value = serde_json::from_str(get("keys")?).map_err(|_| TrustError::Keys)?;
        let listed = set
            .get("keys")
            .and_then(Value::as_array)
            .filter(|keys| keys.len() <= MOST_KEYS)
            .ok_or(TrustError::Keys)?;
        let keys: Vec<_> = listed
            .iter()
            .map(VerifyingKey::from_jwk)
            .collect::<Result<_, _>>()?;
        Ok(Self::new(get("issuer")?, uid, keys))
    }

    /// What [`Self::read`] reads.
    #[must_use]
    pub fn to_data(&self) -> BTreeMap<String, String> {
        let mut keys: Vec<_> = self.keys.iter().collect();
        keys.sort_by(|a, b| a.0.cmp(b.0));
        let keys: Vec<Value> = keys.iter().map(|(kid, key)| key.to_jwk(kid)).collect();
        BTreeMap::from([
            ("issuer".to_owned(), self.issuer.clone()),
            ("audience".to_owned(), self.audience.clone()),
            ("keys".to_owned(), json!({ "keys": keys }).to_string()),
        ])
    }

    /// The ids of its keys, the oldest first.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.keys.keys().cloned().collect();
        ids.sort();
        ids
    }

    /// The host whose keys they are.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(super) fn key(&self, kid: &str) -> Option<&VerifyingKey> {
        self.keys.get(kid)
    }
}

/// What a member says to everyone about its trust: whether it can know callers by tokens of a host, and which keys it holds. No secret is part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Offer {
    /// Kinds of trust beside the shared secret: `federated`.
    pub offers: Vec<String>,
    /// Whom tokens must be meant for: this member's identity.
    pub audience: String,
    /// The host that is trusted now; empty where none is.
    pub issuer: String,
    /// The ids of its keys.
    pub keys: Vec<String>,
}

/// The host that this member trusts now, if any. Readers never wait.
#[derive(Debug, Default)]
pub struct HostTrust {
    trusted: ArcSwapOption<Trusted>,
    /// This member's own identity, once it is known.
    own: OnceLock<String>,
}

impl HostTrust {
    /// Trusts this and nothing else from now on.
    pub fn set(&self, trusted: Option<Trusted>) {
        self.trusted.store(trusted.map(Arc::new));
    }

    /// What is trusted.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Trusted>> {
        self.trusted.load_full()
    }

    /// What is said about it.
    #[must_use]
    pub fn offer(&self) -> Offer {
        let trusted = self.get();
        Offer {
            offers: vec!["federated".into()],
            audience: self.own.get().cloned().unwrap_or_default(),
            issuer: trusted
                .as_ref()
                .map(|trusted| trusted.issuer.clone())
                .unwrap_or_default(),
            keys: trusted.map(|trusted| trusted.ids()).unwrap_or_default(),
        }
    }

    fn take(&self, map: Option<&ConfigMap>, uid: &str) {
        let data = map.and_then(|map| map.data.as_ref());
        match data.map(|data| Trusted::read(data, uid)).transpose() {
            Ok(trusted) => self.set(trusted),
            Err(error) => {
                // What cannot be read is not trusted, and neither is what stood there before.
                tracing::warn!(%error, "no federated trust");
                self.set(None);
            }
        }
    }
}

/// Keeps the trust current until cancelled. `synced` is called when it is known for the first time.
pub async fn follow_host_trust(
    client: Client,
    trust: Arc<HostTrust>,
    cancel: CancellationToken,
    synced: impl FnOnce() + Send,
) {
    let Some(Some(uid)) = cancel.run_until_cancelled(own_uid(&client)).await else {
        return;
    };
    // Another task may have set the same before.
    let _ = trust.own.set(uid.clone());
    let only = watcher::Config::default().fields(&format!("metadata.name={HOST_TRUST}"));
    let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let take = |change: Change<ConfigMap>| match change {
        Change::All(listed) => {
            trust.take(listed.iter().find(|map| map.name_any() == HOST_TRUST), &uid)
        }
        Change::Apply(map) if map.name_any() == HOST_TRUST => trust.take(Some(&map), &uid),
        Change::Delete(map) if map.name_any() == HOST_TRUST => trust.take(None, &uid),
        _ => {}
    };
    follow(
        maps,
        only,
        "watch ConfigMap hub-trust",
        take,
        cancel,
        synced,
    )
    .await;
}

/// The UID of the namespace `kube-system`: what a cluster is known by. Asked for until it is answered.
pub(super) async fn own_uid(client: &Client) -> Option<String> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut pause = std::time::Duration::from_millis(50);
    loop {
        match namespaces.get("kube-system").await {
            Ok(namespace) => return namespace.uid(),
            Err(error) => tracing::warn!(%error, "read the namespace kube-system"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(std::time::Duration::from_secs(10));
    }
}
