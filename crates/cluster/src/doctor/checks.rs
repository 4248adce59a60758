//! From evidence to findings. Pure: the same evidence always gives the same findings.

use jiff::SignedDuration;

use super::{Asked, Evidence, Finding, Settings, finding};
use crate::{AccessCode, Answer, SettingsError, code_of_fault};

/// A credential that ends sooner is reported.
const EXPIRES_SOON: SignedDuration = SignedDuration::from_hours(30 * 24);
/// The oldest Kubernetes that is supported.
pub(crate) const OLDEST: (u32, u32) = (1, 20);

/// What is wrong: the cause alone, not what follows from it; beside it only a credential that ends soon. None: all is well.
#[must_use]
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    let cause = stored(evidence)
        .or_else(|| refusal(evidence))
        .or_else(|| kube_api_server(evidence))
        .or_else(|| deployment(evidence))
        .or_else(|| route(evidence))
        .or_else(|| version(evidence))
        .or_else(|| settings(evidence));
    let mut findings: Vec<Finding> = cause
        .into_iter()
        .map(|(code, words)| finding(&evidence.cluster, code, &words))
        .collect();
    findings.extend(expiring(evidence));
    findings
}

type Cause = Option<(AccessCode, String)>;

fn stored(evidence: &Evidence) -> Cause {
    match &evidence.stored {
        Err(error @ (SettingsError::Missing | SettingsError::Absent(_))) => {
            Some((AccessCode::CredentialRejected, error.to_string()))
        }
        Err(error) => Some((AccessCode::ConfigUnreadable, error.to_string())),
        Ok(()) => None,
    }
}

/// The member's ks-apiserver answers, and does not accept the token: whatever else may be wrong, this is its own word.
fn refusal(evidence: &Evidence) -> Cause {
    let Answer::Refused {
        code: Some(code),
        evidence: words,
    } = &evidence.route
    else {
        return None;
    };
    // Only a member takes the word of a host.
    if AccessCode::is_about_keys(words)
        && let Some(cause) = wrong_role(evidence)
    {
        return Some(cause);
    }
    matches!(
        code,
        AccessCode::TokenNotInCache
            | AccessCode::SignatureInvalid
            | AccessCode::ClockSkew
            | AccessCode::UserMissing
            | AccessCode::UserDisabled
            | AccessCode::RouteForbidden
    )
    .then(|| (*code, words.clone()))
}

fn kube_api_server(evidence: &Evidence) -> Cause {
    match &evidence.kubernetes {
        Asked::Rejected(words) => Some((AccessCode::CredentialRejected, words.clone())),
        Asked::Fault(kind, words) => Some((code_of_fault(*kind)?, words.clone())),
        _ => None,
    }
}

fn deployment(evidence: &Evidence) -> Cause {
    if evidence.route == Answer::Accepted {
        return None;
    }
    match &evidence.replicas {
        Asked::Told(replicas) if replicas.ready == 0 => {
            let words = format!(
                "Deployment ks-apiserver has 0 of {} replicas ready",
                replicas.wanted
            );
            Some((AccessCode::MemberNotReady, words))
        }
        _ => None,
    }
}

fn route(evidence: &Evidence) -> Cause {
    match &evidence.route {
        Answer::Accepted => None,
        Answer::Refused {
            code,
            evidence: words,
        } => Some((
            code.unwrap_or(AccessCode::VersionUnsupported),
            words.clone(),
        )),
    }
}

fn version(evidence: &Evidence) -> Cause {
    match evidence.kubernetes {
        Asked::Told(found) if found < OLDEST => Some((
            AccessCode::VersionUnsupported,
            format!(
                "Kubernetes {}.{}, older than {}.{}",
                found.0, found.1, OLDEST.0, OLDEST.1
            ),
        )),
        _ => None,
    }
}

fn settings(evidence: &Evidence) -> Cause {
    match &evidence.settings {
        Asked::Told(Settings::Unreadable(words)) => {
            Some((AccessCode::ConfigUnreadable, words.clone()))
        }
        Asked::Absent => Some((
            AccessCode::ConfigUnreadable,
            "there is no ConfigMap kubesphere-config".into(),
        )),
        Asked::Forbidden(words) => Some((AccessCode::ConfigUnreadable, words.clone())),
        _ => wrong_role(evidence),
    }
}

fn wrong_role(evidence: &Evidence) -> Cause {
    match &evidence.settings {
        Asked::Told(Settings::Read { role }) if role != "member" => Some((
            AccessCode::WrongRole,
            format!("multicluster.clusterRole is {role:?}"),
        )),
        _ => None,
    }
}

fn expiring(evidence: &Evidence) -> Option<Finding> {
    let ends = evidence.certificate_ends?;
    let left = ends.duration_since(evidence.now);
    (left > SignedDuration::ZERO && left < EXPIRES_SOON).then(|| {
        let words = format!(
            "the client certificate ends {ends}, in {} days",
            left.as_hours() / 24
        );
        finding(&evidence.cluster, AccessCode::CredentialExpiring, &words)
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use kah_net::Kind;

    use super::super::Replicas;
    use super::*;

    fn healthy() -> Evidence {
        Evidence {
            cluster: "m".into(),
            stored: Ok(()),
            route: Answer::Accepted,
            kubernetes: Asked::Told((1, 36)),
            replicas: Asked::Told(Replicas {
                wanted: 1,
                ready: 1,
            }),
            settings: Asked::Told(Settings::Read {
                role: "member".into(),
            }),
            certificate_ends: None,
            now: Timestamp::from_second(1_800_000_000).unwrap(),
        }
    }

    fn refused(code: Option<AccessCode>) -> Answer {
        Answer::Refused {
            code,
            evidence: "401: its words".into(),
        }
    }

    fn codes(evidence: &Evidence) -> Vec<AccessCode> {
        let found = examine(evidence);
        assert!(found.iter().all(|finding| !finding.evidence.is_empty()));
        found.into_iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn each_cause_is_named_and_only_it() {
        use AccessCode as C;
        assert_eq!(codes(&healthy()), []);
        for code in [
            C::TokenNotInCache,
            C::SignatureInvalid,
            C::ClockSkew,
            C::UserMissing,
            C::UserDisabled,
            C::RouteForbidden,
            C::MemberUnreachable,
            C::VersionUnsupported,
        ] {
            let evidence = Evidence {
                route: refused(Some(code)),
                ..healthy()
            };
            assert_eq!(codes(&evidence), [code]);
        }
        for (kind, code) in [
            (Kind::NameNotResolved, C::NameNotResolved),
            (Kind::Unreachable, C::MemberUnreachable),
            (Kind::Timeout, C::MemberUnreachable),
            (Kind::TlsUntrusted, C::TLSUntrusted),
            (Kind::TlsExpired, C::TLSExpired),
            (Kind::CertificateRefused, C::CredentialRejected),
        ] {
            let evidence = Evidence {
                kubernetes: Asked::Fault(kind, "its words".into()),
                replicas: Asked::NotAsked,
                settings: Asked::NotAsked,
                route: refused(Some(C::MemberUnreachable)),
                ..healthy()
            };
            assert_eq!(codes(&evidence), [code], "{kind:?}");
        }
        let rejected = Evidence {
            kubernetes: Asked::Rejected("401: Unauthorized".into()),
            route: refused(Some(C::CredentialRejected)),
            ..healthy()
        };
        assert_eq!(codes(&rejected), [C::CredentialRejected]);
        let stopped = Evidence {
            replicas: Asked::Told(Replicas {
                wanted: 0,
                ready: 0,
            }),
            route: refused(Some(C::MemberUnreachable)),
            ..healthy()
        };
        assert_eq!(codes(&stopped), [C::MemberNotReady]);
        let old = Evidence {
            kubernetes: Asked::Told((1, 19)),
            ..healthy()
        };
        assert_eq!(codes(&old), [C::VersionUnsupported]);
        let rubbish = Evidence {
            settings: Asked::Told(Settings::Unreadable("line 3".into())),
            ..healthy()
        };
        assert_eq!(codes(&rubbish), [C::ConfigUnreadable]);
        let role = Evidence {
            settings: Asked::Told(Settings::Read {
                role: "host".into(),
            }),
            ..healthy()
        };
        assert_eq!(codes(&role), [C::WrongRole]);
        let unknown = |words: &str| Evidence {
            route: Answer::Refused {
                code: Some(C::SignatureInvalid),
                evidence: format!("401: Unauthorized: {words}"),
            },
            ..healthy()
        };
        let words = "signing method EdDSA is invalid";
        let told = examine(&unknown(words));
        assert!(told[0].repairable && told[0].remedy.contains("kah restore-access m"));
        let role = Evidence {
            settings: Asked::Told(Settings::Read {
                role: "none".into(),
            }),
            ..unknown(words)
        };
        assert_eq!(codes(&role), [C::WrongRole]);
        let missing = Evidence {
            stored: Err(SettingsError::Missing),
            ..healthy()
        };
        assert_eq!(codes(&missing), [C::CredentialRejected]);
    }

    #[test]
    fn a_credential_that_ends_soon_is_told_beside_the_cause() {
        let day = SignedDuration::from_hours(24);
        for (days, told) in [(-1, false), (1, true), (29, true), (31, false)] {
            let mut evidence = healthy();
            evidence.certificate_ends = Some(evidence.now + day * days);
            let wanted: &[AccessCode] = if told {
                &[AccessCode::CredentialExpiring]
            } else {
                &[]
            };
            assert_eq!(codes(&evidence), wanted, "{days}");
            evidence.route = refused(Some(AccessCode::TokenNotInCache));
            assert_eq!(codes(&evidence)[0], AccessCode::TokenNotInCache);
        }
    }

    #[test]
    fn of_two_faults_the_one_that_people_meet_comes_first() {
        let evidence = Evidence {
            route: refused(Some(AccessCode::SignatureInvalid)),
            settings: Asked::Told(Settings::Read {
                role: String::new(),
            }),
            replicas: Asked::Absent,
            ..healthy()
        };
        assert_eq!(codes(&evidence), [AccessCode::SignatureInvalid]);
    }
}
