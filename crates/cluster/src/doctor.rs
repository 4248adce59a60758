//! Why a member cannot be reached, or does not accept the host, told to the people who run the fleet.
//!
//! [`gather`] finds out, stage by stage; [`examine`] judges what was found out, and sends nothing. The types are written with `-o json`; their shape
//! only grows.

mod checks;
mod evidence;

use serde::{Deserialize, Serialize};

pub(crate) use checks::OLDEST;
pub use checks::examine;
pub use evidence::{Asked, Evidence, Replicas, Settings, gather};
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
    /// Whether `kah restore-access` may repair it.
    #[serde(default)]
    pub repairable: bool,
}

/// The finding for a cause.
#[must_use]
pub fn finding(cluster: &str, code: AccessCode, evidence: &str) -> Finding {
    let remedy = code.remedy();
    if code == AccessCode::SignatureInvalid && AccessCode::is_about_keys(evidence) {
        return untold(cluster, evidence);
    }
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
        repairable: matches!(
            code,
            AccessCode::TokenNotInCache | AccessCode::SignatureInvalid
        ) || (code == AccessCode::MemberNotReady
            && evidence.contains("0 of 0 replicas")),
    }
}

/// A member that does not know the host's keys, of which no secret in its configuration is the cause.
fn untold(cluster: &str, evidence: &str) -> Finding {
    Finding {
        cluster: cluster.to_owned(),
        code: AccessCode::SignatureInvalid,
        severity: AccessCode::SignatureInvalid.severity(),
        evidence: evidence.to_owned(),
        consequence: "The member does not know the keys by which this host signs for it, so it refuses everyone who comes through the host."
            .to_owned(),
        remedy: format!("Tell it the keys again with `kah restore-access {cluster}`."),
        commands: vec![format!("kah restore-access {cluster}")],
        repairable: true,
    }
}
