//! The websocket for agents, at the listener.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kah_cluster::{
    OwnKubernetes,
    agent::{self, Credentials, Settings, Store, Stored},
    retry::Retry,
    tunnel::{
        HubKeys, Link, PATH,
        authority::{AgentIdentity, TunnelAuthority, private_key, request_certificate},
    },
};
use kah_gateway::{ServerLimits, serve};
use kah_iam::clock::SystemClock;
use kah_net::{Address, Limits, tunnel::Proxies};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::room::Room;

/// An agent's credentials, as they are.
struct Fixed(Credentials);

impl Store for Fixed {
    fn load(&self) -> Stored<'_, Credentials> {
        Box::pin(async { Ok(self.0.clone()) })
    }

    fn save(&self, _: Credentials) -> Stored<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

pub fn dialled(name: &str, uid: &str) -> kube::core::DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster",
        "metadata": {"name": name, "uid": uid},
        "spec": {"connection": {"type": "proxy"}},
    }))
    .unwrap()
}

pub fn serve_tunnels(room: &Room) -> Arc<TunnelAuthority> {
    let authority = Arc::new(TunnelAuthority::in_memory(Timestamp::now()).unwrap());
    room.registry.tunnels().serve(HubKeys {
        authority: Arc::clone(&authority),
        clock: Arc::new(SystemClock::default()),
    });
    authority
}

/// Runs the agent of the cluster `far`, and waits for its tunnel.
pub async fn dial_in(
    room: &Room,
    authority: &TunnelAuthority,
    hub: &str,
    member: Address,
    stop: CancellationToken,
) {
    let key = private_key().unwrap();
    let csr = request_certificate(&key).unwrap();
    let chain = authority
        .issue_agent(
            &csr,
            &AgentIdentity::first("far", "uid-far"),
            Timestamp::now(),
        )
        .unwrap();
    let mut config = kube::Config::new(room.kube.address.parse().unwrap());
    config.auth_info.token = Some("agents-account".to_owned().into());
    let tasks = TaskTracker::new();
    let settings = Settings {
        hub: Address::parse(hub).unwrap(),
        proxies: Proxies::default(),
        pin: authority.pin().to_owned(),
        store: Arc::new(Fixed(Credentials {
            chain,
            key,
            authority: authority.ca_pem().to_owned(),
        })),
        kubesphere: member,
        kubernetes: OwnKubernetes::new(&config, Limits::default(), stop.clone(), tasks.clone())
            .unwrap(),
        tunnels: 1,
        step: Duration::from_secs(5),
        drain: Duration::from_secs(20),
        retry: Retry::TRANSIENT,
        refused: Retry::REFUSED,
        clock: Arc::new(SystemClock::default()),
    };
    tokio::spawn(agent::run(settings, stop, tasks));
    let tunnels = room.registry.tunnels();
    let up = async {
        while tunnels.link("uid-far") != Link::Here(1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), up)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_member_behind_a_tunnel_is_reached_through_the_gateway() {
    let room = Room::host().await;
    let authority = serve_tunnels(&room);
    room.registry.apply(&dialled("far", "uid-far"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hub = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    tokio::spawn(serve(
        listener,
        kah_gateway::Encryption::None,
        room.gateway.clone(),
        ServerLimits::default(),
        stop.clone(),
    ));
    // Before the agent is there.
    let answer = room.get("/kapis/clusters/far/x/v1/things", "admin").await;
    assert_eq!(answer.status, 502, "{}", answer.body);
    assert_eq!(
        answer.header("x-kubeaihub-member-refusal"),
        "MemberUnreachable"
    );
    assert!(
        answer.body.contains("the cluster's agent is not connected"),
        "{}",
        answer.body
    );

    let member = Address::parse(&room.member.address).unwrap();
    dial_in(&room, &authority, &hub, member, stop.clone()).await;
    let tunnels = room.registry.tunnels();

    let answer = room.get("/kapis/metrics", "").await;
    assert_eq!(answer.status, 200);
    for line in [
        "# TYPE kubeaihub_tunnels gauge",
        "kubeaihub_tunnels 1",
        "kubeaihub_tunnels_dialled_total{outcome=\"accepted\"} 1",
        "kubeaihub_tunnels_dialled_total{outcome=\"busy\"} 0",
    ] {
        let found = answer.body.lines().any(|it| it == line);
        assert!(found, "{line}:\n{}", answer.body);
    }
    assert!(!answer.body.contains("far"), "{}", answer.body);
    assert_eq!(room.get("/kapis/metrics/", "admin").await.status, 404);
    let answer = room.get("/kapis/clusters/far/x/v1/things", "admin").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["target"], "/kapis/x/v1/things");
    let seen = room.member.last();
    assert_eq!(seen.headers["authorization"], "Bearer admin");
    // S14: who does not say who they are gets no stream, and neither does a bad token.
    let before = (room.member.count(), tunnels.count());
    for token in ["", "bad"] {
        let answer = room.get("/kapis/clusters/far/x/v1/things", token).await;
        assert_eq!(answer.status, 401, "{}", answer.body);
    }
    assert_eq!((room.member.count(), tunnels.count()), before);
    stop.cancel();
}

#[tokio::test]
async fn only_a_websocket_is_answered_and_only_by_a_host_with_tunnels() {
    let room = Room::host().await;
    assert_eq!(room.get(PATH, "").await.status, 404);
    serve_tunnels(&room);
    let answer = room.get(PATH, "").await;
    assert_eq!(answer.status, 426);
    assert_eq!(answer.header("upgrade"), "websocket");
    // A connection that cannot change its protocol, whatever its headers say.
    let headers = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ];
    let answer = room.ask("GET", PATH, &headers, "").await;
    assert_eq!(answer.status, 426);
    assert_eq!(room.ask("POST", PATH, &headers, "").await.status, 405);
    assert_eq!(room.registry.tunnels().handshakes(), 0);
}
