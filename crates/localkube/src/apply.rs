//! Server-side apply: who owns which fields of an object, kept in `metadata.managedFields`.
//!
//! The rules are those of `sigs.k8s.io/structured-merge-diff`: an applied configuration is laid over the live
//! object, fields go that its manager applied before and nobody owns now, and a change of what another
//! manager owns is a conflict unless it is forced. Ordinary writes take over what they change.

mod check;
mod empty;
mod field_set;
mod last_applied;
mod managed;
mod merge;
mod types;

use serde_json::{Map, Value, json};

use crate::kind::Kind;
use crate::status::ApiError;

use field_set::FieldSet;
use managed::{Entry, Managed, Operation};
use types::Type;

/// What no manager owns: the object's identity, and what only the server writes.
const UNOWNED: [&[&str]; 11] = [
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// Who owns what an object held before anything was applied to it.
const BEFORE: &str = "before-first-apply";

/// The manager that `kubectl apply --server-side` names.
const KUBECTL: &str = "kubectl";

/// Who writes, and through which subresource (empty for the object itself).
#[derive(Clone, Debug)]
pub(crate) struct Author {
    pub manager: String,
    pub api_version: String,
    pub subresource: String,
}

/// One write, as far as it concerns who owns what.
pub(crate) struct Ownership<'a> {
    schema: Type<'a>,
    /// The object before it has anything.
    empty: Value,
    /// Fields that this write cannot change.
    ignored: FieldSet,
    author: Option<&'a Author>,
    now: String,
}

impl<'a> Ownership<'a> {
    /// A write of an object whose schema has this name. Without an author, others lose what changes, and
    /// nobody gets it.
    pub fn new(
        kind: &Kind,
        (name, schemas): (&str, &'a Map<String, Value>),
        ignored: Option<&str>,
        author: Option<&'a Author>,
        now: String,
    ) -> Ownership<'a> {
        Ownership {
            schema: Type::new(schemas, name),
            empty: match kind.schema {
                Some(_) => json!({}),
                None => empty::empty(&kind.kind),
            },
            ignored: ignored.map_or_else(FieldSet::default, |field| FieldSet::of(&[field])),
            author,
            now,
        }
    }

    /// Gives `managedFields` for an ordinary write. `current` is `None` for an object that is created.
    pub fn write(&self, current: Option<&Value>, new: &Value) -> Value {
        let before = current.map_or(Value::Null, |current| managed_fields(current).clone());
        let in_subresource = self
            .author
            .is_some_and(|author| !author.subresource.is_empty());
        let claimed = managed_fields(new);
        let mut managed = if in_subresource {
            Managed::decode(&before).unwrap_or_default()
        } else if managed::is_reset(claimed) {
            Managed::default()
        } else {
            // Clients that do not know managedFields must not delete them by accident.
            Managed::decode(claimed)
                .filter(|managed| !managed.is_empty())
                .or_else(|| Managed::decode(&before))
                .unwrap_or_default()
        };
        if managed.is_empty() && (current.is_some() || self.author.is_none()) {
            return Value::Null;
        }
        let current = current.unwrap_or(&self.empty);
        self.record(&mut managed, current, new, self.author);
        managed.encode()
    }

    /// Lays a configuration over the live object (`None` if there is none yet).
    ///
    /// # Errors
    /// 409 for conflicts that are not forced, 500 for a configuration that does not fit the schema.
    pub fn apply(
        &self,
        live: Option<&Value>,
        config: &Value,
        force: bool,
    ) -> Result<Value, ApiError> {
        let Some(author) = self.author else {
            return Err(ApiError::internal("apply without a field manager"));
        };
        check::fits(self.schema, config).map_err(|why| {
            ApiError::new(
                500,
                "",
                format!(
                    "failed to create typed patch object ({}): {why}",
                    named(config)
                ),
            )
        })?;
        let nothing = json!({});
        let mut bare = live.unwrap_or(&nothing).clone();
        let mut managed = Managed::decode(managed_fields(&bare)).unwrap_or_default();
        set_managed_fields(&mut bare, Value::Null);
        if managed.is_empty() && live.is_some() {
            let before = Author {
                manager: BEFORE.to_owned(),
                subresource: String::new(),
                ..author.clone()
            };
            self.record(&mut managed, &self.empty, &bare, Some(&before));
        }
        let laid = match self.lay(&bare, config, managed.clone(), author, force) {
            Err(conflicts) if author.manager == KUBECTL => {
                let conflicts = self.beyond_last_applied(&bare, conflicts);
                if conflicts.is_empty() {
                    self.lay(&bare, config, managed, author, true)
                } else {
                    Err(conflicts)
                }
            }
            laid => laid,
        };
        let (mut object, managed) = laid.map_err(|conflicts| refuse(&conflicts))?;
        if author.manager == KUBECTL {
            last_applied::follow(&mut object, config);
        }
        set_managed_fields(&mut object, managed.encode());
        Ok(object)
    }

    /// Without the conflicts about what `kubectl apply` of the client's kind wrote and nobody changed since: who
    /// goes on with `kubectl apply --server-side` continues with the same configuration.
    fn beyond_last_applied(
        &self,
        live: &Value,
        mut conflicts: Vec<(Entry, FieldSet)>,
    ) -> Vec<(Entry, FieldSet)> {
        if let Some(applied) = last_applied::read(live) {
            let found = merge::compare(self.schema, live, &applied);
            let unchanged = merge::fields_of(self.schema, &applied)
                .difference(&found.added.union(&found.modified).union(&found.removed));
            for (_, fields) in &mut conflicts {
                *fields = fields.difference(&unchanged);
            }
            conflicts.retain(|(_, fields)| !fields.is_empty());
        }
        conflicts
    }

    /// The object and its managers after the configuration, or what it conflicts with.
    fn lay(
        &self,
        live: &Value,
        config: &Value,
        mut managed: Managed,
        author: &Author,
        force: bool,
    ) -> Result<(Value, Managed), Vec<(Entry, FieldSet)>> {
        let mut own = Entry::new(author, Operation::Apply);
        // The name that every configuration says keeps the metadata of the object from going with its labels.
        let said = merge::fields_of(self.schema, config).without(&self.ignored);
        own.set = said.difference(&unowned());
        let last = managed.take(&own);
        own.time = last.as_ref().and_then(|last| last.time.clone());
        let merged = merge::merge(self.schema, live, config);
        let new = match &last {
            Some(last) => self.prune(&merged, &managed, &said, &last.set),
            None => merged,
        };
        self.take_over(&mut managed, live, &new, force)?;
        if new != *live {
            own.time = Some(self.now.clone());
        }
        managed.put(own);
        Ok((new, managed))
    }

    /// Drops what this manager applied last time and nobody owns now.
    fn prune(&self, merged: &Value, others: &Managed, own: &FieldSet, last: &FieldSet) -> Value {
        let named = |set: &FieldSet| merge::with_named_fields(self.schema, Some(merged), set);
        let without = |gone: &FieldSet| match merge::remove(self.schema, merged, gone) {
            Value::Null => json!({}),
            left => left,
        };
        let all = named(&merge::fields_of(self.schema, merged));
        let kept = |object: &Value| named(&merge::fields_of(self.schema, object));
        // What others own is added back, and what hangs below something that went but was never applied.
        let last = named(last);
        let pruned = without(&last);
        let owned = named(&others.owned().union(own));
        let pruned = without(&all.difference(&kept(&pruned).union(&owned)));
        without(&all.difference(&kept(&pruned)).intersection(&last))
    }

    /// Takes what changes from its owners.
    fn take_over(
        &self,
        managed: &mut Managed,
        old: &Value,
        new: &Value,
        force: bool,
    ) -> Result<FieldSet, Vec<(Entry, FieldSet)>> {
        let found = merge::compare(self.schema, old, new);
        let changed = found.added.union(&found.modified).without(&self.ignored);
        let removed = found.removed.without(&self.ignored);
        let mut conflicts = Vec::new();
        for entry in managed.entries() {
            let lost = entry.set.intersection(&changed);
            if !lost.is_empty() {
                conflicts.push((entry.clone(), lost));
            }
        }
        if !force && !conflicts.is_empty() {
            return Err(conflicts);
        }
        managed.lose(&changed.union(&removed));
        Ok(changed)
    }

    /// Records an ordinary write.
    fn record(&self, managed: &mut Managed, old: &Value, new: &Value, author: Option<&Author>) {
        let mut bare = (old.clone(), new.clone());
        set_managed_fields(&mut bare.0, Value::Null);
        set_managed_fields(&mut bare.1, Value::Null);
        let Ok(changed) = self.take_over(managed, &bare.0, &bare.1, true) else {
            return;
        };
        let changed = changed.difference(&unowned());
        let Some(author) = author.filter(|_| !changed.is_empty()) else {
            return;
        };
        let mut own = Entry::new(author, Operation::Update);
        own.set = match managed.take(&own) {
            Some(before) => before.set.union(&changed),
            None => changed,
        };
        own.time = Some(self.now.clone());
        managed.put(own);
        managed.cap();
    }
}

fn unowned() -> FieldSet {
    UNOWNED.iter().fold(FieldSet::default(), |set, path| {
        set.union(&FieldSet::of(path))
    })
}

fn managed_fields(object: &Value) -> &Value {
    object
        .pointer("/metadata/managedFields")
        .unwrap_or(&Value::Null)
}

fn set_managed_fields(object: &mut Value, fields: Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    if fields.is_null() {
        metadata.shift_remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), fields);
    }
}

/// Whether two objects are the same but for the times in `managedFields`.
pub(crate) fn same_but_for_times(one: &Value, other: &Value) -> bool {
    let (ours, theirs) = (managed_fields(one), managed_fields(other));
    if ours == theirs || without_times(ours) != without_times(theirs) {
        return one == other;
    }
    let bare = |object: &Value| {
        let mut object = object.clone();
        set_managed_fields(&mut object, Value::Null);
        object
    };
    bare(one) == bare(other)
}

fn without_times(fields: &Value) -> Value {
    let mut fields = fields.clone();
    for entry in fields.as_array_mut().into_iter().flatten() {
        if let Some(entry) = entry.as_object_mut() {
            entry.shift_remove("time");
        }
    }
    fields
}

/// `namespace/name; apps/v1, Kind=Deployment`.
fn named(object: &Value) -> String {
    let text = |path: &str| {
        object
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    format!(
        "{}/{}; {}, Kind={}",
        text("/metadata/namespace"),
        text("/metadata/name"),
        go_version(text("/apiVersion")),
        text("/kind")
    )
}

/// A group version as Go prints it: `/v1` for the core group.
pub(crate) fn go_version(api_version: &str) -> String {
    if api_version.contains('/') {
        api_version.to_owned()
    } else {
        format!("/{api_version}")
    }
}

/// 409, in the words of kube-apiserver.
fn refuse(conflicts: &[(Entry, FieldSet)]) -> ApiError {
    let mut conflicts: Vec<(String, Vec<String>)> = conflicts
        .iter()
        .map(|(entry, fields)| (entry.text(), fields.paths()))
        .collect();
    conflicts.sort();
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let message = match conflicts.as_slice() {
        [(manager, paths)] if count == 1 => format!(
            "Apply failed with 1 conflict: conflict with {manager}: {}",
            paths.concat()
        ),
        _ => {
            let lines: Vec<String> = conflicts
                .iter()
                .flat_map(|(manager, paths)| {
                    std::iter::once(format!("conflicts with {manager}:"))
                        .chain(paths.iter().map(|path| format!("- {path}")))
                })
                .collect();
            format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
        }
    };
    let causes: Vec<Value> = conflicts
        .iter()
        .flat_map(|(manager, paths)| {
            paths.iter().map(move |path| {
                json!({
                    "reason": "FieldManagerConflict",
                    "message": format!("conflict with {manager}"),
                    "field": path,
                })
            })
        })
        .collect();
    let mut error = ApiError::new(409, "Conflict", message);
    error.details = json!({"causes": causes});
    error
}

#[cfg(test)]
mod tests;
