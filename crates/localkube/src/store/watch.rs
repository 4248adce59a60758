//! A watch is a place in the log. It has no queue of its own: a reader that falls behind what is kept is told so,
//! and writers never wait for one.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::StoreError;
use super::memory::{Event, State};

/// How many events one step gives at most.
const STEP: usize = 256;

/// Events of one resource, in order, without gaps.
pub struct Watch {
    state: Arc<RwLock<State>>,
    resource: Arc<str>,
    prefix: String,
    /// Everything up to here has been given.
    revision: u64,
    changed: watch::Receiver<u64>,
}

impl Watch {
    pub(super) fn start(
        state: Arc<RwLock<State>>,
        resource: &str,
        prefix: &str,
        from: u64,
    ) -> Result<Watch, StoreError> {
        let mut guard = state.write().unwrap_or_else(PoisonError::into_inner);
        let table = guard.table(resource);
        if from < table.floor {
            return Err(StoreError::Expired {
                asked: from,
                oldest: table.floor,
            });
        }
        let mut changed = table.subscribe();
        changed.mark_changed();
        drop(guard);
        Ok(Watch {
            state,
            resource: resource.into(),
            prefix: prefix.to_owned(),
            revision: from,
            changed,
        })
    }

    /// The revision up to which every event has been given.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What has happened since, without waiting; perhaps nothing. When it gives nothing, [`Watch::revision`] is the store's.
    ///
    /// # Errors
    /// [`StoreError::Expired`] when what comes next is no longer kept.
    pub fn poll(&mut self) -> Result<Vec<Arc<Event>>, StoreError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let Some(table) = state.tables.get(&self.resource) else {
            return Ok(Vec::new());
        };
        if self.revision < table.floor {
            return Err(StoreError::Expired {
                asked: self.revision,
                oldest: table.floor,
            });
        }
        let mut events = Vec::new();
        let mut last = self.revision.max(state.revision);
        for event in table.events_after(self.revision) {
            if event.path.starts_with(&self.prefix) {
                if events.len() == STEP {
                    last = events
                        .last()
                        .map_or(last, |event: &Arc<Event>| event.revision);
                    break;
                }
                events.push(event.clone());
            }
        }
        self.revision = last;
        Ok(events)
    }

    /// Waits for something to happen, and gives it. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`StoreError::Expired`] when what comes next is no longer kept; [`StoreError::Closed`] when the store is gone.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, StoreError> {
        loop {
            let events = self.poll()?;
            if !events.is_empty() {
                return Ok(events);
            }
            self.changed
                .changed()
                .await
                .map_err(|_| StoreError::Closed)?;
        }
    }
}
