//! What a member says about its trust, asked by the way of callers and for nobody in particular.

use std::time::Duration;

use http::StatusCode;
use kah_iam::Offer;

use crate::{CallerCredential, Form, Hop, Member, peek::peek};

/// For the answer.
const ANSWER: Duration = Duration::from_secs(4);

impl Member {
    /// What it offers and holds.
    ///
    /// # Errors
    /// In words: it does not answer, or is no member that could offer anything.
    pub async fn offer(&self) -> Result<Offer, String> {
        let hop = Hop {
            target: http::uri::PathAndQuery::from_static("/kapis/hub.kubeaihub.io/v1/trust"),
            form: Form::Segment,
            caller: CallerCredential::Anonymous,
            client: None,
            long_running: false,
            ends: None,
        };
        let asked = async {
            let request = http::Request::new(kah_net::empty());
            let response = self
                .send(request, hop)
                .await
                .map_err(|error| error.evidence())?;
            let status = response.status();
            if status != StatusCode::OK {
                return Err(format!("asked what it offers, it answered {status}"));
            }
            // An offer is short: what is longer than a peek is none.
            let (body, _) = peek(response.into_body()).await;
            serde_json::from_slice(&body)
                .map_err(|_| "asked what it offers, it answered something else".to_owned())
        };
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
        }
    }
}
