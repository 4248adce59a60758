//! Faults of fields in Kubernetes' words, and the checks that many kinds share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::fields::{has, items, text};
use crate::status::FieldError;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
pub(super) const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
pub(super) const PORT: &str = "must be between 1 and 65535, inclusive";
pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub(super) const IMMUTABLE: &str = "field is immutable";

/// What is wrong with one object, as it is found.
#[derive(Default)]
pub(super) struct Faults(Vec<FieldError>);

impl Faults {
    pub fn into_errors(self) -> Vec<FieldError> {
        self.0
    }

    fn add(&mut self, field: impl Into<String>, reason: &'static str, detail: String) {
        self.0.push(FieldError {
            field: field.into(),
            reason,
            detail,
        });
    }

    pub fn required(&mut self, field: impl Into<String>) {
        self.add(field, "FieldValueRequired", "Required value".to_owned());
    }

    pub fn required_because(&mut self, field: impl Into<String>, why: &str) {
        self.add(
            field,
            "FieldValueRequired",
            format!("Required value: {why}"),
        );
    }

    pub fn invalid(&mut self, field: impl Into<String>, value: &Value, why: &str) {
        self.add(
            field,
            "FieldValueInvalid",
            format!("Invalid value: {value}: {why}"),
        );
    }

    pub fn invalid_text(&mut self, field: impl Into<String>, value: &str, why: &str) {
        self.invalid(field, &Value::from(value), why);
    }

    pub fn unsupported(&mut self, field: impl Into<String>, value: &str, known: &[&str]) {
        self.unsupported_value(field, &Value::from(value), known);
    }

    pub fn unsupported_value(&mut self, field: impl Into<String>, value: &Value, known: &[&str]) {
        let known: Vec<String> = known.iter().map(|one| format!("{one:?}")).collect();
        self.add(
            field,
            "FieldValueNotSupported",
            format!(
                "Unsupported value: {value}: supported values: {}",
                known.join(", ")
            ),
        );
    }

    pub fn duplicate(&mut self, field: impl Into<String>, value: &Value) {
        self.add(
            field,
            "FieldValueDuplicate",
            format!("Duplicate value: {value}"),
        );
    }

    pub fn forbidden(&mut self, field: impl Into<String>, why: &str) {
        self.add(field, "FieldValueForbidden", format!("Forbidden: {why}"));
    }

    pub fn not_found(&mut self, field: impl Into<String>, value: &str) {
        self.add(
            field,
            "FieldValueNotFound",
            format!("Not found: {}", Value::from(value)),
        );
    }

    pub fn too_long(&mut self, field: impl Into<String>, most: usize) {
        self.add(
            field,
            "FieldValueTooLong",
            format!("Too long: may not be more than {most} bytes"),
        );
    }

    /// A field that must be one of some values; an absent field is not looked at.
    pub fn one_of(&mut self, object: &Value, path: &str, key: &str, known: &[&str]) {
        if has(object, key) {
            let value = text(object, key);
            if !known.contains(&value) {
                self.unsupported(format!("{path}.{key}"), value, known);
            }
        }
    }

    /// Whole numbers that must not be negative.
    pub fn not_negative(&mut self, object: &Value, path: &str, keys: &[&str]) {
        for key in keys {
            if let Some(value) = object.get(*key)
                && value.as_i64().is_some_and(|number| number < 0)
            {
                self.invalid(format!("{path}.{key}"), value, NOT_NEGATIVE);
            }
        }
    }

    /// A field that may not change.
    pub fn immutable(&mut self, new: &Value, old: &Value, path: &str, key: &str) {
        let (new, old) = (
            new.get(key).unwrap_or(&Value::Null),
            old.get(key).unwrap_or(&Value::Null),
        );
        if new != old {
            self.invalid(join(path, key), &sorted(new), IMMUTABLE);
        }
    }

    /// An RFC 1123 label.
    pub fn label(&mut self, field: impl Into<String>, value: &str) {
        if value.len() > 63 {
            self.invalid_text(field, value, "must be no more than 63 characters");
        } else if !is_label(value) {
            self.invalid_text(field, value, LABEL);
        }
    }

    /// An RFC 1123 subdomain.
    pub fn subdomain(&mut self, field: impl Into<String>, value: &str) {
        if value.len() > 253 {
            self.invalid_text(field, value, "must be no more than 253 characters");
        } else if !value.split('.').all(is_label) {
            self.invalid_text(field, value, SUBDOMAIN);
        }
    }

    /// A map of labels.
    pub fn labels(&mut self, path: &str, map: Option<&Value>) {
        let Some(Value::Object(map)) = map else {
            return;
        };
        for (key, value) in map {
            self.label_key(path, key);
            self.label_value(path, value.as_str().unwrap_or_default());
        }
    }

    fn label_key(&mut self, path: &str, key: &str) {
        let name = match key.split_once('/') {
            Some((prefix, name)) => {
                if prefix.is_empty() {
                    self.invalid_text(path, key, "prefix part must be non-empty");
                } else if !prefix.split('.').all(is_label) {
                    self.invalid_text(path, key, &format!("prefix part {SUBDOMAIN}"));
                }
                name
            }
            None => key,
        };
        if name.is_empty() {
            self.invalid_text(path, key, "name part must be non-empty");
        } else if name.len() > 63 {
            self.invalid_text(path, key, "name part must be no more than 63 characters");
        }
        if !is_qualified(name) {
            self.invalid_text(path, key, QUALIFIED_NAME);
        }
    }

    fn label_value(&mut self, path: &str, value: &str) {
        if value.len() > 63 {
            self.invalid_text(path, value, "must be no more than 63 characters");
        }
        if !value.is_empty() && !is_qualified(value) {
            self.invalid_text(path, value, LABEL_VALUE);
        }
    }

    /// A LabelSelector; says whether it is one.
    pub fn selector(&mut self, path: &str, selector: &Value) -> bool {
        let before = self.0.len();
        self.labels(&format!("{path}.matchLabels"), selector.get("matchLabels"));
        for (index, expression) in items(selector, "matchExpressions").iter().enumerate() {
            let path = format!("{path}.matchExpressions[{index}]");
            let values = items(expression, "values");
            match text(expression, "operator") {
                "In" | "NotIn" => {
                    if values.is_empty() {
                        self.required_because(
                            format!("{path}.values"),
                            "must be specified when `operator` is 'In' or 'NotIn'",
                        );
                    }
                }
                "Exists" | "DoesNotExist" => {
                    if !values.is_empty() {
                        self.forbidden(
                            format!("{path}.values"),
                            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                        );
                    }
                }
                other => self.invalid_text(
                    format!("{path}.operator"),
                    other,
                    "not a valid selector operator",
                ),
            }
            self.label_key(&format!("{path}.key"), text(expression, "key"));
        }
        self.0.len() == before
    }

    /// A key of a ConfigMap or Secret.
    pub fn config_key(&mut self, field: &str, key: &str) {
        if key.len() > 253 {
            self.invalid_text(field, key, "must be no more than 253 characters");
        }
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if key.is_empty() || !key.chars().all(valid) {
            self.invalid_text(field, key, CONFIG_KEY);
        }
        if key == "." {
            self.invalid_text(field, key, "must not be '.'");
        } else if key == ".." {
            self.invalid_text(field, key, "must not be '..'");
        } else if key.starts_with("..") {
            self.invalid_text(field, key, "must not start with '..'");
        }
    }

    /// A port number.
    pub fn port_number(&mut self, field: impl Into<String>, value: &Value) {
        if !value
            .as_i64()
            .is_some_and(|port| (1..=65535).contains(&port))
        {
            self.invalid(field, value, PORT);
        }
    }

    /// A port's name, as IANA names services.
    pub fn port_name(&mut self, field: &str, name: &str) {
        let value = Value::from(name);
        if name.len() > 15 {
            self.invalid(field, &value, "must be no more than 15 characters");
        }
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(known) {
            self.invalid(
                field,
                &value,
                "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            );
        }
        if !name.contains(|c: char| c.is_ascii_lowercase()) {
            // The name of a container's port may not be all digits either, but is asked for its alphabet first.
            self.invalid(field, &value, "must contain at least one letter (a-z)");
        }
        if name.contains("--") {
            self.invalid(field, &value, "must not contain consecutive hyphens");
        }
        if name.starts_with('-') || name.ends_with('-') {
            self.invalid(field, &value, "must not begin or end with a hyphen");
        }
    }

    /// A number or the name of a port.
    pub fn int_or_port(&mut self, field: &str, value: &Value) {
        match value {
            Value::String(name) => self.port_name(field, name),
            number => self.port_number(field, number),
        }
    }

    pub fn address(&mut self, field: impl Into<String>, value: &str) {
        if value.parse::<IpAddr>().is_err() {
            self.invalid_text(field, value, IP);
        }
    }
}

/// `path.key`, or the key alone at the top of an object.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

pub(super) fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_qualified(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.chars().all(inner) && edge(text.chars().next()) && edge(text.chars().last())
}

/// Whether a LabelSelector selects these labels.
pub(super) fn selects(selector: &Value, labels: &Value) -> bool {
    let matches = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    matches
        && items(selector, "matchExpressions")
            .iter()
            .all(|expression| {
                let label = labels.get(text(expression, "key"));
                let listed = label.is_some_and(|label| items(expression, "values").contains(label));
                match text(expression, "operator") {
                    "In" => listed,
                    "NotIn" => !listed,
                    "Exists" => label.is_some(),
                    "DoesNotExist" => label.is_none(),
                    _ => false,
                }
            })
}

/// A map in the order in which Go writes it, for messages.
pub(super) fn sorted(map: &Value) -> Value {
    match map {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, Value> = map
                .iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect();
            sorted
                .into_iter()
                .map(|(key, value)| (key.clone(), value))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        other => other.clone(),
    }
}

/// Whether a map is absent or empty.
pub(super) fn is_empty(map: Option<&Value>) -> bool {
    map.is_none_or(|map| match map {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    })
}
