//! Comparing an object with its schema.

use serde_json::{Map, Value};

use super::{Additional, List, Node, Rules, Type, child, go_syntax, is_resource_field};
use crate::status::FieldError;

/// The whole object: its `apiVersion`, `kind` and `metadata` are not the schema's business.
pub(super) fn object(root: &Node, value: &Value, faults: &mut Vec<FieldError>) {
    check(root, value, "", true, faults);
}

fn invalid(path: &str, value: &Value, what: &str) -> FieldError {
    FieldError {
        field: path.to_owned(),
        reason: "FieldValueInvalid",
        detail: format!("Invalid value: {}: {what}", go_syntax(value)),
    }
}

fn check(node: &Node, value: &Value, path: &str, resource: bool, faults: &mut Vec<FieldError>) {
    if value.is_null() && node.nullable {
        return;
    }
    if let Some(expected) = wrong_type(node, value) {
        faults.push(FieldError {
            field: path.to_owned(),
            reason: "FieldValueTypeInvalid",
            detail: format!(
                "Invalid value: {0:?}: {path} in body must be of type {expected}: {0:?}",
                type_name(value)
            ),
        });
        return;
    }
    check_rules(&node.rules, value, path, faults);
    match value {
        Value::Object(map) => check_object(node, map, path, resource, faults),
        Value::Array(list) => check_list(node, list, path, faults),
        _ => {}
    }
    check_branches(node, value, path, resource, faults);
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The name of the type that the value should have had.
fn wrong_type(node: &Node, value: &Value) -> Option<&'static str> {
    if node.int_or_string {
        let fits = value.is_string() || value.is_i64() || value.is_u64();
        return (!fits).then_some("integer,string");
    }
    let (fits, name) = match node.kind? {
        Type::Object => (value.is_object(), "object"),
        Type::Array => (value.is_array(), "array"),
        Type::String => (value.is_string(), "string"),
        Type::Boolean => (value.is_boolean(), "boolean"),
        Type::Number => (value.is_number(), "number"),
        // 3.0 is an integer in JSON Schema.
        Type::Integer => (
            value.as_f64().is_some_and(|number| number.fract() == 0.0),
            "integer",
        ),
    };
    (!fits).then_some(name)
}

fn check_rules(rules: &Rules, value: &Value, path: &str, faults: &mut Vec<FieldError>) {
    let mut fault = |what: String| faults.push(invalid(path, value, &what));
    if let Some(number) = value.as_f64() {
        if let Some(limit) = rules.minimum {
            if rules.exclusive_minimum && number <= limit {
                fault(format!("{path} in body should be greater than {limit}"));
            } else if number < limit {
                fault(format!(
                    "{path} in body should be greater than or equal to {limit}"
                ));
            }
        }
        if let Some(limit) = rules.maximum {
            if rules.exclusive_maximum && number >= limit {
                fault(format!("{path} in body should be less than {limit}"));
            } else if number > limit {
                fault(format!(
                    "{path} in body should be less than or equal to {limit}"
                ));
            }
        }
        if let Some(step) = rules.multiple_of
            && step > 0.0
            && (number / step).fract() != 0.0
        {
            fault(format!("{path} in body should be a multiple of {step}"));
        }
    }
    if let Some(text) = value.as_str() {
        let length = text.chars().count() as u64;
        if let Some(limit) = rules.min_length
            && length < limit
        {
            fault(format!(
                "{path} in body should be at least {limit} chars long"
            ));
        }
        if let Some(pattern) = &rules.pattern
            && !pattern.is_match(text)
        {
            fault(format!("{path} in body should match '{pattern}'"));
        }
        if let Some(format) = &rules.format
            && !has_format(format, text)
        {
            fault(format!("{path} in body must be of type {format}: {text:?}"));
        }
    }
    check_sizes(rules, value, path, faults);
    if let Some(allowed) = &rules.enumeration
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().map(go_syntax).collect();
        faults.push(FieldError {
            field: path.to_owned(),
            reason: "FieldValueNotSupported",
            detail: format!(
                "Unsupported value: {}: supported values: {}",
                go_syntax(value),
                allowed.join(", ")
            ),
        });
    }
}

fn check_sizes(rules: &Rules, value: &Value, path: &str, faults: &mut Vec<FieldError>) {
    let too = |reason, detail| FieldError {
        field: path.to_owned(),
        reason,
        detail,
    };
    if let (Some(text), Some(limit)) = (value.as_str(), rules.max_length)
        && text.chars().count() as u64 > limit
    {
        let detail = format!("Too long: may not be more than {limit} bytes");
        faults.push(too("FieldValueTooLong", detail));
    }
    if let Some(list) = value.as_array() {
        let count = list.len() as u64;
        if let Some(limit) = rules.max_items.filter(|limit| count > *limit) {
            let detail = format!("Too many: {count}: must have at most {limit} items");
            faults.push(too("FieldValueTooMany", detail));
        }
        if let Some(limit) = rules.min_items.filter(|limit| count < *limit) {
            let what = format!("{path} in body should have at least {limit} items");
            faults.push(invalid(path, &count.into(), &what));
        }
        if rules.unique_items && has_duplicate(list) {
            let what = format!("{path} in body shouldn't contain duplicates");
            faults.push(invalid(path, value, &what));
        }
    }
    if let Some(map) = value.as_object() {
        let count = map.len() as u64;
        if let Some(limit) = rules.max_properties.filter(|limit| count > *limit) {
            let detail = format!("Too many: {count}: must have at most {limit} items");
            faults.push(too("FieldValueTooMany", detail));
        }
        if let Some(limit) = rules.min_properties.filter(|limit| count < *limit) {
            let what = format!("{path} in body should have at least {limit} properties");
            faults.push(invalid(path, &count.into(), &what));
        }
    }
}

fn has_duplicate(list: &[Value]) -> bool {
    list.iter()
        .enumerate()
        .any(|(index, value)| list.iter().take(index).any(|other| other == value))
}

fn check_object(
    node: &Node,
    map: &Map<String, Value>,
    path: &str,
    resource: bool,
    faults: &mut Vec<FieldError>,
) {
    for name in &node.required {
        if !map.contains_key(name) {
            faults.push(FieldError {
                field: child(path, name),
                reason: "FieldValueRequired",
                detail: "Required value".to_owned(),
            });
        }
    }
    for (name, value) in map {
        if resource && is_resource_field(name) {
            continue;
        }
        let path = child(path, name);
        if let Some(property) = node.property(name) {
            check(property, value, &path, property.embedded_resource, faults);
        } else if let Additional::Of(additional) = &node.additional {
            check(
                additional,
                value,
                &path,
                additional.embedded_resource,
                faults,
            );
        }
    }
}

fn check_list(node: &Node, list: &[Value], path: &str, faults: &mut Vec<FieldError>) {
    for (index, value) in list.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if let Some(items) = &node.items {
            check(items, value, &path, items.embedded_resource, faults);
        }
        let earlier = list.iter().take(index);
        let duplicate = match &node.list {
            List::Atomic => None,
            List::Set => earlier
                .into_iter()
                .any(|other| other == value)
                .then(|| value.clone()),
            List::Map(keys) => {
                let key = map_key(value, keys);
                earlier
                    .into_iter()
                    .any(|other| map_key(other, keys) == key)
                    .then_some(key)
            }
        };
        if let Some(duplicate) = duplicate {
            faults.push(FieldError {
                field: path,
                reason: "FieldValueDuplicate",
                detail: format!("Duplicate value: {}", go_syntax(&duplicate)),
            });
        }
    }
}

fn map_key(value: &Value, keys: &[String]) -> Value {
    keys.iter()
        .filter_map(|key| value.get(key).map(|part| (key.clone(), part.clone())))
        .collect::<Map<String, Value>>()
        .into()
}

fn check_branches(
    node: &Node,
    value: &Value,
    path: &str,
    resource: bool,
    faults: &mut Vec<FieldError>,
) {
    let fits = |branch: &Node| {
        let mut inner = Vec::new();
        check(branch, value, path, resource, &mut inner);
        inner.is_empty()
    };
    for branch in &node.all_of {
        check(branch, value, path, resource, faults);
    }
    let mut fault = |what: String| faults.push(invalid(path, &Value::from(""), &what));
    if !node.any_of.is_empty() && !node.any_of.iter().any(fits) {
        fault(format!(
            "{path:?} must validate at least one schema (anyOf)"
        ));
    }
    let fitting = node.one_of.iter().filter(|branch| fits(branch)).count();
    if !node.one_of.is_empty() && fitting != 1 {
        let found = if fitting == 0 {
            "Found none valid".to_owned()
        } else {
            format!("Found {fitting} valid alternatives")
        };
        fault(format!(
            "{path:?} must validate one and only one schema (oneOf). {found}"
        ));
    }
    if node.not.as_deref().is_some_and(fits) {
        fault(format!("{path:?} must not validate the schema (not)"));
    }
}

/// The formats that are checked; any other is a remark for the reader, as in Kubernetes.
fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        "byte" => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .is_ok()
        }
        _ => true,
    }
}
