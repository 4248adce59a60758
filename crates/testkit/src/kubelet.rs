//! Plays the kubelet on a real control plane: localkube's node over a `kube::Client`, and the HTTPS port at
//! which kube-apiserver asks a node for logs, exec and port-forwarding.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kah_localkube::connect::{Body, Connect, Connector};
use kah_localkube::node::{self, Node};
use kube::api::{Api, Patch, PatchParams};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A running node stand-in. `stop` ends it, its Pods' processes included.
pub struct Kubelet {
    node: Node,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    address: SocketAddr,
}

impl Kubelet {
    /// Starts a node named `name` on the cluster behind `client`.
    ///
    /// # Errors
    /// The node's folder or port cannot be had, or the Node object does not appear within half a minute.
    pub async fn start(client: kube::Client, options: node::Options) -> Result<Self> {
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let name = options.name.clone();
        let node = Node::start(client.clone(), options, shutdown.clone()).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(Arc::new(certificate()?));
        tasks.spawn(serve(
            listener,
            acceptor,
            client.clone(),
            node.clone(),
            tasks.clone(),
            shutdown.clone(),
        ));
        let kubelet = Kubelet {
            node,
            tasks,
            shutdown,
            address,
        };
        kubelet.announce(client, &name).await?;
        Ok(kubelet)
    }

    /// Ends the node and every process of its Pods.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.node.stopped().await;
    }

    /// Tells kube-apiserver where to ask, and that it may do so by websocket.
    async fn announce(&self, client: kube::Client, name: &str) -> Result<()> {
        let nodes: Api<NodeObject> = Api::all(client);
        // The node writes its status once, when it becomes ready; what is said before that is lost.
        crate::eventually(
            std::time::Duration::from_secs(30),
            "a ready Node",
            async || {
                nodes
                    .get_opt(name)
                    .await
                    .ok()
                    .flatten()
                    .is_some_and(is_ready)
            },
        )
        .await?;
        let status = serde_json::json!({"status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.address.port()}},
            "declaredFeatures": ["ExtendWebSocketsToKubelet"],
        }});
        nodes
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .context("announcing the kubelet's port")?;
        Ok(())
    }
}

fn is_ready(node: NodeObject) -> bool {
    let conditions = node.status.and_then(|status| status.conditions);
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn certificate() -> Result<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?)
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    client: kube::Client,
    node: Node,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (acceptor, client, node, shutdown) = (
            acceptor.clone(),
            client.clone(),
            node.clone(),
            shutdown.clone(),
        );
        tasks.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = hyper::service::service_fn(move |request| {
                answer(client.clone(), node.clone(), request)
            });
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
            tokio::select! {
                () = shutdown.cancelled() => {}
                // A client that leaves is no fault of the node.
                _ = connection => {}
            }
        });
    }
}

/// `/containerLogs/{namespace}/{pod}/{container}`, `/exec/{namespace}/{pod}/{container}` and
/// `/portForward/{namespace}/{pod}`, as a kubelet has them.
async fn answer(
    client: kube::Client,
    node: Node,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (subresource, namespace, pod, container) = match parts.as_slice() {
        ["containerLogs", namespace, pod, container] => ("log", namespace, pod, *container),
        ["exec", namespace, pod, container] => ("exec", namespace, pod, *container),
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            ("portforward", namespace, pod, "")
        }
        _ => return Ok(plain(StatusCode::NOT_FOUND, "404 page not found\n")),
    };
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let object = match pods.get(pod).await.map(serde_json::to_value) {
        Ok(Ok(object)) => object,
        _ => return Ok(plain(StatusCode::NOT_FOUND, "pod not found\n")),
    };
    let query = request.uri().query().unwrap_or_default();
    let uri = format!("/?container={container}&{}", in_pod_words(query));
    let (mut head, body) = request.into_parts();
    let Ok(uri) = uri.parse() else {
        return Ok(plain(StatusCode::BAD_REQUEST, "bad query\n"));
    };
    head.uri = uri;
    let body = body.map_err(Into::into).boxed_unsync();
    Ok(node
        .connect(Connect {
            resource: "pods".into(),
            subresource: subresource.into(),
            namespace: (*namespace).into(),
            name: (*pod).into(),
            object,
            rest: String::new(),
            request: Request::from_parts(head, body),
        })
        .await)
}

/// A kubelet's words for the streams of exec differ from those of a Pod's subresource.
fn in_pod_words(query: &str) -> String {
    query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some(("input", value)) => format!("stdin={value}"),
            Some(("output", value)) => format!("stdout={value}"),
            Some(("error", value)) => format!("stderr={value}"),
            _ => pair.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("&")
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(
        Full::new(Bytes::from_static(text.as_bytes()))
            .map_err(|never: Infallible| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = status;
    response
}

/// A client for the kubeconfig at `path`.
pub async fn client(path: &Path) -> Result<kube::Client> {
    let config = kube::config::Kubeconfig::read_from(path)?;
    let config =
        kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default())
            .await?;
    Ok(kube::Client::try_from(config)?)
}
