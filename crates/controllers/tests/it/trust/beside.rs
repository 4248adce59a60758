//! Moves side by side, opposite ones, and what is left by those that were cut off.

use kah_cluster::{
    restore::{self, RestoreError},
    trust::{Over, Request, keys, move_to, publish, pursue, withdraw_ended},
};
use kah_testkit::member;
use tokio::sync::mpsc;

use super::{
    apart::{CLAIM, ENDS, annotations, ask_at, claimed_by_another},
    *,
};

/// A move to federated trust by somebody whom the member does not know; it is given up after so long.
fn in_vain(stage: &Stage, accept: Duration) -> Request {
    let mut request = stage.request("m0", Trust::Federated);
    request.proof = kah_cluster::CallerCredential::User {
        name: "nobody".into(),
        authorization: "Bearer x".parse().unwrap(),
    };
    request.patience.accept = accept;
    request
}

/// Lets such a move go on beside what follows, from when the member has been told.
async fn begun(
    stage: &Stage,
    accept: Duration,
) -> tokio::task::JoinHandle<Result<kah_cluster::trust::Report, TrustError>> {
    let (host, request) = (stage.host.clone(), in_vain(stage, accept));
    let moved = tokio::spawn(async move { move_to(&host, &request).await });
    eventually("the member is told", async || {
        stage.members[0].told().await.is_some()
    })
    .await;
    moved
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_fails_takes_nothing_from_one_that_succeeded() {
    let stage = Stage::new(&["own secret of m0"]).await;
    let fails = begun(&stage, Duration::from_secs(2)).await;
    let moved = stage.move_to("m0", Trust::Federated).await.unwrap();
    assert!(moved.moved && !fails.is_finished());
    let failed = fails.await.unwrap().unwrap_err();
    assert!(matches!(failed, TrustError::NotAccepted { .. }), "{failed}");
    assert!(stage.members[0].told().await.is_some());
    assert_eq!(status(&stage, "m0").await, 200);
    assert_eq!(annotations(&stage, "m0").await, Default::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_fails_takes_nothing_from_one_that_goes_on() {
    let stage = Stage::new(&["own secret of m0"]).await;
    let fails = begun(&stage, Duration::from_secs(1)).await;
    let until = stage.host.clock.now() + SignedDuration::from_secs(30);
    let claim = json!({"to": "federated", "by": "bob", "until": until.to_string(), "nonce": "n"});
    let claim = claim.to_string();
    let patch = json!({"metadata": {"annotations": {CLAIM: claim}}});
    clusters(&stage.plane)
        .patch("m0", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    fails.await.unwrap().unwrap_err();
    assert!(stage.members[0].told().await.is_some());
    let left = annotations(&stage, "m0").await;
    assert_eq!(left.get(CLAIM), Some(&claim));
    // Where that one comes to nothing, too, the Cluster says when the keys are taken away.
    assert!(left.contains_key(ENDS), "{left:?}");
    // One that is alone leaves nothing.
    stage.clock.0.fetch_add(60, Ordering::SeqCst);
    let request = in_vain(&stage, Duration::from_millis(100));
    stage.move_to("m0", Trust::Federated).await.unwrap();
    stage.move_to("m0", Trust::SharedSecret).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(stage.members[0].plane.client(), seed::NAMESPACE);
    maps.delete("hub-trust", &DeleteParams::default())
        .await
        .unwrap();
    move_to(&stage.host, &request).await.unwrap_err();
    assert!(stage.members[0].told().await.is_none());
    assert!(!annotations(&stage, "m0").await.contains_key(CLAIM));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_move_that_was_cut_off_has_told_is_taken_away() {
    let stage = Stage::new(&["own secret of m0"]).await;
    let cut_off = begun(&stage, Duration::from_secs(30)).await;
    cut_off.abort();
    assert!(cut_off.await.unwrap_err().is_cancelled());
    assert!(stage.members[0].told().await.is_some());
    keys_go_in_time(&stage).await;
    eventually("the Cluster says nothing of it any more", async || {
        annotations(&stage, "m0").await.is_empty()
    })
    .await;
    assert_eq!(
        of_cluster(&stage, "m0").await.spec.trust,
        Trust::SharedSecret
    );
    // In time it is finished by the next one, and nothing is taken away.
    let cut_off = begun(&stage, Duration::from_secs(30)).await;
    cut_off.abort();
    cut_off.await.unwrap_err();
    stage.move_to("m0", Trust::Federated).await.unwrap();
    let member = stage.host.registry.get("m0").unwrap();
    stage.clock.0.fetch_add(200, Ordering::SeqCst);
    withdraw_ended(&stage.host, &member).await.unwrap();
    assert!(stage.members[0].told().await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opposite_moves_exclude_each_other_also_where_the_trust_is_in_force() {
    let stage = Stage::new(&["own secret of m0"]).await;
    let mark = json!({"metadata": {"annotations": {WANTED: "federated"}}});
    let set_mark = async || {
        clusters(&stage.plane)
            .patch("m0", &PatchParams::default(), &Patch::Merge(&mark))
            .await
            .unwrap()
    };
    set_mark().await;
    let undecided = || {
        let member = stage.host.registry.get("m0");
        member.is_some_and(|member| member.is_undecided())
    };
    until("the mark is known", undecided).await;
    let maps: Api<ConfigMap> = Api::namespaced(stage.members[0].plane.client(), seed::NAMESPACE);
    let before = maps.get(seed::CONFIG).await.unwrap().data;
    let there = begun(&stage, Duration::from_secs(3)).await;
    let busy = stage.move_to("m0", Trust::SharedSecret).await.unwrap_err();
    assert!(
        matches!(&busy, TrustError::Busy { by, to: Trust::Federated } if by == "alice"),
        "{busy}"
    );
    assert!(annotations(&stage, "m0").await.contains_key(WANTED));
    there.await.unwrap().unwrap_err();
    assert_eq!(maps.get(seed::CONFIG).await.unwrap().data, before);

    // The other way round: while it is made to share the secret nobody makes it federated, nor afterwards by itself.
    stage.members[0].away.store(true, Ordering::SeqCst);
    let (host, request) = (stage.host.clone(), stage.request("m0", Trust::SharedSecret));
    let back = tokio::spawn(async move { move_to(&host, &request).await });
    eventually("it is claimed", async || {
        annotations(&stage, "m0").await.contains_key(CLAIM)
    })
    .await;
    let busy = stage.move_to("m0", Trust::Federated).await.unwrap_err();
    assert!(
        matches!(
            busy,
            TrustError::Busy {
                to: Trust::SharedSecret,
                ..
            }
        ),
        "{busy}"
    );
    stage.members[0].away.store(false, Ordering::SeqCst);
    back.await.unwrap().unwrap();
    assert!(!annotations(&stage, "m0").await.contains_key(CLAIM));
    let decided = pursue(&stage.host, "m0", "controller").await.unwrap_err();
    assert!(matches!(decided, TrustError::Decided(_)), "{decided}");
    assert_eq!(status(&stage, "m0").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_was_cut_off_during_a_move_is_ended_for_the_trust_it_was_begun_for() {
    let stage = Stage::new(&["own secret of m0"]).await;
    let maps: Api<ConfigMap> = Api::namespaced(stage.members[0].plane.client(), seed::NAMESPACE);
    let text = async || maps.get(seed::CONFIG).await.unwrap().data.unwrap();
    stage.move_to("m0", Trust::Federated).await.unwrap();
    let before = text().await;
    let away = |is| stage.members[0].away.store(is, Ordering::SeqCst);
    let request = restore::Request {
        patience: restore::Patience {
            live: Duration::from_millis(500),
            restarted: Duration::from_millis(300),
            look: Duration::from_millis(10),
            stale: Duration::from_millis(200),
        },
        ..restore::Request::new("m0", "controller", stage.caller())
    };
    for comes_back in [false, true] {
        away(true);
        let (host, asked) = (stage.host.clone(), stage.request("m0", Trust::SharedSecret));
        let cut_off = tokio::spawn(async move { move_to(&host, &asked).await });
        eventually("the configuration is changed", async || {
            let left = annotations(&stage, "m0").await;
            left.get(restore::ANNOTATION)
                .is_some_and(|state| state.contains("\"Changed\""))
        })
        .await;
        cut_off.abort();
        assert!(cut_off.await.unwrap_err().is_cancelled());
        assert_ne!(text().await, before);
        if comes_back {
            away(false);
        }
        let seen = stage.members[0].server.seen().len();
        let mut observer = |_: &_| std::ops::ControlFlow::Continue(());
        let ended = restore::restore(&stage.host, &request, &mut observer).await;
        if comes_back {
            // It was proven by what it was done for.
            let report = ended.unwrap();
            assert!(report.resumed, "{report:?}");
            let shown = format!("Bearer {}", stage.token);
            let seen = stage.members[0].server.seen().split_off(seen);
            assert!(seen.iter().any(|it| it.header("authorization") == shown));
        } else {
            let error = ended.unwrap_err();
            assert!(matches!(error, RestoreError::NotProven { .. }), "{error}");
            assert_eq!(text().await, before);
        }
    }
    // Done again it ends well, also over what a restore for the trust in force has left.
    assert_eq!(status(&stage, "m0").await, 200);
    let state = annotations(&stage, "m0").await[restore::ANNOTATION].clone();
    let state = state
        .replace("\"Restored\"", "\"Changed\"")
        .replace("\"trust\":\"shared-secret\"", "\"trust\":null");
    assert!(state.contains("\"trust\":null"), "{state}");
    let patch = json!({"metadata": {"annotations": {restore::ANNOTATION: state}}});
    clusters(&stage.plane)
        .patch("m0", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    let mut data = text().await;
    data.insert("kubesphere.yaml".into(), before["kubesphere.yaml"].clone());
    maps.patch(
        seed::CONFIG,
        &PatchParams::default(),
        &Patch::Merge(json!({"data": data})),
    )
    .await
    .unwrap();
    let held = async || {
        let text = &text().await["kubesphere.yaml"];
        text.contains(SECRET)
    };
    assert!(!held().await);
    eventually("the member knows its own secret alone", async || {
        straight(&stage.members[0].server.url(), &stage.token)
            .await
            .0
            == 401
    })
    .await;
    let mut asked = stage.request("m0", Trust::SharedSecret);
    asked.patience.restore = request.patience;
    let moved = move_to(&stage.host, &asked).await.unwrap();
    assert!(moved.moved && held().await);
    assert_eq!(status(&stage, "m0").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_host_had_told_is_kept_until_the_member_is_ours() {
    let stage = Stage::new(&["own secret of m0"]).await;
    let theirs = claimed_by_another(&stage, 0).await;
    keys::signing(&stage.host).await.unwrap();
    // A join with --force whose process was killed before there was a Cluster.
    let client = stage.members[0].plane.client();
    let spaces: Api<Namespace> = Api::all(client.clone());
    let uid = spaces.get("kube-system").await.unwrap().metadata.uid;
    let ours = stage.host.registry.signer().trusted(&uid.unwrap()).unwrap();
    publish(&client, &ours, Over::Any).await.unwrap();
    let told = async || stage.members[0].told().await.unwrap();
    // Whoever fails then puts back what was there before both.
    let request = in_vain(&stage, Duration::from_millis(100));
    move_to(&stage.host, &request).await.unwrap_err();
    assert_eq!(told().await.data, Some(theirs));
    assert_eq!(told().await.binary_data, None);

    publish(&client, &ours, Over::Any).await.unwrap();
    assert!(told().await.binary_data.is_some());
    stage.move_to("m0", Trust::Federated).await.unwrap();
    assert_eq!(told().await.binary_data, None);
    // The reconciler does it where a join was killed after there was one.
    claimed_by_another(&stage, 0).await;
    publish(&client, &ours, Over::Any).await.unwrap();
    reconcile(&stage);
    eventually("it is settled", async || {
        let told = told().await;
        told.data == Some(ours.to_data()) && told.binary_data.is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_made_during_a_look_signs_after_members_were_told() {
    let stage = Stage::new(&["a"]).await;
    stage.move_to("m0", Trust::Federated).await.unwrap();
    // It stops each look until it is let go.
    let (asks, mut asked) = mpsc::unbounded_channel();
    let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
    let goes_on = std::sync::Mutex::new(goes_on);
    let slow = member::Member::start(None, move |seen: &member::Seen| {
        let first = seen.target.ends_with("/trust");
        tokio::task::block_in_place(|| {
            if first && asks.send(()).is_ok() {
                let _ = goes_on.lock().unwrap().recv_timeout(Duration::from_secs(3));
            }
        });
        member::status(403, "Forbidden", "no")
    })
    .await
    .unwrap();
    ask_at(&stage, "m0", "kubesphereAPIEndpoint", &slow.url()).await;
    let pace = Pace {
        settle: SignedDuration::ZERO,
        ..fast()
    };
    let run = kah_controllers::trust::run_at(stage.host.clone(), pace, stage.stop.clone());
    tokio::spawn(run);
    asked.recv().await.unwrap();
    // As `kah trust rotate --force` does.
    let now = stage.host.clock.now();
    let made = keys::change(&stage.host, |keys| {
        keys.make_next(now)?;
        keys.force()
    });
    let next = made.await.unwrap().records()[1].id.clone();
    go_on.send(()).unwrap();
    asked.recv().await.unwrap();
    assert_eq!(states(&stage), [KeyState::Active, KeyState::Next]);
    drop(go_on);
    drop(asked);
    until("the new key signs", || {
        states(&stage).contains(&KeyState::Retired)
    })
    .await;
    let told = stage.members[0].told().await.unwrap();
    assert!(told.data.unwrap()["keys"].contains(&next));
}
