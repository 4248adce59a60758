//! A host and members on localkube. Each member's ks-apiserver is a recording stand-in that judges tokens as the real one does.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use http::HeaderValue;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use kah_api::{
    cluster::Trust,
    config::Configuration,
    iam::{User, UserSpec, UserStatus},
    seed::{self, Role, Seed},
    time::GoDuration,
};
use kah_cluster::{
    CallerCredential, Form, Hop, Host, Registry,
    proof::Prover,
    trust::{Patience, Report, Request, TrustError, move_to},
    tunnel::{TunnelLimits, Tunnels},
};
use kah_iam::{
    Authentication, Clock, GlobalRoles, HostTrust, MemoryCache, Signer, TokenType, Tokens, Users,
    follow_host_trust,
};
use kah_localkube::{Cluster, Options};
use kah_net::Limits;
use kah_testkit::member::{self, Member, Seen};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, PostParams},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub const SECRET: &str = "secret of the host";

/// The machine's clock, and so many seconds.
pub struct Shifted(pub AtomicI64);

impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        Timestamp::now() + SignedDuration::from_secs(self.0.load(Ordering::SeqCst))
    }

    fn uptime(&self) -> f64 {
        0.0
    }
}

/// A member.
pub struct Place {
    pub plane: Cluster,
    pub server: Member,
    /// Whether its ks-apiserver hangs up.
    pub away: Arc<AtomicBool>,
    /// Whether it is a program that knows nothing of federated trust.
    pub go: Arc<AtomicBool>,
}

pub struct Stage {
    pub host: Host,
    pub plane: Cluster,
    pub members: Vec<Place>,
    pub clock: Arc<Shifted>,
    /// Alice's token of the host.
    pub token: String,
    pub stop: CancellationToken,
    pub judge: Arc<Authentication>,
}

async fn plane(role: Role, secret: &str) -> Cluster {
    plane_since(role, secret, Timestamp::now).await
}

/// A cluster that was made at this time.
pub async fn plane_since(role: Role, secret: &str, then: fn() -> Timestamp) -> Cluster {
    let mut options = Options::new("plane");
    options.clock = then;
    options.controllers = false;
    options.crds = kah_api::definition::all()
        .into_iter()
        .map(|definition| serde_json::to_value(definition).unwrap())
        .collect();
    options.objects = seed::objects(&Seed {
        allowed_addresses: &["127.0.0.0/8"],
        role,
        jwt_secret: secret,
        access_token_max_age: if role == Role::Host { "2h" } else { "0" },
        image: "image",
        password_hash: "Passw0rd-of-tests",
        node_port: None,
    });
    Cluster::start(options).await.unwrap()
}

fn users() -> Arc<Users> {
    let users = Arc::new(Users::default());
    for name in ["alice", "bob"] {
        let mut user = User::new(name, UserSpec::default());
        user.status = Some(UserStatus {
            state: "Active".into(),
            ..UserStatus::default()
        });
        users.apply(user);
    }
    users
}

/// Alice is one.
fn administrators() -> Arc<GlobalRoles> {
    let roles = Arc::new(GlobalRoles::default());
    let binding = serde_json::json!({
        "metadata": {"name": "alice"},
        "subjects": [{"apiGroup": "iam.kubesphere.io", "kind": "User", "name": "alice"}],
        "roleRef": {"apiGroup": "iam.kubesphere.io/v1alpha2", "kind": "GlobalRole", "name": "platform-admin"},
    });
    roles.apply(serde_json::from_value(binding).unwrap());
    roles
}

async fn configuration(client: &kube::Client) -> Configuration {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), seed::NAMESPACE);
    let map = maps.get(seed::CONFIG).await.unwrap();
    Configuration::read(&map.data.unwrap()["kubesphere.yaml"], &BTreeMap::new()).unwrap()
}

fn authentication(configuration: &Configuration, clock: &Arc<dyn Clock>) -> Authentication {
    let cache = Arc::new(MemoryCache::new(Arc::clone(clock)));
    Authentication::new(configuration, cache, users(), Arc::clone(clock))
}

impl Place {
    async fn start(secret: &str, clock: Arc<dyn Clock>, stop: &CancellationToken) -> Self {
        let plane = plane(Role::Member, secret).await;
        let read = configuration(&plane.client()).await;
        let trust = Arc::new(HostTrust::default());
        let judge = Arc::new(authentication(&read, &clock).trusting(trust.clone()));
        let (known, is) = tokio::sync::oneshot::channel();
        tokio::spawn(follow_host_trust(
            plane.client(),
            trust,
            stop.clone(),
            move || known.send(()).unwrap(),
        ));
        is.await.unwrap();
        // The configuration is read while it runs.
        let (client, reads, end) = (plane.client(), judge.clone(), stop.clone());
        tokio::spawn(end.run_until_cancelled_owned(async move {
            loop {
                reads.reload(&configuration(&client).await);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
        let (away, go) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let (is_away, is_go) = (away.clone(), go.clone());
        let server = Member::start(None, move |seen: &Seen| {
            if is_away.load(Ordering::SeqCst) {
                return member::Reply::Hangup;
            }
            if seen.target == "/kapis/hub.kubeaihub.io/v1/trust" {
                if is_go.load(Ordering::SeqCst) {
                    return member::status(403, "Forbidden", "no");
                }
                let offer = serde_json::to_string(&judge.offer()).unwrap();
                return member::answer(200, "application/json", offer);
            }
            if seen.target == "/kapis/version" {
                return member::answer(200, "application/json", r#"{"gitVersion":"v3.4.1"}"#);
            }
            let header = seen.header("authorization");
            // Nothing of it waits: cache and users are in memory.
            match judge.authenticate(Some(&header)).now_or_never().unwrap() {
                Ok(identity) if seen.target.contains("watch") => {
                    let (sender, reply) = member::stream();
                    tokio::spawn(async move {
                        let line = bytes::Bytes::from(identity.name);
                        while sender.send(Ok(line.clone())).await.is_ok() {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    });
                    reply
                }
                Ok(identity) => member::answer(200, "text/plain", identity.name),
                Err(error) => {
                    member::status(401, "Unauthorized", &format!("Unauthorized: {error}"))
                }
            }
        })
        .await
        .unwrap();
        Self {
            plane,
            server,
            away,
            go,
        }
    }

    /// What it was told.
    pub async fn told(&self) -> Option<ConfigMap> {
        let maps: Api<ConfigMap> = Api::namespaced(self.plane.client(), seed::NAMESPACE);
        maps.get_opt("hub-trust").await.unwrap()
    }
}

pub fn clusters(plane: &Cluster) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("cluster.kubesphere.io", "v1alpha1", "Cluster");
    let resource = ApiResource::from_gvk_with_plural(&kind, "clusters");
    Api::all_with(plane.client(), &resource)
}

impl Stage {
    /// Members with these secrets, called `m0`, `m1` …
    pub async fn new(secrets: &[&str]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let shifted = Arc::new(Shifted(AtomicI64::new(0)));
        let clock: Arc<dyn Clock> = shifted.clone();
        let plane = plane(Role::Host, SECRET).await;
        let mut members = Vec::new();
        for (number, secret) in secrets.iter().enumerate() {
            let name = format!("m{number}");
            let place = Place::start(secret, clock.clone(), &stop).await;
            let object = seed::member_cluster(
                &name,
                place.plane.admin_kubeconfig(),
                &format!("https://{}", place.plane.address()),
                Some(&place.server.url()),
            );
            clusters(&plane)
                .create(
                    &PostParams::default(),
                    &serde_json::from_value(object).unwrap(),
                )
                .await
                .unwrap();
            members.push(place);
        }
        let signer = Arc::new(Signer::new(clock.clone()));
        let tunnels = Tunnels::new(TunnelLimits::default(), stop.clone(), tasks.clone());
        let registry = Registry::over(
            Limits::default(),
            None,
            tunnels,
            signer.clone(),
            stop.clone(),
            tasks.clone(),
        );
        {
            let (registry, client) = (registry.clone(), plane.client());
            tokio::spawn(async move { registry.follow(client).await });
            tokio::spawn(kah_iam::follow_signing_keys(
                plane.client(),
                signer,
                stop.clone(),
                || {},
            ));
        }
        registry.synced().await;
        let read = configuration(&plane.client()).await;
        let tokens = Tokens::new(
            &read.authentication.jwt_secret,
            &read.authentication.oauth_options.issuer,
            true,
            GoDuration::from_secs(10),
            clock.clone(),
        );
        let life = GoDuration::from_secs(7200);
        Self {
            token: tokens.issue("alice", TokenType::Access, &BTreeMap::new(), life),
            judge: Arc::new(authentication(&read, &clock)),
            host: Host {
                client: plane.client(),
                registry,
                prover: Prover::new(&read, users(), administrators(), clock.clone()),
                clock,
                tasks,
            },
            plane,
            members,
            clock: shifted,
            stop,
        }
    }

    pub fn caller(&self) -> CallerCredential {
        CallerCredential::User {
            name: "alice".into(),
            authorization: HeaderValue::try_from(format!("Bearer {}", self.token)).unwrap(),
        }
    }

    pub fn request(&self, cluster: &str, trust: Trust) -> Request {
        Request {
            cluster: cluster.into(),
            trust,
            by: "alice".into(),
            proof: self.caller(),
            patience: Patience {
                accept: Duration::from_secs(5),
                look: Duration::from_millis(10),
                restore: kah_cluster::restore::Patience {
                    live: Duration::from_secs(2),
                    restarted: Duration::from_millis(300),
                    look: Duration::from_millis(10),
                    stale: Duration::from_secs(5),
                },
            },
        }
    }

    pub async fn move_to(&self, cluster: &str, trust: Trust) -> Result<Report, TrustError> {
        move_to(&self.host, &self.request(cluster, trust)).await
    }

    fn hop(&self, target: &'static str) -> Hop {
        Hop {
            target: http::uri::PathAndQuery::from_static(target),
            form: Form::Prefix,
            caller: self.caller(),
            client: None,
            long_running: target.contains("watch"),
            ends: None,
        }
    }

    /// One request of alice.
    pub async fn ask(&self, cluster: &str) -> Result<http::Response<kah_net::Body>, String> {
        let member = self.host.registry.get(cluster).ok_or("no such member")?;
        let request = http::Request::new(kah_net::empty());
        member
            .forward(request, self.hop("/api/v1/pods"))
            .await
            .map_err(|error| error.evidence())
    }

    /// A watch of alice.
    pub async fn watch(&self, cluster: &str) -> kah_net::Body {
        let member = self.host.registry.get(cluster).unwrap();
        let request = http::Request::new(kah_net::empty());
        let answer = member.forward(request, self.hop("/api/v1/pods?watch=true"));
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Requests that go on while something else happens.
pub struct Load {
    pub asked: Arc<AtomicUsize>,
    pub failed: Arc<std::sync::Mutex<Vec<String>>>,
    end: CancellationToken,
    tasks: TaskTracker,
}

impl Load {
    /// So many askers at once.
    pub fn start(stage: &Arc<Stage>, clusters: &[&'static str], askers: usize) -> Self {
        let load = Self {
            asked: Arc::default(),
            failed: Arc::default(),
            end: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        for number in 0..askers {
            let (stage, cluster) = (stage.clone(), clusters[number % clusters.len()]);
            let (asked, failed, end) = (load.asked.clone(), load.failed.clone(), load.end.clone());
            load.tasks.spawn(async move {
                while !end.is_cancelled() {
                    let answer = stage.ask(cluster).await;
                    asked.fetch_add(1, Ordering::SeqCst);
                    match answer {
                        Ok(answer) if answer.status() == 200 => {}
                        Ok(answer) => failed.lock().unwrap().push(format!(
                            "{cluster}: {} {:?}",
                            answer.status(),
                            answer.headers()
                        )),
                        Err(error) => failed.lock().unwrap().push(error),
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
        }
        load
    }

    /// Waits until so many more were asked.
    pub async fn more(&self, count: usize) {
        let wanted = self.asked.load(Ordering::SeqCst) + count;
        until("the load goes on", || {
            self.asked.load(Ordering::SeqCst) >= wanted
        })
        .await;
    }

    /// Ends it; gives how many were asked. None may have failed.
    pub async fn end(self) -> usize {
        self.end.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let failed = self.failed.lock().unwrap().clone();
        let asked = self.asked.load(Ordering::SeqCst);
        assert!(
            failed.is_empty(),
            "{} of {asked}: {:?}",
            failed.len(),
            failed.first()
        );
        asked
    }
}

/// Waits for a condition, at most 20 s.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let ticks = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let held = tokio::time::timeout(Duration::from_secs(20), ticks).await;
    assert!(held.is_ok(), "{what}");
}

/// The same for what has to be asked for.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let ticks = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let held = tokio::time::timeout(Duration::from_secs(20), ticks).await;
    assert!(held.is_ok(), "{what}");
}

/// All reconcilers, until the stage ends; and what they count.
pub fn run(stage: &Stage) -> kah_controllers::Metrics {
    let metrics = kah_controllers::Metrics::default();
    tokio::spawn(kah_controllers::run(
        stage.host.clone(),
        kah_controllers::Settings {
            host_cluster: "host".into(),
            host_kubeconfig: stage.plane.admin_kubeconfig().to_owned(),
            resync: Duration::from_secs(1),
        },
        metrics.clone(),
        stage.stop.clone(),
    ));
    metrics
}
