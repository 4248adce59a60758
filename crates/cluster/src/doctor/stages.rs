//! What was looked at, told in order, so that people see what is known and what is not.

use kah_net::Kind;
use serde::Serialize;

use super::{Asked, Evidence, Finding, Secret, Settings};
use crate::{AccessCode, Answer};

/// How a look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// All is well there.
    Passed,
    /// Something is wrong there.
    Failed,
    /// Something will be, or is beside what callers need.
    Warned,
    /// Nothing can be said.
    Unknown,
}

/// One look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// Its stable name.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was seen.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The stages of this evidence, in the order in which they depend on each other.
#[must_use]
pub fn stages(evidence: &Evidence, findings: &[Finding]) -> Vec<Stage> {
    let mut stages = vec![connection(evidence)];
    stages.extend(way(evidence));
    stages.extend([
        kubernetes(evidence),
        deployment(evidence),
        token(evidence),
        user(evidence),
        configuration(evidence),
        clocks(evidence, findings),
        versions(evidence),
        credential(evidence),
    ]);
    stages
}

fn stage(name: &'static str, outcome: Outcome, detail: impl Into<String>) -> Stage {
    Stage {
        name,
        outcome,
        detail: detail.into(),
    }
}

fn connection(evidence: &Evidence) -> Stage {
    match &evidence.stored {
        Ok(()) => stage("connection", Outcome::Passed, ""),
        Err(error) => stage("connection", Outcome::Failed, error.to_string()),
    }
}

/// Name, connection and TLS: all passed once somebody there has answered.
fn way(evidence: &Evidence) -> [Stage; 3] {
    let names = ["name", "connect", "tls"];
    let refusal = match &evidence.route {
        Answer::Refused {
            code: Some(code),
            evidence,
        } => Some((*code, evidence.as_str())),
        _ => None,
    };
    let failed_at = match (&evidence.kubernetes, refusal) {
        (Asked::Fault(kind, words), _) => Some((place(*kind), words.as_str())),
        (Asked::NotAsked, Some((code, words))) => {
            let at = match code {
                AccessCode::NameNotResolved => 0,
                AccessCode::MemberUnreachable => 1,
                AccessCode::TLSUntrusted | AccessCode::TLSExpired => 2,
                _ => names.len(),
            };
            Some((at, words))
        }
        _ => None,
    };
    let nobody = evidence.stored.is_err();
    std::array::from_fn(|index| match failed_at {
        _ if nobody => stage(names[index], Outcome::Unknown, ""),
        Some((at, words)) if index == at => stage(names[index], Outcome::Failed, words),
        Some((at, _)) if index > at => stage(names[index], Outcome::Unknown, ""),
        _ if names[index] == "tls" => tls(evidence),
        _ => stage(names[index], Outcome::Passed, ""),
    })
}

/// What was shown there, until when.
fn tls(evidence: &Evidence) -> Stage {
    let accepted = evidence.route == Answer::Accepted;
    let told = evidence
        .serving
        .iter()
        .filter(|it| it.matters(evidence.now, accepted));
    match told.min_by_key(|it| (!it.is_soon(evidence.now), it.expiry.ends)) {
        None => stage("tls", Outcome::Passed, ""),
        Some(next) => {
            let outcome = if next.is_soon(evidence.now) {
                Outcome::Warned
            } else {
                Outcome::Passed
            };
            stage("tls", outcome, next.expiry.words(evidence.now))
        }
    }
}

fn place(kind: Kind) -> usize {
    match kind {
        Kind::NameNotResolved => 0,
        Kind::Unreachable | Kind::NotAllowed | Kind::ConnectTimeout => 1,
        Kind::Tls | Kind::TlsExpired | Kind::TlsName | Kind::TlsUntrusted => 2,
        // It was reached, and did not answer as it should.
        _ => 3,
    }
}

fn kubernetes(evidence: &Evidence) -> Stage {
    let name = "kube-apiserver";
    let beside = if evidence.route == Answer::Accepted {
        Outcome::Warned
    } else {
        Outcome::Failed
    };
    match &evidence.kubernetes {
        Asked::Told((major, minor)) => {
            stage(name, Outcome::Passed, format!("Kubernetes {major}.{minor}"))
        }
        Asked::NotAsked => stage(name, Outcome::Unknown, why_not(evidence)),
        Asked::Absent => stage(name, beside, "it has no /version"),
        Asked::Forbidden(words)
        | Asked::Rejected(words)
        | Asked::Fault(_, words)
        | Asked::Other(words) => stage(name, beside, words),
    }
}

fn why_not(evidence: &Evidence) -> String {
    match &evidence.kubeconfig {
        Err(error) => format!("not looked at: {error}"),
        Ok(()) => "not looked at: the kube-apiserver did not answer".into(),
    }
}

fn deployment(evidence: &Evidence) -> Stage {
    let name = "deployment";
    match &evidence.replicas {
        Asked::Told(replicas) => {
            let mut words = format!("{} of {} replicas ready", replicas.ready, replicas.wanted);
            if let Some(trouble) = &replicas.trouble {
                words = format!("{words}; {trouble}");
            }
            let outcome = match (replicas.ready, &evidence.route) {
                (1.., _) => Outcome::Passed,
                (_, Answer::Accepted) => Outcome::Warned,
                _ => Outcome::Failed,
            };
            stage(name, outcome, words)
        }
        Asked::Absent => stage(
            name,
            Outcome::Unknown,
            "there is no Deployment ks-apiserver",
        ),
        _ => stage(name, Outcome::Unknown, why_not(evidence)),
    }
}

fn is_of_user(code: AccessCode) -> bool {
    matches!(code, AccessCode::UserMissing | AccessCode::UserDisabled)
}

fn token(evidence: &Evidence) -> Stage {
    let name = "token";
    match &evidence.route {
        Answer::Accepted => stage(name, Outcome::Passed, "accepted over the route of callers"),
        Answer::Refused {
            code: Some(code),
            evidence: words,
        } if is_of_user(*code) => stage(name, Outcome::Passed, words),
        Answer::Refused {
            evidence: words, ..
        } => stage(name, Outcome::Failed, words),
    }
}

fn user(evidence: &Evidence) -> Stage {
    let name = "user";
    match &evidence.route {
        Answer::Accepted => stage(name, Outcome::Passed, ""),
        Answer::Refused {
            code: Some(code),
            evidence: words,
        } if is_of_user(*code) => stage(name, Outcome::Failed, words),
        Answer::Refused { .. } => stage(name, Outcome::Unknown, ""),
    }
}

fn configuration(evidence: &Evidence) -> Stage {
    let name = "configuration";
    match &evidence.settings {
        Asked::Told(Settings::Read(read)) => {
            let secret = match &read.secret {
                Secret::Same => "jwtSecret is the host's".to_owned(),
                Secret::Other { host, member } => {
                    format!("jwtSecret has fingerprint {member}, the host's {host}")
                }
                Secret::NotCompared => "jwtSecret not compared".to_owned(),
            };
            let words = format!(
                "{secret}; accessTokenMaxAge {}; clusterRole {:?}",
                read.age, read.role
            );
            // Whether a difference matters is the member's own word, at the stage before.
            let outcome = if read.role == "member" {
                Outcome::Passed
            } else {
                Outcome::Failed
            };
            stage(name, outcome, words)
        }
        Asked::Told(Settings::Unreadable(words)) | Asked::Other(words) => {
            stage(name, Outcome::Failed, words)
        }
        Asked::Absent => stage(
            name,
            Outcome::Failed,
            "there is no ConfigMap kubesphere-config",
        ),
        Asked::Forbidden(words) => stage(name, Outcome::Unknown, words),
        _ => stage(name, Outcome::Unknown, why_not(evidence)),
    }
}

fn clocks(evidence: &Evidence, findings: &[Finding]) -> Stage {
    let name = "clocks";
    let found = findings
        .iter()
        .find(|finding| finding.code == AccessCode::ClockSkew);
    match (found, evidence.clock) {
        (Some(found), _) if evidence.route == Answer::Accepted => {
            stage(name, Outcome::Warned, &found.evidence)
        }
        (Some(found), _) => stage(name, Outcome::Failed, &found.evidence),
        (None, Some(difference)) => stage(name, Outcome::Passed, super::checks::differ(difference)),
        (None, None) => stage(name, Outcome::Unknown, "no answer told the time"),
    }
}

fn versions(evidence: &Evidence) -> Stage {
    let name = "versions";
    match (&evidence.kubernetes, &evidence.server) {
        (Asked::Told(found), _) if *found < super::checks::OLDEST => stage(
            name,
            Outcome::Failed,
            format!("Kubernetes {}.{}", found.0, found.1),
        ),
        (_, Some(server)) => stage(name, Outcome::Passed, format!("ks-apiserver {server}")),
        (Asked::Told(_), None) => stage(name, Outcome::Passed, ""),
        _ => stage(name, Outcome::Unknown, ""),
    }
}

fn credential(evidence: &Evidence) -> Stage {
    let name = "credential";
    match (&evidence.kubernetes, &evidence.credential) {
        (Asked::Rejected(words), _) => stage(name, Outcome::Failed, words),
        (_, Some(credential)) if credential.is_soon(evidence.now) => {
            stage(name, Outcome::Warned, credential.words(evidence.now))
        }
        (_, Some(credential)) => stage(name, Outcome::Passed, credential.words(evidence.now)),
        (Asked::NotAsked, None) => stage(name, Outcome::Unknown, why_not(evidence)),
        (_, None) => stage(name, Outcome::Passed, "it tells no end"),
    }
}
