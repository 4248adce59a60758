use base64::{Engine, engine::general_purpose::STANDARD};
use kah_cluster::{ForwardError, Kubeconfig, SettingsError};
use kah_net::Roots;
use serde_json::json;

use crate::{
    cluster, get, hop, kubeconfig,
    member::{Authority, Member, answer},
    registry,
};

const SERVER: &str = "https://10.0.0.1:6443";

#[tokio::test]
async fn s11_what_runs_reads_or_trusts_is_refused() {
    let member = Member::start(None, |_| answer(200, "text/plain", "ok"))
        .await
        .expect("member");
    for (of_cluster, of_user) in [
        (
            "",
            "exec: {command: /bin/sh, apiVersion: client.authentication.k8s.io/v1}",
        ),
        ("", "auth-provider: {name: gcp}"),
        ("", "client-certificate: /etc/passwd"),
        ("", "client-key: /etc/passwd"),
        ("", "tokenFile: /var/run/secrets/token"),
        ("", "token: a, as: admin"),
        ("", "token: a, as-groups: ['system:masters']"),
        (", certificate-authority: /etc/ssl/ca.pem", "token: a"),
        (", insecure-skip-tls-verify: true", "token: a"),
        (", insecure-skip-tls-verify: 'true'", "token: a"),
        (", proxy-url: 'http://evil.example'", "token: a"),
    ] {
        let text = kubeconfig(&member.url(), of_cluster, of_user);
        let error = Kubeconfig::read(text.as_bytes()).expect_err(&text);
        assert!(
            matches!(error, SettingsError::Refused(_)),
            "{text}: {error}"
        );
        // Whatever else the Cluster says, nothing is dialled.
        for endpoint in ["", member.url().as_str()] {
            let registry = registry();
            registry.replace(vec![cluster(
                "a",
                "1",
                json!({ "type": "direct", "kubeconfig": STANDARD.encode(&text), "kubesphereAPIEndpoint": endpoint }),
            )]);
            let error = registry
                .get("a")
                .expect("a")
                .forward(get(), hop("/x"))
                .await
                .expect_err("refused");
            assert!(matches!(error, ForwardError::Settings { .. }), "{error}");
        }
    }
    assert_eq!(member.opened(), 0);
}

#[test]
fn s11_an_unused_entry_is_refused_too() {
    let text = kubeconfig(SERVER, "", "token: a").replace(
        "users:",
        "users:\n- name: other\n  user: {exec: {command: sh}}",
    );
    assert_eq!(
        Kubeconfig::read(text.as_bytes()).err(),
        Some(SettingsError::Refused("exec"))
    );
}

#[test]
fn what_travels_is_data() {
    let authority = Authority::new().expect("authority");
    let pair = authority.issue("admin", false).expect("pair");
    let [ca, chain, key] =
        [authority.pem(), &pair.certificate, &pair.key].map(|pem| STANDARD.encode(pem));
    let text = kubeconfig(
        SERVER,
        &format!(
            ", certificate-authority-data: {ca}, tls-server-name: kubernetes, insecure-skip-tls-verify: false"
        ),
        &format!("client-certificate-data: {chain}, client-key-data: {key}"),
    );
    let read = Kubeconfig::read(text.as_bytes()).expect("kubeconfig");
    assert_eq!(read.server.to_string(), SERVER);
    assert!(matches!(&read.tls.roots, Roots::Pem(pem) if pem == authority.pem().as_bytes()));
    assert_eq!(read.tls.server_name.as_deref(), Some("kubernetes"));
    assert!(read.tls.client_certificate.is_some() && read.credential.is_none());
    let read =
        Kubeconfig::read(kubeconfig(SERVER, "", "token: s3cret").as_bytes()).expect("kubeconfig");
    assert!(read.credential.is_some());
    assert!(!format!("{read:?}").contains("s3cret"));
}

#[test]
fn what_cannot_be_read_is_said_without_quoting_it() {
    for text in [
        String::new(),
        "a: [".into(),
        "s3cret".into(),
        "clusters: {s3cret: 1}".into(),
        kubeconfig("ftp://s3cret", "", ""),
        kubeconfig("https://user:s3cret@host", "", ""),
        kubeconfig(SERVER, ", certificate-authority-data: '!s3cret'", ""),
        kubeconfig(SERVER, "", "client-certificate-data: czNjcmV0"),
        kubeconfig(SERVER, "", "token: \"s3cret\\n\""),
        kubeconfig(SERVER, "", "token: \"s3c\\nret\""),
        kubeconfig(SERVER, "", "").replace("current-context: c", "current-context: d"),
        "x".repeat(1 << 20),
    ] {
        match Kubeconfig::read(text.as_bytes()) {
            Ok(read) => {
                assert!(text.contains("s3cret\\n") && !format!("{read:?}").contains("s3cret"))
            }
            Err(error) => assert!(!format!("{error} {error:?}").contains("s3c"), "{error}"),
        }
    }
}
