//! What is told of a member that dials out, when its agent goes and comes back.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use kah_api::seed::Role;
use kah_cluster::{
    OwnKubernetes, Registry,
    agent::{self, Credentials, Settings, Store, Stored},
    retry::Retry,
    tunnel::{
        HubKeys,
        authority::{AgentIdentity, TunnelAuthority, private_key, request_certificate},
    },
};
use kah_iam::SystemClock;
use kah_net::{Address, Limits, tunnel::Proxies};
use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::{AbortOnDropHandle, TaskTracker},
};

use crate::stage::{Does, SECRET, Stage, plane};

const AGENT: &str = "AgentAvailable";

/// Where agents dial this host; gives its URL.
async fn front(registry: Registry) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let registry = registry.clone();
            let service = service_fn(move |mut request: http::Request<Incoming>| {
                let (answer, upgrade) = kah_net::tunnel::answer(&mut request).unwrap();
                registry.tunnels().accept(&registry, upgrade).unwrap();
                std::future::ready(Ok::<_, Infallible>(answer.map(|()| kah_net::empty())))
            });
            let connection = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            tokio::spawn(connection);
        }
    });
    (url, AbortOnDropHandle::new(accepting))
}

struct Fixed(Credentials);

impl Store for Fixed {
    fn load(&self) -> Stored<'_, Credentials> {
        Box::pin(async { Ok(self.0.clone()) })
    }

    fn save(&self, _: Credentials) -> Stored<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// Starts an agent of this Cluster; it ends when what is given is dropped.
async fn start(
    hub: &str,
    authority: &TunnelAuthority,
    uid: &str,
    server: &str,
    member: &str,
) -> DropGuard {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(member).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    let key = private_key().unwrap();
    let csr = request_certificate(&key).unwrap();
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let settings = Settings {
        hub: Address::parse(hub).unwrap(),
        proxies: Proxies::default(),
        pin: authority.pin().to_owned(),
        store: Arc::new(Fixed(Credentials {
            chain: authority
                .issue_agent(&csr, &AgentIdentity::first("m", uid), Timestamp::now())
                .unwrap(),
            key,
            authority: authority.ca_pem().to_owned(),
        })),
        kubesphere: Address::parse(server).unwrap(),
        kubernetes: OwnKubernetes::new(&config, Limits::default(), stop.clone(), tasks.clone())
            .unwrap(),
        tunnels: 1,
        step: Duration::from_secs(5),
        drain: Duration::from_secs(5),
        retry: Retry::TRANSIENT,
        refused: Retry::REFUSED,
        clock: Arc::new(SystemClock::default()),
    };
    tokio::spawn(agent::run(settings, stop.clone(), tasks));
    stop.drop_guard()
}

#[tokio::test]
async fn an_agent_that_goes_and_comes_back_is_told_of() {
    let mut stage = Stage::new().await;
    let authority = Arc::new(TunnelAuthority::in_memory(Timestamp::now()).unwrap());
    stage.host.registry.tunnels().serve(HubKeys {
        authority: authority.clone(),
        clock: stage.host.clock.clone(),
    });
    let (hub, _front) = front(stage.host.registry.clone()).await;
    let (uid, server) = stage.join_dialling("m", Does::Accepts).await;
    let member = plane(Role::Member, SECRET, "0").await;
    let kubeconfig = member.admin_kubeconfig();
    stage.run();
    // Nobody has come yet.
    stage.becomes("m", AGENT, "False/").await;
    stage.becomes("m", "Ready", "False/MemberUnreachable").await;

    let running = start(&hub, &authority, &uid, &server, kubeconfig).await;
    stage.becomes("m", "Ready", "True/Ready").await;
    stage.becomes("m", "HostAccess", "True/Accepted").await;
    assert_eq!(stage.told("m", AGENT).await, "True/");
    let cluster = stage.cluster("m").await;
    let told = &cluster.condition(AGENT).unwrap().message;
    assert_eq!(told, "Agent has connected to proxy successfully.");
    let hub_status = cluster.status.clone().unwrap().hub.unwrap();
    assert_eq!(hub_status.route, "tunnel");
    // Of its agent's, which was issued for 90 days a moment ago.
    assert_eq!(hub_status.certificate_days, Some(89));

    let since = Instant::now();
    drop(running);
    stage.becomes("m", "Ready", "False/MemberUnreachable").await;
    let took = since.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    println!("an agent that has gone is known after {took:?}");
    let cluster = stage.cluster("m").await;
    for kind in ["Ready", "HostAccess"] {
        let told = &cluster.condition(kind).unwrap().message;
        assert!(told.contains("agent is not connected"), "{kind}: {told}");
    }
    let told = &cluster.condition(AGENT).unwrap().message;
    assert_eq!(told, "Agent has not connected to proxy.");
    let hub_status = cluster.status.clone().unwrap().hub.unwrap();
    assert_eq!(hub_status.certificate_days, None);

    let since = Instant::now();
    let _running = start(&hub, &authority, &uid, &server, kubeconfig).await;
    stage.becomes("m", "Ready", "True/Ready").await;
    let took = since.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(stage.told("m", AGENT).await, "True/");
    stage.end().await;
}

#[tokio::test]
async fn t1_a_stolen_agent_that_tells_another_identity_gets_no_token_for_it() {
    let mut stage = Stage::new().await;
    let authority = Arc::new(TunnelAuthority::in_memory(Timestamp::now()).unwrap());
    stage.host.registry.tunnels().serve(HubKeys {
        authority: authority.clone(),
        clock: stage.host.clock.clone(),
    });
    let keys = kah_iam::SigningKeys::first(Timestamp::now()).unwrap();
    let signer = stage.host.registry.signer();
    signer.take("kubeaihub:of-this-test", keys).unwrap();
    let (hub, _front) = front(stage.host.registry.clone()).await;
    let (uid, server) = stage.join_dialling("m", Does::Accepts).await;
    let own = plane(Role::Member, SECRET, "0").await;
    let other = plane(Role::Member, SECRET, "0").await;
    stage.run();
    let honest = start(&hub, &authority, &uid, &server, own.admin_kubeconfig()).await;
    let known = async || stage.cluster("m").await.status.unwrap_or_default().uid;
    kah_testkit::eventually(crate::stage::SOON, "its identity", async || {
        !known().await.is_empty()
    })
    .await
    .unwrap();
    let identity = known().await;
    let federated = serde_json::json!({"spec": {"trust": "federated"}});
    stage.patch("m", federated).await;
    stage.becomes("m", "HostAccess", "True/Accepted").await;

    // The same certificate, and a kube-apiserver that names another cluster.
    drop(honest);
    let _stolen = start(&hub, &authority, &uid, &server, other.admin_kubeconfig()).await;
    stage.becomes("m", "Identity", "False/AnotherCluster").await;
    stage
        .becomes("m", "HostAccess", "False/SignatureInvalid")
        .await;
    assert_eq!(known().await, identity);
    let cluster = stage.cluster("m").await;
    let told = &cluster.condition("HostAccess").unwrap().message;
    assert!(told.contains("kah cluster leave m"), "{told}");
    kah_testkit::eventually(crate::stage::SOON, "nothing is signed", async || {
        let member = stage.host.registry.get("m").unwrap();
        let answer = member.probe(&stage.host.proof().unwrap()).await;
        matches!(answer, kah_cluster::Answer::Refused { evidence, .. }
            if evidence.contains("what answers is not"))
    })
    .await
    .unwrap();
    stage.end().await;
}
