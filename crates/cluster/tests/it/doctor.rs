//! The doctor toward members that say little or nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use kah_cluster::{
    AccessCode, Host,
    doctor::{self, Outcome},
    proof::Prover,
};
use kah_iam::clock::SystemClock;
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::{
    cluster, kubeconfig,
    member::{Authority, Changing, Member, Reply, answer},
    restore::proof,
};

/// A host whose own kube-apiserver is at this address, with this one member.
fn host(own: &str, connection: serde_json::Value) -> Host {
    let registry = crate::registry();
    registry.replace(vec![cluster("m", "1", connection)]);
    let clock = Arc::new(SystemClock::default());
    let config = kube::Config::new(own.parse().expect("address"));
    Host {
        client: kube::Client::try_from(config).expect("client"),
        registry,
        prover: Prover::without_key(Arc::default(), Arc::default(), clock.clone()),
        clock,
        tasks: TaskTracker::new(),
    }
}

async fn examined(host: &Host) -> doctor::Report {
    let member = host.registry.get("m").expect("member");
    let since = Instant::now();
    let evidence = doctor::gather(host, &member, &proof()).await;
    let took = since.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    doctor::report(&evidence)
}

#[tokio::test]
async fn all_questions_together_end_within_eight_seconds() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let silent = Member::start(None, |_| Reply::Stall).await.expect("server");
    // It begins to answer, which is worse than to say nothing: more is asked then.
    let halting = Member::start(None, |seen| {
        if seen.target.contains("configmaps") {
            let map = json!({"metadata": {"name": "kubesphere-config"}, "data": {"kubesphere.yaml": "multicluster: {clusterRole: member}\n"}});
            answer(200, "application/json", map.to_string())
        } else {
            Reply::Stall
        }
    })
    .await
    .expect("server");
    let text = kubeconfig(&halting.url(), "", "token: stored");
    let host = host(
        &silent.url(),
        json!({"type": "direct", "kubesphereAPIEndpoint": silent.url(), "kubeconfig": STANDARD.encode(text)}),
    );
    let report = examined(&host).await;
    let codes: Vec<AccessCode> = report.findings.iter().map(|it| it.code).collect();
    assert_eq!(codes, [AccessCode::MemberUnreachable]);
    let failed = report
        .stages
        .iter()
        .filter(|it| it.outcome == Outcome::Failed);
    let failed: Vec<&str> = failed.map(|stage| stage.name).collect();
    assert_eq!(failed, ["kube-apiserver", "token"]);
}

#[tokio::test]
async fn a_member_without_a_kubeconfig_is_healthy_as_far_as_it_was_looked_at() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let silent = Member::start(None, |_| Reply::Stall).await.expect("server");
    let member = Member::start(None, |_| {
        answer(200, "application/json", r#"{"gitVersion":"v3.4.1"}"#)
    })
    .await
    .expect("server");
    let host = host(
        &silent.url(),
        json!({"type": "direct", "kubesphereAPIEndpoint": member.url()}),
    );
    let report = examined(&host).await;
    assert!(report.healthy && report.findings.is_empty(), "{report:?}");
    assert_eq!(
        report.unknown,
        [
            "kube-apiserver",
            "deployment",
            "configuration",
            "credential"
        ]
    );
}

/// A kube-apiserver, with a ks-apiserver behind it.
fn well(target: &str) -> Reply {
    let map = json!({"metadata": {"name": "kubesphere-config"}, "data": {"kubesphere.yaml": "multicluster: {clusterRole: member}\n"}});
    let found = match target {
        it if it.contains("/configmaps") => map,
        it if it.contains("/deployments") => {
            json!({"metadata": {}, "spec": {"replicas": 1}, "status": {"readyReplicas": 1}})
        }
        it if it.contains("/pods") => json!({"metadata": {}, "items": []}),
        _ => json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.2", "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "",
            "compiler": "", "platform": "",
        }),
    };
    answer(200, "application/json", found.to_string())
}

#[tokio::test]
async fn a_warning_about_what_a_server_shows_ends_when_it_is_renewed() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let day = 86_400;
    let now = u64::try_from(jiff::Timestamp::now().as_second()).expect("time");
    let authority = Authority::new().expect("authority");
    let issue = |left: u64| {
        let ends = now + left * day;
        authority.issue_between("127.0.0.1", ends - 365 * day, ends)
    };
    let (old, renewed) = (issue(10).expect("old"), issue(364).expect("renewed"));
    let (certificate, config) = Changing::server(&old).expect("config");
    let member = Member::start(Some(config), |seen| well(&seen.target))
        .await
        .expect("server");
    let own = Member::start(None, |seen| well(&seen.target))
        .await
        .expect("server");
    let authority = format!(
        ", certificate-authority-data: {}",
        STANDARD.encode(authority.pem())
    );
    let text = kubeconfig(&member.url(), &authority, "token: stored");
    let host = host(
        &own.url(),
        json!({"type": "direct", "kubeconfig": STANDARD.encode(text)}),
    );
    let days = || {
        let ends = host.registry.get("m").expect("member").certificate_ends();
        ends.map(|ends| ends.duration_since(jiff::Timestamp::now()).as_hours() / 24)
    };
    assert_eq!(days(), None);
    let report = examined(&host).await;
    assert!(report.healthy, "{report:?}");
    let [finding] = report.findings.as_slice() else {
        panic!("{report:?}")
    };
    assert_eq!(finding.code, AccessCode::CredentialExpiring);
    let words = "the serving certificate of its kube-apiserver ends ";
    assert!(finding.evidence.starts_with(words), "{finding:?}");
    assert!(!finding.repairable && finding.repair.is_none());
    assert!(matches!(days(), Some(9 | 10)), "{:?}", days());

    // The connections that were made before live on.
    certificate.change(&renewed).expect("certificate");
    let open = member.connections();
    let report = examined(&host).await;
    assert!(report.findings.is_empty(), "{report:?}");
    assert!(open > 0 && member.connections() >= open);
    assert!(matches!(days(), Some(363 | 364)), "{:?}", days());
}
