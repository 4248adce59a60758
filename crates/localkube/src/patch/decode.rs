//! Bodies of patches, refused in the words in which kube-apiserver refuses them.

use serde_json::{Map, Value};

use crate::status::ApiError;

const PREFIX: &str = "error decoding patch: ";
/// As kube-apiserver limits it.
const OPERATIONS: usize = 10_000;

/// One operation of a JSON patch, not yet judged.
pub(super) struct Operation {
    pub op: String,
    pub path: Option<String>,
    pub from: Option<String>,
    pub value: Value,
}

pub(super) fn operations(body: &[u8]) -> Result<Vec<Operation>, ApiError> {
    let list = match parse(body, PREFIX)? {
        Value::Array(list) => list,
        Value::Null => return Ok(Vec::new()),
        other => return Err(wrong_type(PREFIX, &other, "[]handlers.jsonPatchOp")),
    };
    if list.len() > OPERATIONS {
        return Err(ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!(
                "The allowed maximum operations in a JSON patch is {OPERATIONS}, got {}",
                list.len()
            ),
        ));
    }
    list.into_iter().map(operation).collect()
}

fn operation(value: Value) -> Result<Operation, ApiError> {
    let mut fields = match value {
        Value::Object(fields) => fields,
        Value::Null => Map::new(),
        other => return Err(wrong_type(PREFIX, &other, "handlers.jsonPatchOp")),
    };
    let mut text = |name: &str| match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(ApiError::bad_request(format!(
            "{PREFIX}json: cannot unmarshal {} into Go struct field jsonPatchOp.{name} of type string",
            type_name(&other)
        ))),
    };
    Ok(Operation {
        op: text("op")?.unwrap_or_default(),
        path: text("path")?,
        from: text("from")?,
        value: fields.remove("value").unwrap_or(Value::Null),
    })
}

/// `None` for `null`.
pub(super) fn object(body: &[u8], prefix: &str) -> Result<Option<Map<String, Value>>, ApiError> {
    match parse(body, prefix)? {
        Value::Object(fields) => Ok(Some(fields)),
        Value::Null => Ok(None),
        other => Err(wrong_type(prefix, &other, "map[string]interface {}")),
    }
}

fn parse(body: &[u8], prefix: &str) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        if error.is_eof() {
            return ApiError::bad_request(format!("{prefix}unexpected end of JSON input"));
        }
        let text = String::from_utf8_lossy(body);
        let line = text
            .lines()
            .nth(error.line().saturating_sub(1))
            .unwrap_or_default();
        let at = line
            .char_indices()
            .find(|(index, _)| index + 1 >= error.column());
        let found = at.map_or('\0', |(_, found)| found);
        ApiError::bad_request(format!(
            "{prefix}invalid character '{found}' looking for beginning of value"
        ))
    })
}

fn wrong_type(prefix: &str, value: &Value, wanted: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{prefix}json: cannot unmarshal {} into Go value of type {wanted}",
        type_name(value)
    ))
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
