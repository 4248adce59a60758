//! One question by the route that callers use, with a credential of the host: does the member let it in?

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, StatusCode, header};
use jiff::{Timestamp, fmt::rfc2822};
use tokio::time::Instant;

use crate::{
    AccessCode, CallerCredential, Form, Hop, Member, MemberRefusal, offer::NoOffer, peek::peek,
};

/// For one question.
const ANSWER: Duration = Duration::from_secs(4);
/// Characters of evidence.
const LONGEST: usize = 500;
/// What is proven counts for this long against a stored condition that says otherwise: whoever writes it looks more often.
const RECENT: Duration = Duration::from_secs(5);

/// What the member says to a token of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It knows who asks.
    Accepted,
    /// It does not, or does not answer.
    Refused {
        /// Why, where that is known.
        code: Option<AccessCode>,
        /// What shows it: the words of the answer, or of the fault on the way.
        evidence: String,
    },
}

/// When this process last saw for itself that the member answers: callers do not have to wait until the stored condition says so.
#[derive(Debug, Default)]
pub(crate) struct Proven(Mutex<Option<Instant>>);

impl Proven {
    pub(crate) fn is_recent(&self) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| at.elapsed() < RECENT)
    }

    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// An [`Answer`], and what came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Whether the member lets the token in.
    pub answer: Answer,
    /// The member's time when it answered, to the second.
    pub date: Option<Timestamp>,
}

impl Heard {
    fn refused(code: Option<AccessCode>, evidence: String) -> Self {
        Self {
            answer: Answer::Refused { code, evidence },
            date: None,
        }
    }
}

impl Member {
    /// Asks for something that needs a login on the member and that every ks-apiserver answers itself. Asks in any case: also a member that is said
    /// not to be ready.
    pub async fn probe(&self, caller: &CallerCredential) -> Answer {
        self.probe_within(caller, ANSWER).await
    }

    /// [`Member::probe`] with another time limit.
    pub async fn probe_within(&self, caller: &CallerCredential, limit: Duration) -> Answer {
        self.listen_within(caller, limit).await.answer
    }

    /// As [`Member::probe`], with the member's time.
    pub async fn listen(&self, caller: &CallerCredential) -> Heard {
        self.listen_within(caller, ANSWER).await
    }

    async fn listen_within(&self, caller: &CallerCredential, limit: Duration) -> Heard {
        let asked = async {
            if self.is_undecided() {
                return self.undecided(limit).await;
            }
            self.asked(caller).await
        };
        let heard = match tokio::time::timeout(limit, asked).await {
            Ok(heard) => heard,
            Err(_) => Heard::refused(
                Some(AccessCode::MemberUnreachable),
                format!("no answer within {limit:?}"),
            ),
        };
        match heard.answer {
            Answer::Accepted => self.proven.now(),
            Answer::Refused { .. } => self.proven.forget(),
        }
        heard
    }

    async fn asked(&self, caller: &CallerCredential) -> Heard {
        let request = http::Request::new(kah_net::empty());
        let response = match self.send(request, hop("/version", caller.clone())).await {
            Ok(response) => response,
            Err(error) => return Heard::refused(error.code(), cut(&error.evidence())),
        };
        let date = date(response.headers());
        let status = response.status();
        let code = response.extensions().get::<MemberRefusal>().map(|it| it.0);
        // Read in any case: a connection whose answer was read serves the next question too.
        let (prefix, _) = peek(response.into_body()).await;
        // A role that is missing is the member's answer to somebody whom it knows.
        if status.is_success() || (status == StatusCode::FORBIDDEN && code.is_none()) {
            return Heard {
                answer: Answer::Accepted,
                date,
            };
        }
        let words = serde_json::from_slice::<serde_json::Value>(&prefix)
            .ok()
            .and_then(|value| Some(cut(value.get("message")?.as_str()?)))
            .unwrap_or_default();
        // Whoever has written it: this question has one answer.
        let busy = matches!(status.as_u16(), 429 | 502 | 503 | 504);
        let code = code.or_else(|| busy.then_some(AccessCode::MemberNotReady));
        Heard {
            date,
            ..Heard::refused(code, format!("{}: {words}", status.as_u16()))
        }
    }

    /// What is known of a member that nobody's token is sent to yet: whether it is there, and what it offers.
    async fn undecided(&self, limit: Duration) -> Heard {
        let (offer, date) = self.offer_within(limit).await;
        let (code, evidence) = match offer {
            Ok(_) => (
                Some(AccessCode::TrustUndecided),
                "it offers federated trust, which is being agreed on".to_owned(),
            ),
            Err(NoOffer::Lacking(_)) => (
                Some(AccessCode::TrustUndecided),
                format!(
                    "it offers no federated trust; decide with `kah cluster trust {} shared-secret`",
                    self.name()
                ),
            ),
            Err(NoOffer::Unknown { code, evidence }) => (code, evidence),
        };
        Heard {
            date,
            ..Heard::refused(code, evidence)
        }
    }

    /// The version that the member's ks-apiserver tells of itself, if it does.
    pub async fn server_version(&self) -> Option<String> {
        let version = self.told("/kapis/version").await?;
        Some(cut(version.get("gitVersion")?.as_str()?))
    }

    /// What the member's ks-apiserver tells anybody at this path, as JSON; `None` where it does not within a few seconds, or more than is read.
    pub async fn told(&self, path: &'static str) -> Option<serde_json::Value> {
        let asked = async {
            let request = http::Request::new(kah_net::empty());
            let hop = hop(path, CallerCredential::Anonymous);
            let response = self.send(request, hop).await.ok()?;
            let status = response.status();
            let (body, _) = peek(response.into_body()).await;
            let body = status.is_success().then_some(body)?;
            serde_json::from_slice(&body).ok()
        };
        tokio::time::timeout(ANSWER, asked).await.ok()?
    }
}

/// Words of a member go into its Cluster object, which has to stay writable.
pub(crate) fn cut(words: &str) -> String {
    words.chars().take(LONGEST).collect()
}

fn hop(path: &'static str, caller: CallerCredential) -> Hop {
    Hop {
        target: http::uri::PathAndQuery::from_static(path),
        form: Form::Segment,
        caller,
        client: None,
        long_running: false,
        ends: None,
    }
}

pub(crate) fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(header::DATE)?.to_str().ok()?;
    // `GMT` is an offset of RFC 2822, in its obsolete form.
    rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_answers_are_read() {
        let mut headers = HeaderMap::new();
        assert_eq!(date(&headers), None);
        headers.insert(
            header::DATE,
            "Thu, 26 Nov 2026 18:35:48 GMT".parse().unwrap(),
        );
        assert_eq!(
            date(&headers),
            Some("2026-11-26T18:35:48Z".parse().unwrap())
        );
        headers.insert(header::DATE, "yesterday".parse().unwrap());
        assert_eq!(date(&headers), None);
    }
}
