//! What is to be done about one object in one member.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{DynamicObject, PropagationPolicy};
use serde_json::{Map, Value};

use super::{FIELD_MANAGER, HOST_LABEL, Kind, Owner, TAKEN_OVER_ANNOTATION, Wanted};

/// What was seen of a source's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was deleted with what depends on it, or it leaves the member by its own placement.
    Whole,
    /// It was deleted so that dependents stay, or nobody saw how: the namespaces of a workspace are not ours to lose.
    KeepDependents,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// All is as it should be.
    Nothing,
    /// Apply this.
    Apply(Box<DynamicObject>),
    /// Delete the copy that was looked at.
    Delete(PropagationPolicy),
    /// Take our marks off: it is the member's own again.
    GiveBack,
    /// Another host with this identity keeps it; leave it alone.
    Foreign(String),
}

/// Who keeps an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Keeper<'a> {
    Us,
    OtherHost(&'a str),
    KubeFed,
    Nobody,
}

pub(super) fn keeper<'a>(live: &'a DynamicObject, owner: &Owner) -> Keeper<'a> {
    let label = |name: &str| live.metadata.labels.as_ref()?.get(name).map(String::as_str);
    match (label(HOST_LABEL), label(kah_api::iam::MANAGED_LABEL)) {
        (Some(host), _) if host == owner.as_str() => Keeper::Us,
        (Some(host), _) => Keeper::OtherHost(host),
        (None, Some("true")) => Keeper::KubeFed,
        (None, _) => Keeper::Nobody,
    }
}

pub(super) fn was_taken_over(live: &DynamicObject) -> bool {
    let annotations = live.metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key(TAKEN_OVER_ANNOTATION))
}

/// Compares what a member should hold with what it holds.
#[must_use]
pub fn decide(
    kind: &Kind,
    wanted: &Wanted,
    live: Option<&DynamicObject>,
    owner: &Owner,
    ending: Ending,
) -> Action {
    let keeper = live.map(|live| keeper(live, owner));
    // It will be gone soon; then it can be made anew.
    let terminating = live.is_some_and(|live| live.metadata.deletion_timestamp.is_some());
    match (wanted, live, keeper) {
        (Wanted::AsItIs(_), ..) | (Wanted::Nothing, None, _) => Action::Nothing,
        (Wanted::Copy(_), _, Some(Keeper::OtherHost(other))) => Action::Foreign(other.to_owned()),
        (_, Some(_), _) if terminating => Action::Nothing,
        (Wanted::Copy(copy), None, _) => Action::Apply(copy.clone()),
        (Wanted::Copy(copy), Some(live), keeper) => {
            let mut copy = copy.clone();
            if keeper == Some(Keeper::Nobody) || was_taken_over(live) {
                let annotations = copy.metadata.annotations.get_or_insert_default();
                annotations.insert(TAKEN_OVER_ANNOTATION.to_owned(), "true".to_owned());
            }
            if is_equal(kind, &copy, live) {
                Action::Nothing
            } else {
                Action::Apply(copy)
            }
        }
        (Wanted::Nothing, Some(live), Some(Keeper::Us)) => {
            if !kind.is_placed() {
                Action::Delete(PropagationPolicy::Background)
            } else if was_taken_over(live) {
                Action::GiveBack
            } else if ending == Ending::Whole {
                Action::Delete(PropagationPolicy::Background)
            } else {
                Action::Delete(PropagationPolicy::Orphan)
            }
        }
        (Wanted::Nothing, Some(_), _) => Action::Nothing,
    }
}

/// Whether a live object holds what the copy says: in the fields of the kind nothing else either, of labels and annotations at least that, and none
/// that we applied once and no longer do.
pub(super) fn is_equal(kind: &Kind, copy: &DynamicObject, live: &DynamicObject) -> bool {
    let (ours, theirs) = (&copy.metadata, &live.metadata);
    let mut entries = theirs.managed_fields.iter().flatten();
    let applied = entries.find(|entry| is_ours(entry));
    let names = |map: &Option<std::collections::BTreeMap<String, String>>| -> BTreeSet<String> {
        map.iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let holds = |copy: &Option<std::collections::BTreeMap<String, String>>,
                 live: &Option<std::collections::BTreeMap<String, String>>| {
        copy.iter()
            .flatten()
            .all(|(name, value)| live.as_ref().and_then(|live| live.get(name)) == Some(value))
    };
    applied.is_some_and(|applied| {
        applied_names(applied, "f:labels") == names(&ours.labels)
            && applied_names(applied, "f:annotations") == names(&ours.annotations)
    }) && holds(&ours.labels, &theirs.labels)
        && holds(&ours.annotations, &theirs.annotations)
        && kind.fields.iter().all(|field| {
            bare(copy.data.get(*field)) == bare(content(kind, field, copy, live).as_ref())
        })
}

/// A field of a live object, as far as it is the host's: the password of a user who was the member's own stays where the copy has none and we applied
/// none.
fn content(kind: &Kind, field: &str, copy: &DynamicObject, live: &DynamicObject) -> Option<Value> {
    let mut content = live.data.get(field)?.clone();
    let ours = || {
        let entries = live.metadata.managed_fields.iter().flatten();
        entries.into_iter().any(|entry| {
            let fields = entry.fields_v1.as_ref();
            let spec = fields.and_then(|fields| fields.0.get("f:spec"));
            is_ours(entry) && spec.is_some_and(|spec| spec.get("f:password").is_some())
        })
    };
    let given = || bare(copy.data.pointer("/spec/password")).is_some();
    if kind.name == "User"
        && field == "spec"
        && let Some(spec) = content.as_object_mut()
        && was_taken_over(copy)
        && !given()
        && !ours()
    {
        spec.remove("password");
    }
    Some(content)
}

/// Whether it says what we applied.
fn is_ours(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply")
}

/// Names of labels or annotations that this entry applied.
fn applied_names(applied: &ManagedFieldsEntry, of: &str) -> BTreeSet<String> {
    let fields = applied.fields_v1.as_ref();
    let names = fields.and_then(|fields| fields.0.get("f:metadata")?.get(of)?.as_object());
    names
        .into_iter()
        .flat_map(Map::keys)
        .filter_map(|name| Some(name.strip_prefix("f:")?.to_owned()))
        .collect()
}

/// A value without what is empty: absent, null, `""`, `[]` and `{}` mean the same in these kinds.
fn bare(value: Option<&Value>) -> Option<Value> {
    match value? {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::Array(list) if list.is_empty() => None,
        Value::Array(list) => Some(
            list.iter()
                .map(|one| bare(Some(one)).unwrap_or(Value::Null))
                .collect(),
        ),
        Value::Object(object) => {
            let kept: Map<String, Value> = object
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), bare(Some(value))?)))
                .collect();
            Some(Value::Object(kept))
                .filter(|kept| kept.as_object().is_some_and(|kept| !kept.is_empty()))
        }
        other => Some(other.clone()),
    }
}

/// A merge patch that removes what the live object holds beyond the copy, in the fields of the kind. Applying takes away only what we applied before.
pub(super) fn surplus(
    kind: &Kind,
    copy: &DynamicObject,
    live: &DynamicObject,
) -> Option<Map<String, Value>> {
    let removed: Map<String, Value> = kind
        .fields
        .iter()
        .filter_map(|field| {
            let live = content(kind, field, copy, live)?;
            let removed = removal(copy.data.get(*field), &live)?;
            Some(((*field).to_owned(), removed))
        })
        .collect();
    Some(removed).filter(|removed| !removed.is_empty())
}

fn removal(copy: Option<&Value>, live: &Value) -> Option<Value> {
    bare(Some(live))?;
    let Some(copy) = copy else {
        return Some(Value::Null);
    };
    let live = live.as_object()?;
    let removed: Map<String, Value> = live
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), removal(copy.get(name), value)?)))
        .collect();
    Some(Value::Object(removed))
        .filter(|_| !live.is_empty())
        .filter(|removed| {
            removed
                .as_object()
                .is_some_and(|removed| !removed.is_empty())
        })
}

#[cfg(test)]
mod tests;
