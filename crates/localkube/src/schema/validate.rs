//! What is wrong with a value, in the words of kube-apiserver.

use serde_json::{Number, Value, json};

use super::{Additional, Bounds, Kind, Node, Unique, child, format};
use crate::status::FieldError;

fn fault(path: &str, reason: &'static str, detail: String) -> FieldError {
    FieldError {
        field: path.to_owned(),
        reason,
        detail,
    }
}

fn invalid(path: &str, value: &Value, text: &str) -> FieldError {
    let detail = format!("Invalid value: {value}: {path} in body {text}");
    fault(path, "FieldValueInvalid", detail)
}

/// A fault that kube-apiserver cannot place.
fn unplaced(text: String) -> FieldError {
    let detail = format!("Invalid value: \"\": {text}");
    fault("<nil>", "FieldValueInvalid", detail)
}

fn wrong_type(path: &str, wanted: &str, found: &str) -> FieldError {
    let detail =
        format!("Invalid value: \"{found}\": {path} in body must be of type {wanted}: \"{found}\"");
    fault(path, "FieldValueTypeInvalid", detail)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if whole(number).is_some() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn whole(number: &Number) -> Option<i128> {
    number
        .as_i64()
        .map(i128::from)
        .or_else(|| number.as_u64().map(i128::from))
        .or_else(|| {
            let float = number.as_f64()?;
            // Floats beyond this are not exact anyway.
            (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i128)
        })
}

pub(super) fn node(node: &Node, value: &Value, path: &str, faults: &mut Vec<FieldError>) {
    if value.is_null() && node.nullable {
        return;
    }
    let typed = check_type(node, value, path, faults);
    combinations(node, value, path, faults);
    if typed {
        match value {
            Value::String(text) => string(node, text, path, faults),
            Value::Number(found) => number(node, found, path, faults),
            Value::Array(items) => array(node, items, path, faults),
            Value::Object(_) => object(node, value, path, faults),
            _ => {}
        }
    }
    if !node.enumeration.is_empty() && !node.enumeration.contains(value) {
        let supported: Vec<String> = node
            .enumeration
            .iter()
            .map(|allowed| match allowed {
                Value::String(_) => allowed.to_string(),
                other => format!("\"{other}\""),
            })
            .collect();
        let detail = format!(
            "Unsupported value: {value}: supported values: {}",
            supported.join(", ")
        );
        faults.push(fault(path, "FieldValueNotSupported", detail));
    }
}

fn check_type(node: &Node, value: &Value, path: &str, faults: &mut Vec<FieldError>) -> bool {
    let found = type_of(value);
    if node.int_or_string {
        let fits = matches!(found, "integer" | "string");
        if !fits {
            faults.push(wrong_type(path, "integer,string", found));
        }
        return fits;
    }
    let wanted = match node.kind {
        None => return true,
        Some(Kind::Object) => "object",
        Some(Kind::Array) => "array",
        Some(Kind::String) => "string",
        Some(Kind::Integer) => "integer",
        Some(Kind::Number) => "number",
        Some(Kind::Boolean) => "boolean",
    };
    if found == wanted || (wanted == "number" && found == "integer") {
        return true;
    }
    if wanted == "integer" && found == "number" && !node.format.is_empty() {
        faults.push(wrong_type(path, &node.format, "float64"));
        faults.push(out_of_format(node, path));
    } else {
        faults.push(wrong_type(path, wanted, found));
    }
    false
}

fn out_of_format(node: &Node, path: &str) -> FieldError {
    unplaced(format!(
        "Checked value must be of type integer with format {} in {path}",
        node.format
    ))
}

fn combinations(of: &Node, value: &Value, path: &str, faults: &mut Vec<FieldError>) {
    let judge = |alternatives: &[Node]| -> Vec<Vec<FieldError>> {
        alternatives
            .iter()
            .map(|alternative| {
                let mut found = Vec::new();
                node(alternative, value, path, &mut found);
                found
            })
            .collect()
    };
    let good = |answers: &[Vec<FieldError>]| answers.iter().filter(|a| a.is_empty()).count();
    // Of several failed alternatives the first is explained.
    let explain = |answers: Vec<Vec<FieldError>>| answers.into_iter().next().unwrap_or_default();
    if !of.any_of.is_empty() {
        let answers = judge(&of.any_of);
        if good(&answers) == 0 {
            faults.push(unplaced(format!(
                "\"{path}\" must validate at least one schema (anyOf)"
            )));
            faults.extend(explain(answers));
        }
    }
    if !of.one_of.is_empty() {
        let answers = judge(&of.one_of);
        let text = format!("\"{path}\" must validate one and only one schema (oneOf). Found");
        match good(&answers) {
            1 => {}
            0 => {
                faults.push(unplaced(format!("{text} none valid")));
                faults.extend(explain(answers));
            }
            several => faults.push(unplaced(format!("{text} {several} valid alternatives"))),
        }
    }
    if !of.all_of.is_empty() {
        let answers = judge(&of.all_of);
        let validated = good(&answers);
        let all = answers.len();
        faults.extend(answers.into_iter().flatten());
        if validated < all {
            let none = if validated == 0 {
                ". None validated"
            } else {
                ""
            };
            faults.push(unplaced(format!(
                "\"{path}\" must validate all the schemas (allOf){none}"
            )));
        }
    }
    if let Some(not) = &of.not {
        let mut found = Vec::new();
        node(not, value, path, &mut found);
        if found.is_empty() {
            faults.push(unplaced(format!(
                "\"{path}\" must not validate the schema (not)"
            )));
        }
    }
}

fn string(node: &Node, text: &str, path: &str, faults: &mut Vec<FieldError>) {
    let value = json!(text);
    let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
    if let Some(most) = node.length.most.filter(|most| length > *most) {
        let detail = format!("Too long: may not be more than {most} bytes");
        faults.push(fault(path, "FieldValueTooLong", detail));
    }
    if let Some(least) = node.length.least.filter(|least| length < *least) {
        faults.push(invalid(
            path,
            &value,
            &format!("should be at least {least} chars long"),
        ));
    }
    if let Some(pattern) = node
        .pattern
        .as_ref()
        .filter(|pattern| !pattern.is_match(text))
    {
        faults.push(invalid(path, &value, &format!("should match '{pattern}'")));
    }
    if !node.format.is_empty() && !format::fits(&node.format, text) {
        let detail = format!(
            "Invalid value: {value}: {path} in body must be of type {}: {value}",
            node.format
        );
        faults.push(fault(path, "FieldValueInvalid", detail));
    }
}

fn number(node: &Node, found: &Number, path: &str, faults: &mut Vec<FieldError>) {
    let value = Value::Number(found.clone());
    if node.kind == Some(Kind::Integer)
        && let Some(found) = whole(found)
    {
        let fits = match node.format.as_str() {
            "int32" => i32::try_from(found).is_ok(),
            "int64" => i64::try_from(found).is_ok(),
            _ => true,
        };
        if !fits {
            faults.push(out_of_format(node, path));
        }
    }
    if let Some(step) = node
        .multiple_of
        .as_ref()
        .filter(|step| !is_multiple(found, step))
    {
        faults.push(invalid(
            path,
            &value,
            &format!("should be a multiple of {}", plain(step)),
        ));
    }
    if let Some(limit) = &node.maximum {
        let order = compare(found, &limit.value);
        let (bad, text) = if limit.exclusive {
            (order.is_ge(), "less than")
        } else {
            (order.is_gt(), "less than or equal to")
        };
        if bad {
            faults.push(invalid(
                path,
                &value,
                &format!("should be {text} {}", plain(&limit.value)),
            ));
        }
    }
    if let Some(limit) = &node.minimum {
        let order = compare(found, &limit.value);
        let (bad, text) = if limit.exclusive {
            (order.is_le(), "greater than")
        } else {
            (order.is_lt(), "greater than or equal to")
        };
        if bad {
            faults.push(invalid(
                path,
                &value,
                &format!("should be {text} {}", plain(&limit.value)),
            ));
        }
    }
}

fn compare(a: &Number, b: &Number) -> std::cmp::Ordering {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => {
            let float = |number: &Number| number.as_f64().unwrap_or_default();
            float(a).total_cmp(&float(b))
        }
    }
}

fn is_multiple(value: &Number, step: &Number) -> bool {
    match (whole(value), whole(step)) {
        (_, Some(0)) => true,
        (Some(value), Some(step)) => value % step == 0,
        _ => {
            let quotient = value.as_f64().unwrap_or_default() / step.as_f64().unwrap_or(1.0);
            (quotient - quotient.round()).abs() < 1e-9
        }
    }
}

fn plain(number: &Number) -> String {
    whole(number).map_or_else(|| number.to_string(), |whole| whole.to_string())
}

fn count(bounds: Bounds, length: usize, path: &str, what: &str, faults: &mut Vec<FieldError>) {
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    if let Some(least) = bounds.least.filter(|least| length < *least) {
        let text = format!("should have at least {least} {what}");
        faults.push(invalid(path, &json!(length), &text));
    }
    if let Some(most) = bounds.most.filter(|most| length > *most) {
        let detail = format!("Too many: {length}: must have at most {most} items");
        faults.push(fault(path, "FieldValueTooMany", detail));
    }
}

fn array(of: &Node, items: &[Value], path: &str, faults: &mut Vec<FieldError>) {
    count(of.count, items.len(), path, "items", faults);
    if let Some(inner) = &of.items {
        for (index, item) in items.iter().enumerate() {
            node(inner, item, &format!("{path}[{index}]"), faults);
        }
    }
}

fn object(of: &Node, value: &Value, path: &str, faults: &mut Vec<FieldError>) {
    let Some(fields) = value.as_object() else {
        return;
    };
    count(of.fields, fields.len(), path, "properties", faults);
    let implied = if of.embedded {
        &["apiVersion", "kind"][..]
    } else {
        &[]
    };
    let required = of
        .required
        .iter()
        .map(String::as_str)
        .chain(implied.iter().copied());
    for name in required {
        if !fields.contains_key(name) {
            faults.push(fault(
                &child(path, name),
                "FieldValueRequired",
                "Required value".to_owned(),
            ));
        }
    }
    for (name, value) in fields {
        match (of.properties.get(name), &of.additional) {
            (Some(inner), _) => node(inner, value, &child(path, name), faults),
            (None, Additional::Schema(inner)) => node(inner, value, &child(path, name), faults),
            _ => {}
        }
    }
}

/// Lists of the types `set` and `map` hold nothing twice.
pub(super) fn unique(node: &Node, value: &Value, path: &str, faults: &mut Vec<FieldError>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (node.properties.get(name), &node.additional) {
                    (Some(inner), _) => unique(inner, value, &child(path, name), faults),
                    (None, Additional::Schema(inner)) => {
                        unique(inner, value, &child(path, name), faults);
                    }
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            let mut seen = std::collections::HashSet::new();
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                let identity = match &node.unique {
                    Unique::No => None,
                    Unique::Items => Some(item.clone()),
                    Unique::Keys(keys) => Some(Value::Object(
                        keys.iter()
                            .filter_map(|key| Some((key.clone(), item.get(key)?.clone())))
                            .collect(),
                    )),
                };
                if let Some(identity) = identity.map(|identity| identity.to_string())
                    && !seen.insert(identity.clone())
                {
                    let detail = format!("Duplicate value: {identity}");
                    faults.push(fault(&path, "FieldValueDuplicate", detail));
                }
                if let Some(inner) = &node.items {
                    unique(inner, item, &path, faults);
                }
            }
        }
        _ => {}
    }
}
