//! What a member serves never runs on the host's origin, where the console and its session live (security-tests.md S9).

use http::{HeaderMap, HeaderName, HeaderValue, header};

const SANDBOX: HeaderValue = HeaderValue::from_static("sandbox");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const REPORT_ONLY: HeaderName = HeaderName::from_static("content-security-policy-report-only");

/// Makes an answer harmless to a browser; API clients see no difference.
///
/// Every answer says that its type is not to be guessed. A document that could hold script is shown in a sandbox, that is without script and
/// without an origin. A script becomes text: nothing in its own headers could keep a page of the host from loading it.
pub(crate) fn disarm(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers.remove(header::CONTENT_SECURITY_POLICY);
    headers.remove(REPORT_ONLY);
    let values: Vec<&HeaderValue> = headers.get_all(header::CONTENT_TYPE).iter().collect();
    let kind = match values.as_slice() {
        // Without a type there is nothing to execute: it is not guessed either.
        [] => Kind::Data,
        [one] => kind(one),
        // Which of several a browser believes is its own affair.
        _ => Kind::Script,
    };
    match kind {
        Kind::Data => {}
        Kind::Document => {
            headers.insert(header::CONTENT_SECURITY_POLICY, SANDBOX);
        }
        Kind::Script => {
            headers.insert(header::CONTENT_TYPE, PLAIN);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Document,
    Script,
}

fn kind(value: &HeaderValue) -> Kind {
    let Ok(text) = value.to_str() else {
        return Kind::Script;
    };
    // A comma makes a list of it, of which a browser takes the last.
    if text.contains(',') {
        return Kind::Script;
    }
    let essence = text.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    if essence.contains("script") || essence.contains("wasm") || essence == "text/css" {
        Kind::Script
    } else if essence.contains("html")
        || essence.contains("xml")
        || essence.contains("svg")
        || essence == "application/pdf"
        || essence.starts_with("multipart/")
    {
        Kind::Document
    } else {
        Kind::Data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disarmed(types: &[&str]) -> (String, String) {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src *"),
        );
        for kind in types {
            headers.append(header::CONTENT_TYPE, kind.parse().unwrap());
        }
        disarm(&mut headers);
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        let text = |name| {
            let value = headers.get(name);
            value.map_or("", |value| value.to_str().unwrap()).to_owned()
        };
        (
            text(header::CONTENT_TYPE),
            text(header::CONTENT_SECURITY_POLICY),
        )
    }

    #[test]
    fn s9_documents_are_shown_in_a_sandbox_and_scripts_are_text() {
        for data in [
            "application/json",
            "application/json;stream=watch",
            "application/vnd.kubernetes.protobuf",
            "application/yaml",
            "text/plain; charset=utf-8",
            "image/png",
        ] {
            assert_eq!(disarmed(&[data]), (data.to_owned(), String::new()));
        }
        assert_eq!(disarmed(&[]), (String::new(), String::new()));
        for document in [
            "text/html",
            "TEXT/HTML; charset=utf-8",
            "application/xhtml+xml",
            "image/svg+xml",
            "text/xml",
            "application/pdf",
            "multipart/x-mixed-replace",
        ] {
            assert_eq!(
                disarmed(&[document]),
                (document.to_owned(), "sandbox".to_owned())
            );
        }
        for script in [
            ["text/javascript"].as_slice(),
            &["application/javascript; charset=utf-8"],
            &["application/ecmascript"],
            &["text/css"],
            &["application/json, text/html"],
            &["application/json", "text/html"],
        ] {
            assert_eq!(
                disarmed(script),
                ("text/plain; charset=utf-8".to_owned(), String::new())
            );
        }
    }
}
