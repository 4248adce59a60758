//! What the step through an upstream costs: so many connections ask a server directly, and through a forwarder in front of it.

use std::{convert::Infallible, net::SocketAddr};

use divan::{Bencher, counter::ItemsCount};
use futures::future::join_all;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use kah_net::{Address, Body, Forward, Upstream, UpstreamSettings};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

/// Requests of one connection in one sample.
const REQUESTS: usize = 16;
/// As large as a short list.
const ANSWER: [u8; 4096] = [b'x'; 4096];

fn main() {
    divan::main();
}

/// Serves one answer, or what an upstream answers.
async fn server(upstream: Option<Upstream>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listen");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            // As the gateway does: small answers must not wait.
            let _ = stream.set_nodelay(true);
            let upstream = upstream.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let upstream = upstream.clone();
                async move {
                    let Some(upstream) = upstream else {
                        return Ok::<_, Infallible>(Response::new(kah_net::full(&ANSWER[..])));
                    };
                    let target = request.uri().path_and_query().expect("target").clone();
                    let mut forward = Forward::new(target);
                    forward.client = Some(peer.ip());
                    Ok(upstream.send(request, forward).await.expect("answer"))
                }
            });
            tokio::spawn(async move {
                let served = Builder::new(TokioExecutor::new());
                let _ = served.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

async fn open(address: SocketAddr) -> SendRequest<Body> {
    let stream = TcpStream::connect(address).await.expect("connect");
    let _ = stream.set_nodelay(true);
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("shake");
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &mut SendRequest<Body>) {
    for _ in 0..REQUESTS {
        let request = Request::get("/api/v1/namespaces/default/pods?limit=500")
            .header("host", "bench")
            .header("accept", "application/json")
            .header("user-agent", "bench")
            .body(kah_net::empty())
            .expect("request");
        sender.ready().await.expect("ready");
        let answer = sender.send_request(request).await.expect("answer");
        let body = answer.into_body().collect().await.expect("body").to_bytes();
        assert_eq!(body.len(), ANSWER.len());
    }
}

fn measure(bencher: Bencher<'_, '_>, connections: usize, through: bool) {
    let runtime = Runtime::new().expect("runtime");
    let mut senders = runtime.block_on(async {
        let mut address = server(None).await;
        if through {
            let member = Address::parse(&format!("http://{address}")).expect("address");
            let upstream = Upstream::new(UpstreamSettings::new(member)).expect("upstream");
            address = server(Some(upstream)).await;
        }
        join_all((0..connections).map(|_| open(address))).await
    });
    bencher
        .counter(ItemsCount::new(connections * REQUESTS))
        .bench_local(|| runtime.block_on(join_all(senders.iter_mut().map(ask))));
}

#[divan::bench(args = [1, 16, 64], sample_count = 50, sample_size = 1)]
fn direct(bencher: Bencher<'_, '_>, connections: usize) {
    measure(bencher, connections, false);
}

#[divan::bench(args = [1, 16, 64], sample_count = 50, sample_size = 1)]
fn forwarded(bencher: Bencher<'_, '_>, connections: usize) {
    measure(bencher, connections, true);
}
