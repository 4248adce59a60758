//! What two objects have in common, what is new, and what becomes of both: by their schema.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::field_set::{FieldSet, field_step};
use super::types::{Atom, Fields, List, ListForm, Type};

/// How a new object differs from the old.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

/// All that a configuration says something about.
pub(super) fn fields_of(kind: Type<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    collect(kind, value, &mut Vec::new(), &mut set);
    set
}

fn collect(kind: Type<'_>, value: &Value, path: &mut Vec<String>, set: &mut FieldSet) {
    match kind.atom(Some(value)) {
        Atom::Scalar(_) => set.insert(path),
        Atom::List(List {
            form: ListForm::Atomic,
            ..
        }) => set.insert(path),
        Atom::Map(Fields { atomic: true, .. }) => set.insert(path),
        Atom::List(List { form, element }) => {
            for item in value.as_array().into_iter().flatten() {
                if let Some(step) = form.step(item) {
                    path.push(step);
                    collect(element, item, path, set);
                    set.insert(path);
                    path.pop();
                }
            }
        }
        Atom::Map(fields) => {
            for (name, value) in value.as_object().into_iter().flatten() {
                let Some(kind) = fields.of(name) else {
                    continue;
                };
                path.push(field_step(name));
                collect(kind, value, path, set);
                let empty = match value {
                    Value::Null => true,
                    Value::Object(map) => map.is_empty(),
                    _ => false,
                };
                if empty || !fields.names(name) {
                    set.insert(path);
                }
                path.pop();
            }
        }
    }
}

/// What changes between two objects.
pub(super) fn compare(kind: Type<'_>, old: &Value, new: &Value) -> Comparison {
    let mut found = Comparison::default();
    compare_values(kind, Some(old), Some(new), &mut Vec::new(), &mut found);
    found
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => true,
    }
}

fn compare_values(
    kind: Type<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Vec<String>,
    found: &mut Comparison,
) {
    if old.is_none() && new.is_none() {
        return;
    }
    let both_empty = is_empty(old) && is_empty(new);
    let whole = match kind.atom(new.filter(|value| !value.is_null()).or(old)) {
        Atom::Scalar(_) => true,
        Atom::List(List { form, element }) => {
            if matches!(form, ListForm::Atomic) || both_empty {
                true
            } else {
                compare_lists(&form, element, (old, new), path, found);
                false
            }
        }
        Atom::Map(fields) => {
            if fields.atomic || both_empty {
                true
            } else {
                let (old, new) = (
                    old.and_then(Value::as_object),
                    new.and_then(Value::as_object),
                );
                let names = old.into_iter().flatten().chain(
                    new.into_iter()
                        .flatten()
                        .filter(|(name, _)| old.is_none_or(|old| !old.contains_key(*name))),
                );
                for (name, _) in names {
                    let Some(kind) = fields.of(name) else {
                        continue;
                    };
                    path.push(field_step(name));
                    let get = |map: Option<&'_ Map<String, Value>>| map?.get(name).cloned();
                    let (old, new) = (get(old), get(new));
                    compare_values(kind, old.as_ref(), new.as_ref(), path, found);
                    path.pop();
                }
                false
            }
        }
    };
    match (old, new) {
        (None, _) => found.added.insert(path),
        (_, None) => found.removed.insert(path),
        (Some(old), Some(new)) if whole && old != new => found.modified.insert(path),
        _ => {}
    }
}

fn compare_lists(
    form: &ListForm<'_>,
    element: Type<'_>,
    (old, new): (Option<&Value>, Option<&Value>),
    path: &mut Vec<String>,
    found: &mut Comparison,
) {
    let (old, new) = (indexed(form, old), indexed(form, new));
    for step in old.steps.iter().chain(
        new.steps
            .iter()
            .filter(|step| !old.items.contains_key(*step)),
    ) {
        let (before, after) = (old.items.get(step), new.items.get(step));
        path.push(step.clone());
        match (before.map(Vec::as_slice), after.map(Vec::as_slice)) {
            (None | Some([_]), None | Some([_])) => {
                let one = |items: Option<&Vec<&Value>>| {
                    items.and_then(|items| items.first().map(|item| (*item).clone()))
                };
                let (before, after) = (one(before), one(after));
                compare_values(element, before.as_ref(), after.as_ref(), path, found);
            }
            // Items that are there twice are compared as one.
            (None, Some(_)) => found.added.insert(path),
            (Some(_), None) => found.removed.insert(path),
            (before, after) if before != after => found.modified.insert(path),
            _ => {}
        }
        path.pop();
    }
}

/// A list by what identifies its items, in its order.
struct Indexed<'a> {
    steps: Vec<String>,
    items: HashMap<String, Vec<&'a Value>>,
}

fn indexed<'a>(form: &ListForm<'_>, list: Option<&'a Value>) -> Indexed<'a> {
    let mut index = Indexed {
        steps: Vec::new(),
        items: HashMap::new(),
    };
    for item in list.and_then(Value::as_array).into_iter().flatten() {
        let Some(step) = form.step(item) else {
            continue;
        };
        let items = index.items.entry(step.clone()).or_default();
        items.push(item);
        if items.len() == 1 {
            index.steps.push(step);
        }
    }
    index
}

/// The live object with a configuration laid over it.
pub(super) fn merge(kind: Type<'_>, live: &Value, applied: &Value) -> Value {
    match kind.atom(Some(applied)) {
        Atom::List(List { form, element }) if !matches!(form, ListForm::Atomic) => {
            match (live, applied) {
                (Value::Array(live), Value::Array(applied))
                    if !live.is_empty() || !applied.is_empty() =>
                {
                    Value::Array(merge_lists(&form, element, live, applied))
                }
                (Value::Array(live), Value::Null) if !live.is_empty() => Value::Array(live.clone()),
                _ => applied.clone(),
            }
        }
        Atom::Map(fields) if !fields.atomic => match (live, applied) {
            (Value::Object(live), Value::Object(applied)) => {
                let mut merged = live.clone();
                for (name, value) in applied {
                    let value = match (live.get(name), fields.of(name)) {
                        (Some(live), Some(kind)) => merge(kind, live, value),
                        _ => value.clone(),
                    };
                    merged.insert(name.clone(), value);
                }
                Value::Object(merged)
            }
            (Value::Object(live), Value::Null) if !live.is_empty() => Value::Object(live.clone()),
            _ => applied.clone(),
        },
        _ => applied.clone(),
    }
}

/// Items of both lists: those of the configuration in its order, the others about where they were.
fn merge_lists(
    form: &ListForm<'_>,
    element: Type<'_>,
    live: &[Value],
    applied: &[Value],
) -> Vec<Value> {
    let steps = |list: &[Value]| -> Vec<String> {
        list.iter()
            .map(|item| form.step(item).unwrap_or_default())
            .collect()
    };
    let (left, right) = (steps(live), steps(applied));
    let at = |steps: &[String], step: &String| steps.iter().position(|other| other == step);
    let mut shared = right.iter().filter(|step| left.contains(step));
    let mut next_shared = shared.next();
    let mut merged_steps: Vec<&String> = Vec::new();
    let mut out = Vec::new();
    let both = |step: &String| {
        let old = at(&left, step).and_then(|at| live.get(at));
        let new = at(&right, step).and_then(|at| applied.get(at));
        match (old, new) {
            (Some(old), Some(new)) => Some(merge(element, old, new)),
            (old, new) => new.or(old).cloned(),
        }
    };
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if let (Some(ours), Some(theirs)) = (left.get(l), right.get(r)) {
            if ours == theirs {
                merged_steps.push(ours);
                out.extend(both(ours));
                l += 1;
                r += 1;
                next_shared = shared.next();
                continue;
            }
            if right.contains(ours) && next_shared.is_some_and(|next| next != ours) {
                // It comes later, where the configuration has it.
                l += 1;
                continue;
            }
        }
        if let Some(ours) = left.get(l) {
            if !right.contains(ours) {
                out.extend(live.get(l).cloned());
                l += 1;
                continue;
            }
            if merged_steps.contains(&ours) {
                l += 1;
            }
        }
        if let Some(theirs) = right.get(r) {
            merged_steps.push(theirs);
            out.extend(both(theirs));
            r += 1;
            if next_shared == Some(theirs) {
                next_shared = shared.next();
            }
        }
    }
    out
}

/// The value without the fields of a set. What nothing is left of becomes null: whether it goes too is not
/// said by what was in it.
pub(super) fn remove(kind: Type<'_>, value: &Value, gone: &FieldSet) -> Value {
    match (kind.atom(Some(value)), value) {
        (Atom::Scalar(_), _) => value.clone(),
        (Atom::List(List { form, element }), Value::Array(items))
            if !matches!(form, ListForm::Atomic) =>
        {
            let mut left = Vec::new();
            for item in items {
                let step = form.step(item).unwrap_or_default();
                if gone.has(&step) {
                    continue;
                }
                left.push(match gone.below(&step) {
                    Some(below) => remove(element, item, below),
                    None => item.clone(),
                });
            }
            if left.is_empty() {
                Value::Null
            } else {
                Value::Array(left)
            }
        }
        (Atom::Map(fields), Value::Object(map)) if !fields.atomic => {
            let mut left = Map::new();
            for (name, value) in map {
                let step = field_step(name);
                if gone.has(&step) {
                    continue;
                }
                let kept = match (gone.below(&step), fields.of(name)) {
                    (Some(below), Some(kind)) => remove(kind, value, below),
                    _ => value.clone(),
                };
                left.insert(name.clone(), kept);
            }
            if left.is_empty() {
                Value::Null
            } else {
                Value::Object(left)
            }
        }
        _ => Value::Null,
    }
}

/// The set with every named field that has fields below it. A configuration says nothing of such a field by
/// itself, but it goes when all that is below it goes.
pub(super) fn with_named_fields(kind: Type<'_>, value: Option<&Value>, set: &FieldSet) -> FieldSet {
    let mut set = set.clone();
    name_fields(kind, value, &mut set);
    set
}

fn name_fields(kind: Type<'_>, value: Option<&Value>, set: &mut FieldSet) {
    match kind.atom(value) {
        Atom::Scalar(_) => {}
        Atom::List(List { form, element }) => {
            let items = value.and_then(Value::as_array);
            for (step, _, below) in set.steps_mut() {
                let item = items
                    .into_iter()
                    .flatten()
                    .find(|item| form.step(item).as_deref() == Some(step));
                name_fields(element, item, below);
            }
        }
        Atom::Map(fields) => {
            for (step, member, below) in set.steps_mut() {
                let Some(name) = step.strip_prefix("f:") else {
                    continue;
                };
                if fields.names(name) && !below.is_empty() {
                    *member = true;
                }
                if let Some(kind) = fields.of(name) {
                    let value = value.and_then(|value| value.get(name));
                    name_fields(kind, value, below);
                }
            }
        }
    }
}
