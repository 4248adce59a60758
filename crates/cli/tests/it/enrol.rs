//! A cluster joins by an agent that dials out, and leaves.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use kah_testkit::fleet::{Fleet, until};
use kah_testkit::http_client::{get, send};
use kah_testkit::kubectl::Kubectl;
use rustix::process::Signal;

use crate::fleet::{OURS, edit, kah, log_in, ok, server_pod, start, token, without_controllers};

const AGENT: [&str; 4] = [
    "secret/kah-agent",
    "serviceaccount/kah-agent",
    "deployment/kah-agent",
    "clusterrolebinding/kah-agent",
];

/// Invites a cluster; the one line on stdout, and the token in it.
fn invite(fleet: &Fleet, name: &str) -> (String, String) {
    let ran = kah(fleet, &["cluster", "join", name, "--agent"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let line = ran.stdout.trim_end().to_owned();
    let url = line.strip_prefix("kubectl apply -f ").unwrap().to_owned();
    let (address, token) = url.split_once("/kapis/hub.kubeaihub.io/v1/join/").unwrap();
    assert_eq!(address, fleet.facts().address);
    let digits = token.strip_prefix(&format!("{name}.")).unwrap();
    assert!(
        digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()),
        "{line}"
    );
    assert!(
        ran.stderr.contains("once, until 20") && !ran.stderr.contains(digits),
        "{ran:?}"
    );
    (line, token.to_owned())
}

fn field(kubectl: &Kubectl, object: &[&str], path: &str) -> String {
    let form = format!("jsonpath={{{path}}}");
    let get = ["get", "-o", form.as_str()];
    ok(kubectl, &[OURS.as_slice(), &get, object].concat())
}

#[test]
fn a_cluster_joins_by_an_agent_and_leaves() {
    let fleet = start(&["--members", "1"]);
    log_in(&fleet);
    let (host, member) = (
        fleet.kubectl("host").unwrap(),
        fleet.kubectl("member-1").unwrap(),
    );

    // What cannot be invited, each for its own reason.
    for (name, words) in [
        ("member-1", "there is a cluster member-1 already"),
        ("a$(id)", "is no name for a cluster"),
    ] {
        let ran = kah(&fleet, &["cluster", "join", name, "--agent"]);
        assert!(
            ran.code == 1 && ran.stderr.contains(words) && ran.stdout.is_empty(),
            "{ran:?}"
        );
    }
    let plain = [
        "cluster",
        "join",
        "edge",
        "--agent",
        "--hub-address",
        "http://hub.example.org",
    ];
    let ran = kah(&fleet, &plain);
    assert!(
        ran.code == 1 && ran.stderr.contains("is not https"),
        "{ran:?}"
    );
    let left = kah(&fleet, &["cluster", "leave", "member-1", "--yes"]);
    assert_eq!(left.code, 0, "{left:?}");

    // The first invitation is replaced by the second; the manifest may be read more than once.
    let (_, dead) = invite(&fleet, "edge");
    let (line, token) = invite(&fleet, "edge");
    let apply = |token: &str| {
        let url = line.strip_prefix("kubectl apply -f ").unwrap();
        let (address, _) = url.rsplit_once('/').unwrap();
        member.run(&["apply", "-f", &format!("{address}/{token}")])
    };
    let ran = apply(&dead);
    assert!(ran.code != 0, "{ran:?}");
    for _ in 0..2 {
        let url = line.strip_prefix("kubectl apply -f ").unwrap();
        let answer = send("GET".parse().unwrap(), url, &[], "").unwrap();
        assert!(
            answer.status == 200 && answer.body.contains(&token),
            "{answer:?}"
        );
    }
    let ran = apply(&token);
    assert_eq!(ran.code, 0, "{ran:?}");
    // The agent of the Pod enrols by itself: a certificate in the place of the token.
    until(Duration::from_secs(60), "the agent has enrolled", || {
        let secret = field(&member, &["secret", "kah-agent"], ".data");
        (secret.contains("tls.crt") && !secret.contains("\"token\"")).then_some(())
    })
    .unwrap();
    let own = field(&member, &["namespace", "kube-system"], ".metadata.uid");
    assert_eq!(
        field(
            &host,
            &["clusters.cluster.kubesphere.io", "edge"],
            ".status.uid"
        ),
        own
    );
    // Used up.
    let ran = apply(&token);
    assert!(ran.code != 0, "{ran:?}");
    // The same cluster does not join under another name, by neither way.
    let kubeconfig = fleet.facts().clusters[1].kubeconfig.display().to_string();
    let ran = kah(
        &fleet,
        &["cluster", "join", "again", "--kubeconfig", &kubeconfig],
    );
    assert!(
        ran.code == 1 && ran.stderr.contains("this is the cluster edge"),
        "{ran:?}"
    );

    // It has another jwtSecret than the host, and needs none: trust becomes federated by itself, over the tunnel.
    until(Duration::from_secs(60), "edge lets people in", || {
        let told = field(
            &host,
            &["clusters.cluster.kubesphere.io", "edge"],
            ".spec.trust}{.status.conditions[?(@.type==\"HostAccess\")].reason",
        );
        (told == "federatedAccepted").then_some(())
    })
    .unwrap();

    // Its certificate may have been stolen: it enrols anew, under another generation, and stays in the fleet.
    let stolen = field(&member, &["secret", "kah-agent"], ".data.tls\\.crt");
    let again = kah(&fleet, &["cluster", "join", "edge", "--agent", "--force"]);
    assert_eq!(again.code, 0, "{again:?}");
    let (_, anew) = again.stdout.trim_end().rsplit_once('/').unwrap();
    let ran = apply(anew);
    assert_eq!(ran.code, 0, "{ran:?}");
    until(Duration::from_secs(60), "edge enrols anew", || {
        let cluster = ["clusters.cluster.kubesphere.io", "edge"];
        let generation = ".metadata.annotations.hub\\.kubeaihub\\.io/agent-generation";
        let kept = field(&member, &["secret", "kah-agent"], ".data.tls\\.crt");
        let counted = field(&host, &cluster, generation) == "1";
        (counted && !kept.is_empty() && kept != stolen).then_some(())
    })
    .unwrap();
    until(Duration::from_secs(30), "edge lets people in again", || {
        (kah(&fleet, &["doctor", "edge"]).code == 0).then_some(())
    })
    .unwrap();

    // Leaving cleans both sides up; what the agent may not remove is told.
    let left = kah(&fleet, &["cluster", "leave", "edge", "--yes"]);
    assert_eq!(left.code, 0, "{left:?}");
    assert!(
        left.stderr
            .contains("kubectl delete -n kubesphere-system role/kah-agent"),
        "{left:?}"
    );
    until(
        Duration::from_secs(20),
        "the member holds nothing of the agent",
        || {
            AGENT
                .iter()
                .all(|object| member.run(&[OURS[0], OURS[1], "get", object]).code != 0)
                .then_some(())
        },
    )
    .unwrap_or_else(|error| panic!("{error}: {left:?}"));
    until(
        Duration::from_secs(20),
        "the host holds nothing of edge",
        || {
            let gone = |object: &str| host.run(&[OURS[0], OURS[1], "get", object]).code != 0;
            (gone("clusters.cluster.kubesphere.io/edge") && gone("secret/hub-join-edge"))
                .then_some(())
        },
    )
    .unwrap();

    // W4, D1: no token in any log.
    let log = ok(&host, &[OURS[0], OURS[1], "logs", &server_pod(&host)]);
    for token in [dead, token, anew.to_owned()] {
        assert!(!log.contains(token.rsplit('.').next().unwrap()));
    }
}

/// An HTTP proxy that leads to this address, whatever it is asked for; gives its URL, and what it was asked for.
fn proxy(behind: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let told = asked.clone();
    // It ends with the process of this test.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let (told, behind) = (told.clone(), behind.clone());
            std::thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") {
                    if !matches!(stream.read(&mut byte), Ok(1)) {
                        return;
                    }
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let line = head.lines().next().unwrap_or_default().to_owned();
                told.lock().unwrap().push(line);
                let mut onward = TcpStream::connect(&behind).unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                let (mut back, mut near) =
                    (onward.try_clone().unwrap(), stream.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut back, &mut near);
                    let _ = near.shutdown(Shutdown::Both);
                });
                let _ = std::io::copy(&mut stream, &mut onward);
                let _ = onward.shutdown(Shutdown::Both);
            });
        }
    });
    (url, asked)
}

#[test]
fn the_image_of_an_agent_is_named_by_the_host_or_by_who_joins() {
    let fleet = start(&["--members", "0"]);
    log_in(&fleet);
    let join = |more: &[&str]| {
        let join = ["cluster", "join", "edge", "--agent", "-o", "yaml"];
        kah(&fleet, &[join.as_slice(), more].concat())
    };
    let version = env!("CARGO_PKG_VERSION");
    let ours = format!("image: kubeaihub.io/kah:{version}\n");
    let plain = join(&[]);
    assert!(plain.stdout.contains(&ours), "{plain:?}");
    let named = join(&["--image", "registry.example.org/kah:1"]);
    assert!(
        named.stdout.contains("image: registry.example.org/kah:1\n"),
        "{named:?}"
    );
    let refused = join(&["--image", "kah\nx: y"]);
    assert!(
        refused.code == 1
            && refused
                .stderr
                .contains("image: expected a reference to an image"),
        "{refused:?}"
    );

    // The host names a mirror, and is not restarted for that.
    let mirror = r"hub:\n  agentImage: mirror.example.org/kah:2\n";
    edit(&fleet.kubectl("host").unwrap(), r"hub:\n", mirror);
    until(Duration::from_secs(30), "the mirror is named", || {
        let ran = join(&[]);
        ran.stdout
            .contains("image: mirror.example.org/kah:2\n")
            .then_some(())
    })
    .unwrap();
    let named = join(&["--image", "registry.example.org/kah:1"]);
    assert!(
        named.stdout.contains("image: registry.example.org/kah:1\n"),
        "{named:?}"
    );
}

#[test]
fn an_agent_finds_the_host_of_the_next_start() {
    let mut fleet = start(&["--members", "1"]);
    log_in(&fleet);
    let left = kah(&fleet, &["cluster", "leave", "member-1", "--yes"]);
    assert_eq!(left.code, 0, "{left:?}");
    let (line, _) = invite(&fleet, "edge");
    let url = line.strip_prefix("kubectl apply -f ").unwrap();
    ok(&fleet.kubectl("member-1").unwrap(), &["apply", "-f", url]);
    let serves = |fleet: &Fleet| {
        let url = format!("{}/clusters/edge/version", fleet.facts().address);
        let token = token(fleet);
        until(Duration::from_secs(60), "edge serves", || {
            let answer = get(&url, &token).ok()?;
            (answer.status == 200).then_some(())
        })
        .unwrap();
    };
    serves(&fleet);
    // The host has another port each time here.
    let before = fleet.facts().address.clone();
    fleet.restart(Signal::INT, &["--members", "1"]).unwrap();
    assert_ne!(fleet.facts().address, before);
    assert_eq!(
        fleet.facts().clusters[1].in_fleet_as.as_deref(),
        Some("edge")
    );
    serves(&fleet);
}

/// The commands that the manual has for a member whose host is gone, in their order.
fn manual() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/joining.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split("\n## If the host is gone\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let commands = section.lines().filter_map(|line| line.strip_prefix("    "));
    let commands: Vec<&str> = commands.collect();
    assert!(commands.len() > 15, "{commands:?}");
    format!("set -eu\n{}\n", commands.join("\n"))
}

#[test]
fn a_member_whose_host_is_gone_is_cleaned_as_the_manual_says() {
    let fleet = start(&["--members", "1"]);
    log_in(&fleet);
    let (host, member) = (
        fleet.kubectl("host").unwrap(),
        fleet.kubectl("member-1").unwrap(),
    );
    let left = kah(&fleet, &["cluster", "leave", "member-1", "--yes"]);
    assert_eq!(left.code, 0, "{left:?}");
    let (line, _) = invite(&fleet, "edge");
    let url = line.strip_prefix("kubectl apply -f ").unwrap();
    ok(&member, &["apply", "-f", url]);
    let people = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "GlobalRole", "metadata": {"name": "watcher"}, "rules": []},
        {"apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "User", "metadata": {"name": "ann"}, "spec": {"email": "ann@example.org"}},
        {"apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "GlobalRoleBinding", "metadata": {"name": "ann-watcher"},
            "roleRef": {"apiGroup": "iam.kubesphere.io/v1alpha2", "kind": "GlobalRole", "name": "watcher"},
            "subjects": [{"apiGroup": "iam.kubesphere.io/v1alpha2", "kind": "User", "name": "ann"}]}]}"#;
    let ran = host.run_with_input(&["apply", "-f", "-"], people);
    assert_eq!(ran.code, 0, "{ran:?}");
    let kinds = "users.iam.kubesphere.io,globalroles.iam.kubesphere.io,globalrolebindings.iam.kubesphere.io";
    let names = |more: &[&str]| {
        let found = ok(&member, &[&["get", kinds, "-o", "name"], more].concat());
        let mut names: Vec<String> = found.lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    let copies = ["-l", "hub.kubeaihub.io/host"];
    until(
        Duration::from_secs(60),
        "edge has the host's people",
        || {
            let trusts = member.run(&[OURS[0], OURS[1], "get", "configmap", "hub-trust"]);
            (trusts.code == 0 && names(&copies).len() == 6).then_some(())
        },
    )
    .unwrap();
    without_controllers(&fleet);

    let cleaned = member.shell(&manual(), fleet.folder());
    assert_eq!(cleaned.code, 0, "{cleaned:?}");
    assert_eq!(names(&copies), [""; 0]);
    assert_eq!(
        names(&[]),
        [
            "globalrole.iam.kubesphere.io/platform-admin",
            "globalrole.iam.kubesphere.io/watcher",
            "globalrolebinding.iam.kubesphere.io/admin",
            "user.iam.kubesphere.io/admin",
        ]
    );
    let marks = ok(&member, &["get", kinds, "-o", "yaml"]);
    for mark in ["hub.kubeaihub.io", "kubefed.io"] {
        assert!(!marks.contains(mark), "{marks}");
    }
    let rest = "configmaps,secrets,deployments,serviceaccounts,roles,rolebindings";
    let rest = ok(&member, &[OURS[0], OURS[1], "get", rest, "-o", "name"]);
    let wide = ok(
        &member,
        &["get", "clusterroles,clusterrolebindings", "-o", "name"],
    );
    for gone in ["kah-agent", "hub-trust", "kubeaihub-host"] {
        assert!(!rest.contains(gone) && !wide.contains(gone), "{rest}{wide}");
    }
    // It can be run again.
    let again = member.shell(&manual(), fleet.folder());
    assert_eq!(again.code, 0, "{again:?}");
}

/// The name of the host means nothing to the cluster: its proxy is the only way out.
#[test]
fn a_cluster_behind_a_proxy_joins_and_serves() {
    let fleet = start(&["--members", "1"]);
    log_in(&fleet);
    let (host, member) = (
        fleet.kubectl("host").unwrap(),
        fleet.kubectl("member-1").unwrap(),
    );
    let left = kah(
        &fleet,
        &["cluster", "leave", "member-1", "--yes", "-o", "json"],
    );
    assert_eq!(left.code, 0, "{left:?}");
    let said: serde_json::Value = serde_json::from_str(&left.stdout).unwrap();
    assert_eq!(said["left"], true, "{left:?}");
    let address = fleet.facts().address.clone();
    let (proxy, asked) = proxy(address.trim_start_matches("http://").to_owned());
    let join = [
        "cluster",
        "join",
        "edge",
        "--agent",
        "--hub-address",
        "http://hub.invalid",
        "--insecure-hub",
        "-o",
        "yaml",
        "--proxy",
    ];
    let refused = kah(
        &fleet,
        &[join.as_slice(), &["https://127.0.0.1:1"]].concat(),
    );
    assert!(
        refused.code == 1 && refused.stderr.contains("proxy: give http://"),
        "{refused:?}"
    );
    let ran = kah(&fleet, &[join.as_slice(), &[&proxy]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let manifest = fleet.folder().join("edge.yaml");
    std::fs::write(&manifest, ran.stdout).unwrap();
    let ran = member.run(&["apply", "-f", &manifest.display().to_string()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let opened = until(Duration::from_secs(60), "edge lets people in", || {
        let told = field(
            &host,
            &["clusters.cluster.kubesphere.io", "edge"],
            ".spec.trust}{.status.conditions[?(@.type==\"HostAccess\")].reason",
        );
        (told == "federatedAccepted").then_some(())
    });
    let log = || member.run(&[OURS[0], OURS[1], "logs", "deploy/kah-agent"]);
    assert!(opened.is_ok(), "{:?}", log());
    let asked = asked.lock().unwrap().clone();
    assert!(
        asked.len() >= 2
            && asked
                .iter()
                .all(|line| line == "CONNECT hub.invalid:80 HTTP/1.1"),
        "{asked:?}"
    );
}
