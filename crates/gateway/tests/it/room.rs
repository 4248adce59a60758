//! A gateway with a recording stand-in for its kube-apiserver and for one member.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::State,
};
use http::{HeaderMap, Request, Response, StatusCode};
use kah_cluster::{Host, Registry, proof::Prover};
use kah_gateway::{Audit, Callers, Client, Gateway, GatewayParts, KubeProxy, Record, Settings};
use kah_iam::SystemClock;
use kah_net::Limits;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::identity::Script;

/// What a stand-in saw.
#[derive(Debug, Clone)]
pub struct Seen {
    pub target: String,
    pub headers: HeaderMap,
}

/// A server that writes down what it is asked.
#[derive(Clone, Default)]
pub struct Standin {
    pub seen: Arc<Mutex<Vec<Seen>>>,
    pub address: String,
}

impl Standin {
    pub async fn start(name: &'static str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let standin = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            ..Self::default()
        };
        let app = Router::new().fallback(
            move |State(standin): State<Standin>, request: Request<Body>| async move {
                standin.answer(name, request)
            },
        );
        let app = app.with_state(standin.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        standin
    }

    fn answer(&self, name: &str, request: Request<Body>) -> Response<Body> {
        let target = request.uri().to_string();
        self.seen.lock().unwrap().push(Seen {
            target: target.clone(),
            headers: request.headers().clone(),
        });
        let path = request.uri().path();
        if path.ends_with("/refuse") {
            let status = kah_api::status::Status::unauthorized("token not found in cache");
            return Response::builder()
                .status(401)
                .header("content-type", "application/json")
                .body(status.to_line().into())
                .unwrap();
        }
        if request.uri().query() == Some("watch=1&endless=1") {
            let first = futures::stream::iter([Ok::<_, std::io::Error>("first\n")]);
            let endless = futures::StreamExt::chain(first, futures::stream::pending());
            return Response::new(Body::from_stream(endless));
        }
        if path.ends_with("/away") {
            return Response::builder()
                .status(302)
                .header("location", "http://evil.example/")
                .body(Body::empty())
                .unwrap();
        }
        if path.ends_with("/here") {
            return Response::builder()
                .status(301)
                .header("location", "/kapis/version")
                .body(Body::empty())
                .unwrap();
        }
        let body = match path {
            "/version" => json!({"major": "1", "minor": "36"}),
            "/kapis/version" => {
                json!({"gitVersion": "v3.4.1", "kubernetes": {"major": "1", "minor": "35"}})
            }
            _ => json!({"from": name, "target": target}),
        };
        Response::builder()
            .header("content-type", "application/json")
            .header("set-cookie", "a=b")
            .body(body.to_string().into())
            .unwrap()
    }

    pub fn last(&self) -> Seen {
        self.seen
            .lock()
            .unwrap()
            .last()
            .cloned()
            .expect("a request")
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

#[derive(Default)]
pub struct Records(pub Mutex<Vec<Record>>);

impl Audit for Records {
    fn record(&self, record: Record) {
        self.0.lock().unwrap().push(record);
    }
}

pub struct Room {
    pub gateway: Gateway,
    parts: GatewayParts,
    pub registry: Registry,
    pub kube: Standin,
    pub member: Standin,
    pub callers: Arc<Script>,
    pub records: Arc<Records>,
}

pub fn settings(multicluster: bool) -> Settings {
    Settings {
        multicluster,
        cluster_role: if multicluster { "host" } else { "member" }.into(),
        clients: vec![Client {
            name: "kubesphere".into(),
            secret: "kubesphere".into(),
            redirect_uris: vec!["*".into(), "http://console/".into()],
        }],
        oauth: json!({"issuer": "kubesphere", "accessTokenMaxAge": 7_200_000_000_000_u64}),
        configz: json!({"multicluster": multicluster}),
        gpu_kinds: json!([]),
        ..Settings::default()
    }
}

fn cluster(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

impl Room {
    pub async fn host() -> Self {
        Self::new(true).await
    }

    /// A host with callers of another kind.
    pub async fn host_with(callers: Arc<dyn Callers>) -> Self {
        Self::over(true, Some(callers), None, |_| ()).await
    }

    /// A host whose own credential is this one.
    pub async fn host_as(account: kube::config::AuthInfo) -> Self {
        Self::over(true, None, None, |config| config.auth_info = account).await
    }

    /// A host with what handlers need to deal with members, and this to prove who somebody is.
    pub async fn host_that_proves(prover: Prover) -> Self {
        Self::over(true, None, Some(prover), |_| ()).await
    }

    /// A member with callers of another kind.
    pub async fn member_with(callers: Arc<dyn Callers>) -> Self {
        Self::over(false, Some(callers), None, |_| ()).await
    }

    pub async fn member() -> Self {
        Self::new(false).await
    }

    /// A host with room for so many upgrades at one time.
    pub async fn host_with_upgrades(at_most: usize) -> Self {
        let room = Self::host().await;
        let gateway = Gateway::with_upgrades(room.parts.clone(), at_most);
        Self { gateway, ..room }
    }

    async fn new(multicluster: bool) -> Self {
        Self::over(multicluster, None, None, |_| ()).await
    }

    async fn over(
        multicluster: bool,
        others: Option<Arc<dyn Callers>>,
        prover: Option<Prover>,
        change: impl FnOnce(&mut kube::Config),
    ) -> Self {
        let (kube, member) = (Standin::start("kube").await, Standin::start("member").await);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let registry = Registry::new(Limits::default(), stop.clone(), tasks.clone());
        let meta = |name: &str| json!({"apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster", "metadata": {"name": name, "uid": name}});
        let mut objects = Vec::new();
        let mut host = meta("host");
        host["metadata"]["labels"] = json!({"cluster-role.kubesphere.io/host": ""});
        objects.push(cluster(host));
        for (name, endpoint, ready) in [
            ("m1", member.address.as_str(), "True"),
            ("sick", member.address.as_str(), "False"),
            ("dead", "http://127.0.0.1:1", "True"),
        ] {
            let mut object = meta(name);
            object["spec"] =
                json!({"connection": {"type": "direct", "kubesphereAPIEndpoint": endpoint}});
            object["status"] = json!({"conditions": [{"type": "Ready", "status": ready, "reason": "R", "message": "sick it is"}]});
            objects.push(cluster(object));
        }
        registry.replace(objects);
        let mut config = kube::Config::new(kube.address.parse().unwrap());
        config.auth_info.token = Some("server-account".to_owned().into());
        change(&mut config);
        let host = prover.map(|prover| {
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            Host {
                client: kube::Client::try_from(config.clone()).unwrap(),
                registry: registry.clone(),
                prover,
                clock: Arc::new(SystemClock::default()),
                tasks: tasks.clone(),
            }
        });
        let kube_proxy = KubeProxy::new(&config, Limits::default(), stop, tasks).unwrap();
        let (callers, records) = (Arc::new(Script::default()), Arc::new(Records::default()));
        let parts = GatewayParts {
            settings: settings(multicluster),
            callers: others.unwrap_or_else(|| callers.clone()),
            registry: registry.clone(),
            host,
            kube: kube_proxy,
            audit: records.clone(),
        };
        Self {
            gateway: Gateway::new(parts.clone()),
            parts,
            registry,
            kube,
            member,
            callers,
            records,
        }
    }

    /// Asks with these headers; gives status, headers and body.
    pub async fn ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_empty() {
            request = request.header("content-length", body.len());
        }
        let response = self
            .gateway
            .serve(request.body(Body::from(body.to_owned())).unwrap())
            .await;
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub async fn get(&self, target: &str, token: &str) -> Answer {
        let value = format!("Bearer {token}");
        let headers: &[(&str, &str)] = if token.is_empty() {
            &[]
        } else {
            &[("authorization", value.as_str())]
        };
        self.ask("GET", target, headers, "").await
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map(|value| value.to_str().unwrap())
            .unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}
