//! Conditions, status, Events and metrics follow what members do.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kah_api::{
    cluster::{Cluster, FINALIZER},
    config::edit,
    iam::{GlobalRoleBinding, User},
    seed,
};
use kah_cluster::{clusters, join, propagate::HOST_LABEL};
use kah_testkit::eventually;
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;

use crate::stage::{Does, SOON, Stage};

const GRANTED: &str = "iam.kubesphere.io/granted-clusters";

async fn grant(member: &kube::Client) {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "admin-of-m", "labels": {"iam.kubesphere.io/user-ref": "admin"}},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "admin"}],
    });
    let api: Api<k8s_openapi::api::rbac::v1::ClusterRoleBinding> = Api::all(member.clone());
    let binding = serde_json::from_value(binding).unwrap();
    api.create(&PostParams::default(), &binding).await.unwrap();
}

async fn text(member: &kube::Client) -> String {
    let maps: Api<ConfigMap> = Api::namespaced(member.clone(), seed::NAMESPACE);
    let map = maps.get(seed::CONFIG).await.unwrap();
    map.data.unwrap()["kubesphere.yaml"].clone()
}

async fn granted(stage: &Stage) -> Option<String> {
    let users: Api<User> = Api::all(stage.host.client.clone());
    let admin = users.get("admin").await.unwrap();
    admin.metadata.annotations.unwrap().get(GRANTED).cloned()
}

#[tokio::test]
async fn a_member_that_is_well_is_told_of_once() {
    let mut stage = Stage::new().await;
    let member = stage.join_whole("m", Does::Accepts, "0", json!({})).await;
    let before = text(&member).await;
    grant(&member).await;
    stage.run();
    stage.becomes("m", "Ready", "True/Ready").await;
    stage.becomes("m", "HostAccess", "True/Accepted").await;
    stage.becomes("m", "Federated", "True/").await;
    eventually(SOON, "its facts are told", async || {
        let status = stage.cluster("m").await.status.unwrap_or_default();
        status.kubernetes_version == "v1.36.2"
            && status.kubesphere_version == "v3.0.0"
            && status.node_count == Some(0)
            && status.uid.len() == 36
            && status.configz.get("multicluster") == Some(&false)
    })
    .await
    .unwrap();
    let cluster = stage.cluster("m").await;
    let hub = cluster.status.clone().unwrap().hub.unwrap();
    assert_eq!(
        (hub.route.as_str(), hub.trust.as_str()),
        ("endpoint", "shared-secret")
    );
    assert_eq!(
        cluster.metadata.finalizers,
        Some(vec![FINALIZER.to_owned()])
    );

    // One key of its configuration, and nothing else.
    let named = edit::set(&before, &["multicluster", "clusterName"], "m").unwrap();
    eventually(SOON, "it is told its name", async || {
        text(&member).await == named
    })
    .await
    .unwrap();
    eventually(SOON, "its users are told", async || {
        granted(&stage).await.as_deref() == Some("m")
    })
    .await
    .unwrap();

    // The host has an object of its own.
    stage.becomes("host", "Ready", "True/Ready").await;
    let host = stage.cluster("host").await;
    assert!(host.is_host() && host.spec.connection.kubeconfig.is_some());

    // Probes and resyncs go on, and nothing is written.
    eventually(SOON, "its latency is told", async || {
        let status = stage.cluster("m").await.status.unwrap();
        !status.hub.unwrap().latency.is_empty()
    })
    .await
    .unwrap();
    let seen = || stage.member(0).seen().len();
    let (asked, version) = (seen(), stage.cluster("m").await.metadata.resource_version);
    eventually(SOON, "more questions", async || seen() > asked + 12)
        .await
        .unwrap();
    assert_eq!(stage.cluster("m").await.metadata.resource_version, version);
    assert_eq!(stage.events("m").await, ["Accepted"]);
    stage.end().await;
}

#[tokio::test]
async fn a_refusal_is_told_at_once_and_so_is_the_end_of_it() {
    let mut stage = Stage::new().await;
    stage.join("m", Does::Accepts).await;
    stage.run();
    stage.becomes("m", "HostAccess", "True/Accepted").await;
    for _ in 0..2 {
        stage.does("m", Does::Refuses);
        stage
            .becomes("m", "HostAccess", "False/TokenNotInCache")
            .await;
        // It answers, and its answer is what callers get.
        assert_eq!(stage.told("m", "Ready").await, "True/Ready");
        let line = "kubeaihub_member_access{cluster=\"m\",code=\"TokenNotInCache\"} 1";
        eventually(SOON, line, async || stage.metrics.text().contains(line))
            .await
            .unwrap();
        stage.does("m", Does::Accepts);
        stage.becomes("m", "HostAccess", "True/Accepted").await;
    }
    let wanted = [
        "Accepted",
        "TokenNotInCache",
        "Accepted",
        "TokenNotInCache",
        "Accepted",
    ];
    eventually(SOON, "one Event a transition", async || {
        stage.events("m").await == wanted
    })
    .await
    .unwrap();
    stage.end().await;
}

#[tokio::test]
async fn silent_members_are_known_and_delay_nobody() {
    let mut stage = Stage::new().await;
    for number in 0..8 {
        stage.join(&format!("silent-{number}"), Does::Accepts).await;
    }
    stage.join("well", Does::Accepts).await;
    stage.run();
    for number in 0..8 {
        stage
            .becomes(&format!("silent-{number}"), "Ready", "True/Ready")
            .await;
    }
    let since = Instant::now();
    for number in 0..8 {
        stage.does(&format!("silent-{number}"), Does::Stalls);
    }
    // In the middle of it another member speaks.
    stage.does("well", Does::Refuses);
    stage
        .becomes("well", "HostAccess", "False/TokenNotInCache")
        .await;
    let took = since.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    for number in 0..8 {
        stage
            .becomes(
                &format!("silent-{number}"),
                "Ready",
                "False/MemberUnreachable",
            )
            .await;
    }
    let took = since.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(
        took > Duration::from_secs(4),
        "a blip would be told: {took:?}"
    );
    println!("8 silent members known after {took:?}");

    stage.does("silent-0", Does::Accepts);
    let since = Instant::now();
    stage.becomes("silent-0", "Ready", "True/Ready").await;
    let took = since.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");

    // And one that is silent still can leave.
    let api = clusters(stage.host.client.clone());
    api.delete("silent-1", &DeleteParams::default())
        .await
        .unwrap();
    eventually(SOON, "it leaves", async || {
        api.get_opt("silent-1").await.unwrap().is_none()
    })
    .await
    .unwrap();
    eventually(SOON, "nothing is told of it", async || {
        !stage.metrics.text().contains("silent-1")
    })
    .await
    .unwrap();
    stage.end().await;
}

/// What is cleaned is decided by the kube-apiserver of a member, and whoever takes it out is told what is left.
#[tokio::test]
async fn who_leaves_is_cleaned_though_its_ks_apiserver_is_stopped() {
    let mut stage = Stage::new().await;
    let member = stage.join_whole("m", Does::Accepts, "0", json!({})).await;
    stage.join("apart", Does::Accepts).await;
    let bindings: Api<GlobalRoleBinding> = Api::all(stage.host.client.clone());
    // More than one page, and than are written at once.
    for number in 0..250 {
        let binding =
            GlobalRoleBinding::for_user(&format!("b{number}"), "admin", "platform-regular");
        bindings
            .create(&PostParams::default(), &binding)
            .await
            .unwrap();
    }
    let copies: Api<GlobalRoleBinding> = Api::all(member.clone());
    let ours = ListParams::default().labels(HOST_LABEL);
    stage.run();
    eventually(SOON, "it has copies", async || {
        copies.list(&ours).await.unwrap().items.len() >= 250
    })
    .await
    .unwrap();
    stage.does("m", Does::Stalls);
    stage.becomes("m", "Ready", "False/MemberUnreachable").await;
    let left = join::leave(&stage.host, "m").await.unwrap();
    assert_eq!(left.remains, Vec::<String>::new(), "{left:?}");
    assert_eq!(copies.list(&ours).await.unwrap().items.len(), 0);

    // One whose kube-apiserver nobody can ask is let go as it is, and that is said.
    let began = Instant::now();
    let left = join::leave(&stage.host, "apart").await.unwrap();
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(
        left.remains,
        [format!("objects with the label {HOST_LABEL}")]
    );
    assert!(
        left.commands[0].contains("globalrolebindings.iam.kubesphere.io"),
        "{left:?}"
    );
    stage.end().await;
}

#[tokio::test]
async fn who_leaves_is_taken_from_the_users_clusters() {
    let mut stage = Stage::new().await;
    let member = stage.join_whole("m", Does::Accepts, "0", json!({})).await;
    grant(&member).await;
    stage.run();
    eventually(SOON, "its users are told", async || {
        granted(&stage).await.as_deref() == Some("m")
    })
    .await
    .unwrap();
    let api: Api<Cluster> = Api::all(stage.host.client.clone());
    api.delete("m", &DeleteParams::default()).await.unwrap();
    eventually(SOON, "it leaves", async || {
        api.get_opt("m").await.unwrap().is_none()
    })
    .await
    .unwrap();
    assert_eq!(granted(&stage).await, None);
    stage.end().await;
}
