//! Steps 4 and 5: access to a member is lost, seen, named, and restored by the documented commands.

use std::time::Duration;

use kah_testkit::fleet::{Fleet, until};
use kah_testkit::http_client::{Answer, get};

use crate::fleet::{OURS, kah, log_in, ok, server_pod, start, start_real, token};

/// One of the two classic faults.
struct Fault {
    word: &'static str,
    code: &'static str,
    text: &'static str,
}

const TOKEN_CACHE: Fault = Fault {
    word: "token-cache",
    code: "TokenNotInCache",
    text: "token not found in cache",
};
const JWT_SECRET: Fault = Fault {
    word: "jwt-secret",
    code: "SignatureInvalid",
    text: "signature is invalid",
};

#[test]
fn a_member_that_asks_its_own_cache_is_restored() {
    let fleet = start(&["--members", "2", "--break", "member-2=token-cache"]);
    tell(&fleet, &TOKEN_CACHE);
    cure(
        &fleet,
        &TOKEN_CACHE,
        "s/accessTokenMaxAge: 2h/accessTokenMaxAge: 0/",
    );
}

#[test]
fn a_member_with_another_secret_is_restored() {
    let fleet = start(&["--members", "2", "--break", "member-2=jwt-secret"]);
    tell(&fleet, &JWT_SECRET);
    let secret = grep(&fleet, "host", "\"apiVersion\"", "jwtSecret");
    let value = secret.trim().to_owned();
    cure(&fleet, &JWT_SECRET, &format!("s/jwtSecret: .*/{value}/"));
}

#[test]
fn a_member_broken_by_hand_is_restored() {
    let fleet = start(&["--members", "2", "--trust", "shared-secret"]);
    let token = token(&fleet);
    assert_eq!(ask(&fleet, &token).status, 200);
    edit(&fleet, "s/accessTokenMaxAge: 0/accessTokenMaxAge: 2h/");
    restart(&fleet);
    tell(&fleet, &TOKEN_CACHE);
    cure(
        &fleet,
        &TOKEN_CACHE,
        "s/accessTokenMaxAge: 2h/accessTokenMaxAge: 0s/",
    );
    // The ConfigMap is also read while ks-apiserver runs.
    edit(&fleet, "s/accessTokenMaxAge: 0s/accessTokenMaxAge: 2h/");
    until(Duration::from_secs(20), "the edit is read live", || {
        (ask(&fleet, &token).status == 401).then_some(())
    })
    .unwrap();
}

#[test]
fn both_faults_are_restored_on_a_real_control_plane() {
    let Some(fleet) = start_real(2) else { return };
    let token = token(&fleet);
    assert_eq!(ask(&fleet, &token).status, 200);
    edit(&fleet, "s/accessTokenMaxAge: 0/accessTokenMaxAge: 2h/");
    restart(&fleet);
    tell(&fleet, &TOKEN_CACHE);
    cure(
        &fleet,
        &TOKEN_CACHE,
        "s/accessTokenMaxAge: 2h/accessTokenMaxAge: 0/",
    );
    let secret = grep(&fleet, "member-2", "\"apiVersion\"", "jwtSecret");
    edit(
        &fleet,
        "s/jwtSecret: .*/jwtSecret: \"another one than that of the host\"/",
    );
    restart(&fleet);
    tell(&fleet, &JWT_SECRET);
    cure(
        &fleet,
        &JWT_SECRET,
        &format!("s/jwtSecret: .*/{}/", secret.trim()),
    );
}

fn ask(fleet: &Fleet, token: &str) -> Answer {
    get(
        &format!(
            "{}/clusters/member-2/api/v1/namespaces",
            fleet.facts().address
        ),
        token,
    )
    .unwrap()
}

/// The refusal to the letter, the three log lines, and what our own commands make of it.
fn tell(fleet: &Fleet, fault: &Fault) {
    let token = token(fleet);
    let refused = until(Duration::from_secs(20), "the member refuses", || {
        Some(ask(fleet, &token)).filter(|answer| answer.status == 401)
    })
    .unwrap();
    assert_eq!(
        refused.body,
        format!(
            "{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{{}},\"status\":\"Failure\",\
             \"message\":\"Unauthorized: {}\",\"reason\":\"Unauthorized\",\"code\":401}}\n",
            fault.text
        ),
        "{}",
        fault.word
    );
    assert_eq!(refused.header("content-type"), "application/json");
    assert_eq!(refused.header("www-authenticate"), "");
    assert_eq!(refused.header("x-kubeaihub-member-refusal"), fault.code);
    // The healthy member and the host are as before.
    let others = ["/clusters/member-1/api/v1/namespaces", "/api/v1/namespaces"];
    for path in others {
        assert_eq!(
            get(&format!("{}{path}", fleet.facts().address), &token)
                .unwrap()
                .status,
            200
        );
    }

    let kubectl = fleet.kubectl("member-2").unwrap();
    let log = ok(&kubectl, &[OURS[0], OURS[1], "logs", &server_pod(&kubectl)]);
    let wanted = [
        format!("token.go:65] {}", fault.text),
        format!("jwt_token.go:45] {}", fault.text),
        format!(
            "authentication.go:60] Unable to authenticate the request due to error: {}",
            fault.text
        ),
    ];
    let klog: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(fault.text))
        .take(3)
        .collect();
    assert_eq!(klog.len(), 3, "{log}");
    for (line, wanted) in klog.iter().zip(&wanted) {
        // E0305 03:46:42.105625       1 token.go:65] token not found in cache
        let (head, rest) = line.split_at(30);
        assert_eq!(rest, wanted, "{line}");
        assert!(head.starts_with('E') && head.ends_with(' '), "{line}");
        assert!(
            head.get(5..6) == Some(" ") && head.get(14..15) == Some("."),
            "{line}"
        );
        assert_eq!(head.get(22..29).map(str::len), Some(7));
        assert!(
            head.get(22..29)
                .unwrap()
                .trim_start()
                .parse::<u32>()
                .is_ok(),
            "{line}"
        );
    }

    log_in(fleet);
    let list = kah(fleet, &["cluster", "list"]);
    assert_eq!(list.code, 0, "{list:?}");
    let lines: Vec<&str> = list
        .stdout
        .lines()
        .filter(|line| line.contains(fault.code))
        .collect();
    assert_eq!(lines.len(), 1, "{list:?}");
    assert!(
        lines[0].starts_with("member-2 ") && lines[0].ends_with(" kah restore-access member-2"),
        "{list:?}"
    );
    let show = kah(fleet, &["cluster", "show", "member-2"]);
    assert!(
        show.stdout.contains("Run `kah restore-access member-2`"),
        "{show:?}"
    );
    let doctor = kah(fleet, &["doctor"]);
    assert_eq!(doctor.code, 3, "{doctor:?}");
    let lines: Vec<&str> = doctor
        .stdout
        .lines()
        .filter(|line| line.contains(fault.code))
        .collect();
    assert_eq!(lines.len(), 1, "{doctor:?}");
    assert!(
        lines[0].starts_with("member-2 ")
            && lines[0].contains(fault.text)
            && lines[0].contains(" error "),
        "{doctor:?}"
    );
    assert_eq!(kah(fleet, &["doctor", "member-1"]).code, 0);
    let json = kah(fleet, &["doctor", "member-2", "-o", "json"]);
    let found: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(found[0]["code"], fault.code, "{json:?}");
}

/// The documented commands, word for word.
fn cure(fleet: &Fleet, fault: &Fault, sed: &str) {
    let token = token(fleet);
    for cluster in ["host", "member-2"] {
        for word in ["jwtSecret", "accessTokenMaxAge"] {
            let plain = grep(fleet, cluster, "\"apiVersion\"", word);
            assert_eq!(plain.lines().count(), 1, "{cluster} {word}: {plain}");
            assert!(plain.contains(&format!("{word}: ")), "{plain}");
            // The page prints the quotation marks of a book.
            assert_eq!(grep(fleet, cluster, "“apiVersion”", word), plain);
        }
    }
    assert_eq!(ask(fleet, &token).status, 401, "{}", fault.word);
    edit(fleet, sed);
    restart(fleet);
    // When the new Pod is ready, the same token opens the member.
    until(
        Duration::from_secs(10),
        "access is back with the same token",
        || (ask(fleet, &token).status == 200).then_some(()),
    )
    .unwrap();
    log_in(fleet);
    let doctor = kah(fleet, &["doctor"]);
    assert_eq!(doctor.code, 0, "{doctor:?}");
}

fn grep(fleet: &Fleet, cluster: &str, without: &str, word: &str) -> String {
    let kubectl = fleet.kubectl(cluster).unwrap();
    let line = format!(
        "kubectl -n kubesphere-system get cm kubesphere-config -o yaml | grep -v {without} | grep {word}"
    );
    let ran = kubectl.shell(&line, fleet.folder());
    assert_eq!(ran.code, 0, "{line}: {ran:?}");
    ran.stdout
}

/// `kubectl edit` with an editor that applies this sed expression.
fn edit(fleet: &Fleet, sed: &str) {
    let editor = fleet.folder().join("editor");
    let script = format!("#!/bin/sh\nexec sed -i '{sed}' \"$1\"\n");
    std::fs::write(&editor, script).unwrap();
    let line = format!(
        "chmod +x editor && EDITOR={} kubectl -n kubesphere-system edit cm kubesphere-config -o yaml",
        editor.display()
    );
    let ran = fleet
        .kubectl("member-2")
        .unwrap()
        .shell(&line, fleet.folder());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!ran.stderr.contains("no changes made"), "{ran:?}");
}

fn restart(fleet: &Fleet) {
    let kubectl = fleet.kubectl("member-2").unwrap();
    // kubectl refuses two restarts within one second.
    let ran = until(Duration::from_secs(10), "the restart is taken", || {
        let ran = kubectl.shell(
            "kubectl -n kubesphere-system rollout restart deploy ks-apiserver",
            fleet.folder(),
        );
        (!ran.stderr.contains("within the past second")).then_some(ran)
    })
    .unwrap();
    assert_eq!(
        ran.stdout, "deployment.apps/ks-apiserver restarted\n",
        "{ran:?}"
    );
    let line = "kubectl -n kubesphere-system rollout status deploy ks-apiserver --timeout=60s";
    let ran = kubectl.shell(line, fleet.folder());
    assert!(ran.stdout.contains("successfully rolled out"), "{ran:?}");
}
