//! `metadata.managedFields`: each manager with what it owns.

use std::cmp::Ordering;

use serde_json::{Map, Value, json};

use super::Author;
use super::field_set::FieldSet;

/// Most managers of ordinary writes; the oldest beyond are put together.
const MOST_UPDATERS: usize = 10;
/// The manager that the oldest ones become.
const OLDEST: &str = "ancient-changes";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// One manager.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    manager: String,
    operation: Operation,
    api_version: String,
    subresource: String,
    pub time: Option<String>,
    pub set: FieldSet,
}

impl Entry {
    pub fn new(author: &Author, operation: Operation) -> Entry {
        Entry {
            manager: author.manager.clone(),
            operation,
            api_version: author.api_version.clone(),
            subresource: author.subresource.clone(),
            time: None,
            set: FieldSet::default(),
        }
    }

    /// Whether both are the same manager. One that applies stays the same in another version.
    fn is(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As conflicts name it.
    pub fn text(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn order(&self, other: &Entry) -> Ordering {
        let key = |entry: &Entry| {
            (
                entry.operation,
                entry.time.clone(),
                entry.manager.clone(),
                entry.api_version.clone(),
                entry.subresource.clone(),
            )
        };
        key(self).cmp(&key(other))
    }

    fn decode(value: &Value) -> Option<Entry> {
        let text = |name: &str| {
            value
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        if text("fieldsType") != "FieldsV1" {
            return None;
        }
        Some(Entry {
            manager: text("manager"),
            operation: match text("operation").as_str() {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            },
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: value.get("time").and_then(Value::as_str).map(str::to_owned),
            set: FieldSet::from_value(value.get("fieldsV1")?)?,
        })
    }

    fn encode(&self) -> Value {
        let mut entry = Map::new();
        entry.insert("manager".to_owned(), self.manager.clone().into());
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        entry.insert("operation".to_owned(), operation.into());
        entry.insert("apiVersion".to_owned(), self.api_version.clone().into());
        if let Some(time) = &self.time {
            entry.insert("time".to_owned(), time.clone().into());
        }
        entry.insert("fieldsType".to_owned(), "FieldsV1".into());
        entry.insert("fieldsV1".to_owned(), self.set.to_value());
        if !self.subresource.is_empty() {
            entry.insert("subresource".to_owned(), self.subresource.clone().into());
        }
        Value::Object(entry)
    }
}

/// Whether a client asks to forget all managers: one empty entry.
pub(super) fn is_reset(fields: &Value) -> bool {
    *fields == json!([{}])
}

/// All managers of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managed(Vec<Entry>);

impl Managed {
    /// `None` for what is not `managedFields`.
    pub fn decode(fields: &Value) -> Option<Managed> {
        match fields {
            Value::Null => Some(Managed::default()),
            Value::Array(entries) => entries
                .iter()
                .map(Entry::decode)
                .collect::<Option<Vec<_>>>()
                .map(Managed),
            _ => None,
        }
    }

    /// In the order in which Kubernetes writes them; null for none.
    pub fn encode(mut self) -> Value {
        self.0.retain(|entry| !entry.set.is_empty());
        if self.0.is_empty() {
            return Value::Null;
        }
        self.0.sort_by(Entry::order);
        self.0.iter().map(Entry::encode).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// Takes the entry of the same manager out.
    pub fn take(&mut self, like: &Entry) -> Option<Entry> {
        let at = self.0.iter().position(|entry| entry.is(like))?;
        Some(self.0.remove(at))
    }

    pub fn put(&mut self, entry: Entry) {
        self.0.push(entry);
    }

    /// All that anyone owns.
    pub fn owned(&self) -> FieldSet {
        self.0
            .iter()
            .fold(FieldSet::default(), |all, entry| all.union(&entry.set))
    }

    /// Takes fields from everyone.
    pub fn lose(&mut self, fields: &FieldSet) {
        for entry in &mut self.0 {
            entry.set = entry.set.difference(fields);
        }
        self.0.retain(|entry| !entry.set.is_empty());
    }

    /// Puts the oldest managers of ordinary writes together when there are too many.
    pub fn cap(&mut self) {
        self.0.sort_by(Entry::order);
        let updaters = self
            .0
            .iter()
            .filter(|entry| entry.operation == Operation::Update)
            .count();
        let Some(excess) = updaters.checked_sub(MOST_UPDATERS).filter(|more| *more > 0) else {
            return;
        };
        let (mut old, mut kept) = (Vec::new(), Vec::new());
        for entry in std::mem::take(&mut self.0) {
            // One more than the excess: what they become counts too.
            if entry.operation == Operation::Update && old.len() <= excess {
                old.push(entry);
            } else {
                kept.push(entry);
            }
        }
        for entry in old {
            let ancient = Entry {
                manager: OLDEST.to_owned(),
                subresource: String::new(),
                ..entry
            };
            match kept.iter_mut().find(|kept| kept.is(&ancient)) {
                Some(before) => {
                    before.set = before.set.union(&ancient.set);
                    before.time = ancient.time;
                }
                None => kept.push(ancient),
            }
        }
        self.0 = kept;
    }
}
