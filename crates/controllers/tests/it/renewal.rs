//! Credentials that end soon are renewed while they work, where the host may do that.

use std::{sync::atomic::Ordering, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, ServiceAccount};
use kah_api::{cluster::Cluster, seed};
use kah_cluster::{Kubeconfig, restore::renew_credential};
use kah_controllers::renewal;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::trust::stage::{SECRET, Stage, clusters, eventually, until};

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

    tokio::spawn(kah_controllers::run(
        stage.host.clone(),
        kah_controllers::Settings {
            host_cluster: "host".into(),
            host_kubeconfig: stage.plane.admin_kubeconfig().to_owned(),
            resync: Duration::from_secs(1),
        },
        kah_controllers::Metrics::default(),
        stage.stop.clone(),
    ));
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
