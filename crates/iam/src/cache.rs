//! Which tokens have not been revoked (authentication.md §5).
//!
//! It is asked by existence only, so tokens are kept as digests: a dump of the memory opens nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest;
use futures::future::{BoxFuture, FutureExt, ready};
use jiff::Timestamp;
use kah_api::time::GoDuration;

use crate::clock::Clock;

/// The cache could not be asked; the request may be tried again. The message is the client's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CacheError(pub String);

/// Remembers issued tokens by user. Two identical tokens share one entry.
pub trait TokenCache: Send + Sync + 'static {
    /// Remembers a token for its lifetime.
    fn insert<'a>(
        &'a self,
        user: &'a str,
        token: &'a str,
        lifetime: GoDuration,
    ) -> BoxFuture<'a, Result<(), CacheError>>;
    /// Whether it is known.
    fn contains<'a>(
        &'a self,
        user: &'a str,
        token: &'a str,
    ) -> BoxFuture<'a, Result<bool, CacheError>>;
    /// Forgets all tokens of exactly this user.
    fn revoke_user<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<(), CacheError>>;
}

/// Bounds of a [`MemoryCache`].
#[derive(Debug, Clone, Copy)]
pub struct CacheLimits {
    /// Tokens of one user; the one that ends first makes room.
    pub per_user: usize,
    /// Users; when full, users without a living token go, else the one whose tokens end first.
    pub users: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            per_user: 1_000,
            users: 100_000,
        }
    }
}

type Digest = [u8; 32];
type Entries = HashMap<Box<str>, HashMap<Digest, Timestamp>>;

/// In this process's memory. It outlives a reload of the configuration, not a restart.
pub struct MemoryCache {
    entries: Mutex<Entries>,
    limits: CacheLimits,
    clock: Arc<dyn Clock>,
}

impl MemoryCache {
    /// Empty, with the usual bounds.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_limits(CacheLimits::default(), clock)
    }

    /// Empty, with these bounds.
    #[must_use]
    pub fn with_limits(limits: CacheLimits, clock: Arc<dyn Clock>) -> Self {
        Self {
            entries: Mutex::default(),
            limits,
            clock,
        }
    }

    fn put(&self, user: &str, token: &str, lifetime: GoDuration) {
        let now = self.clock.now();
        let until = now.checked_add(lifetime.to_std()).unwrap_or(Timestamp::MAX);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.limits.users && !entries.contains_key(user) {
            make_room(&mut entries, now);
        }
        let tokens = entries.entry(user.into()).or_default();
        let key = key(token);
        if tokens.len() >= self.limits.per_user && !tokens.contains_key(&key) {
            tokens.retain(|_, until| *until > now);
        }
        if tokens.len() >= self.limits.per_user && !tokens.contains_key(&key) {
            let first = tokens
                .iter()
                .min_by_key(|(_, until)| **until)
                .map(|(key, _)| *key);
            first.map(|key| tokens.remove(&key));
        }
        tokens.insert(key, until);
    }
}

fn key(token: &str) -> Digest {
    let mut key = [0; 32];
    key.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    key
}

fn make_room(entries: &mut Entries, now: Timestamp) {
    let before = entries.len();
    entries.retain(|_, tokens| tokens.values().any(|until| *until > now));
    if entries.len() == before {
        let first = entries
            .iter()
            .min_by_key(|(_, tokens)| tokens.values().max().copied())
            .map(|(user, _)| user.clone());
        first.map(|user| entries.remove(&user));
    }
}

impl TokenCache for MemoryCache {
    fn insert<'a>(
        &'a self,
        user: &'a str,
        token: &'a str,
        lifetime: GoDuration,
    ) -> BoxFuture<'a, Result<(), CacheError>> {
        self.put(user, token, lifetime);
        ready(Ok(())).boxed()
    }

    fn contains<'a>(
        &'a self,
        user: &'a str,
        token: &'a str,
    ) -> BoxFuture<'a, Result<bool, CacheError>> {
        let now = self.clock.now();
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let known = entries
            .get(user)
            .and_then(|tokens| tokens.get(&key(token)))
            .is_some_and(|until| *until > now);
        ready(Ok(known)).boxed()
    }

    fn revoke_user<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<(), CacheError>> {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(user);
        ready(Ok(())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    struct Hands(AtomicI64);

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap_or_default()
        }

        fn uptime(&self) -> f64 {
            0.0
        }
    }

    fn small() -> (MemoryCache, Arc<Hands>) {
        let hands = Arc::new(Hands(AtomicI64::new(1_000)));
        let limits = CacheLimits {
            per_user: 2,
            users: 2,
        };
        (MemoryCache::with_limits(limits, hands.clone()), hands)
    }

    #[tokio::test]
    async fn a_token_lives_for_its_lifetime_and_for_its_user() {
        let (cache, hands) = small();
        let life = GoDuration::from_secs(10);
        cache.insert("a", "t", life).await.unwrap();
        assert!(cache.contains("a", "t").await.unwrap());
        assert!(!cache.contains("b", "t").await.unwrap());
        hands.0.store(1_010, Ordering::SeqCst);
        assert!(!cache.contains("a", "t").await.unwrap());
    }

    #[tokio::test]
    async fn revoking_a_user_touches_no_one_else() {
        let (cache, _) = small();
        // The original's pattern would take the dot for any letter.
        for user in ["a.b", "axb"] {
            let life = GoDuration::from_secs(10);
            cache.insert(user, "t", life).await.unwrap();
        }
        cache.revoke_user("a.b").await.unwrap();
        assert!(!cache.contains("a.b", "t").await.unwrap());
        assert!(cache.contains("axb", "t").await.unwrap());
    }

    #[tokio::test]
    async fn it_stays_within_its_bounds_and_keeps_what_lives_longest() {
        let (cache, hands) = small();
        for (token, seconds) in [("short", 5), ("long", 50), ("new", 20)] {
            let life = GoDuration::from_secs(seconds);
            cache.insert("a", token, life).await.unwrap();
        }
        assert!(!cache.contains("a", "short").await.unwrap());
        assert!(cache.contains("a", "long").await.unwrap());
        for user in ["b", "c"] {
            let life = GoDuration::from_secs(10);
            cache.insert(user, "t", life).await.unwrap();
        }
        assert!(cache.contains("c", "t").await.unwrap());
        assert!(cache.contains("a", "long").await.unwrap());
        assert!(!cache.contains("b", "t").await.unwrap());
        // Those without a living token go first.
        hands.0.store(1_011, Ordering::SeqCst);
        let life = GoDuration::from_secs(10);
        cache.insert("d", "t", life).await.unwrap();
        assert!(cache.contains("a", "long").await.unwrap());
        assert!(cache.contains("d", "t").await.unwrap());
        assert_eq!(cache.entries.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn d1_the_memory_holds_no_token() {
        let (cache, _) = small();
        let life = GoDuration::from_secs(10);
        cache.insert("a", "secret-token", life).await.unwrap();
        let kept = format!("{:?}", cache.entries.lock().unwrap());
        assert!(kept.contains('a') && !kept.contains("secret-token"));
    }
}
