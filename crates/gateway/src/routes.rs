//! What this server answers itself, as one table; and what it says about everything that is not in it (gateway.md §3.3).

use axum::response::Response;
use http::{HeaderMap, Method, StatusCode, header};

use crate::answer::{accepted, not_served, routing_error, with_header};

/// One thing that is answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is named after its path")]
pub enum Endpoint {
    Healthz,
    Ping,
    KapisVersion,
    Version,
    ConfigOauth,
    Configz,
    GpuKinds,
    Token,
    Userinfo,
    Logout,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The only method that is served; `None` for any.
    pub method: Option<&'static str>,
    /// The whole path.
    pub path: &'static str,
    /// What answers.
    pub endpoint: Endpoint,
    /// Whether a body has to be a form.
    pub form: bool,
    /// Whether the answer is JSON, which the caller's `Accept` has to allow.
    pub json: bool,
    /// Whether nobody needs a role for it.
    pub open: bool,
}

const fn get(path: &'static str, endpoint: Endpoint) -> Route {
    Route {
        method: Some("GET"),
        path,
        endpoint,
        form: false,
        json: true,
        open: true,
    }
}

const fn health(path: &'static str, endpoint: Endpoint) -> Route {
    Route {
        method: None,
        path,
        endpoint,
        form: false,
        json: false,
        open: true,
    }
}

/// Every route. A test asks each of them as nobody and as the weakest user, and fails if one is not on its own list.
pub const ROUTES: &[Route] = &[
    health("/healthz", Endpoint::Healthz),
    Route {
        open: false,
        ..health("/healthz/ping", Endpoint::Ping)
    },
    get("/kapis/version", Endpoint::KapisVersion),
    Route {
        open: false,
        ..get("/version", Endpoint::Version)
    },
    get(
        "/kapis/config.kubesphere.io/v1alpha2/configs/oauth",
        Endpoint::ConfigOauth,
    ),
    get(
        "/kapis/config.kubesphere.io/v1alpha2/configs/configz",
        Endpoint::Configz,
    ),
    get(
        "/kapis/config.kubesphere.io/v1alpha2/configs/gpu/kinds",
        Endpoint::GpuKinds,
    ),
    Route {
        method: Some("POST"),
        form: true,
        ..get("/oauth/token", Endpoint::Token)
    },
    get("/oauth/userinfo", Endpoint::Userinfo),
    get("/oauth/logout", Endpoint::Logout),
];

/// The endpoint for a request, or the answer that says why there is none.
pub(crate) fn find(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<Endpoint, Box<Response>> {
    // A slash at the end means nothing, but for the probes, which are compared to the letter.
    let trimmed = match path.strip_suffix('/') {
        Some(trimmed) if !trimmed.is_empty() => trimmed,
        _ => path,
    };
    let found = ROUTES.iter().find(|route| {
        route.path == path || (route.path == trimmed && !route.path.starts_with("/healthz"))
    });
    let Some(route) = found else {
        return Err(Box::new(unrouted(path)));
    };
    if let Some(allowed) = route.method
        && allowed != method.as_str()
    {
        let answer = routing_error(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
        return Err(Box::new(with_header(answer, header::ALLOW, allowed)));
    }
    let acceptable = !route.json || accepts_json(headers);
    if route.form && !is_form(headers) {
        return Err(Box::new(wrong_content_type(headers)));
    }
    if !acceptable {
        return Err(Box::new(routing_error(
            StatusCode::NOT_ACCEPTABLE,
            "406: Not Acceptable\n\nAvailable representations: application/json",
        )));
    }
    Ok(route.endpoint)
}

/// The router's words where a root is served here, the server's own where none is.
fn unrouted(path: &str) -> Response {
    let root = path.split('/').nth(1).unwrap_or_default();
    if matches!(root, "oauth" | "kapis" | "version") {
        routing_error(StatusCode::NOT_FOUND, "404: Page Not Found")
    } else {
        not_served()
    }
}

/// `Accept` names JSON, or nothing in particular; `application/*` does not count (oauth.md §1).
fn accepts_json(headers: &HeaderMap) -> bool {
    let accept = accepted(headers);
    if accept.trim().is_empty() {
        return true;
    }
    accept
        .split(',')
        .filter_map(|clause| clause.split(';').next())
        .any(|media| matches!(media.trim(), "application/json" | "*/*"))
}

fn is_form(headers: &HeaderMap) -> bool {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    value.is_some_and(|value| {
        let media = value.split(';').next().unwrap_or_default().trim();
        media.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    })
}

/// 415 with a body; without one 406, or 415 where the length is not even said.
fn wrong_content_type(headers: &HeaderMap) -> Response {
    let length = headers
        .get(header::CONTENT_LENGTH)
        .map(|value| value.as_bytes());
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    match length {
        None if !chunked => routing_error(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "415: Unsupported Media Type\n\nAvailable representations: ",
        ),
        Some(b"0") => routing_error(
            StatusCode::NOT_ACCEPTABLE,
            "406: Not Acceptable\n\nAvailable representations: ",
        ),
        _ => routing_error(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "415: Unsupported Media Type",
        ),
    }
}
