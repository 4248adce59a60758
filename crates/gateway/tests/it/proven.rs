//! What a host does with what only it can prove, and for whoever comes without any proof.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::body::Body;
use http::Request;
use kah_api::{config::Configuration, time::GoDuration};
use kah_cluster::proof::Prover;
use kah_iam::{SystemClock, TokenType, Tokens};

use crate::{identity::BASIC, room::Room};

const SECRET: &str = "secret of the host";

fn prover() -> Prover {
    let text = format!("authentication:\n  jwtSecret: \"{SECRET}\"\n");
    let configuration = Configuration::read(&text, &BTreeMap::new()).unwrap();
    Prover::new(
        &configuration,
        Arc::default(),
        Arc::default(),
        Arc::new(SystemClock::default()),
    )
}

#[tokio::test]
async fn a_password_is_never_sent_on() {
    let headers = [("authorization", BASIC)];
    let pods = "/clusters/m1/api/v1/pods";
    // The member knows a token of the host for the same user.
    let room = Room::host_that_proves(prover()).await;
    let answer = room.ask("GET", pods, &headers, "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let sent = room.member.last().headers["authorization"].clone();
    let token = sent.to_str().unwrap().strip_prefix("Bearer ").unwrap();
    let configuration = Configuration::read(
        &format!("authentication:\n  jwtSecret: \"{SECRET}\"\n"),
        &BTreeMap::new(),
    );
    let tokens = Tokens::new(
        &configuration.unwrap().authentication.jwt_secret,
        "",
        false,
        GoDuration::from_secs(10),
        Arc::new(SystemClock::default()),
    );
    let claims = tokens.verify(token, &[TokenType::Access]).unwrap();
    assert_eq!(claims.username, "admin");
    assert!(claims.exp.unwrap() - claims.iat.unwrap() <= 300);

    // Where the host can sign none the caller is told so, and nothing is sent.
    let unable = Prover::without_key(
        Arc::default(),
        Arc::default(),
        Arc::new(SystemClock::default()),
    );
    for room in [Room::host().await, Room::host_that_proves(unable).await] {
        let answer = room.ask("GET", pods, &headers, "").await;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.body.contains("log in for a token"), "{answer:?}");
        assert_eq!(room.member.count(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn slow_bodies_keep_nobody_from_enrolling() {
    let room = Arc::new(Room::host_that_proves(prover()).await);
    let enrol = |body: Body| {
        Request::builder()
            .method("POST")
            .uri("/kapis/hub.kubeaihub.io/v1/enrol")
            .body(body)
            .unwrap()
    };
    let began = tokio::time::Instant::now();
    let slow: Vec<_> = (0..40)
        .map(|_| {
            let first = futures::stream::iter([Ok::<_, std::io::Error>("{")]);
            let body = futures::StreamExt::chain(first, futures::stream::pending());
            let (room, request) = (room.clone(), enrol(Body::from_stream(body)));
            tokio::spawn(async move { room.gateway.serve(request).await.status() })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // It is heard: its token is one that nobody made.
    let facts = r#"{"uid":"u","kubernetesVersion":"v1.36.2","clusterRole":"member"}"#;
    let body = format!(r#"{{"token":"t","csr":"","facts":{facts}}}"#);
    let answer = room.gateway.serve(enrol(Body::from(body))).await;
    assert_eq!(answer.status(), 404);
    for slow in slow {
        assert_eq!(slow.await.unwrap(), 408);
    }
    assert_eq!(began.elapsed(), Duration::from_secs(5));
}
