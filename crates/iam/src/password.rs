//! bcrypt on a bounded pool: a flood of logins waits for itself, not for others.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

/// Too many logins wait already; try again a little later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("compare a password: too many logins at once")]
pub struct Busy;

/// Of no password; compared against where there is no user, so that the time says nothing.
const NOBODY: &str = "$2a$10$7EqJtq98hPqEX7fNZaFWoOhi5BWX4Zc3/2p5Yf5Jp7yQ4rkDtd4wK";

/// Compares passwords with hashes.
pub struct Passwords {
    workers: Arc<Semaphore>,
    waiting: AtomicUsize,
    limit: usize,
}

impl Passwords {
    /// `workers` comparisons at once, `limit` more may wait.
    #[must_use]
    pub fn new(workers: usize, limit: usize) -> Self {
        Self {
            workers: Arc::new(Semaphore::new(workers.max(1))),
            waiting: AtomicUsize::new(0),
            limit,
        }
    }

    /// Whether the password is that of the hash; without a hash it takes the same time and is false. A NUL byte
    /// or more than 72 bytes are never a match: bcrypt would not see what follows.
    ///
    /// # Errors
    /// [`Busy`].
    pub async fn matches(&self, password: &str, hash: Option<&str>) -> Result<bool, Busy> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Busy);
        }
        let _waiting = Waiting(&self.waiting);
        let permit = Arc::clone(&self.workers)
            .acquire_owned()
            .await
            .map_err(|_| Busy)?;
        let usable = hash.is_some() && password.len() <= 72 && !password.contains('\0');
        let password = if usable {
            password.to_owned()
        } else {
            "unusable".to_owned()
        };
        let hash = hash.unwrap_or(NOBODY).to_owned();
        let compare = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            bcrypt::verify(password.as_bytes(), &hash).unwrap_or(false)
        });
        Ok(compare.await.unwrap_or(false) && usable)
    }
}
