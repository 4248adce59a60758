//! Get and list.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::connect::Body;
use crate::kind::Kind;
use crate::selector::{FieldSelector, LabelSelector, Selector};
use crate::status::ApiError;
use crate::store::{Store, StoreError, Stored, prefix};

use super::answer::{Format, View};
use super::context::{Context, in_version, options_fault};

pub(super) const TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.";

/// Where a list goes on. The revision keeps its pages consistent.
#[derive(Serialize, Deserialize)]
struct Continue {
    v: String,
    rv: u64,
    start: String,
}

impl Context {
    /// Both selectors of the request.
    pub(super) fn selector(&self) -> Result<Selector, ApiError> {
        let text = |name: &str| self.query.get(name).unwrap_or_default();
        Ok(Selector {
            labels: LabelSelector::parse(text("labelSelector"))?,
            fields: FieldSelector::parse(&self.kind, text("fieldSelector"))?,
        })
    }

    /// `resourceVersion`; 0 counts as given.
    pub(super) fn resource_version(&self) -> Result<Option<u64>, ApiError> {
        match self.query.get("resourceVersion").filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!(
                    "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
                ))
            }),
        }
    }
}

/// A revision that is yet to come.
pub(super) fn too_large(asked: u64, current: u64) -> ApiError {
    let mut error = ApiError::new(
        504,
        "Timeout",
        format!("Too large resource version: {asked}, current: {current}"),
    );
    error.details = json!({
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    });
    error
}

/// `GET` of one object.
pub(super) fn get(store: &Store, context: &mut Context) -> Result<Response<Body>, ApiError> {
    let stored = store
        .get(&context.key())
        .ok_or_else(|| context.not_found())?;
    let form = context.form;
    if context.as_stored()
        && form.view == View::Whole
        && form.format == Format::Json
        && !form.pretty
    {
        let mut bytes = Vec::with_capacity(stored.bytes.len() + 1);
        bytes.extend_from_slice(&stored.bytes);
        bytes.push(b'\n');
        return Ok(form.answer(StatusCode::OK, bytes.into()));
    }
    let object = context.read(&stored);
    Ok(context.object(StatusCode::OK, object))
}

/// `GET` of a collection.
pub(super) fn list(store: &Store, context: &mut Context) -> Result<Response<Body>, ApiError> {
    let selector = context.selector()?;
    let limit = usize::try_from(context.query.number("limit")?.unwrap_or(0)).unwrap_or(0);
    let (at, after) = position(store, context)?;
    let prefix = prefix(context.namespace());
    let resource = context.kind.storage_key();
    let mut items: Vec<Stored> = Vec::new();
    let mut next = None;
    let mut remaining = None;
    // What is asked for lies under one path when a name is demanded, so only that is looked at.
    let page = match (selector.fields.name(), context.kind.namespaced) {
        (Some(name), namespaced) if !namespaced || !prefix.is_empty() => {
            let path = format!("{prefix}{name}");
            let mut page = store.list(&resource, &path, at, after.as_deref(), None);
            if let Ok(page) = &mut page {
                page.items.retain(|(known, _)| *known == path);
            }
            page
        }
        _ => {
            let most = (limit > 0 && selector.is_empty()).then_some(limit);
            store.list(&resource, &prefix, at, after.as_deref(), most)
        }
    }
    .map_err(|error| match error {
        StoreError::Expired { .. } if after.is_some() => ApiError::gone(TOO_OLD),
        StoreError::Expired { asked, oldest } => {
            ApiError::gone(format!("too old resource version: {asked} ({oldest})"))
        }
        other => ApiError::internal(other.to_string()),
    })?;
    let revision = page.revision;
    let mut left = page.remaining;
    let mut last = String::new();
    for (path, stored) in page.items {
        if !selector.is_empty() && !selector.matches(&stored.value()) {
            continue;
        }
        if limit > 0 && items.len() == limit {
            left += 1;
            // With a selector the rest is not counted.
            break;
        }
        last = path;
        items.push(stored);
    }
    if left > 0 {
        next = Some(token(revision, &last));
        remaining = selector.is_empty().then_some(left);
    }
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
    if let Some(next) = next {
        metadata.insert("continue".to_owned(), next.into());
    }
    if let Some(remaining) = remaining {
        metadata.insert("remainingItemCount".to_owned(), remaining.into());
    }
    let form = context.form;
    let bytes = if context.as_stored()
        && form.view == View::Whole
        && form.format == Format::Json
        && !form.pretty
    {
        join(&context.kind, &items, &Value::Object(metadata))
    } else {
        let objects = items
            .iter()
            .map(|stored| in_version(&context.kind, stored.value()))
            .collect();
        let value = form.view_list(&context.kind, objects, Value::Object(metadata), context.now);
        form.write(&value)
    };
    Ok(form.answer(StatusCode::OK, bytes))
}

/// The revision to read at, and the path after which to go on.
fn position(store: &Store, context: &Context) -> Result<(Option<u64>, Option<String>), ApiError> {
    let given = context.resource_version()?;
    let matching = context
        .query
        .get("resourceVersionMatch")
        .unwrap_or_default();
    let fault = |reason, detail: &str| {
        Err(options_fault(
            "ListOptions",
            "resourceVersionMatch",
            reason,
            detail.to_owned(),
        ))
    };
    match matching {
        "" => {}
        "Exact" | "NotOlderThan" if given.is_none() => {
            return fault(
                "FieldValueForbidden",
                "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            );
        }
        "Exact" if given == Some(0) => {
            return fault(
                "FieldValueForbidden",
                "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            );
        }
        "Exact" | "NotOlderThan" => {}
        other => {
            return fault(
                "FieldValueNotSupported",
                &format!(
                    "Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
                ),
            );
        }
    }
    if let Some(token) = context
        .query
        .get("continue")
        .filter(|text| !text.is_empty())
    {
        if given.is_some_and(|revision| revision != 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let invalid = || {
            ApiError::bad_request(
                "invalid continue token: continue key is not valid: it was not given by this server",
            )
        };
        let json = BASE64_URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|_| invalid())?;
        let token: Continue = serde_json::from_slice(&json).map_err(|_| invalid())?;
        let start = token.start.strip_prefix('/').ok_or_else(invalid)?;
        let after = start.strip_suffix('\0').unwrap_or(start);
        return Ok((Some(token.rv), Some(after.to_owned())));
    }
    let current = store.revision();
    match given {
        Some(revision) if revision > current => Err(too_large(revision, current)),
        Some(revision) if matching == "Exact" => Ok((Some(revision), None)),
        _ => Ok((None, None)),
    }
}

fn token(revision: u64, last: &str) -> String {
    let token = Continue {
        v: "meta.k8s.io/v1".to_owned(),
        rv: revision,
        start: format!("/{last}\0"),
    };
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

/// A list, from the bytes of its items. Items of built-in kinds do not repeat kind and version.
fn join(kind: &Kind, items: &[Stored], metadata: &Value) -> Bytes {
    let size: usize = items.iter().map(|stored| stored.bytes.len() + 1).sum();
    let mut json = Vec::with_capacity(size + 256);
    json.extend_from_slice(
        format!(
            "{{\"kind\":{:?},\"apiVersion\":{:?},\"metadata\":{metadata},\"items\":[",
            kind.list_kind,
            kind.api_version()
        )
        .as_bytes(),
    );
    let repeated = format!(
        "{{\"kind\":{:?},\"apiVersion\":{:?},",
        kind.kind,
        kind.api_version()
    );
    for (index, stored) in items.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        match stored.bytes.strip_prefix(repeated.as_bytes()) {
            Some(rest) if kind.schema.is_none() => {
                json.push(b'{');
                json.extend_from_slice(rest);
            }
            _ => json.extend_from_slice(&stored.bytes),
        }
    }
    json.extend_from_slice(b"]}\n");
    json.into()
}
