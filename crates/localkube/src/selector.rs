//! Label and field selectors.

use serde_json::{Map, Value};

use crate::kind::Kind;
use crate::status::ApiError;

mod labels;

pub use labels::LabelSelector;

/// A field that must, or must not, have a value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    path: String,
    equal: bool,
    value: String,
    /// What an absent field counts as.
    absent: &'static str,
}

/// `fieldSelector`: terms that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Parses `a.b=c,d!=e`. Which fields can be named is the kind's to say.
    ///
    /// # Errors
    /// 400 in Kubernetes' words.
    pub fn parse(kind: &Kind, text: &str) -> Result<FieldSelector, ApiError> {
        let mut terms = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (path, equal, value) = if let Some((path, value)) = part.split_once("!=") {
                (path, false, value)
            } else if let Some((path, value)) = part.split_once("==") {
                (path, true, value)
            } else if let Some((path, value)) = part.split_once('=') {
                (path, true, value)
            } else {
                return Err(ApiError::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                )));
            };
            let known = match path {
                "metadata.name" | "metadata.namespace" => Some(""),
                _ => kind
                    .selectable_fields
                    .iter()
                    .find(|(field, _)| *field == path)
                    .map(|(_, absent)| *absent),
            };
            let Some(absent) = known else {
                let label = if kind.selectable_fields.is_empty() {
                    format!(
                        "\"{path}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    )
                } else {
                    format!("field label not supported: {path}")
                };
                return Err(ApiError::bad_request(label));
            };
            terms.push(FieldTerm {
                path: path.to_owned(),
                equal,
                value: value.to_owned(),
                absent,
            });
        }
        Ok(FieldSelector { terms })
    }

    /// The one name that can match, if the selector demands one.
    pub fn name(&self) -> Option<&str> {
        self.terms
            .iter()
            .find(|term| term.equal && term.path == "metadata.name")
            .map(|term| term.value.as_str())
    }

    fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| {
            let mut value = Some(object);
            for step in term.path.split('.') {
                value = value.and_then(|value| value.get(step));
            }
            let equal = match value {
                None | Some(Value::Null) => term.absent == term.value,
                Some(Value::String(text)) => *text == term.value,
                Some(other) => {
                    let text = other.to_string();
                    text == term.value
                }
            };
            equal == term.equal
        })
    }
}

/// Both selectors of a list or watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
}

impl Selector {
    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.terms.is_empty()
    }

    /// Whether an object matches.
    pub fn matches(&self, object: &Value) -> bool {
        let empty = Map::new();
        let labels = object
            .pointer("/metadata/labels")
            .and_then(Value::as_object)
            .unwrap_or(&empty);
        self.labels.matches(labels) && self.fields.matches(object)
    }
}
