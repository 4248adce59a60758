//! Delete: at once, gracefully, or when the last finalizer is gone.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::connect::Body;
use crate::identity::User;
use crate::kind::Kind;
use crate::registry::DEFINITIONS;
use crate::status::ApiError;
use crate::store::{Change, Document, Expect, Key, StoreError, prefix};

use super::context::{Context, in_version, options_fault};
use super::write::{storage_failed, success, time};
use super::{Api, body, metadata};

const TRIES: usize = 8;
/// Resources whose deletion waits for a node to confirm it.
const GRACEFUL: &str = "pods";
/// Kinds that answer a deletion with the object.
const RETURNED: [&str; 12] = [
    "csidrivers.storage.k8s.io",
    "csinodes.storage.k8s.io",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
    "storageclasses.storage.k8s.io",
    "volumeattachments.storage.k8s.io",
    "volumeattributesclasses.storage.k8s.io",
];
/// Namespaces that a cluster cannot do without.
const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];
pub(super) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// What of DeleteOptions counts.
#[derive(Clone, Debug, Default)]
pub(super) struct DeleteOptions {
    pub grace: Option<i64>,
    pub uid: Option<String>,
    pub version: Option<String>,
    pub propagation: Option<String>,
    pub dry_run: bool,
}

/// What a deletion came to.
pub(super) enum Outcome {
    Gone(Value),
    /// It goes later; the object says when.
    Pending(Value),
}

/// Whether an object that is being deleted has nothing left to wait for.
pub(super) fn may_go(kind: &Kind, object: &Value) -> bool {
    if metadata::get(object, "deletionTimestamp").is_null()
        || !metadata::finalizers(object).is_empty()
    {
        return false;
    }
    if kind.storage_key() == "namespaces" && has_spec_finalizers(object) {
        return false;
    }
    kind.storage_key() != GRACEFUL
        || metadata::get(object, "deletionGracePeriodSeconds")
            .as_i64()
            .unwrap_or(0)
            == 0
}

fn has_spec_finalizers(object: &Value) -> bool {
    object
        .pointer("/spec/finalizers")
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty())
}

impl DeleteOptions {
    /// From the body, or else from the query.
    pub fn read(context: &Context, bytes: &[u8]) -> Result<DeleteOptions, ApiError> {
        let mut options = DeleteOptions {
            dry_run: context.dry_run("DeleteOptions")?,
            ..DeleteOptions::default()
        };
        if bytes.is_empty() {
            options.grace = context.query.number("gracePeriodSeconds")?;
            options.propagation = context
                .query
                .get("propagationPolicy")
                .filter(|text| !text.is_empty())
                .map(str::to_owned);
            if context.query.get("orphanDependents").is_some() {
                options.orphan(context.query.flag("orphanDependents"));
            }
        } else {
            let document = body::parse(&context.headers, bytes, "DeleteOptions")?;
            let text = |path: &str| {
                document
                    .pointer(path)
                    .and_then(Value::as_str)
                    .map(str::to_owned)
            };
            options.grace = document.get("gracePeriodSeconds").and_then(Value::as_i64);
            options.uid = text("/preconditions/uid");
            options.version = text("/preconditions/resourceVersion");
            options.propagation = text("/propagationPolicy");
            if let Some(orphan) = document.get("orphanDependents").and_then(Value::as_bool) {
                options.orphan(orphan);
            }
            options.dry_run |= document
                .get("dryRun")
                .and_then(Value::as_array)
                .is_some_and(|list| list.iter().any(|value| value == "All"));
        }
        if let Some(policy) = &options.propagation
            && !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan")
        {
            return Err(options_fault(
                "DeleteOptions",
                "propagationPolicy",
                "FieldValueNotSupported",
                format!(
                    "Unsupported value: {policy:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                ),
            ));
        }
        Ok(options)
    }

    fn orphan(&mut self, orphan: bool) {
        let policy = if orphan { "Orphan" } else { "Background" };
        self.propagation.get_or_insert_with(|| policy.to_owned());
    }

    fn check(&self, kind: &Kind, current: &Value) -> Result<(), ApiError> {
        let name = metadata::text(current, "name");
        let conflict = |why: String| ApiError::conflict(&kind.group, &kind.kind, name, &why);
        let uid = metadata::text(current, "uid");
        if let Some(wanted) = self.uid.as_deref().filter(|wanted| *wanted != uid) {
            return Err(conflict(format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
            )));
        }
        let version = metadata::text(current, "resourceVersion");
        if let Some(wanted) = self.version.as_deref().filter(|wanted| *wanted != version) {
            return Err(conflict(format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
            )));
        }
        Ok(())
    }

    /// How long a Pod gets.
    fn grace_of(&self, current: &Value) -> i64 {
        let asked = self.grace.unwrap_or_else(|| {
            current
                .pointer("/spec/terminationGracePeriodSeconds")
                .and_then(Value::as_i64)
                .unwrap_or(30)
        });
        let text = |path: &str| current.pointer(path).and_then(Value::as_str).unwrap_or("");
        if text("/spec/nodeName").is_empty()
            || matches!(text("/status/phase"), "Succeeded" | "Failed")
        {
            return 0;
        }
        asked.max(0)
    }
}

impl Api {
    /// `DELETE` of one object.
    pub(super) async fn delete(
        &self,
        context: &mut Context,
        bytes: &[u8],
    ) -> Result<Response<Body>, ApiError> {
        let options = DeleteOptions::read(context, bytes)?;
        let (kind, key) = (context.kind.clone(), context.key());
        let outcome = self
            .remove(&kind, &context.user, &key, &context.target.name, &options)
            .await?;
        Ok(match outcome {
            Outcome::Gone(object) if !RETURNED.contains(&kind.storage_key().as_str()) => context
                .form
                .document(StatusCode::OK, &success(&kind, &object)),
            Outcome::Gone(object) | Outcome::Pending(object) => {
                context.object(StatusCode::OK, object)
            }
        })
    }

    /// `DELETE` of a collection: answers with what was deleted.
    pub(super) async fn delete_collection(
        &self,
        context: &mut Context,
        bytes: &[u8],
    ) -> Result<Response<Body>, ApiError> {
        let options = DeleteOptions::read(context, bytes)?;
        let selector = context.selector()?;
        let kind = context.kind.clone();
        let page = self
            .store()
            .list(
                &kind.storage_key(),
                &prefix(context.namespace()),
                None,
                None,
                None,
            )
            .map_err(|error| storage_failed(&error))?;
        let mut objects = Vec::new();
        for (path, stored) in page.items {
            let object = stored.value();
            if !selector.is_empty() && !selector.matches(&object) {
                continue;
            }
            let key = Key {
                resource: kind.storage_key().into(),
                path,
            };
            let name = metadata::text(&object, "name").to_owned();
            match self
                .remove(&kind, &context.user, &key, &name, &options)
                .await
            {
                Ok(_) => objects.push(in_version(&kind, object)),
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let metadata = json!({"resourceVersion": self.store().revision().to_string()});
        let value = context
            .form
            .view_list(&kind, objects, metadata, context.now);
        Ok(context.form.document(StatusCode::OK, &value))
    }

    /// Deletes one object, or marks it to be deleted.
    pub(super) async fn remove(
        &self,
        kind: &Arc<Kind>,
        user: &User,
        key: &Key,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Outcome, ApiError> {
        if kind.storage_key() == "namespaces" && IMMORTAL.contains(&name) {
            return Err(ApiError::forbidden(
                &kind.group,
                &kind.plural,
                name,
                "this namespace may not be deleted",
            ));
        }
        let _ = user;
        let missing = || ApiError::not_found(&kind.group, &kind.plural, name);
        for _ in 0..TRIES {
            let stored = self.store().get(key).ok_or_else(missing)?;
            let current = stored.value();
            options.check(kind, &current)?;
            let mut new = current.clone();
            let marked = !metadata::get(&current, "deletionTimestamp").is_null();
            let graceful = kind.storage_key() == GRACEFUL;
            let mut grace = if graceful {
                options.grace_of(&current)
            } else {
                0
            };
            if marked && graceful {
                // A second deletion can only shorten what the first one gave.
                let given = metadata::get(&current, "deletionGracePeriodSeconds")
                    .as_i64()
                    .unwrap_or(0);
                grace = match options.grace {
                    Some(_) => grace.min(given),
                    None => given,
                };
            }
            let mut finalizers = metadata::finalizers(&new);
            let wanted = match options.propagation.as_deref() {
                Some("Orphan") => Some("orphan"),
                Some("Foreground") => Some("foregroundDeletion"),
                _ => None,
            };
            if options.propagation.is_some() {
                finalizers.retain(|name| name != "orphan" && name != "foregroundDeletion");
            }
            finalizers.extend(wanted.map(str::to_owned));
            if kind.storage_key() == DEFINITIONS
                && !finalizers.iter().any(|name| name == CLEANUP)
                && !marked
            {
                finalizers.push(CLEANUP.to_owned());
            }
            metadata::set(&mut new, "finalizers", json!(finalizers));
            if !marked || graceful {
                let seconds = u64::try_from(grace).unwrap_or(0);
                let end = self
                    .now()
                    .checked_add(
                        SignedDuration::try_from(Duration::from_secs(seconds)).unwrap_or_default(),
                    )
                    .unwrap_or_else(|_| self.now());
                let before = metadata::get(&current, "deletionGracePeriodSeconds").as_i64();
                if !marked || before != Some(grace) {
                    metadata::set(&mut new, "deletionTimestamp", time(end));
                    metadata::set(&mut new, "deletionGracePeriodSeconds", grace.into());
                }
            }
            if !marked {
                if let Some(generation) = metadata::get(&current, "generation").as_i64() {
                    metadata::set(&mut new, "generation", (generation + 1).into());
                }
                if kind.storage_key() == "namespaces" {
                    new["status"]["phase"] = "Terminating".into();
                }
            }
            let new = metadata::arrange(kind, new);
            let gone = may_go(kind, &new);
            if options.dry_run {
                return Ok(if gone {
                    Outcome::Gone(in_version(kind, new))
                } else {
                    Outcome::Pending(in_version(kind, new))
                });
            }
            if !gone && new == metadata::arrange(kind, current.clone()) {
                return Ok(Outcome::Pending(in_version(kind, current)));
            }
            let change = if gone {
                Change::Delete
            } else {
                Change::Put(Document::new(&new))
            };
            match self
                .store()
                .write(key.clone(), Expect::Revision(stored.revision), change)
                .await
            {
                Ok(stored) if gone => {
                    self.gone(kind).await;
                    let _ = stored;
                    return Ok(Outcome::Gone(in_version(kind, new)));
                }
                Ok(stored) => {
                    if kind.storage_key() == DEFINITIONS {
                        self.remove_instances(name).await;
                    }
                    return Ok(Outcome::Pending(in_version(kind, stored.value())));
                }
                Err(StoreError::Conflict) => {}
                Err(StoreError::Missing) => return Err(missing()),
                Err(error) => return Err(storage_failed(&error)),
            }
        }
        Err(ApiError::conflict(
            &kind.group,
            &kind.plural,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        ))
    }

    /// Deletes the instances of a definition that is being deleted, then lets the definition go. What has
    /// finalizers of its own keeps the definition until they are gone.
    async fn remove_instances(&self, definition: &str) {
        let kinds = self.kinds();
        let instances = kinds
            .all()
            .iter()
            .find(|kind| kind.schema.is_some() && kind.storage_key() == definition)
            .cloned();
        if let Some(kind) = instances {
            let page = self
                .store()
                .list(definition, "", None, None, None)
                .unwrap_or_default();
            for (path, stored) in page.items {
                let key = Key {
                    resource: definition.into(),
                    path,
                };
                let object = stored.value();
                let name = metadata::text(&object, "name");
                let removed = Box::pin(self.remove(
                    &kind,
                    &User::default(),
                    &key,
                    name,
                    &DeleteOptions::default(),
                ))
                .await;
                if let Err(error) = removed
                    && error.code != 404
                {
                    tracing::warn!(definition, name, error = error.message, "instance stays");
                }
            }
        }
        self.finish_definition(definition).await;
    }

    /// What follows when an object of a kind is gone.
    pub(super) async fn gone(&self, kind: &Kind) {
        if kind.schema.is_some() {
            self.finish_definition(&kind.storage_key()).await;
        }
    }

    /// Lets a definition go that is being deleted and has no instances left.
    async fn finish_definition(&self, definition: &str) {
        let key = Key::new(DEFINITIONS, "", definition);
        for _ in 0..TRIES {
            let Some(stored) = self.store().get(&key) else {
                return;
            };
            let mut object = stored.value();
            let empty = self
                .store()
                .list(definition, "", None, None, Some(1))
                .is_ok_and(|page| page.items.is_empty());
            if metadata::get(&object, "deletionTimestamp").is_null() || !empty {
                return;
            }
            let mut finalizers = metadata::finalizers(&object);
            finalizers.retain(|name| name != CLEANUP);
            let change = if finalizers.is_empty() {
                Change::Delete
            } else {
                metadata::set(&mut object, "finalizers", json!(finalizers));
                Change::Put(Document::new(&object))
            };
            match self
                .store()
                .write(key.clone(), Expect::Revision(stored.revision), change)
                .await
            {
                Err(StoreError::Conflict) => {}
                _ => return,
            }
        }
    }
}
