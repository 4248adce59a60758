//! When the credential that the host stores for a member ends, or the certificate of the member's agent.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

/// A credential that ends sooner is reported.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What an agent shows who it is with.
pub(crate) const AGENT_CERTIFICATE: &str = "the agent's certificate";

/// The life of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// What it is, for people.
    pub what: &'static str,
    /// When it was issued, where that is known and matters: see [`Expiry::is_soon`].
    pub from: Option<Timestamp>,
    /// When it ends.
    pub ends: Timestamp,
}

impl Expiry {
    /// What is left at this time.
    #[must_use]
    pub fn left(&self, now: Timestamp) -> SignedDuration {
        self.ends.duration_since(now)
    }

    /// Whether it is one that the host had the member issue, and may replace without asking.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.from.is_some()
    }

    /// How long before its end it is to be replaced: 30 days, or, for one that we renew ourselves and that may be made for less, a third of its life.
    #[must_use]
    pub fn lead(&self) -> SignedDuration {
        let third = self
            .from
            .map_or(SOON, |from| self.ends.duration_since(from) / 3);
        SOON.min(third)
    }

    /// Whether it is time to replace it.
    #[must_use]
    pub fn is_soon(&self, now: Timestamp) -> bool {
        self.left(now) < self.lead()
    }

    /// The days that are left, and for less than a day the hours.
    #[must_use]
    pub fn words(&self, now: Timestamp) -> String {
        let left = self.left(now);
        let ends = self.ends.round(jiff::Unit::Second).unwrap_or(self.ends);
        if left < SignedDuration::ZERO {
            format!("{} ended {ends}", self.what)
        } else if left < SignedDuration::from_hours(48) {
            format!("{} ends {ends}, in {} hours", self.what, left.as_hours())
        } else {
            let days = left.as_hours() / 24;
            format!("{} ends {ends}, in {days} days", self.what)
        }
    }

    /// Of the first certificate of a PEM chain.
    pub(crate) fn of_certificate(chain: &[u8]) -> Option<Self> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(chain).ok()?;
        let ends = pem.parse_x509().ok()?.validity().not_after.timestamp();
        Some(Self {
            what: "the client certificate",
            from: None,
            ends: Timestamp::from_second(ends).ok()?,
        })
    }

    /// Of a service account's token. `ours` is the subject whose tokens we renew ourselves.
    pub(crate) fn of_token(token: &str, ours: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Claims {
            exp: i64,
            #[serde(default)]
            iat: i64,
            #[serde(default)]
            sub: String,
        }
        let payload = token.split('.').nth(1)?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        Some(Self {
            what: "the token",
            from: (claims.sub == ours)
                .then(|| Timestamp::from_second(claims.iat).ok())
                .flatten(),
            ends: Timestamp::from_second(claims.exp).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_tells_its_end() {
        let token = |claims: &str| format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims));
        let read = |claims: &str| Expiry::of_token(&token(claims), "me");
        assert_eq!(read("{}"), None);
        assert_eq!(Expiry::of_token("opaque", "me"), None);
        let other = read(r#"{"exp":900000,"iat":0,"sub":"other"}"#).unwrap();
        assert_eq!((other.from, other.ends.as_second()), (None, 900_000));
        assert!(
            read(r#"{"exp":900000,"iat":0,"sub":"me"}"#)
                .unwrap()
                .from
                .is_some()
        );
    }

    #[test]
    fn what_we_renew_ourselves_may_be_short() {
        let day = |day: i64| Timestamp::from_second(day * 86_400).unwrap();
        for (from, ends, now, soon) in [
            (None, 100, 69, false),
            (None, 100, 71, true),
            (Some(0), 9, 5, false),
            (Some(0), 9, 7, true),
            (Some(0), 365, 334, false),
            (Some(0), 365, 336, true),
            (None, 100, 101, true),
        ] {
            let expiry = Expiry {
                what: "it",
                from: from.map(day),
                ends: day(ends),
            };
            assert_eq!(expiry.is_soon(day(now)), soon, "{from:?} {ends} {now}");
        }
    }
}
