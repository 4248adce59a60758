//! Clusters that leave: their propagation ends before they are cleaned, or it would bring back what was just taken out.
//!
//! Whoever propagates and whoever cleans follow the Cluster objects by watches of their own, of which either may be behind.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::{CancellationToken, DropGuard};

/// Shared by the reconcilers of one process, which are all of a host's that work. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Departures(Arc<Mutex<HashMap<String, Propagation>>>);

/// The propagation to the cluster with one UID.
#[derive(Debug)]
enum Propagation {
    Runs {
        stop: CancellationToken,
        ended: CancellationToken,
    },
    /// It does not begin again.
    Over,
}

impl Departures {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Propagation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A propagation begins that ends with `stop`; dropping the guard says that it has. `None`: the cluster leaves, and nothing may begin.
    #[must_use]
    pub(crate) fn begin(&self, uid: &str, stop: &CancellationToken) -> Option<DropGuard> {
        let mut all = self.all();
        if matches!(all.get(uid), Some(Propagation::Over)) {
            return None;
        }
        let ended = CancellationToken::new();
        let runs = Propagation::Runs {
            stop: stop.clone(),
            ended: ended.clone(),
        };
        all.insert(uid.to_owned(), runs);
        Some(ended.drop_guard())
    }

    /// The cluster leaves: returns when nothing is propagated to it any more.
    pub(crate) async fn leave(&self, uid: &str) {
        let before = self.all().insert(uid.to_owned(), Propagation::Over);
        if let Some(Propagation::Runs { stop, ended }) = before {
            stop.cancel();
            ended.cancelled().await;
        }
    }

    /// The cluster has left.
    pub(crate) fn forget(&self, uid: &str) {
        self.all().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_runs_ends_first_and_does_not_begin_again() {
        let departures = Departures::default();
        let stop = CancellationToken::new();
        let running = departures.begin("u", &stop).unwrap();
        let mut leaving = Box::pin(departures.leave("u"));
        assert!((&mut leaving).now_or_never().is_none() && stop.is_cancelled());
        drop(running);
        leaving.await;
        assert!(departures.begin("u", &CancellationToken::new()).is_none());
        assert!(
            departures
                .begin("other", &CancellationToken::new())
                .is_some()
        );
        departures.leave("never seen").await;
        assert!(departures.begin("never seen", &stop).is_none());
        departures.forget("u");
        assert!(departures.begin("u", &CancellationToken::new()).is_some());
    }
}
