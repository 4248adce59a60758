//! From the JSON of a schema to its compiled form.

use serde_json::Value;

use super::{Additional, List, Node, Rules, Type, child};
use crate::status::FieldError;

/// Compiles one level and what is below it. `structural` levels must say their type; those inside
/// `allOf`, `anyOf`, `oneOf` and `not` need not.
pub(super) fn node(
    schema: &Value,
    path: &str,
    structural: bool,
    faults: &mut Vec<FieldError>,
) -> Node {
    let flag = |name: &str| schema.get(name).and_then(Value::as_bool).unwrap_or(false);
    let text = |name: &str| schema.get(name).and_then(Value::as_str);
    let int_or_string = flag("x-kubernetes-int-or-string");
    let preserve = flag("x-kubernetes-preserve-unknown-fields");
    let kind = match text("type") {
        None | Some("") => {
            if structural && !int_or_string && !preserve {
                faults.push(FieldError {
                    field: child(path, "type"),
                    reason: "FieldValueRequired",
                    detail: "Required value: must not be empty for specified object fields".into(),
                });
            }
            None
        }
        Some(name) => type_of(name).or_else(|| {
            faults.push(FieldError {
                field: child(path, "type"),
                reason: "FieldValueNotSupported",
                detail: format!(
                    "Unsupported value: {name:?}: supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\""
                ),
            });
            None
        }),
    };
    let properties = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, inner)| {
            let path = format!("{}[{name}]", child(path, "properties"));
            (name.clone(), node(inner, &path, structural, faults))
        })
        .collect();
    let additional = match schema.get("additionalProperties") {
        Some(Value::Bool(true)) => Additional::Any,
        Some(inner @ Value::Object(_)) => {
            let path = child(path, "additionalProperties");
            Additional::Of(Box::new(node(inner, &path, structural, faults)))
        }
        _ => Additional::Unsaid,
    };
    let items = schema
        .get("items")
        .map(|inner| Box::new(node(inner, &child(path, "items"), structural, faults)));
    let mut branch = |name: &str| -> Vec<Node> {
        let branches = schema.get(name).and_then(Value::as_array);
        branches
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(index, inner)| {
                let path = format!("{}[{index}]", child(path, name));
                node(inner, &path, false, faults)
            })
            .collect()
    };
    let (all_of, any_of, one_of) = (branch("allOf"), branch("anyOf"), branch("oneOf"));
    let not = schema
        .get("not")
        .map(|inner| Box::new(node(inner, &child(path, "not"), false, faults)));
    Node {
        kind,
        int_or_string,
        nullable: flag("nullable"),
        preserve_unknown_fields: preserve,
        embedded_resource: flag("x-kubernetes-embedded-resource"),
        properties,
        additional,
        items,
        required: strings(schema.get("required")),
        default: schema.get("default").cloned(),
        rules: rules(schema, path, faults),
        list: match text("x-kubernetes-list-type") {
            Some("set") => List::Set,
            Some("map") => List::Map(strings(schema.get("x-kubernetes-list-map-keys"))),
            _ => List::Atomic,
        },
        all_of,
        any_of,
        one_of,
        not,
    }
}

fn type_of(name: &str) -> Option<Type> {
    Some(match name {
        "object" => Type::Object,
        "array" => Type::Array,
        "string" => Type::String,
        "integer" => Type::Integer,
        "number" => Type::Number,
        "boolean" => Type::Boolean,
        _ => return None,
    })
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn rules(schema: &Value, path: &str, faults: &mut Vec<FieldError>) -> Rules {
    let flag = |name: &str| schema.get(name).and_then(Value::as_bool).unwrap_or(false);
    let number = |name: &str| schema.get(name).and_then(Value::as_f64);
    let count = |name: &str| schema.get(name).and_then(Value::as_u64);
    let pattern = schema
        .get("pattern")
        .and_then(Value::as_str)
        .and_then(|source| {
            regex::Regex::new(source)
                .map_err(|error| {
                    faults.push(FieldError {
                        field: child(path, "pattern"),
                        reason: "FieldValueInvalid",
                        detail: format!(
                            "Invalid value: {source:?}: must be a valid regular expression, but isn't: {error}"
                        ),
                    });
                })
                .ok()
        });
    Rules {
        enumeration: schema.get("enum").and_then(Value::as_array).cloned(),
        pattern,
        format: schema
            .get("format")
            .and_then(Value::as_str)
            .map(str::to_owned),
        minimum: number("minimum"),
        exclusive_minimum: flag("exclusiveMinimum"),
        maximum: number("maximum"),
        exclusive_maximum: flag("exclusiveMaximum"),
        multiple_of: number("multipleOf"),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        min_items: count("minItems"),
        max_items: count("maxItems"),
        unique_items: flag("uniqueItems"),
        min_properties: count("minProperties"),
        max_properties: count("maxProperties"),
    }
}
