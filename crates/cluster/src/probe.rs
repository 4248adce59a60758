//! One question by the route that callers use, with a credential of the host: does the member let it in?

use std::time::Duration;

use http::StatusCode;

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

impl Member {
    /// Asks for something that needs a login on the member and that every ks-apiserver answers itself.
    pub async fn probe(&self, caller: &CallerCredential) -> Answer {
        let hop = Hop {
            target: http::uri::PathAndQuery::from_static("/version"),
            form: Form::Segment,
            caller: caller.clone(),
            client: None,
            long_running: false,
            ends: None,
        };
        let request = http::Request::new(kah_net::empty());
        let asked = async {
            let response = match self.forward(request, hop).await {
                Ok(response) => response,
                Err(error) => {
                    return Answer::Refused {
                        code: error.code(),
                        evidence: error.evidence(),
                    };
                }
            };
            let status = response.status();
            let code = response.extensions().get::<MemberRefusal>().map(|it| it.0);
            // A role that is missing is the member's answer to somebody whom it knows.
            if status.is_success() || (status == StatusCode::FORBIDDEN && code.is_none()) {
                return Answer::Accepted;
            }
            let (prefix, _) = peek(response.into_body()).await;
            let words = serde_json::from_slice::<serde_json::Value>(&prefix)
                .ok()
                .and_then(|value| Some(value.get("message")?.as_str()?.to_owned()))
                .unwrap_or_default();
            Answer::Refused {
                code,
                evidence: format!("{}: {words}", status.as_u16()),
            }
        };
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(answer) => answer,
            Err(_) => Answer::Refused {
                code: Some(AccessCode::MemberUnreachable),
                evidence: format!("no answer within {} s", ANSWER.as_secs()),
            },
        }
    }
}
