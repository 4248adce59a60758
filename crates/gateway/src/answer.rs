//! Answers in the shapes that clients of this API know: indented JSON, plain text, and Kubernetes Status in the form that the caller asked for.

mod status;

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use kah_api::{go_json, status::Status};
use serde::Serialize;

pub use status::{reason_word, status};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// `Content-Type`, body and code; nothing else.
pub(crate) fn respond(
    code: StatusCode,
    content_type: HeaderValue,
    body: impl Into<Body>,
) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

fn nosniff(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    response
}

/// JSON as handlers write it: one space of indent, no newline at the end (gateway.md §3.2).
pub fn json(code: StatusCode, value: &impl Serialize) -> Response {
    respond(code, JSON, go_json::pretty(value, 1))
}

/// An error of a handler as text: HTML characters escaped, a newline at the end (gateway.md §3.1).
pub fn text(code: StatusCode, message: &str) -> Response {
    let mut body = String::with_capacity(message.len().saturating_add(1));
    for c in message.chars() {
        match c {
            '&' => body.push_str("&amp;"),
            '<' => body.push_str("&lt;"),
            '>' => body.push_str("&gt;"),
            c => body.push(c),
        }
    }
    body.push('\n');
    nosniff(respond(code, TEXT, body))
}

/// An error of a handler: text, unless the caller names JSON and nothing wider (differences.md R10).
pub fn handler_error(headers: &HeaderMap, code: StatusCode, message: &str) -> Response {
    let accept = accepted(headers);
    if accept.contains("application/json") && !accept.contains("*/*") {
        let failure = Status::failure(code.as_u16(), reason_word(code), message);
        return status(&failure, headers, None);
    }
    text(code, message)
}

/// Text as a server of the original's kind writes it that was told no type.
pub(crate) fn typed_text(code: StatusCode, body: String) -> Response {
    respond(code, TEXT, body)
}

/// Text that a browser must not take for anything else, as it is.
pub(crate) fn plain(code: StatusCode, body: String) -> Response {
    nosniff(respond(code, TEXT, body))
}

/// An error of the router: text without a newline (gateway.md §3.3).
pub fn routing_error(code: StatusCode, text: &'static str) -> Response {
    respond(code, TEXT, text)
}

/// What the server's root says about a path that no root serves.
pub fn not_served() -> Response {
    nosniff(respond(StatusCode::NOT_FOUND, TEXT, "404 page not found\n"))
}

pub(crate) fn accepted(headers: &HeaderMap) -> String {
    let values = headers.get_all(header::ACCEPT).iter();
    let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

/// Adds a header whose value was made by us; a value that cannot stand in a header is left out.
pub(crate) fn with_header(mut response: Response, name: HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
    response
}
