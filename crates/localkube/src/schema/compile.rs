//! From JSONSchemaProps to [`Node`].

use regex::Regex;
use serde_json::Value;

use super::{Additional, Bounds, Kind, Limit, Node, Unique, child};
use crate::status::FieldError;

/// Where a level stands: all but those inside `allOf`, `anyOf`, `oneOf` and `not` must say their type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Root,
    Field,
    Item,
    Logical,
}

pub(super) fn node(schema: &Value, path: &str, place: Place, faults: &mut Vec<FieldError>) -> Node {
    let flag = |name: &str| schema.get(name).and_then(Value::as_bool).unwrap_or(false);
    let text = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or_default();
    let texts = |name: &str| -> Vec<String> {
        let list = schema.get(name).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let count = |name: &str| schema.get(name).and_then(Value::as_u64);
    let bounds = |least: &str, most: &str| Bounds {
        least: count(least),
        most: count(most),
    };
    let number = |name: &str| schema.get(name).and_then(Value::as_number).cloned();
    let limit = |name: &str, exclusive: &str| {
        number(name).map(|value| Limit {
            value,
            exclusive: flag(exclusive),
        })
    };
    let several = |name: &str, faults: &mut Vec<FieldError>| -> Vec<Node> {
        let list = schema.get(name).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .enumerate()
            .map(|(index, inner)| {
                node(
                    inner,
                    &child(path, &format!("{name}[{index}]")),
                    Place::Logical,
                    faults,
                )
            })
            .collect()
    };

    let kind = match text("type") {
        "" => {
            if let Some(detail) = untyped(place)
                && !flag("x-kubernetes-int-or-string")
                && !(flag("x-kubernetes-preserve-unknown-fields") && place != Place::Root)
            {
                faults.push(required(child(path, "type"), detail));
            }
            None
        }
        other if place == Place::Root && other != "object" => {
            faults.push(FieldError {
                field: child(path, "type"),
                reason: "FieldValueInvalid",
                detail: format!(
                    "Invalid value: {}: must be object at the root",
                    Value::from(other)
                ),
            });
            None
        }
        "object" => Some(Kind::Object),
        "array" => Some(Kind::Array),
        "string" => Some(Kind::String),
        "integer" => Some(Kind::Integer),
        "number" => Some(Kind::Number),
        "boolean" => Some(Kind::Boolean),
        other => {
            faults.push(FieldError {
                field: child(path, "type"),
                reason: "FieldValueNotSupported",
                detail: format!(
                    "Unsupported value: {}: supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
                    Value::from(other)
                ),
            });
            None
        }
    };
    if kind == Some(Kind::Array) && place != Place::Logical && schema.get("items").is_none() {
        faults.push(required(child(path, "items"), "must be specified"));
    }
    let below = |place_below: Place| match place {
        Place::Logical => Place::Logical,
        _ => place_below,
    };
    let pattern = match text("pattern") {
        "" => None,
        pattern => match Regex::new(pattern) {
            Ok(compiled) => Some(compiled),
            Err(_) => {
                faults.push(FieldError {
                    field: child(path, "pattern"),
                    reason: "FieldValueInvalid",
                    detail: format!(
                        "Invalid value: {}: must be a valid regular expression, but isn't",
                        Value::from(pattern)
                    ),
                });
                None
            }
        },
    };
    let additional = match schema.get("additionalProperties") {
        None | Some(Value::Null | Value::Bool(false)) => Additional::None,
        Some(inner @ Value::Object(fields)) if !fields.is_empty() => {
            Additional::Schema(Box::new(node(
                inner,
                &child(path, "additionalProperties"),
                below(Place::Field),
                faults,
            )))
        }
        Some(_) => Additional::Any,
    };
    let properties = schema.get("properties").and_then(Value::as_object);
    let properties = properties
        .into_iter()
        .flatten()
        .map(|(name, inner)| {
            let path = child(path, &format!("properties[{name}]"));
            (
                name.clone(),
                node(inner, &path, below(Place::Field), faults),
            )
        })
        .collect();
    let one = |name: &str, place: Place, faults: &mut Vec<FieldError>| {
        let inner = schema.get(name).filter(|inner| inner.is_object())?;
        Some(Box::new(node(inner, &child(path, name), place, faults)))
    };
    let unique = match text("x-kubernetes-list-type") {
        "set" => Unique::Items,
        "map" => {
            let keys = texts("x-kubernetes-list-map-keys");
            if keys.is_empty() {
                faults.push(required(
                    child(path, "x-kubernetes-list-map-keys"),
                    "must not be empty if x-kubernetes-list-type is map",
                ));
            }
            Unique::Keys(keys)
        }
        _ => Unique::No,
    };
    Node {
        kind,
        format: text("format").to_owned(),
        nullable: flag("nullable"),
        default: schema.get("default").cloned(),
        enumeration: schema
            .get("enum")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default(),
        properties,
        additional,
        items: one("items", below(Place::Item), faults),
        required: texts("required"),
        pattern,
        length: bounds("minLength", "maxLength"),
        count: bounds("minItems", "maxItems"),
        fields: bounds("minProperties", "maxProperties"),
        minimum: limit("minimum", "exclusiveMinimum"),
        maximum: limit("maximum", "exclusiveMaximum"),
        multiple_of: number("multipleOf"),
        unique,
        preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
        embedded: flag("x-kubernetes-embedded-resource"),
        int_or_string: flag("x-kubernetes-int-or-string"),
        all_of: several("allOf", faults),
        any_of: several("anyOf", faults),
        one_of: several("oneOf", faults),
        not: one("not", Place::Logical, faults),
    }
}

fn untyped(place: Place) -> Option<&'static str> {
    match place {
        Place::Root => Some("must not be empty at the root"),
        Place::Field => Some("must not be empty for specified object fields"),
        Place::Item => Some("must not be empty for specified array items"),
        Place::Logical => None,
    }
}

fn required(field: String, why: &str) -> FieldError {
    FieldError {
        field,
        reason: "FieldValueRequired",
        detail: format!("Required value: {why}"),
    }
}
