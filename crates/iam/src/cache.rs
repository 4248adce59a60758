//! Which tokens have not been revoked (authentication.md §5).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

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

/// Tokens of one user that are kept; beyond it the one that ends first goes.
const PER_USER: usize = 1_000;
/// Users that are kept; beyond it, expired entries are swept, then new ones refused.
const USERS: usize = 100_000;

type Entries = HashMap<Box<str>, HashMap<Box<str>, Timestamp>>;

/// In this process's memory.
pub struct MemoryCache {
    entries: Mutex<Entries>,
    clock: Arc<dyn Clock>,
}

impl MemoryCache {
    /// Empty.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            entries: Mutex::default(),
            clock,
        }
    }

    fn put(&self, user: &str, token: &str, lifetime: GoDuration) -> Result<(), CacheError> {
        let now = self.clock.now();
        let until = now.checked_add(lifetime.to_std()).unwrap_or(Timestamp::MAX);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= USERS && !entries.contains_key(user) {
            entries.retain(|_, tokens| {
                tokens.retain(|_, until| *until > now);
                !tokens.is_empty()
            });
            if entries.len() >= USERS {
                return Err(CacheError("token cache is full".to_owned()));
            }
        }
        let tokens = entries.entry(user.into()).or_default();
        tokens.retain(|_, until| *until > now);
        if tokens.len() >= PER_USER && !tokens.contains_key(token) {
            let first = tokens
                .iter()
                .min_by_key(|(_, until)| **until)
                .map(|(token, _)| token.clone());
            if let Some(first) = first {
                tokens.remove(&first);
            }
        }
        tokens.insert(token.into(), until);
        Ok(())
    }
}

impl TokenCache for MemoryCache {
    fn insert<'a>(
        &'a self,
        user: &'a str,
        token: &'a str,
        lifetime: GoDuration,
    ) -> BoxFuture<'a, Result<(), CacheError>> {
        ready(self.put(user, token, lifetime)).boxed()
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
            .and_then(|tokens| tokens.get(token))
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
