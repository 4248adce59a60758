//! How Kubernetes' error texts show a value: the way Go prints it.

use serde_json::Value;

/// Strings quoted, numbers and booleans bare, maps and lists as Go composite literals (keys sorted).
pub(crate) fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(text) => quoted(text),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(nested).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(map) => {
            let mut fields: Vec<(&String, &Value)> = map.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields: Vec<String> = fields
                .into_iter()
                .map(|(name, value)| format!("{}:{}", quoted(name), nested(value)))
                .collect();
            format!("map[string]interface {{}}{{{}}}", fields.join(", "))
        }
    }
}

fn nested(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        other => go_syntax(other),
    }
}

fn quoted(text: &str) -> String {
    // JSON's escapes and Go's agree on what appears in names and short values.
    Value::from(text).to_string()
}
