//! The work of one controller: keys of objects to look at, each at most once at a time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::time::DelayQueue;

use super::Error;

/// Names an object: (namespace, name). The namespace of a cluster-wide object is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    /// The key of an object.
    pub fn of<K: kube::Resource>(object: &K) -> Key {
        let meta = object.meta();
        Key {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

/// Keys waiting for a controller. A key that waits already is not added twice, so the queue is never
/// longer than the cluster has objects.
#[derive(Clone, Default)]
pub struct Queue {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Default)]
struct State {
    waiting: BTreeSet<Key>,
    known: BTreeSet<Key>,
}

/// At most this many objects of a kind are worked on at once.
const CONCURRENT: usize = 8;

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for one object to be looked at.
    pub fn add(&self, key: Key) {
        self.state().waiting.insert(key);
        self.inner.notify.notify_one();
    }

    /// The same, for an object of the controller's own kind: it is remembered until it is forgotten.
    pub fn add_own(&self, key: Key) {
        let mut state = self.state();
        state.known.insert(key.clone());
        state.waiting.insert(key);
        drop(state);
        self.inner.notify.notify_one();
    }

    /// An object of the controller's own kind has gone; it is looked at once more.
    pub fn forget(&self, key: Key) {
        let mut state = self.state();
        state.known.remove(&key);
        state.waiting.insert(key);
        drop(state);
        self.inner.notify.notify_one();
    }

    /// Asks for every known object of a namespace, or all of them, to be looked at.
    pub fn add_known(&self, namespace: Option<&str>) {
        let mut state = self.state();
        let keys: Vec<Key> = state
            .known
            .iter()
            .filter(|key| namespace.is_none_or(|wanted| key.namespace == wanted))
            .cloned()
            .collect();
        state.waiting.extend(keys);
        drop(state);
        self.inner.notify.notify_one();
    }

    fn take(&self, busy: &HashSet<Key>) -> Option<Key> {
        let mut state = self.state();
        let key = state
            .waiting
            .iter()
            .find(|key| !busy.contains(key))?
            .clone();
        state.waiting.remove(&key);
        Some(key)
    }

    /// Works until `shutdown`. `reconcile` is never run twice at once for one key; an error is tried again
    /// with growing pauses, and `Ok(Some(pause))` asks for another look later.
    pub async fn work<F, R>(self, shutdown: CancellationToken, name: &'static str, reconcile: F)
    where
        F: Fn(Key) -> R,
        R: Future<Output = Result<Option<Duration>, Error>>,
    {
        let mut busy: HashSet<Key> = HashSet::new();
        let mut failures: HashMap<Key, u32> = HashMap::new();
        let mut running = FuturesUnordered::new();
        let mut later: DelayQueue<Key> = DelayQueue::new();
        let mut planned: HashMap<Key, tokio_util::time::delay_queue::Key> = HashMap::new();
        loop {
            while running.len() < CONCURRENT {
                let Some(key) = self.take(&busy) else { break };
                if let Some(entry) = planned.remove(&key) {
                    later.try_remove(&entry);
                }
                busy.insert(key.clone());
                let work = reconcile(key.clone());
                running.push(async move { (key, work.await) });
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.inner.notify.notified() => {}
                Some(due) = later.next(), if !later.is_empty() => {
                    let key = due.into_inner();
                    planned.remove(&key);
                    self.add(key);
                }
                Some((key, result)) = running.next(), if !running.is_empty() => {
                    busy.remove(&key);
                    let pause = match result {
                        Ok(pause) => {
                            failures.remove(&key);
                            pause
                        }
                        Err(error) => {
                            let tries = failures.entry(key.clone()).or_default();
                            let pause = Duration::from_millis(10 << (*tries).min(10));
                            *tries = tries.saturating_add(1);
                            if error.is_conflict() {
                                tracing::trace!(controller = name, ?key, %error, "tried again");
                            } else {
                                tracing::debug!(controller = name, ?key, error = %error.chain(), "tried again");
                            }
                            Some(pause)
                        }
                    };
                    if let Some(pause) = pause {
                        let entry = later.insert(key.clone(), pause);
                        if let Some(old) = planned.insert(key, entry) {
                            later.try_remove(&old);
                        }
                    }
                }
            }
        }
    }
}
