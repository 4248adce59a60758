//! The one thread that changes state.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::mpsc;

use super::file::File;
use super::memory::{Event, State};
use super::{Change, Command, Expect, Key, StoreError, Stored};

/// How many writes share a commit at most.
const BATCH: usize = 256;

pub(super) struct Writer {
    state: Arc<RwLock<State>>,
    file: Option<File>,
    /// A file that failed once is in an unknown state: nothing is written after that.
    failed: bool,
}

/// A write that may happen.
pub(super) struct Accepted {
    pub key: Key,
    pub event: Arc<Event>,
}

impl Writer {
    pub fn new(state: Arc<RwLock<State>>, file: Option<File>) -> Writer {
        Writer {
            state,
            file,
            failed: false,
        }
    }

    pub fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH {
                match commands.try_recv() {
                    Ok(command) => batch.push(command),
                    Err(_) => break,
                }
            }
            self.commit(batch);
        }
    }

    fn commit(&mut self, batch: Vec<Command>) {
        if self.failed {
            for command in batch {
                let _ = command.answer.send(Err(StoreError::Closed));
            }
            return;
        }
        let mut answers = Vec::with_capacity(batch.len());
        let mut accepted = Vec::with_capacity(batch.len());
        {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let mut revision = state.revision;
            let mut changed: HashMap<Key, Option<Stored>> = HashMap::new();
            for command in batch {
                let Command {
                    key,
                    expect,
                    change,
                    answer,
                } = command;
                let current = match changed.get(&key) {
                    Some(stored) => stored.clone(),
                    None => state.get(&key).cloned(),
                };
                let outcome = check(expect, current.as_ref()).map(|()| {
                    revision += 1;
                    let event = event(&key, change, current, revision);
                    changed.insert(key.clone(), (!event.deleted).then(|| event.object.clone()));
                    let object = event.object.clone();
                    accepted.push(Accepted {
                        key,
                        event: Arc::new(event),
                    });
                    object
                });
                answers.push((answer, outcome));
            }
        }
        if let Some(file) = &mut self.file
            && !accepted.is_empty()
            && let Err(error) = file.commit(&accepted)
        {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "storage failed; no more writes"
            );
            self.failed = true;
            for (answer, _) in answers {
                let _ = answer.send(Err(StoreError::Closed));
            }
            return;
        }
        if !accepted.is_empty() {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            for Accepted { key, event } in accepted {
                let dropped = state.apply(&key.resource, event, false);
                if let Some(file) = &mut self.file {
                    file.forget(&key.resource, dropped);
                }
            }
        }
        for (answer, outcome) in answers {
            // Nobody waits any more: the write stands all the same.
            let _ = answer.send(outcome);
        }
    }
}

fn check(expect: Expect, current: Option<&Stored>) -> Result<(), StoreError> {
    match (expect, current) {
        (Expect::Absent, Some(_)) => Err(StoreError::Exists),
        (Expect::Absent, None) => Ok(()),
        (Expect::Revision(_), None) => Err(StoreError::Missing),
        (Expect::Revision(revision), Some(stored)) if stored.revision != revision => {
            Err(StoreError::Conflict)
        }
        (Expect::Revision(_), Some(_)) => Ok(()),
    }
}

fn event(key: &Key, change: Change, previous: Option<Stored>, revision: u64) -> Event {
    let (object, deleted) = match (change, &previous) {
        (Change::Put(document), _) => (document.stamp(revision), false),
        (Change::Delete, Some(last)) => (last.restamp(revision), true),
        // Deletion expects a revision, so there is an object; an empty one keeps this total.
        (Change::Delete, None) => (
            super::Document::new(&serde_json::Value::Null).stamp(revision),
            true,
        ),
    };
    Event {
        revision,
        path: key.path.clone(),
        object,
        previous,
        deleted,
    }
}
