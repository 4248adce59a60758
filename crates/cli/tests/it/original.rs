//! The founding story with software that is not ours: the original ks-apiserver as our member, and ours as its.

use std::time::{Duration, Instant};

use base64::Engine;
use http::Method;
use kah_api::access::AccessCode;
use kah_api::seed;
use kah_testkit::fleet::{Fleet, until};
use kah_testkit::http_client::{Answer, get, send, token as log_in_at};
use kah_testkit::kubectl::Kubectl;
use kah_testkit::original::{self, Original, Role};

use crate::{
    doctor::{becomes, with_token},
    fleet::{OURS, configuration, edit, kah, log_in, ok, start, token, without_controllers},
    heals::Patient,
};

/// The folder of the original, or a word that there is none.
pub fn reference() -> Option<std::path::PathBuf> {
    let found = original::reference();
    if found.is_none() {
        println!("the original is not started: KAH_REFERENCE is not set");
    }
    found
}

/// The value of one line of a cluster's `kubesphere.yaml`.
pub fn setting(kubectl: &Kubectl, name: &str) -> String {
    let text = configuration(kubectl);
    let line = text.lines().find(|line| line.contains(name)).unwrap();
    line.split(": ")
        .nth(1)
        .unwrap()
        .trim_matches('"')
        .to_owned()
}

fn kubectl_of(fleet: &Fleet, name: &str) -> Kubectl {
    fleet.kubectl(name).unwrap()
}

/// The original as a member of this fleet, called `theirs`, reached at its ks-apiserver.
pub fn join_original(fleet: &Fleet, member: &Original) {
    let object = seed::member_cluster(
        "theirs",
        &std::fs::read_to_string(member.kubeconfig_path()).unwrap(),
        &member.kube_address(),
        Some(&member.address()),
    );
    let ran = kubectl_of(fleet, "host").run_with_input(&["apply", "-f", "-"], &object.to_string());
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn an_original_member_is_diagnosed_and_restored() {
    let Some(reference) = reference() else { return };
    let fleet = start(&["--members", "1"]);
    let host = kubectl_of(&fleet, "host");
    let member =
        Original::start(&reference, Role::Member, "2h", &setting(&host, "jwtSecret")).unwrap();
    join_original(&fleet, &member);

    // Access is refused, with the member's own words, and named.
    let token = token(&fleet);
    let ask = || {
        let url = format!(
            "{}/clusters/theirs/api/v1/namespaces/kubesphere-system",
            fleet.facts().address
        );
        get(&url, &token).unwrap()
    };
    let refused = until(Duration::from_secs(20), "the new Cluster is known", || {
        let answer = ask();
        (answer.status == 401).then_some(answer)
    })
    .unwrap();
    assert_eq!(
        refused.json()["message"],
        "Unauthorized: token not found in cache"
    );
    assert_eq!(
        refused.header("x-kubeaihub-member-refusal"),
        "TokenNotInCache"
    );
    let log = member.log().unwrap();
    let line = log
        .lines()
        .rfind(|line| line.contains("token not found in cache"))
        .unwrap();
    assert!(line.contains("jwt.go:53]"), "{line}");
    assert_eq!(
        AccessCode::from_log_line(line),
        Some(AccessCode::TokenNotInCache)
    );
    log_in(&fleet);
    let doctor = kah(&fleet, &["doctor", "theirs"]);
    assert_eq!(doctor.code, 3, "{doctor:?}");
    assert!(
        doctor.stdout.contains("TokenNotInCache"),
        "{}",
        doctor.stdout
    );

    // The manual cure; the same token opens it again.
    let theirs = Kubectl::new(&member.kubeconfig_path()).unwrap();
    edit(&theirs, "accessTokenMaxAge: 2h", "accessTokenMaxAge: 0");
    member.restart().unwrap();
    let answer = ask();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["metadata"]["name"], "kubesphere-system");
    assert_eq!(kah(&fleet, &["doctor", "theirs"]).code, 0);
    heals_by_itself(&fleet, &member, theirs);
}

/// The same, and what else can happen to it, with `autoRestore`.
fn heals_by_itself(fleet: &Fleet, member: &Original, theirs: Kubectl) {
    has_a_deployment(&theirs);
    let patient = Patient {
        fleet,
        name: "theirs",
        host: kubectl_of(fleet, "host"),
        kubectl: theirs,
    };
    let theirs = &patient.kubectl;
    let secret = setting(theirs, "jwtSecret");
    let edited = |from: &str, to: &str| {
        edit(theirs, from, to);
        member.restart().unwrap();
    };
    let user = "users.iam.kubesphere.io";
    let kubeconfig = std::fs::read_to_string(member.kubeconfig_path()).unwrap();
    let rejected = with_token(&kubeconfig, &member.kube_address(), "nobody gave me");
    let cases: [(&str, &dyn Fn()); 6] = [
        // It lets callers in, and has its own kube-apiserver issue another to one of them.
        ("CredentialRejected", &|| patient.store(&rejected)),
        ("TokenNotInCache", &|| {
            edited("accessTokenMaxAge: 0", "accessTokenMaxAge: 2h");
        }),
        ("SignatureInvalid", &|| {
            edited(&secret, "another one than the host's");
        }),
        ("WrongRole", &|| {
            edited("clusterRole: member", "clusterRole: none");
        }),
        ("UserDisabled", &|| {
            let disabled = r#"{"status":{"state":"Disabled"}}"#;
            let patch = ["patch", user, "admin", "--type=merge", "-p", disabled];
            ok(theirs, &patch);
        }),
        ("UserMissing", &|| {
            let delete = [
                "delete",
                user,
                "admin",
                "--wait=false",
                "--ignore-not-found",
            ];
            ok(theirs, &delete);
        }),
    ];
    let mut seen = restarted_at(theirs);
    for (code, provoke) in cases {
        // There is no kubelet: what one would do when the Deployment's template changes, this does.
        patient.heals(code, provoke, &mut || {
            let now = restarted_at(theirs);
            if now != seen {
                member.restart().unwrap();
                seen = now;
            }
        });
    }
}

/// Makes the Deployment that a restore starts anew, where there is none.
fn has_a_deployment(theirs: &Kubectl) {
    let get = ["get", "deploy", "ks-apiserver"];
    if theirs.run(&[OURS.as_slice(), &get].concat()).code != 0 {
        let create = ["create", "deploy", "ks-apiserver", "--image=original"];
        ok(theirs, &[OURS.as_slice(), &create].concat());
    }
}

fn restarted_at(theirs: &Kubectl) -> String {
    let at = r"jsonpath={.spec.template.metadata.annotations.kubectl\.kubernetes\.io/restartedAt}";
    let get = ["get", "deploy", "ks-apiserver", "-o", at];
    let ran = theirs.run(&[OURS.as_slice(), &get].concat());
    ran.stdout.trim().to_owned()
}

#[test]
fn an_original_member_is_restored_in_one_step() {
    let Some(reference) = reference() else { return };
    let fleet = start(&["--members", "0"]);
    without_controllers(&fleet);
    let secret = setting(&kubectl_of(&fleet, "host"), "jwtSecret");
    let member = Original::start(&reference, Role::Member, "0", &secret).unwrap();
    join_original(&fleet, &member);
    log_in(&fleet);
    becomes(&fleet, "theirs", &[]);
    let theirs = Kubectl::new(&member.kubeconfig_path()).unwrap();
    has_a_deployment(&theirs);

    let age = ("accessTokenMaxAge: 0", "accessTokenMaxAge: 2h");
    let other = (secret.as_str(), "another one than the host's");
    let role = ("clusterRole: member", "clusterRole: none");
    for (edits, code, restarts) in [
        (vec![age], "TokenNotInCache", true),
        (vec![other], "SignatureInvalid", true),
        (vec![other, age], "SignatureInvalid", true),
        (vec![role], "WrongRole", false),
    ] {
        let changes = edits.len();
        for (from, to) in edits {
            edit(&theirs, from, to);
        }
        member.restart().unwrap();
        becomes(&fleet, "theirs", &[code]);
        let report = restored(&fleet, &member, &theirs, code);
        assert_eq!(
            report["changes"].as_array().unwrap().len(),
            changes,
            "{report}"
        );
        assert_eq!(report["restarted"], restarts, "{report}");
    }

    ok(
        &theirs,
        &["delete", "users.iam.kubesphere.io", "admin", "--wait=false"],
    );
    becomes(&fleet, "theirs", &["UserMissing"]);
    let report = restored(&fleet, &member, &theirs, "UserMissing");
    assert_eq!(report["restarted"], false, "{report}");
}

/// Restores access to the original. There is no kubelet: what one would do when the Deployment's template changes, this does.
fn restored(fleet: &Fleet, member: &Original, theirs: &Kubectl, code: &str) -> serde_json::Value {
    let (since, before) = (Instant::now(), restarted_at(theirs));
    let mut child = fleet
        .kah(&["restore-access", "theirs", "--yes", "-o", "json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut pending = true;
    until(Duration::from_secs(60), "the restore ends", || {
        if pending && restarted_at(theirs) != before {
            member.restart().unwrap();
            pending = false;
        }
        child.try_wait().unwrap().map(drop)
    })
    .unwrap();
    let took = since.elapsed();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    println!("the original: {code} restored after {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["outcome"], "Restored", "{report}");
    becomes(fleet, "theirs", &[]);
    report
}

/// Status, body and headers; a header's letter case and what two moments or two servers cannot share aside.
fn shape(answer: &Answer) -> (u16, String, Vec<(String, String)>) {
    let mut headers: Vec<(String, String)> = answer
        .headers
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort();
    (answer.status, answer.body.clone(), headers)
}

#[test]
fn behind_an_original_host_our_member_answers_as_the_original() {
    let Some(reference) = reference() else { return };
    let fleet = start(&["--members", "1", "--break", "member-1=token-cache"]);
    let ours = kubectl_of(&fleet, "member-1");
    let secret = setting(&ours, "jwtSecret");
    let host = Original::start(&reference, Role::Host, "2h", &secret).unwrap();
    let theirs = log_in_at(&host.address(), "admin", "P%4088w0rd").unwrap();
    let own = token(&fleet);

    // A token that the other side issued is not in one's own cache: the same answer from both, in every form.
    let pod = ok(
        &ours,
        &[
            OURS[0],
            OURS[1],
            "get",
            "pods",
            "-o",
            "jsonpath={.items[?(@.status.phase==\"Running\")].status.podIP}",
        ],
    );
    let member = format!(
        "http://{}:9090",
        pod.split_whitespace().next_back().unwrap()
    );
    let forms: [&[(&str, &str)]; 6] = [
        &[],
        &[("accept", "application/json")],
        &[("accept", "application/yaml")],
        &[("accept", "text/html")],
        &[("user-agent", "curl/8.0")],
        &[
            ("user-agent", "kubectl/v1.36.4"),
            ("accept", "application/json, */*"),
        ],
    ];
    let paths = [
        "/api/v1/namespaces",
        "/kapis/version",
        "/kapis/iam.kubesphere.io/v1alpha2/users?limit=1",
        "/healthz",
    ];
    let damaged = format!("{}x", theirs);
    let tokens = [
        (own.as_str(), theirs.as_str()),
        ("not-a-token", "not-a-token"),
        (&damaged, &damaged),
    ];
    for form in forms {
        for path in paths {
            for (foreign_there, foreign_here) in tokens {
                let ask = |address: &str, token: &str| {
                    let bearer = format!("Bearer {token}");
                    let mut headers = vec![("authorization", bearer.as_str())];
                    headers.extend(form);
                    send(Method::GET, &format!("{address}{path}"), &headers, "").unwrap()
                };
                let wanted = ask(&host.address(), foreign_there);
                let got = ask(&member, foreign_here);
                assert_eq!(wanted.status, 401, "{path} {form:?}: {}", wanted.body);
                assert_eq!(shape(&got), shape(&wanted), "{path} {form:?}");
            }
        }
    }

    // Through the original's own dispatch, by the Service proxy of our kube-apiserver.
    join(&host, &fleet);
    let through = || {
        get(
            &format!(
                "{}/api/clusters/ours/v1/namespaces/kubesphere-system",
                host.address()
            ),
            &theirs,
        )
        .unwrap()
    };
    let refused = until(
        Duration::from_secs(20),
        "the original knows our member",
        || {
            let answer = through();
            (answer.status == 401).then_some(answer)
        },
    )
    .unwrap();
    assert_eq!(
        refused.json()["message"],
        "Unauthorized: token not found in cache"
    );
    // Our own documented cure restores access for a host that is not ours, too.
    edit(&ours, "accessTokenMaxAge: 2h", "accessTokenMaxAge: 0");
    ok(
        &ours,
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
        &ours,
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
    let answer = until(
        Duration::from_secs(20),
        "access through the original",
        || {
            let answer = through();
            (answer.status == 200).then_some(answer)
        },
    )
    .unwrap();
    assert_eq!(answer.json()["metadata"]["name"], "kubesphere-system");
}

/// Makes our member a member of the original host; nothing there sets the condition by itself.
fn join(host: &Original, fleet: &Fleet) {
    let facts = &fleet.facts().clusters[1];
    let object = serde_json::json!({
        "apiVersion": "cluster.kubesphere.io/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": "ours"},
        "spec": {"joinFederation": true, "enable": true, "connection": {
            "type": "direct",
            "kubernetesAPIEndpoint": facts.address,
            "kubeconfig": base64::engine::general_purpose::STANDARD.encode(std::fs::read(&facts.kubeconfig).unwrap()),
        }},
    });
    let kubectl = Kubectl::new(&host.kubeconfig_path()).unwrap();
    let ran = kubectl.run_with_input(&["apply", "-f", "-"], &object.to_string());
    assert_eq!(ran.code, 0, "{ran:?}");
    let ready = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
    ok(
        &kubectl,
        &["patch", "cluster", "ours", "--type=merge", "-p", ready],
    );
}
