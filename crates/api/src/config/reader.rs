//! Typed values out of an untyped file, with the original's weak typing.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ConfigError;
use crate::time::GoDuration;

/// Replaces every scalar of the file for which the environment has a variable that is not empty.
pub(super) fn override_from(value: &mut Value, environment: &BTreeMap<String, String>) {
    if !environment.is_empty() {
        walk(value, "KUBESPHERE", environment);
    }
}

fn walk(value: &mut Value, name: &str, environment: &BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                walk(
                    value,
                    &format!("{name}_{}", key.to_uppercase().replace('.', "_")),
                    environment,
                );
            }
        }
        Value::Array(_) => {}
        scalar => {
            if let Some(text) = environment.get(name).filter(|text| !text.is_empty()) {
                *scalar = Value::String(text.clone());
            }
        }
    }
}

/// One mapping of the file and the keys that lead to it.
pub(super) struct Section<'a> {
    value: &'a Value,
    path: String,
    lower: bool,
}

impl<'a> Section<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self {
            value,
            path: String::new(),
            lower: true,
        }
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        let found = if self.lower {
            self.value.get(key.to_lowercase())
        } else {
            self.value
                .as_object()?
                .iter()
                .rev()
                .find(|(name, _)| name.eq_ignore_ascii_case(key))
                .map(|(_, value)| value)
        };
        found.filter(|value| !value.is_null())
    }

    fn path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn wrong<T>(&self, key: &str, expected: &str) -> Result<T, ConfigError> {
        Err(ConfigError::Value {
            path: self.path(key),
            message: format!("expected {expected}"),
        })
    }

    pub(super) fn section(&self, key: &str) -> Result<Self, ConfigError> {
        match self.value(key) {
            None => Ok(Self {
                value: &Value::Null,
                path: self.path(key),
                lower: self.lower,
            }),
            Some(value) if value.is_object() => Ok(Self {
                value,
                path: self.path(key),
                lower: self.lower,
            }),
            Some(_) => self.wrong(key, "a mapping"),
        }
    }

    pub(super) fn list(&self, key: &str) -> Result<Vec<Self>, ConfigError> {
        let items = match self.value(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items.as_slice(),
            Some(single) => std::slice::from_ref(single),
        };
        items
            .iter()
            .enumerate()
            .map(|(index, value)| {
                let path = format!("{}[{index}]", self.path(key));
                if value.is_object() {
                    Ok(Self {
                        value,
                        path,
                        lower: false,
                    })
                } else {
                    Err(ConfigError::Value {
                        path,
                        message: "expected a mapping".to_owned(),
                    })
                }
            })
            .collect()
    }

    pub(super) fn text(&self, key: &str, default: &str) -> Result<String, ConfigError> {
        match self.value(key) {
            None => Ok(default.to_owned()),
            Some(value) => match scalar(value) {
                Some(text) => Ok(text),
                None => self.wrong(key, "a text"),
            },
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        match self.value(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                let texts: Option<Vec<_>> = items.iter().map(scalar).collect();
                texts.map_or_else(|| self.wrong(key, "a list of texts"), Ok)
            }
            Some(Value::String(text)) if text.is_empty() => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(text.split(',').map(str::to_owned).collect()),
            Some(single) => match scalar(single) {
                Some(text) => Ok(vec![text]),
                None => self.wrong(key, "a list of texts"),
            },
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        match self.value(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::Number(number)) => Ok(number.as_f64() != Some(0.0)),
            Some(Value::String(text)) => match text.as_str() {
                "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
                "" | "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
                _ => self.wrong(key, "true or false"),
            },
            Some(_) => self.wrong(key, "true or false"),
        }
    }

    pub(super) fn number(&self, key: &str, default: i64) -> Result<i64, ConfigError> {
        match self.value(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(i64::from(*flag)),
            Some(Value::String(text)) => {
                text.parse().or_else(|_| self.wrong(key, "a whole number"))
            }
            Some(value) => value
                .as_i64()
                .map_or_else(|| self.wrong(key, "a whole number"), Ok),
        }
    }

    /// Go syntax, or a bare number of nanoseconds.
    pub(super) fn duration(&self, key: &str) -> Result<Option<GoDuration>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => {
                GoDuration::parse(text)
                    .map(Some)
                    .map_err(|error| ConfigError::Value {
                        path: self.path(key),
                        message: error.to_string(),
                    })
            }
            Some(value) => value.as_i64().map_or_else(
                || self.wrong(key, "a duration such as 2h or 10m0s"),
                |nanoseconds| Ok(Some(GoDuration(nanoseconds))),
            ),
        }
    }

    pub(super) fn any(&self, key: &str) -> Value {
        self.value(key).cloned().unwrap_or_default()
    }

    /// Whether this key holds something other than nothing.
    pub(super) fn has(&self, key: &str) -> bool {
        self.value(key)
            .and_then(scalar)
            .is_some_and(|text| !text.is_empty())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.value.as_object().is_none_or(serde_json::Map::is_empty)
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(if *flag { "1" } else { "0" }.to_owned()),
        _ => None,
    }
}
