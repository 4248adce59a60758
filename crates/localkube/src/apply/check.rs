//! Whether an applied configuration fits the schema.

use serde_json::Value;

use super::types::{Atom, List, ListForm, Scalar, Type};

/// Deeper than any object that can be sent.
const MOST_DEPTH: usize = 200;

/// What does not fit, in the words of kube-apiserver.
pub(super) fn fits(kind: Type<'_>, value: &Value) -> Result<(), String> {
    let mut faults = Vec::new();
    check(kind, value, "", 0, &mut faults);
    match faults.as_slice() {
        [] => Ok(()),
        [fault] => Err(fault.clone()),
        faults => Err(format!("errors:\n  {}", faults.join("\n  "))),
    }
}

fn check(kind: Type<'_>, value: &Value, path: &str, depth: usize, faults: &mut Vec<String>) {
    if value.is_null() || depth > MOST_DEPTH {
        return;
    }
    match kind.atom(Some(value)) {
        Atom::Scalar(scalar) => {
            let wanted = match scalar {
                Scalar::Numeric if !value.is_number() => "numeric (int or float)",
                Scalar::String if !value.is_string() => "string",
                Scalar::Boolean if !value.is_boolean() => "boolean",
                _ => return,
            };
            let found = match scalar {
                Scalar::Numeric => go_kind(value).to_owned(),
                Scalar::String => format!("&value.valueUnstructured{{Value:{}}}", go_syntax(value)),
                _ => format!("&{{{}}}", go_text(value)),
            };
            faults.push(format!("{path}: expected {wanted}, got {found}"));
        }
        Atom::List(List { form, element }) => {
            let Some(items) = value.as_array() else {
                faults.push(format!(
                    "{path}: expected list, got &{{{}}}",
                    go_text(value)
                ));
                return;
            };
            let mut seen: Vec<String> = Vec::new();
            for (index, item) in items.iter().enumerate() {
                if matches!(form, ListForm::Atomic) {
                    check(
                        element,
                        item,
                        &format!("{path}[{index}]"),
                        depth + 1,
                        faults,
                    );
                    continue;
                }
                let Some(step) = form.step(item) else {
                    faults.push(format!("{path}: element {index}: {}", nameless(&form)));
                    continue;
                };
                let text = super::field_set::step_text(&step);
                if seen.contains(&step) {
                    faults.push(format!("{path}: duplicate entries for key {text}"));
                }
                check(element, item, &format!("{path}{text}"), depth + 1, faults);
                seen.push(step);
            }
        }
        Atom::Map(fields) => {
            let Some(map) = value.as_object() else {
                faults.push(format!("{path}: expected map, got &{{{}}}", go_text(value)));
                return;
            };
            for (name, value) in map {
                let path = format!("{path}.{name}");
                match fields.of(name) {
                    Some(kind) => check(kind, value, &path, depth + 1, faults),
                    None => faults.push(format!("{path}: field not declared in schema")),
                }
            }
        }
    }
}

fn nameless(form: &ListForm<'_>) -> &'static str {
    match form {
        ListForm::Keys(_) => "associative list with keys may not have non-map elements",
        _ => "set element may not be a map",
    }
}

fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// As Go's `%#v`.
fn go_syntax(value: &Value) -> String {
    crate::schema::go_syntax(value)
}

/// As Go's `%v`.
fn go_text(value: &Value) -> String {
    crate::patch::go_text(value)
}
