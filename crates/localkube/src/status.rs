//! Errors as Kubernetes answers them: `metav1.Status` with its reasons, details and exact words.

use serde_json::{Value, json};

/// One fault of one field, in the words of `k8s.io/apimachinery/pkg/util/validation/field`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// e.g. `spec.containers[0].image`.
    pub field: String,
    /// Machine reason: `FieldValueRequired`, `FieldValueInvalid`, `FieldValueNotSupported`, `FieldValueDuplicate`, `FieldValueForbidden`, `FieldValueTooLong`, `FieldValueTypeInvalid`, `FieldValueTooMany`, …
    pub reason: &'static str,
    /// Text after `field: `, e.g. `Required value` or `Invalid value: "x": must be …`.
    pub detail: String,
}

/// An answer other than success.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub code: u16,
    /// `metav1.StatusReason`, e.g. `NotFound`.
    pub reason: &'static str,
    pub message: String,
    /// `Status.details`, or Null.
    pub details: Value,
}

impl ApiError {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        ApiError {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    /// `qualified` is `pods` or `deployments.apps`.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let mut error = Self::new(
            404,
            "NotFound",
            format!("{} \"{name}\" not found", qualify(group, plural)),
        );
        error.details = details(name, group, plural);
        error
    }

    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        let mut error = Self::new(
            409,
            "AlreadyExists",
            format!("{} \"{name}\" already exists", qualify(group, plural)),
        );
        error.details = details(name, group, plural);
        error
    }

    pub fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let mut error = Self::new(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {} \"{name}\": {why}",
                qualify(group, plural)
            ),
        );
        error.details = details(name, group, plural);
        error
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let target = if name.is_empty() {
            format!("{} is forbidden: {why}", qualify(group, plural))
        } else {
            format!("{} \"{name}\" is forbidden: {why}", qualify(group, plural))
        };
        let mut error = Self::new(403, "Forbidden", target);
        error.details = details(name, group, plural);
        error
    }

    /// 422 with every fault listed. `kind` is the Kind name, e.g. `Pod`.
    pub fn invalid(group: &str, kind: &str, name: &str, faults: &[FieldError]) -> Self {
        let texts: Vec<String> = faults
            .iter()
            .map(|f| format!("{}: {}", f.field, f.detail))
            .collect();
        let joined = if texts.len() == 1 {
            texts[0].clone()
        } else {
            format!("[{}]", texts.join(", "))
        };
        let mut error = Self::new(
            422,
            "Invalid",
            format!("{} \"{name}\" is invalid: {joined}", qualify(group, kind)),
        );
        let mut details = details(name, group, kind);
        details["causes"] = faults
            .iter()
            .map(|f| json!({"reason": f.reason, "message": f.detail, "field": f.field}))
            .collect();
        error.details = details;
        error
    }

    pub fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(
            500,
            "InternalError",
            format!("Internal error occurred: {}", message.into()),
        )
    }

    /// The Status object, also used as the `object` of an ERROR watch event.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message,
        });
        // A fault without a reason is one that Kubernetes has no word for.
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status["code"] = self.code.into();
        status
    }
}

fn qualify(group: &str, plural: &str) -> String {
    if group.is_empty() {
        plural.to_owned()
    } else {
        format!("{plural}.{group}")
    }
}

fn details(name: &str, group: &str, kind: &str) -> Value {
    let mut details = serde_json::Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            details.insert(key.to_owned(), value.into());
        }
    }
    Value::Object(details)
}
