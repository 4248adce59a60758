//! JSON patch (RFC 6902), with the liberties that kube-apiserver takes: `replace` and `copy` of an absent
//! field of an object work, a negative index counts from the end, an absent field equals null.

use serde_json::{Value, json};

use super::decode::Operation;
use crate::status::ApiError;

/// What all `copy` operations of one patch may add together, in bytes.
const COPIED: usize = 3 * 1024 * 1024;

pub(super) fn apply(operations: &[Operation], current: &Value) -> Result<Value, ApiError> {
    let mut document = current.clone();
    let mut copied = 0_usize;
    for operation in operations {
        step(&mut document, operation, &mut copied).ok_or_else(refused)?;
    }
    Ok(document)
}

fn refused() -> ApiError {
    let mut error = ApiError::new(
        422,
        "Invalid",
        "the server rejected our request due to an error in our request",
    );
    error.details = json!({});
    error
}

fn step(document: &mut Value, operation: &Operation, copied: &mut usize) -> Option<()> {
    let path = operation.path.as_deref()?;
    match operation.op.as_str() {
        "add" => add(document, path, operation.value.clone()),
        "remove" => remove(document, path).map(drop),
        "replace" if path.is_empty() => {
            *document = operation.value.clone();
            Some(())
        }
        "replace" => {
            let (container, key) = find(document, path)?;
            match container {
                Value::Object(fields) => {
                    fields.insert(key, operation.value.clone());
                }
                Value::Array(items) => {
                    let index = index(&key, items.len())?;
                    *items.get_mut(index)? = operation.value.clone();
                }
                _ => return None,
            }
            Some(())
        }
        "move" => {
            let value = remove(document, operation.from.as_deref()?)?;
            add(document, path, value)
        }
        "copy" => {
            let value = read(document, operation.from.as_deref()?)?;
            *copied = copied.saturating_add(value.to_string().len());
            if *copied > COPIED {
                return None;
            }
            add(document, path, value)
        }
        "test" => {
            let found = if path.is_empty() {
                document.clone()
            } else {
                read(document, path)?
            };
            (found == operation.value).then_some(())
        }
        _ => None,
    }
}

/// The container that a path ends in, and the last key.
fn find<'a>(document: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    // What stands before the first slash does not count, as in kube-apiserver.
    let (_, rest) = path.split_once('/')?;
    let (parents, last) = match rest.rsplit_once('/') {
        Some((parents, last)) => (Some(parents), last),
        None => (None, rest),
    };
    let mut at = document;
    for key in parents.into_iter().flat_map(|parents| parents.split('/')) {
        at = match at {
            Value::Object(fields) => fields.get_mut(&unescape(key))?,
            Value::Array(items) => {
                let index = index(key, items.len())?;
                items.get_mut(index)?
            }
            _ => return None,
        };
    }
    Some((at, unescape(last)))
}

fn unescape(key: &str) -> String {
    key.replace("~1", "/").replace("~0", "~")
}

fn index(key: &str, length: usize) -> Option<usize> {
    let index: i64 = key.parse().ok()?;
    let length = i64::try_from(length).ok()?;
    let index = if index < 0 { index + length } else { index };
    (0..length)
        .contains(&index)
        .then(|| usize::try_from(index).ok())?
}

fn read(document: &mut Value, path: &str) -> Option<Value> {
    let (container, key) = find(document, path)?;
    match container {
        Value::Object(fields) => Some(fields.get(&key).cloned().unwrap_or(Value::Null)),
        Value::Array(items) => items.get(index(&key, items.len())?).cloned(),
        _ => None,
    }
}

fn add(document: &mut Value, path: &str, value: Value) -> Option<()> {
    let (container, key) = find(document, path)?;
    match container {
        Value::Object(fields) => {
            fields.insert(key, value);
        }
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let index = index(&key, items.len() + 1)?;
            items.insert(index, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(document: &mut Value, path: &str) -> Option<Value> {
    let (container, key) = find(document, path)?;
    match container {
        Value::Object(fields) => fields.shift_remove(&key),
        Value::Array(items) => {
            let index = index(&key, items.len())?;
            Some(items.remove(index))
        }
        _ => None,
    }
}
