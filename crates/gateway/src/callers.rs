//! Who callers are and what they may: what the gateway asks of the room `iam`.

use std::net::IpAddr;

use futures::future::BoxFuture;
use http::HeaderValue;
use kah_api::path::Target;

use kah_iam::Offer;
pub use kah_iam::roles::{is_open, needs_no_role, passes_for_nobody};

/// Somebody who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name of the User, or `system:anonymous`.
    pub name: String,
    /// `spec.groups` and what the system adds.
    pub groups: Vec<String>,
    /// Whether there was no credential at all.
    pub anonymous: bool,
}

/// What a login gives.
#[derive(Clone)]
pub struct Tokens {
    /// Access token.
    pub access: String,
    /// Refresh token.
    pub refresh: String,
    /// Seconds; `None` or 0 where the token has no end.
    pub expires_in: Option<u64>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens(…)")
    }
}

/// Why there are no tokens; the text is the original's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// The grant is not good.
    #[error("{0}")]
    Invalid(String),
    /// Too many tries.
    #[error("{0}")]
    Limited(String),
    /// Something else failed.
    #[error("{0}")]
    Fault(String),
}

/// Why a credential is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The text after `Unauthorized: `.
    pub text: String,
    /// Whether it was a bearer token, whose rejections people look for in the log.
    pub bearer: bool,
}

/// What a User says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// `spec.email`
    pub email: String,
    /// `spec.lang`
    pub locale: String,
}

/// Answers the gateway's questions about callers. Implementations are shared by all requests and take over a new configuration in place.
pub trait Callers: Send + Sync + 'static {
    /// Who sends this `Authorization`; without one, nobody in particular.
    fn authenticate<'a>(
        &'a self,
        authorization: Option<&'a HeaderValue>,
    ) -> BoxFuture<'a, Result<Caller, Rejection>>;

    /// Whether the caller may do this, by a role or because the path needs none ([`is_open`]).
    ///
    /// # Errors
    /// The reason for the refusal, mostly empty.
    fn authorize(&self, caller: &Caller, target: &Target) -> Result<(), String>;

    /// The grant `password`, with the client's address and program for the login's record.
    fn password<'a>(
        &'a self,
        user: &'a str,
        password: &'a str,
        client: Option<IpAddr>,
        agent: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Tokens, GrantError>>;

    /// The grant `refresh_token`.
    fn refresh<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Tokens, GrantError>>;

    /// What is known of a user.
    fn profile(&self, user: &str) -> Option<Profile>;

    /// What is said about the trust in a host; `None` where no host can vouch for callers.
    fn offer(&self) -> Option<Offer> {
        None
    }

    /// Ends all sessions of a user.
    fn revoke<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<(), String>>;
}
