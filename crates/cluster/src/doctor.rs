//! Why a member cannot be reached, or does not accept the host, told to the people who run the fleet.
//!
//! [`gather`] finds out, stage by stage; [`examine`] judges what was found out, and sends nothing. The types are written with `-o json`; their shape
//! only grows.

mod checks;
mod evidence;
mod expiry;
mod log;
mod serving;
mod stages;

use serde::{Deserialize, Serialize};

pub(crate) use checks::OLDEST;
pub use checks::examine;
pub use evidence::{Asked, Evidence, Read, Replicas, Secret, Settings, gather};
pub(crate) use expiry::AGENT_CERTIFICATE;
pub use expiry::Expiry;
pub use kah_api::access::Severity;
pub(crate) use serving::SERVING_CERTIFICATE;
pub use serving::Serving;
pub use stages::{Outcome, Stage, stages};

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
    /// Whether `kah restore-access` may repair it with what the host has.
    #[serde(default)]
    pub repairable: bool,
    /// The command that may repair it, also where people have to bring something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<String>,
}

impl Finding {
    /// What it means and what shows it, as conditions and Events tell it.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!("{} ({})", self.consequence, self.evidence)
    }

    /// What to do, in a sentence that names the command that may repair it.
    #[must_use]
    pub fn what_to_do(&self) -> String {
        what_to_do(self.repair.as_deref(), &self.remedy)
    }
}

/// A command that may repair something, where there is one, beside what can be done by hand.
#[must_use]
pub fn what_to_do(repair: Option<&str>, by_hand: &str) -> String {
    match repair {
        Some(command) if !by_hand.contains(&format!("`{command}`")) => {
            format!("Run `{command}`, or by hand: {by_hand}")
        }
        _ => by_hand.to_owned(),
    }
}

/// The parts of a [`Finding::sentence`]: what it means, and what shows it.
#[must_use]
pub fn parts(sentence: &str) -> (&str, &str) {
    // No consequence has a bracket; what members say may have.
    let (consequence, rest) = sentence.split_once(" (").unwrap_or((sentence, ""));
    (consequence, rest.strip_suffix(')').unwrap_or(rest))
}

/// Characters of evidence.
const LONGEST: usize = 1000;

/// The finding for a cause.
#[must_use]
pub fn finding(cluster: &str, code: AccessCode, evidence: &str) -> Finding {
    // What a member says is as long as it likes; what is told of it has to fit into an object, and on a screen.
    let evidence: &str = &evidence.chars().take(LONGEST).collect::<String>();
    let remedy = code.remedy();
    if code == AccessCode::SignatureInvalid && AccessCode::is_about_keys(evidence) {
        return untold(cluster, evidence);
    }
    if code == AccessCode::SignatureInvalid && AccessCode::is_about_identity(evidence) {
        return stranger(cluster, evidence);
    }
    if code == AccessCode::CredentialRejected && evidence.contains(FELT_BY_NOBODY) {
        return rejected_beside(cluster, evidence);
    }
    if is_of_the_agent(code, evidence) {
        return agent_expires(cluster, evidence);
    }
    if is_of_a_server(code, evidence) {
        return serving_expires(cluster, evidence);
    }
    let repair = repair(cluster, code, evidence);
    Finding {
        cluster: cluster.to_owned(),
        code,
        severity: code.severity(),
        evidence: evidence.to_owned(),
        consequence: code.consequence().to_owned(),
        remedy: remedy.text_for(cluster),
        commands: remedy.commands_for(cluster),
        repairable: repair.as_ref().is_some_and(|it| !it.contains("--")),
        repair,
    }
}

/// Whether `kah restore-access` may repair this cause, as this evidence tells it, and nobody has to bring anything.
#[must_use]
pub fn is_repaired_alone(code: AccessCode, evidence: &str) -> bool {
    repair("", code, evidence).is_some_and(|command| !command.contains("--"))
}

/// The command that may repair this cause; `None` where only people at the member can.
fn repair(cluster: &str, code: AccessCode, evidence: &str) -> Option<String> {
    let command = format!("kah restore-access {cluster}");
    match code {
        AccessCode::WrongRole => (!evidence.contains(SERVES_MEMBERS)).then_some(command),
        AccessCode::SignatureInvalid => {
            (!AccessCode::is_about_identity(evidence)).then_some(command)
        }
        AccessCode::TokenNotInCache | AccessCode::UserMissing | AccessCode::UserDisabled => {
            Some(command)
        }
        AccessCode::CredentialExpiring => {
            let of_others = is_of_the_agent(code, evidence) || is_of_a_server(code, evidence);
            (!of_others).then_some(command)
        }
        AccessCode::MemberNotReady => evidence.contains(NO_REPLICAS).then_some(command),
        // What people have to bring: an authority they know, or a credential.
        AccessCode::TLSUntrusted => Some(format!("{command} --accept-ca FINGERPRINT")),
        // Whoever the member lets in may have it issue another one.
        AccessCode::CredentialRejected if evidence.contains(FELT_BY_NOBODY) => Some(command),
        AccessCode::CredentialRejected => Some(format!("{command} --kubeconfig FILE")),
        _ => None,
    }
}

/// How a Deployment that was stopped is told.
const NO_REPLICAS: &str = "0 of 0 replicas";
/// How a fault of the kube-apiserver is told that callers do not feel.
const FELT_BY_NOBODY: &str = "callers get through";
/// How a member is told that is a host of others: what it is to be is for people to decide.
const SERVES_MEMBERS: &str = "it serves members of its own";

/// What was found about one member: as the host answers, and as reconcilers may keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The Cluster's name.
    pub cluster: String,
    /// No finding is an error.
    pub healthy: bool,
    /// The cause first, then warnings.
    pub findings: Vec<Finding>,
    /// What was looked at, in order, and how it went.
    pub stages: Vec<Stage>,
    /// The stages that nothing could be said about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
    /// The version of the member's Kubernetes, where it was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<String>,
    /// The version of its ks-apiserver, where it was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// Judges what was found out.
#[must_use]
pub fn report(evidence: &Evidence) -> Report {
    let findings = examine(evidence);
    let stages = stages(evidence, &findings);
    Report {
        cluster: evidence.cluster.clone(),
        healthy: findings
            .iter()
            .all(|finding| finding.severity != Severity::Error),
        unknown: stages
            .iter()
            .filter(|stage| stage.outcome == Outcome::Unknown)
            .map(|stage| stage.name.to_owned())
            .collect(),
        findings,
        stages,
        kubernetes: match evidence.kubernetes {
            Asked::Told((major, minor)) => Some(format!("{major}.{minor}")),
            _ => None,
        },
        server: evidence.server.clone(),
    }
}

/// Another cluster answers than the one that joined: nothing that is stored or configured cures that.
fn stranger(cluster: &str, evidence: &str) -> Finding {
    let commands = [
        format!("kah cluster leave {cluster}"),
        format!("kah cluster join {cluster} --kubeconfig FILE"),
    ];
    Finding {
        cluster: cluster.to_owned(),
        code: AccessCode::SignatureInvalid,
        severity: AccessCode::SignatureInvalid.severity(),
        evidence: evidence.to_owned(),
        consequence: "What answers for the member is another cluster, so the host signs nothing for it."
            .to_owned(),
        remedy: "If the cluster was set up anew, let it leave and join again; if it was not, somebody stands in its place.".to_owned(),
        commands: commands.into(),
        repairable: false,
        repair: None,
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
        repair: Some(format!("kah restore-access {cluster}")),
    }
}

/// Whether it is told of the agent's certificate, which the host can neither see renewed nor renew.
fn is_of_the_agent(code: AccessCode, evidence: &str) -> bool {
    code == AccessCode::CredentialExpiring && evidence.starts_with(AGENT_CERTIFICATE)
}

/// Whether it is told of what a server of the member shows, which is for people at the member to renew.
fn is_of_a_server(code: AccessCode, evidence: &str) -> bool {
    code == AccessCode::CredentialExpiring && evidence.starts_with(SERVING_CERTIFICATE)
}

/// A server of the member whose certificate ends.
fn serving_expires(cluster: &str, evidence: &str) -> Finding {
    let commands: &[&str] = if evidence.starts_with(serving::KUBE_APISERVER) {
        &[
            "kubeadm certs check-expiration",
            "kubeadm certs renew apiserver",
        ]
    } else {
        &["kubectl get certificates.cert-manager.io --all-namespaces"]
    };
    Finding {
        cluster: cluster.to_owned(),
        code: AccessCode::CredentialExpiring,
        severity: AccessCode::CredentialExpiring.severity(),
        evidence: evidence.to_owned(),
        consequence: "After its end nobody who checks this certificate talks to the server that shows it: neither other clients nor, unless its kubeconfig says to check nothing, the host."
            .to_owned(),
        remedy: "Renew it on the member, with `kubeadm certs renew apiserver` and a restart of the kube-apiserver where kubeadm made it; where cert-manager or a load balancer holds it, see why it was not renewed."
            .to_owned(),
        commands: commands.iter().map(|&it| it.to_owned()).collect(),
        repairable: false,
        repair: None,
    }
}

/// An agent that has not got another certificate in time.
fn agent_expires(cluster: &str, evidence: &str) -> Finding {
    Finding {
        cluster: cluster.to_owned(),
        code: AccessCode::CredentialExpiring,
        severity: AccessCode::CredentialExpiring.severity(),
        evidence: evidence.to_owned(),
        consequence: "When it has ended, the agent cannot reach the host any more and the member is away until it joins again."
            .to_owned(),
        remedy: format!(
            "On the member, read in the agent's log why it gets no other one; `kah cluster join {cluster} --agent --force` gives it a new one in any case."
        ),
        commands: vec![
            "kubectl -n kubesphere-system logs deploy/kah-agent".to_owned(),
            format!("kah cluster join {cluster} --agent --force"),
        ],
        repairable: false,
        repair: None,
    }
}

/// A stored credential that is rejected, by which nobody comes to the member.
fn rejected_beside(cluster: &str, evidence: &str) -> Finding {
    let code = AccessCode::CredentialRejected;
    let repair = repair(cluster, code, evidence);
    Finding {
        cluster: cluster.to_owned(),
        code,
        severity: code.severity(),
        evidence: evidence.to_owned(),
        consequence: "The member's kube-apiserver rejects the credential that the host stores for it, so the host itself can do nothing there: nothing is propagated, and lost access could not be restored."
            .to_owned(),
        remedy: format!("Have the member issue another one with `kah restore-access {cluster}`, or store a current kubeconfig."),
        commands: repair.iter().cloned().collect(),
        repairable: repair.is_some(),
        repair,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_comes_apart_into_what_it_was_made_of() {
        for code in AccessCode::ALL {
            for evidence in ["its words", "401 (twice): a (b) (c)", ""] {
                let finding = finding("m", code, evidence);
                let sentence = finding.sentence();
                let wanted = (finding.consequence.as_str(), evidence);
                assert_eq!(parts(&sentence), wanted, "{sentence}");
            }
        }
        assert_eq!(parts("no brackets"), ("no brackets", ""));
    }

    #[test]
    fn what_a_server_shows_is_repaired_by_nobody_here() {
        let code = AccessCode::CredentialExpiring;
        for (whose, command) in [
            ("kube-apiserver", "kubeadm certs check-expiration"),
            ("ks-apiserver", "kubectl get certificates.cert-manager.io"),
        ] {
            let evidence = format!("{SERVING_CERTIFICATE} its {whose} ends soon");
            let told = finding("m", code, &evidence);
            assert_eq!((told.repairable, &told.repair), (false, &None));
            assert!(told.commands[0].starts_with(command), "{told:?}");
            assert_eq!(parts(&told.sentence()).1, evidence);
            assert!(!is_repaired_alone(code, &evidence));
        }
        assert!(is_repaired_alone(code, "the token ends soon"));
    }

    #[test]
    fn what_to_do_names_the_repairing_step_once() {
        for (repair, by_hand, told) in [
            (None, "By hand.", "By hand."),
            (
                Some("kah x"),
                "By hand.",
                "Run `kah x`, or by hand: By hand.",
            ),
            (
                Some("kah x"),
                "Tell it with `kah x`.",
                "Tell it with `kah x`.",
            ),
        ] {
            assert_eq!(what_to_do(repair, by_hand), told);
        }
    }
}
