//! Trust moves and keys change, and nobody who asks notices.

mod apart;
mod beside;
pub mod stage;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Secret};
use kah_api::{cluster::Trust, seed};
use kah_cluster::{
    Host,
    trust::{
        TrustError, WANTED, rotate,
        rotation::{Pace, Told},
        survey,
    },
};
use kah_iam::{
    Clock,
    federated::{KeyState, KeysError},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use stage::{Load, Place, SECRET, Stage, clusters, eventually, run, until};

fn fast() -> Pace {
    Pace {
        every: SignedDuration::from_hours(1),
        settle: SignedDuration::from_millis(200),
        linger: SignedDuration::from_millis(1500),
        look: SignedDuration::from_millis(50),
        rest: SignedDuration::from_millis(200),
        grace: SignedDuration::from_millis(600),
    }
}

fn reconcile(stage: &Stage) {
    reconcile_as(stage, stage.host.clone());
}

fn reconcile_as(stage: &Stage, host: Host) {
    let stop = stage.stop.clone();
    tokio::spawn(kah_controllers::trust::run_at(host, fast(), stop));
}

/// A clock that counts how often it is asked.
struct Counted {
    clock: Arc<dyn Clock>,
    asked: AtomicUsize,
}

impl Clock for Counted {
    fn now(&self) -> Timestamp {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.clock.now()
    }

    fn uptime(&self) -> f64 {
        self.clock.uptime()
    }
}

async fn status(stage: &Stage, cluster: &str) -> u16 {
    stage.ask(cluster).await.unwrap().status().as_u16()
}

/// The token that a member saw last.
fn sent(stage: &Stage, member: usize) -> String {
    let seen = stage.members[member].server.seen();
    let with = seen
        .iter()
        .rfind(|seen| !seen.header("authorization").is_empty());
    with.unwrap().header("authorization")
}

fn states(stage: &Stage) -> Vec<KeyState> {
    let (_, keys) = stage.host.registry.signer().keys().unwrap();
    keys.records().iter().map(|key| key.state).collect()
}

/// What the first member was told is taken back by the reconcilers, and not before its time.
async fn keys_go_in_time(stage: &Stage) {
    let clock = Arc::new(Counted {
        clock: stage.clock.clone(),
        asked: AtomicUsize::new(0),
    });
    let host = Host {
        clock: clock.clone(),
        ..stage.host.clone()
    };
    reconcile_as(stage, host);
    // Once in each round for what has ended, and then, when that is done, for the keys.
    until("it has looked twice", || {
        clock.asked.load(Ordering::SeqCst) >= 4
    })
    .await;
    assert!(stage.members[0].told().await.is_some());
    stage.clock.0.fetch_add(200, Ordering::SeqCst);
    eventually("the keys are taken back", async || {
        stage.members[0].told().await.is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_d1_a_stolen_member_opens_nothing_else() {
    let stage = Stage::new(&["own secret of m0", "own secret of m1"]).await;
    assert_eq!(status(&stage, "m0").await, 401);
    for cluster in ["m0", "m1"] {
        let report = stage.move_to(cluster, Trust::Federated).await.unwrap();
        assert!(report.moved && report.changes.is_empty() && !report.restarted);
        assert_eq!(status(&stage, cluster).await, 200);
    }
    // Everything that m0 ever saw since: tokens for itself alone.
    let token = sent(&stage, 0);
    assert!(!stage.members[0].server.seen().iter().skip(1).any(|seen| {
        let headers = format!("{:?}", seen.headers);
        headers.contains(&stage.token)
    }));
    let header = Some(token.as_str());
    let host = stage.judge.authenticate(header).await.unwrap_err();
    assert_eq!(host.to_string(), "signing method EdDSA is invalid");
    let there = straight(&stage.members[1].server.url(), &token).await;
    assert_eq!(there.0, 401);
    assert!(
        there.1.contains("jwt: token has a wrong aud"),
        "{}",
        there.1
    );
    assert_eq!(
        straight(&stage.members[0].server.url(), &token).await.0,
        200
    );
    // What it knows of keys signs nothing.
    let told = stage.members[0].told().await.unwrap();
    let keys: serde_json::Value = serde_json::from_str(&told.data.unwrap()["keys"]).unwrap();
    for key in keys["keys"].as_array().unwrap() {
        assert!(key.get("d").is_none() && key["x"].is_string());
    }
    // The private half is in one place, and no word of ours holds it.
    let secrets: Api<Secret> = Api::namespaced(stage.plane.client(), seed::NAMESPACE);
    let secret = secrets.get("hub-signing-keys").await.unwrap();
    let data = secret.data.unwrap();
    let pem = data
        .iter()
        .find(|(name, _)| name.ends_with(".pem"))
        .unwrap()
        .1;
    let pem = String::from_utf8(pem.0.clone()).unwrap();
    let canary = pem.lines().nth(1).unwrap();
    let said = format!(
        "{:?} {:?} {:?}",
        stage.host.registry,
        stage.host.registry.signer(),
        survey(&stage.host).await
    );
    assert!(!said.contains(canary) && !said.contains(&token));

    // Its kube-apiserver says that it is m1: from then on it would be sent tokens for m1.
    run(&stage);
    eventually("m0 is well", async || {
        access(&stage, "m0").await.0 == "True"
    })
    .await;
    let uid = |cluster: kah_api::cluster::Cluster| cluster.status.unwrap_or_default().uid;
    let own = uid(of_cluster(&stage, "m0").await);
    connect(&stage, "m0", 1, 0).await;
    eventually("the other identity is told", async || {
        let (status, reason, message) = access(&stage, "m0").await;
        (status.as_str(), reason.as_str()) == ("False", "SignatureInvalid")
            && message.contains("kah cluster leave m0")
    })
    .await;
    eventually("an Event says so", async || {
        let told = events(&stage, "m0").await;
        told.contains(&"SignatureInvalid".to_owned())
    })
    .await;
    assert_eq!(uid(of_cluster(&stage, "m0").await), own);
    until("nothing is signed for it", || {
        let member = stage.host.registry.get("m0");
        member.is_some_and(|member| member.stranger().is_some())
    })
    .await;
    let words = stage.ask("m0").await.unwrap_err();
    assert!(words.contains("what answers is not the cluster"), "{words}");
    for seen in stage.members[0].server.seen() {
        let token = seen.header("authorization");
        assert!(!token.starts_with("Bearer") || audience(&token).is_none_or(|aud| aud == own));
    }
    // Nothing is repaired on what is another cluster.
    let request = kah_cluster::restore::Request::new("m0", "alice", stage.caller());
    let mut observer = |_: &_| std::ops::ControlFlow::Continue(());
    let error = kah_cluster::restore::restore(&stage.host, &request, &mut observer).await;
    let words = error.unwrap_err().to_string();
    assert!(words.contains("what answers is not the cluster"), "{words}");
    // A kubeconfig of the cluster that joined is what it takes, and people get in again.
    let request = kah_cluster::restore::Request {
        kubeconfig: Some(
            stage.members[0]
                .plane
                .admin_kubeconfig()
                .as_bytes()
                .to_vec(),
        ),
        guard: kah_cluster::guard::AddressGuard::new(&["127.0.0.0/8".parse().unwrap()]),
        ..request
    };
    // The reconciler may write the Cluster at the same moment.
    eventually("the connection is replaced", async || {
        let mut observer = |_: &_| std::ops::ControlFlow::Continue(());
        kah_cluster::restore::restore(&stage.host, &request, &mut observer)
            .await
            .is_ok()
    })
    .await;
    eventually("m0 is well again", async || {
        access(&stage, "m0").await.0 == "True"
    })
    .await;
    // What is stored is heard of a moment later.
    until("it is no stranger any more", || {
        let member = stage.host.registry.get("m0");
        member.is_some_and(|member| member.stranger().is_none())
    })
    .await;
    assert_eq!(status(&stage, "m0").await, 200);
    assert_eq!(uid(of_cluster(&stage, "m0").await), own);
}

/// The `aud` of a token that a host signed.
fn audience(authorization: &str) -> Option<String> {
    use base64::Engine;
    let part = authorization.split('.').nth(1)?;
    let claims = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(part).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    Some(claims.get("aud")?.as_str()?.to_owned())
}

/// A Cluster for which the kube-apiserver of one member, and the ks-apiserver of another, answers.
fn connected(stage: &Stage, name: &str, kubernetes: usize, kubesphere: usize) -> serde_json::Value {
    let plane = &stage.members[kubernetes].plane;
    seed::member_cluster(
        name,
        plane.admin_kubeconfig(),
        &format!("https://{}", plane.address()),
        Some(&stage.members[kubesphere].server.url()),
    )
}

/// Makes an existing Cluster such a one.
async fn connect(stage: &Stage, name: &str, kubernetes: usize, kubesphere: usize) {
    let object = connected(stage, name, kubernetes, kubesphere);
    let patch = json!({"spec": {"connection": object["spec"]["connection"]}});
    clusters(&stage.plane)
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
}

/// Status, reason and message of `HostAccess`.
async fn access(stage: &Stage, name: &str) -> (String, String, String) {
    let cluster = of_cluster(stage, name).await;
    let told = cluster.condition("HostAccess").cloned();
    told.map_or_else(Default::default, |it| (it.status, it.reason, it.message))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_a_cluster_that_claims_the_identity_of_another_is_given_none() {
    let stage = Stage::new(&["own secret of m0", "own secret of m1"]).await;
    stage.move_to("m1", Trust::Federated).await.unwrap();
    let object = connected(&stage, "m2", 1, 1);
    clusters(&stage.plane)
        .create(
            &Default::default(),
            &serde_json::from_value(object).unwrap(),
        )
        .await
        .unwrap();
    until("m2 is known", || stage.host.registry.get("m2").is_some()).await;
    let seen = stage.members[1].server.seen().len();
    let error = stage.move_to("m2", Trust::Federated).await.unwrap_err();
    let words = kah_cluster::with_causes(&error);
    assert!(matches!(error, TrustError::Known(_)), "{words}");
    assert!(
        words.contains("the cluster m1, which is in the fleet"),
        "{words}"
    );
    assert_eq!(stage.members[1].server.seen().len(), seen);
    run(&stage);
    eventually("whose identity it is is told", async || {
        let (status, _, message) = access(&stage, "m2").await;
        status == "False" && message.contains("the identity of the cluster m1")
    })
    .await;
    let status = of_cluster(&stage, "m2").await.status.unwrap();
    assert_eq!(status.uid, "");
    assert_eq!(access(&stage, "m1").await.0, "True");
}

/// A GET straight to a stand-in.
async fn straight(url: &str, authorization: &str) -> (u16, String) {
    let (url, token) = (
        format!("{url}/api/v1/pods"),
        authorization.trim_start_matches("Bearer ").to_owned(),
    );
    let asked = tokio::task::spawn_blocking(move || {
        let answer = kah_testkit::http_client::get(&url, &token).unwrap();
        (answer.status, answer.body)
    });
    asked.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trust_moves_there_and_back_and_no_request_fails() {
    let stage = Arc::new(Stage::new(&[SECRET]).await);
    let load = Load::start(&stage, &["m0"], 16);
    let mut watch = stage.watch("m0").await;
    load.more(100).await;
    for round in 0..2 {
        let there = stage.move_to("m0", Trust::Federated).await.unwrap();
        assert!(there.moved, "{round}");
        load.more(100).await;
        assert!(sent(&stage, 0).len() < stage.token.len() * 2);
        assert_ne!(sent(&stage, 0), format!("Bearer {}", stage.token));
        let again = stage.move_to("m0", Trust::Federated).await.unwrap();
        assert!(!again.moved);
        let back = stage.move_to("m0", Trust::SharedSecret).await.unwrap();
        assert!(back.moved && back.changes.is_empty() && !back.restarted);
        load.more(100).await;
        assert_eq!(sent(&stage, 0), format!("Bearer {}", stage.token));
    }
    // A watch that was open all the time still is.
    for _ in 0..3 {
        let frame = watch.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "alice");
    }
    let asked = load.end().await;
    assert!(asked >= 400, "{asked}");

    // The keys go when the last token has ended, and not before.
    keys_go_in_time(&stage).await;
    assert_eq!(status(&stage, "m0").await, 200);
    eventually("the Cluster says nothing of it any more", async || {
        let object = clusters(&stage.plane).get("m0").await.unwrap();
        object.metadata.annotations.unwrap_or_default().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_another_secret_is_given_the_hosts_before_it_is_moved_back() {
    let stage = Arc::new(Stage::new(&["own secret of m0"]).await);
    stage.move_to("m0", Trust::Federated).await.unwrap();
    let load = Load::start(&stage, &["m0"], 8);
    load.more(50).await;
    let back = stage.move_to("m0", Trust::SharedSecret).await.unwrap();
    assert_eq!(back.changes.len(), 1);
    assert_eq!(back.changes[0].key, "authentication.jwtSecret");
    assert!(!back.restarted);
    load.more(50).await;
    load.end().await;
    assert_eq!(sent(&stage, 0), format!("Bearer {}", stage.token));
    let maps: Api<ConfigMap> = Api::namespaced(stage.members[0].plane.client(), seed::NAMESPACE);
    let map = maps.get(seed::CONFIG).await.unwrap();
    assert!(
        map.binary_data
            .unwrap()
            .contains_key("backup-kubesphere.yaml")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j5_keys_change_and_no_request_fails() {
    let stage = Arc::new(Stage::new(&["a", "b"]).await);
    for cluster in ["m0", "m1"] {
        stage.move_to(cluster, Trust::Federated).await.unwrap();
    }
    reconcile(&stage);
    let load = Load::start(&stage, &["m0", "m1"], 16);
    let mut watch = stage.watch("m1").await;
    load.more(100).await;
    for _ in 0..2 {
        let old = sent(&stage, 0);
        let next = rotate(&stage.host, false).await.unwrap().next;
        let again = rotate(&stage.host, false).await;
        assert!(matches!(again, Err(TrustError::Keys(KeysError::UnderWay))));
        until("the new key signs alone", || {
            states(&stage) == [KeyState::Active]
        })
        .await;
        load.more(100).await;
        for member in &stage.members {
            eventually("members know the new key alone", async || {
                let told = member.told().await.unwrap();
                let keys = &told.data.unwrap()["keys"];
                keys.contains(&next) && keys.matches("\"kid\"").count() == 1
            })
            .await;
        }
        // The old key is dead: what it signed is refused although it has not ended.
        let mut last = String::new();
        eventually("the old key is dead", async || {
            let (status, body) = straight(&stage.members[0].server.url(), &old).await;
            last = body;
            status == 401
        })
        .await;
        assert!(last.contains("key that is not trusted here"), "{last}");
    }
    let frame = watch.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "alice");
    let asked = load.end().await;
    assert!(asked >= 300, "{asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_away_holds_nobody_up_and_is_told_when_it_is_back() {
    let stage = Arc::new(Stage::new(&["a", "b"]).await);
    for cluster in ["m0", "m1"] {
        stage.move_to(cluster, Trust::Federated).await.unwrap();
    }
    let connection =
        |server: &str| json!({"spec": {"connection": {"kubernetesAPIEndpoint": server}}});
    let patch = async |server: &str| {
        clusters(&stage.plane)
            .patch(
                "m1",
                &PatchParams::default(),
                &Patch::Merge(connection(server)),
            )
            .await
            .unwrap();
    };
    // Neither its kube-apiserver nor its ks-apiserver answers.
    patch("https://127.0.0.1:1").await;
    stage.members[1].away.store(true, Ordering::SeqCst);
    let away = async |stage: &Stage| {
        let found = survey(&stage.host).await;
        matches!(&found[1].keys.told, Told::Away(words) if !words.is_empty())
            && found[1].keys.accepts.is_none()
    };
    eventually("m1 is away", async || away(&stage).await).await;
    reconcile(&stage);
    let load = Load::start(&stage, &["m0"], 4);
    rotate(&stage.host, false).await.unwrap();
    until("the new key signs alone", || {
        states(&stage) == [KeyState::Active]
    })
    .await;
    load.more(20).await;
    load.end().await;
    assert!(away(&stage).await);
    patch(&format!("https://{}", stage.members[1].plane.address())).await;
    stage.members[1].away.store(false, Ordering::SeqCst);
    eventually("m1 knows the new key", async || {
        stage
            .ask("m1")
            .await
            .is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let found = survey(&stage.host).await;
    assert!(
        found.iter().all(|one| one.keys.told == Told::All),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_on_a_member_is_told_again() {
    let stage = Stage::new(&["a"]).await;
    stage.move_to("m0", Trust::Federated).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(stage.members[0].plane.client(), seed::NAMESPACE);
    maps.delete("hub-trust", &DeleteParams::default())
        .await
        .unwrap();
    eventually("the member refuses", async || {
        status(&stage, "m0").await == 401
    })
    .await;
    let answer = stage.ask("m0").await.unwrap();
    assert_eq!(
        answer.headers()["x-kubeaihub-member-refusal"],
        "SignatureInvalid"
    );
    // Whoever does not want to wait for the reconciler asks for a restore.
    let request = kah_cluster::restore::Request {
        cluster: "m0".into(),
        by: "alice".into(),
        dry_run: true,
        agreed: None,
        renew: false,
        proof: stage.caller(),
        patience: Default::default(),
        kubeconfig: None,
        guard: kah_cluster::guard::AddressGuard::default(),
        accept_ca: None,
    };
    let mut observer = |_: &_| std::ops::ControlFlow::Continue(());
    let planned = kah_cluster::restore::restore(&stage.host, &request, &mut observer)
        .await
        .unwrap();
    assert_eq!(planned.changes[0].key, "ConfigMap hub-trust");
    assert_eq!(status(&stage, "m0").await, 401);
    let request = kah_cluster::restore::Request {
        dry_run: false,
        ..request
    };
    let done = kah_cluster::restore::restore(&stage.host, &request, &mut observer)
        .await
        .unwrap();
    assert_eq!(done.outcome, kah_cluster::restore::Outcome::Restored);
    assert_eq!(status(&stage, "m0").await, 200);
    // Without anybody's word.
    reconcile(&stage);
    let patch = json!({"data": {"keys": "{\"keys\":[]}"}});
    maps.patch("hub-trust", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    eventually("it is told again", async || {
        let told = stage.members[0].told().await;
        told.is_some_and(|map| map.data.unwrap()["keys"].contains("kid"))
    })
    .await;
    eventually("the member accepts", async || {
        status(&stage, "m0").await == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_moves_at_once_and_one_that_is_cut_off_end_well() {
    let stage = Arc::new(Stage::new(&[SECRET]).await);
    let load = Load::start(&stage, &["m0"], 4);
    let (one, two) = tokio::join!(
        stage.move_to("m0", Trust::Federated),
        stage.move_to("m0", Trust::Federated)
    );
    assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
    for _ in 0..3 {
        let (one, two) = tokio::join!(
            stage.move_to("m0", Trust::SharedSecret),
            stage.move_to("m0", Trust::Federated)
        );
        for ended in [&one, &two] {
            assert!(
                matches!(ended, Ok(_) | Err(TrustError::Busy { .. })),
                "{ended:?}"
            );
        }
        assert!(one.is_ok() || two.is_ok());
    }
    // Cut off after so many milliseconds, and done again.
    for (number, trust) in [Trust::Federated, Trust::SharedSecret]
        .into_iter()
        .cycle()
        .take(12)
        .enumerate()
    {
        let cut = Duration::from_millis(number as u64 * 3);
        let _ = tokio::time::timeout(cut, stage.move_to("m0", trust)).await;
        stage.move_to("m0", trust).await.unwrap();
        assert_eq!(status(&stage, "m0").await, 200);
    }
    load.more(20).await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_offers_nothing_or_is_another_is_refused_in_words() {
    let stage = Stage::new(&[SECRET, "b"]).await;
    stage.members[0].go.store(true, Ordering::SeqCst);
    let error = stage.move_to("m0", Trust::Federated).await.unwrap_err();
    assert!(matches!(error, TrustError::NotOffered { .. }), "{error}");
    assert!(error.to_string().contains("403"), "{error}");
    assert!(stage.members[0].told().await.is_none());
    assert_eq!(status(&stage, "m0").await, 200);
    // The endpoint of one, the kube-apiserver of another.
    let patch =
        json!({"spec": {"connection": {"kubesphereAPIEndpoint": stage.members[1].server.url()}}});
    clusters(&stage.plane)
        .patch("m0", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    let mut last = None;
    eventually("the endpoint is another", async || {
        last = stage.move_to("m0", Trust::Federated).await.err();
        matches!(last, Some(TrustError::Other { .. }))
    })
    .await;
    assert!(
        stage
            .members
            .iter()
            .all(|member| !member.server.seen().is_empty())
    );
    for member in &stage.members {
        assert!(member.told().await.is_none());
    }
    for (cluster, words) in [("none", "not found")] {
        let error = stage.move_to(cluster, Trust::Federated).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    // A member that knows nobody called alice is left as it was.
    let nobody = kah_cluster::CallerCredential::User {
        name: "nobody".into(),
        authorization: "Bearer x".parse().unwrap(),
    };
    let mut request = stage.request("m1", Trust::Federated);
    request.proof = nobody;
    request.patience.accept = Duration::from_millis(200);
    let error = kah_cluster::trust::move_to(&stage.host, &request)
        .await
        .unwrap_err();
    assert!(matches!(error, TrustError::NotAccepted { .. }), "{error}");
    assert!(stage.members[1].told().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_make_the_first_key_one_wins() {
    let stage = Stage::new(&[]).await;
    let now = stage.host.clock.now();
    let client = &stage.host.client;
    let made =
        futures::future::join_all((0..8).map(|_| kah_cluster::trust::keys::ensure(client, now)))
            .await;
    let ids: std::collections::BTreeSet<String> = made
        .into_iter()
        .map(|keys| keys.unwrap().records()[0].id.clone())
        .collect();
    assert_eq!(ids.len(), 1);
}

async fn of_cluster(stage: &Stage, name: &str) -> kah_api::cluster::Cluster {
    let api: Api<kah_api::cluster::Cluster> = Api::all(stage.plane.client());
    api.get(name).await.unwrap()
}

/// Reasons of the Events about a Cluster.
async fn events(stage: &Stage, name: &str) -> Vec<String> {
    let api: Api<Event> = Api::namespaced(stage.plane.client(), "default");
    let events = api.list(&Default::default()).await.unwrap().items;
    events
        .into_iter()
        .filter(|event| event.involved_object.name.as_deref() == Some(name))
        .filter_map(|event| event.reason)
        .collect()
}

/// What its ks-apiserver was shown of anybody.
fn shown(place: &Place) -> Vec<String> {
    let seen = place.server.seen();
    let tokens = seen.iter().map(|seen| seen.header("authorization"));
    tokens.filter(|token| !token.is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marked_member_becomes_federated_once_it_can_be_asked_and_is_shown_no_token_before() {
    let stage = Stage::new(&["own secret of m0", SECRET, "own secret of m2"]).await;
    stage.members[0].away.store(true, Ordering::SeqCst);
    stage.members[1].go.store(true, Ordering::SeqCst);
    for (number, name) in ["m0", "m1"].into_iter().enumerate() {
        let spaces: Api<Namespace> = Api::all(stage.members[number].plane.client());
        let uid = spaces.get("kube-system").await.unwrap().metadata.uid;
        let mark = json!({
            "metadata": {"annotations": {WANTED: "federated"}},
            "status": {"uid": uid},
        });
        clusters(&stage.plane)
            .patch(name, &PatchParams::default(), &Patch::Merge(mark))
            .await
            .unwrap();
    }
    until("the marks are known", || {
        ["m0", "m1"].into_iter().all(|name| {
            let member = stage.host.registry.get(name);
            member.is_some_and(|member| member.is_undecided())
        })
    })
    .await;
    run(&stage);
    let told = async |name: &str| {
        let cluster = of_cluster(&stage, name).await;
        let access = cluster.condition("HostAccess").cloned();
        let access = access.map_or_else(Default::default, |it| (it.reason, it.message));
        let marked = cluster.metadata.annotations.unwrap_or_default();
        let marked = marked.contains_key(WANTED);
        (cluster.spec.trust, marked, access.0, access.1)
    };
    // A member that says it offers nothing waits for people to decide, and somebody is told.
    eventually("m1 is told of", async || {
        events(&stage, "m1")
            .await
            .contains(&"TrustNotOffered".to_owned())
    })
    .await;
    eventually("m1 says what to do", async || {
        let (trust, marked, reason, words) = told("m1").await;
        (trust, marked) == (Trust::SharedSecret, true)
            && reason == "TrustUndecided"
            && words.contains("kah cluster trust m1 shared-secret")
    })
    .await;
    // Callers are told, and nothing of them arrives; nor does a restore bring the host's secret there.
    let refused = stage.ask("m1").await.unwrap_err();
    assert!(refused.contains("nobody's token is sent"), "{refused}");
    let request = kah_cluster::restore::Request::new("m1", "alice", stage.caller());
    let mut observer = |_: &kah_cluster::restore::State| std::ops::ControlFlow::Continue(());
    let restored = kah_cluster::restore::restore(&stage.host, &request, &mut observer).await;
    assert!(
        matches!(
            restored,
            Err(kah_cluster::restore::RestoreError::Undecided(_))
        ),
        "{restored:?}"
    );
    let member = stage.host.registry.get("m1").unwrap();
    let evidence = kah_cluster::doctor::gather(&stage.host, &member, &stage.caller()).await;
    let found = kah_cluster::doctor::examine(&evidence);
    assert_eq!(found[0].code, kah_cluster::AccessCode::TrustUndecided);
    assert!(stage.members[1].told().await.is_none());
    assert_eq!(shown(&stage.members[1]), Vec::<String>::new());
    // One that cannot be asked is waited for.
    let (trust, marked, ..) = told("m0").await;
    assert_eq!((trust, marked), (Trust::SharedSecret, true));
    stage.members[0].away.store(false, Ordering::SeqCst);
    eventually("m0 is federated and lets people in", async || {
        let (trust, marked, reason, _) = told("m0").await;
        (trust, marked, reason.as_str()) == (Trust::Federated, false, "Accepted")
    })
    .await;
    assert_eq!(status(&stage, "m0").await, 200);
    eventually("it is told", async || {
        events(&stage, "m0")
            .await
            .contains(&"TrustFederated".to_owned())
    })
    .await;
    // All that it ever saw was signed for it alone.
    for token in shown(&stage.members[0]) {
        let head = token
            .strip_prefix("Bearer ")
            .and_then(|token| token.split('.').next());
        let head = base64::Engine::decode(
            &base64::engine::general_purpose::URL_SAFE_NO_PAD,
            head.unwrap(),
        );
        let head = String::from_utf8(head.unwrap()).unwrap();
        assert!(head.contains("EdDSA"), "{head}");
    }
    // Nobody asked for it.
    eventually("m2 refuses", async || {
        let (trust, marked, reason, _) = told("m2").await;
        (trust, marked, reason.as_str()) == (Trust::SharedSecret, false, "SignatureInvalid")
    })
    .await;
    // At an administrator's word the other shares the secret.
    stage.move_to("m1", Trust::SharedSecret).await.unwrap();
    eventually("m1 lets people in", async || {
        let (_, marked, reason, _) = told("m1").await;
        !marked && reason == "Accepted"
    })
    .await;
    assert_eq!(status(&stage, "m1").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_who_move_a_marked_member_have_decided() {
    let stage = Stage::new(&[SECRET]).await;
    let mark = json!({"metadata": {"annotations": {WANTED: "federated"}}});
    for trust in [Trust::SharedSecret, Trust::Federated] {
        clusters(&stage.plane)
            .patch("m0", &PatchParams::default(), &Patch::Merge(&mark))
            .await
            .unwrap();
        stage.move_to("m0", trust).await.unwrap();
        let cluster = of_cluster(&stage, "m0").await;
        assert_eq!(cluster.spec.trust, trust);
        let annotations = cluster.metadata.annotations.unwrap_or_default();
        assert!(!annotations.contains_key(WANTED), "{annotations:?}");
    }
}
