//! What a member says about its trust, asked by the way of callers and for nobody in particular.

use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use kah_iam::Offer;

use crate::{
    AccessCode, CallerCredential, Form, ForwardError, Hop, Member, MemberRefusal, peek::peek,
    probe::date,
};

/// For the answer.
const ANSWER: Duration = Duration::from_secs(4);

/// Why no offer of federated trust is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoOffer {
    /// A ks-apiserver answered, and offers none.
    Lacking(String),
    /// That is not known: nobody answered, or not to this question.
    Unknown {
        /// Why, where that is known.
        code: Option<AccessCode>,
        /// What shows it; it quotes nothing that was answered.
        evidence: String,
    },
}

impl NoOffer {
    fn unknown(evidence: impl Into<String>) -> Self {
        Self::Unknown {
            code: None,
            evidence: evidence.into(),
        }
    }

    fn of(error: &ForwardError) -> Self {
        Self::Unknown {
            code: error.code(),
            evidence: error.evidence(),
        }
    }
}

impl Member {
    /// What it offers and holds, if that is federated trust.
    pub(crate) async fn offer(&self) -> Result<Offer, NoOffer> {
        self.offer_within(ANSWER).await.0
    }

    /// The same within another time, and the member's time when it answered. Whoever says no has to answer as a ks-apiserver does besides: somebody in
    /// between must not decide over the trust.
    pub(crate) async fn offer_within(
        &self,
        limit: Duration,
    ) -> (Result<Offer, NoOffer>, Option<Timestamp>) {
        let mut date = None;
        let asked = async {
            let offer = self.ask_offer(&mut date).await;
            if matches!(offer, Err(NoOffer::Lacking(_))) && self.server_version().await.is_none() {
                let words = "it offers no trust, nor does it say its version";
                return Err(NoOffer::unknown(words));
            }
            offer
        };
        let answer = tokio::time::timeout(limit, asked).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(NoOffer::Unknown {
                code: Some(AccessCode::MemberUnreachable),
                evidence: format!("no answer within {limit:?}"),
            })
        });
        (answer, date)
    }

    async fn ask_offer(&self, at: &mut Option<Timestamp>) -> Result<Offer, NoOffer> {
        let hop = Hop {
            target: http::uri::PathAndQuery::from_static("/kapis/hub.kubeaihub.io/v1/trust"),
            form: Form::Segment,
            caller: CallerCredential::Anonymous,
            client: None,
            long_running: false,
            ends: None,
        };
        let request = http::Request::new(kah_net::empty());
        let response = self
            .send(request, hop)
            .await
            .map_err(|error| NoOffer::of(&error))?;
        *at = date(response.headers());
        let status = response.status();
        let words = format!("asked what it offers, it answered {}", status.as_u16());
        let code = response.extensions().get::<MemberRefusal>().map(|it| it.0);
        // An offer is short: what is longer than a peek is none.
        let (body, _) = peek(response.into_body()).await;
        match (status, code) {
            (StatusCode::OK, _) => {}
            // The kube-apiserver in front of it speaks.
            (_, Some(AccessCode::CredentialRejected | AccessCode::RouteForbidden))
            | (_, Some(AccessCode::MemberNotReady)) => {
                return Err(NoOffer::Unknown {
                    code,
                    evidence: words,
                });
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND, _) => {
                return Err(NoOffer::Lacking(words));
            }
            _ => return Err(NoOffer::unknown(words)),
        }
        let offer: Offer = serde_json::from_slice(&body)
            .map_err(|_| NoOffer::unknown("asked what it offers, it answered something else"))?;
        if !offer.offers.iter().any(|kind| kind == "federated") || offer.audience.is_empty() {
            return Err(NoOffer::Lacking("it says so".into()));
        }
        Ok(offer)
    }
}
