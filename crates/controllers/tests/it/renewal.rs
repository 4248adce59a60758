//! Credentials that end soon are renewed while they work, where the host may do that.

use std::sync::atomic::Ordering;

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{Event, ServiceAccount},
    rbac::v1::ClusterRoleBinding,
};
use kah_api::{
    cluster::Cluster,
    seed::{self, Role},
};
use kah_cluster::{Kubeconfig, doctor, restore::renew_credential};
use kah_controllers::renewal;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::trust::stage::{SECRET, Stage, clusters, eventually, plane_since, run, until};

const DAY: i64 = 86_400;

async fn patch(stage: &Stage, name: &str, patch: Value) {
    clusters(&stage.plane)
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
}

async fn stored(stage: &Stage, name: &str) -> Vec<u8> {
    let api: Api<Cluster> = Api::all(stage.plane.client());
    let cluster = api.get(name).await.unwrap();
    cluster.spec.connection.kubeconfig.unwrap().0
}

/// How many Events of this reason a Cluster has.
async fn events(stage: &Stage, name: &str, reason: &str) -> usize {
    let api: Api<Event> = Api::namespaced(stage.plane.client(), "default");
    let events = api.list(&Default::default()).await.unwrap().items;
    let about = |event: &&Event| {
        event.involved_object.name.as_deref() == Some(name)
            && event.reason.as_deref() == Some(reason)
    };
    events.iter().filter(about).count()
}

/// Stores an administrator's certificate that has so many days left.
async fn of_a_person(stage: &Stage, member: usize, days: i64) {
    let plane = &stage.members[member].plane;
    let then = Timestamp::now() - SignedDuration::from_hours((365 - days) * 24);
    let certificate = plane
        .authority()
        .client_certificate("kubernetes-admin", &["system:masters"], then)
        .unwrap();
    let server = format!("https://{}", plane.address());
    let text = plane.authority().kubeconfig("m", &server, &certificate);
    let text = STANDARD.encode(text);
    let name = format!("m{member}");
    patch(
        stage,
        &name,
        json!({"spec": {"connection": {"kubeconfig": text}}}),
    )
    .await;
}

/// A kubeconfig with the token of an account that may do everything, for two years by the clock of its cluster.
async fn with_token(plane: &kah_localkube::Cluster) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(plane.client(), seed::NAMESPACE);
    let account = json!({"metadata": {"name": "person"}});
    let account = serde_json::from_value(account).unwrap();
    accounts
        .create(&PostParams::default(), &account)
        .await
        .unwrap();
    let bindings: Api<ClusterRoleBinding> = Api::all(plane.client());
    let binding = json!({
        "metadata": {"name": "person"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "person", "namespace": seed::NAMESPACE}],
    });
    let binding = serde_json::from_value(binding).unwrap();
    bindings
        .create(&PostParams::default(), &binding)
        .await
        .unwrap();
    let wanted = json!({"spec": {"audiences": [], "expirationSeconds": 2 * 365 * DAY}});
    let wanted: TokenRequest = serde_json::from_value(wanted).unwrap();
    let issued = accounts
        .create_token_request("person", &PostParams::default(), &wanted)
        .await
        .unwrap();
    let token = issued.status.unwrap().token;
    let authority = STANDARD.encode(plane.authority().ca_pem());
    let cluster = json!({"server": format!("https://{}", plane.address()), "certificate-authority-data": authority});
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token}}],
    });
    kubeconfig.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_soon_is_renewed_where_it_is_ours_or_asked_for() {
    let stage = Stage::new(&[SECRET; 4]).await;
    // m0: the host's own. m1: a person's. m2: a person's, and the Cluster asks for it. m3: the host's own, whose account was deleted.
    for name in ["m0", "m3"] {
        let member = stage.host.registry.get(name).unwrap();
        renew_credential(&stage.host, &member).await.unwrap();
    }
    let accounts: Api<ServiceAccount> =
        Api::namespaced(stage.members[3].plane.client(), seed::NAMESPACE);
    accounts
        .delete("kubeaihub-host", &DeleteParams::default())
        .await
        .unwrap();
    of_a_person(&stage, 1, 20).await;
    of_a_person(&stage, 2, 85).await;
    patch(&stage, "m2", json!({"spec": {"autoRestore": true}})).await;
    let names = ["m0", "m1", "m2", "m3"];
    until("the registry knows them", || {
        names.into_iter().all(|name| {
            let member = stage.host.registry.get(name).unwrap();
            let left = member
                .certificate_ends()
                .unwrap()
                .duration_since(Timestamp::now());
            left < SignedDuration::from_hours(91 * 24)
        })
    })
    .await;
    let mut before = Vec::new();
    for name in names {
        before.push(stored(&stage, name).await);
    }

    run(&stage);
    eventually("of m1 people are warned", async || {
        events(&stage, "m1", "CredentialExpiring").await == 1
    })
    .await;
    // Of the others months are left.
    for name in names {
        eventually("they are looked at", async || {
            let api: Api<Cluster> = Api::all(stage.plane.client());
            let status = api.get(name).await.unwrap().status.unwrap_or_default();
            let mut conditions = status.conditions.iter();
            conditions.any(|it| it.kind == "HostAccess" && it.status != "Unknown")
        })
        .await;
        for reason in ["CredentialRenewed", "CredentialNotRenewed"] {
            assert_eq!(events(&stage, name, reason).await, 0, "{name}");
        }
    }

    stage.clock.0.store(65 * DAY, Ordering::SeqCst);
    let poke = async |value: u32| {
        for name in names {
            let annotations = json!({"metadata": {"annotations": {"poke": value.to_string()}}});
            patch(&stage, name, annotations).await;
        }
    };
    poke(1).await;
    for (name, reason) in [
        ("m0", "CredentialRenewed"),
        ("m2", "CredentialRenewed"),
        ("m3", "CredentialNotRenewed"),
    ] {
        eventually(&format!("{name} is told"), async || {
            events(&stage, name, reason).await == 1
        })
        .await;
    }
    for (name, before) in names.into_iter().zip(&before) {
        let now = stored(&stage, name).await;
        let renewed = matches!(name, "m0" | "m2");
        assert_eq!(now != *before, renewed, "{name}");
        if renewed {
            let read = Kubeconfig::read(&now).unwrap();
            assert!(read.expiry.unwrap().is_ours() && read.tls.client_certificate.is_none());
        }
    }
    // Once a day, whatever else changes.
    poke(2).await;
    let tried = async |name: &str| {
        let api: Api<Cluster> = Api::all(stage.plane.client());
        let annotations = api.get(name).await.unwrap().metadata.annotations;
        annotations.unwrap().remove(renewal::ANNOTATION)
    };
    let first = tried("m3").await.unwrap();
    stage.clock.0.store(66 * DAY, Ordering::SeqCst);
    poke(3).await;
    eventually("m3 is tried again a day later", async || {
        events(&stage, "m3", "CredentialNotRenewed").await == 2
    })
    .await;
    let day = |text: &str| text.parse::<Timestamp>().unwrap();
    let second = tried("m3").await.unwrap();
    let between = day(&second).duration_since(day(&first));
    assert!(between >= SignedDuration::from_hours(24), "{between}");
    assert_eq!(tried("m1").await, None);
    assert_eq!(events(&stage, "m1", "CredentialNotRenewed").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_shows_and_ends_soon_is_told_and_left_alone() {
    // What it shows ends in ten days, and the stored credential long after that.
    let then = || Timestamp::now() - SignedDuration::from_hours(355 * 24);
    let plane = plane_since(Role::Member, SECRET, then).await;
    let stage = Stage::new(&[SECRET]).await;
    let text = with_token(&plane).await;
    let server = format!("https://{}", plane.address());
    let connection = json!({"kubeconfig": STANDARD.encode(&text), "kubernetesAPIEndpoint": server});
    let spec = json!({"spec": {"autoRestore": true, "connection": connection}});
    let known = stage.host.registry.get("m0").unwrap();
    patch(&stage, "m0", spec).await;
    until("the registry knows it", || {
        let member = stage.host.registry.get("m0").unwrap();
        !member.is_reached_as(&known)
    })
    .await;

    let metrics = run(&stage);
    let cluster = async || {
        let api: Api<Cluster> = Api::all(stage.plane.client());
        api.get("m0").await.unwrap()
    };
    eventually("it is told", async || {
        let cluster = cluster().await;
        cluster.condition("HostAccess").is_some_and(|access| {
            (access.status.as_str(), access.reason.as_str()) == ("True", "CredentialExpiring")
        })
    })
    .await;
    let told = cluster().await;
    let message = &told.condition("HostAccess").unwrap().message;
    let whose = "(the serving certificate of its kube-apiserver ends ";
    assert!(message.contains(whose), "{message}");
    let ends = told.condition("KubeConfigCertExpiresInSevenDays").unwrap();
    assert_eq!(ends.status, "False");
    let days = told.status.unwrap().hub.unwrap().certificate_days;
    assert!(matches!(days, Some(9 | 10)), "{days:?}");
    eventually("an Event tells it", async || {
        events(&stage, "m0", "CredentialExpiring").await == 1
    })
    .await;
    let gauge = "kubeaihub_member_access{cluster=\"m0\",code=\"CredentialExpiring\"} 1";
    assert!(metrics.text().contains(gauge), "{}", metrics.text());

    let member = stage.host.registry.get("m0").unwrap();
    let evidence = doctor::gather(&stage.host, &member, &stage.caller()).await;
    let report = doctor::report(&evidence);
    let codes: Vec<_> = report.findings.iter().map(|it| it.code.as_str()).collect();
    assert_eq!(codes, ["CredentialExpiring"]);
    assert!(report.healthy && !report.findings[0].repairable);
    assert_eq!(report.findings[0].repair, None);

    // Whoever asks for repairs is offered none, and what is stored stays.
    let request = kah_cluster::restore::Request::new("m0", "alice", stage.caller());
    let mut observer = |_: &kah_cluster::restore::State| std::ops::ControlFlow::Continue(());
    let restored = kah_cluster::restore::restore(&stage.host, &request, &mut observer).await;
    assert_eq!(restored.unwrap().actions.len(), 0);
    for reason in [
        "CredentialRenewed",
        "CredentialNotRenewed",
        "RestoringAccess",
    ] {
        assert_eq!(events(&stage, "m0", reason).await, 0, "{reason}");
    }
    assert_eq!(stored(&stage, "m0").await, text.into_bytes());
    let annotations = cluster().await.metadata.annotations.unwrap_or_default();
    assert!(!annotations.contains_key(renewal::ANNOTATION));
}
