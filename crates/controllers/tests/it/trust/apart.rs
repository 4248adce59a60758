//! Members that belong to another host, that do not follow, or that cannot be reached when the host's keys are to be taken from them.

use std::collections::BTreeMap;

use kah_cluster::trust::Over;
use kah_testkit::member;

use super::*;

/// What another host would have told this member.
pub async fn claimed_by_another(stage: &Stage, member: usize) -> BTreeMap<String, String> {
    let client = stage.members[member].plane.client();
    let spaces: Api<Namespace> = Api::all(client.clone());
    let uid = spaces
        .get("kube-system")
        .await
        .unwrap()
        .metadata
        .uid
        .unwrap();
    let keys = kah_iam::SigningKeys::first(stage.host.clock.now()).unwrap();
    let trusted = keys.trusted("kubeaihub:another", &uid);
    kah_cluster::trust::publish(&client, &trusted, Over::Any)
        .await
        .unwrap();
    trusted.to_data()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_host_told_a_member_is_peoples_to_take_away() {
    let stage = Stage::new(&[SECRET, "b"]).await;
    let theirs = claimed_by_another(&stage, 0).await;
    let error = stage.move_to("m0", Trust::Federated).await.unwrap_err();
    assert!(
        matches!(&error, TrustError::Foreign(of) if of == "kubeaihub:another"),
        "{error}"
    );
    let words = error.to_string();
    assert!(
        words.contains("-n kubesphere-system delete configmap hub-trust"),
        "{words}"
    );
    assert_eq!(stage.members[0].told().await.unwrap().data, Some(theirs));
    assert_eq!(status(&stage, "m0").await, 200);
    // As the words say.
    let maps: Api<ConfigMap> = Api::namespaced(stage.members[0].plane.client(), seed::NAMESPACE);
    maps.delete("hub-trust", &DeleteParams::default())
        .await
        .unwrap();
    for cluster in ["m0", "m1"] {
        stage.move_to(cluster, Trust::Federated).await.unwrap();
    }
    // The other host takes it over: neither a restore nor the reconciler takes it back, and it holds up no rotation.
    let theirs = claimed_by_another(&stage, 0).await;
    eventually("the member refuses", async || {
        status(&stage, "m0").await == 401
    })
    .await;
    for dry_run in [true, false] {
        let request = kah_cluster::restore::Request {
            dry_run,
            ..kah_cluster::restore::Request::new("m0", "controller", stage.caller())
        };
        let mut observer = |_: &_| std::ops::ControlFlow::Continue(());
        let error = kah_cluster::restore::restore(&stage.host, &request, &mut observer)
            .await
            .unwrap_err();
        let words = error.to_string();
        assert!(
            words.contains("trusts another host, kubeaihub:another"),
            "{words}"
        );
    }
    reconcile(&stage);
    let next = rotate(&stage.host, false).await.unwrap().next;
    until("the new key signs alone", || {
        let (_, keys) = stage.host.registry.signer().keys().unwrap();
        keys.records().len() == 1 && keys.records()[0].id == next
    })
    .await;
    assert_eq!(status(&stage, "m1").await, 200);
    assert_eq!(stage.members[0].told().await.unwrap().data, Some(theirs));
    let found = survey(&stage.host).await;
    assert_eq!(
        found[0].keys.told,
        Told::Foreign("kubeaihub:another".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_does_not_follow_is_left_behind_where_somebody_says_so() {
    let stage = Stage::new(&["a", "b"]).await;
    for cluster in ["m0", "m1"] {
        stage.move_to(cluster, Trust::Federated).await.unwrap();
    }
    // Its ks-apiserver leaves out whatever is new.
    let told = stage.members[1].told().await.unwrap().data.unwrap();
    let (_, keys) = stage.host.registry.signer().keys().unwrap();
    let offer = json!({
        "offers": ["federated"], "audience": told["audience"], "issuer": told["issuer"],
        "keys": [keys.records()[0].id],
    });
    let liar = member::Member::start(None, move |_| {
        member::answer(200, "application/json", offer.to_string())
    })
    .await
    .unwrap();
    ask_at(&stage, "m1", "kubesphereAPIEndpoint", &liar.url()).await;
    reconcile(&stage);
    let next = rotate(&stage.host, false).await.unwrap();
    assert_eq!(next.behind, None);
    let asked = liar.seen().len();
    until("it was waited for", || liar.seen().len() > asked + 10).await;
    assert_eq!(states(&stage), [KeyState::Active, KeyState::Next]);
    let again = rotate(&stage.host, false).await;
    assert!(matches!(again, Err(TrustError::Keys(KeysError::UnderWay))));

    let forced = rotate(&stage.host, true).await.unwrap();
    assert_eq!(forced.next, next.next);
    assert_eq!(forced.behind, Some(vec!["m1".to_owned()]));
    until("the new key signs alone", || {
        let (_, keys) = stage.host.registry.signer().keys().unwrap();
        keys.records().len() == 1 && keys.records()[0].id == next.next
    })
    .await;
    assert_eq!(status(&stage, "m0").await, 200);
}

/// Lets another address answer for a Cluster.
pub async fn ask_at(stage: &Stage, name: &str, field: &str, url: &str) {
    let before = stage.host.registry.get(name).unwrap();
    let patch = json!({"spec": {"connection": {field: url}}});
    clusters(&stage.plane)
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    until("it is asked there", || {
        let now = stage.host.registry.get(name);
        now.is_some_and(|now| !now.is_reached_as(&before))
    })
    .await;
}

pub async fn annotations(stage: &Stage, name: &str) -> BTreeMap<String, String> {
    let object = clusters(&stage.plane).get(name).await.unwrap();
    object.metadata.annotations.unwrap_or_default()
}

pub const CLAIM: &str = "hub.kubeaihub.io/trust-move";
pub const ENDS: &str = "hub.kubeaihub.io/trust-ends";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_cannot_be_taken_back_hold_up_no_move() {
    let stage = Stage::new(&[SECRET]).await;
    stage.move_to("m0", Trust::Federated).await.unwrap();
    stage.move_to("m0", Trust::SharedSecret).await.unwrap();
    let map = stage.members[0].told().await.unwrap();
    let kubernetes = format!("https://{}", stage.members[0].plane.address());
    stage.clock.0.fetch_add(200, Ordering::SeqCst);
    let withdraw = async || {
        let member = stage.host.registry.get("m0").unwrap();
        kah_cluster::trust::withdraw_ended(&stage.host, &member).await
    };
    // A kube-apiserver that tells what it holds, and lets nobody delete it.
    let map = serde_json::to_string(&map).unwrap();
    let stubborn = member::Member::start(None, move |seen: &member::Seen| {
        if seen.method == "GET" {
            member::answer(200, "application/json", map.clone())
        } else {
            member::status(500, "InternalError", "not now")
        }
    })
    .await
    .unwrap();
    for address in ["https://127.0.0.1:1", &stubborn.url()] {
        ask_at(&stage, "m0", "kubernetesAPIEndpoint", address).await;
        withdraw().await.unwrap_err();
        let left = annotations(&stage, "m0").await;
        assert!(
            left.contains_key(ENDS) && !left.contains_key(CLAIM),
            "{left:?}"
        );
    }
    assert!(stubborn.seen().iter().any(|seen| seen.method == "DELETE"));
    // Whoever takes the keys away now is waited for, and not told of.
    ask_at(&stage, "m0", "kubernetesAPIEndpoint", &kubernetes).await;
    let until = stage.host.clock.now() + SignedDuration::from_millis(500);
    let claim = json!({"to": "shared-secret", "by": "this host", "until": until.to_string()});
    let patch = json!({"metadata": {"annotations": {CLAIM: claim.to_string()}}});
    clusters(&stage.plane)
        .patch("m0", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    stage.move_to("m0", Trust::Federated).await.unwrap();
    let left = annotations(&stage, "m0").await;
    assert!(
        !left.contains_key(ENDS) && !left.contains_key(CLAIM),
        "{left:?}"
    );
    withdraw().await.unwrap();
    assert!(stage.members[0].told().await.is_some());
}
