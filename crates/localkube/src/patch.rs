//! The three patch formats: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch.

use serde_json::{Map, Value, json};

use crate::kind::Kind;
use crate::status::ApiError;

mod decode;
mod json;
mod strategic;
mod table;

pub(crate) use strategic::go_text;

/// How a patch is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PatchType {
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
    /// `application/apply-patch+yaml`: server-side apply, which [`crate::apply`] does.
    Apply,
}

impl PatchType {
    /// By the request's Content-Type; parameters after `;` do not count. A kind made from a CRD takes no
    /// strategic merge patch.
    ///
    /// # Errors
    /// 415 for anything else.
    pub fn from_content_type(kind: &Kind, content_type: &str) -> Result<Self, ApiError> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(PatchType::Json),
            "application/merge-patch+json" => Ok(PatchType::Merge),
            "application/apply-patch+yaml" => Ok(PatchType::Apply),
            "application/strategic-merge-patch+json" if kind.schema.is_none() => {
                Ok(PatchType::Strategic)
            }
            _ => Err(unsupported(kind)),
        }
    }
}

fn unsupported(kind: &Kind) -> ApiError {
    if kind.schema.is_some() {
        return ApiError::new(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        );
    }
    let mut error = ApiError::new(415, "UnsupportedMediaType", "415: Unsupported Media Type");
    error.details = json!({});
    error
}

/// `current` with the patch applied. Neither defaults nor validates.
///
/// # Errors
/// 400 for a body that is no patch, 422 for a patch that does not fit the object, 415 for a format that
/// the kind does not take.
pub fn apply(
    kind: &Kind,
    patch_type: PatchType,
    body: &[u8],
    current: &Value,
) -> Result<Value, ApiError> {
    match patch_type {
        PatchType::Json => json::apply(&decode::operations(body)?, current),
        PatchType::Merge => {
            let patch = decode::object(body, "error decoding patch: ")?
                .ok_or_else(|| ApiError::bad_request("Invalid JSON Patch"))?;
            let mut result = current.clone();
            merge(&mut result, &patch);
            Ok(result)
        }
        PatchType::Strategic if kind.schema.is_none() => match decode::object(body, "")? {
            Some(patch) => strategic::apply(&kind.kind, &patch, current),
            None => Ok(current.clone()),
        },
        PatchType::Strategic | PatchType::Apply => Err(unsupported(kind)),
    }
}

/// RFC 7386: null removes, objects merge, anything else replaces.
fn merge(target: &mut Value, patch: &Map<String, Value>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else {
        return;
    };
    for (key, value) in patch {
        match value {
            Value::Null => {
                fields.shift_remove(key);
            }
            Value::Object(inner) => {
                merge(fields.entry(key.clone()).or_insert(Value::Null), inner);
            }
            other => {
                fields.insert(key.clone(), other.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
