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

/// The code of an answer with an error status, from the words of its body; `None` where the answer is the member's ordinary word to this caller.
///
/// `body` may be a prefix; one that is not a whole `v1.Status` says nothing.
#[must_use]
pub fn code_of_answer(
    origin: Origin,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Option<AccessCode> {
    let words: Words = serde_json::from_slice(body).ok()?;
    if words.kind.as_deref() != Some("Status") {
        return None;
    }
    let message = words.message.as_str();
    // A kube-apiserver marks each answer. Two marks: the member's ks-apiserver asked its kube-apiserver, and the words are about that.
    let in_front =
        origin == Origin::BehindKubeApiserver && headers.get_all("audit-id").iter().count() < 2;
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
