//! Several replicas of a host: each reaches every member, whoever holds its tunnels.

use futures::FutureExt;
use k8s_openapi::api::coordination::v1::Lease;
use kah_api::seed;
use kah_cluster::{
    AccessCode,
    tunnel::{Link, TunnelLimits},
};
use kah_localkube::{Cluster, Options};
use kube::Api;

use super::{Front, Replica, agent, authority, clock, dialled, held};
use crate::{
    get, hop,
    member::{Member, answer},
    until,
};

async fn plane() -> Cluster {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut options = Options::new("plane");
    options.controllers = false;
    options.objects = vec![serde_json::json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": seed::NAMESPACE},
    })];
    Cluster::start(options).await.unwrap()
}

/// Runs everything that a process of a host does for tunnels, over what is stored.
fn run(replica: &Replica, plane: &Cluster, name: &str, address: Option<&str>) {
    let tunnels = replica.tunnels().clone();
    let (client, name) = (plane.client(), name.to_owned());
    let address = address.map(str::to_owned);
    tokio::spawn(async move { tunnels.run(client, clock(), name, address).await });
}

#[tokio::test]
async fn a_tunnel_with_one_replica_serves_all_of_them() {
    let plane = plane().await;
    let ks = Member::start(None, |_| answer(200, "application/json", "{}"))
        .await
        .unwrap();
    let clusters = || vec![dialled("m", "uid-1"), dialled("n", "uid-2")];
    let replica = || Replica::new(TunnelLimits::default(), clusters());
    let (front_a, front_b) = (Front::new().await, Front::new().await);
    let a = front_a.answers(replica());
    let b = front_b.answers(replica());
    // One that holds none, as a controller-manager.
    let asking = replica();
    // Replicas that did not end in order: one a while ago, and one just now, whose address swallows everything.
    let leases: Api<Lease> = Api::namespaced(plane.client(), seed::NAMESPACE);
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    for (name, hours) in [("long-ago", 48), ("just-now", 0)] {
        let renewed = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours);
        let lease = serde_json::json!({
            "metadata": {"name": name, "labels": {"hub.kubeaihub.io/tunnels": "true"}, "annotations": {
                "hub.kubeaihub.io/address": format!("http://{}", silent.local_addr().unwrap()),
                "hub.kubeaihub.io/sessions": "uid-1=1000",
            }},
            "spec": {"holderIdentity": name, "renewTime": format!("{renewed:.6}")},
        });
        let lease = serde_json::from_value(lease).unwrap();
        leases.create(&Default::default(), &lease).await.unwrap();
    }
    run(&a, &plane, "a", Some(&front_a.url));
    run(&b, &plane, "b", Some(&front_b.url));
    run(&asking, &plane, "asking", None);
    until("both hold tunnels", || {
        a.tunnels().are_served() && b.tunnels().are_served()
    })
    .await;
    // All of them use the one authority that is stored.
    let authority = kah_cluster::tunnel::authority::TunnelAuthority::open(
        &plane.client(),
        jiff::Timestamp::now(),
    )
    .await
    .unwrap();
    assert_ne!(authority.pin(), self::authority().pin());
    let tunnel = agent(&front_b, &authority, ("m", "uid-1"), &ks, &ks, 1);
    held(&b, "uid-1", 1).await;
    for other in [&*a, &asking] {
        until("the Lease is seen", || {
            other.tunnels().link("uid-1") == Link::At("b".to_owned())
        })
        .await;
        let member = other.registry.get("m").unwrap();
        let answered = member.forward(get(), hop("/x")).await.unwrap();
        assert_eq!(answered.status(), 200);
        let left = member.certificate_ends().unwrap() - jiff::Timestamp::now();
        assert_eq!(
            left.total(jiff::Unit::Hour).unwrap().round() as i64,
            90 * 24
        );
        let unconnected = other.registry.get("n").unwrap();
        assert_eq!(unconnected.certificate_ends(), None);
        member
            .kubernetes()
            .unwrap()
            .request_text(http::Request::new(Vec::new()))
            .await
            .unwrap();
        // The other member has no tunnel anywhere.
        let other = other.registry.get("n").unwrap();
        let error = other.forward(get(), hop("/x")).await.unwrap_err();
        assert_eq!(error.code(), Some(AccessCode::MemberUnreachable));
        assert!(error.evidence().ends_with("is not connected to this host"));
    }
    assert_eq!(ks.seen().len(), 4);
    // One connection for each that asks.
    assert_eq!(b.tunnels().counters().accepted(), 3);
    assert!(silent.accept().now_or_never().is_none());
    assert!(leases.get_opt("long-ago").await.unwrap().is_none());
    assert!(leases.get_opt("just-now").await.unwrap().is_some());
    leases
        .delete("just-now", &Default::default())
        .await
        .unwrap();

    // The agent moves to the other replica: the one that asks follows.
    drop(tunnel);
    held(&b, "uid-1", 0).await;
    let _tunnel = agent(&front_a, &authority, ("m", "uid-1"), &ks, &ks, 1);
    held(&a, "uid-1", 1).await;
    until("the Lease is seen", || {
        asking.tunnels().link("uid-1") == Link::At("a".to_owned())
    })
    .await;
    let member = asking.registry.get("m").unwrap();
    member.forward(get(), hop("/x")).await.unwrap();

    // A replica that ends takes its Lease back.
    assert!(leases.get("ks-apiserver-tunnels-a").await.is_ok());
    front_a.nobody_answers();
    until("it is known", || {
        asking.tunnels().link("uid-1") == Link::Nowhere
    })
    .await;
    assert_eq!(
        leases.get_opt("ks-apiserver-tunnels-a").await.unwrap(),
        None
    );
}
