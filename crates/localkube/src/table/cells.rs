//! Cells that many kinds share, and how Kubernetes writes ages, labels and lists.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::builtin::fields::{items, text};
use crate::kind::Column;

pub(super) const NONE: &str = "<none>";
pub(super) const UNSET: &str = "<unset>";
pub(super) const UNKNOWN: &str = "<unknown>";

pub(super) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "",
    priority: 0,
};
pub(super) const AGE: Column = column("Age");

/// A column of text.
pub(super) const fn column(name: &'static str) -> Column {
    typed(name, "string")
}

/// A column of whole numbers.
pub(super) const fn integer(name: &'static str) -> Column {
    typed(name, "integer")
}

/// A column of true and false.
pub(super) const fn boolean(name: &'static str) -> Column {
    typed(name, "boolean")
}

/// A column of text that only `-o wide` shows.
pub(super) const fn wide(name: &'static str) -> Column {
    Column {
        priority: 1,
        ..column(name)
    }
}

const fn typed(name: &'static str, kind: &'static str) -> Column {
    Column {
        name,
        kind,
        format: "",
        description: "",
        priority: 0,
    }
}

/// What stands at a JSON pointer, null if nothing does.
pub(super) fn at<'a>(object: &'a Value, pointer: &str) -> &'a Value {
    object.pointer(pointer).unwrap_or(&Value::Null)
}

/// The text at a JSON pointer.
pub(super) fn text_at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    at(object, pointer).as_str().unwrap_or_default()
}

/// The text at a JSON pointer, or a stand-in where it is empty.
pub(super) fn text_or<'a>(object: &'a Value, pointer: &str, otherwise: &'a str) -> &'a str {
    match text_at(object, pointer) {
        "" => otherwise,
        text => text,
    }
}

/// The whole number at a JSON pointer, 0 if there is none.
pub(super) fn number_at(object: &Value, pointer: &str) -> i64 {
    at(object, pointer).as_i64().unwrap_or(0)
}

/// The elements of the list at a JSON pointer.
pub(super) fn list_at<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    at(object, pointer).as_array().map_or(&[], Vec::as_slice)
}

/// How many entries the map at a JSON pointer has.
pub(super) fn size_at(object: &Value, pointer: &str) -> usize {
    at(object, pointer)
        .as_object()
        .map_or(0, serde_json::Map::len)
}

pub(super) fn name(object: &Value) -> Value {
    text_at(object, "/metadata/name").into()
}

pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    since(at(object, "/metadata/creationTimestamp"), now).into()
}

/// How long ago a timestamp was.
pub(super) fn since(timestamp: &Value, now: Timestamp) -> String {
    match instant(timestamp) {
        Some(time) => duration(now.duration_since(time)),
        None => UNKNOWN.to_owned(),
    }
}

pub(super) fn instant(timestamp: &Value) -> Option<Timestamp> {
    timestamp.as_str()?.parse().ok()
}

/// A duration, coarser the longer it is: `119s`, `2m5s`, `3h`, `2d3h`, `400d`, `3y10d`.
pub(super) fn duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    if seconds < 120 {
        return format!("{seconds}s");
    }
    let minutes = seconds / 60;
    if minutes < 10 {
        return pair(minutes, "m", seconds % 60, "s");
    }
    if minutes < 180 {
        return format!("{minutes}m");
    }
    let hours = minutes / 60;
    if hours < 8 {
        return pair(hours, "h", minutes % 60, "m");
    }
    if hours < 48 {
        return format!("{hours}h");
    }
    let days = hours / 24;
    if days < 8 {
        return pair(days, "d", hours % 24, "h");
    }
    if days < 365 * 2 {
        return format!("{days}d");
    }
    if days < 365 * 8 {
        return pair(days / 365, "y", days % 365, "d");
    }
    format!("{}y", days / 365)
}

fn pair(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

/// A map of labels as `a=b,c=d`.
pub(super) fn labels(map: &Value) -> String {
    let mut pairs = pairs(map);
    if pairs.is_empty() {
        return NONE.to_owned();
    }
    pairs.sort_unstable();
    pairs.join(",")
}

fn pairs(map: &Value) -> Vec<String> {
    map.as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect()
}

/// A LabelSelector in the syntax of `-l`.
pub(super) fn selector(selector: &Value) -> String {
    let mut terms: Vec<(String, String)> = at(selector, "/matchLabels")
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            (
                key.clone(),
                format!("{key}={}", value.as_str().unwrap_or_default()),
            )
        })
        .collect();
    for expression in items(selector, "matchExpressions") {
        let key = text(expression, "key");
        let mut values: Vec<&str> = items(expression, "values")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        values.sort_unstable();
        let values = values.join(",");
        let term = match text(expression, "operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<error>".to_owned(),
        };
        terms.push((key.to_owned(), term));
    }
    if terms.is_empty() {
        return NONE.to_owned();
    }
    terms.sort();
    let terms: Vec<String> = terms.into_iter().map(|(_, term)| term).collect();
    terms.join(",")
}

/// Names and images of containers, each joined by commas.
pub(super) fn containers(spec: &Value) -> (Value, Value) {
    let join = |field: &str| {
        let parts: Vec<&str> = items(spec, "containers")
            .iter()
            .map(|container| text(container, field))
            .collect();
        Value::from(parts.join(","))
    };
    (join("name"), join("image"))
}

/// The first of many, and how many more there are.
pub(super) fn shortened(parts: &[String], most: usize, none: &str) -> String {
    if parts.is_empty() {
        return none.to_owned();
    }
    let shown = parts.get(..most).unwrap_or(parts).join(",");
    match parts.len().checked_sub(most) {
        Some(more) if more > 0 => format!("{shown} + {more} more..."),
        _ => shown,
    }
}

/// An IntOrString, or a stand-in.
pub(super) fn int_or_string(value: &Value, otherwise: &str) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => otherwise.to_owned(),
    }
}

/// Whether the object has a condition of this type with status True.
pub(super) fn condition_is_true(object: &Value, name: &str) -> bool {
    list_at(object, "/status/conditions")
        .iter()
        .any(|condition| text(condition, "type") == name && text(condition, "status") == "True")
}

/// Whether the object is being deleted.
pub(super) fn is_deleted(object: &Value) -> bool {
    !at(object, "/metadata/deletionTimestamp").is_null()
}
