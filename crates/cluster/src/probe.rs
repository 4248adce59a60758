//! One question by the route that callers use, with a credential of the host: does the member let it in?

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use jiff::{Timestamp, fmt::rfc2822};

use crate::{AccessCode, CallerCredential, Form, Hop, Member, MemberRefusal, peek::peek};

/// For one question.
const ANSWER: Duration = Duration::from_secs(4);

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
    /// Asks for something that needs a login on the member and that every ks-apiserver answers itself.
    pub async fn probe(&self, caller: &CallerCredential) -> Answer {
        self.listen(caller).await.answer
    }

    /// As [`Member::probe`], with the member's time.
    pub async fn listen(&self, caller: &CallerCredential) -> Heard {
        let asked = async {
            let response = match self.forward(request(), hop("/version", caller)).await {
                Ok(response) => response,
                Err(error) => return Heard::refused(error.code(), error.evidence()),
            };
            let date = date(response.headers());
            let status = response.status();
            let code = response.extensions().get::<MemberRefusal>().map(|it| it.0);
            // A role that is missing is the member's answer to somebody whom it knows.
            if status.is_success() || (status == StatusCode::FORBIDDEN && code.is_none()) {
                return Heard {
                    answer: Answer::Accepted,
                    date,
                };
            }
            let (prefix, _) = peek(response.into_body()).await;
            let words = serde_json::from_slice::<serde_json::Value>(&prefix)
                .ok()
                .and_then(|value| Some(value.get("message")?.as_str()?.to_owned()))
                .unwrap_or_default();
            Heard {
                date,
                ..Heard::refused(code, format!("{}: {words}", status.as_u16()))
            }
        };
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(heard) => heard,
            Err(_) => Heard::refused(
                Some(AccessCode::MemberUnreachable),
                format!("no answer within {} s", ANSWER.as_secs()),
            ),
        }
    }

    /// The version that the member's ks-apiserver tells of itself, if it does.
    pub async fn server_version(&self) -> Option<String> {
        let asked = async {
            let hop = hop("/kapis/version", &CallerCredential::Anonymous);
            let response = self.forward(request(), hop).await.ok()?;
            let (prefix, _) = peek(response.into_body()).await;
            let value: serde_json::Value = serde_json::from_slice(&prefix).ok()?;
            Some(value.get("gitVersion")?.as_str()?.to_owned())
        };
        tokio::time::timeout(ANSWER, asked).await.ok().flatten()
    }
}

fn request() -> http::Request<kah_net::Body> {
    http::Request::new(kah_net::empty())
}

fn hop(target: &'static str, caller: &CallerCredential) -> Hop {
    Hop {
        target: http::uri::PathAndQuery::from_static(target),
        form: Form::Segment,
        caller: caller.clone(),
        client: None,
        long_running: false,
    }
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
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
