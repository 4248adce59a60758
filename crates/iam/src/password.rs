//! bcrypt on a bounded pool: a flood of logins waits for itself, not for others.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Too many logins wait already; try again a little later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("compare a password: too many logins at once")]
pub struct Busy;

/// bcrypt reads no further.
const LONGEST: usize = 72;
/// Of a random password that nobody has, cost 10; compared against where there is no user, so that the time says nothing.
const NOBODY: &str = "$2a$10$mAfEbk/YCKGFKjubA/SCVuGDbQuz6WvWezwxkM53g.42cwQsYV93.";

/// Compares passwords with hashes.
pub struct Passwords {
    workers: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Passwords {
    /// `workers` comparisons at once, `waiting` more may wait.
    #[must_use]
    pub fn new(workers: usize, waiting: usize) -> Self {
        let workers = workers.max(1);
        Self {
            workers: Arc::new(Semaphore::new(workers)),
            places: Arc::new(Semaphore::new(workers.saturating_add(waiting))),
        }
    }

    /// Whether the password is that of the hash. Without a hash, or with a text that is none (clear text that no
    /// controller has looked at yet), it takes the same time and is false. A NUL byte or more than 72 bytes are
    /// never a match: bcrypt would not see what follows.
    ///
    /// # Errors
    /// [`Busy`].
    pub async fn matches(&self, password: &str, hash: Option<&str>) -> Result<bool, Busy> {
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| Busy)?;
        let turn = Arc::clone(&self.workers)
            .acquire_owned()
            .await
            .map_err(|_| Busy)?;
        let hash = hash.filter(|hash| is_hash(hash));
        let usable = hash.is_some() && password.len() <= LONGEST && !password.contains('\0');
        let password = if usable {
            password.to_owned()
        } else {
            "unusable".to_owned()
        };
        let hash = hash.unwrap_or(NOBODY).to_owned();
        let compare = tokio::task::spawn_blocking(move || {
            // They end with the work, not with whoever waits for it: a caller who leaves frees no processor.
            let _held = (place, turn);
            bcrypt::verify(password.as_bytes(), &hash).unwrap_or(false)
        });
        Ok(compare.await.unwrap_or(false) && usable)
    }
}

/// Whether a stored password is bcrypt: `$2a$`, `$2b$` or `$2y$`, a cost, and 53 characters.
#[must_use]
pub fn is_hash(text: &str) -> bool {
    text.len() == 60
        && ["$2a$", "$2b$", "$2y$"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(password: &str) -> String {
        let parts = bcrypt::hash_with_result(password, 4).unwrap();
        parts.format_for_version(bcrypt::Version::TwoA)
    }

    #[tokio::test]
    async fn only_the_right_password_passes() {
        let pool = Passwords::new(1, 8);
        let stored = hash("P@88w0rd");
        for (password, stored, expected) in [
            ("P@88w0rd", Some(stored.as_str()), true),
            ("p@88w0rd", Some(stored.as_str()), false),
            ("", Some(stored.as_str()), false),
            ("P@88w0rd", None, false),
            ("P@88w0rd", Some("P@88w0rd"), false),
            ("unusable", None, false),
            ("P@88w0rd\0more", Some(stored.as_str()), false),
        ] {
            let matches = pool.matches(password, stored).await;
            assert_eq!(matches, Ok(expected), "{password:?}");
        }
    }

    #[tokio::test]
    async fn j12_a_password_over_72_bytes_is_not_taken_for_its_beginning() {
        let pool = Passwords::new(1, 8);
        let long = "aB3".repeat(24);
        let stored = hash(&long);
        assert_eq!(pool.matches(&long, Some(&stored)).await, Ok(true));
        let longer = format!("{long}x");
        assert_eq!(pool.matches(&longer, Some(&stored)).await, Ok(false));
    }

    #[tokio::test]
    async fn j12_a_flood_is_refused_and_not_queued_without_end() {
        let pool = Passwords::new(1, 1);
        let checks = (0..20).map(|_| pool.matches("x", None));
        let answers = futures::future::join_all(checks).await;
        let busy = answers.iter().filter(|answer| **answer == Err(Busy));
        assert_eq!(busy.count(), 18);
        // And it recovers.
        assert_eq!(pool.matches("x", None).await, Ok(false));
    }

    #[test]
    fn j11_the_stand_in_hash_costs_what_a_real_one_costs() {
        assert!(is_hash(NOBODY));
        let parts: bcrypt::HashParts = NOBODY.parse().unwrap();
        assert_eq!(parts.get_cost(), 10);
        assert_eq!(bcrypt::verify("", NOBODY).ok(), Some(false));
    }
}
