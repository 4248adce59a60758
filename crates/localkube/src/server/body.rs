//! Request bodies: their size, their format, and whether they are of the kind that the path says.

mod protobuf;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::connect::Body;
use crate::kind::Kind;
use crate::status::ApiError;

/// Most bytes of a request body.
const LIMIT: usize = 3 << 20;

/// Collects a body.
///
/// # Errors
/// 413 when it is longer than 3 MiB; 400 when the client stops sending.
pub(super) async fn collect(mut body: Body) -> Result<Bytes, ApiError> {
    let mut collected = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| ApiError::bad_request(format!("read the body: {error}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if collected.len() + data.len() > LIMIT {
            return Err(ApiError::new(
                413,
                "RequestEntityTooLarge",
                format!("Request entity too large: limit is {LIMIT}"),
            ));
        }
        collected.extend_from_slice(&data);
    }
    Ok(collected.into())
}

/// The media type of the body, without parameters; JSON if none is given.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map_or("application/json", str::trim)
        .to_owned()
}

fn unsupported() -> ApiError {
    ApiError::new(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml",
    )
}

/// Parses a JSON or YAML document, or protobuf as far as it is known.
///
/// # Errors
/// 415 for other formats; 400 for what does not parse.
pub(super) fn parse(headers: &HeaderMap, bytes: &[u8], expected: &str) -> Result<Value, ApiError> {
    let unreadable = |format: &str, error: &str| {
        let sample: String = if bytes.is_empty() {
            "<empty>".to_owned()
        } else {
            String::from_utf8_lossy(bytes).chars().take(100).collect()
        };
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {expected}): couldn't get version/kind; {format} parse error: {error} ({sample})"
        ))
    };
    match media_type(headers).as_str() {
        "application/json" | "" => serde_json::from_slice(bytes).map_err(|error| {
            let text = if error.is_eof() {
                "unexpected end of JSON input".to_owned()
            } else {
                error.to_string()
            };
            unreadable("json", &text)
        }),
        "application/yaml" => {
            serde_saphyr::from_slice(bytes).map_err(|error| unreadable("yaml", &error.to_string()))
        }
        "application/vnd.kubernetes.protobuf" => protobuf::decode(bytes).ok_or_else(unsupported),
        _ => Err(unsupported()),
    }
}

/// Checks that a document is of a kind, and fills `kind` and `apiVersion` where they may be left out.
///
/// # Errors
/// 400 in Kubernetes' words.
pub(super) fn expect(kind: &Kind, document: &mut Value) -> Result<(), ApiError> {
    let Some(fields) = document.as_object_mut() else {
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: json: cannot unmarshal into Go value of type struct",
            kind.kind
        )));
    };
    let want_version = kind.api_version();
    let text = |name: &str| {
        fields
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (mut given_kind, mut given_version) = (text("kind"), text("apiVersion"));
    if kind.schema.is_some() {
        for (field, given) in [("Kind", &given_kind), ("apiVersion", &given_version)] {
            if given.is_empty() {
                return Err(ApiError::bad_request(format!(
                    "Object '{field}' is missing in '{}'",
                    Value::Object(fields.clone())
                )));
            }
        }
    }
    if given_kind.is_empty() {
        given_kind.clone_from(&kind.kind);
    }
    if given_version.is_empty() {
        given_version.clone_from(&want_version);
    }
    if given_kind != kind.kind {
        return Err(ApiError::bad_request(if kind.schema.is_some() {
            format!(
                "{given_kind} in version {:?} cannot be handled as a {}",
                kind.version, kind.kind
            )
        } else {
            let (_, version) = given_version
                .split_once('/')
                .unwrap_or(("", &given_version));
            format!(
                "{given_kind} in version {version:?} cannot be handled as a {}: converting ({version}.{given_kind}) to (core.{}): unknown conversion",
                kind.kind, kind.kind
            )
        }));
    }
    if given_version != want_version {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({given_version}) does not match the expected API version ({want_version})"
        )));
    }
    if let Some(field) = super::metadata::wrong_type(document) {
        let version = &kind.version;
        return Err(ApiError::bad_request(format!(
            "{} in version {version:?} cannot be handled as a {}: json: cannot unmarshal value into Go struct field ObjectMeta.{field}",
            kind.kind, kind.kind
        )));
    }
    if let Some(fields) = document.as_object_mut() {
        fields.insert("kind".to_owned(), given_kind.into());
        fields.insert("apiVersion".to_owned(), given_version.into());
    }
    Ok(())
}
