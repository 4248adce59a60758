//! What an answer, or the lack of one, says to the people who run the fleet.
//!
//! Nothing is sent from here: a probe is a request over the host's own route, and its answer is judged by [`findings`]. The types are written with
//! `-o json`; their shape only grows.

use serde::{Deserialize, Serialize};

use crate::AccessCode;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// It works, and will stop working.
    Warning,
    /// Nobody, or not everybody, gets in.
    Error,
}

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
    let advice = advice(code);
    Finding {
        cluster: cluster.to_owned(),
        code,
        severity: if code == AccessCode::CredentialExpiring {
            Severity::Warning
        } else {
            Severity::Error
        },
        evidence: evidence.to_owned(),
        consequence: advice.consequence.to_owned(),
        remedy: advice.remedy.to_owned(),
        commands: advice
            .commands
            .iter()
            .map(|command| (*command).to_owned())
            .collect(),
    }
}

struct Advice {
    consequence: &'static str,
    remedy: &'static str,
    commands: &'static [&'static str],
}

const EDIT: &str = "kubectl -n kubesphere-system edit cm kubesphere-config -o yaml";
const RESTART: &str = "kubectl -n kubesphere-system rollout restart deploy ks-apiserver";
const SECRET: &str = "kubectl -n kubesphere-system get cm kubesphere-config -o yaml | grep -v \"apiVersion\" | grep jwtSecret";
const AGE: &str = "kubectl -n kubesphere-system get cm kubesphere-config -o yaml | grep -v \"apiVersion\" | grep accessTokenMaxAge";
const NOBODY: &str = "Nobody reaches this cluster through the host.";
const REJECTED: &str = "The member rejects every token of the host: everyone who comes through it is sent away with 401.";
const CONNECTION: &str = "kubectl edit clusters.cluster.kubesphere.io";

fn advice(code: AccessCode) -> Advice {
    let (consequence, remedy, commands): (_, _, &'static [&'static str]) = match code {
        AccessCode::TokenNotInCache => (
            REJECTED,
            "On the member, set authentication.oauthOptions.accessTokenMaxAge to 0 and restart ks-apiserver.",
            &[AGE, EDIT, RESTART],
        ),
        AccessCode::SignatureInvalid => (
            REJECTED,
            "Give the member the host's authentication.jwtSecret and restart its ks-apiserver; accessTokenMaxAge must be 0 there too.",
            &[SECRET, EDIT, RESTART],
        ),
        AccessCode::ClockSkew => (
            REJECTED,
            "Set the clocks of host and member by the same source; a difference beyond maximumClockSkew (10 s) is not accepted.",
            &["date -u"],
        ),
        AccessCode::UserMissing => (
            "This user is turned away by the member with 401; others may get in.",
            "Create the User on the member, or let the host propagate it.",
            &["kubectl get users.iam.kubesphere.io"],
        ),
        AccessCode::UserDisabled => (
            "This user is turned away by the member with 401; others may get in.",
            "Enable the User on the member: its status.state is Disabled there.",
            &["kubectl get users.iam.kubesphere.io"],
        ),
        AccessCode::MemberNotReady => (
            NOBODY,
            "Bring the member's ks-apiserver up: look at its Deployment, Pods and their logs.",
            &[
                "kubectl -n kubesphere-system get deploy,pods,endpoints",
                "kubectl -n kubesphere-system logs deploy/ks-apiserver",
            ],
        ),
        AccessCode::MemberUnreachable => (
            NOBODY,
            "Check that the address in the Cluster's spec.connection answers from the host, and that no firewall is between.",
            &["kubectl get clusters.cluster.kubesphere.io -o yaml"],
        ),
        AccessCode::TLSUntrusted => (
            NOBODY,
            "Store a kubeconfig with the member's present authority and an address that its certificate names.",
            &[CONNECTION],
        ),
        AccessCode::TLSExpired => (
            NOBODY,
            "Renew the serving certificate of the member's kube-apiserver, and check both clocks.",
            &["kubeadm certs check-expiration"],
        ),
        AccessCode::CredentialRejected => (
            NOBODY,
            "The member's kube-apiserver does not accept the stored kubeconfig: store a new one.",
            &[CONNECTION],
        ),
        AccessCode::CredentialExpiring => (
            "Access to this cluster ends when the stored client certificate expires.",
            "Store a new kubeconfig before that day.",
            &[CONNECTION],
        ),
        AccessCode::NameNotResolved => (
            NOBODY,
            "The name in the Cluster's spec.connection has no address on the host: correct the name or the DNS.",
            &[CONNECTION],
        ),
        AccessCode::RouteForbidden => (
            NOBODY,
            "The stored identity may not use services/proxy in kubesphere-system: grant it, or store another kubeconfig.",
            &["kubectl auth can-i get services/proxy -n kubesphere-system"],
        ),
        AccessCode::ConfigUnreadable => (
            NOBODY,
            "The stored connection cannot be used: store a kubeconfig that holds its data inline, without exec, files or proxies.",
            &[CONNECTION],
        ),
        AccessCode::VersionUnsupported => (
            NOBODY,
            "What answers at the member's address is not a ks-apiserver that we know: check address and version.",
            &["kubectl -n kubesphere-system get deploy ks-apiserver -o wide"],
        ),
        AccessCode::WrongRole => (
            NOBODY,
            "Set multicluster.clusterRole to member in the member's kubesphere-config and restart its ks-apiserver.",
            &[EDIT, RESTART],
        ),
    };
    Advice {
        consequence,
        remedy,
        commands,
    }
}
