//! `meta.k8s.io/v1` Tables: what `kubectl get` prints.

mod cells;
pub(crate) mod core;
mod json_path;
pub(crate) mod network;
pub(crate) mod pods;
pub(crate) mod system;
pub(crate) mod workloads;

use serde_json::{Value, json};

use crate::kind::{Columns, Kind, OwnedColumn};
use json_path::JsonPath;

/// What of each object travels in its row (`includeObject` of TableOptions).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// PartialObjectMetadata; the default.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

/// A Table of these objects. `list_metadata` becomes the Table's `metadata` (resourceVersion, continue, …).
pub fn render(
    kind: &Kind,
    objects: &[Value],
    list_metadata: &Value,
    include: IncludeObject,
    now: jiff::Timestamp,
) -> Value {
    let (definitions, cells) = layout(kind, now);
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let embedded = match include {
                IncludeObject::None => Value::Null,
                IncludeObject::Metadata => json!({
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                    "metadata": object.get("metadata"),
                }),
                IncludeObject::Object => object.clone(),
            };
            json!({"cells": cells(object), "object": embedded})
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

type Cells<'a> = Box<dyn Fn(&Value) -> Vec<Value> + 'a>;

/// The column definitions of a kind, and the function that fills one row.
fn layout(kind: &Kind, now: jiff::Timestamp) -> (Vec<Value>, Cells<'_>) {
    match &kind.columns {
        Columns::Built(columns, cells) => {
            let definitions = columns
                .iter()
                .map(|c| definition(c.name, c.kind, c.format, c.description, c.priority))
                .collect();
            let cells = *cells;
            (definitions, Box::new(move |object| cells(object, now)))
        }
        Columns::Printed(columns) => printed(columns, now),
        Columns::Default => (
            vec![
                name_definition(),
                definition("Created At", "date", "", "", 0),
            ],
            Box::new(|object| {
                let created = object
                    .pointer("/metadata/creationTimestamp")
                    .cloned()
                    .unwrap_or(Value::Null);
                vec![cells::name(object), created]
            }),
        ),
    }
}

fn printed(columns: &[(OwnedColumn, String)], now: jiff::Timestamp) -> (Vec<Value>, Cells<'_>) {
    let mut definitions = vec![name_definition()];
    if columns.is_empty() {
        definitions.push(definition("Age", "date", "", "", 0));
        let cells: Cells<'_> =
            Box::new(move |object| vec![cells::name(object), cells::age(object, now)]);
        return (definitions, cells);
    }
    let mut paths = Vec::with_capacity(columns.len());
    for (column, path) in columns {
        definitions.push(definition(
            &column.name,
            &column.kind,
            &column.format,
            &column.description,
            column.priority,
        ));
        paths.push((column.kind.as_str(), JsonPath::parse(path)));
    }
    let cells: Cells<'_> = Box::new(move |object| {
        let mut row = vec![cells::name(object)];
        for (kind, path) in &paths {
            let found = path.as_ref().and_then(|path| path.first(object));
            row.push(found.map_or(Value::Null, |value| custom_cell(kind, value, now)));
        }
        row
    });
    (definitions, cells)
}

/// One cell of a custom column; null where the value has another type than the column says.
fn custom_cell(kind: &str, value: &Value, now: jiff::Timestamp) -> Value {
    match (kind, value) {
        ("string", Value::String(_)) => value.clone(),
        ("string", Value::Null) => Value::Null,
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(number)) => number
            .as_i64()
            .map_or_else(|| truncated(number), Value::from),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<jiff::Timestamp>() {
            Ok(time) => cells::duration(now.duration_since(time)).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

fn truncated(number: &serde_json::Number) -> Value {
    // A fraction in an integer column loses its fraction; the cast saturates.
    #[allow(clippy::cast_possible_truncation)]
    number
        .as_f64()
        .map_or(Value::Null, |float| Value::from(float.trunc() as i64))
}

fn name_definition() -> Value {
    definition("Name", "string", "name", "", 0)
}

fn definition(name: &str, kind: &str, format: &str, description: &str, priority: i32) -> Value {
    json!({
        "name": name, "type": kind, "format": format,
        "description": description, "priority": priority,
    })
}

#[cfg(test)]
mod tests;
