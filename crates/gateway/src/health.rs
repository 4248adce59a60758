//! `/healthz` (gateway.md §6): one check, which holds as long as anything is answered at all.

use axum::response::Response;
use http::StatusCode;

use crate::answer::plain;

const TEXT: &str = "ok";

/// `?verbose` lists the checks; `?exclude=ping` leaves one out of the list.
pub(crate) fn healthz(query: Option<&str>) -> Response {
    let pairs: Vec<_> = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect();
    if !pairs.iter().any(|(name, _)| name == "verbose") {
        return plain(StatusCode::OK, TEXT.to_owned());
    }
    let excluded: Vec<&str> = pairs
        .iter()
        .filter(|(name, _)| name == "exclude")
        .map(|(_, value)| value.as_ref())
        .collect();
    let mut out = if excluded.contains(&"ping") {
        "[+]ping excluded: ok\n".to_owned()
    } else {
        "[+]ping ok\n".to_owned()
    };
    let unknown: Vec<String> = excluded
        .iter()
        .filter(|name| **name != "ping")
        .map(|name| format!("{name:?}"))
        .collect();
    if !unknown.is_empty() {
        out.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {}\n",
            unknown.join(",")
        ));
    }
    out.push_str("healthz check passed\n");
    plain(StatusCode::OK, out)
}
