//! Access is restored in one step.

use std::time::{Duration, Instant};

use kah_testkit::fleet::{Fleet, until};
use kah_testkit::http_client::get;
use serde_json::Value;

use crate::fleet::{configuration_map, kah, log_in, ok, replace_map, start, start_real, token};

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
    println!("{cluster}: {code} restored after {:?}", since.elapsed());
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
    let ran = std::process::Command::new("sh")
        .args(["-c", &format!("printf %s '{base64}' | base64 -d")])
        .output()
        .unwrap();
    String::from_utf8(ran.stdout).unwrap()
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
    let age = "authentication.oauthOptions.accessTokenMaxAge";
    restored(&fleet, "member-1", "TokenNotInCache", age);
    let secret = "authentication.jwtSecret";
    restored(&fleet, "member-2", "SignatureInvalid", secret);
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
    // A user that the member does not know is nothing that its configuration could cure.
    let kubectl = fleet.kubectl("member-1").unwrap();
    ok(&kubectl, &["delete", "users.iam.kubesphere.io", "admin"]);
    let token = token(fleet);
    until(Duration::from_secs(20), "the member refuses", || {
        (ask(fleet, "member-1", &token) == 401).then_some(())
    })
    .unwrap();
    let before = map(fleet, "member-1");
    let ran = kah(fleet, &["restore-access", "member-1", "--yes"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("not found") && ran.stderr.contains("Synchronise the user"),
        "{ran:?}"
    );
    assert_eq!(map(fleet, "member-1"), before);
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

#[test]
fn a_fault_is_restored_in_one_step_on_a_real_control_plane() {
    let Some(fleet) = start_real(1) else { return };
    let age = "authentication.oauthOptions.accessTokenMaxAge";
    break_line(
        &fleet,
        "member-1",
        "accessTokenMaxAge:",
        "    accessTokenMaxAge: 2h",
    );
    restored(&fleet, "member-1", "TokenNotInCache", age);
}
