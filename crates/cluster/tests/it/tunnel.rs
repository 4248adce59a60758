//! Members that dial out, from the host's request to the member's servers, over real websockets.

#![allow(
    clippy::unwrap_used,
    reason = "what helpers of tests do is not seen as a test"
)]

mod flood;
mod identity;
mod replicas;
mod ways;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use kah_cluster::{
    OwnKubernetes, Registry,
    agent::{self, Credentials, Settings, Store, Stored},
    retry::Retry,
    tunnel::{
        HubKeys, Link, NotAccepted, TunnelLimits, Tunnels,
        authority::{AgentIdentity, TunnelAuthority, private_key, request_certificate},
    },
};
use kah_iam::clock::{Clock, SystemClock};
use kah_net::{Address, Limits, tunnel::Proxies};
use kube::core::DynamicObject;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{cluster, member::Member, until};

/// Pauses of a test.
pub const QUICK: Retry = Retry {
    first: Duration::from_millis(20),
    longest: Duration::from_millis(500),
    at_least: 0,
};

pub fn now() -> Timestamp {
    Timestamp::now()
}

pub fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::default())
}

pub fn keys(authority: &Arc<TunnelAuthority>) -> HubKeys {
    HubKeys {
        authority: Arc::clone(authority),
        clock: clock(),
    }
}

pub fn authority() -> Arc<TunnelAuthority> {
    Arc::new(TunnelAuthority::in_memory(now()).unwrap())
}

/// A Cluster whose agent dials.
pub fn dialled(name: &str, uid: &str) -> DynamicObject {
    cluster(name, uid, json!({"type": "proxy"}))
}

/// One life of a replica of the host.
pub struct Replica {
    pub registry: Registry,
    stop: CancellationToken,
}

impl Replica {
    pub fn new(limits: TunnelLimits, clusters: Vec<DynamicObject>) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let tunnels = Tunnels::new(limits, stop.clone(), tasks.clone());
        let signer = Arc::new(kah_iam::Signer::new(clock()));
        let registry = Registry::over(
            Limits::default(),
            None,
            tunnels,
            signer,
            stop.clone(),
            tasks.clone(),
        );
        registry.replace(clusters);
        Self { registry, stop }
    }

    pub fn serving(self, authority: &Arc<TunnelAuthority>) -> Self {
        self.registry.tunnels().serve(keys(authority));
        self
    }

    pub fn tunnels(&self) -> &Tunnels {
        self.registry.tunnels()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An address where a replica answers, or none does.
pub struct Front {
    pub url: String,
    behind: Arc<ArcSwapOption<Replica>>,
    pub dialled: Arc<AtomicUsize>,
    _accepting: tokio_util::task::AbortOnDropHandle<()>,
}

impl Front {
    pub async fn new() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let behind: Arc<ArcSwapOption<Replica>> = Arc::default();
        let dialled = Arc::new(AtomicUsize::new(0));
        let (current, count) = (behind.clone(), dialled.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let Some(replica) = current.load_full() else {
                    continue;
                };
                tokio::spawn(async move {
                    let service = service_fn(move |mut request: http::Request<Incoming>| {
                        let replica = replica.clone();
                        async move {
                            let (answer, upgrade) =
                                kah_net::tunnel::answer(&mut request).expect("a websocket");
                            let accepted = replica.tunnels().accept(&replica.registry, upgrade);
                            Ok::<_, std::convert::Infallible>(match accepted {
                                Ok(()) => answer.map(|()| kah_net::empty()),
                                Err(refusal) => {
                                    assert_eq!(refusal, NotAccepted::Busy);
                                    let mut busy = http::Response::new(kah_net::empty());
                                    *busy.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                                    busy
                                }
                            })
                        }
                    });
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        });
        Self {
            url,
            behind,
            dialled,
            _accepting: tokio_util::task::AbortOnDropHandle::new(accepting),
        }
    }

    pub fn dialled(&self) -> usize {
        self.dialled.load(Ordering::SeqCst)
    }

    /// From now on this replica answers; the one before is gone, with its tunnels.
    pub fn answers(&self, replica: Replica) -> Arc<Replica> {
        let replica = Arc::new(replica);
        if let Some(before) = self.behind.swap(Some(replica.clone())) {
            before.stop.cancel();
        }
        replica
    }

    pub fn nobody_answers(&self) {
        if let Some(before) = self.behind.swap(None) {
            before.stop.cancel();
        }
    }
}

/// Credentials in memory.
#[derive(Clone)]
pub struct InMemory(pub Arc<Mutex<Credentials>>);

impl InMemory {
    /// What an agent of this Cluster object gets of this authority at that time.
    pub fn issued(authority: &TunnelAuthority, name: &str, uid: &str, at: Timestamp) -> Self {
        Self::issued_to(authority, &AgentIdentity::first(name, uid), at)
    }

    /// What this agent gets of this authority at that time.
    pub fn issued_to(authority: &TunnelAuthority, agent: &AgentIdentity, at: Timestamp) -> Self {
        let key = private_key().unwrap();
        let csr = request_certificate(&key).unwrap();
        Self(Arc::new(Mutex::new(Credentials {
            chain: authority.issue_agent(&csr, agent, at).unwrap(),
            key,
            authority: authority.ca_pem().to_owned(),
        })))
    }

    pub fn now(&self) -> Credentials {
        self.0.lock().unwrap().clone()
    }
}

impl Store for InMemory {
    fn load(&self) -> Stored<'_, Credentials> {
        Box::pin(async { Ok(self.now()) })
    }

    fn save(&self, credentials: Credentials) -> Stored<'_, ()> {
        Box::pin(async {
            *self.0.lock().unwrap() = credentials;
            Ok(())
        })
    }
}

/// A running agent; it ends when it is dropped.
pub struct Agent {
    stop: CancellationToken,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What an agent with these credentials is told, in a member with these two servers.
pub fn settings(
    hub: &str,
    pin: &str,
    store: &InMemory,
    ks: &str,
    kube: &str,
    stop: &CancellationToken,
) -> Settings {
    let mut config = kube::Config::new(kube.parse().unwrap());
    config.auth_info.token = Some("agents-account".to_owned().into());
    let tasks = TaskTracker::new();
    Settings {
        hub: Address::parse(hub).unwrap(),
        proxies: Proxies::default(),
        pin: pin.to_owned(),
        store: Arc::new(store.clone()),
        kubesphere: Address::parse(ks).unwrap(),
        kubernetes: OwnKubernetes::new(&config, Limits::default(), stop.clone(), tasks).unwrap(),
        tunnels: 1,
        step: Duration::from_secs(5),
        drain: Duration::from_secs(20),
        retry: QUICK,
        refused: Retry::REFUSED,
        clock: clock(),
    }
}

pub fn start(settings: Settings, stop: CancellationToken) -> Agent {
    let running = stop.clone();
    tokio::spawn(agent::run(settings, running, TaskTracker::new()));
    Agent { stop }
}

/// An agent of this Cluster object, in front of these two servers.
pub fn agent(
    front: &Front,
    authority: &TunnelAuthority,
    (name, uid): (&str, &str),
    ks: &Member,
    kube: &Member,
    tunnels: usize,
) -> Agent {
    let stop = CancellationToken::new();
    let store = InMemory::issued(authority, name, uid, now());
    let settings = settings(
        &front.url,
        authority.pin(),
        &store,
        &ks.url(),
        &kube.url(),
        &stop,
    );
    start(
        Settings {
            tunnels,
            ..settings
        },
        stop,
    )
}

/// Waits until so many tunnels of this Cluster object are held here.
pub async fn held(replica: &Replica, uid: &str, tunnels: usize) {
    let wanted = match tunnels {
        0 => Link::Nowhere,
        tunnels => Link::Here(tunnels),
    };
    until("tunnels are held", || replica.tunnels().link(uid) == wanted).await;
}
