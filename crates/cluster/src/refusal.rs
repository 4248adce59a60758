//! Why a member cannot be reached, or does not let us in.

use http::{HeaderMap, StatusCode};
use kah_net::Kind;
use serde::Deserialize;

use crate::AccessCode;

/// Who may have written an answer that came by a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The member's kube-apiserver stands in front of its ks-apiserver and may answer in its place.
    BehindKubeApiserver,
    /// The member's ks-apiserver itself.
    KsApiserver,
}

/// The code of a fault on the way; `None` where it is the caller's own.
#[must_use]
pub fn code_of_fault(kind: Kind) -> Option<AccessCode> {
    Some(match kind {
        Kind::Settings => AccessCode::ConfigUnreadable,
        Kind::NameNotResolved => AccessCode::NameNotResolved,
        Kind::TlsUntrusted | Kind::TlsName | Kind::Tls => AccessCode::TLSUntrusted,
        Kind::TlsExpired => AccessCode::TLSExpired,
        Kind::CertificateRefused => AccessCode::CredentialRejected,
        Kind::InvalidUpgrade | Kind::Malformed => AccessCode::VersionUnsupported,
        Kind::Request => return None,
        _ => AccessCode::MemberUnreachable,
    })
}

/// What is read of a `v1.Status`.
#[derive(Deserialize)]
struct Words {
    kind: Option<String>,
    #[serde(default)]
    message: String,
}

/// The code of an answer with an error status, from the words of its body, or from the status where they say nothing; `None` where the answer is the
/// member's ordinary word to this caller.
///
/// `body` may be a prefix; one that is not a whole `v1.Status` says nothing.
#[must_use]
pub fn code_of_answer(
    origin: Origin,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Option<AccessCode> {
    let words: Option<Words> = serde_json::from_slice(body).ok();
    words
        .filter(|words| words.kind.as_deref() == Some("Status"))
        .and_then(|words| by_words(origin, status, headers, &words.message))
        .or_else(|| by_status(origin, status, headers))
}

/// The same for an answer to somebody whom the host knows, where the words cannot be read.
#[must_use]
pub fn code_of_unread(
    origin: Origin,
    status: StatusCode,
    headers: &HeaderMap,
) -> Option<AccessCode> {
    if status == StatusCode::UNAUTHORIZED && !is_from_beyond(origin, headers) {
        // As for words without a code of their own. Were it our credential, nothing would have been sent for long.
        return Some(AccessCode::SignatureInvalid);
    }
    by_status(origin, status, headers)
}

/// A kube-apiserver marks each answer. One mark more than stands in front: the member's ks-apiserver asked its kube-apiserver, and the answer is about
/// that, or about something behind it.
fn is_from_beyond(origin: Origin, headers: &HeaderMap) -> bool {
    let in_front = usize::from(origin == Origin::BehindKubeApiserver);
    headers.get_all("audit-id").iter().count() > in_front
}

/// What servers say that are too busy, starting or gone, and those that stand before them; a proxy of somebody's says it in words that nobody knows.
fn by_status(origin: Origin, status: StatusCode, headers: &HeaderMap) -> Option<AccessCode> {
    let not_ready = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    (not_ready && !is_from_beyond(origin, headers)).then_some(AccessCode::MemberNotReady)
}

fn by_words(
    origin: Origin,
    status: StatusCode,
    headers: &HeaderMap,
    message: &str,
) -> Option<AccessCode> {
    let in_front = origin == Origin::BehindKubeApiserver && !is_from_beyond(origin, headers);
    match status {
        StatusCode::UNAUTHORIZED => unauthorized(in_front, message),
        StatusCode::FORBIDDEN => (in_front
            && message.starts_with("services \":ks-apiserver:\" is forbidden")
            && message.contains("services/proxy"))
        .then_some(AccessCode::RouteForbidden),
        StatusCode::NOT_FOUND => (in_front
            && (message == "services \"ks-apiserver\" not found"
                || message == "services \":ks-apiserver:\" not found"
                || message == "namespaces \"kubesphere-system\" not found"))
            .then_some(AccessCode::MemberNotReady),
        StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::BAD_GATEWAY
        | StatusCode::INTERNAL_SERVER_ERROR
        | StatusCode::GATEWAY_TIMEOUT => (in_front
            && (message.starts_with("no endpoints available for service")
                || message.starts_with("error trying to reach service")
                || message.starts_with("no service port")))
        .then_some(AccessCode::MemberNotReady),
        _ => None,
    }
}

fn unauthorized(in_front: bool, message: &str) -> Option<AccessCode> {
    let Some(reason) = message.strip_prefix("Unauthorized: ") else {
        // A kube-apiserver gives no reason; a ks-apiserver always gives one.
        return (in_front && message == "Unauthorized").then_some(AccessCode::CredentialRejected);
    };
    // What has no code of its own is a fault of the token itself, and the host has just found it good: the two do not share the key.
    Some(AccessCode::from_reason(reason).unwrap_or(AccessCode::SignatureInvalid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_speaks_where_the_words_do_not() {
        use Origin::{BehindKubeApiserver as Behind, KsApiserver as Direct};
        let marked = |times: usize| {
            let mut headers = HeaderMap::new();
            for _ in 0..times {
                headers.append("audit-id", http::HeaderValue::from_static("m"));
            }
            headers
        };
        let kubernetes = br#"{"kind":"Status","message":"the server is currently unable to handle the request"}"#;
        for code in 400..600_u16 {
            let status = StatusCode::from_u16(code).unwrap();
            let expected = matches!(code, 429 | 502..=504).then_some(AccessCode::MemberNotReady);
            for body in [b"".as_slice(), b"<html>Bad Gateway</html>", kubernetes] {
                // What stands in front, or the server itself; then something behind it, whose trouble is its own.
                for (origin, in_front) in [(Direct, 0), (Behind, 1)] {
                    let told = |marks| code_of_answer(origin, status, &marked(marks), body);
                    assert_eq!(told(in_front), expected, "{origin:?} {code}");
                    assert_eq!(told(in_front + 1), None, "{origin:?} {code}");
                }
            }
            for (origin, in_front) in [(Direct, 0), (Behind, 1)] {
                let told = |marks| code_of_unread(origin, status, &marked(marks));
                let refused = (code == 401).then_some(AccessCode::SignatureInvalid);
                assert_eq!(told(in_front), refused.or(expected), "{origin:?} {code}");
                assert_eq!(told(in_front + 1), None, "{origin:?} {code}");
            }
        }
    }
}
