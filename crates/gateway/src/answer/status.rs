//! A Kubernetes Status as an answer, in the form that the caller asked for (authentication.md §1, authorization.md §8).

use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use kah_api::status::Status;
use serde_json::Value;

use super::{JSON, accepted, nosniff, respond};

/// How a Status is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One line and a newline.
    Json,
    /// Two spaces of indent, no newline.
    Pretty,
    /// Sorted keys.
    Yaml,
}

impl Form {
    /// What the caller asked for by `Accept`, the query `pretty` and its program's name.
    pub fn asked(headers: &HeaderMap, query: Option<&str>) -> Self {
        let accept = accepted(headers);
        if accept.trim().is_empty() {
            return if pretty(headers, query) {
                Self::Pretty
            } else {
                Self::Json
            };
        }
        for clause in accept.split(',') {
            let mut words = clause.split(';').map(str::trim);
            let media = words.next().unwrap_or_default().to_ascii_lowercase();
            match media.as_str() {
                "application/yaml" => return Self::Yaml,
                "application/json" | "application/*" | "*/*" => {
                    let asked = words.any(|word| word == "pretty=1" || word == "pretty=true");
                    return if asked || pretty(headers, query) {
                        Self::Pretty
                    } else {
                        Self::Json
                    };
                }
                _ => {}
            }
        }
        Self::Pretty
    }
}

fn pretty(headers: &HeaderMap, query: Option<&str>) -> bool {
    let asked = query.and_then(|query| {
        form_urlencoded::parse(query.as_bytes())
            .find(|(name, _)| name == "pretty")
            .map(|(_, value)| matches!(&*value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
    });
    asked.unwrap_or_else(|| {
        let agent = headers
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok());
        agent.is_some_and(|agent| {
            ["curl", "Wget", "Mozilla/5.0"]
                .iter()
                .any(|name| agent.starts_with(name))
        })
    })
}

/// A Status as an answer, in the form that the caller asked for.
pub fn status(status: &Status, headers: &HeaderMap, query: Option<&str>) -> Response {
    let (content_type, body) = match Form::asked(headers, query) {
        Form::Json => (JSON, status.to_line()),
        Form::Pretty => (JSON, status.to_pretty()),
        Form::Yaml => {
            let value = serde_json::to_value(status).unwrap_or_default();
            (HeaderValue::from_static("application/yaml"), yaml(&value))
        }
    };
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = respond(code, content_type, body);
    let seconds = status
        .details
        .as_ref()
        .map_or(0, |details| details.retry_after_seconds);
    if seconds > 0 {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    if code == StatusCode::FORBIDDEN {
        return nosniff(response);
    }
    response
}

/// The word in `reason` that goes with a code.
pub fn reason_word(code: StatusCode) -> &'static str {
    match code.as_u16() {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "Conflict",
        413 => "RequestEntityTooLarge",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    }
}

/// A Status in YAML: keys sorted, every string quoted where it could be read as something else.
fn yaml(status: &Value) -> String {
    let mut out = String::new();
    yaml_value(&mut out, status, 0);
    out
}

fn yaml_value(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            for (key, value) in entries {
                out.push_str(&"  ".repeat(depth));
                out.push_str(key);
                out.push(':');
                yaml_entry(out, value, depth);
            }
        }
        other => out.push_str(&scalar(other)),
    }
}

fn yaml_entry(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if map.is_empty() => out.push_str(" {}\n"),
        Value::Object(_) => {
            out.push('\n');
            yaml_value(out, value, depth.saturating_add(1));
        }
        Value::Array(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Array(items) => {
            out.push('\n');
            for item in items {
                let mut block = String::new();
                yaml_value(&mut block, item, depth.saturating_add(1));
                out.push_str(&"  ".repeat(depth));
                out.push_str("- ");
                out.push_str(block.trim_start());
                if !block.ends_with('\n') {
                    out.push('\n');
                }
            }
        }
        other => {
            let line = out
                .len()
                .saturating_sub(out.rfind('\n').map_or(0, |at| at.saturating_add(1)));
            out.push(' ');
            let folded = fold(
                &scalar(other),
                line.saturating_add(1),
                depth.saturating_add(1),
            );
            out.push_str(&folded);
            out.push('\n');
        }
    }
}

/// Breaks a scalar at the first blank beyond 80 columns, as the original's writer does.
fn fold(text: &str, mut column: usize, depth: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        let single = before != ' '
            && chars
                .peek()
                .is_some_and(|next| *next != ' ' && *next != '\'');
        if c == ' ' && column > 80 && single {
            out.push('\n');
            out.push_str(&"  ".repeat(depth));
            column = depth.saturating_mul(2);
        } else {
            out.push(c);
            column = column.saturating_add(1);
        }
        before = c;
    }
    out
}

fn scalar(value: &Value) -> String {
    let Value::String(text) = value else {
        return value.to_string();
    };
    let plain_start = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic());
    let plain = plain_start
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && text.chars().all(|c| !c.is_control())
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    if plain {
        return text.clone();
    }
    if text.chars().any(char::is_control) {
        // JSON's quoted form is YAML's too.
        return Value::String(text.clone()).to_string();
    }
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(accept: Option<&str>, agent: &str, query: Option<&str>) -> Form {
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
        }
        headers.insert(header::USER_AGENT, agent.parse().unwrap());
        Form::asked(&headers, query)
    }

    /// Each row was asked of the original.
    #[test]
    fn the_form_is_negotiated() {
        for (accept, agent, query, form) in [
            (None, "x", None, Form::Json),
            (Some("*/*"), "x", None, Form::Json),
            (Some("*/*"), "curl/8.14.1", None, Form::Pretty),
            (Some("*/*"), "curl/8.14.1", Some("pretty=0"), Form::Json),
            (Some("*/*"), "x", Some("pretty=1"), Form::Pretty),
            (Some("*/*"), "x", Some("pretty=true"), Form::Pretty),
            (Some("*/*"), "x", Some("pretty=false"), Form::Json),
            (Some("*/*"), "x", Some("pretty=x"), Form::Json),
            (Some("application/json;pretty=1"), "x", None, Form::Pretty),
            (Some("application/yaml"), "x", None, Form::Yaml),
            (Some("text/html"), "x", None, Form::Pretty),
            (Some("text/html, application/json"), "x", None, Form::Json),
        ] {
            assert_eq!(
                asked(accept, agent, query),
                form,
                "{accept:?} {agent} {query:?}"
            );
        }
    }

    #[test]
    fn yaml_is_folded_where_the_original_folds() {
        let status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "pods \"x\" is forbidden: User \"system:anonymous\" cannot get resource \"pods\" in API group \"\" at the cluster scope",
            "reason": "Forbidden", "details": {"name": "x", "kind": "pods"}, "code": 403
        });
        assert_eq!(
            yaml(&status),
            "apiVersion: v1\ncode: 403\ndetails:\n  kind: pods\n  name: x\nkind: Status\nmessage: 'pods \"x\" is forbidden: User \"system:anonymous\" cannot get resource \"pods\"\n  in API group \"\" at the cluster scope'\nmetadata: {}\nreason: Forbidden\nstatus: Failure\n"
        );
        assert!(
            yaml(&serde_json::json!({"message": "Unauthorized: incorrect password"}))
                .starts_with("message: 'Unauthorized: incorrect password'\n")
        );
    }
}
