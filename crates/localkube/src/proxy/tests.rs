//! Requests through the proxy to a small HTTP/1.1 server that says exactly what a test wants said.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::endpoint;
use super::forward::{Limits, Upstream};
use crate::connect::{Body, Connect, PeerAddress};

const PATIENCE: Duration = Duration::from_secs(10);
const PREFIX: &str = "/api/v1/namespaces/a/pods";

/// A Pod that answers one connection by hand.
struct Pod {
    listener: TcpListener,
}

impl Pod {
    async fn new() -> Pod {
        Pod {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// The next connection and the head of its request.
    async fn accept(&self) -> (TcpStream, String) {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        (stream, String::from_utf8(head).unwrap())
    }
}

/// The proxy behind a server of its own, on an address that requests seem to come from.
struct Front {
    address: SocketAddr,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

async fn front(limits: Limits, peer: Option<&'static str>) -> Front {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let upstream = Upstream::new(limits, tasks.clone(), shutdown.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let upstream = upstream.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let upstream = upstream.clone();
                async move { Ok::<_, std::convert::Infallible>(pass(upstream, request, peer).await) }
            });
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            tokio::spawn(serving);
        }
    });
    Front {
        address,
        tasks,
        shutdown,
    }
}

async fn pass(
    upstream: Upstream,
    request: Request<Incoming>,
    peer: Option<&str>,
) -> Response<Body> {
    let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
    if let Some(peer) = peer {
        request
            .extensions_mut()
            .insert(PeerAddress(peer.parse().unwrap()));
    }
    let below = request
        .uri()
        .path()
        .strip_prefix(PREFIX)
        .unwrap()
        .trim_start_matches('/');
    let (name, rest) = below.split_once("/proxy").unwrap();
    let (name, rest) = (name.to_owned(), rest.replace("%20", " "));
    let object = json!({"metadata": {"name": "p"}, "spec": {"containers": []}, "status": {"podIP": "127.0.0.1"}});
    let target = endpoint::of_pod(&name, &object).unwrap();
    let connect = Connect {
        resource: "pods".to_owned(),
        subresource: "proxy".to_owned(),
        namespace: "a".to_owned(),
        name,
        object,
        rest,
        request,
    };
    upstream.forward(target, connect).await
}

impl Front {
    /// A connection of a client; the task ends with it.
    async fn client(&self) -> http1::SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    async fn send(&self, request: http::request::Builder) -> Response<Incoming> {
        let request = request
            .header("host", "api.example")
            .body(Full::default())
            .unwrap();
        let mut client = self.client().await;
        tokio::time::timeout(PATIENCE, client.send_request(request))
            .await
            .unwrap()
            .unwrap()
    }
}

fn get(port: u16, rest: &str) -> http::request::Builder {
    Request::get(format!("{PREFIX}/p:{port}/proxy{rest}"))
}

async fn status(response: Response<Incoming>) -> (StatusCode, Value) {
    let code = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn a_request_arrives_as_kube_apiserver_sends_it() {
    let (pod, front) = (
        Pod::new().await,
        front(Limits::default(), Some("192.0.2.7:5000")).await,
    );
    let port = pod.port();
    let request = get(port, "/a/b%20c?x=%20y&watch=1")
        .header("authorization", "Bearer secret")
        .header("x-forwarded-for", "9.9.9.9")
        .header("x-forwarded-uri", "/elsewhere")
        .header("x-kept", "yes")
        .header("x-hop", "no")
        .header("connection", "x-hop")
        .header("proxy-authorization", "Basic eDp5");
    let answer = async {
        let (mut stream, head) = pod.accept().await;
        let text =
            b"HTTP/1.1 201 Created\r\nx-own: 1\r\nkeep-alive: 5\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(text).await.unwrap();
        head
    };
    let (response, head) = tokio::join!(front.send(request), answer);
    assert_eq!(response.status(), StatusCode::CREATED);
    assert!(
        response.headers().contains_key("x-own") && !response.headers().contains_key("keep-alive")
    );
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "ok"
    );
    let mut lines: Vec<&str> = head.trim().split("\r\n").collect();
    assert_eq!(lines.remove(0), "GET /a/b%20c?x=%20y&watch=1 HTTP/1.1");
    lines.sort_unstable();
    let asked = format!("x-forwarded-uri: {PREFIX}/p:{port}/proxy/a/b%20c");
    assert_eq!(
        lines,
        [
            "host: api.example",
            "x-forwarded-for: 9.9.9.9, 192.0.2.7",
            asked.as_str(),
            "x-kept: yes"
        ]
    );
}

#[tokio::test]
async fn a_request_of_this_process_comes_from_nowhere() {
    let (pod, front) = (Pod::new().await, front(Limits::default(), None).await);
    let answer = async {
        let (mut stream, head) = pod.accept().await;
        stream
            .write_all(b"HTTP/1.1 302 Found\r\nlocation: /other?a=b\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        head
    };
    let (response, head) = tokio::join!(front.send(get(pod.port(), "/")), answer);
    assert!(!head.contains("x-forwarded-for"), "{head}");
    let below = format!("{PREFIX}/p:{}/proxy/other?a=b", pod.port());
    assert_eq!(response.headers()["location"], below.as_str());
}

#[tokio::test]
async fn a_stream_comes_through_piece_by_piece_and_ends_when_the_client_leaves() {
    let (pod, front) = (Pod::new().await, front(Limits::default(), None).await);
    let (sender, mut left) = tokio::sync::oneshot::channel();
    let serve = async {
        let (mut stream, _) = pod.accept().await;
        let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none\n\r\n";
        stream.write_all(text).await.unwrap();
        stream
    };
    let mut client = front.client().await;
    let request = get(pod.port(), "/watch").body(Full::default()).unwrap();
    let (response, mut stream) = tokio::join!(client.send_request(request), serve);
    let mut body = response.unwrap().into_body();
    let first = tokio::time::timeout(PATIENCE, body.frame()).await.unwrap();
    assert_eq!(first.unwrap().unwrap().into_data().unwrap(), "one\n");
    let reading = tokio::spawn(async move {
        let end = stream.read(&mut [0; 16]).await;
        let _ = sender.send(());
        end
    });
    assert!(left.try_recv().is_err());
    drop((body, client));
    let end = tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn a_pod_that_dies_half_way_is_an_error_and_no_short_answer() {
    for head in [
        "content-length: 100\r\n\r\nhalf",
        "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let (pod, front) = (Pod::new().await, front(Limits::default(), None).await);
        let die = async {
            let (mut stream, _) = pod.accept().await;
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes())
                .await
                .unwrap();
        };
        let (response, ()) = tokio::join!(front.send(get(pod.port(), "/")), die);
        assert_eq!(response.status(), StatusCode::OK);
        let body = tokio::time::timeout(PATIENCE, response.into_body().collect())
            .await
            .unwrap();
        assert!(body.is_err(), "{head}");
    }
}

#[tokio::test]
async fn why_there_is_no_answer_is_told() {
    let limits = Limits {
        connect: PATIENCE,
        head: Duration::from_millis(200),
    };
    let front = front(limits, None).await;
    let free = Pod::new().await.port();
    let (code, refused) = status(front.send(get(free, "/")).await).await;
    let expected = format!(
        "error trying to reach service: dial tcp 127.0.0.1:{free}: connect: connection refused"
    );
    assert_eq!(
        (code.as_u16(), &refused["message"], &refused["reason"]),
        (503, &json!(expected), &json!("ServiceUnavailable"))
    );

    let pod = Pod::new().await;
    let hang_up = async { drop(pod.accept().await) };
    let (response, ()) = tokio::join!(front.send(get(pod.port(), "/")), hang_up);
    let (code, gone) = status(response).await;
    assert_eq!(
        (code.as_u16(), &gone["message"]),
        (503, &json!("error trying to reach service: EOF"))
    );

    // This one stays open and says nothing.
    let (response, open) = tokio::join!(front.send(get(pod.port(), "/")), pod.accept());
    let (code, late) = status(response).await;
    assert_eq!((code.as_u16(), &late["reason"]), (504, &json!("Timeout")));
    drop(open);

    let switch = async {
        let (mut stream, _) = pod.accept().await;
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
            )
            .await
            .unwrap();
        stream
    };
    let (response, _open) = tokio::join!(front.send(get(pod.port(), "/")), switch);
    assert!(response.status().is_server_error(), "{}", response.status());
}

#[tokio::test]
async fn an_upgraded_connection_is_copied_until_the_node_stops() {
    let (pod, front) = (
        Pod::new().await,
        front(Limits::default(), Some("192.0.2.7:5000")).await,
    );
    let request = get(pod.port(), "/exec?command=ls")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-key", "k");
    let serve = async {
        let (mut stream, head) = pod.accept().await;
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n").await.unwrap();
        (stream, head)
    };
    let (response, (mut stream, head)) = tokio::join!(front.send(request), serve);
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    // The query is lost as kube-apiserver loses it.
    assert!(head.starts_with("GET /exec HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains("x-forwarded-for: 192.0.2.7\r\n") && !head.contains("x-forwarded-uri"),
        "{head}"
    );
    assert!(
        head.contains("upgrade: websocket\r\n") && head.contains("sec-websocket-key: k\r\n"),
        "{head}"
    );
    let mut client = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    client.write_all(b"ping").await.unwrap();
    let mut four = [0; 4];
    stream.read_exact(&mut four).await.unwrap();
    stream.write_all(b"pong").await.unwrap();
    client.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"pong");
    front.tasks.close();
    assert_eq!(front.tasks.len(), 1);
    front.shutdown.cancel();
    tokio::time::timeout(PATIENCE, front.tasks.wait())
        .await
        .unwrap();
    let ended = tokio::time::timeout(PATIENCE, stream.read(&mut four))
        .await
        .unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)));
    let ended = tokio::time::timeout(PATIENCE, client.read(&mut four))
        .await
        .unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)));
}
