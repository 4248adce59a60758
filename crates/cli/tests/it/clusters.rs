//! Steps 2 and 3: kubectl on every cluster, one token for all of them.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use kah_testkit::fleet::{Fleet, Guard, until};
use kah_testkit::http_client::get;
use kah_testkit::kubectl::Kubectl;
use kah_testkit::network::{self, Place};

use crate::fleet::{OURS, kah, log_in, ok, server_pod, start, start_real, through_host, token};

#[test]
fn one_login_reaches_every_cluster() {
    reach(&start(&["--members", "2"]));
}

#[test]
fn one_login_reaches_every_real_control_plane() {
    if let Some(fleet) = start_real(2) {
        reach(&fleet);
        through(&fleet);
    }
}

/// Multicluster.md §7.3 on a real kube-apiserver, which does not take loopback addresses for a Service.
#[test]
fn one_login_reaches_real_control_planes_through_their_service_proxy() {
    if kah_testkit::plane::assets().is_none() {
        println!("no real control plane: KUBEBUILDER_ASSETS is not set");
        return;
    }
    let name = "clusters::one_login_reaches_real_control_planes_through_their_service_proxy";
    match network::own(name).unwrap() {
        Place::Done => {}
        Place::Unavailable(why) => println!("no network of its own: {why}"),
        Place::Inside => reach(&start_real(2).unwrap()),
    }
}

fn reach(fleet: &Fleet) {
    let address = fleet.facts().address.clone();

    for cluster in ["host", "member-1", "member-2"] {
        let kubectl = fleet.kubectl(cluster).unwrap();
        let all = ok(&kubectl, &["get", "nodes,pods", "-A"]);
        assert!(all.contains("node/"), "{all}");
        let pod = server_pod(&kubectl);
        assert!(all.contains(&format!("pod/{pod}")), "{all}");
        // ks-apiserver-<replica set>-<id>
        let parts: Vec<&str> = pod
            .strip_prefix("ks-apiserver-")
            .unwrap()
            .split('-')
            .collect();
        assert_eq!(parts.len(), 2, "{pod}");
        ok(&kubectl, &[OURS[0], OURS[1], "logs", &pod]);
        ok(
            &kubectl,
            &[
                "create",
                "configmap",
                "mark",
                &format!("--from-literal=cluster={cluster}"),
            ],
        );
    }

    let token = token(fleet);
    let found = |path: &str| get(&format!("{address}{path}"), &token).unwrap();
    for path in [
        "/kapis/version",
        "/kapis/clusters/member-1/version",
        "/clusters/member-1/kapis/version",
    ] {
        let answer = found(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(answer.json()["gitVersion"].is_string(), "{answer:?}");
    }
    for (path, kind) in [
        ("/api/v1/namespaces", "NamespaceList"),
        (
            "/apis/clusters/member-1/apps/v1/deployments",
            "DeploymentList",
        ),
        ("/clusters/member-1/api/v1/pods", "PodList"),
        ("/api/clusters/member-2/v1/namespaces", "NamespaceList"),
    ] {
        let answer = found(path);
        assert_eq!(
            (answer.status, answer.json()["kind"].as_str()),
            (200, Some(kind)),
            "{path}"
        );
    }
    let mark = "/api/v1/namespaces/default/configmaps/mark";
    for (path, cluster) in [
        (mark.to_owned(), "host"),
        (format!("/clusters/host{mark}"), "host"),
        (format!("/clusters/member-1{mark}"), "member-1"),
        (format!("/clusters/member-2{mark}"), "member-2"),
        (
            "/api/clusters/member-2/v1/namespaces/default/configmaps/mark".to_owned(),
            "member-2",
        ),
    ] {
        assert_eq!(found(&path).json()["data"]["cluster"], cluster, "{path}");
    }
    let stranger = get(&format!("{address}/clusters/member-1{mark}"), "not-a-token").unwrap();
    assert_eq!(stranger.status, 401);

    commands(fleet);
}

/// `kah` commands where all is well.
fn commands(fleet: &Fleet) {
    let none = kah(fleet, &["whoami"]);
    assert_eq!(none.code, 4, "{none:?}");
    assert!(none.stderr.contains("kah login"), "{none:?}");
    log_in(fleet);
    assert_eq!(kah(fleet, &["whoami", "-o", "name"]).stdout, "admin\n");
    assert_eq!(
        kah(fleet, &["cluster", "list", "-o", "name"]).stdout,
        "host\nmember-1\nmember-2\n"
    );
    let list = kah(fleet, &["cluster", "list"]);
    assert_eq!(list.code, 0, "{list:?}");
    for line in list.stdout.lines().skip(1) {
        assert!(line.contains("Yes"), "{list:?}");
    }
    let doctor = kah(fleet, &["doctor"]);
    assert_eq!(doctor.code, 0, "{doctor:?}");
    let show = kah(fleet, &["cluster", "show", "member-1", "-o", "json"]);
    assert!(show.stdout.contains("kubernetesAPIEndpoint"), "{show:?}");
    assert!(
        !show.stdout.contains("kubeconfig\""),
        "credentials on the screen"
    );
    assert_eq!(kah(fleet, &["cluster", "show", "nobody"]).code, 1);

    let file = fleet.folder().join("all.yaml");
    let path = file.to_str().unwrap();
    assert_eq!(kah(fleet, &["kubeconfig", "-o", path]).code, 0);
    let kubectl = Kubectl::new(&file).unwrap();
    for cluster in ["host", "member-1", "member-2"] {
        let mark = ok(
            &kubectl,
            &[
                "--context",
                cluster,
                "get",
                "configmap",
                "mark",
                "-o",
                "jsonpath={.data.cluster}",
            ],
        );
        assert_eq!(mark, cluster);
    }
    assert_eq!(kah(fleet, &["logout"]).code, 0);
    assert_eq!(kah(fleet, &["cluster", "list"]).code, 4);
}

#[test]
fn kubectl_works_through_the_host() {
    through(&start(&["--members", "1"]));
}

fn through(fleet: &Fleet) {
    let token = token(fleet);
    let kubectl = through_host(fleet, "member-1", &token);

    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: \"1\"}\n";
    for expected in ["configmap/applied created", "configmap/applied unchanged"] {
        let ran = kubectl.run_with_input(&["apply", "-f", "-"], manifest);
        assert_eq!(ran.stdout.trim(), expected, "{ran:?}");
    }
    let direct = fleet.kubectl("member-1").unwrap();
    assert_eq!(
        ok(
            &direct,
            &["get", "cm", "applied", "-o", "jsonpath={.data.a}"]
        ),
        "1"
    );

    watch(&kubectl, &direct, "applied");
    let pod = server_pod(&direct);
    let member = format!("{}/clusters/member-1", fleet.facts().address);
    logs(&kubectl, &pod, &member, &token);
    exec(&kubectl, &pod);
}

/// Lines that a child prints, as they come.
pub fn lines(guard: &mut Guard) -> std::sync::mpsc::Receiver<String> {
    let stdout = guard.child().stdout.take().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Watches ConfigMaps through the host: the one that is `there`, and one that is made in the member meanwhile.
pub fn watch(through: &Kubectl, direct: &Kubectl, there: &str) {
    let mut command = through.command();
    command
        .args(["get", "configmaps", "--watch", "-o", "name"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut watching = Guard::spawn(&mut command).unwrap();
    let seen = lines(&mut watching);
    let wait_for = |name: &str| {
        loop {
            let line = seen.recv_timeout(Duration::from_secs(10)).unwrap();
            if line == format!("configmap/{name}") {
                return;
            }
        }
    };
    wait_for(there);
    ok(direct, &["create", "configmap", "fresh"]);
    wait_for("fresh");
}

/// Follows the log of a member's ks-apiserver, in which a request to the member shows.
pub fn logs(kubectl: &Kubectl, pod: &str, member: &str, token: &str) {
    let mut command = kubectl.command();
    command
        .args([OURS[0], OURS[1], "logs", "-f", pod])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut following = Guard::spawn(&mut command).unwrap();
    let seen = lines(&mut following);
    // What is not there is logged: 404 is above 400.
    let path = "/kapis/followed.example.org/v1/things";
    until(
        Duration::from_secs(15),
        "the followed log shows a request",
        || {
            get(&format!("{member}{path}"), token).unwrap();
            seen.try_iter()
                .any(|line| line.contains(path))
                .then_some(())
        },
    )
    .unwrap();
}

fn exec(kubectl: &Kubectl, pod: &str) {
    let exec = |arguments: &[&str], input: &str| {
        let mut all = vec![OURS[0], OURS[1], "exec", pod];
        if !input.is_empty() {
            all.push("-i");
        }
        all.push("--");
        all.extend(arguments);
        kubectl.run_with_input(&all, input)
    };
    let env = exec(&["env"], "");
    assert!(env.code == 0 && env.stdout.contains("POD_IP="), "{env:?}");
    let listed = exec(&["ls", "/etc/kubesphere"], "");
    assert!(listed.stdout.contains("kubesphere.yaml"), "{listed:?}");
    assert_eq!(exec(&["cat"], "from stdin\n").stdout, "from stdin\n");
    assert_eq!(exec(&["echo", "a", "b"], "").stdout, "a b\n");
    // Confined: what lies outside the Pod's folder does not exist there.
    assert_ne!(exec(&["cat", "/proc/version"], "").code, 0);
    assert_ne!(
        exec(&["cat", "../../../../../../../../etc/passwd"], "").code,
        0
    );
    // No program of the machine.
    let missing = exec(&["python3", "--version"], "");
    assert!(
        missing.code != 0 && missing.stdout.is_empty(),
        "{missing:?}"
    );
    let shell = exec(&["sh", "-c", "exit 7"], "");
    assert_eq!(shell.code, 7, "{shell:?}");
}
