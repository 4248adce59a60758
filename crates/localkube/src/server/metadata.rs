//! The rules of `metadata`, the same for every kind.

use serde_json::{Map, Value};

use crate::kind::{Kind, NameRule};
use crate::status::FieldError;

mod names;

pub(super) use names::{check_label_key, check_label_value, check_name};

/// The order in which Kubernetes writes metadata.
const ORDER: [&str; 15] = [
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
];

/// Most bytes of all annotations of an object together.
const ANNOTATIONS: usize = 256 << 10;

/// Text of a metadata field; empty if it is absent.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Sets a field, or removes it if the value is null.
pub(super) fn set(object: &mut Value, field: &str, value: Value) {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    if !object.get("metadata").is_some_and(Value::is_object) {
        object["metadata"] = Value::Object(Map::new());
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        if value.is_null() {
            metadata.remove(field);
        } else {
            metadata.insert(field.to_owned(), value);
        }
    }
}

/// A copy of a field; null if it is absent.
pub(super) fn get(object: &Value, field: &str) -> Value {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
        .cloned()
        .unwrap_or(Value::Null)
}

/// The finalizers.
pub(super) fn finalizers(object: &Value) -> Vec<String> {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Puts an object into the order in which it is kept: kind, apiVersion, metadata, the rest; custom
/// resources all by name. Empty maps and lists of metadata go away.
pub(super) fn arrange(kind: &Kind, object: Value) -> Value {
    let Value::Object(mut fields) = object else {
        return object;
    };
    fields.insert("kind".to_owned(), kind.kind.clone().into());
    let version = if kind.group.is_empty() {
        kind.storage_version.clone()
    } else {
        format!("{}/{}", kind.group, kind.storage_version)
    };
    fields.insert("apiVersion".to_owned(), version.into());
    let mut metadata = match fields.remove("metadata") {
        Some(Value::Object(metadata)) => metadata,
        _ => Map::new(),
    };
    metadata.remove("selfLink");
    metadata.retain(|_, value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    });
    let mut ordered = Map::new();
    for name in ["kind", "apiVersion"] {
        if let Some(value) = fields.remove(name) {
            ordered.insert(name.to_owned(), value);
        }
    }
    let mut known = Map::new();
    for name in ORDER {
        if let Some(value) = metadata.remove(name) {
            known.insert(name.to_owned(), value);
        }
    }
    for name in ["labels", "annotations"] {
        if let Some(Value::Object(map)) = known.get_mut(name) {
            map.sort_keys();
        }
    }
    ordered.insert("metadata".to_owned(), Value::Object(known));
    ordered.extend(fields);
    let mut object = Value::Object(ordered);
    if kind.schema.is_some() {
        object.sort_all_objects();
    }
    object
}

fn fault(field: &str, detail: String) -> FieldError {
    FieldError {
        field: field.to_owned(),
        reason: "FieldValueInvalid",
        detail,
    }
}

/// What is wrong with the metadata of an object that has its name and namespace.
pub(super) fn validate(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let name = text(object, "name");
    if name.is_empty() {
        faults.push(FieldError {
            field: "metadata.name".to_owned(),
            reason: "FieldValueRequired",
            detail: "Required value: name or generateName is required".to_owned(),
        });
    } else {
        for detail in check_name(kind.strategy.name, name) {
            faults.push(fault(
                "metadata.name",
                format!("Invalid value: {name:?}: {detail}"),
            ));
        }
    }
    let prefix = text(object, "generateName");
    if !prefix.is_empty() && kind.strategy.name != NameRule::PathSegment {
        // What follows the prefix is alphanumeric, so a dash at the end of the prefix is no fault.
        let trial = format!("{}a", prefix.trim_end_matches('-'));
        for detail in check_name(kind.strategy.name, &trial) {
            faults.push(fault(
                "metadata.generateName",
                format!("Invalid value: {prefix:?}: {detail}"),
            ));
        }
    }
    let strings = |field: &str| get(object, field).as_object().cloned().unwrap_or_default();
    for (key, value) in strings("labels") {
        for detail in check_label_key(&key) {
            faults.push(fault(
                "metadata.labels",
                format!("Invalid value: {key:?}: {detail}"),
            ));
        }
        let value = value.as_str().unwrap_or_default();
        for detail in check_label_value(value) {
            faults.push(fault(
                "metadata.labels",
                format!("Invalid value: {value:?}: {detail}"),
            ));
        }
    }
    let mut size = 0;
    for (key, value) in strings("annotations") {
        for detail in check_label_key(&key.to_lowercase()) {
            faults.push(fault(
                "metadata.annotations",
                format!("Invalid value: {key:?}: {detail}"),
            ));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS {
        faults.push(FieldError {
            field: "metadata.annotations".to_owned(),
            reason: "FieldValueTooLong",
            detail: format!("Too long: may not be more than {ANNOTATIONS} bytes"),
        });
    }
    for (index, owner) in get(object, "ownerReferences")
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .is_empty()
            {
                faults.push(fault(
                    &format!("metadata.ownerReferences[{index}].{field}"),
                    format!(
                        "Invalid value: \"\": {} must not be empty",
                        if field == "apiVersion" {
                            "version"
                        } else {
                            field
                        }
                    ),
                ));
            }
        }
    }
    for finalizer in finalizers(object) {
        for detail in check_label_key(&finalizer) {
            faults.push(fault(
                "metadata.finalizers",
                format!("Invalid value: {finalizer:?}: {detail}"),
            ));
        }
    }
    faults
}

/// The types of metadata, which decoding would refuse: the first field that is of another.
pub(super) fn wrong_type(object: &Value) -> Option<String> {
    let metadata = match object.get("metadata") {
        None | Some(Value::Null) => return None,
        Some(Value::Object(metadata)) => metadata,
        Some(_) => return Some("metadata".to_owned()),
    };
    for field in [
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
    ] {
        if metadata
            .get(field)
            .is_some_and(|value| !value.is_string() && !value.is_null())
        {
            return Some(format!("metadata.{field}"));
        }
    }
    for field in ["labels", "annotations"] {
        match metadata.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::Object(map)) => {
                if let Some((key, _)) = map
                    .iter()
                    .find(|(_, value)| !value.is_string() && !value.is_null())
                {
                    return Some(format!("metadata.{field}.{key}"));
                }
            }
            Some(_) => return Some(format!("metadata.{field}")),
        }
    }
    for field in ["finalizers", "ownerReferences"] {
        if metadata
            .get(field)
            .is_some_and(|value| !value.is_array() && !value.is_null())
        {
            return Some(format!("metadata.{field}"));
        }
    }
    None
}
