//! Causes of lost access, provoked for real: doctor names each, first and only it.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use kah_api::seed;
use kah_localkube::authority::Authority;
use kah_testkit::fleet::{Fleet, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    fleet::{OURS, configuration, kah, log_in, ok, start, without_controllers},
    inside::Inside,
};

/// The rows that doctor gives a cluster.
fn rows(fleet: &Fleet, cluster: &str) -> Vec<Value> {
    let since = Instant::now();
    let ran = kah(fleet, &["doctor", cluster, "-o", "json"]);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(10), "{cluster}: {took:?}");
    let rows: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    let rows = rows.as_array().unwrap().clone();
    // A warning is told, and is no reason for alarm.
    let ill = rows.iter().any(|row| row["ok"] == false);
    assert_eq!(ran.code, if ill { 3 } else { 0 }, "{ran:?}");
    rows
}

/// The codes that doctor gives a cluster.
fn codes(fleet: &Fleet, cluster: &str) -> Vec<String> {
    rows(fleet, cluster)
        .iter()
        .filter_map(|row| Some(row.get("code")?.as_str()?.to_owned()))
        .collect()
}

/// Waits until doctor names this and nothing else, and tells how long that took.
pub fn becomes(fleet: &Fleet, cluster: &str, wanted: &[&str]) {
    let (since, mut last) = (Instant::now(), Vec::new());
    let found = until(Duration::from_secs(30), "doctor names the cause", || {
        last = codes(fleet, cluster);
        (last == wanted).then_some(())
    });
    assert!(found.is_ok(), "{cluster}: {last:?}, not {wanted:?}");
    println!("{cluster}: {wanted:?} named after {:?}", since.elapsed());
}

/// What doctor shows of a cluster's first row.
fn evidence(fleet: &Fleet, cluster: &str) -> String {
    rows(fleet, cluster)[0]["evidence"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Another Cluster object for the same member, reached with this kubeconfig at this address.
pub fn join(fleet: &Fleet, name: &str, kubeconfig: &str, server: &str, endpoint: Option<&str>) {
    let object = seed::member_cluster(name, kubeconfig, server, endpoint);
    let host = fleet.kubectl("host").unwrap();
    let ran = host.run_with_input(&["create", "-f", "-"], &object.to_string());
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// The value of a key of a kubeconfig, wherever it stands.
pub fn value<'a>(kubeconfig: &'a str, key: &str) -> &'a str {
    let line = kubeconfig.lines().find(|line| line.contains(key)).unwrap();
    line.split(&format!("{key}:"))
        .nth(1)
        .unwrap()
        .trim()
        .trim_matches('"')
}

/// A kubeconfig for the same cluster at this address, with this token.
pub fn with_token(kubeconfig: &str, server: &str, token: &str) -> String {
    let authority = value(kubeconfig, "certificate-authority-data");
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: k, cluster: {{server: '{server}', certificate-authority-data: {authority}}}}}]\n\
         users: [{{name: u, user: {{token: '{token}'}}}}]\n\
         contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n"
    )
}

#[test]
fn causes_on_the_way_to_a_member_are_named() {
    let fleet = start(&["--members", "1"]);
    without_controllers(&fleet);
    log_in(&fleet);
    let facts = fleet.facts();
    let read = |index: usize| std::fs::read_to_string(&facts.clusters[index].kubeconfig).unwrap();
    let (host, member) = (read(0), read(1));
    let server = facts.clusters[1].address.clone();
    assert_eq!(codes(&fleet, "member-1"), Vec::<String>::new());

    let authority = value(&member, "certificate-authority-data");
    let with = |token: &str| with_token(&member, &server, token);
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
    let create = [
        "create",
        "token",
        "weak",
        "-n",
        "default",
        "--duration=2160h",
    ];
    let weak = ok(&kubectl, &create);

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
        join(&fleet, name, &kubeconfig, server, None);
        becomes(&fleet, name, &[code]);
    }
    // A credential that was good until its account was deleted.
    ok(
        &kubectl,
        &["delete", "serviceaccount", "weak", "-n", "default"],
    );
    becomes(&fleet, "no-right", &["CredentialRejected"]);
    // One of them slows nobody else, and all can be asked for at once.
    assert_eq!(codes(&fleet, "member-1"), Vec::<String>::new());
    let since = Instant::now();
    let all = kah(&fleet, &["doctor"]);
    assert_eq!(all.code, 3, "{all:?}");
    assert!(since.elapsed() < Duration::from_secs(10));
}

/// A client certificate of a cluster that ends in so many days, in a kubeconfig.
pub fn short_lived(fleet: &Fleet, cluster: &str, days: i64) -> String {
    if let Some(plane) = fleet.real_plane(cluster) {
        let then = Timestamp::now() + SignedDuration::from_hours(days * 24);
        let then = then.to_zoned(jiff::tz::TimeZone::UTC);
        let day = (
            then.year().into(),
            then.month().try_into().unwrap(),
            then.day().try_into().unwrap(),
        );
        return plane
            .kubeconfig_until("kubernetes-admin", &["system:masters"], day)
            .unwrap();
    }
    let keys = fleet.data_dir().join("clusters").join(cluster).join("pki");
    let now = Timestamp::now();
    let authority = Authority::open(&keys, cluster, now).unwrap();
    let life = i64::try_from(kah_localkube::authority::CERTIFICATE_LIFE.as_secs()).unwrap();
    let issued = now + SignedDuration::from_hours(days * 24) - SignedDuration::from_secs(life);
    let client = authority
        .client_certificate("kubernetes-admin", &["system:masters"], issued)
        .unwrap();
    let facts = fleet.facts().clusters.iter().find(|it| it.name == cluster);
    authority.kubeconfig(cluster, &facts.unwrap().address, &client)
}

#[test]
fn causes_of_time_and_version_are_named() {
    // What joins here stands for the same member a second time, by the shared secret.
    let fleet = start(&["--members", "1", "--trust", "shared-secret"]);
    without_controllers(&fleet);
    log_in(&fleet);
    let facts = fleet.facts();
    let member = std::fs::read_to_string(&facts.clusters[1].kubeconfig).unwrap();
    let server = facts.clusters[1].address.clone();
    let configuration = configuration(&fleet.kubectl("host").unwrap());
    let secret = value(&configuration, "jwtSecret");
    let inside = Inside::new();

    // A member whose clock is an hour behind takes a fresh token for one of the future, one whose clock is a day ahead for one that has ended.
    for (name, hours, words) in [
        ("behind", -1, "token used before issued"),
        ("ahead", 24, "token is expired by"),
    ] {
        let endpoint = inside.server(&member, secret, SignedDuration::from_hours(hours));
        join(&fleet, name, &member, &server, Some(&endpoint));
        becomes(&fleet, name, &["ClockSkew"]);
        let shown = evidence(&fleet, name);
        assert!(shown.contains(words), "{shown}");
        let ran = kah(&fleet, &["restore-access", name, "--yes"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.stderr.contains("Synchronise the clocks"), "{ran:?}");
    }

    // Its server certificate was issued, and has ended, long ago.
    fn long_ago() -> Timestamp {
        Timestamp::now() - SignedDuration::from_hours(400 * 24)
    }
    let expired = inside.kubernetes("v1.36.2", long_ago, secret);
    let address = format!("https://{}", expired.address());
    join(
        &fleet,
        "expired",
        expired.admin_kubeconfig(),
        &address,
        None,
    );
    becomes(&fleet, "expired", &["TLSExpired"]);

    let old = inside.kubernetes("v1.19.3", Timestamp::now, secret);
    let address = format!("https://{}", old.address());
    let endpoint = inside.server(old.admin_kubeconfig(), secret, SignedDuration::ZERO);
    join(
        &fleet,
        "old",
        old.admin_kubeconfig(),
        &address,
        Some(&endpoint),
    );
    becomes(&fleet, "old", &["VersionUnsupported"]);

    let ending = short_lived(&fleet, "member-1", 20);
    join(&fleet, "ending", &ending, &server, None);
    becomes(&fleet, "ending", &["CredentialExpiring"]);
    let ended = short_lived(&fleet, "member-1", -1);
    join(&fleet, "ended", &ended, &server, None);
    becomes(&fleet, "ended", &["CredentialRejected"]);

    // Callers get through where the kube-apiserver says nothing, and where nothing is stored to ask it with.
    let endpoint = inside.server(&member, secret, SignedDuration::ZERO);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let hole = format!("https://{}", silent.local_addr().unwrap());
    join(&fleet, "slow", &member, &hole, Some(&endpoint));
    becomes(&fleet, "slow", &["MemberUnreachable"]);
    let slow = rows(&fleet, "slow");
    assert_eq!(
        (&slow[0]["ok"], &slow[0]["severity"]),
        (&json!(true), &json!("Warning"))
    );
    let object = json!({
        "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster", "metadata": {"name": "bare"},
        "spec": {"connection": {"type": "direct", "kubesphereAPIEndpoint": endpoint}},
    });
    let host = fleet.kubectl("host").unwrap();
    let ran = host.run_with_input(&["create", "-f", "-"], &object.to_string());
    assert_eq!(ran.code, 0, "{ran:?}");
    becomes(&fleet, "bare", &[]);
    let bare = rows(&fleet, "bare");
    let unknown = bare[0]["unknown"].as_array().unwrap();
    assert!(unknown.contains(&json!("configuration")), "{bare:?}");
    assert!(evidence(&fleet, "bare").contains("not looked at"));
}

/// The process of the ks-apiserver in this cluster's Pod.
fn process_of(fleet: &Fleet, cluster: &str) -> Pid {
    let pod = crate::fleet::server_pod(&fleet.kubectl(cluster).unwrap());
    let get = ["get", "pod", &pod, "-o", "jsonpath={.status.podIP}"];
    let address = ok(
        &fleet.kubectl(cluster).unwrap(),
        &[OURS.as_slice(), &get].concat(),
    );
    let found = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .find_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            let is_it = arguments.contains(&b"apiserver".as_slice())
                && arguments.contains(&address.trim().as_bytes());
            is_it.then(|| entry.file_name().to_str()?.parse().ok())?
        });
    Pid::from_raw(found.expect("the process of the Pod")).unwrap()
}

#[test]
fn a_member_that_is_stopped_or_gone_is_named() {
    let fleet = start(&["--members", "1"]);
    without_controllers(&fleet);
    log_in(&fleet);
    let kubectl = fleet.kubectl("member-1").unwrap();
    becomes(&fleet, "member-1", &[]);
    let server = process_of(&fleet, "member-1");
    kill_process(server, Signal::STOP).unwrap();
    becomes(&fleet, "member-1", &["MemberUnreachable"]);
    kill_process(server, Signal::CONT).unwrap();
    becomes(&fleet, "member-1", &[]);

    let service = [
        OURS[0],
        OURS[1],
        "get",
        "service",
        "ks-apiserver",
        "-o",
        "json",
    ];
    let mut kept: Value = serde_json::from_str(&ok(&kubectl, &service)).unwrap();
    ok(
        &kubectl,
        &[OURS[0], OURS[1], "delete", "service", "ks-apiserver"],
    );
    becomes(&fleet, "member-1", &["MemberNotReady"]);
    for field in ["resourceVersion", "uid"] {
        kept["metadata"].as_object_mut().unwrap().remove(field);
    }
    let ran = kubectl.run_with_input(&["create", "-f", "-"], &kept.to_string());
    assert_eq!(ran.code, 0, "{ran:?}");
    becomes(&fleet, "member-1", &[]);

    // One that ends as soon as it has begun.
    let crash = r#"[{"op":"add","path":"/spec/template/spec/containers/0/args/0","value":"no-such-command"},
        {"op":"replace","path":"/spec/strategy","value":{"type":"Recreate"}}]"#;
    ok(
        &kubectl,
        &[
            OURS[0],
            OURS[1],
            "patch",
            "deploy",
            "ks-apiserver",
            "--type=json",
            "-p",
            crash,
        ],
    );
    becomes(&fleet, "member-1", &["MemberNotReady"]);
    until(
        Duration::from_secs(20),
        "what keeps it from running is shown",
        || {
            evidence(&fleet, "member-1")
                .contains("Pod ks-apiserver-")
                .then_some(())
        },
    )
    .unwrap();

    ok(&kubectl, &["delete", "users.iam.kubesphere.io", "admin"]);
    let mend = r#"[{"op":"remove","path":"/spec/template/spec/containers/0/args/0"}]"#;
    ok(
        &kubectl,
        &[
            OURS[0],
            OURS[1],
            "patch",
            "deploy",
            "ks-apiserver",
            "--type=json",
            "-p",
            mend,
        ],
    );
    becomes(&fleet, "member-1", &["UserMissing"]);
    let shown = evidence(&fleet, "member-1");
    assert!(
        shown.contains("authentication.go:60]"),
        "the member's own log: {shown}"
    );
}

#[test]
fn one_that_leaves_meanwhile_is_no_fault_of_the_others() {
    let fleet = start(&["--members", "1"]);
    without_controllers(&fleet);
    log_in(&fleet);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let hole = format!("https://{}", silent.local_addr().unwrap());
    let member = std::fs::read_to_string(&fleet.facts().clusters[1].kubeconfig).unwrap();
    join(&fleet, "leaving", &member, &hole, None);
    becomes(&fleet, "leaving", &["MemberUnreachable"]);
    let all = fleet
        .kah(&["doctor", "-o", "json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    ok(
        &fleet.kubectl("host").unwrap(),
        &["delete", "clusters.cluster.kubesphere.io", "leaving"],
    );
    let output = all.wait_with_output().unwrap();
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let well = |name: &str| {
        rows.as_array()
            .unwrap()
            .iter()
            .any(|row| row["cluster"] == name && row["ok"] == true)
    };
    assert!(well("host") && well("member-1"), "{rows}");
}

#[test]
fn causes_on_the_member_are_named() {
    let fleet = start(&["--members", "1"]);
    without_controllers(&fleet);
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
