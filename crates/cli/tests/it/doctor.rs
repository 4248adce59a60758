//! Causes of lost access, provoked for real: doctor names each, first and only it.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use kah_api::seed;
use kah_testkit::fleet::{Fleet, until};
use serde_json::{Value, json};

use crate::fleet::{OURS, configuration, kah, log_in, ok, start};

/// The codes that doctor gives a cluster.
fn codes(fleet: &Fleet, cluster: &str) -> Vec<String> {
    let since = Instant::now();
    let ran = kah(fleet, &["doctor", cluster, "-o", "json"]);
    assert!(since.elapsed() < Duration::from_secs(10), "{cluster}");
    let rows: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    let codes: Vec<String> = rows
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|row| Some(row.get("code")?.as_str()?.to_owned()))
        .collect();
    assert_eq!(ran.code == 3, !codes.is_empty(), "{ran:?}");
    codes
}

fn becomes(fleet: &Fleet, cluster: &str, wanted: &[&str]) {
    let mut last = Vec::new();
    let found = until(Duration::from_secs(30), "doctor names the cause", || {
        last = codes(fleet, cluster);
        (last == wanted).then_some(())
    });
    assert!(found.is_ok(), "{cluster}: {last:?}, not {wanted:?}");
}

/// Another Cluster object for the same member, reached with this kubeconfig at this address.
fn join(fleet: &Fleet, name: &str, kubeconfig: &str, server: &str) {
    let object = seed::member_cluster(name, kubeconfig, server, None);
    let host = fleet.kubectl("host").unwrap();
    let ran = host.run_with_input(&["create", "-f", "-"], &object.to_string());
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// The value of a key of a kubeconfig, wherever it stands.
fn value<'a>(kubeconfig: &'a str, key: &str) -> &'a str {
    let line = kubeconfig.lines().find(|line| line.contains(key)).unwrap();
    line.split(&format!("{key}:"))
        .nth(1)
        .unwrap()
        .trim()
        .trim_matches('"')
}

#[test]
fn causes_on_the_way_to_a_member_are_named() {
    let fleet = start(&["--members", "1"]);
    log_in(&fleet);
    let facts = fleet.facts();
    let read = |index: usize| std::fs::read_to_string(&facts.clusters[index].kubeconfig).unwrap();
    let (host, member) = (read(0), read(1));
    let server = facts.clusters[1].address.clone();
    assert_eq!(codes(&fleet, "member-1"), Vec::<String>::new());

    let authority = value(&member, "certificate-authority-data");
    let with = |token: &str| {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: k, cluster: {{server: '{server}', certificate-authority-data: {authority}}}}}]\n\
             users: [{{name: u, user: {{token: '{token}'}}}}]\n\
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n"
        )
    };
    // Connects, and then says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let hole = format!("https://{}", silent.local_addr().unwrap());
    let kubectl = fleet.kubectl("member-1").unwrap();
    for arguments in [
        "create serviceaccount weak -n default",
        "create clusterrole weak --verb=get --resource=configmaps,deployments.apps",
        "create clusterrolebinding weak --clusterrole=weak --serviceaccount=default:weak",
    ] {
        ok(&kubectl, &arguments.split(' ').collect::<Vec<_>>());
    }
    let weak = ok(&kubectl, &["create", "token", "weak", "-n", "default"]);

    let other = value(&host, "certificate-authority-data");
    for (name, kubeconfig, server, code) in [
        (
            "no-name",
            member.clone(),
            "https://no-such-name.invalid:6443",
            "NameNotResolved",
        ),
        (
            "nothing-there",
            member.clone(),
            "https://127.0.0.1:1",
            "MemberUnreachable",
        ),
        ("silent", member.clone(), hole.as_str(), "MemberUnreachable"),
        (
            "other-authority",
            member.replace(authority, other),
            server.as_str(),
            "TLSUntrusted",
        ),
        (
            "wrong-token",
            with("nobody gave me"),
            server.as_str(),
            "CredentialRejected",
        ),
        (
            "no-right",
            with(weak.trim()),
            server.as_str(),
            "RouteForbidden",
        ),
        (
            "program",
            member.replace(
                "client-certificate-data:",
                "exec: {command: sh}\n    client-certificate-data:",
            ),
            server.as_str(),
            "ConfigUnreadable",
        ),
    ] {
        join(&fleet, name, &kubeconfig, server);
        becomes(&fleet, name, &[code]);
    }
    // One of them slows nobody else.
    assert_eq!(codes(&fleet, "member-1"), Vec::<String>::new());
}

#[test]
fn causes_on_the_member_are_named() {
    let fleet = start(&["--members", "1"]);
    log_in(&fleet);
    let kubectl = fleet.kubectl("member-1").unwrap();
    let get = || {
        let text = configuration(&kubectl);
        assert!(text.contains("clusterRole: member"), "{text}");
        text
    };
    let put = |text: &str| {
        let patch = json!({"data": {"kubesphere.yaml": text}}).to_string();
        ok(
            &kubectl,
            &[
                OURS[0],
                OURS[1],
                "patch",
                "cm",
                "kubesphere-config",
                "--type=merge",
                "-p",
                &patch,
            ],
        );
    };
    let good = get();
    put("a: [");
    becomes(&fleet, "member-1", &["ConfigUnreadable"]);
    put(&good.replace("clusterRole: member", "clusterRole: none"));
    becomes(&fleet, "member-1", &["WrongRole"]);
    put(&good);
    becomes(&fleet, "member-1", &[]);

    let state = |state: &str| {
        let patch = json!({"status": {"state": state}}).to_string();
        ok(
            &kubectl,
            &[
                "patch",
                "users.iam.kubesphere.io",
                "admin",
                "--type=merge",
                "-p",
                &patch,
            ],
        );
    };
    state("Disabled");
    becomes(&fleet, "member-1", &["UserDisabled"]);
    state("Active");
    becomes(&fleet, "member-1", &[]);

    ok(
        &kubectl,
        &[
            OURS[0],
            OURS[1],
            "scale",
            "deploy",
            "ks-apiserver",
            "--replicas=0",
        ],
    );
    becomes(&fleet, "member-1", &["MemberNotReady"]);
    let done = kah(&fleet, &["restore-access", "member-1", "--yes"]);
    assert_eq!(done.code, 0, "{done:?}");
    becomes(&fleet, "member-1", &[]);
}
