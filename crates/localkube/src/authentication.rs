//! Who sends a request: client certificates, service-account tokens, impersonation.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::{Authority, Clock};
use crate::identity::User;
use crate::rbac::Policy;
use crate::service_account::{Accounts, ISSUER};
use crate::status::ApiError;

mod impersonation;

/// The chain that the client showed in the TLS handshake, already verified against the authority.
/// [`crate::serve::serve`] puts it in the extensions of each request.
#[derive(Clone, Debug, Default)]
pub struct PeerCertificates(pub Arc<Vec<CertificateDer<'static>>>);

/// Paths that the anonymous may read.
const OPEN_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// A token known beforehand, with the user it stands for.
pub struct StaticToken {
    /// The secret.
    pub token: String,
    /// Whom it authenticates.
    pub user: User,
}

/// Turns the credentials of a request into a [`User`].
pub struct Authenticator {
    authority: Arc<Authority>,
    accounts: Arc<dyn Accounts>,
    policy: Arc<ArcSwap<Policy>>,
    clock: Clock,
    tokens: Vec<StaticToken>,
}

impl Authenticator {
    /// `policy` judges impersonation; it is the one that authorises requests.
    pub fn new(
        authority: Arc<Authority>,
        accounts: Arc<dyn Accounts>,
        policy: Arc<ArcSwap<Policy>>,
        clock: Clock,
    ) -> Self {
        Authenticator {
            authority,
            accounts,
            policy,
            clock,
            tokens: Vec::new(),
        }
    }

    /// Also accepts these tokens.
    #[must_use]
    pub fn with_static_tokens(mut self, tokens: Vec<StaticToken>) -> Self {
        self.tokens = tokens;
        self
    }

    /// The user of a request, after impersonation.
    ///
    /// # Errors
    /// 401 without credentials (except on the few open paths) or with bad ones; 403 and 400 for
    /// impersonation that is not allowed or malformed.
    pub fn authenticate(&self, parts: &http::request::Parts) -> Result<User, ApiError> {
        let user = self.identify(parts)?;
        impersonation::apply(user, &parts.headers, &|user, attributes| {
            self.policy.load().authorize(user, attributes)
        })
    }

    fn identify(&self, parts: &http::request::Parts) -> Result<User, ApiError> {
        let certificate = parts
            .extensions
            .get::<PeerCertificates>()
            .and_then(|chain| chain.0.first());
        if let Some(certificate) = certificate {
            let user = user_of_certificate(certificate).ok_or_else(ApiError::unauthorized)?;
            return Ok(authenticated(user));
        }
        match bearer(&parts.headers) {
            Some(token) => self
                .user_of_token(token, &[ISSUER.to_owned()])
                .map(|(user, _)| user)
                .ok_or_else(ApiError::unauthorized),
            None if !parts.headers.contains_key(http::header::AUTHORIZATION)
                && is_open(parts.uri.path()) =>
            {
                Ok(User {
                    name: "system:anonymous".to_owned(),
                    groups: vec!["system:unauthenticated".to_owned()],
                    ..User::default()
                })
            }
            None => Err(ApiError::unauthorized()),
        }
    }

    /// The user of a bearer token and those of the `audiences` that the token is for.
    pub fn user_of_token(&self, token: &str, audiences: &[String]) -> Option<(User, Vec<String>)> {
        if let Some(known) = self.tokens.iter().find(|known| {
            aws_lc_rs::constant_time::verify_slices_are_equal(
                known.token.as_bytes(),
                token.as_bytes(),
            )
            .is_ok()
        }) {
            return Some((authenticated(known.user.clone()), audiences.to_vec()));
        }
        let key = self.authority.token_key();
        let (user, audiences) = key.verify(token, audiences, &*self.accounts, self.now())?;
        Some((authenticated(user), audiences))
    }

    /// The present time, as this authenticator sees it.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// What knows the stored ServiceAccounts.
    pub fn accounts(&self) -> &dyn Accounts {
        &*self.accounts
    }

    /// The authority whose credentials count.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

fn is_open(path: &str) -> bool {
    OPEN_PATHS.iter().any(|open| {
        path.strip_prefix(open)
            .is_some_and(|rest| rest.is_empty() || (rest.starts_with('/') && *open != "/version"))
    })
}

fn authenticated(mut user: User) -> User {
    const GROUP: &str = "system:authenticated";
    if !user.groups.iter().any(|group| group == GROUP) {
        user.groups.push(GROUP.to_owned());
    }
    user
}

/// The token of an `Authorization: Bearer …` header (RFC 6750 §2.1).
fn bearer(headers: &http::HeaderMap) -> Option<&str> {
    let header = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Common name and organisations; a certificate without a common name names no one.
fn user_of_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok())
        .map(str::to_owned)
        .collect();
    (!name.is_empty()).then_some(User {
        name,
        groups,
        extra: vec![(
            "authentication.kubernetes.io/credential-id".to_owned(),
            vec![format!("X509SHA256={}", hex(certificate))],
        )],
        ..User::default()
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests;
