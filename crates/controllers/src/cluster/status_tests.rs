use kah_cluster::doctor::finding;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn refused(code: AccessCode) -> Option<Verdict> {
    Some(Verdict::Refused {
        code,
        evidence: "its words".into(),
    })
}

fn known(verdict: Option<Verdict>) -> Known {
    Known {
        joined: true,
        verdict,
        route: "endpoint",
        trust: "shared-secret".into(),
        ..Known::default()
    }
}

fn look(accepted: bool, codes: &[AccessCode]) -> Option<Look> {
    Some(Look {
        accepted,
        findings: codes
            .iter()
            .map(|code| finding("m", *code, "seen"))
            .collect(),
    })
}

/// Status and reason of a condition, as `True/Accepted`.
fn told(status: &ClusterStatus, kind: &str) -> String {
    find(&status.conditions, kind).map_or("-".into(), |it| format!("{}/{}", it.status, it.reason))
}

#[test]
fn the_table_of_conditions() {
    use AccessCode as C;
    let accepted = || Some(Verdict::Accepted);
    for (verdict, look, ready, access) in [
        (None, None, "-", "-"),
        (accepted(), None, "True/Ready", "True/Accepted"),
        (accepted(), look(true, &[]), "True/Ready", "True/Accepted"),
        (
            accepted(),
            look(true, &[C::CredentialExpiring]),
            "True/Ready",
            "True/CredentialExpiring",
        ),
        (
            accepted(),
            look(true, &[C::WrongRole, C::CredentialExpiring]),
            "True/Ready",
            "False/WrongRole",
        ),
        // Looked at while it was silent: that is over.
        (
            accepted(),
            look(false, &[C::MemberUnreachable]),
            "True/Ready",
            "True/Accepted",
        ),
        (
            refused(C::TokenNotInCache),
            None,
            "True/Ready",
            "False/TokenNotInCache",
        ),
        (
            refused(C::TokenNotInCache),
            look(false, &[C::WrongRole]),
            "True/Ready",
            "False/TokenNotInCache",
        ),
        (
            refused(C::MemberUnreachable),
            None,
            "False/MemberUnreachable",
            "False/MemberUnreachable",
        ),
        (
            refused(C::MemberUnreachable),
            look(false, &[C::MemberNotReady]),
            "False/MemberUnreachable",
            "False/MemberNotReady",
        ),
        (
            refused(C::MemberUnreachable),
            look(true, &[]),
            "False/MemberUnreachable",
            "False/MemberUnreachable",
        ),
        (
            refused(C::CredentialRejected),
            None,
            "False/CredentialRejected",
            "False/CredentialRejected",
        ),
    ] {
        let known = Known {
            look,
            ..known(verdict)
        };
        let status = next(&ClusterStatus::default(), &known, at(0));
        assert_eq!(
            (told(&status, "Ready"), told(&status, HOST_ACCESS)),
            (ready.into(), access.into()),
            "{known:?}"
        );
        // What was written once is not written again, whatever the time.
        assert_eq!(next(&status, &known, at(1000)), status);
    }
}

#[test]
fn times_and_words_change_with_what_they_tell_of() {
    let access = |status: &ClusterStatus| find(&status.conditions, HOST_ACCESS).unwrap().clone();
    let first = next(
        &ClusterStatus::default(),
        &known(Some(Verdict::Accepted)),
        at(0),
    );
    let lost = next(&first, &known(refused(AccessCode::TokenNotInCache)), at(10));
    assert_eq!(access(&lost).last_transition_time, Some(Time(at(10))));
    assert!(access(&lost).message.ends_with("(its words)"), "{lost:?}");
    assert_eq!(lost.conditions.last().unwrap().kind, HOST_ACCESS);

    // Other words for the same are no news.
    let again = Some(Verdict::Refused {
        code: AccessCode::TokenNotInCache,
        evidence: "other words".into(),
    });
    assert_eq!(next(&lost, &known(again), at(20)), lost);

    // Another cause is, but no transition.
    let other = next(&lost, &known(refused(AccessCode::SignatureInvalid)), at(30));
    assert_eq!(access(&other).last_transition_time, Some(Time(at(10))));
    assert_eq!(access(&other).last_update_time, Some(Time(at(30))));
    assert_eq!(access(&other).reason, "SignatureInvalid");

    // A warning stays while the member has not been looked at again.
    let warned = Known {
        look: look(true, &[AccessCode::CredentialExpiring]),
        ..known(Some(Verdict::Accepted))
    };
    let warned = next(&first, &warned, at(40));
    assert_eq!(
        next(&warned, &known(Some(Verdict::Accepted)), at(50)),
        warned
    );
}

/// Whoever restores goes by what is told here.
#[test]
fn what_becomes_repairable_is_news() {
    let seen = |words: &str| Known {
        look: Some(Look {
            accepted: false,
            findings: vec![finding("m", AccessCode::MemberNotReady, words)],
        }),
        ..known(refused(AccessCode::MemberUnreachable))
    };
    let message = |status: &ClusterStatus| {
        let access = find(&status.conditions, HOST_ACCESS).unwrap();
        access.message.clone()
    };
    let crashing = next(
        &ClusterStatus::default(),
        &seen("0 of 1 replicas ready"),
        at(0),
    );
    let other = next(&crashing, &seen("0 of 2 replicas ready"), at(10));
    assert_eq!(other, crashing);
    let stopped = next(&crashing, &seen("0 of 0 replicas ready"), at(20));
    assert!(message(&stopped).contains("0 of 0 replicas"), "{stopped:?}");
    let access = find(&stopped.conditions, HOST_ACCESS).unwrap();
    assert_eq!(access.last_transition_time, Some(Time(at(0))));
    let started = next(&stopped, &seen("0 of 1 replicas ready"), at(30));
    assert!(message(&started).contains("0 of 1 replicas"), "{started:?}");
}

#[test]
fn a_role_is_told_as_doctor_tells_it_where_the_keys_of_the_host_are_refused() {
    for (words, reason) in [
        (
            "401: Unauthorized: signing method EdDSA is invalid",
            "WrongRole",
        ),
        (
            "401: Unauthorized: signature is invalid",
            "SignatureInvalid",
        ),
    ] {
        let known = Known {
            look: look(false, &[AccessCode::WrongRole]),
            ..known(Some(Verdict::Refused {
                code: AccessCode::SignatureInvalid,
                evidence: words.into(),
            }))
        };
        let status = next(&ClusterStatus::default(), &known, at(0));
        assert_eq!(told(&status, HOST_ACCESS), format!("False/{reason}"));
    }
}

/// The same code for three causes: each is told in the words of the doctor, also where it takes the place of another.
#[test]
fn a_refusal_is_told_in_the_words_of_the_doctor() {
    let mut before = ClusterStatus::default();
    for (words, told) in [
        (
            "401: Unauthorized: signature is invalid",
            "checks tokens with another jwtSecret",
        ),
        (
            "401: Unauthorized: token is signed with a key that is not trusted here",
            "does not know the keys by which this host signs",
        ),
        (
            "401: Unauthorized: jwt: token has a wrong aud",
            "does not know the keys by which this host signs",
        ),
    ] {
        let code = AccessCode::SignatureInvalid;
        let known = known(Some(Verdict::Refused {
            code,
            evidence: words.into(),
        }));
        let status = next(&before, &known, at(0));
        let message = &find(&status.conditions, HOST_ACCESS).unwrap().message;
        let consequence = finding("m", code, words).consequence;
        assert_eq!(doctor::parts(message).0, consequence, "{message}");
        assert!(message.contains(told), "{message}");
        before = status;
    }
}

#[test]
fn an_agent_is_told_of_in_the_words_of_the_original() {
    let mut before = ClusterStatus::default();
    for (agent, wanted) in [
        (None, None),
        (
            Some(false),
            Some(("False", "Agent has not connected to proxy.")),
        ),
        (
            Some(true),
            Some(("True", "Agent has connected to proxy successfully.")),
        ),
        (
            Some(false),
            Some(("False", "Agent has not connected to proxy.")),
        ),
    ] {
        let known = Known {
            agent,
            ..known(Some(Verdict::Accepted))
        };
        before = next(&before, &known, at(0));
        let told = find(&before.conditions, "AgentAvailable");
        let told = told.map(|it| {
            assert_eq!(it.reason, "");
            (it.status.as_str(), it.message.as_str())
        });
        assert_eq!(told, wanted);
    }
}

#[test]
fn conditions_of_others_stay() {
    let mut before = ClusterStatus::default();
    before
        .conditions
        .push(condition("Initialized", "True", "", "by tower"));
    let status = next(
        &before,
        &known(refused(AccessCode::MemberUnreachable)),
        at(0),
    );
    assert_eq!(status.conditions.first(), before.conditions.first());
    assert_eq!(told(&status, "Federated"), "True/");
}

#[test]
fn nothing_to_ask_with_is_said() {
    let known = Known {
        unproven: Some("no administrator".into()),
        ..known(None)
    };
    let status = next(&ClusterStatus::default(), &known, at(0));
    assert_eq!(told(&status, HOST_ACCESS), "Unknown/NotProven");
    assert_eq!(told(&status, "Ready"), "-");
}

#[test]
fn the_certificate_is_told_as_the_original_does() {
    let day = SignedDuration::from_hours(24);
    for (ends, status, days) in [
        (Some(at(0) + day * 30), "False", Some(30)),
        (Some(at(0) + day * 6), "True", Some(6)),
        (Some(at(-1)), "True", Some(-1)),
        (None, "False", None),
    ] {
        let known = Known {
            credential_ends: ends,
            certificate_ends: ends,
            tells_certificate: true,
            ..known(None)
        };
        let told = next(&ClusterStatus::default(), &known, at(0));
        let condition = find(&told.conditions, EXPIRES).unwrap();
        assert_eq!(condition.status, status);
        assert_eq!(condition.reason, EXPIRES);
        assert_eq!(condition.message, ends.map(go_time).unwrap_or_default());
        assert_eq!(told.hub.unwrap().certificate_days, days);
    }
}

#[test]
fn days_that_are_told_are_not_forgotten_before_a_look() {
    let day = SignedDuration::from_hours(24);
    for (looked, before, ends, days) in [
        // A process that starts knows of the stored credential alone.
        (false, Some(10), Some(300), Some(10)),
        (false, Some(300), Some(10), Some(10)),
        (false, None, Some(300), Some(300)),
        (false, Some(10), None, Some(10)),
        (true, Some(10), Some(300), Some(300)),
        (true, Some(10), None, None),
    ] {
        let mut status = ClusterStatus::default();
        status.hub.get_or_insert_default().certificate_days = before;
        let known = Known {
            // The original's condition is about the kubeconfig alone.
            credential_ends: Some(at(0) + day * 300),
            certificate_ends: ends.map(|ends| at(0) + day * ends),
            tells_certificate: true,
            look: looked.then(|| look(true, &[])).flatten(),
            ..known(Some(Verdict::Accepted))
        };
        let told = next(&status, &known, at(0));
        assert_eq!(find(&told.conditions, EXPIRES).unwrap().status, "False");
        let told = told.hub.unwrap().certificate_days;
        assert_eq!(told, days, "{looked} {before:?} {ends:?}");
    }
}

#[test]
fn facts_are_told_and_odd_versions_as_the_original_tells_them() {
    for (version, told) in [("v3.4.1", "v3.4.1"), ("v0.0.0", "v3.0.0"), ("", "unknown")] {
        let facts = Facts {
            kubernetes: Some("v1.36.2".into()),
            nodes: Some(3),
            uid: Some("u".into()),
            kubesphere: Some(version.into()),
            configz: Some([("multicluster".to_owned(), false)].into()),
        };
        let known = Known {
            facts: Some(facts),
            ..known(None)
        };
        let status = next(&ClusterStatus::default(), &known, at(0));
        assert_eq!(status.kubesphere_version, told);
        assert_eq!((status.node_count, status.uid.as_str()), (Some(3), "u"));
        // What could not be asked this time stays.
        let silent = Known {
            facts: Some(Facts {
                kubernetes: None,
                nodes: None,
                uid: None,
                kubesphere: None,
                configz: None,
            }),
            ..known
        };
        assert_eq!(next(&status, &silent, at(9)), status);
    }
}

#[test]
fn latency_is_news_only_where_it_is_another() {
    let millis = Duration::from_millis;
    for (told, latency, expected) in [
        ("", 3, "<10ms"),
        ("", 30, "<50ms"),
        ("<10ms", 15, "<10ms"),
        ("<10ms", 25, "<50ms"),
        ("<50ms", 11, "<50ms"),
        ("<50ms", 9, "<10ms"),
        ("<5000ms", 20_000, ">5000ms"),
        (">5000ms", 6_000, ">5000ms"),
        ("12ms", 12, "<20ms"),
    ] {
        assert_eq!(rounded(told, millis(latency)), expected, "{told} {latency}");
    }
}

fn facts(uid: &str) -> Option<Facts> {
    Some(Facts {
        kubernetes: Some("v1.36.2".into()),
        nodes: Some(1),
        uid: Some(uid.into()),
        kubesphere: None,
        configz: None,
    })
}

#[test]
fn t1_the_identity_is_written_once_and_never_that_of_another() {
    for (stored, tells, double, host, uid, told) in [
        ("", "a", None, false, "a", "-"),
        ("a", "a", None, false, "a", "-"),
        ("a", "b", None, false, "a", "False/AnotherCluster"),
        ("a", "b", None, true, "b", "-"),
        ("", "b", Some("m1"), false, "", "False/AnotherCluster"),
        ("b", "b", Some("m1"), false, "b", "False/AnotherCluster"),
        ("", "", None, false, "", "False/AnotherCluster"),
        ("a", "", None, false, "a", "False/AnotherCluster"),
        ("", "a b\n", None, false, "", "False/AnotherCluster"),
    ] {
        let before = ClusterStatus {
            uid: stored.into(),
            ..ClusterStatus::default()
        };
        let known = Known {
            name: "m".into(),
            host,
            facts: facts(tells),
            double: double.map(str::to_owned),
            ..known(Some(Verdict::Accepted))
        };
        let status = next(&before, &known, at(0));
        let case = format!("{stored:?} {tells:?} {double:?}");
        assert_eq!(status.uid, uid, "{case}");
        assert_eq!(super::tests::told(&status, IDENTITY), told, "{case}");
        let stranger = told != "-";
        let access = if stranger {
            "False/SignatureInvalid"
        } else {
            "True/Accepted"
        };
        assert_eq!(super::tests::told(&status, HOST_ACCESS), access, "{case}");
        assert_eq!(status.kubernetes_version.is_empty(), stranger, "{case}");
        // Nothing more is written while it lasts, also after a restart that knows no facts.
        assert_eq!(next(&status, &known, at(60)), status, "{case}");
        let restarted = Known {
            facts: None,
            ..known.clone()
        };
        assert_eq!(next(&status, &restarted, at(60)), status, "{case}");
    }
}

#[test]
fn words_of_a_lasting_refusal_give_way_to_those_about_the_identity_and_back() {
    let before = ClusterStatus {
        uid: "a".into(),
        ..ClusterStatus::default()
    };
    let at_work = |uid: &str| Known {
        name: "m".into(),
        facts: facts(uid),
        ..known(refused(AccessCode::SignatureInvalid))
    };
    let message = |status: &ClusterStatus| {
        find(&status.conditions, HOST_ACCESS)
            .unwrap()
            .message
            .clone()
    };
    let refused = next(&before, &at_work("a"), at(0));
    assert!(message(&refused).contains("its words"));
    let other = next(&refused, &at_work("b"), at(1));
    assert!(
        message(&other).contains("kah cluster leave m"),
        "{}",
        message(&other)
    );
    let back = next(&other, &at_work("a"), at(2));
    assert!(message(&back).contains("its words"));
    assert_eq!(told(&back, IDENTITY), "-");
}
