//! `/kapis/cluster.kubesphere.io/v1alpha1`, asked of the original and of ours.

use base64::{Engine, engine::general_purpose::STANDARD};
use kah_testkit::http_client::{self, Answer, send};
use kah_testkit::kubectl::Kubectl;
use kah_testkit::original::{self, Original, Role};

use crate::fleet::{edit, start, token};

const CLUSTERS: &str = "/kapis/cluster.kubesphere.io/v1alpha1/clusters";
const JSON: &str = "application/json";

/// What a client can match on.
fn shape(answer: &Answer) -> (u16, String, String, String) {
    let header = |name: &str| answer.header(name).to_owned();
    (
        answer.status,
        header("content-type"),
        header("x-content-type-options"),
        answer.body.clone(),
    )
}

#[test]
fn cluster_routes_answer_as_the_original() {
    let Some(reference) = original::reference() else {
        println!("the original is not started: KAH_REFERENCE is not set");
        return;
    };
    let theirs = Original::start(&reference, Role::Host, "2h", "secret").unwrap();
    let fleet = start(&["--members", "0"]);
    let kubectls = [
        Kubectl::new(&theirs.kubeconfig_path()).unwrap(),
        fleet.kubectl("host").unwrap(),
    ];
    let far = r#"{"apiVersion":"cluster.kubesphere.io/v1alpha1","kind":"Cluster","metadata":{"name":"far"},"spec":{"connection":{"type":"proxy","token":"randomtoken"}}}"#;
    let near = r#"{"apiVersion":"cluster.kubesphere.io/v1alpha1","kind":"Cluster","metadata":{"name":"near"},"spec":{"connection":{"type":"direct"}}}"#;
    for kubectl in &kubectls {
        for object in [far, near] {
            let ran = kubectl.run_with_input(&["apply", "-f", "-"], object);
            assert_eq!(ran.code, 0, "{ran:?}");
        }
    }
    let tokens = [
        http_client::token(&theirs.address(), "admin", "P@88w0rd").unwrap(),
        token(&fleet),
    ];
    let addresses = [theirs.address(), fleet.facts().address.clone()];
    let ask = |method: &str, path: &str, content_type: &str, accept: &str, body: &str| {
        [0, 1].map(|one| {
            let authorization = format!("Bearer {}", tokens[one]);
            let mut headers = vec![
                ("authorization", authorization.as_str()),
                ("accept", accept),
            ];
            if !content_type.is_empty() {
                headers.push(("content-type", content_type));
            }
            let url = format!("{}{CLUSTERS}{path}", addresses[one]);
            shape(&send(method.parse().unwrap(), &url, &headers, body).unwrap())
        })
    };
    let direct = |kubeconfig: &str| {
        format!(
            r#"{{"metadata":{{"name":"new"}},"spec":{{"connection":{{"type":"direct","kubeconfig":"{kubeconfig}"}}}}}}"#
        )
    };
    let empty = STANDARD.encode("apiVersion: v1\nkind: Config\n");
    let nobody = STANDARD.encode("apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: u, user: {token: x}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n");
    let mut asked = 0;
    for (method, path, content_type, accept, body) in [
        ("POST", "/validation", JSON, "*/*", String::new()),
        ("POST", "/validation", JSON, "*/*", "{".to_owned()),
        ("POST", "/validation", JSON, "*/*", "rubbish".to_owned()),
        ("POST", "/validation", JSON, "*/*", "[]".to_owned()),
        ("POST", "/validation", JSON, "*/*", "\"x\"".to_owned()),
        ("POST", "/validation", JSON, "*/*", "{}".to_owned()),
        ("POST", "/validation", JSON, "*/*", "null".to_owned()),
        ("POST", "/validation", "text/plain", "*/*", "{}".to_owned()),
        (
            "POST",
            "/validation",
            "application/merge-patch+json",
            "*/*",
            "{}".to_owned(),
        ),
        ("POST", "/validation", JSON, "text/html", "{}".to_owned()),
        (
            "POST",
            "/validation",
            JSON,
            "*/*",
            r#"{"spec":{"connection":{"type":5}}}"#.to_owned(),
        ),
        ("POST", "/validation", JSON, "*/*", direct("")),
        ("POST", "/validation", JSON, "*/*", direct("a*b")),
        ("POST", "/validation", JSON, "*/*", direct("YQ")),
        ("POST", "/validation", JSON, "*/*", direct(&empty)),
        ("POST", "/validation", JSON, "*/*", direct(&nobody)),
        ("GET", "/validation", "", "*/*", String::new()),
        (
            "PUT",
            "/none/kubeconfig",
            JSON,
            "*/*",
            r#"{"kubeconfig":""}"#.to_owned(),
        ),
        ("PUT", "/none/kubeconfig", JSON, "*/*", "[]".to_owned()),
        (
            "PUT",
            "/far/kubeconfig",
            JSON,
            "*/*",
            r#"{"kubeconfig":""}"#.to_owned(),
        ),
        (
            "PUT",
            "/near/kubeconfig",
            JSON,
            "*/*",
            r#"{"kubeconfig":""}"#.to_owned(),
        ),
        (
            "PUT",
            "/near/kubeconfig",
            JSON,
            "*/*",
            format!(r#"{{"kubeconfig":"{empty}"}}"#),
        ),
        ("GET", "/none/agent/deployment", "", "*/*", String::new()),
        ("GET", "/near/agent/deployment", "", "*/*", String::new()),
        ("GET", "/far/agent/deployment", "", "*/*", String::new()),
        ("POST", "/far/agent/deployment", "", "*/*", String::new()),
    ] {
        let [expected, found] = ask(method, path, content_type, accept, &body);
        assert_eq!(
            found, expected,
            "{method} {path} {content_type} {accept} {body}"
        );
        asked += 1;
    }
    assert_eq!(asked, 26);

    // The YAML of tower's agent.
    for kubectl in &kubectls {
        edit(
            kubectl,
            "hostClusterName: host",
            "hostClusterName: host\\n  proxyPublishAddress: http://139.198.121.121:8080",
        );
    }
    theirs.restart().unwrap();
    let tokens = [
        http_client::token(&theirs.address(), "admin", "P@88w0rd").unwrap(),
        token(&fleet),
    ];
    let answers = kah_testkit::fleet::until(
        std::time::Duration::from_secs(30),
        "the new configuration is in force",
        || {
            let answers = [0, 1].map(|one| {
                let url = format!("{}{CLUSTERS}/far/agent/deployment", addresses[one]);
                shape(&http_client::get(&url, &tokens[one]).unwrap())
            });
            (answers[0].0 == 200 && answers[1].0 == 200).then_some(answers)
        },
    )
    .unwrap();
    let [expected, found] = answers;
    let plain = |(code, kind, sniff, body): (u16, String, String, String)| {
        // The original prints `---` before every answer but the first of its process.
        (
            code,
            kind,
            sniff,
            body.trim_start_matches("---\n").to_owned(),
        )
    };
    assert_eq!(plain(found), plain(expected));
}
