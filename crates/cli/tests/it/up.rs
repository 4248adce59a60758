//! `kah up`: what it prints, what it keeps, what it refuses.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use kah_testkit::http_client::get;
use rustix::process::Signal;

use crate::fleet::{finish, ok, program, start, token};

#[test]
fn a_second_start_finds_the_same_data() {
    let mut fleet = start(&["--members", "1"]);
    let first = fleet.facts().clone();
    assert_eq!(first.user, "admin");
    let names: Vec<&str> = first
        .clusters
        .iter()
        .map(|cluster| cluster.name.as_str())
        .collect();
    assert_eq!(names, ["host", "member-1"]);
    let private = first
        .clusters
        .iter()
        .map(|cluster| &cluster.kubeconfig)
        .chain([&first.password_file]);
    for file in private {
        let mode = std::fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    let password = fleet.password().unwrap();
    let member = fleet.kubectl("member-1").unwrap();
    ok(
        &member,
        &["create", "configmap", "kept", "--from-literal=a=b"],
    );

    // A second one on the same data is refused, in words.
    let mut second = fleet.kah(&["up", "--port", "0", "--data-dir"]);
    let refused = finish(second.arg(fleet.data_dir()));
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.stderr.contains("in use by another `kah up`"),
        "{refused:?}"
    );

    let stopping = Instant::now();
    fleet.restart(Signal::INT, &["--members", "1"]).unwrap();
    assert!(stopping.elapsed() < Duration::from_secs(60));
    assert_eq!(fleet.password().unwrap(), password);
    let again = &fleet.facts().clusters;
    assert_eq!(
        again
            .iter()
            .map(|cluster| &cluster.address)
            .collect::<Vec<_>>(),
        first
            .clusters
            .iter()
            .map(|cluster| &cluster.address)
            .collect::<Vec<_>>(),
    );
    let member = fleet.kubectl("member-1").unwrap();
    assert_eq!(
        ok(
            &member,
            &["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]
        ),
        "b"
    );
    let token = token(&fleet);
    let url = format!(
        "{}/clusters/member-1/api/v1/namespaces/default/configmaps/kept",
        fleet.facts().address
    );
    assert_eq!(get(&url, &token).unwrap().status, 200);

    // What was acknowledged survives a kill, and a member more joins what is there.
    ok(
        &member,
        &["create", "configmap", "late", "--from-literal=a=b"],
    );
    fleet.restart(Signal::KILL, &["--members", "2"]).unwrap();
    ok(
        &fleet.kubectl("member-1").unwrap(),
        &["get", "configmap", "late"],
    );
    let url = format!(
        "{}/clusters/member-2/api/v1/namespaces",
        fleet.facts().address
    );
    assert_eq!(get(&url, &crate::fleet::token(&fleet)).unwrap().status, 200);

    fleet.process().unwrap().signal(Signal::TERM);
    let status = fleet
        .process()
        .unwrap()
        .wait(Duration::from_secs(15))
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_taken_port_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(program());
    let ran = finish(
        command
            .args(["up", "--port", &port, "--data-dir"])
            .arg(folder.path()),
    );
    assert_eq!(ran.code, 1);
    assert_eq!(ran.stdout, "");
    assert!(
        ran.stderr.contains(&format!("Port {port} is taken by ")),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("--port 0"), "{}", ran.stderr);
}

#[test]
fn a_fault_of_no_member_is_refused() {
    for (fault, code) in [
        ("member-9=token-cache", 1),
        ("member-1=rust", 2),
        ("host=jwt-secret", 1),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new(program());
        let ran = finish(
            command
                .args(["up", "--port", "0", "--break", fault, "--data-dir"])
                .arg(folder.path()),
        );
        assert_eq!(ran.code, code, "{ran:?}");
    }
}
