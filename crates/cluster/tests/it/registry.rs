use std::sync::Arc;

use kah_cluster::{
    AccessCode, ForwardError, Readiness, Registry, Route,
    guard::AddressGuard,
    tunnel::{TunnelLimits, Tunnels},
};
use kah_iam::{Signer, SystemClock};
use kah_net::Limits;
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cluster, get, hop,
    member::{Member, Reply},
    proxied, registry, straight, until,
};

#[tokio::test]
async fn objects_become_members() {
    let registry = registry();
    let mut host = cluster("host", "1", json!({}));
    host.metadata.labels =
        Some([("cluster-role.kubesphere.io/host".to_owned(), String::new())].into());
    registry.replace(vec![
        host,
        cluster("b", "2", proxied("https://10.0.0.1")),
        cluster("c", "3", straight("http://10.0.0.2")),
    ]);
    assert!(registry.get("host").is_some_and(|member| member.is_host()));
    assert!(matches!(
        registry.get("b").expect("b").route(),
        Ok(Route::ServiceProxy(_))
    ));
    let c = registry.get("c").expect("c");
    assert!(
        matches!(c.route(), Ok(Route::Endpoint(upstream)) if upstream.name() == "http://10.0.0.2")
    );
    assert_eq!(
        (c.is_host(), c.uid(), c.readiness()),
        (false, "3", &Readiness::Ready)
    );
    registry.synced().await;
    // Only Ready=False speaks against a member; the last of several counts.
    let mut object = cluster("c", "3", straight("http://10.0.0.2"));
    for (status, ready) in [("Unknown", true), ("True", true), ("False", false)] {
        object.data["status"] = json!({ "conditions": [{ "type": "Ready", "status": status }] });
        registry.apply(&object);
        assert_eq!(
            registry.get("c").expect("c").readiness() == &Readiness::Ready,
            ready,
            "{status}"
        );
    }
    registry.delete(&cluster("c", "another", json!({})));
    assert!(registry.get("c").is_some());
    registry.delete(&object);
    assert!(registry.get("c").is_none());
    assert_eq!(
        registry
            .members()
            .iter()
            .map(|member| member.name())
            .collect::<Vec<_>>(),
        ["b", "host"]
    );
    registry.replace(vec![]);
    assert!(registry.members().is_empty());
}

#[tokio::test]
async fn t6_nothing_of_a_deleted_cluster_survives() {
    for again in ["recreated", "deleted", "relisted"] {
        let member = Member::start(None, |_| Reply::Stall).await.expect("member");
        let registry = registry();
        registry.replace(vec![cluster("a", "1", proxied(&member.url()))]);
        let old = registry.get("a").expect("a");
        let waiting = tokio::spawn({
            let old = old.clone();
            async move { old.forward(get(), hop("/x")).await.err() }
        });
        until("it arrives", || member.seen().len() == 1).await;
        match again {
            "recreated" => registry.apply(&cluster("a", "2", proxied(&member.url()))),
            "deleted" => registry.delete(&cluster("a", "1", json!({}))),
            _ => registry.replace(vec![cluster("a", "2", proxied(&member.url()))]),
        }
        let error = waiting.await.expect("task").expect("broken off");
        assert!(matches!(error, ForwardError::Proxy { .. }), "{error}");
        until("its connection is closed", || member.connections() == 0).await;
        let error = old.forward(get(), hop("/x")).await.expect_err("dead");
        assert!(matches!(error, ForwardError::Proxy { .. }), "{error}");
        assert_eq!(member.seen().len(), 1);
    }
}

#[tokio::test]
async fn another_connection_leaves_what_goes_on_alone() {
    let (sender, reply) = crate::member::stream();
    let reply = std::sync::Mutex::new(Some(reply));
    let first = Member::start(None, move |_| {
        reply.lock().expect("lock").take().unwrap_or(Reply::Hangup)
    })
    .await
    .expect("member");
    let second = Member::start(None, |_| Reply::Stall).await.expect("member");
    let registry = registry();
    registry.apply(&cluster("a", "1", straight(&first.url())));
    let answer = registry
        .get("a")
        .expect("a")
        .forward(get(), hop("/x"))
        .await
        .expect("answer");
    registry.apply(&cluster("a", "1", straight(&second.url())));
    sender
        .send(Ok("still here".into()))
        .await
        .expect("the old stream is open");
    drop(sender);
    let body = http_body_util::BodyExt::collect(answer.into_body())
        .await
        .expect("body")
        .to_bytes();
    assert_eq!(body, "still here");
    let new = registry.get("a").expect("a");
    let waiting = tokio::spawn(async move { new.forward(get(), hop("/x")).await.map(drop) });
    until("the new address is used", || second.seen().len() == 1).await;
    waiting.abort();
    until("the old connection is gone", || first.connections() == 0).await;
}

/// However a Cluster came to be written: what its names mean is judged at each connection.
#[tokio::test]
async fn s1_a_cluster_is_asked_only_at_addresses_that_are_allowed() {
    let member = Member::start(None, |_| Reply::Stall).await.expect("member");
    let named = member.url().replace("127.0.0.1", "localhost");
    let (guard, stop, tasks) = (
        AddressGuard::default(),
        CancellationToken::new(),
        TaskTracker::new(),
    );
    let tunnels = Tunnels::new(TunnelLimits::default(), stop.clone(), tasks.clone());
    let signer = Arc::new(Signer::new(Arc::new(SystemClock::default())));
    let limits = Limits::default();
    let registry = Registry::over(limits, Some(guard.clone()), tunnels, signer, stop, tasks);
    let connections = [
        straight(&member.url()),
        straight(&named),
        proxied(&member.url()),
        proxied(&named),
        json!({ "type": "proxy", "kubesphereAPIEndpoint": named }),
        straight("http://169.254.169.254"),
        straight("http://2130706433"),
        straight("http://[::ffff:169.254.169.254]"),
    ];
    for connection in connections {
        registry.replace(vec![cluster("a", "1", connection.clone())]);
        let found = registry.get("a").expect("a");
        let error = found.forward(get(), hop("/x")).await.expect_err("refused");
        assert_eq!(error.code(), Some(AccessCode::MemberUnreachable));
        assert_eq!(error.status(), 503, "{connection}");
        let words = kah_cluster::with_causes(&error);
        assert!(words.contains("hub.allowedAddresses"), "{words}");
        let client = found.kubernetes();
        if let Ok(client) = client {
            client.apiserver_version().await.expect_err("refused");
        }
    }
    assert_eq!(member.opened(), 0);

    // What the configuration allows from now on is asked from now on.
    registry.replace(vec![cluster("a", "1", straight(&named))]);
    guard.reload(&[
        "127.0.0.0/8".parse().expect("range"),
        "::1".parse().expect("address"),
    ]);
    let found = registry.get("a").expect("a");
    let asking = tokio::spawn(async move { found.forward(get(), hop("/x")).await.err() });
    until("it arrives", || member.seen().len() == 1).await;
    asking.abort();
}
