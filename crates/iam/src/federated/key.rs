//! Ed25519 keys: the host's private ones as PKCS#8 PEM, the public ones as JWK (RFC 8037 §2).

use aws_lc_rs::{
    digest,
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::token::ENGINE;

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// Why a key cannot be used. Never holds a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The source of randomness failed.
    #[error("make a signing key")]
    Generate,
    /// No PEM of a PKCS#8 Ed25519 key.
    #[error("read a signing key: it is no PKCS#8 PEM of an Ed25519 key")]
    Private,
    /// No JWK of an Ed25519 key.
    #[error("read a public key: it is no JWK of an Ed25519 key")]
    Public,
}

/// A private key of a host. Has no `Debug`: it is never shown.
pub struct SigningKey {
    kid: String,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// Makes one. Its id begins with `made` (seconds since 1970), so that the greatest id is that of the newest key.
    ///
    /// # Errors
    /// [`KeyError::Generate`].
    pub fn generate(made: i64) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Generate)?;
        let print = digest::digest(&digest::SHA256, pair.public_key().as_ref());
        let print: String = print
            .as_ref()
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(Self {
            kid: format!("{made:010}-{print}"),
            pair,
        })
    }

    /// Reads what [`Self::to_pem`] wrote.
    ///
    /// # Errors
    /// [`KeyError::Private`].
    pub fn from_pem(kid: &str, pem: &str) -> Result<Self, KeyError> {
        let text: String = pem
            .trim()
            .strip_prefix(BEGIN)
            .and_then(|text| text.strip_suffix(END))
            .ok_or(KeyError::Private)?
            .split_whitespace()
            .collect();
        let der = BASE64_STANDARD
            .decode(text)
            .map_err(|_| KeyError::Private)?;
        let pair =
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| KeyError::Private)?;
        Ok(Self {
            kid: kid.to_owned(),
            pair,
        })
    }

    /// The key as PKCS#8 PEM, for the Secret that keeps it.
    ///
    /// # Errors
    /// [`KeyError::Private`].
    pub fn to_pem(&self) -> Result<String, KeyError> {
        let der = self.pair.to_pkcs8v1().map_err(|_| KeyError::Private)?;
        let text = BASE64_STANDARD.encode(der.as_ref());
        Ok(format!("{BEGIN}\n{text}\n{END}\n"))
    }

    /// Its id.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> VerifyingKey {
        VerifyingKey(self.pair.public_key().as_ref().to_vec())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

/// The public half of a [`SigningKey`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey(Vec<u8>);

impl VerifyingKey {
    /// As a JWK with this id.
    #[must_use]
    pub fn to_jwk(&self, kid: &str) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": kid, "x": ENGINE.encode(&self.0)})
    }

    /// Id and key of a JWK.
    ///
    /// # Errors
    /// [`KeyError::Public`].
    pub fn from_jwk(jwk: &Value) -> Result<(String, Self), KeyError> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let (Some("OKP"), Some("Ed25519"), Some(kid), Some(x)) =
            (text("kty"), text("crv"), text("kid"), text("x"))
        else {
            return Err(KeyError::Public);
        };
        let bytes = ENGINE.decode(x).map_err(|_| KeyError::Public)?;
        if bytes.len() != 32 || kid.is_empty() {
            return Err(KeyError::Public);
        }
        Ok((kid.to_owned(), Self(bytes)))
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(message, signature)
            .is_ok()
    }
}
