//! Members that cost next to nothing: HTTP servers in this process that answer as a kube-apiserver with a ks-apiserver behind it does.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

type Body = UnsyncBoxBody<Bytes, Infallible>;

const SERVICE_PROXY: &str = "/api/v1/namespaces/kubesphere-system/services/:ks-apiserver:/proxy";

/// Bytes that the system keeps for the far ends of the host's connections. Here it is one system for all of them, and a machine of its own for each of
/// them elsewhere.
pub const KERNEL: usize = 256 * 1024;

/// What passes a simulated member, and whether it is a black hole now.
#[derive(Default)]
pub struct Counters {
    /// Bytes in both directions, TLS included.
    pub bytes: AtomicU64,
    /// Requests.
    pub requests: AtomicU64,
    /// Takes connections and bytes, and never answers.
    pub silent: AtomicBool,
}

/// A running member.
pub struct Simulated {
    /// Its name in the fleet.
    pub name: String,
    /// Where its kube-apiserver listens.
    pub address: SocketAddr,
    /// What it counted.
    pub counters: Arc<Counters>,
}

impl Simulated {
    /// Starts one on a free port, over TLS where an acceptor is given. It ends with the process.
    ///
    /// # Errors
    /// There is no port to be had.
    pub async fn start(name: String, tls: Option<TlsAcceptor>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let counters = Arc::new(Counters::default());
        let (all, own) = (counters.clone(), name.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (counters, name, tls) = (all.clone(), own.clone(), tls.clone());
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let _ = socket2::SockRef::from(&stream).set_send_buffer_size(KERNEL);
                    let stream = Counted {
                        stream,
                        counters: counters.clone(),
                    };
                    match tls {
                        None => serve(stream, name, counters).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, name, counters).await;
                            }
                        }
                    }
                });
            }
        });
        Ok(Self {
            name,
            address,
            counters,
        })
    }
}

async fn serve<S>(stream: S, name: String, counters: Arc<Counters>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| {
        let (name, counters) = (name.clone(), counters.clone());
        async move {
            counters.requests.fetch_add(1, Ordering::Relaxed);
            if counters.silent.load(Ordering::Acquire) {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(answer(&name, request).await)
        }
    });
    // A client that leaves is no fault.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(name: &str, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    let path = path.strip_prefix(SERVICE_PROXY).unwrap_or(path).to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let method = request.method().clone();
    if query.contains("watch=true") || query.contains("watch=1") {
        let never = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let mut response = Response::new(never.boxed_unsync());
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json"),
        );
        return response;
    }
    if method == Method::PATCH || method == Method::PUT || method == Method::POST {
        // What is written is said back: nothing is kept.
        let body = request.into_body().collect().await;
        let bytes = body
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        return json(StatusCode::OK, Full::new(bytes));
    }
    if let Some(body) = too_much(&path) {
        return Response::new(body);
    }
    let (status, value) = read(name, &path);
    json(status, Full::new(Bytes::from(value.to_string())))
}

/// What a member says that means no good.
fn too_much(path: &str) -> Option<Body> {
    static BLOCK: [u8; 32 * 1024] = [b'x'; 32 * 1024];
    let block = || Ok(Frame::data(Bytes::from_static(&BLOCK)));
    let (what, blocks) = path.rsplit_once('/')?;
    if what.ends_with("/blocks") {
        // So many, however many that are.
        let blocks = blocks.parse().ok()?;
        let blocks = std::iter::repeat_with(block).take(blocks);
        return Some(StreamBody::new(futures::stream::iter(blocks)).boxed_unsync());
    }
    if blocks != "drip" {
        return None;
    }
    let drip = futures::stream::unfold((), |()| async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        Some((Ok(Frame::data(Bytes::from_static(b"x"))), ()))
    });
    Some(StreamBody::new(drip).boxed_unsync())
}

fn json(status: StatusCode, body: Full<Bytes>) -> Response<Body> {
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

fn read(name: &str, path: &str) -> (StatusCode, Value) {
    let version = json!({"major": "1", "minor": "36", "gitVersion": "v1.36.2"});
    let found = match path {
        "/version" => version,
        "/kapis/version" => json!({"gitVersion": "v3.4.1", "kubernetes": version}),
        "/kapis/config.kubesphere.io/v1alpha2/configs/configz" => json!({"multicluster": false}),
        "/api/v1/namespaces/kube-system" => json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": format!("uid-of-{name}")},
        }),
        "/api/v1/nodes" => json!({
            "apiVersion": "v1", "kind": "NodeList", "metadata": {"resourceVersion": "1"},
            "items": [{"metadata": {"name": "node-1"}}],
        }),
        "/api/v1/namespaces/kubesphere-system/configmaps/kubesphere-config" => json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "kubesphere-config", "namespace": "kubesphere-system", "resourceVersion": "1"},
            "data": {"kubesphere.yaml": format!("authentication:\n  jwtSecret: simulated\nmulticluster:\n  clusterRole: member\n  clusterName: {name}\n")},
        }),
        "/apis/apps/v1/namespaces/kubesphere-system/deployments/ks-apiserver" => json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "ks-apiserver", "namespace": "kubesphere-system", "resourceVersion": "1"},
            "spec": {"replicas": 1, "selector": {}, "template": {}}, "status": {"readyReplicas": 1},
        }),
        "/api/v1/namespaces/default" => json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "uid": name},
        }),
        _ if is_list(path) => {
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []})
        }
        _ => {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "reason": "NotFound", "message": format!("{path} not found"), "code": 404,
            });
            return (StatusCode::NOT_FOUND, status);
        }
    };
    (StatusCode::OK, found)
}

/// `/apis/GROUP/VERSION/RESOURCE`
fn is_list(path: &str) -> bool {
    path.starts_with("/apis/") && path.split('/').count() == 5
}

/// Counts what passes.
struct Counted {
    stream: TcpStream,
    counters: Arc<Counters>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let more = buf.filled().len() - before;
        self.counters
            .bytes
            .fetch_add(more as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(more)) = &written {
            self.counters
                .bytes
                .fetch_add(*more as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
