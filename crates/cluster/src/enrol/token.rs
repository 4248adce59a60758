//! Join tokens, and where the host keeps what it needs to know them again.

use std::{borrow::Cow, collections::BTreeMap, fmt, time::Duration};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, rand};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kah_api::{image::Image, seed};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
    core::DynamicObject,
};
use serde::Deserialize;

use super::{EnrolError, Invite, Proxy, TRIES, failed};
use crate::{Host, join, tunnel::authority::hex};

/// How long a token is good.
pub const LIFE: Duration = Duration::from_secs(15 * 60);
/// Random bytes of a token.
const STRENGTH: usize = 32;
/// What names of the Secrets begin with; the Cluster's name follows.
const PREFIX: &str = "hub-join-";
/// The last segments before a token in a path.
const ROUTE: [&str; 3] = ["hub.kubeaihub.io", "v1", "join"];

/// A join token: the Cluster's name and random digits. Never shown but to who asked for it; `Debug` does not.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A text that is no token is one that nobody knows.
        Ok(Self(String::deserialize(deserializer)?))
    }
}

impl Token {
    fn new(cluster: &str) -> Result<Self, EnrolError> {
        let mut bytes = [0; STRENGTH];
        rand::fill(&mut bytes).map_err(|_| crate::tunnel::authority::AuthorityError::Random)?;
        Ok(Self(format!("{cluster}.{}", hex(&bytes))))
    }

    /// A text that may be a token.
    #[must_use]
    pub fn given(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The token itself. Secret.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The name of the Cluster that it speaks of, if it has the shape of a token.
    fn cluster(&self) -> Option<&str> {
        let (name, digits) = self.0.split_once('.')?;
        let random = digits.len() == 2 * STRENGTH
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (random && join::is_name(name)).then_some(name)
    }

    fn hash(&self) -> String {
        hex(digest::digest(&digest::SHA256, self.0.as_bytes()).as_ref())
    }
}

/// Tells one token from another, and tells nothing of either.
pub(super) fn mark(token: &str) -> String {
    let print = digest::digest(&digest::SHA256, format!("mark of {token}").as_bytes());
    hex(print.as_ref()).chars().take(16).collect()
}

/// What the host knows of a token.
pub(super) struct Invited {
    pub(super) cluster: String,
    /// Of the Cluster object.
    pub(super) uid: String,
    pub(super) hub: String,
    pub(super) insecure_hub: bool,
    pub(super) proxy: Option<Proxy>,
    pub(super) image: Option<Image>,
    pub(super) expires: Timestamp,
    /// The key that it was used with.
    used: Option<String>,
    /// What that key's agent was enrolled as.
    pub(super) generation: Option<u64>,
    secret: Secret,
}

impl Invited {
    /// Whether the token may still be used, by anybody.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), EnrolError> {
        if self.used.is_some() {
            return Err(EnrolError::TokenUsed);
        }
        if self.expires <= now {
            return Err(EnrolError::TokenExpired(self.expires));
        }
        Ok(())
    }

    pub(super) fn is_used_by(&self, key: &str) -> bool {
        self.used.as_deref() == Some(key)
    }
}

/// The Secrets that hold the tokens' hashes: one a Cluster, which goes with it.
pub(super) struct Invitations(Api<Secret>);

impl Invitations {
    pub(super) fn of(host: &Host) -> Self {
        Self(Api::namespaced(host.client.clone(), seed::NAMESPACE))
    }

    /// A new token for this Cluster, in place of any other.
    pub(super) async fn make(
        &self,
        cluster: &DynamicObject,
        hub: &str,
        wanted: &Invite,
        now: Timestamp,
    ) -> Result<(Token, Timestamp), EnrolError> {
        let name = cluster.metadata.name.clone().unwrap_or_default();
        let uid = cluster.metadata.uid.clone().unwrap_or_default();
        let token = Token::new(&name)?;
        let expires = now.saturating_add(LIFE).unwrap_or(now);
        let mut data = BTreeMap::new();
        let mut keep = |key: &str, value: &str| {
            data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
        };
        keep("hash", &token.hash());
        keep("expires", &expires.to_string());
        keep("uid", &uid);
        keep("hub", hub);
        let insecure = if wanted.insecure_hub { "true" } else { "false" };
        keep("insecure-hub", insecure);
        if let Some(proxy) = &wanted.proxy {
            keep("proxy", &proxy.url);
            keep("no-proxy", &proxy.no);
        }
        if let Some(image) = &wanted.image {
            keep("image", image.as_str());
        }
        let mut secret = Secret {
            metadata: ObjectMeta {
                name: Some(format!("{PREFIX}{name}")),
                namespace: Some(seed::NAMESPACE.to_owned()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "cluster.kubesphere.io/v1alpha1".to_owned(),
                    kind: "Cluster".to_owned(),
                    name: name.clone(),
                    uid,
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..Secret::default()
        };
        for _ in 0..TRIES {
            let found = self
                .0
                .get_opt(&format!("{PREFIX}{name}"))
                .await
                .map_err(failed("look for an earlier join token"))?;
            let written = match found {
                None => self.0.create(&PostParams::default(), &secret).await,
                Some(found) => {
                    secret.metadata.resource_version = found.metadata.resource_version;
                    let name = format!("{PREFIX}{name}");
                    self.0.replace(&name, &PostParams::default(), &secret).await
                }
            };
            match written {
                Ok(_) => return Ok((token, expires)),
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    secret.metadata.resource_version = None;
                }
                Err(error) => return Err(failed("keep the hash of the join token")(error)),
            }
        }
        Err(EnrolError::Unsteady)
    }

    /// What is known of this token.
    pub(super) async fn find(&self, token: &Token) -> Result<Invited, EnrolError> {
        let cluster = token.cluster().ok_or(EnrolError::TokenUnknown)?;
        let secret = self
            .0
            .get_opt(&format!("{PREFIX}{cluster}"))
            .await
            .map_err(failed("look for the join token"))?
            .ok_or(EnrolError::TokenUnknown)?;
        let text = |key: &str| {
            let bytes = &secret.data.as_ref()?.get(key)?.0;
            String::from_utf8(bytes.clone()).ok()
        };
        let hash = text("hash").unwrap_or_default();
        if verify_slices_are_equal(hash.as_bytes(), token.hash().as_bytes()).is_err() {
            return Err(EnrolError::TokenUnknown);
        }
        let expires = text("expires").and_then(|text| text.parse().ok());
        Ok(Invited {
            cluster: cluster.to_owned(),
            uid: text("uid").unwrap_or_default(),
            hub: text("hub").unwrap_or_default(),
            insecure_hub: text("insecure-hub").as_deref() == Some("true"),
            proxy: text("proxy").map(|url| Proxy {
                url,
                no: text("no-proxy").unwrap_or_default(),
            }),
            image: text("image").and_then(|text| text.parse().ok()),
            // One that somebody has edited is no longer good.
            expires: expires.unwrap_or(Timestamp::UNIX_EPOCH),
            used: text("used"),
            generation: text("generation").and_then(|text| text.parse().ok()),
            secret,
        })
    }

    /// Marks the token as used by this key, for an agent of this generation. Of several keys at once one gets through: the write holds only against the version that was read.
    pub(super) async fn use_up(
        &self,
        invited: &Invited,
        key: &str,
        generation: u64,
        now: Timestamp,
    ) -> Result<(), EnrolError> {
        if invited.is_used_by(key) {
            return Ok(());
        }
        invited.check(now)?;
        let mut secret = invited.secret.clone();
        let data = secret.data.get_or_insert_default();
        data.insert("used".to_owned(), ByteString(key.as_bytes().to_vec()));
        let generation = generation.to_string().into_bytes();
        data.insert("generation".to_owned(), ByteString(generation));
        let name = format!("{PREFIX}{}", invited.cluster);
        match self.0.replace(&name, &PostParams::default(), &secret).await {
            Ok(_) => Ok(()),
            // Used, or replaced by a newer token: in both cases this one is no longer good.
            Err(kube::Error::Api(status)) if status.code == 409 => Err(EnrolError::TokenUsed),
            Err(kube::Error::Api(status)) if status.code == 404 => Err(EnrolError::TokenUnknown),
            Err(error) => Err(failed("use up the join token")(error)),
        }
    }
}

/// Replaces everything in a path that could be a join token: what follows the route that takes one, and whatever has a token's shape. For places
/// where paths are written down.
#[must_use]
pub fn without_tokens(path: &str) -> Cow<'_, str> {
    let segments: Vec<&str> = path.split('/').collect();
    let is_secret = |at: usize, segment: &str| {
        let behind_route = at
            .checked_sub(ROUTE.len())
            .and_then(|from| segments.get(from..at))
            .is_some_and(|before| before == ROUTE);
        let tail = segment.rsplit('.').next().unwrap_or_default();
        behind_route || (tail.len() >= 2 * STRENGTH && tail.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let shown: Vec<&str> = segments
        .iter()
        .enumerate()
        .map(|(at, segment)| {
            if is_secret(at, segment) {
                "***"
            } else {
                segment
            }
        })
        .collect();
    if shown == segments {
        path.into()
    } else {
        shown.join("/").into()
    }
}

#[cfg(test)]
mod tests {
    use super::without_tokens;

    #[test]
    fn w4_tokens_do_not_stand_in_paths_that_are_written_down() {
        let token = format!("m.{}", "0a".repeat(32));
        for (path, shown) in [
            (
                format!("/kapis/hub.kubeaihub.io/v1/join/{token}"),
                "/kapis/hub.kubeaihub.io/v1/join/***",
            ),
            (
                format!("/kapis/hub.kubeaihub.io/v1/join/{token}/"),
                "/kapis/hub.kubeaihub.io/v1/join/***/",
            ),
            (
                format!("/kapis/hub.kubeaihub.io/v1/join//{token}"),
                "/kapis/hub.kubeaihub.io/v1/join/***/***",
            ),
            (
                format!("/clusters/m/kapis/hub.kubeaihub.io/v1/join/{token}"),
                "/clusters/m/kapis/hub.kubeaihub.io/v1/join/***",
            ),
            (format!("/kapis/x/{}", token.to_uppercase()), "/kapis/x/***"),
            (
                "/kapis/hub.kubeaihub.io/v1/join/mistyped".to_owned(),
                "/kapis/hub.kubeaihub.io/v1/join/***",
            ),
            (
                "/api/v1/namespaces/join/pods".to_owned(),
                "/api/v1/namespaces/join/pods",
            ),
            (
                "/kapis/hub.kubeaihub.io/v1/join".to_owned(),
                "/kapis/hub.kubeaihub.io/v1/join",
            ),
        ] {
            assert_eq!(without_tokens(&path), shown, "{path}");
        }
    }
}
