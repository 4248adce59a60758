//! The one node of a cluster: binds Pods to itself and runs them, as local processes of one program or simulated.

mod address;
mod container;
mod environment;
mod log;
mod logs;
mod mount;
mod pod;
mod probe;
mod process;
mod reader;
mod registration;
mod status;
mod volume;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Binding, ConfigMap, ObjectReference, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::runtime::watcher;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connect::{Body, Connect, Connector, refuse};
use crate::controllers::{Change, feed};
use crate::proxy::Proxy;
use crate::recorder::{Clock, Recorder, reference};
use crate::status::ApiError;
use address::Addresses;
pub use address::Network;
use container::Live;
use pod::{Handle, Worker};

/// The annotation of Pods that no process stands behind.
pub const SIMULATED: &str = "localkube.kubeaihub.io/simulated";

/// The program that Pods of one image run as local processes.
#[derive(Clone, Debug)]
pub struct Program {
    /// Containers with exactly this image run the program.
    pub image: String,
    /// The executable file.
    pub path: PathBuf,
}

/// Where Pods find the API.
#[derive(Clone, Debug)]
pub struct ApiServer {
    /// For `KUBERNETES_SERVICE_HOST`.
    pub host: String,
    /// For `KUBERNETES_SERVICE_PORT`.
    pub port: u16,
    /// PEM of the CA, for `ca.crt` of service-account volumes.
    pub ca: String,
}

/// What the node is told by whoever starts it.
#[derive(Clone)]
pub struct Options {
    /// Name of the Node object.
    pub name: String,
    /// State of Pods lies below it; made if missing. Belongs to this node alone.
    pub folder: PathBuf,
    /// Without one, every Pod is simulated.
    pub program: Option<Program>,
    pub api_server: ApiServer,
    /// Where the addresses of Pods come from.
    pub network: Network,
    /// The current time.
    pub clock: Clock,
}

/// A running node. Clones share it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

/// What all tasks of a node share.
struct Inner {
    client: kube::Client,
    options: Options,
    recorder: Recorder,
    addresses: Addresses,
    /// By uid.
    pods: Mutex<HashMap<String, Handle>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    proxy: Proxy,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("make the node's folder {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Inner {
    fn pods(&self) -> MutexGuard<'_, HashMap<String, Handle>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Prepares the folder, ends processes that an earlier run left behind, and starts the node's tasks.
    /// It does not wait for the API: what fails there is tried again.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub async fn start(
        client: kube::Client,
        mut options: Options,
        shutdown: CancellationToken,
    ) -> Result<Node, StartError> {
        let pods = options.folder.join("pods");
        // Processes have working folders of their own, so the path must not be relative.
        options.folder = std::fs::create_dir_all(&pods)
            .and_then(|()| std::fs::canonicalize(&options.folder))
            .map_err(|source| StartError::Folder {
                path: pods.clone(),
                source,
            })?;
        process::end_leftovers(&pods).await;
        let (recorder, writer) = Recorder::new(client.clone(), shutdown.clone());
        let recorder = recorder.component("kubelet").host(&options.name);
        let tasks = TaskTracker::new();
        let addresses = Addresses::new(options.network);
        let inner = Arc::new(Inner {
            proxy: Proxy::new(client.clone(), tasks.clone(), shutdown.clone()),
            client,
            options,
            recorder,
            addresses,
            pods: Mutex::default(),
            tasks,
            shutdown: shutdown.clone(),
        });
        inner.tasks.spawn(writer);
        inner
            .tasks
            .spawn(registration::run(inner.clone(), shutdown.clone()));
        watch_pods(&inner);
        watch_sources::<ConfigMap>(&inner);
        watch_sources::<Secret>(&inner);
        Ok(Node { inner })
    }

    /// Ends when, after the `shutdown` token given to `start`, every process and task of the node has ended.
    pub async fn stopped(&self) {
        self.inner.shutdown.cancelled().await;
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

fn watch_pods(node: &Arc<Inner>) {
    let api: Api<Pod> = Api::all(node.client.clone());
    let owner = node.clone();
    let on = move |change: Change<'_, Pod>| match change {
        Change::Applied(pod) => {
            let spec = pod.spec.as_ref();
            match spec.and_then(|spec| spec.node_name.as_deref()) {
                None | Some("") => bind(&owner, pod),
                Some(name) if name == owner.options.name => take(&owner, pod),
                Some(_) => {}
            }
        }
        Change::Deleted(pod) => {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            if let Some(handle) = owner.pods().get(&uid) {
                handle.gone.cancel();
            }
        }
        Change::Resynced => {
            let known: Vec<Arc<Pod>> = owner
                .pods()
                .values()
                .map(|handle| handle.latest.borrow().clone())
                .collect();
            let node = owner.clone();
            owner.tasks.spawn(async move {
                for pod in known {
                    drop_if_gone(&node, &pod).await;
                }
            });
        }
    };
    let shutdown = node.shutdown.clone();
    node.tasks
        .spawn(feed(api, watcher::Config::default(), shutdown, on));
}

/// A deletion that happened while no watch was open is seen by looking.
async fn drop_if_gone(node: &Inner, pod: &Pod) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(node.client.clone(), namespace);
    let Ok(found) = api.get_metadata_opt(name).await else {
        return;
    };
    if found.is_none_or(|found| found.metadata.uid != pod.metadata.uid) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if let Some(handle) = node.pods().get(&uid) {
            handle.gone.cancel();
        }
    }
}

/// Volumes and variables may refer to these; every Pod of the namespace looks whether that concerns it.
fn watch_sources<K>(node: &Arc<Inner>)
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    let api: Api<K> = Api::all(node.client.clone());
    let owner = node.clone();
    let on = move |change: Change<'_, K>| {
        let (Change::Applied(object) | Change::Deleted(object)) = change else {
            return;
        };
        let namespace = object.meta().namespace.as_ref();
        for handle in owner.pods().values() {
            if handle.latest.borrow().metadata.namespace.as_ref() == namespace {
                handle.refresh.notify_one();
            }
        }
    };
    let shutdown = node.shutdown.clone();
    node.tasks
        .spawn(feed(api, watcher::Config::default(), shutdown, on));
}

/// The scheduler's part: there is one node, so it is that one.
fn bind(node: &Arc<Inner>, pod: &Pod) {
    if pod.metadata.deletion_timestamp.is_some() {
        return;
    }
    let (node, pod) = (node.clone(), pod.clone());
    let tracker = node.tasks.clone();
    tracker.spawn(async move {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(node.client.clone(), &namespace);
        let binding = Binding {
            metadata: ObjectMeta {
                name: pod.metadata.name.clone(),
                namespace: pod.metadata.namespace.clone(),
                uid: pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.options.name.clone()),
                ..ObjectReference::default()
            },
        };
        let mut pause = std::time::Duration::from_millis(50);
        loop {
            let bound: Result<serde_json::Value, _> = api
                .create_subresource("binding", &name, &PostParams::default(), &binding)
                .await;
            match bound {
                Ok(_) => break,
                Err(error) if crate::controllers::error_code(&error).is_some() => {
                    tracing::debug!(pod = name, %error, "a pod was not bound");
                    return;
                }
                Err(error) => tracing::debug!(pod = name, %error, "a pod could not be bound yet"),
            }
            tokio::select! {
                () = node.shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(std::time::Duration::from_secs(5)),
            }
        }
        let message = format!("Successfully assigned {namespace}/{name} to {}", node.options.name);
        let clock = node.options.clock;
        node.recorder
            .component("default-scheduler")
            .normal(clock, reference(&pod), "Scheduled", message);
    });
}

/// Gives a Pod of this node to its worker, which is started if there is none.
fn take(node: &Arc<Inner>, pod: &Pod) {
    let Some(uid) = pod.metadata.uid.clone() else {
        return;
    };
    let mut pods = node.pods();
    if let Some(handle) = pods.get(&uid) {
        handle.latest.send_replace(Arc::new(pod.clone()));
        return;
    }
    // The uid becomes the name of a folder.
    if node.shutdown.is_cancelled() || volume::below(&uid) != Some(PathBuf::from(&uid)) {
        return;
    }
    let folder = node.options.folder.join("pods").join(&uid);
    let latest = watch::Sender::new(Arc::new(pod.clone()));
    let handle = Handle {
        gone: CancellationToken::new(),
        refresh: Arc::new(Notify::new()),
        live: Arc::new(Live {
            views: watch::Sender::new(Vec::new()),
            logs: watch::Sender::new(logs::earlier(&folder, pod)),
            root: folder.join("root"),
            variables: watch::Sender::default(),
            grace: AtomicU64::new(30_000),
        }),
        latest,
    };
    let worker = Worker {
        node: node.clone(),
        folder,
        latest: handle.latest.subscribe(),
        gone: handle.gone.clone(),
        refresh: handle.refresh.clone(),
        live: handle.live.clone(),
        shutdown: node.shutdown.clone(),
    };
    pods.insert(uid.clone(), handle);
    drop(pods);
    let owner = node.clone();
    node.tasks.spawn(async move {
        worker.run().await;
        owner.pods().remove(&uid);
    });
}

impl Connector for Node {
    fn connect(&self, connect: Connect) -> BoxFuture<'static, http::Response<Body>> {
        let node = self.inner.clone();
        Box::pin(async move {
            match (connect.resource.as_str(), connect.subresource.as_str()) {
                ("pods", "log") => logs::answer(&node, &connect),
                ("pods", "exec") => crate::exec::answer(exec_target(&node, &connect), connect),
                ("pods", "portforward") => {
                    crate::port_forward::answer(forward_target(&node, &connect), connect)
                }
                ("pods" | "services", "proxy") => node.proxy.answer(connect).await,
                (_, subresource) => refuse(&ApiError::new(
                    501,
                    "NotImplemented",
                    format!(
                        "localkube does not offer {subresource}: its pods are local processes or simulated"
                    ),
                )),
            }
        })
    }
}

/// Where exec into a Pod happens: the Pod's own root and the variables of its container.
fn exec_target(node: &Inner, connect: &Connect) -> Result<crate::exec::Target, ApiError> {
    let pod: Pod = serde_json::from_value(connect.object.clone())
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let query = connect.request.uri().query().unwrap_or_default();
    let wanted = form_urlencoded::parse(query.as_bytes())
        .find(|(key, value)| key == "container" && !value.is_empty())
        .map(|(_, value)| value.into_owned());
    let container = logs::container(&pod, wanted.as_deref())?;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let pods = node.pods();
    let handle = pods.get(&uid);
    let is_local = pod
        .spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .any(|candidate| candidate.name == container && pod::is_local(node, candidate));
    if !is_local {
        return Err(ApiError::bad_request(format!(
            "pod {} is simulated by localkube: no process stands behind it to run a command in",
            connect.name
        )));
    }
    let running = handle.is_some_and(|handle| {
        let views = handle.live.views.borrow();
        views.iter().any(|view| {
            view.name == container && matches!(view.state, status::State::Running { .. })
        })
    });
    let Some(handle) = handle.filter(|_| running) else {
        return Err(ApiError::internal(format!(
            "unable to upgrade connection: container not found (\"{container}\")"
        )));
    };
    let variables = handle.live.variables.borrow().get(&container).cloned();
    Ok(crate::exec::Target {
        root: handle.live.root.clone(),
        variables: variables.unwrap_or_default(),
        stopped: node.shutdown.clone(),
        tasks: node.tasks.clone(),
    })
}

/// Where port-forwarding to a Pod leads: its own address.
fn forward_target(
    node: &Inner,
    connect: &Connect,
) -> Result<crate::port_forward::Target, ApiError> {
    let pod: Pod = serde_json::from_value(connect.object.clone())
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    if !containers.into_iter().any(|one| pod::is_local(node, one)) {
        return Err(ApiError::bad_request(format!(
            "pod {} is simulated by localkube: no process stands behind it to connect to",
            connect.name
        )));
    }
    let status = pod.status.unwrap_or_default();
    let ip: Option<std::net::IpAddr> = status.pod_ip.and_then(|ip| ip.parse().ok());
    let (Some("Running"), Some(ip)) = (status.phase.as_deref(), ip) else {
        return Err(ApiError::internal(format!(
            "unable to upgrade connection: pod {} is not running",
            connect.name
        )));
    };
    Ok(crate::port_forward::Target {
        pod: crate::port_forward::Pod {
            name: connect.name.clone(),
            uid: pod.metadata.uid.unwrap_or_default(),
            resolve: Arc::new(move |port| {
                Box::pin(std::future::ready(Ok(std::net::SocketAddr::new(ip, port))))
            }),
        },
        stopped: node.shutdown.clone(),
        tasks: node.tasks.clone(),
    })
}
