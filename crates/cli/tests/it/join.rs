//! A cluster joins with one command, and leaves with one.

use std::time::Duration;

use kah_testkit::fleet::{Fleet, until};
use kah_testkit::http_client::get;
use rustix::process::Signal;

use crate::fleet::{edit, kah, log_in, ok, start, start_real, token};

fn clusters(fleet: &Fleet) -> Vec<String> {
    let names = ok(
        &fleet.kubectl("host").unwrap(),
        &["get", "clusters.cluster.kubesphere.io", "-o", "name"],
    );
    let name = |line: &str| line.rsplit('/').next().unwrap_or_default().to_owned();
    names.lines().map(name).collect()
}

fn status(fleet: &Fleet, cluster: &str, token: &str) -> u16 {
    let url = format!("{}/clusters/{cluster}/version", fleet.facts().address);
    get(&url, token).unwrap().status
}

#[test]
fn a_member_leaves_and_joins_again() {
    let fleet = start(&["--members", "2", "--trust", "shared-secret"]);
    log_in(&fleet);
    let path = |index: usize| {
        fleet.facts().clusters[index]
            .kubeconfig
            .display()
            .to_string()
    };
    let all = clusters(&fleet);
    let token = token(&fleet);

    // What cannot join, each for its own reason, and nothing is left behind.
    let broken = fleet.folder().join("broken.yaml");
    let text = std::fs::read_to_string(path(1)).unwrap();
    let with_program = text.replace(
        "client-certificate-data:",
        "exec: {command: sh}\n    client-certificate-data:",
    );
    std::fs::write(&broken, with_program).unwrap();
    let broken = broken.display().to_string();
    for (name, kubeconfig, words, next) in [
        (
            "member-1",
            path(1),
            "there is a cluster member-1 already",
            "kah cluster list",
        ),
        (
            "again",
            path(1),
            "this is the cluster member-1",
            "kah cluster list",
        ),
        (
            "me",
            path(0),
            "cluster host is the host itself",
            "Correct that",
        ),
        (
            "No_Name",
            path(1),
            "is no name for a cluster",
            "Correct that",
        ),
        (
            "program",
            broken,
            "uses exec, which is refused",
            "--flatten",
        ),
        (
            "none",
            "/no/such/file".to_owned(),
            "read /no/such/file",
            "--kubeconfig FILE",
        ),
    ] {
        let ran = kah(
            &fleet,
            &["cluster", "join", name, "--kubeconfig", &kubeconfig],
        );
        assert_eq!(ran.code, 1, "{name}: {ran:?}");
        assert!(ran.stderr.contains(words), "{name}: {ran:?}");
        assert!(ran.stderr.contains(next), "{name}: {ran:?}");
        assert!(!ran.stderr.contains("client-key-data"), "{ran:?}");
    }
    assert_eq!(clusters(&fleet), all);

    // Leaving needs a yes; then the host knows it no more.
    let unasked = kah(&fleet, &["cluster", "leave", "member-2"]);
    assert_eq!(unasked.code, 1, "{unasked:?}");
    assert_eq!(status(&fleet, "member-2", &token), 200);
    let left = kah(&fleet, &["cluster", "leave", "member-2", "--yes"]);
    assert_eq!(left.code, 0, "{left:?}");
    until(Duration::from_secs(10), "member-2 is unknown", || {
        (status(&fleet, "member-2", &token) == 400).then_some(())
    })
    .unwrap();
    for name in ["member-2", "host"] {
        assert_eq!(kah(&fleet, &["cluster", "leave", name, "--yes"]).code, 1);
    }

    // One that refuses the host's tokens says so, and joins to be repaired.
    edit(
        &fleet.kubectl("member-2").unwrap(),
        "accessTokenMaxAge: 0",
        "accessTokenMaxAge: 2h",
    );
    let join = [
        "cluster",
        "join",
        "second",
        "--trust",
        "shared-secret",
        "--kubeconfig",
        &path(2),
    ];
    let refused = until(Duration::from_secs(20), "the member refuses", || {
        let ran = kah(&fleet, &[join.as_slice(), &["--dry-run"]].concat());
        (ran.code == 1).then_some(ran)
    })
    .unwrap();
    assert!(
        refused.stderr.contains("TokenNotInCache") && refused.stderr.contains("--force"),
        "{refused:?}"
    );
    let joined = kah(&fleet, &[join.as_slice(), &["--force"]].concat());
    assert_eq!(joined.code, 0, "{joined:?}");
    until(Duration::from_secs(10), "second is known", || {
        (status(&fleet, "second", &token) == 401).then_some(())
    })
    .unwrap();
    let restored = kah(&fleet, &["restore-access", "second", "--yes"]);
    assert_eq!(restored.code, 0, "{restored:?}");
    assert_eq!(status(&fleet, "second", &token), 200);
}

#[test]
fn who_left_is_not_joined_again_at_the_next_start() {
    let mut fleet = start(&["--members", "2"]);
    log_in(&fleet);
    let before = fleet.facts().clusters[1].clone();
    let file = before.kubeconfig.display().to_string();
    for step in [
        vec!["cluster", "leave", "member-1", "--yes"],
        vec!["cluster", "join", "shop", "--kubeconfig", &file],
        vec!["cluster", "leave", "member-2", "--yes"],
    ] {
        let ran = kah(&fleet, &step);
        assert_eq!(ran.code, 0, "{ran:?}");
        let (plan, work) = ("  there: the host's public keys", "Joining shop");
        let told = [plan, work].map(|words| ran.stderr.find(words));
        assert_eq!(
            told[0].is_some() && told[0] < told[1],
            step[1] == "join",
            "{ran:?}"
        );
    }

    // The members are at other addresses this time.
    std::fs::remove_file(fleet.data_dir().join("ports.json")).unwrap();
    fleet.restart(Signal::INT, &["--members", "2"]).unwrap();
    let told = fleet.told().unwrap();
    for words in [
        "member-1 is in the fleet as shop.",
        "member-2 has left the fleet; not joined again: kah cluster join member-2 --kubeconfig ",
    ] {
        assert!(told.contains(words), "{told}");
    }
    let members = &fleet.facts().clusters[1..];
    let named: Vec<_> = members.iter().map(|it| it.in_fleet_as.as_deref()).collect();
    assert_eq!(named, [Some("shop"), None]);
    assert_ne!(members[0].address, before.address);
    assert_eq!(clusters(&fleet), ["host", "shop"]);

    log_in(&fleet);
    let token = token(&fleet);
    let file = members[1].kubeconfig.display().to_string();
    let join = ["cluster", "join", "member-2", "--kubeconfig", &file];
    let joined = kah(&fleet, &join);
    assert_eq!(joined.code, 0, "{joined:?}");
    for name in ["shop", "member-2"] {
        until(Duration::from_secs(20), "the members answer", || {
            (status(&fleet, name, &token) == 200).then_some(())
        })
        .unwrap();
    }
}

#[test]
fn a_member_leaves_and_joins_again_on_a_real_control_plane() {
    let Some(fleet) = start_real(1) else { return };
    log_in(&fleet);
    let path = fleet.facts().clusters[1].kubeconfig.display().to_string();
    let join = || {
        let again = ["cluster", "join", "again", "--kubeconfig", &path];
        kah(&fleet, &[again.as_slice(), &["--dry-run"]].concat())
    };
    let known = join();
    assert_eq!(known.code, 1, "{known:?}");
    assert!(
        known.stderr.contains("this is the cluster member-1"),
        "{known:?}"
    );
    let left = kah(&fleet, &["cluster", "leave", "member-1", "--yes"]);
    assert_eq!(left.code, 0, "{left:?}");
    assert_eq!(clusters(&fleet), ["host"]);
    // Its Service has no endpoints there: a real kube-apiserver refuses loopback addresses.
    let unknown = join();
    assert_eq!(unknown.code, 1, "{unknown:?}");
    assert!(unknown.stderr.contains("MemberNotReady"), "{unknown:?}");
}
