//! What every handler of a resource request knows.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::connect::Body;
use crate::identity::User;
use crate::kind::Kind;
use crate::status::{ApiError, FieldError};
use crate::store::{Key, Stored};

use super::answer::Form;
use super::path::{Query, Target};

/// A request for a kind that is served, by someone who may make it.
pub(super) struct Context {
    pub kind: Arc<Kind>,
    pub user: User,
    /// The request was made inside the process.
    pub in_process: bool,
    pub target: Target,
    pub query: Query,
    pub headers: HeaderMap,
    pub form: Form,
    pub now: jiff::Timestamp,
    pub warnings: Vec<String>,
}

impl Context {
    /// The namespace of the objects concerned; empty for all, and for kinds that have none.
    pub fn namespace(&self) -> &str {
        if self.kind.namespaced {
            &self.target.namespace
        } else {
            ""
        }
    }

    /// The key of the object that the path names.
    pub fn key(&self) -> Key {
        Key::new(
            &self.kind.storage_key(),
            self.namespace(),
            &self.target.name,
        )
    }

    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.kind.group, &self.kind.plural, &self.target.name)
    }

    pub fn invalid(&self, name: &str, faults: &[FieldError]) -> ApiError {
        ApiError::invalid(&self.kind.group, &self.kind.kind, name, faults)
    }

    /// A stored object in the version that was asked for.
    pub fn read(&self, stored: &Stored) -> Value {
        in_version(&self.kind, stored.value())
    }

    /// Whether the bytes of storage are the bytes of the answer.
    pub fn as_stored(&self) -> bool {
        self.kind.version == self.kind.storage_version
    }

    /// Whether nothing is to be kept.
    ///
    /// # Errors
    /// 422 for a `dryRun` that is not `All`.
    pub fn dry_run(&self, options: &str) -> Result<bool, ApiError> {
        let mut dry = false;
        for value in self.query.all("dryRun") {
            if value != "All" {
                return Err(options_fault(
                    options,
                    "dryRun",
                    "FieldValueNotSupported",
                    format!("Unsupported value: [{value:?}]: supported values: \"All\""),
                ));
            }
            dry = true;
        }
        Ok(dry)
    }

    /// An answer with one object of the kind.
    pub fn object(&mut self, code: StatusCode, object: Value) -> http::Response<Body> {
        let value = self.form.view_object(&self.kind, object, self.now);
        self.form.document(code, &value)
    }
}

/// Brings an object into the kind's version. Versions do not differ but in name (conversion strategy `None`).
pub(super) fn in_version(kind: &Kind, mut object: Value) -> Value {
    if kind.version != kind.storage_version
        && let Some(version) = object.get_mut("apiVersion")
    {
        *version = kind.api_version().into();
    }
    object
}

/// A fault of the options of a request.
pub(super) fn options_fault(
    options: &str,
    field: &str,
    reason: &'static str,
    detail: String,
) -> ApiError {
    ApiError::invalid(
        "meta.k8s.io",
        options,
        "",
        &[FieldError {
            field: field.to_owned(),
            reason,
            detail,
        }],
    )
}
