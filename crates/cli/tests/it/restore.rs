//! Access is restored in one step.

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use kah_testkit::fleet::{Fleet, until};
use kah_testkit::http_client::get;
use serde_json::{Value, json};

use crate::{
    doctor::{becomes, join, short_lived, value, with_token},
    fleet::{
        OURS, configuration_map, edit, kah, log_in, ok, replace_map, start, token,
        without_controllers,
    },
    inside::Inside,
};

const AGE: &str = "authentication.oauthOptions.accessTokenMaxAge";
const SECRET: &str = "authentication.jwtSecret";

fn map(fleet: &Fleet, cluster: &str) -> Value {
    let text = configuration_map(&fleet.kubectl(cluster).unwrap());
    serde_json::from_str(&text).unwrap()
}

fn configuration(map: &Value) -> &str {
    map["data"]["kubesphere.yaml"].as_str().unwrap()
}

/// Breaks a member by changing one line of its configuration, and waits until it refuses.
fn break_line(fleet: &Fleet, cluster: &str, word: &str, line: &str) {
    let kubectl = fleet.kubectl(cluster).unwrap();
    let mut found = map(fleet, cluster);
    let text: Vec<String> = configuration(&found)
        .lines()
        .map(|old| {
            if old.contains(word) {
                line.to_owned()
            } else {
                old.to_owned()
            }
        })
        .collect();
    found["data"]["kubesphere.yaml"] = (text.join("\n") + "\n").into();
    replace_map(&kubectl, &found.to_string());
    let token = token(fleet);
    until(Duration::from_secs(100), "the member refuses", || {
        (ask(fleet, cluster, &token) == 401).then_some(())
    })
    .unwrap();
}

fn ask(fleet: &Fleet, cluster: &str, token: &str) -> u16 {
    get(
        &format!("{}/clusters/{cluster}/version", fleet.facts().address),
        token,
    )
    .unwrap()
    .status
}

/// Dry run, restore, and again: what each says and does.
fn restored(fleet: &Fleet, cluster: &str, code: &str, key: &str) {
    log_in(fleet);
    let broken = map(fleet, cluster);
    let secrets = [
        secret(configuration(&map(fleet, "host"))),
        secret(configuration(&broken)),
    ];

    let json = kah(
        fleet,
        &["restore-access", cluster, "--dry-run", "-o", "json"],
    );
    assert_eq!(json.code, 0, "{json:?}");
    let plan: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(plan["outcome"], "Planned", "{plan}");
    assert_eq!(plan["code"], code, "{plan}");
    assert_eq!(plan["changes"].as_array().unwrap().len(), 1, "{plan}");
    assert_eq!(plan["changes"][0]["key"], key, "{plan}");
    let unasked = kah(fleet, &["restore-access", cluster]);
    assert_eq!(unasked.code, 1, "{unasked:?}");
    assert!(unasked.stderr.contains("--yes"), "{unasked:?}");
    assert_eq!(map(fleet, cluster), broken, "a dry run changes nothing");

    let since = Instant::now();
    let done = kah(fleet, &["restore-access", cluster, "--yes"]);
    assert_eq!(done.code, 0, "{done:?}");
    let took = since.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    println!("{cluster}: {code} restored after {took:?}");
    assert!(done.stdout.contains("is restored"), "{done:?}");
    assert_eq!(ask(fleet, cluster, &token(fleet)), 200);
    assert_eq!(kah(fleet, &["doctor", cluster]).code, 0);
    for ran in [&json, &unasked, &done] {
        for secret in &secrets {
            assert!(
                !ran.stdout.contains(secret) && !ran.stderr.contains(secret),
                "{ran:?}"
            );
        }
    }

    // The old text is kept in the same object, and what is not at fault is as it was.
    let now = map(fleet, cluster);
    let backup = now["binaryData"]["backup-kubesphere.yaml"]
        .as_str()
        .unwrap();
    assert_eq!(decode(backup), configuration(&broken));
    let word = key.rsplit('.').next().unwrap();
    for (old, new) in configuration(&broken)
        .lines()
        .zip(configuration(&now).lines())
    {
        assert!(old == new || old.contains(word), "{old} became {new}");
    }
    let grep = fleet.kubectl(cluster).unwrap().shell(
        &format!("kubectl -n kubesphere-system get cm kubesphere-config -o yaml | grep {word}"),
        fleet.folder(),
    );
    assert_eq!(grep.stdout.lines().count(), 1, "{grep:?}");

    let again = kah(fleet, &["restore-access", cluster, "--yes"]);
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.stdout.contains("nothing to do"), "{again:?}");
    assert_eq!(map(fleet, cluster), now);
}

fn secret(text: &str) -> String {
    let line = text
        .lines()
        .find(|line| line.contains("jwtSecret:"))
        .unwrap();
    let value = line.split("jwtSecret:").nth(1).unwrap().trim();
    value.trim_matches('"').to_owned()
}

fn decode(base64: &str) -> String {
    String::from_utf8(STANDARD.decode(base64).unwrap()).unwrap()
}

#[test]
fn both_faults_are_restored_in_one_step() {
    let fleet = start(&[
        "--members",
        "2",
        "--break",
        "member-1=token-cache",
        "--break",
        "member-2=jwt-secret",
    ]);
    let token = token(&fleet);
    for cluster in ["member-1", "member-2"] {
        until(Duration::from_secs(20), "the member refuses", || {
            (ask(&fleet, cluster, &token) == 401).then_some(())
        })
        .unwrap();
    }
    restored(&fleet, "member-1", "TokenNotInCache", AGE);
    restored(&fleet, "member-2", "SignatureInvalid", SECRET);
    what_cannot_be_restored_is_said(&fleet);
    two_at_once_end_well(&fleet);
}

fn what_cannot_be_restored_is_said(fleet: &Fleet) {
    for (cluster, code, words) in [
        ("member-9", 1, "not found"),
        ("host", 1, "is the host itself"),
    ] {
        let ran = kah(fleet, &["restore-access", cluster, "--yes"]);
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.stderr.contains(words), "{ran:?}");
    }
    // What people have to decide, or to bring, is said.
    let kubectl = fleet.kubectl("member-1").unwrap();
    let mut broken = map(fleet, "member-1");
    let text = configuration(&broken).replace("clusterRole: member", "clusterRole: host");
    broken["data"]["kubesphere.yaml"] = text.replace("enable: false", "enable: true").into();
    let good = map(fleet, "member-1");
    replace_map(&kubectl, &without_version(broken.clone()).to_string());
    let ran = kah(fleet, &["restore-access", "member-1", "--yes"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("acts as a host of its own"), "{ran:?}");
    broken["data"]["kubesphere.yaml"] = "authentication:\n  jwtSecret: [\n".into();
    replace_map(&kubectl, &without_version(broken).to_string());
    let ran = kah(fleet, &["restore-access", "member-1", "--yes"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("line "), "{ran:?}");
    replace_map(&kubectl, &without_version(good).to_string());
}

/// An object that takes the place of whatever is there.
fn without_version(mut object: Value) -> Value {
    object["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    object
}

/// Doctor names the cause, a dry run changes nothing, and restoring cures it.
fn repaired(fleet: &Fleet, cluster: &str, code: &str, arguments: &[&str]) {
    becomes(fleet, cluster, &[code]);
    let mut command = vec!["restore-access", cluster, "--yes"];
    command.extend(arguments);
    let planned = kah(
        fleet,
        &[command.as_slice(), &["--dry-run", "-o", "json"]].concat(),
    );
    assert_eq!(planned.code, 0, "{planned:?}");
    let plan: Value = serde_json::from_str(&planned.stdout).unwrap();
    assert_eq!(plan["outcome"], "Planned", "{plan}");
    assert!(!plan["actions"].as_array().unwrap().is_empty(), "{plan}");
    becomes(fleet, cluster, &[code]);
    let since = Instant::now();
    let done = kah(fleet, &command);
    let took = since.elapsed();
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains("is restored"), "{done:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    println!("{cluster}: {code} restored after {took:?}");
    becomes(fleet, cluster, &[]);
}

#[test]
fn role_users_and_a_stopped_deployment_are_restored() {
    let fleet = start(&["--members", "1"]);
    without_controllers(&fleet);
    log_in(&fleet);
    role_users_and_deployment(&fleet);
}

/// Each cause on `member-1` itself, a real control plane that trusts the host by the shared secret.
pub fn each_is_restored_by_hand(fleet: &Fleet) {
    let name = "member-1";
    let kubectl = fleet.kubectl(name).unwrap();
    let secret = secret(configuration(&map(fleet, name)));
    let age = ("accessTokenMaxAge: 0", "accessTokenMaxAge: 2h");
    let other = (secret.as_str(), "another one than the host's");
    for (code, key, (from, to)) in [
        ("TokenNotInCache", AGE, age),
        ("SignatureInvalid", SECRET, other),
    ] {
        edit(&kubectl, from, to);
        // A kubelet brings a new configuration to Pods that run when it likes.
        let restart = ["rollout", "restart", "deploy", "ks-apiserver"];
        ok(&kubectl, &[OURS.as_slice(), &restart].concat());
        becomes(fleet, name, &[code]);
        restored(fleet, name, code, key);
    }
    role_users_and_deployment(fleet);
}

fn role_users_and_deployment(fleet: &Fleet) {
    let name = "member-1";
    let kubectl = fleet.kubectl(name).unwrap();
    edit(&kubectl, "clusterRole: member", "clusterRole: none");
    repaired(fleet, name, "WrongRole", &[]);

    let user = "users.iam.kubesphere.io";
    let disabled = r#"{"status":{"state":"Disabled"}}"#;
    ok(
        &kubectl,
        &["patch", user, "admin", "--type=merge", "-p", disabled],
    );
    repaired(fleet, name, "UserDisabled", &[]);
    let binding = "globalrolebindings.iam.kubesphere.io";
    ok(&kubectl, &["delete", binding, "admin"]);
    ok(&kubectl, &["delete", user, "admin"]);
    repaired(fleet, name, "UserMissing", &[]);
    let found = ok(
        &kubectl,
        &["get", binding, "admin", "-o", "jsonpath={.roleRef.name}"],
    );
    assert_eq!(found, "platform-admin", "the roles come with the user");
    assert_eq!(ask(fleet, name, &token(fleet)), 200);

    let scale = ["scale", "deploy", "ks-apiserver", "--replicas=0"];
    ok(&kubectl, &[OURS.as_slice(), &scale].concat());
    repaired(fleet, name, "MemberNotReady", &[]);
}

#[test]
fn the_stored_connection_is_restored() {
    // What joins here stands for the same member a second time, by the shared secret.
    let fleet = start(&["--members", "1", "--trust", "shared-secret"]);
    without_controllers(&fleet);
    log_in(&fleet);
    let facts = fleet.facts();
    let read = |index: usize| std::fs::read_to_string(&facts.clusters[index].kubeconfig).unwrap();
    let (host, good) = (read(0), read(1));
    let server = facts.clusters[1].address.clone();
    let own = ["member-1"];
    // The same cluster twice would be refused when its identity is unknown, so the objects that are broken take the member's place.
    let kubectl = fleet.kubectl("host").unwrap();
    let leave = |name: &str| {
        let cluster = "clusters.cluster.kubesphere.io";
        // The controllers, which would take their finalizer away, have ended.
        let bare = r#"{"metadata":{"finalizers":null}}"#;
        ok(
            &kubectl,
            &["patch", cluster, name, "--type=merge", "-p", bare],
        );
        ok(&kubectl, &["delete", cluster, name]);
    };
    leave(own[0]);

    let key = "certificate-authority-data";
    let other = good.replace(value(&good, key), value(&host, key));
    join(&fleet, "authority", &other, &server, None);
    becomes(&fleet, "authority", &["TLSUntrusted"]);
    let asked = kah(&fleet, &["restore-access", "authority", "--yes"]);
    assert_eq!(asked.code, 1, "{asked:?}");
    assert!(asked.stderr.contains("--accept-ca"), "{asked:?}");
    let shown = asked.stderr.split("the member shows ").nth(1).unwrap();
    let fingerprint = shown.split('.').next().unwrap().to_owned();
    let command = format!("`kah restore-access authority --accept-ca {fingerprint}`");
    assert!(asked.stderr.contains(&command), "{asked:?}");
    let wrong = fingerprint.replace('A', "B").replace('0', "1");
    let refused = kah(
        &fleet,
        &[
            "restore-access",
            "authority",
            "--yes",
            "--accept-ca",
            &wrong,
        ],
    );
    assert_eq!(refused.code, 1, "{refused:?}");
    becomes(&fleet, "authority", &["TLSUntrusted"]);
    repaired(
        &fleet,
        "authority",
        "TLSUntrusted",
        &["--accept-ca", &fingerprint],
    );
    leave("authority");

    let ended = short_lived(&fleet, "member-1", -1);
    join(&fleet, "credential", &ended, &server, None);
    becomes(&fleet, "credential", &["CredentialRejected"]);
    let asked = kah(&fleet, &["restore-access", "credential", "--yes"]);
    assert_eq!(asked.code, 1, "{asked:?}");
    assert!(asked.stderr.contains("--kubeconfig"), "{asked:?}");
    let file = facts.clusters[1].kubeconfig.display().to_string();
    let of_host = facts.clusters[0].kubeconfig.display().to_string();
    let refused = kah(
        &fleet,
        &[
            "restore-access",
            "credential",
            "--yes",
            "--kubeconfig",
            &of_host,
        ],
    );
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.stderr.contains("in the fleet already"),
        "{refused:?}"
    );
    repaired(
        &fleet,
        "credential",
        "CredentialRejected",
        &["--kubeconfig", &file],
    );
    leave("credential");

    // Where callers come by another way, the member issues one to those whom it lets in.
    let inside = Inside::new();
    let secret = secret(configuration(&map(&fleet, "host")));
    let endpoint = inside.server(&good, &secret, jiff::SignedDuration::ZERO);
    for rejected in [&ended, &with_token(&good, &server, "nobody gave me")] {
        join(&fleet, "beside", rejected, &server, Some(&endpoint));
        repaired(&fleet, "beside", "CredentialRejected", &[]);
        assert_eq!(ask(&fleet, "beside", &token(&fleet)), 200);
        leave("beside");
    }

    // But what it issues is sent to nobody else.
    let elsewhere = with_token(&host, &facts.clusters[0].address, "nobody gave me");
    join(
        &fleet,
        "elsewhere",
        &elsewhere,
        &facts.clusters[0].address,
        Some(&endpoint),
    );
    becomes(&fleet, "elsewhere", &["CredentialRejected"]);
    for last in ["--yes", "--dry-run"] {
        let ran = kah(&fleet, &["restore-access", "elsewhere", last]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.stderr.contains("another authority than"), "{ran:?}");
        assert!(ran.stderr.contains("--kubeconfig"), "{ran:?}");
    }
    leave("elsewhere");

    // One that still works gets us another.
    let ending = short_lived(&fleet, "member-1", 10);
    join(&fleet, "ending", &ending, &server, None);
    repaired(&fleet, "ending", "CredentialExpiring", &[]);
    assert_eq!(ask(&fleet, "ending", &token(&fleet)), 200);
    // With the new one all goes on as before, a restore among it.
    let member = fleet.kubectl("member-1").unwrap();
    edit(&member, "accessTokenMaxAge: 0", "accessTokenMaxAge: 2h");
    repaired(&fleet, "ending", "TokenNotInCache", &[]);
}

/// The same on a real control plane: what is stored for `member-1` is broken, and a person repairs it.
pub fn connections_of_a_real_member_are_restored(fleet: &Fleet) {
    let name = "member-1";
    let facts = fleet.facts();
    let read = |index: usize| std::fs::read_to_string(&facts.clusters[index].kubeconfig).unwrap();
    let (of_host, good) = (read(0), read(1));
    let kubectl = fleet.kubectl("host").unwrap();
    let store = |kubeconfig: &str| {
        let text = STANDARD.encode(kubeconfig);
        let patch = json!({"spec": {"connection": {"kubeconfig": text}}}).to_string();
        let cluster = "clusters.cluster.kubesphere.io";
        ok(
            &kubectl,
            &["patch", cluster, name, "--type=merge", "-p", &patch],
        );
    };
    let refused = |arguments: &[&str], words: &str| {
        let command = [&["restore-access", name, "--yes"], arguments].concat();
        let ran = kah(fleet, &command);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.stderr.contains(words), "{words}: {ran:?}");
        ran.stderr
    };
    let file = facts.clusters[1].kubeconfig.display().to_string();
    let file_of_host = facts.clusters[0].kubeconfig.display().to_string();

    // The member has another authority than the host knows.
    let key = "certificate-authority-data";
    store(&good.replace(value(&good, key), value(&of_host, key)));
    becomes(fleet, name, &["TLSUntrusted"]);
    let said = refused(&[], "--accept-ca");
    let shown = said.split("the member shows ").nth(1).unwrap();
    let fingerprint = shown.split('.').next().unwrap().to_owned();
    let wrong = fingerprint.replace('A', "B").replace('0', "1");
    refused(
        &["--accept-ca", &wrong],
        "the member's authority has changed",
    );
    becomes(fleet, name, &["TLSUntrusted"]);
    let accept = ["--accept-ca", &fingerprint];
    repaired(fleet, name, "TLSUntrusted", &accept);

    // A certificate that has ended, and a token that nobody gave.
    let rejected = with_token(&good, &facts.clusters[1].address, "nobody gave me");
    for kubeconfig in [short_lived(fleet, name, -1), rejected] {
        store(&kubeconfig);
        becomes(fleet, name, &["CredentialRejected"]);
        refused(&[], "--kubeconfig");
        refused(
            &["--kubeconfig", &file_of_host],
            "it leads to another cluster",
        );
        becomes(fleet, name, &["CredentialRejected"]);
        let bring = ["--kubeconfig", &file];
        repaired(fleet, name, "CredentialRejected", &bring);
    }

    // One that still works has the member issue another.
    store(&short_lived(fleet, name, 10));
    repaired(fleet, name, "CredentialExpiring", &[]);
    assert_eq!(ask(fleet, name, &token(fleet)), 200);
}

fn two_at_once_end_well(fleet: &Fleet) {
    break_line(
        fleet,
        "member-2",
        "accessTokenMaxAge:",
        "    accessTokenMaxAge: 2h",
    );
    let start = || {
        fleet
            .kah(&["restore-access", "member-2", "--yes"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let both = [start(), start()].map(|child| child.wait_with_output().unwrap());
    for output in &both {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success()
                || said.contains("being restored by admin")
                || said.contains("write ConfigMap"),
            "{said}"
        );
    }
    assert!(both.iter().any(|output| output.status.success()));
    assert_eq!(ask(fleet, "member-2", &token(fleet)), 200);
}
