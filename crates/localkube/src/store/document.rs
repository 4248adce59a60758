//! Serialised objects that know where their resourceVersion stands.

use bytes::Bytes;
use serde_json::{Map, Value};

/// An object on its way into the store: JSON whose `metadata.resourceVersion` is empty, to be filled with
/// the revision that the write gets.
#[derive(Clone, Debug)]
pub struct Document {
    json: Vec<u8>,
    offset: usize,
}

impl Document {
    /// Serialises an object. Its own `metadata.resourceVersion` does not matter.
    pub fn new(object: &Value) -> Document {
        let empty = Map::new();
        let fields = object.as_object().unwrap_or(&empty);
        let mut json = Vec::with_capacity(1024);
        let mut offset = 0;
        json.push(b'{');
        // An object without metadata still gets a resourceVersion.
        let absent = (!fields.contains_key("metadata")).then_some(("metadata", &Value::Null));
        for (written, (name, value)) in fields
            .iter()
            .map(|(name, value)| (name.as_str(), value))
            .chain(absent)
            .enumerate()
        {
            if written > 0 {
                json.push(b',');
            }
            append_string(&mut json, name);
            json.push(b':');
            if name == "metadata" {
                offset = append_metadata(&mut json, value.as_object().unwrap_or(&empty));
            } else {
                append(&mut json, value);
            }
        }
        json.push(b'}');
        Document { json, offset }
    }

    /// The document as the write with this revision leaves it.
    pub(crate) fn stamp(self, revision: u64) -> Stored {
        let digits = revision.to_string();
        let mut json = self.json;
        let at = self.offset.min(json.len());
        json.splice(at..at, digits.bytes());
        Stored {
            revision,
            offset: at,
            bytes: json.into(),
        }
    }
}

/// Writes metadata and gives the place of the resourceVersion's digits.
fn append_metadata(json: &mut Vec<u8>, metadata: &Map<String, Value>) -> usize {
    let mut offset = None;
    json.push(b'{');
    let mut first = true;
    for (name, value) in metadata {
        if !first {
            json.push(b',');
        }
        first = false;
        if name == "resourceVersion" {
            offset = Some(append_version(json));
        } else {
            append_string(json, name);
            json.push(b':');
            append(json, value);
        }
    }
    let offset = offset.unwrap_or_else(|| {
        if !first {
            json.push(b',');
        }
        append_version(json)
    });
    json.push(b'}');
    offset
}

fn append_version(json: &mut Vec<u8>) -> usize {
    json.extend_from_slice(b"\"resourceVersion\":\"");
    let offset = json.len();
    json.push(b'"');
    offset
}

fn append(json: &mut Vec<u8>, value: &Value) {
    // Neither a Value nor a Vec can fail to be written.
    let _ = serde_json::to_writer(json, value);
}

fn append_string(json: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(json, text);
}

/// An object in the store: its JSON, complete with resourceVersion, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The write that made it so.
    pub revision: u64,
    pub(crate) offset: usize,
    /// The JSON.
    pub bytes: Bytes,
}

impl Stored {
    /// The parsed object. What is stored was written by [`Document`], so it parses.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// The same object under another revision.
    pub(crate) fn restamp(&self, revision: u64) -> Stored {
        let digits = self.revision.to_string().len();
        let head = self.bytes.get(..self.offset).unwrap_or_default();
        let tail = self.bytes.get(self.offset + digits..).unwrap_or_default();
        let mut json = Vec::with_capacity(self.bytes.len() + 4);
        json.extend_from_slice(head);
        json.extend_from_slice(revision.to_string().as_bytes());
        json.extend_from_slice(tail);
        Stored {
            revision,
            offset: self.offset,
            bytes: json.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_revision_is_filled_in_wherever_it_stands() {
        for object in [
            json!({"kind": "A", "metadata": {"name": "x", "resourceVersion": "old", "uid": "u"}, "data": {"metadata": {"resourceVersion": "7"}}}),
            json!({"kind": "A", "metadata": {"name": "x"}}),
            json!({"metadata": {}}),
            json!({"kind": "A"}),
        ] {
            let stored = Document::new(&object).stamp(99);
            let mut want = object.clone();
            if want.get("metadata").is_none() {
                want["metadata"] = json!({});
            }
            want["metadata"]["resourceVersion"] = "99".into();
            assert_eq!(stored.value(), want);
            let again = stored.restamp(1000);
            want["metadata"]["resourceVersion"] = "1000".into();
            assert_eq!(again.value(), want);
            assert_eq!(again.restamp(99), stored);
        }
    }
}
