//! Strategic merge patch: a merge patch that knows lists and takes `$` directives.

use serde_json::{Map, Value};

use super::table::{self, ListMerge};
use crate::status::{ApiError, FieldError};

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

type Fields = Map<String, Value>;

pub(super) fn apply(kind: &str, patch: &Fields, current: &Value) -> Result<Value, ApiError> {
    let merge = Merge { kind, patch };
    let current = current.as_object().cloned().unwrap_or_default();
    merge.fields(current, patch, "").map(Value::Object)
}

struct Merge<'a> {
    kind: &'a str,
    /// The whole patch, for messages.
    patch: &'a Fields,
}

impl Merge<'_> {
    /// Merges one object; `parent` is the field it stands under.
    fn fields(&self, mut target: Fields, patch: &Fields, parent: &str) -> Result<Fields, ApiError> {
        match patch.get(DIRECTIVE).map(|directive| directive.as_str()) {
            None | Some(Some("merge")) => {}
            Some(Some("replace")) => return Ok(without_directives(patch)),
            Some(Some("delete")) => return Ok(Fields::new()),
            Some(_) => return Err(unknown_directive(patch)),
        }
        if let Some(retain) = patch.get(RETAIN) {
            let retain = retain
                .as_array()
                .ok_or_else(|| failure("invalid patch format of retainKeys".to_owned()))?;
            target.retain(|key, _| retain.iter().any(|kept| kept.as_str() == Some(key)));
        }
        for (key, value) in patch {
            if key == DIRECTIVE || key == RETAIN || key.starts_with(ORDER) {
                continue;
            }
            if let Some(field) = key.strip_prefix(DELETE) {
                let gone = value.as_array().map(Vec::as_slice).unwrap_or_default();
                if let Some(Value::Array(items)) = target.get_mut(field) {
                    items.retain(|item| !gone.contains(item));
                }
                continue;
            }
            if value.is_null() {
                target.shift_remove(key);
                continue;
            }
            let list = table::list(self.kind, parent, key);
            let merged = match (target.get_mut(key).map(Value::take), value) {
                (Some(Value::Object(_)), Value::Object(new))
                    if table::replaces(self.kind, parent, key) =>
                {
                    Value::Object(without_directives(new))
                }
                (Some(Value::Object(old)), Value::Object(new)) => {
                    Value::Object(self.fields(old, new, key)?)
                }
                (Some(Value::Array(old)), Value::Array(new)) => match list {
                    ListMerge::Replace => value.clone(),
                    ListMerge::Set => Value::Array(merge_set(old, new)),
                    ListMerge::Key(name) => Value::Array(self.list(old, new, key, name)?),
                },
                (_, Value::Object(_)) if list != ListMerge::Replace => return Err(self.no_list()),
                (_, Value::Array(new)) => match list {
                    ListMerge::Key(name) => Value::Array(self.list(Vec::new(), new, key, name)?),
                    _ => value.clone(),
                },
                (_, Value::Object(new)) => Value::Object(without_directives(new)),
                (_, other) => other.clone(),
            };
            target.insert(key.clone(), merged);
        }
        for (key, order) in patch {
            let (Some(field), Some(order)) = (key.strip_prefix(ORDER), order.as_array()) else {
                continue;
            };
            if let Some(Value::Array(items)) = target.get_mut(field) {
                let name = match table::list(self.kind, parent, field) {
                    ListMerge::Key(name) => Some(name),
                    ListMerge::Set => None,
                    ListMerge::Replace => continue,
                };
                let before = items.clone();
                *items = arrange(std::mem::take(items), order, &before, name);
            }
        }
        Ok(target)
    }

    /// Merges a list of objects by their field `name`.
    fn list(
        &self,
        old: Vec<Value>,
        patch: &[Value],
        field: &str,
        name: &str,
    ) -> Result<Vec<Value>, ApiError> {
        let mut target = old.clone();
        let mut new: Vec<&Fields> = Vec::new();
        let mut replace = false;
        for item in patch {
            let Value::Object(item) = item else {
                return Err(failure(
                    "expected map for list of maps in strategic merge patch".to_owned(),
                ));
            };
            match item.get(DIRECTIVE).map(|directive| directive.as_str()) {
                None | Some(Some("merge")) => new.push(item),
                Some(Some("replace")) => replace = true,
                Some(Some("delete")) => {
                    let key = item.get(name).ok_or_else(|| missing_key(item, name))?;
                    target.retain(|item| item.get(name) != Some(key));
                }
                Some(_) => return Err(unknown_directive(item)),
            }
        }
        if replace {
            return Ok(new
                .into_iter()
                .map(|item| Value::Object(without_directives(item)))
                .collect());
        }
        for item in &new {
            let key = item.get(name).ok_or_else(|| missing_key(item, name))?;
            match target.iter_mut().find(|old| old.get(name) == Some(key)) {
                Some(Value::Object(old)) => {
                    let merged = self.fields(std::mem::take(old), item, field)?;
                    *old = merged;
                }
                _ => target.push(Value::Object(without_directives(item))),
            }
        }
        let order: Vec<Value> = new
            .iter()
            .map(|item| Value::Object((*item).clone()))
            .collect();
        Ok(arrange(target, &order, &old, Some(name)))
    }

    fn no_list(&self) -> ApiError {
        let patch = go_text(&Value::Object(self.patch.clone()));
        ApiError::invalid(
            "",
            "",
            "",
            &[FieldError {
                field: "patch".to_owned(),
                reason: "FieldValueInvalid",
                detail: format!(
                    "Invalid value: {}: cannot restore slice from map",
                    Value::from(patch)
                ),
            }],
        )
    }
}

fn merge_set(old: Vec<Value>, new: &[Value]) -> Vec<Value> {
    let mut merged = old.clone();
    for item in new {
        if !merged.contains(item) {
            merged.push(item.clone());
        }
    }
    arrange(merged, new, &old, None)
}

/// The items named by `order` in that order, the others in the order they had (`before`), both woven
/// together so that an item of the second sort comes first only where it did before.
fn arrange(items: Vec<Value>, order: &[Value], before: &[Value], name: Option<&str>) -> Vec<Value> {
    let identity = |item: &Value| match name {
        Some(name) => item.get(name).cloned(),
        None => Some(item.clone()),
    };
    let position = |list: &[Value], item: &Value| {
        let wanted = identity(item);
        list.iter().position(|other| identity(other) == wanted)
    };
    let (mut named, mut others): (Vec<Value>, Vec<Value>) = items
        .into_iter()
        .partition(|item| position(order, item).is_some());
    named.sort_by_key(|item| position(order, item));
    others.sort_by_key(|item| position(before, item));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    let mut woven = Vec::new();
    while let (Some(next), Some(other)) = (named.peek(), others.peek()) {
        let other_first = matches!(
            (position(before, other), position(before, next)),
            (Some(other), Some(next)) if other < next
        );
        woven.extend(if other_first {
            others.next()
        } else {
            named.next()
        });
    }
    woven.extend(named);
    woven.extend(others);
    woven
}

/// A value that had no counterpart: directives and nulls in it mean nothing.
fn without_directives(fields: &Fields) -> Fields {
    let clean = |value: &Value| match value {
        Value::Object(inner) => Value::Object(without_directives(inner)),
        Value::Array(items) => Value::Array(
            items
                .iter()
                .filter(|item| {
                    item.get(DIRECTIVE)
                        .is_none_or(|directive| directive == "merge")
                })
                .map(|item| match item {
                    Value::Object(inner) => Value::Object(without_directives(inner)),
                    other => other.clone(),
                })
                .collect(),
        ),
        other => other.clone(),
    };
    fields
        .iter()
        .filter(|(key, value)| {
            let directive = *key == DIRECTIVE
                || *key == RETAIN
                || key.starts_with(ORDER)
                || key.starts_with(DELETE);
            !directive && !value.is_null()
        })
        .map(|(key, value)| (key.clone(), clean(value)))
        .collect()
}

/// kube-apiserver answers these with a bare 500.
fn failure(message: String) -> ApiError {
    ApiError::new(500, "", message)
}

fn unknown_directive(fields: &Fields) -> ApiError {
    let directive = fields.get(DIRECTIVE).map(go_text).unwrap_or_default();
    let fields = go_text(&Value::Object(fields.clone()));
    failure(format!("unknown patch type: {directive} in map: {fields}"))
}

fn missing_key(fields: &Fields, name: &str) -> ApiError {
    let fields = go_text(&Value::Object(fields.clone()));
    failure(format!(
        "map: {fields} does not contain declared merge key: {name}"
    ))
}

/// A value as Go's `%v` prints it.
pub(crate) fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_text).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(fields) => {
            let mut fields: Vec<String> = fields
                .iter()
                .map(|(key, value)| format!("{key}:{}", go_text(value)))
                .collect();
            fields.sort();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}
