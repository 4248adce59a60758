//! Federated trust (DESIGN.md §4, differences.md A4): tokens that a host signs with a private key and that one member alone
//! accepts.
//!
//! A token is a JWT (RFC 7519) signed with Ed25519 (RFC 8037): `iss` names the host, `aud` the member by the UID of its namespace
//! `kube-system`, `sub` and `username` the user; it lives for [`LIFE`]. A member knows public keys only, so what it knows makes no token.

mod key;
mod keys;
mod signer;
mod trusted;

pub use key::{KeyError, SigningKey, VerifyingKey};
pub use keys::{KeyRecord, KeyState, KeysError, SIGNING_KEYS, SigningKeys};
pub use signer::{MintError, Signer, follow_signing_keys};
pub use trusted::{HostTrust, Offer, TrustError, Trusted, follow_host_trust};

use kah_api::time::GoDuration;
use serde::{Deserialize, Serialize};

use crate::token::{ENGINE, MAXIMUM_TOKEN, TokenError, TokenType, decode, json_error, times};

/// Name of the ConfigMap, in namespace `kubesphere-system` of a member, that says which keys it trusts.
pub const HOST_TRUST: &str = "hub-trust";
/// How long a minted token lives.
pub const LIFE: GoDuration = GoDuration::from_secs(60);
/// A token that claims a longer life is refused, whoever signed it.
pub const LONGEST_LIFE: GoDuration = GoDuration::from_secs(5 * 60);

/// The `iss` of the host whose namespace `kube-system` has this UID.
#[must_use]
pub fn issuer(host_uid: &str) -> String {
    format!("kubeaihub:{host_uid}")
}

/// RFC 7515 §4. Anything more (`jwk`, `jku`, `x5c`, `crit` …) is refused, and so is a name that stands twice.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
}

/// What a federated token says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    #[serde(default)]
    pub(crate) iss: String,
    #[serde(default)]
    pub(crate) sub: String,
    #[serde(default)]
    pub(crate) aud: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nbf: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iat: Option<i64>,
    #[serde(default)]
    pub(crate) token_type: String,
    #[serde(default)]
    pub(crate) username: String,
}

/// Whether a bearer token says of itself that it is signed with Ed25519. Says nothing about whether it is good.
#[must_use]
pub(crate) fn is_federated(token: &str) -> bool {
    #[derive(Deserialize)]
    struct Algorithm {
        alg: String,
    }
    token.len() <= MAXIMUM_TOKEN
        && token
            .split('.')
            .next()
            .and_then(|header| decode(header).ok())
            .and_then(|header| serde_json::from_slice::<Algorithm>(&header).ok())
            .is_some_and(|header| header.alg == "EdDSA")
}

impl SigningKey {
    /// Makes a token by which `user` is known to the member `audience`, from `now` (seconds since 1970) for [`LIFE`].
    #[must_use]
    pub fn mint(&self, issuer: &str, audience: &str, user: &str, now: i64) -> String {
        self.sign_claims(&Claims {
            iss: issuer.to_owned(),
            sub: user.to_owned(),
            aud: audience.to_owned(),
            exp: Some(now.saturating_add(LIFE.as_secs())),
            nbf: None,
            iat: Some(now),
            token_type: TokenType::Access.as_str().to_owned(),
            username: user.to_owned(),
        })
    }

    pub(crate) fn sign_claims(&self, claims: &Claims) -> String {
        use base64::Engine;
        let header = Header {
            alg: "EdDSA".into(),
            kid: self.kid().into(),
            typ: Some("JWT".into()),
        };
        let signed = format!(
            "{}.{}",
            ENGINE.encode(kah_api::go_json::compact(&header)),
            ENGINE.encode(kah_api::go_json::compact(claims))
        );
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", ENGINE.encode(signature))
    }
}

impl Trusted {
    /// The user that a token was minted for.
    ///
    /// # Errors
    /// [`TokenError`]: the first of form, header, key, signature, times and claims that is not as it must be. Clocks may
    /// differ by `skew` in either direction.
    pub(crate) fn verify(
        &self,
        token: &str,
        skew: GoDuration,
        clock: &dyn crate::clock::Clock,
    ) -> Result<String, TokenError> {
        use base64::Engine;
        if token.len() > MAXIMUM_TOKEN {
            return Err(TokenError::TooLong);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Segments);
        };
        let text = decode(header)?;
        let read: Header =
            serde_json::from_slice(&text).map_err(|error| json_error(&text, &error))?;
        if read.alg != "EdDSA" {
            return Err(TokenError::Algorithm("other than EdDSA".into()));
        }
        if read.typ.is_some_and(|typ| typ != "JWT") {
            return Err(TokenError::WrongClaim("typ"));
        }
        let key = self.key(&read.kid).ok_or(TokenError::UnknownKey)?;
        let signed = token
            .get(..token.len() - signature.len() - 1)
            .unwrap_or_default();
        let bytes = decode(signature)?;
        // One signature has one spelling.
        if !key.verifies(signed.as_bytes(), &bytes) || ENGINE.encode(&bytes) != signature {
            return Err(TokenError::Signature);
        }
        let payload = decode(payload)?;
        let claims: Claims =
            serde_json::from_slice(&payload).map_err(|error| json_error(&payload, &error))?;
        self.judge(claims, skew, clock)
    }

    fn judge(
        &self,
        claims: Claims,
        skew: GoDuration,
        clock: &dyn crate::clock::Clock,
    ) -> Result<String, TokenError> {
        let exp = claims.exp.ok_or(TokenError::MissingClaim("exp"))?;
        let iat = claims.iat.ok_or(TokenError::MissingClaim("iat"))?;
        let life = exp.saturating_sub(iat);
        if life <= 0 || life > LONGEST_LIFE.as_secs() {
            return Err(TokenError::WrongClaim("exp"));
        }
        // The expiry is judged by two clocks, unlike that of a server's own tokens.
        times(clock, skew, skew, Some(exp), Some(iat), claims.nbf)?;
        if claims.token_type != TokenType::Access.as_str() {
            return Err(TokenError::Type {
                found: TokenType::read(&claims.token_type).map_or("unknown", TokenType::as_str),
                want: TokenType::Access.as_str(),
            });
        }
        if claims.username.is_empty() {
            return Err(TokenError::MissingClaim("username"));
        }
        if claims.sub != claims.username {
            return Err(TokenError::Subject);
        }
        if claims.iss != self.issuer {
            return Err(TokenError::WrongClaim("iss"));
        }
        if claims.aud != self.audience {
            return Err(TokenError::WrongClaim("aud"));
        }
        Ok(claims.username)
    }
}

#[cfg(test)]
mod tests;
