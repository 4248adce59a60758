//! Both servers of a member, through tunnels that come and go.

use std::{sync::Mutex, time::Duration};

use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use kah_cluster::{AccessCode, Route, fault_of, tunnel::TunnelLimits};
use kah_net::Kind;
use kube::api::{Api, ListParams};

use tokio_util::sync::CancellationToken;

use super::{Front, InMemory, Replica, agent, authority, dialled, held, now, settings, start};
use crate::{
    get, hop,
    member::{Member, Reply, answer, stream},
    until,
};

#[tokio::test]
async fn requests_reach_both_servers_each_with_the_right_identity() {
    let ks = Member::start(None, |_| answer(200, "application/json", "{}"))
        .await
        .unwrap();
    let kube = Member::start(None, |_| {
        answer(
            200,
            "application/json",
            r#"{"kind": "NamespaceList", "apiVersion": "v1", "metadata": {}, "items": []}"#,
        )
    })
    .await
    .unwrap();
    let (authority, front) = (authority(), Front::new().await);
    let replica = Replica::new(TunnelLimits::default(), vec![dialled("m", "1")]);
    let replica = front.answers(replica.serving(&authority));
    let _agent = agent(&front, &authority, ("m", "1"), &ks, &kube, 2);
    held(&replica, "1", 2).await;

    let member = replica.registry.get("m").unwrap();
    assert!(matches!(member.route(), Ok(Route::Tunnel(_))));
    let answered = member
        .forward(get(), hop("/kapis/x/v1/things?limit=1"))
        .await
        .unwrap();
    assert_eq!(answered.status(), 200);
    let seen = ks.seen().pop().unwrap();
    assert_eq!(seen.target, "/kapis/x/v1/things?limit=1");
    assert_eq!(seen.header("authorization"), "Bearer caller");
    assert_eq!(seen.header("x-forwarded-for"), "10.0.0.9");
    assert_eq!(seen.header("host"), "ks-apiserver.kubesphere-system.svc");

    // The host holds nothing that opens the kube-apiserver: the agent's account does, and whatever else is claimed stays behind.
    let client = member.kubernetes().unwrap();
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    namespaces.list(&ListParams::default()).await.unwrap();
    let mut forged = http::Request::new(Vec::new());
    *forged.uri_mut() = "/api/v1/namespaces".parse().unwrap();
    for (name, value) in [
        ("authorization", "Bearer hosts"),
        ("impersonate-user", "system:admin"),
        ("x-remote-user", "admin"),
    ] {
        forged
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    client.request_text(forged).await.unwrap();
    let seen = kube.seen();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert!(seen.target.starts_with("/api/v1/namespaces"));
        assert_eq!(seen.header("authorization"), "Bearer agents-account");
        assert_eq!(seen.header("impersonate-user"), "");
        assert_eq!(seen.header("x-remote-user"), "");
    }
    assert_eq!(ks.seen().len(), 1);
}

#[tokio::test]
async fn without_a_tunnel_the_answer_says_that_the_agent_is_not_connected() {
    let replica = Replica::new(TunnelLimits::default(), vec![dialled("m", "1")]);
    let member = replica.registry.get("m").unwrap();
    let error = member.forward(get(), hop("/x")).await.unwrap_err();
    assert_eq!(error.code(), Some(AccessCode::MemberUnreachable));
    assert_eq!(error.status(), StatusCode::BAD_GATEWAY);
    let words = "the cluster's agent is not connected to this host";
    assert!(error.evidence().ends_with(words), "{}", error.evidence());
    let error = member.kubernetes().unwrap().apiserver_version().await;
    assert_eq!(fault_of(&error.unwrap_err()), Some(Kind::Unreachable));
}

#[tokio::test]
async fn a_server_that_is_down_behind_the_agent_is_named() {
    let kube = Member::start(None, |_| Reply::Hangup).await.unwrap();
    let ks = Member::start(None, |_| Reply::Hangup).await.unwrap();
    ks.kill().await;
    let (authority, front) = (authority(), Front::new().await);
    let replica = Replica::new(TunnelLimits::default(), vec![dialled("m", "1")]);
    let replica = front.answers(replica.serving(&authority));
    let _agent = agent(&front, &authority, ("m", "1"), &ks, &kube, 1);
    held(&replica, "1", 1).await;
    let member = replica.registry.get("m").unwrap();
    let error = member.forward(get(), hop("/x")).await.unwrap_err();
    assert_eq!(error.code(), Some(AccessCode::MemberUnreachable));
    let words = error.evidence();
    assert!(
        words.contains("the agent cannot reach ks-apiserver"),
        "{words}"
    );
}

/// An agent that has no names of Services asks its kube-apiserver for a Pod that is ready.
#[tokio::test]
async fn without_names_of_services_a_ready_pod_is_reached() {
    let ks = Member::start(None, |_| answer(200, "text/plain", "here"))
        .await
        .unwrap();
    let pod = |ready: &str, port: u16| {
        serde_json::json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": port}]}]},
            "status": {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": ready}]},
        })
    };
    let list = serde_json::json!({
        "kind": "PodList", "apiVersion": "v1", "metadata": {},
        "items": [pod("False", 1), pod("True", ks.address().port())],
    });
    let kube = Member::start(None, move |_| {
        answer(200, "application/json", list.to_string())
    })
    .await
    .unwrap();
    let (authority, front) = (authority(), Front::new().await);
    let replica = Replica::new(TunnelLimits::default(), vec![dialled("m", "1")]);
    let replica = front.answers(replica.serving(&authority));
    let stop = CancellationToken::new();
    let store = InMemory::issued(&authority, "m", "1", now());
    let ks_name = "http://ks-apiserver.invalid";
    let told = settings(
        &front.url,
        authority.pin(),
        &store,
        ks_name,
        &kube.url(),
        &stop,
    );
    let _agent = start(told, stop);
    held(&replica, "1", 1).await;
    let member = replica.registry.get("m").unwrap();
    let answered = member.forward(get(), hop("/x")).await.unwrap();
    assert_eq!(answered.status(), 200);
    let asked = kube.seen().pop().unwrap();
    assert!(asked.target.contains("/namespaces/kubesphere-system/pods?"));
    assert_eq!(asked.header("authorization"), "Bearer agents-account");
}

/// What one tunnel carries goes on when another ends, and later requests find those that are left.
#[tokio::test]
async fn tunnels_come_and_go_and_the_others_carry_on() {
    let (events, reply) = stream();
    let reply = Mutex::new(Some(reply));
    let ks = Member::start(None, move |seen| match seen.target.as_str() {
        "/watch" => reply.lock().unwrap().take().unwrap(),
        _ => answer(200, "text/plain", "here"),
    })
    .await
    .unwrap();
    let (authority, front) = (authority(), Front::new().await);
    let replica = Replica::new(TunnelLimits::default(), vec![dialled("m", "1")]);
    let replica = front.answers(replica.serving(&authority));
    let first = agent(&front, &authority, ("m", "1"), &ks, &ks, 1);
    held(&replica, "1", 1).await;
    let member = replica.registry.get("m").unwrap();
    let mut watch = member
        .forward(get(), hop("/watch"))
        .await
        .unwrap()
        .into_body();
    events.send(Ok("one".into())).await.unwrap();
    assert!(watch.frame().await.unwrap().is_ok());

    let second = agent(&front, &authority, ("m", "1"), &ks, &ks, 1);
    held(&replica, "1", 2).await;
    drop(second);
    held(&replica, "1", 1).await;
    events.send(Ok("two".into())).await.unwrap();
    assert!(watch.frame().await.unwrap().is_ok());
    member.forward(get(), hop("/x")).await.unwrap();

    let _third = agent(&front, &authority, ("m", "1"), &ks, &ks, 1);
    held(&replica, "1", 2).await;
    drop(first);
    // Cut in the middle: an error, not an end.
    let frame = tokio::time::timeout(Duration::from_secs(10), watch.frame());
    assert!(frame.await.unwrap().unwrap().is_err());
    held(&replica, "1", 1).await;
    let answered = member.forward(get(), hop("/x")).await.unwrap();
    assert_eq!(answered.status(), 200);
}

/// A hub that starts anew has all its agents back soon, and none of them needs to be told.
#[tokio::test]
async fn two_hundred_agents_come_back_after_a_restart() {
    let ks = Member::start(None, |_| answer(200, "text/plain", "here"))
        .await
        .unwrap();
    let (authority, front) = (authority(), Front::new().await);
    let all = 200;
    let clusters = || {
        (0..all)
            .map(|number| dialled(&format!("m{number}"), &format!("uid-{number}")))
            .collect()
    };
    let life = || Replica::new(TunnelLimits::default(), clusters()).serving(&authority);
    let replica = front.answers(life());
    let agents: Vec<_> = (0..all)
        .map(|number| {
            let (name, uid) = (format!("m{number}"), format!("uid-{number}"));
            agent(&front, &authority, (&name, &uid), &ks, &ks, 1)
        })
        .collect();
    let there = async |replica: &Replica, since: std::time::Instant| {
        while replica.tunnels().count() < all {
            assert!(
                since.elapsed() < Duration::from_secs(30),
                "only {} are back",
                replica.tunnels().count()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    there(&replica, std::time::Instant::now()).await;
    front.nobody_answers();
    // All of them have found out, and tried at least once more.
    let before = front.dialled();
    until("agents try", || front.dialled() >= before + all).await;
    let replica = front.answers(life());
    there(&replica, std::time::Instant::now()).await;
    assert_eq!(replica.tunnels().counters().busy(), 0);
    let member = replica.registry.get("m77").unwrap();
    member.forward(get(), hop("/x")).await.unwrap();
    drop(agents);
}

/// Agents join and leave at random while others ask; every answer is that of the member that was asked, for the question that was asked.
#[tokio::test]
async fn t5_a_request_never_leaves_through_the_tunnel_of_another() {
    const MEMBERS: usize = 4;
    const ANSWERS: usize = 25;
    let (authority, front) = (authority(), Front::new().await);
    let clusters = (0..MEMBERS)
        .map(|number| dialled(&format!("m{number}"), &format!("uid-{number}")))
        .collect();
    let replica = Replica::new(TunnelLimits::default(), clusters);
    let replica = front.answers(replica.serving(&authority));
    let mut servers = Vec::new();
    for number in 0..MEMBERS {
        let server = Member::start(None, move |seen| {
            answer(200, "text/plain", format!("m{number} {}", seen.target))
        });
        servers.push(server.await.unwrap());
    }
    let join = |number: usize| {
        let (name, uid) = (format!("m{number}"), format!("uid-{number}"));
        let server = &servers[number];
        agent(&front, &authority, (&name, &uid), server, server, 1)
    };
    let mut agents: Vec<_> = (0..MEMBERS).map(|number| Some(join(number))).collect();
    for number in 0..MEMBERS {
        held(&replica, &format!("uid-{number}"), 1).await;
    }
    let asking = futures::future::join_all((0..8).map(|worker| {
        let registry = replica.registry.clone();
        async move {
            let (mut answered, mut refused) = (0, 0);
            while answered < ANSWERS {
                let number = rand::random_range(0..MEMBERS);
                let nonce = format!("/nonce/{worker}-{:x}", rand::random::<u64>());
                let member = registry.get(&format!("m{number}")).unwrap();
                // Its agent may have left; then there is no answer, and never another's.
                match member.forward(get(), hop(&nonce)).await {
                    Ok(response) => {
                        if let Ok(body) = response.into_body().collect().await {
                            assert_eq!(body.to_bytes(), format!("m{number} {nonce}"));
                            answered += 1;
                        }
                    }
                    Err(error) => {
                        assert_eq!(error.code(), Some(AccessCode::MemberUnreachable));
                        refused += 1;
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            }
            refused
        }
    }));
    let changing = async {
        loop {
            let number = rand::random_range(0..MEMBERS);
            agents[number] = match agents[number].take() {
                Some(_leaves) => None,
                None => Some(join(number)),
            };
            let pause = rand::random_range(5..30);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    };
    let refused: usize = tokio::select! {
        refused = tokio::time::timeout(Duration::from_secs(60), asking) => {
            refused.unwrap().into_iter().sum()
        }
        () = changing => unreachable!(),
    };
    // Some met a member whose agent had left: the changes did come in between.
    assert!(refused > 0);
}
