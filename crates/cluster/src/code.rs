//! The stable names of what can be wrong between a host and a member.

use serde::{Deserialize, Serialize};

/// A cause, as lost-access.md lists them. The name is the wire form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are the vocabulary of lost-access.md"
)]
pub enum AccessCode {
    TokenNotInCache,
    SignatureInvalid,
    ClockSkew,
    UserMissing,
    UserDisabled,
    MemberNotReady,
    MemberUnreachable,
    TLSUntrusted,
    TLSExpired,
    CredentialRejected,
    CredentialExpiring,
    NameNotResolved,
    RouteForbidden,
    ConfigUnreadable,
    VersionUnsupported,
    WrongRole,
}

impl std::fmt::Display for AccessCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The word is none of the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("read an access code: unknown word")]
pub struct UnknownCode;

impl std::str::FromStr for AccessCode {
    type Err = UnknownCode;

    fn from_str(word: &str) -> Result<Self, UnknownCode> {
        Self::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(word))
            .map_err(|_| UnknownCode)
    }
}
