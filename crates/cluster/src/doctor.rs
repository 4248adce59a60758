//! What an answer, or the lack of one, says to the people who run the fleet.
//!
//! Nothing is sent from here: a probe is a request over the host's own route, and its answer is judged by [`findings`]. The types are written with
//! `-o json`; their shape only grows.

use serde::{Deserialize, Serialize};

pub use kah_api::access::Severity;

use crate::AccessCode;

/// Something that is wrong with a member, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The Cluster's name.
    pub cluster: String,
    /// The cause's stable name.
    pub code: AccessCode,
    /// How bad it is.
    pub severity: Severity,
    /// What shows it: the words of an answer or of an error.
    pub evidence: String,
    /// What follows for people, in one sentence.
    pub consequence: String,
    /// What to do, in one sentence.
    pub remedy: String,
    /// The same as commands, to be run in order against the cluster that each names.
    pub commands: Vec<String>,
}

/// What a probe over the host's route got back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The value of `X-KubeAIHub-Member-Refusal`, or the reason of a `details.causes[]` entry.
    pub refusal: Option<String>,
    /// The Status' message, or the body's first line.
    pub message: String,
}

/// Judges the answer of one cluster. No findings: the member lets the caller in.
#[must_use]
pub fn findings(cluster: &str, answer: &Answer) -> Vec<Finding> {
    let code = answer
        .refusal
        .as_deref()
        .and_then(|code| code.parse::<AccessCode>().ok());
    let code = match code {
        Some(code) => code,
        // A host that does not say more.
        None if answer.status == 401 => {
            let body = serde_json::json!({ "kind": "Status", "message": answer.message });
            let found = crate::code_of_answer(
                crate::Origin::BehindKubeApiserver,
                http::StatusCode::UNAUTHORIZED,
                &http::HeaderMap::new(),
                body.to_string().as_bytes(),
            );
            match found {
                Some(code) => code,
                None => AccessCode::CredentialRejected,
            }
        }
        None if matches!(answer.status, 500 | 502 | 504) => AccessCode::MemberUnreachable,
        None if answer.status == 503 => AccessCode::MemberNotReady,
        None => return Vec::new(),
    };
    vec![finding(cluster, code, &answer.message)]
}

/// The finding for a cause.
#[must_use]
pub fn finding(cluster: &str, code: AccessCode, evidence: &str) -> Finding {
    let remedy = code.remedy();
    Finding {
        cluster: cluster.to_owned(),
        code,
        severity: code.severity(),
        evidence: evidence.to_owned(),
        consequence: code.consequence().to_owned(),
        remedy: remedy.text.to_owned(),
        commands: remedy
            .commands
            .iter()
            .map(|command| (*command).to_owned())
            .collect(),
    }
}
