//! Access is restored without anybody asking, and what was begun is ended.

use kah_cluster::restore::{self, State, Step};
use kah_controllers::auto_restore;
use kah_testkit::eventually;
use serde_json::{Value, json};

use crate::stage::{Does, SOON, Stage};

async fn annotation(stage: &Stage, name: &str, key: &str) -> Option<Value> {
    let cluster = stage.cluster(name).await;
    let annotations = cluster.metadata.annotations?;
    serde_json::from_str(annotations.get(key)?).ok()
}

#[tokio::test]
async fn a_member_whose_cluster_asks_for_it_is_restored_and_no_other() {
    let mut stage = Stage::new().await;
    let auto = stage
        .join_whole("auto", Does::Refuses, "2h", json!({"autoRestore": true}))
        .await;
    let other = stage
        .join_whole("other", Does::Refuses, "2h", json!({}))
        .await;
    stage.obey("auto", auto);
    stage.obey("other", other);
    stage.run();
    stage
        .becomes("other", "HostAccess", "False/TokenNotInCache")
        .await;
    eventually(SOON, "a try is written down", async || {
        annotation(&stage, "auto", auto_restore::ANNOTATION)
            .await
            .is_some()
    })
    .await
    .unwrap();
    stage.becomes("auto", "HostAccess", "True/Accepted").await;
    let tries = annotation(&stage, "auto", auto_restore::ANNOTATION)
        .await
        .unwrap();
    assert_eq!(tries["tries"].as_array().unwrap().len(), 1, "{tries}");
    let state = annotation(&stage, "auto", restore::ANNOTATION)
        .await
        .unwrap();
    assert_eq!(
        (&state["by"], &state["step"]),
        (&json!("controller"), &json!("Restored"))
    );
    eventually(SOON, "each try has its Events", async || {
        let events = stage.events("auto").await;
        let count = |reason: &str| events.iter().filter(|it| *it == reason).count();
        count("RestoringAccess") == 1 && count("AccessRestored") == 1 && count("Accepted") == 1
    })
    .await
    .unwrap();
    let line = "kubeaihub_member_restores_total{cluster=\"auto\",outcome=\"Restored\"} 1";
    assert!(
        stage.metrics.text().contains(line),
        "{}",
        stage.metrics.text()
    );

    assert_eq!(
        stage.told("other", "HostAccess").await,
        "False/TokenNotInCache"
    );
    assert_eq!(annotation(&stage, "other", restore::ANNOTATION).await, None);
    assert_eq!(stage.events("other").await, ["TokenNotInCache"]);
    // It is asked for now.
    stage
        .patch("other", json!({"spec": {"autoRestore": true}}))
        .await;
    stage.becomes("other", "HostAccess", "True/Accepted").await;
    stage.end().await;
}

#[tokio::test]
async fn what_another_process_left_is_ended() {
    let mut stage = Stage::new().await;
    let member = stage.join_whole("m", Does::Refuses, "2h", json!({})).await;
    stage.obey("m", member);
    let now = stage.host.clock.now();
    let left = State {
        id: "left".into(),
        by: "somebody".into(),
        holder: "gone".into(),
        renewed: now - jiff::SignedDuration::from_secs(60),
        step: Step::Planned,
        restart: now,
        keys: vec!["authentication.oauthOptions.accessTokenMaxAge".into()],
        scaled: false,
        user: None,
        restarted: false,
        trust: None,
    };
    let text = serde_json::to_string(&left).unwrap();
    let annotations = json!({"metadata": {"annotations": {restore::ANNOTATION: text}}});
    stage.patch("m", annotations).await;
    stage.run();
    eventually(SOON, "it is ended", async || {
        let state = annotation(&stage, "m", restore::ANNOTATION).await;
        state.is_some_and(|state| state["step"] == "Restored" && state["by"] == "somebody")
    })
    .await
    .unwrap();
    stage.becomes("m", "HostAccess", "True/Accepted").await;
    eventually(SOON, "its Event", async || {
        stage
            .events("m")
            .await
            .contains(&"AccessRestored".to_owned())
    })
    .await
    .unwrap();
    assert_eq!(
        annotation(&stage, "m", auto_restore::ANNOTATION).await,
        None
    );
    stage.end().await;
}
