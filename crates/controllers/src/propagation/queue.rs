//! What one member is still to be told.

use std::{
    collections::HashSet,
    mem,
    sync::{Mutex, PoisonError},
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// Place of a kind in the table, and the name of a source.
pub(super) type Key = (usize, String);

/// Above this, looking at everything costs less than going through what has changed.
const MOST: usize = 4096;

/// What has changed since the worker last looked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Look at everything.
    pub(super) all: bool,
    /// Look at these.
    pub(super) keys: HashSet<Key>,
}

/// Changes to be carried to one member, each once.
#[derive(Default)]
pub(super) struct Queue {
    work: Mutex<Work>,
    more: Notify,
}

impl Queue {
    /// One source has changed.
    pub(super) fn push(&self, key: Key) {
        self.change(|work| {
            if work.keys.len() >= MOST {
                *work = Work {
                    all: true,
                    keys: HashSet::new(),
                };
            } else if !work.all {
                work.keys.insert(key);
            }
        });
    }

    /// Everything may have changed, or the member may be reachable again.
    pub(super) fn push_all(&self) {
        self.change(|work| {
            *work = Work {
                all: true,
                keys: HashSet::new(),
            };
        });
    }

    /// What there is to do; waits until there is something.
    pub(super) async fn take(&self) -> Work {
        loop {
            let work = self.take_now();
            if work != Work::default() {
                return work;
            }
            self.more.notified().await;
        }
    }

    /// What there is to do before the next look at everything; `None` when that is due, also where something waits: it takes what waits along, and
    /// what changes all the time must not put it off for ever.
    pub(super) async fn take_until(&self, look: Instant) -> Option<Work> {
        if Instant::now() >= look {
            return None;
        }
        timeout_at(look, self.take()).await.ok()
    }

    /// What there is to do. A look at everything takes what was pushed before it.
    pub(super) fn take_now(&self) -> Work {
        mem::take(&mut *self.work.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many single changes wait.
    pub(super) fn waiting(&self) -> usize {
        let work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.keys.len()
    }

    /// The single changes that there are, none where everything is to be looked at anyway.
    pub(super) fn take_keys(&self) -> HashSet<Key> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        mem::take(&mut work.keys)
    }

    fn change(&self, change: impl FnOnce(&mut Work)) {
        change(&mut self.work.lock().unwrap_or_else(PoisonError::into_inner));
        self.more.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_look_that_is_due_comes_before_what_waits() {
        let queue = Queue::default();
        let look = Instant::now() + Duration::from_secs(1);
        queue.push((1, "a".into()));
        assert_eq!(queue.take_until(look).await.unwrap().keys.len(), 1);
        assert!(queue.take_until(look).await.is_none() && Instant::now() >= look);
        queue.push((1, "a".into()));
        assert!(queue.take_until(look).await.is_none());
        assert_eq!(queue.waiting(), 1);
    }

    #[tokio::test]
    async fn a_change_is_handed_out_once_and_too_many_become_everything() {
        let queue = Queue::default();
        assert!(queue.take().now_or_never().is_none());
        for _ in 0..3 {
            queue.push((1, "a".into()));
        }
        let work = queue.take().now_or_never().unwrap();
        assert_eq!(work.keys, HashSet::from([(1, "a".into())]));
        assert!(!work.all);
        assert!(queue.take().now_or_never().is_none());

        for number in 0..=MOST {
            queue.push((0, number.to_string()));
        }
        queue.push((1, "late".into()));
        let work = queue.take().now_or_never().unwrap();
        assert!(work.all && work.keys.is_empty());
        queue.push((1, "a".into()));
        assert_eq!(queue.take_now().keys.len(), 1);
    }
}
