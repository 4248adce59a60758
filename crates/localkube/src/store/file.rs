//! The durable half: one redb file with the objects of now and, for each kept event, what stood there before.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::memory::{Event, State};
use super::writer::Accepted;
use super::{Key, Limits, StoreError, Stored};

/// `resource/path` → object.
const OBJECTS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("objects");
/// Revision → key, and the object as it was before that write.
const PAST: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("past");
/// Resource → the revision after which its whole past is kept.
const FLOORS: TableDefinition<'static, &str, u64> = TableDefinition::new("floors");
/// `revision` → the last one.
const COUNTERS: TableDefinition<'static, &str, u64> = TableDefinition::new("counters");

const CACHE: usize = 4 << 20;

pub(super) struct File {
    database: Database,
    /// Fell out of the past since the last commit; the next one takes them along.
    forgotten: Vec<u64>,
    floors: HashMap<Arc<str>, u64>,
}

fn failed<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> StoreError {
    move |error| StoreError::File {
        doing,
        source: Box::new(error.into()),
    }
}

impl File {
    pub fn open(path: &Path, limits: Limits) -> Result<(File, State), StoreError> {
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create(path)
            .map_err(failed("open"))?;
        let mut file = File {
            database,
            forgotten: Vec::new(),
            floors: HashMap::new(),
        };
        file.prepare()?;
        let state = file.load(limits)?;
        Ok((file, state))
    }

    fn prepare(&self) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(failed("prepare"))?;
        {
            transaction.open_table(OBJECTS).map_err(failed("prepare"))?;
            transaction.open_table(PAST).map_err(failed("prepare"))?;
            transaction.open_table(FLOORS).map_err(failed("prepare"))?;
            transaction
                .open_table(COUNTERS)
                .map_err(failed("prepare"))?;
        }
        transaction.commit().map_err(failed("prepare"))
    }

    fn load(&mut self, limits: Limits) -> Result<State, StoreError> {
        let mut state = State::new(limits);
        let transaction = self.database.begin_read().map_err(failed("read"))?;
        let counters = transaction.open_table(COUNTERS).map_err(failed("read"))?;
        if let Some(revision) = counters.get("revision").map_err(failed("read"))? {
            state.revision = revision.value();
        }
        let floors = transaction.open_table(FLOORS).map_err(failed("read"))?;
        for row in floors.iter().map_err(failed("read"))? {
            let (resource, floor) = row.map_err(failed("read"))?;
            state.table(resource.value()).floor = floor.value();
        }
        let mut current: HashMap<Key, Stored> = HashMap::new();
        let objects = transaction.open_table(OBJECTS).map_err(failed("read"))?;
        for row in objects.iter().map_err(failed("read"))? {
            let (key, value) = row.map_err(failed("read"))?;
            if let (Some(key), Some(stored)) = (read_key(key.value()), read_stored(value.value())) {
                state.load(&key, stored.clone());
                current.insert(key, stored);
            }
        }
        // Backwards from now: what an event led to is what stood there before the next one.
        let mut events = Vec::new();
        let past = transaction.open_table(PAST).map_err(failed("read"))?;
        for row in past.iter().map_err(failed("read"))?.rev() {
            let (revision, value) = row.map_err(failed("read"))?;
            let revision = revision.value();
            let Some((key, previous)) = read_past(value.value()) else {
                continue;
            };
            let after = match &previous {
                Some(previous) => current.insert(key.clone(), previous.clone()),
                None => current.remove(&key),
            };
            let deleted = after.is_none();
            let Some(object) = after.or_else(|| Some(previous.as_ref()?.restamp(revision))) else {
                continue;
            };
            events.push((
                key.resource,
                Arc::new(Event {
                    revision,
                    path: key.path,
                    object,
                    previous,
                    deleted,
                }),
            ));
        }
        for (resource, event) in events.into_iter().rev() {
            let dropped = state.apply(&resource, event, true);
            self.forget(&resource, dropped);
        }
        Ok(state)
    }

    /// Makes these writes durable, all or none.
    pub fn commit(&mut self, accepted: &[Accepted]) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(failed("write"))?;
        {
            let mut objects = transaction.open_table(OBJECTS).map_err(failed("write"))?;
            let mut past = transaction.open_table(PAST).map_err(failed("write"))?;
            let mut value = Vec::new();
            for Accepted { key, event } in accepted {
                let name = write_key(key);
                value.clear();
                write_past(&mut value, &name, event.previous.as_ref());
                past.insert(event.revision, value.as_slice())
                    .map_err(failed("write"))?;
                if event.deleted {
                    objects.remove(name.as_str()).map_err(failed("write"))?;
                } else {
                    value.clear();
                    write_stored(&mut value, &event.object);
                    objects
                        .insert(name.as_str(), value.as_slice())
                        .map_err(failed("write"))?;
                }
            }
            for revision in self.forgotten.drain(..) {
                past.remove(revision).map_err(failed("write"))?;
            }
            if !self.floors.is_empty() {
                let mut floors = transaction.open_table(FLOORS).map_err(failed("write"))?;
                for (resource, floor) in self.floors.drain() {
                    floors
                        .insert(resource.as_ref(), floor)
                        .map_err(failed("write"))?;
                }
            }
            if let Some(last) = accepted.last() {
                transaction
                    .open_table(COUNTERS)
                    .map_err(failed("write"))?
                    .insert("revision", last.event.revision)
                    .map_err(failed("write"))?;
            }
        }
        transaction.commit().map_err(failed("write"))
    }

    /// These events are no longer kept.
    pub fn forget(&mut self, resource: &Arc<str>, revisions: Vec<u64>) {
        if let Some(floor) = revisions.last() {
            self.floors.insert(resource.clone(), *floor);
            self.forgotten.extend(revisions);
        }
    }
}

fn write_key(key: &Key) -> String {
    format!("{}/{}", key.resource, key.path)
}

fn read_key(name: &str) -> Option<Key> {
    let (resource, path) = name.split_once('/')?;
    Some(Key {
        resource: resource.into(),
        path: path.to_owned(),
    })
}

fn write_stored(into: &mut Vec<u8>, stored: &Stored) {
    into.extend_from_slice(&stored.revision.to_le_bytes());
    into.extend_from_slice(&(stored.offset as u64).to_le_bytes());
    into.extend_from_slice(&stored.bytes);
}

fn read_stored(bytes: &[u8]) -> Option<Stored> {
    let (revision, rest) = bytes.split_first_chunk::<8>()?;
    let (offset, json) = rest.split_first_chunk::<8>()?;
    Some(Stored {
        revision: u64::from_le_bytes(*revision),
        offset: usize::try_from(u64::from_le_bytes(*offset)).ok()?,
        bytes: Bytes::copy_from_slice(json),
    })
}

fn write_past(into: &mut Vec<u8>, name: &str, previous: Option<&Stored>) {
    into.extend_from_slice(&(name.len() as u64).to_le_bytes());
    into.extend_from_slice(name.as_bytes());
    if let Some(previous) = previous {
        write_stored(into, previous);
    }
}

fn read_past(bytes: &[u8]) -> Option<(Key, Option<Stored>)> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (name, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let key = read_key(std::str::from_utf8(name).ok()?)?;
    if rest.is_empty() {
        return Some((key, None));
    }
    Some((key, Some(read_stored(rest)?)))
}
