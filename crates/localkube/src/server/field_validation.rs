//! Whether the fields of a request's object are known and of the right type (`fieldValidation`).

use serde_json::Value;

use crate::kind::Kind;
use crate::patch::PatchType;
use crate::status::{ApiError, FieldError};

use super::Api;
use super::path::Query;

/// What happens with unknown fields: they are always dropped, and this says with how much noise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    /// As the query asks; `Warn` if it does not.
    pub fn of(query: &Query) -> Self {
        match query.all("fieldValidation").next() {
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            _ => FieldValidation::Warn,
        }
    }
}

/// Why an object cannot be read: the text of the decoder.
struct Unreadable(String);

impl Api {
    /// Reads an object that a client sent: drops what its kind does not know.
    ///
    /// # Errors
    /// 400 for values of a wrong type, and for unknown fields if validation is strict.
    pub(super) fn read_object(
        &self,
        kind: &Kind,
        validation: FieldValidation,
        object: &mut Value,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        self.read_fields(kind, validation, object, warnings)
            .map_err(|Unreadable(why)| {
                ApiError::bad_request(format!(
                    "{0} in version {1:?} cannot be handled as a {0}: {why}",
                    kind.kind, kind.version
                ))
            })
    }

    /// Reads the outcome of a patch.
    ///
    /// # Errors
    /// 422 where [`Api::read_object`] has 400.
    pub(super) fn read_patched(
        &self,
        kind: &Kind,
        validation: FieldValidation,
        (form, patch): (PatchType, &[u8]),
        object: &mut Value,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let sent = object.clone();
        self.read_fields(kind, validation, object, warnings)
            .map_err(|Unreadable(why)| {
                let (value, why) = if form == PatchType::Strategic {
                    let patch = serde_json::from_slice(patch).unwrap_or(Value::Null);
                    let why = match why.rsplit_once(" of type ") {
                        Some((_, kind)) => format!("unrecognized type: {kind}"),
                        None => why,
                    };
                    (go_map(&patch), why)
                } else {
                    (sent.to_string(), why)
                };
                let fault = FieldError {
                    field: "patch".to_owned(),
                    reason: "FieldValueInvalid",
                    detail: format!("Invalid value: {}: {why}", Value::from(value)),
                };
                ApiError::invalid("", "", "", &[fault])
            })
    }

    fn read_fields(
        &self,
        kind: &Kind,
        validation: FieldValidation,
        object: &mut Value,
        warnings: &mut Vec<String>,
    ) -> Result<(), Unreadable> {
        let unknown = match &kind.schema {
            // Custom resources are pruned, with warnings, where their defaults are filled.
            Some(_) if validation != FieldValidation::Strict => return Ok(()),
            Some(schema) => schema.prune(&mut object.clone()),
            None => self.documents().shape(kind, object).map_err(Unreadable)?,
        };
        let told: Vec<String> = unknown
            .iter()
            .map(|path| format!("unknown field {path:?}"))
            .collect();
        match validation {
            FieldValidation::Strict if !told.is_empty() => Err(Unreadable(format!(
                "strict decoding error: {}",
                told.join(", ")
            ))),
            FieldValidation::Ignore => Ok(()),
            _ => {
                warnings.extend(told);
                Ok(())
            }
        }
    }
}

/// A value as Go prints a map: `map[spec:map[replicas:x]]`.
fn go_map(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", go_map(value)))
                .collect();
            fields.sort_unstable();
            format!("map[{}]", fields.join(" "))
        }
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(go_map).collect();
            format!("[{}]", items.join(" "))
        }
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        other => other.to_string(),
    }
}
