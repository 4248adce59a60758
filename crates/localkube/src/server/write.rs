//! Create, update and patch.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::apply::same_but_for_times;
use crate::identity::User;
use crate::kind::Kind;
use crate::patch::{self, PatchType};
use crate::status::{ApiError, FieldError};
use crate::store::{Change, Document, Expect, Key, StoreError, Stored};

use super::apply::Claim;
use super::context::{Context, in_version};
use super::field_validation::FieldValidation;
use super::{Api, body, delete, metadata};

/// How often a write that depends on what is stored is tried when others write too.
pub(super) const TRIES: usize = 8;
/// Names made from a prefix are at most this long without their random end.
const LONGEST_PREFIX: usize = 58;
/// What random names are made of: no vowels and nothing that looks like another.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Which part of an object an update may change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Main,
    Status,
    /// What a subresource handler made: taken as it is, but for what the system keeps.
    System,
}

/// One update: whose, of what, and on which terms.
pub(super) struct Update<'a> {
    pub kind: &'a Arc<Kind>,
    pub user: &'a User,
    pub namespace: &'a str,
    pub name: &'a str,
    pub part: Part,
    pub dry_run: bool,
    /// The new object was worked out from the stored one, so it can be worked out again.
    pub retry: bool,
    pub claim: Claim<'a>,
}

/// The time as text, in seconds.
pub(super) fn now_text(now: jiff::Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The time as metadata carries it.
pub(super) fn time(now: jiff::Timestamp) -> Value {
    now_text(now).into()
}

pub(super) fn storage_failed(error: &StoreError) -> ApiError {
    tracing::error!(error = error as &dyn std::error::Error, "storage");
    ApiError::internal(error.to_string())
}

impl Api {
    /// `POST` to a collection.
    pub(super) async fn create(
        &self,
        context: &mut Context,
        mut object: Value,
    ) -> Result<Value, ApiError> {
        body::expect(&context.kind, &mut object)?;
        self.read_object(
            &context.kind,
            FieldValidation::of(&context.query),
            &mut object,
            &mut context.warnings,
        )?;
        let dry_run = context.dry_run("CreateOptions")?;
        let author = context.author("CreateOptions")?;
        let namespace = context.namespace().to_owned();
        let (kind, user) = (context.kind.clone(), context.user.clone());
        let create = Update {
            kind: &kind,
            user: &user,
            namespace: &namespace,
            name: "",
            part: Part::Main,
            dry_run,
            retry: false,
            claim: Claim::Write(author.as_ref()),
        };
        self.insert(&create, object, &mut context.warnings).await
    }

    /// Makes an object exist. The name it gets is its own.
    pub(super) async fn insert(
        &self,
        create: &Update<'_>,
        mut object: Value,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let Update {
            kind,
            user,
            namespace,
            dry_run,
            ..
        } = *create;
        check_namespace(kind, namespace, &mut object)?;
        if !metadata::text(&object, "resourceVersion").is_empty() {
            return Err(ApiError::new(
                500,
                "",
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let now = self.now();
        let sent = metadata::get(&object, "managedFields");
        for field in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
            "managedFields",
            "generation",
        ] {
            metadata::set(&mut object, field, Value::Null);
        }
        metadata::set(&mut object, "creationTimestamp", time(now));
        metadata::set(&mut object, "uid", uuid::Uuid::new_v4().to_string().into());
        if kind.generation {
            metadata::set(&mut object, "generation", 1.into());
        }
        let prefix = metadata::text(&object, "generateName").to_owned();
        let generated = metadata::text(&object, "name").is_empty() && !prefix.is_empty();
        if generated {
            metadata::set(&mut object, "name", random_name(&prefix).into());
        }
        if let Some(schema) = &kind.schema {
            prune(schema, &mut object, warnings);
            schema.default(&mut object);
            if kind.status_subresource
                && let Some(fields) = object.as_object_mut()
            {
                fields.remove("status");
            }
        }
        (kind.strategy.default)(&mut object);
        self.claim(create, None, &mut object, sent);
        (kind.strategy.prepare_create)(&mut object);
        self.admit_create(kind, user, namespace, &mut object, warnings)?;
        let mut faults = metadata::validate(kind, &object);
        faults.extend((kind.strategy.validate)(&object, None));
        if let Some(schema) = &kind.schema {
            faults.extend(schema.validate(&object));
        }
        refuse(kind, &object, &faults)?;
        for _ in 0..TRIES {
            let name = metadata::text(&object, "name").to_owned();
            let object_now = metadata::arrange(kind, object.clone());
            let key = Key::new(&kind.storage_key(), namespace, &name);
            if dry_run {
                if self.store().get(&key).is_some() {
                    return Err(ApiError::already_exists(&kind.group, &kind.plural, &name));
                }
                return Ok(in_version(kind, object_now));
            }
            let document = Change::Put(Document::new(&object_now));
            match self.store().write(key, Expect::Absent, document).await {
                Ok(stored) => {
                    self.written(kind, &stored).await;
                    return Ok(in_version(kind, stored.value()));
                }
                Err(StoreError::Exists) if generated => {
                    metadata::set(&mut object, "name", random_name(&prefix).into());
                }
                Err(StoreError::Exists) => {
                    return Err(ApiError::already_exists(&kind.group, &kind.plural, &name));
                }
                Err(error) => return Err(storage_failed(&error)),
            }
        }
        Err(ApiError::already_exists(&kind.group, &kind.plural, &prefix))
    }

    /// `PUT` of an object or its status.
    pub(super) async fn replace(
        &self,
        context: &mut Context,
        mut object: Value,
        part: Part,
    ) -> Result<Value, ApiError> {
        body::expect(&context.kind, &mut object)?;
        self.read_object(
            &context.kind,
            FieldValidation::of(&context.query),
            &mut object,
            &mut context.warnings,
        )?;
        let dry_run = context.dry_run("UpdateOptions")?;
        let author = context.author("UpdateOptions")?;
        let name = context.target.name.clone();
        check_name(&mut object, &name)?;
        let namespace = context.namespace().to_owned();
        check_namespace(&context.kind, &namespace, &mut object)?;
        if context.kind.schema.is_some() && metadata::text(&object, "resourceVersion").is_empty() {
            // Custom resources are never written blindly; but what is missing is told first.
            if self.store().get(&context.key()).is_none() {
                return Err(context.not_found());
            }
            return Err(context.invalid(
                &name,
                &[FieldError {
                    field: "metadata.resourceVersion".to_owned(),
                    reason: "FieldValueInvalid",
                    detail: "Invalid value: 0: must be specified for an update".to_owned(),
                }],
            ));
        }
        let update = Update {
            kind: &context.kind,
            user: &context.user,
            namespace: &namespace,
            name: &name,
            part,
            dry_run,
            retry: metadata::text(&object, "resourceVersion").is_empty(),
            claim: Claim::Write(author.as_ref()),
        };
        self.update(&update, &mut context.warnings, |_| Ok(object.clone()))
            .await
    }

    /// `PATCH` of an object or its status.
    pub(super) async fn patch(
        &self,
        context: &mut Context,
        patch: &[u8],
        part: Part,
    ) -> Result<Value, ApiError> {
        let content_type = context
            .headers
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let form = PatchType::from_content_type(&context.kind, content_type)?;
        context.check_patch_options(form)?;
        let dry_run = context.dry_run("PatchOptions")?;
        let author = context.author("PatchOptions")?;
        let namespace = context.namespace().to_owned();
        let (kind, name) = (context.kind.clone(), context.target.name.clone());
        let update = Update {
            kind: &kind,
            user: &context.user,
            namespace: &namespace,
            name: &name,
            part,
            dry_run,
            retry: true,
            claim: Claim::Write(author.as_ref()),
        };
        let validation = FieldValidation::of(&context.query);
        // Each attempt tells anew.
        let told = Mutex::new(Vec::new());
        let patched = self
            .update(&update, &mut context.warnings, |current| {
                let mut object = patch::apply(&kind, form, patch, current)?;
                let mut warnings = Vec::new();
                self.read_patched(&kind, validation, (form, patch), &mut object, &mut warnings)?;
                *told.lock().unwrap_or_else(PoisonError::into_inner) = warnings;
                if let Some(field) = metadata::wrong_type(&object) {
                    return Err(ApiError::bad_request(format!(
                        "json: cannot unmarshal value into Go struct field ObjectMeta.{field}"
                    )));
                }
                check_name(&mut object, &name)?;
                check_namespace(&kind, &namespace, &mut object)?;
                for field in ["uid", "creationTimestamp"] {
                    let (old, new) = (metadata::get(current, field), metadata::get(&object, field));
                    if field == "uid" && old != new && !new.is_null() {
                        let detail = format!("Invalid value: {new}: field is immutable");
                        let fault = FieldError {
                            field: format!("metadata.{field}"),
                            reason: "FieldValueInvalid",
                            detail,
                        };
                        return Err(ApiError::invalid(&kind.group, &kind.kind, &name, &[fault]));
                    }
                }
                Ok(object)
            })
            .await?;
        let told = told.into_inner().unwrap_or_else(PoisonError::into_inner);
        context.warnings.extend(told);
        Ok(patched)
    }

    /// Reads, changes and writes an object, again and again while others do too. Without a change nothing is written.
    pub(super) async fn update(
        &self,
        update: &Update<'_>,
        warnings: &mut Vec<String>,
        change: impl Fn(&Value) -> Result<Value, ApiError>,
    ) -> Result<Value, ApiError> {
        let Update { kind, name, .. } = *update;
        let key = Key::new(&kind.storage_key(), update.namespace, name);
        let modified = || {
            ApiError::conflict(
                &kind.group,
                &kind.plural,
                name,
                "the object has been modified; please apply your changes to the latest version and try again",
            )
        };
        for _ in 0..TRIES {
            let stored = self
                .store()
                .get(&key)
                .ok_or_else(|| ApiError::not_found(&kind.group, &kind.plural, name))?;
            let current = in_version(kind, stored.value());
            let new = change(&current)?;
            let version = metadata::text(&new, "resourceVersion");
            if !version.is_empty() && version.parse() != Ok(stored.revision) {
                if version.parse::<u64>().is_err() {
                    return Err(ApiError::new(
                        500,
                        "",
                        format!("strconv.ParseUint: parsing {version:?}: invalid syntax"),
                    ));
                }
                return Err(modified());
            }
            check_uid(kind, &key, &current, &new)?;
            let mut told = Vec::new();
            let new = self.prepare_update(update, &current, new, &mut told)?;
            let gone = delete::may_go(kind, &new);
            if !gone
                && same_but_for_times(
                    &without_version(&new),
                    &without_version(&metadata::arrange(kind, current.clone())),
                )
            {
                warnings.extend(told);
                return Ok(current);
            }
            if update.dry_run {
                warnings.extend(told);
                return Ok(in_version(kind, new));
            }
            let written = if gone {
                self.store()
                    .write(
                        key.clone(),
                        Expect::Revision(stored.revision),
                        Change::Delete,
                    )
                    .await
            } else {
                let document = Change::Put(Document::new(&new));
                self.store()
                    .write(key.clone(), Expect::Revision(stored.revision), document)
                    .await
            };
            match written {
                Ok(stored) => {
                    warnings.extend(told);
                    self.written(kind, &stored).await;
                    if gone {
                        self.gone(kind).await;
                        return Ok(in_version(kind, new));
                    }
                    return Ok(in_version(kind, stored.value()));
                }
                Err(StoreError::Conflict | StoreError::Missing) if update.retry => {}
                Err(StoreError::Conflict) => return Err(modified()),
                Err(StoreError::Missing) => {
                    return Err(ApiError::not_found(&kind.group, &kind.plural, name));
                }
                Err(error) => return Err(storage_failed(&error)),
            }
        }
        Err(modified())
    }

    /// The object as it will be stored: with what the client may not change put back, defaults filled, and judged.
    fn prepare_update(
        &self,
        update: &Update<'_>,
        current: &Value,
        mut new: Value,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let kind = update.kind;
        for field in [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "generateName",
            "name",
            "namespace",
        ] {
            if update.part != Part::System
                || !field.starts_with("deletion") && field != "generation"
            {
                metadata::set(&mut new, field, metadata::get(current, field));
            }
        }
        let sent = metadata::get(&new, "managedFields");
        let status = |object: &Value| object.get("status").cloned();
        let put_status = |object: &mut Value, status: Option<Value>| {
            if let Some(fields) = object.as_object_mut() {
                match status {
                    Some(status) => fields.insert("status".to_owned(), status),
                    None => fields.remove("status"),
                };
            }
        };
        match update.part {
            Part::Main => {
                if let Some(schema) = &kind.schema {
                    prune(schema, &mut new, warnings);
                    schema.default(&mut new);
                }
                if kind.status_subresource {
                    put_status(&mut new, status(current));
                }
            }
            Part::Status => {
                let mut only = current.clone();
                if let Some(schema) = &kind.schema {
                    prune(schema, &mut new, warnings);
                    schema.default(&mut new);
                } else {
                    // Built-in kinds let metadata through with the status.
                    for field in ["labels", "annotations", "finalizers"] {
                        metadata::set(&mut only, field, metadata::get(&new, field));
                    }
                }
                put_status(&mut only, status(&new));
                new = only;
            }
            Part::System => {}
        }
        (kind.strategy.default)(&mut new);
        self.claim(update, Some(current), &mut new, sent);
        if update.part == Part::Main {
            (kind.strategy.prepare_update)(&mut new, current);
        }
        let mut new = metadata::arrange(kind, new);
        if update.part == Part::Main
            && (kind.generation || kind.schema.is_some())
            && substance(kind, &new) != substance(kind, current)
        {
            let generation = metadata::get(current, "generation").as_i64().unwrap_or(0) + 1;
            metadata::set(&mut new, "generation", generation.into());
            new = metadata::arrange(kind, new);
        }
        self.admit_update(kind, update, current, &mut new, warnings)?;
        let mut faults = metadata::validate(kind, &new);
        if !metadata::get(&new, "deletionTimestamp").is_null() {
            let old = metadata::finalizers(current);
            let added: Vec<String> = metadata::finalizers(&new)
                .into_iter()
                .filter(|finalizer| !old.contains(finalizer))
                .collect();
            if !added.is_empty() && update.part != Part::System {
                let listed: Vec<String> = added.iter().map(|name| format!("{name:?}")).collect();
                faults.push(FieldError {
                    field: "metadata.finalizers".to_owned(),
                    reason: "FieldValueForbidden",
                    detail: format!(
                        "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                        listed.join(", ")
                    ),
                });
            }
        }
        if update.part == Part::Main {
            faults.extend((kind.strategy.validate)(&new, Some(current)));
        }
        if let Some(schema) = &kind.schema {
            faults.extend(schema.validate(&new));
        }
        refuse(kind, &new, &faults)?;
        Ok(new)
    }

    /// What follows from a write that has happened.
    pub(super) async fn written(&self, kind: &Kind, stored: &Stored) {
        let _ = stored;
        if kind.storage_key() == "clusterroles.rbac.authorization.k8s.io" {
            self.aggregate_roles().await;
        }
    }
}

fn refuse(kind: &Kind, object: &Value, faults: &[FieldError]) -> Result<(), ApiError> {
    if faults.is_empty() {
        return Ok(());
    }
    let name = metadata::text(object, "name");
    Err(ApiError::invalid(&kind.group, &kind.kind, name, faults))
}

fn prune(schema: &crate::schema::Schema, object: &mut Value, warnings: &mut Vec<String>) {
    for path in schema.prune(object) {
        warnings.push(format!("unknown field {path:?}"));
    }
}

/// What counts for the generation.
fn substance(kind: &Kind, object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("metadata");
        fields.remove("apiVersion");
        if kind.status_subresource || kind.schema.is_none() {
            fields.remove("status");
        }
    }
    object
}

fn without_version(object: &Value) -> Value {
    let mut object = object.clone();
    metadata::set(&mut object, "resourceVersion", Value::Null);
    object
}

pub(super) fn check_name(object: &mut Value, name: &str) -> Result<(), ApiError> {
    let given = metadata::text(object, "name").to_owned();
    if given.is_empty() {
        metadata::set(object, "name", name.into());
    } else if given != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    Ok(())
}

pub(super) fn check_namespace(
    kind: &Kind,
    namespace: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    let given = metadata::text(object, "namespace").to_owned();
    if !kind.namespaced {
        metadata::set(object, "namespace", Value::Null);
        return Ok(());
    }
    if given.is_empty() {
        metadata::set(object, "namespace", namespace.into());
    } else if given != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

fn check_uid(kind: &Kind, key: &Key, current: &Value, new: &Value) -> Result<(), ApiError> {
    let (old, new) = (metadata::text(current, "uid"), metadata::text(new, "uid"));
    if new.is_empty() || new == old {
        return Ok(());
    }
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: /registry/{}/{}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {new}, UID in object meta: {old}",
        kind.plural, key.path
    );
    let name = metadata::text(current, "name");
    Err(ApiError::conflict(&kind.group, &kind.plural, name, &why))
}

fn random_name(prefix: &str) -> String {
    let start: String = prefix.chars().take(LONGEST_PREFIX).collect();
    let end: String = (0..5)
        .map(|_| {
            let index = usize::from(rand::random::<u8>()) % ALPHABET.len();
            ALPHABET.get(index).copied().map_or('x', char::from)
        })
        .collect();
    format!("{start}{end}")
}

/// The Status of a deletion that is complete.
pub(super) fn success(kind: &Kind, object: &Value) -> Value {
    let mut details = json!({"name": metadata::text(object, "name")});
    if !kind.group.is_empty() {
        details["group"] = kind.group.clone().into();
    }
    details["kind"] = kind.plural.clone().into();
    details["uid"] = metadata::text(object, "uid").into();
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    })
}
