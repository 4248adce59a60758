//! `/kapis/cluster.kubesphere.io/v1alpha1`: what the original answers about Clusters, to the letter (multicluster.md §4).

use axum::{body::Body, response::Response};
use http::{HeaderMap, StatusCode, header};
use kah_api::cluster::Trust;
use kah_cluster::{tower::TowerError, validation};
use serde_json::Value;

use crate::{
    answer::{self, handler_error},
    gateway::{Arrived, Inner},
    receive::{WITHIN, receive},
};

/// A kubeconfig with room to spare.
const LARGEST_BODY: usize = 1024 * 1024;

impl Inner {
    /// `POST clusters/validation`
    pub(crate) async fn validate_cluster(&self, mut arrived: Arrived) -> Response {
        let headers = arrived.parts.headers.clone();
        let host = match self.host() {
            Ok(host) => host,
            Err(status) => return arrived.refuse(&status),
        };
        let object = match object(&mut arrived, "v1alpha1.Cluster").await {
            Ok(object) => object,
            Err(words) => return handler_error(&headers, StatusCode::BAD_REQUEST, &words),
        };
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or("");
        let validated = validation::validate(
            host,
            &arrived.settings.guard,
            text("/metadata/name"),
            text("/spec/connection/type"),
            if text("/spec/trust") == Trust::Federated.as_str() {
                Trust::Federated
            } else {
                Trust::SharedSecret
            },
            text("/spec/connection/kubeconfig"),
        )
        .await;
        answered(&headers, validated)
    }

    /// `PUT clusters/{cluster}/kubeconfig`
    pub(crate) async fn replace_kubeconfig(&self, name: &str, mut arrived: Arrived) -> Response {
        let headers = arrived.parts.headers.clone();
        let host = match self.host() {
            Ok(host) => host,
            Err(status) => return arrived.refuse(&status),
        };
        let wanted = match object(&mut arrived, "v1alpha1.UpdateClusterRequest").await {
            Ok(wanted) => wanted,
            Err(words) => return handler_error(&headers, StatusCode::BAD_REQUEST, &words),
        };
        let kubeconfig = wanted.pointer("/kubeconfig").and_then(Value::as_str);
        let kubeconfig = kubeconfig.unwrap_or_default();
        let replaced =
            validation::replace_kubeconfig(host, &arrived.settings.guard, name, kubeconfig).await;
        if replaced.is_ok() {
            tracing::info!(
                by = arrived.caller.name,
                cluster = name,
                "replace a kubeconfig"
            );
        }
        answered(&headers, replaced)
    }

    /// `GET clusters/{cluster}/agent/deployment`
    pub(crate) async fn agent_deployment(&self, name: &str, arrived: Arrived) -> Response {
        let host = match self.host() {
            Ok(host) => host,
            Err(status) => return arrived.refuse(&status),
        };
        let (settings, headers) = (arrived.settings, arrived.parts.headers);
        match kah_cluster::tower::agent_deployment(host, &settings.tower, name).await {
            Ok(yaml) => answer::typed_text(StatusCode::OK, yaml),
            Err(error) => {
                let code = match error {
                    TowerError::Address(_) | TowerError::Api(_) => {
                        StatusCode::INTERNAL_SERVER_ERROR
                    }
                    _ => StatusCode::NOT_FOUND,
                };
                handler_error(&headers, code, &error.to_string())
            }
        }
    }
}

fn answered(headers: &HeaderMap, result: Result<(), validation::ValidationError>) -> Response {
    match result {
        Ok(()) => Response::new(Body::empty()),
        Err(error) => handler_error(headers, StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

/// The JSON object in a request's body, or the words of Go's decoder for why there is none. `kind` is the name of the type that is wanted.
async fn object(arrived: &mut Arrived, kind: &str) -> Result<Value, String> {
    check_content_type(&arrived.parts.headers)?;
    let body = std::mem::take(&mut arrived.body);
    let bytes = receive(body, LARGEST_BODY, WITHIN)
        .await
        .map_err(|error| error.to_string())?;
    decode(&bytes, kind)
}

fn check_content_type(headers: &HeaderMap) -> Result<(), String> {
    let given = headers.get(header::CONTENT_TYPE);
    let given = given.and_then(|value| value.to_str().ok()).unwrap_or("");
    let known = [
        "application/json",
        "application/json-patch+json",
        "application/merge-patch+json",
    ];
    if known.iter().any(|known| given.contains(known)) {
        return Ok(());
    }
    Err(format!(
        "[ServiceError:400] Unable to unmarshal content of type:{given}"
    ))
}

fn decode(bytes: &[u8], kind: &str) -> Result<Value, String> {
    let trimmed = bytes.trim_ascii();
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        if trimmed.is_empty() {
            return "EOF".to_owned();
        }
        if error.is_eof() {
            return "unexpected EOF".to_owned();
        }
        match trimmed.first() {
            Some(first) if !b"{[\"-0123456789tfn".contains(first) => {
                format!(
                    "invalid character {:?} looking for beginning of value",
                    char::from(*first)
                )
            }
            _ => format!(
                "invalid JSON in line {}, column {}",
                error.line(),
                error.column()
            ),
        }
    })?;
    let found = match &value {
        Value::Object(_) | Value::Null => None,
        Value::Array(_) => Some("array"),
        Value::String(_) => Some("string"),
        Value::Number(_) => Some("number"),
        Value::Bool(_) => Some("bool"),
    };
    match found {
        None => wrong_field(&value).map_or(Ok(value), Err),
        Some(found) => Err(format!(
            "json: cannot unmarshal {found} into Go value of type {kind}"
        )),
    }
}

/// The words for a field of another type than the one that is read.
fn wrong_field(value: &Value) -> Option<String> {
    const FIELDS: [(&str, &str, &str); 4] = [
        ("/metadata/name", "ObjectMeta.metadata.name", "string"),
        (
            "/spec/connection/type",
            "Connection.spec.connection.type",
            "v1alpha1.ConnectionType",
        ),
        (
            "/spec/connection/kubeconfig",
            "Connection.spec.connection.kubeconfig",
            "[]uint8",
        ),
        ("/kubeconfig", "UpdateClusterRequest.kubeconfig", "[]uint8"),
    ];
    FIELDS.iter().find_map(|(path, field, kind)| {
        let found = match value.pointer(path)? {
            Value::String(_) | Value::Null => return None,
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        Some(format!(
            "json: cannot unmarshal {found} into Go struct field {field} of type {kind}"
        ))
    })
}
