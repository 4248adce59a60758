//! A fleet of one host and four members that differ in how the host reaches them and in what they run; and what becomes of a tunnel.

use std::process::Stdio;
use std::time::{Duration, Instant};

use http::Method;
use kah_testkit::fleet::{Fleet, Guard, until};
use kah_testkit::http_client::{self, get, send};
use kah_testkit::kubectl::Kubectl;
use kah_testkit::network::{self, Place};
use kah_testkit::original::{Original, Role};
use rustix::process::{Signal, kill_process};

use crate::{
    clusters::{lines, logs, watch},
    fleet::{OURS, kah, log_in, ok, processes, server_pod, start, start_real, through_host, token},
    original::{join_original, reference, setting},
};

const BY_ENDPOINT: &str = "member-1";
const BY_SERVICE: &str = "member-2";
const BY_TUNNEL: &str = "member-3";
const ORIGINAL: &str = "theirs";

const NAMESPACE: &str = "/api/v1/namespaces/kubesphere-system";

#[test]
fn one_login_reaches_four_members() {
    reach_all(&start(&["--members", "3"]), "service-proxy");
}

#[test]
fn one_login_reaches_four_members_on_real_control_planes() {
    if kah_testkit::plane::assets().is_none() {
        println!("no real control plane: KUBEBUILDER_ASSETS is not set");
        return;
    }
    let name = "four::one_login_reaches_four_members_on_real_control_planes";
    match network::own(name).unwrap() {
        Place::Done => {}
        Place::Inside => reach_all(&start_real(3).unwrap(), "service-proxy"),
        Place::Unavailable(why) => {
            println!("no network of its own, so no service proxy: two members by endpoint ({why})");
            reach_all(&start_real(3).unwrap(), "endpoint");
        }
    }
}

fn reach_all(fleet: &Fleet, second: &str) {
    let began = Instant::now();
    log_in(fleet);
    let theirs = std::thread::scope(|scope| {
        let starting = reference().map(|reference| {
            let secret = setting(&fleet.kubectl("host").unwrap(), "jwtSecret");
            scope.spawn(move || Original::start(&reference, Role::Member, "0", &secret).unwrap())
        });
        by_endpoint(fleet, BY_ENDPOINT);
        by_tunnel(fleet, BY_TUNNEL);
        starting.map(|starting| starting.join().unwrap())
    });
    let mut routes = vec![
        (BY_ENDPOINT, "endpoint"),
        (BY_SERVICE, second),
        (BY_TUNNEL, "tunnel"),
    ];
    match &theirs {
        Some(theirs) => {
            join_original(fleet, theirs);
            routes.push((ORIGINAL, "endpoint"));
        }
        None => println!("so three members, and none of them the original"),
    }
    opens(fleet, &routes);
    println!("{} members after {:?}", routes.len(), began.elapsed());

    let token = &token(fleet);
    std::thread::scope(|scope| {
        for name in [BY_ENDPOINT, BY_SERVICE, BY_TUNNEL] {
            scope.spawn(move || {
                let direct = fleet.kubectl(name).unwrap();
                reads(fleet, name, &direct, token);
                pods(fleet, name, &direct, token);
            });
        }
        if let Some(theirs) = &theirs {
            // Nothing runs Pods there.
            let direct = Kubectl::new(&theirs.kubeconfig_path()).unwrap();
            scope.spawn(move || reads(fleet, ORIGINAL, &direct, token));
        }
    });
    println!("all of it after {:?}", began.elapsed());
}

/// Has the host reach this member at the address of its ks-apiserver, instead of through its kube-apiserver.
fn by_endpoint(fleet: &Fleet, name: &str) {
    let facts = &fleet.facts().clusters;
    let known = facts.iter().find(|facts| facts.name == name).unwrap();
    let endpoint = known.endpoint.clone().unwrap_or_else(|| {
        let member = fleet.kubectl(name).unwrap();
        format!("http://{}:9090", addresses(&member)[0])
    });
    let connection = serde_json::json!({"kubesphereAPIEndpoint": endpoint});
    let patch = serde_json::json!({"spec": {"connection": connection}}).to_string();
    let patch = ["patch", "cluster", name, "--type=merge", "-p", &patch];
    ok(&fleet.kubectl("host").unwrap(), &patch);
}

/// Takes this member out of the fleet, and has it join again by an agent of its own.
fn by_tunnel(fleet: &Fleet, name: &str) {
    let member = fleet.kubectl(name).unwrap();
    let left = kah(fleet, &["cluster", "leave", name, "--yes"]);
    assert_eq!(left.code, 0, "{left:?}");
    let line = until(Duration::from_secs(20), "the name is free", || {
        let ran = kah(fleet, &["cluster", "join", name, "--agent"]);
        assert!(ran.code == 0 || ran.stderr.contains("already"), "{ran:?}");
        (ran.code == 0).then_some(ran.stdout)
    })
    .unwrap();
    let ran = member.shell_within(&line, fleet.folder(), Duration::from_secs(30));
    assert_eq!(ran.code, 0, "{line}: {ran:?}");
    let rollout = ["rollout", "status", "deploy/kah-agent", "--timeout=30s"];
    ok(&member, &[OURS.as_slice(), &rollout].concat());
    // It starts with a shared secret, and has another one than the host.
    let trust = ["cluster", "trust", name, "federated"];
    let mut last = None;
    let moved = until(Duration::from_secs(30), "the member is federated", || {
        let ran = kah(fleet, &trust);
        let moved = ran.code == 0;
        last = Some(ran);
        moved.then_some(())
    });
    let log = || member.run(&[OURS[0], OURS[1], "logs", "deploy/kah-agent"]);
    assert!(moved.is_ok(), "{last:?}; its agent: {:?}", log());
    // No credential of the member lies at the host.
    let connection = ["get", "cluster", name, "-o", "jsonpath={.spec.connection}"];
    let connection = ok(&fleet.kubectl("host").unwrap(), &connection);
    assert!(
        connection.contains("proxy") && !connection.contains("kubeconfig"),
        "{connection}"
    );
}

/// Waits until the login opens each of these, by the route that is named.
fn opens(fleet: &Fleet, routes: &[(&str, &str)]) {
    let mut last = String::new();
    let opened = until(Duration::from_secs(40), "every member opens", || {
        last = kah(fleet, &["cluster", "list", "-o", "json"]).stdout;
        let rows: serde_json::Value = serde_json::from_str(&last).ok()?;
        let is = |(name, route): &(&str, &str)| {
            rows.as_array().into_iter().flatten().any(|row| {
                row["name"] == *name
                    && row["route"] == *route
                    && row["ok"] == true
                    && row["ready"] == "True"
            })
        };
        routes.iter().all(is).then_some(())
    });
    assert!(opened.is_ok(), "{last}");
}

/// get, list and watch.
fn reads(fleet: &Fleet, name: &str, direct: &Kubectl, token: &str) {
    let mark = format!("--from-literal=cluster={name}");
    ok(direct, &["create", "configmap", "mark", &mark]);
    let through = through_host(fleet, name, token);
    let get = ["get", "configmap", "mark", "-o", "jsonpath={.data.cluster}"];
    assert_eq!(ok(&through, &get), name);
    let list = ok(&through, &["get", "configmaps,namespaces", "-o", "name"]);
    for object in ["configmap/mark", "namespace/kubesphere-system"] {
        assert!(list.lines().any(|line| line == object), "{name}: {list}");
    }
    watch(&through, direct, "mark");
}

/// logs -f, exec and port-forward.
fn pods(fleet: &Fleet, name: &str, direct: &Kubectl, token: &str) {
    let through = through_host(fleet, name, token);
    let pod = server_pod(direct);
    let member = format!("{}/clusters/{name}", fleet.facts().address);
    logs(&through, &pod, &member, token);

    let exec = ["exec", "-i", &pod, "--", "sh", "-c", "cat; exit 7"];
    let ran = through.run_with_input(&[OURS.as_slice(), &exec].concat(), "from stdin\n");
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (7, "from stdin\n"),
        "{ran:?}"
    );

    let mut command = through.command();
    command
        .args(OURS)
        .args(["port-forward", &format!("pod/{pod}"), ":9090"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut forwarding = Guard::spawn(&mut command).unwrap();
    // Held to the end: kubectl writes a line for each connection.
    let said = lines(&mut forwarding);
    let line = said.recv_timeout(Duration::from_secs(20)).unwrap();
    let near = line
        .strip_prefix("Forwarding from ")
        .and_then(|rest| rest.strip_suffix(" -> 9090"))
        .unwrap_or_else(|| panic!("{name}: {line}"));
    for _ in 0..2 {
        let answer = send(Method::GET, &format!("http://{near}/healthz"), &[], "").unwrap();
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
    }
}

/// Addresses of the Pods of ks-apiserver that are ready.
fn addresses(kubectl: &Kubectl) -> Vec<String> {
    let form = r#"jsonpath={range .items[*]}{.status.podIP} {.status.conditions[?(@.type=="Ready")].status} {.metadata.deletionTimestamp}{"\n"}{end}"#;
    let get = ["get", "pods", "-l", "app=ks-apiserver", "-o", form];
    let all = ok(kubectl, &[OURS.as_slice(), &get].concat());
    let ready = all.lines().filter_map(|line| line.strip_suffix(" True "));
    ready.map(str::to_owned).collect()
}

#[test]
fn a_cut_tunnel_is_told_and_comes_back() {
    let fleet = start(&["--members", "1"]);
    log_in(&fleet);
    by_tunnel(&fleet, "member-1");
    opens(&fleet, &[("member-1", "tunnel")]);
    let token = token(&fleet);
    let ask = || {
        let url = format!("{}/clusters/member-1{NAMESPACE}", fleet.facts().address);
        get(&url, &token).unwrap()
    };
    let agents = || processes(&fleet, "member-1", "agent");

    // What ends is started anew, so it is ended again and again.
    let since = Instant::now();
    let mut killed = 0;
    until(Duration::from_secs(10), "the member is unreachable", || {
        for agent in agents() {
            killed += usize::from(kill_process(agent, Signal::KILL).is_ok());
        }
        let answer = ask();
        let told = answer.header("x-kubeaihub-member-refusal") == "MemberUnreachable";
        let list = kah(&fleet, &["cluster", "list"]).stdout;
        let row = list.lines().find(|line| line.starts_with("member-1 "));
        let shown = row.is_some_and(|row| row.contains("MemberUnreachable"));
        (told && shown).then_some(())
    })
    .unwrap();
    println!("{killed} agents ended; told after {:?}", since.elapsed());
    assert!(killed > 0);
    let since = Instant::now();
    until(Duration::from_secs(30), "the member is back", || {
        (ask().status == 200).then_some(())
    })
    .unwrap();
    println!("back after {:?}", since.elapsed());

    // One that is there and says nothing is as good as gone.
    let since = Instant::now();
    for agent in agents() {
        kill_process(agent, Signal::STOP).unwrap();
    }
    until(
        Duration::from_secs(10),
        "a silent tunnel is given up",
        || {
            let answer = ask();
            (answer.header("x-kubeaihub-member-refusal") == "MemberUnreachable").then_some(())
        },
    )
    .unwrap();
    println!("a silent agent was told after {:?}", since.elapsed());
    for agent in agents() {
        kill_process(agent, Signal::KILL).unwrap();
    }
    opens(&fleet, &[("member-1", "tunnel")]);
}

#[test]
fn a_tunnel_member_that_leaves_keeps_nothing_of_its_host() {
    let fleet = start(&["--members", "1"]);
    log_in(&fleet);
    by_tunnel(&fleet, "member-1");
    opens(&fleet, &[("member-1", "tunnel")]);
    let member = fleet.kubectl("member-1").unwrap();
    let held = || {
        let kinds = "deployments,replicasets,pods,secrets,configmaps,serviceaccounts";
        let all = ok(&member, &[OURS[0], OURS[1], "get", kinds, "-o", "name"]);
        let ours = all
            .lines()
            .filter(|line| line.contains("/kah-agent") || line.ends_with("/hub-trust"));
        ours.map(str::to_owned).collect::<Vec<String>>()
    };
    let before = held();
    for object in ["deployment.apps/kah-agent", "configmap/hub-trust"] {
        assert!(before.iter().any(|held| held == object), "{before:?}");
    }
    let left = kah(&fleet, &["cluster", "leave", "member-1", "--yes"]);
    assert_eq!(left.code, 0, "{left:?}");
    let gone = until(Duration::from_secs(20), "the member is clean", || {
        held().is_empty().then_some(())
    });
    assert!(gone.is_ok(), "{:?} after {left:?}", held());
    assert_eq!(processes(&fleet, "member-1", "agent"), []);
}

#[test]
fn every_replica_of_the_host_reaches_a_tunnel() {
    let fleet = start(&["--members", "1"]);
    log_in(&fleet);
    by_tunnel(&fleet, "member-1");
    opens(&fleet, &[("member-1", "tunnel")]);
    let host = fleet.kubectl("host").unwrap();
    let scale = ["scale", "deploy", "ks-apiserver", "--replicas=2"];
    ok(&host, &[OURS.as_slice(), &scale].concat());
    let replicas = until(Duration::from_secs(30), "two replicas", || {
        let ready = addresses(&host);
        (ready.len() == 2).then_some(ready)
    })
    .unwrap();
    let facts = fleet.facts();
    for replica in replicas {
        let address = format!("http://{replica}:9090");
        let token = http_client::token(&address, &facts.user, &fleet.password().unwrap()).unwrap();
        let url = format!("{address}/clusters/member-1{NAMESPACE}");
        let since = Instant::now();
        let mut last = None;
        let reached = until(Duration::from_secs(10), "the member", || {
            let answer = get(&url, &token).unwrap();
            let good = answer.status == 200;
            last = Some(answer);
            good.then_some(())
        });
        assert!(reached.is_ok(), "{replica}: {last:?}");
        println!("{replica} reaches the member after {:?}", since.elapsed());
        for _ in 0..20 {
            let answer = get(&url, &token).unwrap();
            assert_eq!(answer.status, 200, "{replica}: {answer:?}");
        }
    }
}
