//! From evidence to findings. Pure: the same evidence always gives the same findings.

use jiff::SignedDuration;

use super::{
    Asked, Evidence, FELT_BY_NOBODY, Finding, Read, SERVES_MEMBERS, Secret, Settings, Severity,
    finding,
};
use crate::{AccessCode, Answer, SettingsError, code_of_fault};

/// The oldest Kubernetes that is supported.
pub(crate) const OLDEST: (u32, u32) = (1, 20);
/// What a member allows that says nothing (configuration.md §3).
const SKEW: SignedDuration = SignedDuration::from_secs(10);

/// What is wrong: the cause alone, not what follows from it; beside it only what callers do not feel. None: all is well.
#[must_use]
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    let accepted = evidence.route == Answer::Accepted;
    let kubernetes = kube_api_server(evidence);
    // Where callers get through, a fault of the kube-apiserver is not theirs.
    let (felt, beside) = if accepted {
        (None, kubernetes)
    } else {
        (kubernetes, None)
    };
    let cause = stored(evidence)
        .or_else(|| stranger(evidence))
        .or_else(|| refusal(evidence))
        .or(felt)
        .or_else(|| deployment(evidence))
        .or_else(|| route(evidence))
        .or_else(|| version(evidence))
        .or_else(|| settings(evidence));
    let mut findings: Vec<Finding> = cause
        .into_iter()
        .map(|(code, words)| finding(&evidence.cluster, code, &words))
        .map(|finding| explained(finding, evidence))
        .collect();
    let beside = beside
        .map(|(code, words)| (code, format!("{words}; {FELT_BY_NOBODY}")))
        .or_else(|| hidden(evidence).filter(|_| accepted && findings.is_empty()));
    let clocks = clocks(evidence).filter(|_| accepted);
    let warnings = beside
        .into_iter()
        .chain(clocks)
        .chain(expiring(evidence))
        .chain(serving(evidence));
    findings.extend(warnings.map(|(code, words)| Finding {
        severity: Severity::Warning,
        ..finding(&evidence.cluster, code, &words)
    }));
    findings
}

type Cause = Option<(AccessCode, String)>;

/// What a finding about the stored connection says differs from one about the member.
fn explained(mut finding: Finding, evidence: &Evidence) -> Finding {
    let Err(error) = &evidence.stored else {
        return finding;
    };
    if matches!(
        error,
        SettingsError::Cluster(_) | SettingsError::Endpoint { .. }
    ) {
        finding.remedy = "Correct the connection in the Cluster object.".into();
        finding.commands = vec![format!(
            "kubectl edit clusters.cluster.kubesphere.io {}",
            evidence.cluster
        )];
        finding.repair = None;
    } else {
        let command = format!("kah restore-access {} --kubeconfig FILE", evidence.cluster);
        finding.remedy = "Store a kubeconfig of the member that can be used.".into();
        finding.commands = vec![command.clone()];
        finding.repair = Some(command);
    }
    finding.consequence =
        "The connection that is stored for the member cannot be used, so nobody reaches it through the host.".into();
    finding.repairable = false;
    finding
}

fn stored(evidence: &Evidence) -> Cause {
    let error = evidence.stored.as_ref().err()?;
    Some((error.code(), error.to_string()))
}

/// Whatever else it answers is not about the member.
fn stranger(evidence: &Evidence) -> Cause {
    let words = evidence.stranger.clone()?;
    Some((AccessCode::SignatureInvalid, words))
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
        && let Asked::Told(Settings::Read(read)) = &evidence.settings
        && let Some(cause) = wrong_role(read)
    {
        return Some(cause);
    }
    let known = matches!(
        code,
        AccessCode::TokenNotInCache
            | AccessCode::SignatureInvalid
            | AccessCode::ClockSkew
            | AccessCode::UserMissing
            | AccessCode::UserDisabled
            | AccessCode::RouteForbidden
            | AccessCode::TrustUndecided
    );
    known.then(|| {
        let mut told = vec![words.clone()];
        told.extend(compared(evidence, *code));
        if let Some(line) = &evidence.log {
            told.push(format!("its log: {line}"));
        }
        (*code, told.join("; "))
    })
}

/// What the member's configuration, or its clock, says to a refusal.
fn compared(evidence: &Evidence, code: AccessCode) -> Option<String> {
    if code == AccessCode::ClockSkew {
        // The member's own words are about its clock; the date of an answer tells whole seconds.
        let told = evidence.clock.filter(|it| it.abs().as_secs() > 2);
        return told.map(differ);
    }
    let words = match &evidence.route {
        Answer::Refused { evidence, .. } => evidence.as_str(),
        Answer::Accepted => "",
    };
    let Asked::Told(Settings::Read(read)) = &evidence.settings else {
        return None;
    };
    // Where it is about the host's keys, the secret of the configuration says nothing.
    if AccessCode::is_about_keys(words) {
        return None;
    }
    match (code, &read.secret) {
        (AccessCode::TokenNotInCache, _) if read.age.is_zero() => {
            Some("accessTokenMaxAge is 0 there, which ks-apiserver has not read yet".into())
        }
        (AccessCode::TokenNotInCache, _) => {
            Some(format!("accessTokenMaxAge is {} there", read.age))
        }
        (AccessCode::SignatureInvalid, Secret::Other { host, member }) => Some(format!(
            "jwtSecret has fingerprint {member} there and {host} on the host"
        )),
        (AccessCode::SignatureInvalid, Secret::Same) => {
            Some("jwtSecret is the host's there, which ks-apiserver has not read yet".into())
        }
        _ => None,
    }
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
            let mut words = format!(
                "Deployment ks-apiserver has 0 of {} replicas ready",
                replicas.wanted
            );
            if let Some(trouble) = &replicas.trouble {
                words = format!("{words}: {trouble}");
            }
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
        Asked::Told(Settings::Read(read)) => wrong_role(read),
        _ => None,
    }
}

fn wrong_role(read: &Read) -> Cause {
    (read.role != "member").then(|| {
        let mut words = format!("multicluster.clusterRole is {:?}", read.role);
        if read.serves_members {
            words = format!("{words}, and multicluster.enable is true: {SERVES_MEMBERS}");
        }
        (AccessCode::WrongRole, words)
    })
}

/// A configuration that we may not look at says nothing about callers.
fn hidden(evidence: &Evidence) -> Cause {
    match &evidence.settings {
        Asked::Forbidden(words) => Some((AccessCode::ConfigUnreadable, words.clone())),
        _ => None,
    }
}

/// Tokens pass still, but not all that are issued will.
fn clocks(evidence: &Evidence) -> Cause {
    let difference = evidence.clock?;
    let allowed = match &evidence.settings {
        Asked::Told(Settings::Read(read)) => SignedDuration::from_secs(read.skew.as_secs()),
        _ => SKEW,
    };
    // A date tells whole seconds, and an answer takes its time.
    let allowed = allowed.saturating_add(SignedDuration::from_secs(5));
    (difference.abs() > allowed).then(|| (AccessCode::ClockSkew, differ(difference)))
}

/// How far apart the clocks are.
pub(super) fn differ(difference: SignedDuration) -> String {
    let seconds = difference.as_secs();
    match seconds.signum() {
        1 => format!("the member's clock is {seconds} s ahead of the host's"),
        -1 => format!("the member's clock is {} s behind the host's", -seconds),
        _ => "the clocks agree to the second".into(),
    }
}

fn expiring(evidence: &Evidence) -> Cause {
    overdue(evidence).or_else(|| stored_expires(evidence))
}

/// An agent renews its own certificate, and has tried for a day by then.
fn overdue(evidence: &Evidence) -> Cause {
    let yesterday = evidence.now - SignedDuration::from_hours(24);
    let agent = evidence.agent.filter(|agent| agent.is_soon(yesterday))?;
    let words = agent.words(evidence.now);
    let words = format!("{words}; it should have been renewed by now");
    Some((AccessCode::CredentialExpiring, words))
}

fn stored_expires(evidence: &Evidence) -> Cause {
    let credential = evidence.credential?;
    let ended = credential.left(evidence.now) <= SignedDuration::ZERO;
    (!ended && credential.is_soon(evidence.now)).then(|| {
        (
            AccessCode::CredentialExpiring,
            credential.words(evidence.now),
        )
    })
}

/// The next that ends of what the member's servers show. It stands beside what the host itself shows: nothing that renews the one renews the other.
fn serving(evidence: &Evidence) -> Cause {
    let accepted = evidence.route == Answer::Accepted;
    let soon = evidence
        .serving
        .iter()
        .filter(|it| it.is_soon(evidence.now));
    let next = soon
        .filter(|it| it.matters(evidence.now, accepted))
        .min_by_key(|it| it.expiry.ends)?;
    let words = next.expiry.words(evidence.now);
    Some((AccessCode::CredentialExpiring, words))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use kah_api::time::GoDuration;
    use kah_net::Kind;

    use super::super::{
        AGENT_CERTIFICATE, Expiry, Outcome, Replicas, SERVING_CERTIFICATE, Serving, report,
    };
    use super::*;

    fn healthy() -> Evidence {
        Evidence {
            cluster: "m".into(),
            stranger: None,
            stored: Ok(()),
            kubeconfig: Ok(()),
            through_kubernetes: true,
            route: Answer::Accepted,
            clock: Some(SignedDuration::ZERO),
            kubernetes: Asked::Told((1, 36)),
            replicas: Asked::Told(Replicas {
                wanted: 1,
                ready: 1,
                trouble: None,
            }),
            settings: read("member", 0, Secret::Same),
            log: None,
            server: Some("v3.4.1".into()),
            credential: None,
            agent: None,
            serving: Vec::new(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
        }
    }

    fn read(role: &str, age: i64, secret: Secret) -> Asked<Settings> {
        Asked::Told(Settings::Read(Read {
            role: role.into(),
            serves_members: false,
            age: GoDuration::from_secs(age),
            skew: GoDuration::from_secs(10),
            secret,
        }))
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
                trouble: None,
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
            settings: read("host", 0, Secret::Same),
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
            settings: read("none", 0, Secret::Same),
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
    fn an_agent_that_does_not_renew_its_certificate_is_told() {
        let day = SignedDuration::from_hours(24);
        for (days, told) in [(2, true), (28, true), (29, false), (90, false)] {
            let mut evidence = healthy();
            evidence.agent = Some(Expiry {
                what: AGENT_CERTIFICATE,
                from: None,
                ends: evidence.now + day * days,
            });
            let findings = examine(&evidence);
            let codes: Vec<AccessCode> = findings.iter().map(|it| it.code).collect();
            let wanted: &[AccessCode] = if told {
                &[AccessCode::CredentialExpiring]
            } else {
                &[]
            };
            assert_eq!(codes, wanted, "{days}");
            // There is nothing that the host could do about it.
            assert!(
                findings
                    .iter()
                    .all(|it| !it.repairable && it.repair.is_none())
            );
            assert!(
                findings
                    .iter()
                    .all(|it| it.commands[0].contains("kah-agent"))
            );
        }
    }

    #[test]
    fn a_credential_that_ends_soon_is_told_beside_the_cause() {
        let day = SignedDuration::from_hours(24);
        for (days, told) in [(-1, false), (1, true), (29, true), (31, false)] {
            let mut evidence = healthy();
            evidence.credential = Some(Expiry {
                what: "the client certificate",
                from: None,
                ends: evidence.now + day * days,
            });
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
    fn a_servers_certificate_that_ends_soon_is_told_beside_the_cause() {
        let day = SignedDuration::from_hours(24);
        let with = |left: i32, life: i32, checked: bool| {
            let mut evidence = healthy();
            let ends = evidence.now + day * left;
            evidence.serving.push(Serving {
                expiry: Expiry {
                    what: SERVING_CERTIFICATE,
                    from: None,
                    ends,
                },
                begins: ends - day * life,
                checked,
            });
            evidence
        };
        let expiring = [AccessCode::CredentialExpiring];
        for (left, life, checked, told) in [
            (31, 365, true, false),
            (29, 365, true, true),
            (29, 365, false, true),
            (29, 90, true, false),
            (20, 90, true, true),
            // Callers get through by connections that are older.
            (-1, 365, true, true),
            (-1, 365, false, false),
        ] {
            let evidence = with(left, life, checked);
            let wanted: &[AccessCode] = if told { &expiring } else { &[] };
            assert_eq!(codes(&evidence), wanted, "{left} {life} {checked}");
            let report = report(&evidence);
            assert!(report.healthy);
            let tls = report.stages.iter().find(|it| it.name == "tls").unwrap();
            let (tells, warns) = (!tls.detail.is_empty(), tls.outcome == Outcome::Warned);
            assert_eq!((tells, warns), (checked || left > 0, told), "{left} {life}");
            for finding in report.findings {
                assert!(!finding.repairable && finding.repair.is_none());
            }
        }

        let ended = Evidence {
            kubernetes: Asked::Fault(Kind::TlsExpired, "its words".into()),
            route: refused(Some(AccessCode::TLSExpired)),
            ..with(-1, 365, true)
        };
        assert_eq!(codes(&ended), [AccessCode::TLSExpired]);
        // What can be repaired comes first, and hides nothing.
        let mut both = with(2, 365, true);
        both.credential = Some(Expiry {
            what: "the token",
            from: None,
            ends: both.now + day * 20,
        });
        let told = examine(&both);
        let told: Vec<_> = told.iter().map(|it| (it.code, it.repairable)).collect();
        assert_eq!(told, [(expiring[0], true), (expiring[0], false)]);
        both.route = refused(Some(AccessCode::TokenNotInCache));
        assert_eq!(codes(&both)[0], AccessCode::TokenNotInCache);
        // Of two servers the one that ends first.
        let mut two = with(20, 365, true);
        two.serving.extend(with(3, 365, true).serving);
        let told = examine(&two);
        assert_eq!(told.len(), 1);
        assert!(told[0].evidence.ends_with("in 3 days"), "{told:?}");
    }

    #[test]
    fn a_refusal_is_told_with_what_explains_it() {
        let other = Secret::Other {
            host: "aa".into(),
            member: "bb".into(),
        };
        for (code, settings, words) in [
            (
                AccessCode::TokenNotInCache,
                read("member", 7200, Secret::Same),
                "accessTokenMaxAge is 2h0m0s there",
            ),
            (
                AccessCode::TokenNotInCache,
                read("member", 0, Secret::Same),
                "has not read yet",
            ),
            (
                AccessCode::SignatureInvalid,
                read("member", 0, other),
                "fingerprint bb there and aa on the host",
            ),
            (
                AccessCode::SignatureInvalid,
                read("member", 0, Secret::Same),
                "has not read yet",
            ),
            (
                AccessCode::ClockSkew,
                Asked::NotAsked,
                "clock is 90 s behind the host's",
            ),
        ] {
            let found = examine(&Evidence {
                route: refused(Some(code)),
                settings,
                clock: Some(SignedDuration::from_secs(-90)),
                log: Some("W1 1 jwt.go:53] words".into()),
                ..healthy()
            });
            assert_eq!(found.len(), 1);
            let told = &found[0].evidence;
            assert!(
                told.contains(words) && told.contains("jwt.go:53]"),
                "{told}"
            );
        }
    }

    #[test]
    fn what_callers_do_not_feel_is_a_warning() {
        let slow = Asked::Fault(Kind::Timeout, "no answer within 3 s".into());
        let far = Some(SignedDuration::from_secs(3600));
        for (evidence, code) in [
            (
                Evidence {
                    kubernetes: slow.clone(),
                    settings: Asked::NotAsked,
                    ..healthy()
                },
                AccessCode::MemberUnreachable,
            ),
            (
                Evidence {
                    kubernetes: Asked::Rejected("401".into()),
                    settings: Asked::NotAsked,
                    ..healthy()
                },
                AccessCode::CredentialRejected,
            ),
            (
                Evidence {
                    settings: Asked::Forbidden("403".into()),
                    ..healthy()
                },
                AccessCode::ConfigUnreadable,
            ),
            (
                Evidence {
                    clock: far,
                    ..healthy()
                },
                AccessCode::ClockSkew,
            ),
        ] {
            let report = report(&evidence);
            assert!(report.healthy, "{report:?}");
            let found: Vec<AccessCode> = report.findings.iter().map(|it| it.code).collect();
            assert_eq!(found, [code]);
            assert!(
                report
                    .stages
                    .iter()
                    .any(|stage| matches!(stage.outcome, Outcome::Warned | Outcome::Unknown))
            );
        }
        let felt = Evidence {
            kubernetes: slow,
            route: refused(Some(AccessCode::MemberUnreachable)),
            ..healthy()
        };
        assert!(!report(&felt).healthy);
    }

    #[test]
    fn what_could_not_be_looked_at_is_said() {
        let nothing_to_ask_with = Evidence {
            kubeconfig: Err(SettingsError::Missing),
            through_kubernetes: false,
            kubernetes: Asked::NotAsked,
            replicas: Asked::NotAsked,
            settings: Asked::NotAsked,
            ..healthy()
        };
        let told = report(&nothing_to_ask_with);
        assert!(told.healthy && told.findings.is_empty());
        assert_eq!(
            told.unknown,
            [
                "kube-apiserver",
                "deployment",
                "configuration",
                "credential"
            ]
        );
        assert_eq!(report(&healthy()).unknown, Vec::<String>::new());
    }

    #[test]
    fn a_stored_connection_is_one_code_everywhere_and_says_what_to_bring() {
        for (error, code) in [
            (SettingsError::Missing, AccessCode::CredentialRejected),
            (SettingsError::Refused("exec"), AccessCode::ConfigUnreadable),
        ] {
            assert_eq!(error.code(), code);
            let found = examine(&Evidence {
                stored: Err(error),
                ..healthy()
            });
            assert_eq!(found[0].code, code);
            assert_eq!(
                found[0].repair.as_deref(),
                Some("kah restore-access m --kubeconfig FILE")
            );
        }
    }

    #[test]
    fn who_is_let_in_may_have_a_rejected_credential_replaced() {
        let rejected = Asked::Rejected("401: Unauthorized".into());
        for (route, repair) in [
            (Answer::Accepted, "kah restore-access m"),
            (
                refused(Some(AccessCode::CredentialRejected)),
                "kah restore-access m --kubeconfig FILE",
            ),
        ] {
            let felt = route != Answer::Accepted;
            let found = examine(&Evidence {
                kubernetes: rejected.clone(),
                route,
                ..healthy()
            });
            assert_eq!(found[0].code, AccessCode::CredentialRejected);
            assert_eq!(found[0].repair.as_deref(), Some(repair));
            assert_eq!(found[0].repairable, !felt);
            assert_eq!(found[0].severity == Severity::Error, felt);
        }
    }

    #[test]
    fn of_two_faults_the_one_that_people_meet_comes_first() {
        let evidence = Evidence {
            route: refused(Some(AccessCode::SignatureInvalid)),
            settings: read("", 0, Secret::Same),
            replicas: Asked::Absent,
            ..healthy()
        };
        assert_eq!(codes(&evidence), [AccessCode::SignatureInvalid]);
    }
}
