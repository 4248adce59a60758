//! What readers see: the objects of now, and a bounded past from which earlier states are worked out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Key, Limits, StoreError, Stored};

/// One change that happened.
#[derive(Clone, Debug)]
pub struct Event {
    pub revision: u64,
    pub path: String,
    /// The object after the change or, when `deleted`, its last state under the deletion's revision.
    pub object: Stored,
    /// The object before the change; `None` if it was created.
    pub previous: Option<Stored>,
    pub deleted: bool,
}

/// Some objects of a resource, in the order of their paths.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The revision whose state this is.
    pub revision: u64,
    pub items: Vec<(String, Stored)>,
    /// How many more match.
    pub remaining: usize,
}

pub(super) struct Table {
    objects: BTreeMap<String, Stored>,
    log: VecDeque<Arc<Event>>,
    log_bytes: usize,
    /// Every event after this revision is in the log.
    pub floor: u64,
    /// The last write.
    changed: watch::Sender<u64>,
}

impl Table {
    fn new() -> Table {
        Table {
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            log_bytes: 0,
            floor: 0,
            changed: watch::Sender::new(0),
        }
    }

    /// The events after `from`, oldest first.
    pub fn events_after(&self, from: u64) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        let start = self.log.partition_point(|event| event.revision <= from);
        self.log.range(start..)
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

pub(super) struct State {
    pub revision: u64,
    pub tables: HashMap<Arc<str>, Table>,
    limits: Limits,
}

impl State {
    pub fn new(limits: Limits) -> State {
        State {
            // 0 means "any" in requests, so the first state is 1.
            revision: 1,
            tables: HashMap::new(),
            limits,
        }
    }

    pub fn table(&mut self, resource: &str) -> &mut Table {
        self.tables
            .entry(resource.into())
            .or_insert_with(Table::new)
    }

    pub fn changed(&self, resource: &str) -> u64 {
        self.tables
            .get(resource)
            .map_or(0, |table| *table.changed.borrow())
    }

    pub fn get(&self, key: &Key) -> Option<&Stored> {
        self.tables.get(&key.resource)?.objects.get(&key.path)
    }

    pub fn list(
        &self,
        resource: &str,
        prefix: &str,
        at: Option<u64>,
        after: Option<&str>,
        limit: Option<usize>,
    ) -> Result<Page, StoreError> {
        let revision = at.unwrap_or(self.revision);
        let mut page = Page {
            revision,
            ..Page::default()
        };
        let Some(table) = self.tables.get(resource) else {
            return Ok(page);
        };
        if revision < table.floor {
            return Err(StoreError::Expired {
                asked: revision,
                oldest: table.floor,
            });
        }
        // Newest first, so that what stays in the map is the state before the oldest of them.
        let mut past: HashMap<&str, Option<&Stored>> = HashMap::new();
        if revision < self.revision {
            for event in table.events_after(revision).rev() {
                past.insert(&event.path, event.previous.as_ref());
            }
        }
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let now = table
            .objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(path, _)| path.starts_with(prefix));
        if past.is_empty() {
            let mut now = now;
            let limit = limit.unwrap_or(usize::MAX);
            page.items.extend(
                now.by_ref()
                    .take(limit)
                    .map(|(path, stored)| (path.clone(), stored.clone())),
            );
            page.remaining = now.count();
            return Ok(page);
        }
        let mut then: BTreeMap<&str, &Stored> =
            now.map(|(path, stored)| (path.as_str(), stored)).collect();
        for (path, stored) in past {
            let wanted = path.starts_with(prefix) && after.is_none_or(|after| path > after);
            match stored {
                Some(stored) if wanted => {
                    then.insert(path, stored);
                }
                _ => {
                    then.remove(path);
                }
            }
        }
        let limit = limit.unwrap_or(usize::MAX);
        page.remaining = then.len().saturating_sub(limit);
        page.items = then
            .into_iter()
            .take(limit)
            .map(|(path, stored)| (path.to_owned(), stored.clone()))
            .collect();
        Ok(page)
    }

    /// Puts an object in place without an event: loading.
    pub fn load(&mut self, key: &Key, stored: Stored) {
        self.table(&key.resource)
            .objects
            .insert(key.path.clone(), stored);
    }

    /// Makes an event part of the past and its outcome the present. Gives the revisions that fell out of the log.
    pub fn apply(&mut self, resource: &str, event: Arc<Event>, replay: bool) -> Vec<u64> {
        let limits = self.limits;
        self.revision = self.revision.max(event.revision);
        let table = self.table(resource);
        if !replay {
            if event.deleted {
                table.objects.remove(&event.path);
            } else {
                table
                    .objects
                    .insert(event.path.clone(), event.object.clone());
            }
        }
        let revision = event.revision;
        table.log_bytes += weight(&event);
        table.log.push_back(event);
        let mut dropped = Vec::new();
        while table.log.len() > limits.events || table.log_bytes > limits.bytes {
            let Some(oldest) = table.log.pop_front() else {
                break;
            };
            table.log_bytes = table.log_bytes.saturating_sub(weight(&oldest));
            table.floor = oldest.revision;
            dropped.push(oldest.revision);
        }
        table.changed.send_replace(revision);
        dropped
    }
}

/// The new object counts; the one before it belongs to the event before, or to the same bytes.
fn weight(event: &Event) -> usize {
    event.object.bytes.len() + event.path.len() + 128
}
