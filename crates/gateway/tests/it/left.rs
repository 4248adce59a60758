//! Whoever asked for a join or a leaving may go: what was begun is ended.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD as STANDARD};
use bytes::Bytes;
use http::{Method, StatusCode};
use kah_api::{config::Configuration, network::Network};
use kah_cluster::{Host, Registry, guard::AddressGuard, proof::Prover};
use kah_gateway::{Encryption, Gateway, GatewayParts, KubeProxy, ServerLimits, Settings, serve};
use kah_iam::SystemClock;
use kah_net::Limits;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    identity::Script,
    member::{Member, Reply, Seen, answer, status, stream},
    room::{Records, settings},
};

/// Far more than anything needs.
const LIMIT: Duration = Duration::from_secs(30);
const CLUSTERS: &str = "/apis/cluster.kubesphere.io/v1alpha1/clusters";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kubesphere-system/leases";
const HUB: &str = "/kapis/hub.kubeaihub.io/v1/clusters";
const PROXY: &str = "/api/v1/namespaces/kubesphere-system/services/:ks-apiserver:/proxy";

/// An answer of the host's kube-apiserver that has begun, and ends when the test says so.
#[derive(Default)]
struct Held {
    begun: AtomicBool,
    body: Mutex<Option<mpsc::Sender<std::io::Result<Bytes>>>>,
}

fn path(seen: &Seen) -> &str {
    seen.target.split('?').next().unwrap_or_default()
}

fn json_of(body: &Value) -> Reply {
    answer(200, "application/json", body.to_string())
}

fn namespace(uid: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": uid}})
}

/// The host's kube-apiserver. Its first answer about one Cluster, with this status, is held.
fn kube(seen: &Seen, first: StatusCode, held: &Held) -> Reply {
    let is_lease = path(seen).starts_with(LEASES);
    match (&seen.method, path(seen).strip_prefix(CLUSTERS)) {
        (&Method::POST, None) if is_lease => Reply::Echo,
        (_, None) if is_lease => status(404, "NotFound", "nobody holds it"),
        (_, None) => json_of(&namespace("uid-of-the-host")),
        (&Method::POST, _) => Reply::Echo,
        (&Method::DELETE, _) => json_of(&json!({"kind": "Status", "status": "Success"})),
        // A watch ends at once.
        (_, Some("")) => json_of(&json!({"metadata": {}, "items": []})),
        _ if held.begun.swap(true, Ordering::SeqCst) => status(404, "NotFound", "it is gone"),
        _ => {
            let (sender, mut reply) = stream();
            if let Reply::Answer(response) = &mut reply {
                *response.status_mut() = first;
            }
            *held.body.lock().unwrap() = Some(sender);
            reply
        }
    }
}

/// A cluster that is fit to join.
fn fit(seen: &Seen) -> Reply {
    let body = match path(seen) {
        "/api/v1/namespaces/kube-system" => namespace("uid-of-the-member"),
        "/version" => json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.2", "gitCommit": "", "gitTreeState": "", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": "",
        }),
        "/api/v1/namespaces/kubesphere-system/configmaps/kubesphere-config" => json!({
            "metadata": {"name": "kubesphere-config"},
            "data": {"kubesphere.yaml": "multicluster:\n  clusterRole: member\n"},
        }),
        "/apis/apps/v1/namespaces/kubesphere-system/deployments/ks-apiserver" => json!({
            "metadata": {"name": "ks-apiserver"},
            "spec": {"replicas": 1, "selector": {}, "template": {}},
            "status": {"replicas": 1, "readyReplicas": 1},
        }),
        "/api/v1/namespaces/kubesphere-system/pods" => json!({"metadata": {}, "items": []}),
        path => match path.strip_prefix(PROXY) {
            Some("/kapis/version") => json!({"gitVersion": "v3.4.1"}),
            Some(_) if seen.header("x-kubesphere-authorization").is_empty() => {
                return status(401, "Unauthorized", "Unauthorized");
            }
            Some(_) => json!({"gitVersion": "v3.4.1"}),
            None => return status(404, "NotFound", "no"),
        },
    };
    json_of(&body)
}

struct Hub {
    kube: Member,
    held: Arc<Held>,
    address: SocketAddr,
    records: Arc<Records>,
    /// Owns what outlives its caller.
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Hub {
    async fn start(first: StatusCode) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let held = Arc::new(Held::default());
        let script = held.clone();
        let kube = Member::start(None, move |seen| self::kube(seen, first, &script));
        let kube = kube.await.unwrap();
        let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
        let (tasks, limits) = (TaskTracker::new(), Limits::default());
        let registry = Registry::new(limits, stop.clone(), connections.clone());
        let mut config = kube::Config::new(kube.url().parse().unwrap());
        config.auth_info.token = Some("server-account".to_owned().into());
        let text = "authentication:\n  jwtSecret: \"secret of the host\"\n";
        let configuration = Configuration::read(text, &BTreeMap::new()).unwrap();
        let clock = Arc::new(SystemClock::default());
        let prover = Prover::new(
            &configuration,
            Arc::default(),
            Arc::default(),
            clock.clone(),
        );
        let records = Arc::new(Records::default());
        let gateway = Gateway::new(GatewayParts {
            settings: Settings {
                guard: AddressGuard::new(&["127.0.0.0/8".parse::<Network>().unwrap()]),
                ..settings(true)
            },
            callers: Arc::new(Script::default()),
            registry: registry.clone(),
            host: Some(Host {
                client: kube::Client::try_from(config.clone()).unwrap(),
                registry,
                prover,
                clock,
                tasks: tasks.clone(),
            }),
            kube: KubeProxy::new(&config, limits, stop.clone(), connections).unwrap(),
            audit: records.clone(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(
            listener,
            Encryption::None,
            gateway,
            ServerLimits::default(),
            stop.clone(),
        ));
        Self {
            kube,
            held,
            address,
            records,
            tasks,
            stop,
        }
    }

    /// Asks, and leaves when that has begun; lets it go on when the host has noticed.
    async fn ask_and_leave(&self, method: &str, path: &str, body: &Value, held: &Value) {
        let body = body.to_string();
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer admin\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let mut caller = TcpStream::connect(self.address).await.unwrap();
        caller.write_all(text.as_bytes()).await.unwrap();
        until("it has begun", || self.held.body.lock().unwrap().is_some()).await;
        assert_eq!(self.records.0.lock().unwrap().len(), 0);
        drop(caller);
        // Its record is handed over, without an answer.
        until("the request is given up", || {
            let records = self.records.0.lock().unwrap();
            records.iter().any(|record| record.code == 0)
        })
        .await;
        let rest = self.held.body.lock().unwrap().take().unwrap();
        let sent = rest.send(Ok(held.to_string().into())).await;
        sent.expect("somebody still waits for it");
    }

    /// Waits until all that was begun has ended; gives what was written.
    async fn written(&self) -> Vec<String> {
        self.tasks.close();
        let ended = tokio::time::timeout(LIMIT, self.tasks.wait());
        ended.await.expect("it ends");
        let seen = self.kube.seen().into_iter();
        let written = seen.filter(|seen| seen.method != Method::GET);
        written
            .map(|seen| format!("{} {}", seen.method, path(&seen)))
            .collect()
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let ticks = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let held = tokio::time::timeout(LIMIT, ticks).await;
    assert!(held.is_ok(), "{what}");
}

#[tokio::test]
async fn a_join_goes_on_when_its_caller_has_left() {
    let hub = Hub::start(StatusCode::NOT_FOUND).await;
    let member = Member::start(None, fit).await.unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": member.url()}}],
        "users": [{"name": "c", "user": {"token": "stored"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    let kubeconfig = STANDARD.encode(kubeconfig.to_string());
    let body = json!({"name": "new", "kubeconfig": kubeconfig, "trust": "shared-secret"});
    let none = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404});
    hub.ask_and_leave("POST", HUB, &body, &none).await;
    // It claims the cluster first, so that nobody else joins it meanwhile.
    let written = [format!("POST {LEASES}"), format!("POST {CLUSTERS}")];
    assert_eq!(hub.written().await, written);
}

#[tokio::test]
async fn a_leaving_goes_on_when_its_caller_has_left() {
    let hub = Hub::start(StatusCode::OK).await;
    let object = json!({
        "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster",
        "metadata": {"name": "m", "uid": "uid-of-m", "resourceVersion": "1"},
        "spec": {"connection": {"type": "direct"}},
    });
    let path = format!("{HUB}/m");
    hub.ask_and_leave("DELETE", &path, &json!({}), &object)
        .await;
    assert_eq!(hub.written().await, [format!("DELETE {CLUSTERS}/m")]);
}
