//! The one who mints: the keys of this host as the Secret holds them now, and the tokens that are still good.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwapOption;
use k8s_openapi::api::core::v1::Secret;
use kah_api::seed::NAMESPACE;
use kube::{Api, Client, ResourceExt, runtime::watcher};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    KeysError, LIFE, SIGNING_KEYS, SigningKey, SigningKeys, Trusted, issuer, trusted::own_uid,
};
use crate::{
    clock::Clock,
    users::{Change, RESERVED, follow},
};

/// A token is used again until it has this many seconds left.
const LEFT: i64 = 30;
/// Tokens that are kept; beyond that all are made anew.
const MOST_KEPT: usize = 20_000;

/// Why no token was minted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the texts say it
pub enum MintError {
    #[error("this host has no signing key yet")]
    NoKey,
    #[error("the identity of the member is not known: status.uid of its Cluster is empty")]
    NoAudience,
    #[error("the user has no name")]
    NoUser,
    #[error("the user's name begins with system:, which is reserved: no member is asked as it")]
    Reserved,
}

struct Kept {
    token: Arc<str>,
    /// Used until then, seconds since 1970.
    until: i64,
    from: i64,
}

/// Keys that were read together, and what was minted with them: with other keys nothing of it is used again.
struct Ring {
    issuer: String,
    keys: SigningKeys,
    active: Option<SigningKey>,
    /// By member, then by user.
    minted: Mutex<HashMap<String, HashMap<String, Kept>>>,
}

/// Mints tokens for members. Readers of the keys never wait.
pub struct Signer {
    ring: ArcSwapOption<Ring>,
    clock: Arc<dyn Clock>,
    changed: watch::Sender<u64>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(…)")
    }
}

impl Signer {
    /// One that has no keys yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            ring: ArcSwapOption::empty(),
            clock,
            changed: watch::channel(0).0,
        }
    }

    /// Signs with these keys, as this host, from now on.
    ///
    /// # Errors
    /// [`KeysError::Key`]; then everything stays as it was.
    pub fn take(&self, issuer: &str, keys: SigningKeys) -> Result<(), KeysError> {
        let active = keys.active()?;
        self.ring.store(Some(Arc::new(Ring {
            issuer: issuer.to_owned(),
            keys,
            active,
            minted: Mutex::default(),
        })));
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    fn drop_keys(&self) {
        self.ring.store(None);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Tells of every change of the keys.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The name by which members know this host, and its keys.
    #[must_use]
    pub fn keys(&self) -> Option<(String, SigningKeys)> {
        let ring = self.ring.load_full()?;
        Some((ring.issuer.clone(), ring.keys.clone()))
    }

    /// What the member `audience` has to trust.
    #[must_use]
    pub fn trusted(&self, audience: &str) -> Option<Trusted> {
        let ring = self.ring.load();
        let ring = ring.as_ref()?;
        Some(ring.keys.trusted(&ring.issuer, audience))
    }

    /// A token by which `user` is known to the member `audience`, and to nobody else. The same one is given again while more than [`LEFT`] seconds
    /// of its life are left.
    ///
    /// # Errors
    /// [`MintError`].
    pub fn mint(&self, audience: &str, user: &str) -> Result<Arc<str>, MintError> {
        let ring = self.ring.load();
        let ring = ring.as_ref().ok_or(MintError::NoKey)?;
        let key = ring.active.as_ref().ok_or(MintError::NoKey)?;
        if audience.is_empty() {
            return Err(MintError::NoAudience);
        }
        if user.is_empty() {
            return Err(MintError::NoUser);
        }
        if user.starts_with(RESERVED) {
            return Err(MintError::Reserved);
        }
        let now = self.clock.now().as_second();
        let lock = || ring.minted.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = |users: &HashMap<String, Kept>| {
            let kept = users.get(user)?;
            // A clock that was set back must not make one token live longer.
            (kept.from <= now && now < kept.until).then(|| Arc::clone(&kept.token))
        };
        if let Some(token) = lock().get(audience).and_then(kept) {
            return Ok(token);
        }
        let token: Arc<str> = key.mint(&ring.issuer, audience, user, now).into();
        let mut minted = lock();
        if minted.values().map(HashMap::len).sum::<usize>() >= MOST_KEPT {
            minted.clear();
        }
        minted.entry(audience.to_owned()).or_default().insert(
            user.to_owned(),
            Kept {
                token: Arc::clone(&token),
                from: now,
                until: now.saturating_add(LIFE.as_secs() - LEFT),
            },
        );
        Ok(token)
    }
}

/// Keeps the keys current until cancelled. `synced` is called when it is known for the first time whether there are any.
pub async fn follow_signing_keys(
    client: Client,
    signer: Arc<Signer>,
    cancel: CancellationToken,
    synced: impl FnOnce() + Send,
) {
    let Some(Some(uid)) = cancel.run_until_cancelled(own_uid(&client)).await else {
        return;
    };
    let issuer = issuer(&uid);
    let only = watcher::Config::default().fields(&format!("metadata.name={SIGNING_KEYS}"));
    let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
    let take = |change: Change<Secret>| {
        let secret = match change {
            Change::All(listed) => listed
                .into_iter()
                .find(|secret| secret.name_any() == SIGNING_KEYS),
            Change::Apply(secret) if secret.name_any() == SIGNING_KEYS => Some(secret),
            Change::Delete(secret) if secret.name_any() == SIGNING_KEYS => None,
            _ => return,
        };
        let Some(secret) = secret else {
            signer.drop_keys();
            return;
        };
        let read = SigningKeys::read(&secret.data.unwrap_or_default())
            .and_then(|keys| signer.take(&issuer, keys));
        if let Err(error) = read {
            // Those that were read last are still trusted by members.
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "keep the signing keys as they are"
            );
        }
    };
    follow(
        secrets,
        only,
        "watch Secret hub-signing-keys",
        take,
        cancel,
        synced,
    )
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use jiff::Timestamp;
    use kah_api::time::GoDuration;
    use proptest::prelude::*;

    use super::*;

    struct Hands(AtomicI64);

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
        }

        fn uptime(&self) -> f64 {
            0.0
        }
    }

    fn signer() -> (Arc<Hands>, Signer) {
        let clock = Arc::new(Hands(AtomicI64::new(1_800_000_000)));
        let signer = Signer::new(clock.clone());
        (clock, signer)
    }

    #[test]
    fn without_key_member_or_user_nothing_is_minted() {
        let (clock, signer) = signer();
        assert_eq!(signer.mint("a", "u"), Err(MintError::NoKey));
        let keys = SigningKeys::first(clock.now()).unwrap();
        signer.take("i", keys).unwrap();
        assert_eq!(signer.mint("", "u"), Err(MintError::NoAudience));
        assert_eq!(signer.mint("a", ""), Err(MintError::NoUser));
        assert!(signer.mint("a", "u").is_ok());
        signer.drop_keys();
        assert_eq!(signer.mint("a", "u"), Err(MintError::NoKey));
    }

    #[test]
    fn h11_a_reserved_name_is_never_the_subject_of_a_token() {
        let (clock, signer) = signer();
        let keys = SigningKeys::first(clock.now()).unwrap();
        signer.take("i", keys).unwrap();
        for name in [
            "system:anonymous",
            "system:admin",
            "system:serviceaccount:kube-system:default",
        ] {
            assert_eq!(signer.mint("a", name), Err(MintError::Reserved), "{name}");
        }
        assert!(signer.mint("a", "systematic").is_ok());
    }

    #[test]
    fn a_token_is_used_again_for_half_its_life_and_only_with_its_key() {
        let (clock, signer) = signer();
        let mut keys = SigningKeys::first(clock.now()).unwrap();
        signer.take("i", keys.clone()).unwrap();
        let first = signer.mint("a", "u").unwrap();
        for (later, same) in [(0, true), (29, true), (30, false), (-1, false)] {
            let (clock, signer) = self::signer();
            signer.take("i", keys.clone()).unwrap();
            assert_eq!(signer.mint("a", "u").unwrap(), first);
            clock.0.fetch_add(later, Ordering::SeqCst);
            assert_eq!(signer.mint("a", "u").unwrap() == first, same, "{later}");
        }
        keys.make_next(clock.now()).unwrap();
        keys.promote(clock.now()).unwrap();
        signer.take("i", keys).unwrap();
        assert_ne!(signer.mint("a", "u").unwrap(), first);
    }

    proptest! {
        /// Whatever is asked in whatever order, a token names the user and the member that it was asked for.
        #[test]
        fn t1_t15_a_kept_token_never_crosses_members_or_users(
            asked in proptest::collection::vec((0..4usize, 0..4usize, 0..40i64), 1..60)
        ) {
            let (clock, signer) = signer();
            signer.take("i", SigningKeys::first(clock.now()).unwrap()).unwrap();
            for (member, user, later) in asked {
                clock.0.fetch_add(later, Ordering::SeqCst);
                let (member, user) = (format!("m{member}"), format!("u{user}"));
                let token = signer.mint(&member, &user).unwrap();
                let trusted = signer.trusted(&member).unwrap();
                let skew = GoDuration::from_secs(0);
                prop_assert_eq!(trusted.verify(&token, skew, &*clock), Ok(user));
                let other = signer.trusted("other").unwrap();
                prop_assert!(other.verify(&token, skew, &*clock).is_err());
            }
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (clock, signer) = signer();
        signer
            .take("i", SigningKeys::first(clock.now()).unwrap())
            .unwrap();
        let ring = signer.ring.load_full().unwrap();
        let filler = |user: usize| {
            let kept = Kept {
                token: "".into(),
                from: 0,
                until: 0,
            };
            (user.to_string(), kept)
        };
        let full = (0..MOST_KEPT).map(filler).collect();
        ring.minted.lock().unwrap().insert("a".into(), full);
        signer.mint("b", "u").unwrap();
        assert_eq!(ring.minted.lock().unwrap().len(), 1);
    }
}
