//! What breaks in the middle: clients get an end, and everything comes back by itself.

use std::process::Stdio;
use std::time::Duration;

use kah_testkit::fleet::{Fleet, Guard, until};
use kah_testkit::http_client::get;
use rustix::process::Signal;

use crate::fleet::{OURS, ok, server_pod, signal_server, start, through_host, token};

/// A client that was in the middle of something must have an end by then.
const END_WITHIN: Duration = Duration::from_secs(10);
/// And everything works again by then.
const BACK_WITHIN: Duration = Duration::from_secs(30);

#[test]
fn a_killed_server_ends_its_streams_and_comes_back() {
    let fleet = start(&["--members", "1"]);
    let token = token(&fleet);
    let through = through_host(&fleet, "member-1", &token);
    let direct = fleet.kubectl("member-1").unwrap();
    let pod = server_pod(&direct);

    let raw = "/api/v1/namespaces/default/configmaps?watch=true";
    let mut streams = vec![
        hold(&fleet, &through, &["get", "--raw", raw]),
        hold(&fleet, &through, &[OURS[0], OURS[1], "logs", "-f", &pod]),
    ];
    signal_server(&fleet, "member-1", Signal::KILL);
    for stream in &mut streams {
        stream.wait(END_WITHIN).unwrap();
    }
    back(&fleet, "member-1", &token);
}

#[test]
fn a_restarted_host_ends_its_streams_and_comes_back() {
    let fleet = start(&["--members", "1"]);
    let old = token(&fleet);
    let through = through_host(&fleet, "member-1", &old);
    let mut watching = hold(
        &fleet,
        &through,
        &[
            "get",
            "--raw",
            "/api/v1/namespaces/default/configmaps?watch=true",
        ],
    );
    let host = fleet.kubectl("host").unwrap();
    ok(
        &host,
        &[
            OURS[0],
            OURS[1],
            "rollout",
            "restart",
            "deploy",
            "ks-apiserver",
        ],
    );
    ok(
        &host,
        &[
            OURS[0],
            OURS[1],
            "rollout",
            "status",
            "deploy",
            "ks-apiserver",
            "--timeout=60s",
        ],
    );
    // The old Pod drains: its stream may last as long as its grace, not longer.
    watching.wait(END_WITHIN + Duration::from_secs(10)).unwrap();
    // Sessions lie in the memory of the process that ended: one logs in again.
    let fresh = until(BACK_WITHIN, "a login at the restarted host", || {
        let facts = fleet.facts();
        kah_testkit::http_client::token(&facts.address, "admin", &fleet.password().unwrap()).ok()
    })
    .unwrap();
    back(&fleet, "member-1", &fresh);
}

#[test]
fn a_restarted_member_comes_back_with_the_same_token() {
    let fleet = start(&["--members", "1"]);
    let token = token(&fleet);
    let member = fleet.kubectl("member-1").unwrap();
    ok(
        &member,
        &[
            OURS[0],
            OURS[1],
            "rollout",
            "restart",
            "deploy",
            "ks-apiserver",
        ],
    );
    ok(
        &member,
        &[
            OURS[0],
            OURS[1],
            "rollout",
            "status",
            "deploy",
            "ks-apiserver",
            "--timeout=60s",
        ],
    );
    back(&fleet, "member-1", &token);
}

fn back(fleet: &Fleet, cluster: &str, token: &str) {
    let url = format!(
        "{}/clusters/{cluster}/api/v1/namespaces",
        fleet.facts().address
    );
    until(BACK_WITHIN, "the member answers again", || {
        (get(&url, token).ok()?.status == 200).then_some(())
    })
    .unwrap();
}

/// A kubectl that goes on until it is ended from the other side.
fn hold(fleet: &Fleet, kubectl: &kah_testkit::kubectl::Kubectl, arguments: &[&str]) -> Guard {
    let said = fleet.folder().join("said");
    let mut command = kubectl.command();
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&said).unwrap())
        .stderr(Stdio::null());
    let stream = Guard::spawn(&mut command).unwrap();
    // A stream that has not begun could begin after the server is back, and then it would not end.
    until(Duration::from_secs(20), "the stream is under way", || {
        std::fs::metadata(&said).unwrap().len().gt(&0).then_some(())
    })
    .unwrap();
    stream
}
