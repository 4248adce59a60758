//! What the host's controllers tell of members, as people see it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use kah_testkit::fleet::{Fleet, Guard, until};
use kah_testkit::http_client::{Answer, get};
use rustix::process::Signal;

use crate::fleet::{OURS, edit, kah, log_in, ok, signal_server, start, start_real, token};

fn ask(fleet: &Fleet, cluster: &str, token: &str) -> Answer {
    let address = &fleet.facts().address;
    get(
        &format!("{address}/clusters/{cluster}/api/v1/namespaces"),
        token,
    )
    .unwrap()
}

/// The cells of a cluster's row in `kubectl get clusters`, by column.
fn cell(fleet: &Fleet, cluster: &str, column: &str) -> String {
    let table = ok(&fleet.kubectl("host").unwrap(), &["get", "clusters"]);
    let header = table.lines().next().unwrap();
    let from = header
        .find(column)
        .unwrap_or_else(|| panic!("{column} in {header}"));
    let row = table
        .lines()
        .find(|line| line.starts_with(&format!("{cluster} ")));
    let rest = row.and_then(|row| row.get(from..)).unwrap_or("");
    rest.split("  ").next().unwrap_or("").trim().to_owned()
}

fn becomes(fleet: &Fleet, cluster: &str, column: &str, wanted: &str, limit: Duration) -> Duration {
    let since = Instant::now();
    let mut last = String::new();
    let found = until(limit, column, || {
        last = cell(fleet, cluster, column);
        (last == wanted).then_some(())
    });
    assert!(
        found.is_ok(),
        "{cluster}: {column} is {last:?}, not {wanted:?}, after {limit:?}"
    );
    since.elapsed()
}

/// The text of all Events about a cluster.
fn events(fleet: &Fleet, cluster: &str) -> String {
    let only = format!("involvedObject.kind=Cluster,involvedObject.name={cluster}");
    ok(
        &fleet.kubectl("host").unwrap(),
        &["get", "events", "--field-selector", &only],
    )
}

fn metrics(fleet: &Fleet) -> String {
    let host = fleet.kubectl("host").unwrap();
    let path = "jsonpath={.items[0].status.podIP}";
    let pods = ["get", "pods", "-l", "app=ks-controller-manager", "-o", path];
    let address = ok(&host, &[OURS.as_slice(), &pods].concat());
    get(&format!("http://{address}:9190/metrics"), "")
        .unwrap()
        .body
}

#[test]
fn a_member_that_dies_is_told_within_10_s_and_comes_back() {
    let fleet = start(&["--members", "2", "--trust", "shared-secret"]);
    let token = token(&fleet);
    let limit = Duration::from_secs(20);
    for (column, wanted) in [
        ("READY", "True"),
        ("ACCESS", "Accepted"),
        ("TRUST", "shared-secret"),
        ("ROUTE", "service-proxy"),
        ("NODES", "1"),
        ("VERSION", "v1.36.2"),
    ] {
        becomes(&fleet, "member-1", column, wanted, limit);
    }
    assert!(
        cell(&fleet, "member-1", "CERT-DAYS")
            .parse::<i64>()
            .unwrap()
            > 300
    );
    becomes(&fleet, "host", "ACCESS", "Accepted", limit);

    // It takes connections still, and never answers.
    signal_server(&fleet, "member-1", Signal::STOP);
    let took = becomes(
        &fleet,
        "member-1",
        "READY",
        "False",
        Duration::from_secs(10),
    );
    println!("a silent member was told after {took:?}");
    let since = Instant::now();
    let refused = ask(&fleet, "member-1", &token);
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(
        since.elapsed() < Duration::from_secs(2),
        "{:?}",
        since.elapsed()
    );
    let code = refused.header("x-kubeaihub-member-refusal").to_owned();
    assert!(
        ["MemberUnreachable", "MemberNotReady"].contains(&code.as_str()),
        "{refused:?}"
    );
    assert_eq!(refused.header("retry-after"), "5");
    assert_eq!(
        refused.json()["details"]["causes"][0]["reason"],
        code,
        "{refused:?}"
    );
    assert_eq!(ask(&fleet, "member-2", &token).status, 200);
    assert_eq!(cell(&fleet, "member-2", "READY"), "True");

    signal_server(&fleet, "member-1", Signal::CONT);
    let took = becomes(&fleet, "member-1", "READY", "True", limit);
    println!("it was told to be back after {took:?}");
    until(limit, "the member answers", || {
        (ask(&fleet, "member-1", &token).status == 200).then_some(())
    })
    .unwrap();

    lost_and_restored(&fleet, "member-2");
}

#[test]
fn lost_access_is_told_and_restored_on_a_real_control_plane() {
    if let Some(fleet) = start_real(1) {
        becomes(
            &fleet,
            "member-1",
            "ROUTE",
            "endpoint",
            Duration::from_secs(20),
        );
        lost_and_restored(&fleet, "member-1");
    }
}

/// Everybody who looks sees the same code, and the member heals where its Cluster asks for it.
fn lost_and_restored(fleet: &Fleet, cluster: &str) {
    log_in(fleet);
    let told = |name: &str| std::fs::read_to_string(fleet.folder().join(name)).unwrap();
    let watching = |arguments: &[&str], name: &str| {
        let file = std::fs::File::create(fleet.folder().join(name)).unwrap();
        let mut command = fleet.kah(arguments);
        Guard::spawn(command.stdout(file).stderr(Stdio::null())).unwrap()
    };
    let mut list = watching(&["cluster", "list", "--watch"], "list");
    let mut doctor = watching(&["doctor", "--watch"], "doctor");
    let limit = Duration::from_secs(30);
    for name in ["list", "doctor"] {
        until(limit, "the first table", || {
            told(name).contains(cluster).then_some(())
        })
        .unwrap();
    }

    let member = fleet.kubectl(cluster).unwrap();
    edit(&member, "accessTokenMaxAge: 0", "accessTokenMaxAge: 2h");
    let token = token(fleet);
    // A kubelet brings a new ConfigMap to its Pods when it likes.
    until(Duration::from_secs(100), "the member refuses", || {
        (ask(fleet, cluster, &token).status == 401).then_some(())
    })
    .unwrap();
    let within = Duration::from_secs(10);
    let took = becomes(fleet, cluster, "ACCESS", "TokenNotInCache", within);
    println!("a refusal was told after {took:?}");
    // It answers: its own word is what callers get.
    assert_eq!(cell(fleet, cluster, "READY"), "True");
    until(limit, "an Event", || {
        let events = events(fleet, cluster);
        (events.contains("Warning") && events.contains("TokenNotInCache")).then_some(())
    })
    .unwrap();
    let line =
        format!("kubeaihub_member_access{{cluster=\"{cluster}\",code=\"TokenNotInCache\"}} 1");
    until(limit, "the metric", || {
        metrics(fleet).contains(&line).then_some(())
    })
    .unwrap();
    for name in ["list", "doctor"] {
        until(limit, "what is watched tells it", || {
            let text = told(name);
            let is_it = |line: &str| line.starts_with(cluster) && line.contains("TokenNotInCache");
            text.lines().any(is_it).then_some(())
        })
        .unwrap();
    }

    let host = fleet.kubectl("host").unwrap();
    let patch = r#"{"spec":{"autoRestore":true}}"#;
    ok(
        &host,
        &["patch", "cluster", cluster, "--type", "merge", "-p", patch],
    );
    // One that does not read its configuration while it runs is restarted.
    let took = becomes(
        fleet,
        cluster,
        "ACCESS",
        "Accepted",
        Duration::from_secs(20),
    );
    println!("it restored itself within {took:?}");
    assert_eq!(ask(fleet, cluster, &token).status, 200);
    until(limit, "its Events", || {
        let events = events(fleet, cluster);
        (events.contains("RestoringAccess") && events.contains("AccessRestored")).then_some(())
    })
    .unwrap();
    assert_eq!(kah(fleet, &["doctor", cluster]).code, 0);
    for guard in [&mut list, &mut doctor] {
        guard.signal(Signal::INT);
        assert!(guard.wait(within).unwrap().success());
    }
}
