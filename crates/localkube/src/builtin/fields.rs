//! Walking through objects whose shape nobody has checked yet: nothing here fails on a wrong type.

use serde_json::{Map, Value};

/// Whether the field is there and not null.
pub(crate) fn has(value: &Value, key: &str) -> bool {
    value.get(key).is_some_and(|field| !field.is_null())
}

/// The text of a field, empty if it is no string.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The elements of a list, none if it is no list.
pub(crate) fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The elements of a list, for changing.
pub(crate) fn items_mut<'a>(value: &'a mut Value, key: &str) -> &'a mut [Value] {
    value
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .map_or(&mut [], Vec::as_mut_slice)
}

/// Sets a field that is absent or null.
pub(crate) fn default(value: &mut Value, key: &str, to: impl Into<Value>) {
    if let Value::Object(map) = value
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_owned(), to.into());
    }
}

/// Sets a field that is absent, null or the empty string.
pub(crate) fn default_text(value: &mut Value, key: &str, to: &str) {
    if text(value, key).is_empty() && value.get(key).is_none_or(|v| v.is_null() || v.is_string()) {
        set(value, key, to);
    }
}

/// Sets a field of an object.
pub(crate) fn set(value: &mut Value, key: &str, to: impl Into<Value>) {
    if let Value::Object(map) = value {
        map.insert(key.to_owned(), to.into());
    }
}

/// Removes a field of an object.
pub(crate) fn remove(value: &mut Value, key: &str) {
    if let Value::Object(map) = value {
        map.shift_remove(key);
    }
}

/// Changes the object in a field, which is made if it is absent.
pub(crate) fn ensure(value: &mut Value, key: &str, change: impl FnOnce(&mut Value)) {
    default(value, key, Map::new());
    if let Some(field) = value.get_mut(key) {
        change(field);
    }
}

/// Changes the object in a field, if it is there.
pub(crate) fn within(value: &mut Value, key: &str, change: impl FnOnce(&mut Value)) {
    if let Some(field) = value.get_mut(key)
        && !field.is_null()
    {
        change(field);
    }
}
