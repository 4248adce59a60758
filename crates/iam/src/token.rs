//! HS256 tokens: issued byte for byte as the original issues them, verified in its order and with its texts
//! (authentication.md §4), and more strictly where differences.md S9 says so: every token but a static one has
//! `exp` and `iat`, is of the one type that was asked for, and is for nobody in particular (no `aud`).

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::hmac;
use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use kah_api::{
    config::JwtSecret,
    time::{GoDuration, go_time},
};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;

/// `{"alg":"HS256","typ":"JWT"}`.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";
/// Longest token that is looked at, in bytes.
pub const MAXIMUM_TOKEN: usize = 16 * 1024;

/// Reads as Go does: bits that the last letter leaves over are not looked at.
pub(crate) const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenType {
    /// Opens requests.
    Access,
    /// Gives new tokens.
    Refresh,
    /// Authorization code.
    Code,
    /// Tells a client who logged in.
    Id,
    /// Made by an installer; has no end.
    Static,
}

impl TokenType {
    /// The value of `token_type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access_token",
            Self::Refresh => "refresh_token",
            Self::Code => "code",
            Self::Id => "id_token",
            Self::Static => "static_token",
        }
    }

    pub(crate) fn read(text: &str) -> Option<Self> {
        [
            Self::Access,
            Self::Refresh,
            Self::Code,
            Self::Id,
            Self::Static,
        ]
        .into_iter()
        .find(|one| one.as_str() == text)
    }
}

/// What a token says; field order is that of issued tokens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claims {
    /// Issuer.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub iss: String,
    /// User name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sub: String,
    /// Whom it is for. Access and refresh tokens have none.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub aud: Vec<String>,
    /// Whole seconds; may be a fraction on input.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    pub exp: Option<i64>,
    /// Not before; never issued.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    pub nbf: Option<i64>,
    /// Issued at.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    pub iat: Option<i64>,
    /// See [`TokenType`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token_type: String,
    /// User name; the one that counts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Further facts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

fn seconds<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Whole(i64),
        Fraction(f64),
    }
    Ok(
        Option::<Number>::deserialize(input)?.map(|number| match number {
            Number::Whole(whole) => whole,
            #[allow(clippy::cast_possible_truncation)] // a cast from float saturates
            Number::Fraction(fraction) => fraction as i64,
        }),
    )
}

/// RFC 7519 §4.1.3: a list, or one string.
fn one_or_many<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(input)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

/// Why a token was refused. The texts are the original's; they stand in answers and logs. The caller is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the texts say it
pub enum TokenError {
    #[error("token contains an invalid number of segments")]
    Segments,
    #[error("illegal base64 data at input byte {0}")]
    Base64(usize),
    #[error("{0}")]
    Json(String),
    #[error("signing method (alg) is unspecified.")]
    NoAlgorithm,
    #[error("signing method (alg) is unavailable.")]
    UnknownAlgorithm,
    #[error("signing method {0} is invalid")]
    Algorithm(String),
    #[error("key is of invalid type")]
    KeyType,
    #[error("token header crit is not understood")]
    Critical,
    #[error("signature is invalid")]
    Signature,
    #[error("token is signed with a key that is not trusted here")]
    UnknownKey,
    #[error("jwt: token is expired by {0}")]
    Expired(GoDuration),
    #[error("jwt: token used before issued, iat:{iat}, now:{now}")]
    BeforeIssued { iat: String, now: String },
    #[error("jwt: token is not valid yet")]
    NotYetValid,
    #[error("jwt: token has no {0}")]
    MissingClaim(&'static str),
    #[error("jwt: token has a wrong {0}")]
    WrongClaim(&'static str),
    #[error("token is longer than {MAXIMUM_TOKEN} bytes")]
    TooLong,
    #[error("jwt: token subject and username differ")]
    Subject,
    #[error("ivalid token type {found} want {want}")]
    Type {
        found: &'static str,
        want: &'static str,
    },
}

impl TokenError {
    /// Whether the original's issuer logs it as `jwt: failed to parse token`.
    #[must_use]
    pub fn is_parse_error(&self) -> bool {
        !matches!(
            self,
            Self::Expired(_)
                | Self::BeforeIssued { .. }
                | Self::NotYetValid
                | Self::MissingClaim(_)
                | Self::WrongClaim(_)
                | Self::Subject
                | Self::Type { .. }
        )
    }
}

/// Issues and verifies with one key.
pub struct Tokens {
    key: hmac::Key,
    issuer: String,
    check_issuer: bool,
    skew: GoDuration,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Tokens")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    /// With the configured secret, issuer and clock skew. `check_issuer`: whether `iss` must be ours; a member that
    /// shares a secret does not know its host's issuer, so there it must not.
    #[must_use]
    pub fn new(
        secret: &JwtSecret,
        issuer: &str,
        check_issuer: bool,
        skew: GoDuration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.expose()),
            issuer: issuer.to_owned(),
            check_issuer,
            skew,
            clock,
        }
    }

    /// Issues a token. A lifetime of zero gives one without `exp`, which only a static token may be.
    #[must_use]
    pub fn issue(
        &self,
        user: &str,
        kind: TokenType,
        extra: &BTreeMap<String, Vec<String>>,
        lifetime: GoDuration,
    ) -> String {
        let now = self.clock.now();
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: user.to_owned(),
            aud: Vec::new(),
            exp: (lifetime.0 > 0).then(|| {
                i64::try_from((now.as_nanosecond() + i128::from(lifetime.0)) / 1_000_000_000)
                    .unwrap_or(i64::MAX)
            }),
            nbf: None,
            iat: Some(now.as_second()),
            token_type: kind.as_str().to_owned(),
            username: user.to_owned(),
            extra: extra.clone(),
        };
        self.sign(&claims)
    }

    /// Signs claims as they are.
    pub(crate) fn sign(&self, claims: &Claims) -> String {
        let payload = ENGINE.encode(kah_api::go_json::compact(claims));
        let signed = format!("{HEADER}.{payload}");
        let tag = hmac::sign(&self.key, signed.as_bytes());
        format!("{signed}.{}", ENGINE.encode(tag.as_ref()))
    }

    /// Verifies a token that should be of one of these types.
    ///
    /// # Errors
    /// [`TokenError`], the first that applies in the original's order, then those of S9. For a token of another type
    /// the first of `types` is named as the one that is wanted.
    pub fn verify(&self, token: &str, types: &[TokenType]) -> Result<Claims, TokenError> {
        let claims = self.signed(token)?;
        self.times(&claims)?;
        let found = claims.token_type.as_str();
        if !types.iter().any(|wanted| wanted.as_str() == found) {
            return Err(TokenError::Type {
                // Only words that are known go into an error.
                found: TokenType::read(found).map_or("unknown", TokenType::as_str),
                want: types.first().map_or("none", |wanted| wanted.as_str()),
            });
        }
        self.issued(&claims)?;
        Ok(claims)
    }

    /// What a token says whose signature is ours.
    fn signed(&self, token: &str) -> Result<Claims, TokenError> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Segments);
        };
        if token.len() > MAXIMUM_TOKEN {
            return Err(TokenError::TooLong);
        }
        let algorithm = if header == HEADER {
            Ok(())
        } else {
            algorithm(&decode(header)?)?
        };
        let payload = decode(payload)?;
        let claims: Claims =
            serde_json::from_slice(&payload).map_err(|error| json_error(&payload, &error))?;
        algorithm?;
        let signed = token
            .get(..token.len() - signature.len() - 1)
            .unwrap_or_default();
        let tag = decode(signature)?;
        hmac::verify(&self.key, signed.as_bytes(), &tag).map_err(|_| TokenError::Signature)?;
        // One signature has one spelling: leftover bits in its last letter would make two tokens of one.
        if ENGINE.encode(&tag) != signature {
            return Err(TokenError::Signature);
        }
        Ok(claims)
    }

    fn times(&self, claims: &Claims) -> Result<(), TokenError> {
        let none = GoDuration::from_secs(0);
        let Claims { exp, iat, nbf, .. } = claims;
        times(&*self.clock, none, self.skew, *exp, *iat, *nbf)
    }

    /// S9: what this program and the original always write must be there. The installer's static token holds none of it.
    fn issued(&self, claims: &Claims) -> Result<(), TokenError> {
        if claims.username.is_empty() {
            return Err(TokenError::MissingClaim("username"));
        }
        if !claims.sub.is_empty() && claims.sub != claims.username {
            return Err(TokenError::Subject);
        }
        if claims.token_type == TokenType::Static.as_str() {
            return Ok(());
        }
        if claims.exp.is_none() {
            return Err(TokenError::MissingClaim("exp"));
        }
        if claims.iat.is_none() {
            return Err(TokenError::MissingClaim("iat"));
        }
        if self.check_issuer && claims.iss != self.issuer {
            return Err(TokenError::WrongClaim("iss"));
        }
        // One with an audience is for somebody else.
        if !claims.aud.is_empty() {
            return Err(TokenError::WrongClaim("aud"));
        }
        Ok(())
    }
}

/// Whether a token may be used now. `late` is how long after `exp` it still may, `skew` how far the issuer's clock may be ahead.
pub(crate) fn times(
    clock: &dyn Clock,
    late: GoDuration,
    skew: GoDuration,
    exp: Option<i64>,
    iat: Option<i64>,
    nbf: Option<i64>,
) -> Result<(), TokenError> {
    let now = clock.now();
    let nanoseconds = now.as_nanosecond();
    let at = |seconds: i64| i128::from(seconds) * 1_000_000_000;
    if let Some(exp) = exp
        && nanoseconds >= at(exp) + i128::from(late.0)
    {
        let by = i64::try_from(nanoseconds - at(exp)).unwrap_or(i64::MAX);
        return Err(TokenError::Expired(GoDuration(by)));
    }
    let ahead = |time: i64| at(time) > nanoseconds + i128::from(skew.0);
    if let Some(iat) = iat.filter(|iat| ahead(*iat)) {
        let iat = jiff::Timestamp::from_second(iat).map_or_else(|_| iat.to_string(), go_time);
        let now = format!("{} m=+{:.9}", go_time(now), clock.uptime());
        return Err(TokenError::BeforeIssued { iat, now });
    }
    if nbf.is_some_and(ahead) {
        return Err(TokenError::NotYetValid);
    }
    Ok(())
}

pub(crate) fn decode(text: &str) -> Result<Vec<u8>, TokenError> {
    if let Some(at) = text
        .bytes()
        .position(|byte| !byte.is_ascii_alphanumeric() && !b"-_".contains(&byte))
    {
        return Err(TokenError::Base64(at));
    }
    ENGINE
        .decode(text)
        .map_err(|_| TokenError::Base64(text.len().saturating_sub(1)))
}

/// Outer error: the header cannot be read. Inner: its algorithm is refused, which the original says only after
/// it has read the claims.
fn algorithm(header: &[u8]) -> Result<Result<(), TokenError>, TokenError> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(default)]
        alg: Option<serde_json::Value>,
        #[serde(default)]
        crit: Option<serde_json::Value>,
    }
    let read: Header =
        serde_json::from_slice(header).map_err(|error| json_error(header, &error))?;
    let Some(serde_json::Value::String(name)) = read.alg else {
        return Ok(Err(TokenError::NoAlgorithm));
    };
    Ok(match name.as_str() {
        "HS256" if read.crit.is_some() => Err(TokenError::Critical),
        "HS256" => Ok(()),
        "RS256" => Err(TokenError::KeyType),
        "HS384" | "HS512" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512" | "ES256" | "ES384"
        | "ES512" | "EdDSA" | "none" => Err(TokenError::Algorithm(name)),
        _ => Err(TokenError::UnknownAlgorithm),
    })
}

/// The text of Go's decoder where it is simple to say, ours otherwise; never a part of the token but one letter.
pub(crate) fn json_error(text: &[u8], error: &serde_json::Error) -> TokenError {
    TokenError::Json(match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
        _ if error.is_eof() => "unexpected end of JSON input".to_owned(),
        Some(first) if error.is_syntax() && !b"{[\"-0123456789tfn".contains(first) => {
            format!(
                "invalid character {:?} looking for beginning of value",
                char::from(*first)
            )
        }
        _ if error.is_data() => "json: cannot unmarshal token into Go value".to_owned(),
        _ => "invalid character in JSON value".to_owned(),
    })
}

#[cfg(test)]
mod tests;
