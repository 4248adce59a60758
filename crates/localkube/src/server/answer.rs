//! In which form an answer goes out: JSON or YAML, the object itself, a Table, or its metadata alone.

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use crate::connect::{Body, full};
use crate::kind::Kind;
use crate::status::ApiError;
use crate::table::{self, IncludeObject};

use super::path::Query;

/// How bytes are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Json,
    Yaml,
}

/// Which view of an object was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    Whole,
    Table(IncludeObject),
    Metadata,
}

/// What the client takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Form {
    pub format: Format,
    pub view: View,
    pub pretty: bool,
}

impl Form {
    /// Plain JSON: what errors are written in.
    pub const JSON: Form = Form {
        format: Format::Json,
        view: View::Whole,
        pretty: false,
    };

    /// Reads `Accept` and the query.
    ///
    /// # Errors
    /// 406 when nothing of what is accepted can be written.
    pub fn negotiate(headers: &HeaderMap, query: &Query) -> Result<Form, ApiError> {
        let pretty = match query.get("pretty") {
            Some(text) => !matches!(text, "false" | "0"),
            None => headers
                .get(USER_AGENT)
                .and_then(|agent| agent.to_str().ok())
                .is_some_and(|agent| {
                    ["curl", "Wget", "Mozilla/"]
                        .iter()
                        .any(|start| agent.starts_with(start))
                }),
        };
        let include = match query.get("includeObject") {
            Some("None") => IncludeObject::None,
            Some("Object") => IncludeObject::Object,
            _ => IncludeObject::Metadata,
        };
        let accept = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect::<Vec<_>>()
            .join(",");
        if accept.trim().is_empty() {
            return Ok(Form {
                pretty,
                ..Form::JSON
            });
        }
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let format = match parts.next().unwrap_or_default() {
                "application/json" | "*/*" | "application/*" => Format::Json,
                "application/yaml" => Format::Yaml,
                _ => continue,
            };
            let (mut kind, mut group, mut version) = ("", "", "");
            for parameter in parts {
                match parameter.split_once('=') {
                    Some(("as", value)) => kind = value,
                    Some(("g", value)) => group = value,
                    Some(("v", value)) => version = value,
                    _ => {}
                }
            }
            let view = match (kind, group, version) {
                ("", _, _) => View::Whole,
                ("Table", "meta.k8s.io", "v1") => View::Table(include),
                ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
                    View::Metadata
                }
                _ => continue,
            };
            return Ok(Form {
                format,
                view,
                pretty,
            });
        }
        Err(ApiError::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json, application/yaml",
        ))
    }

    /// The bytes of a document.
    pub fn write(self, value: &Value) -> Bytes {
        match self.format {
            Format::Yaml => serde_saphyr::to_string(value).unwrap_or_default().into(),
            Format::Json => {
                let mut json = if self.pretty {
                    serde_json::to_vec_pretty(value)
                } else {
                    serde_json::to_vec(value)
                }
                .unwrap_or_default();
                json.push(b'\n');
                json.into()
            }
        }
    }

    /// One object of a kind, in the view that was asked for.
    pub fn view_object(self, kind: &Kind, object: Value, now: jiff::Timestamp) -> Value {
        match self.view {
            View::Whole => object,
            View::Metadata => metadata_only(&object),
            View::Table(include) => {
                let metadata =
                    json!({"resourceVersion": object.pointer("/metadata/resourceVersion")});
                table::render(kind, &[object], &metadata, include, now)
            }
        }
    }

    /// A list of objects of a kind, in the view that was asked for.
    pub fn view_list(
        self,
        kind: &Kind,
        objects: Vec<Value>,
        metadata: Value,
        now: jiff::Timestamp,
    ) -> Value {
        match self.view {
            View::Whole => json!({
                "kind": kind.list_kind, "apiVersion": kind.api_version(),
                "metadata": metadata, "items": objects,
            }),
            View::Metadata => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": objects.iter().map(metadata_only).collect::<Vec<_>>(),
            }),
            View::Table(include) => table::render(kind, &objects, &metadata, include, now),
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self.format {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
        })
    }

    /// An answer with these bytes.
    pub fn answer(self, code: StatusCode, bytes: Bytes) -> Response<Body> {
        let mut response = Response::new(full(bytes));
        *response.status_mut() = code;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, self.content_type());
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        response
    }

    /// An answer with this document.
    pub fn document(self, code: StatusCode, value: &Value) -> Response<Body> {
        self.answer(code, self.write(value))
    }

    /// An error, as its Status.
    pub fn refuse(self, error: &ApiError) -> Response<Body> {
        let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        self.document(code, &error.to_status())
    }
}

/// Adds `Warning` headers (RFC 9110's predecessor RFC 7234 §5.5, code 299).
pub(super) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
}

fn metadata_only(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata"),
    })
}
