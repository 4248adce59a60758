//! What a tunnel adds to a request, and what a large answer does to small ones beside it: each directly and over one tunnel, in one run.
//!
//! Everything is in one process and over the loopback: TCP, a websocket, TLS inside it and streams, as an agent has them. Read the ratios.

// The stand-in's authority alone.
#[allow(dead_code)]
#[path = "../../testkit/src/member.rs"]
mod member;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming as Inbound},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kah_net::{
    Address, Body, Dial, DialError, Dialling, Forward, Kind, Upstream, UpstreamSettings,
    tunnel::{
        ConnectSettings, Incoming, Proxies, Session, SessionLimits, Side, accept, answer, connect,
        session,
    },
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use member::{Authority, ReplyBody};

/// As large as a short list.
const ANSWER: &[u8] = &[b'x'; 4096];
/// A log that is followed.
const STREAM: usize = 1 << 30;
const BLOCK: usize = 32 * 1024;
/// Small requests in one sample, one after the other.
const REQUESTS: usize = 2000;

/// The member: one small answer, and a large one at `/log`.
async fn serve() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listen");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let service = service_fn(|request: Request<Inbound>| async move {
                Ok::<_, Infallible>(Response::new(match request.uri().path() {
                    "/log" => log(),
                    _ => http_body_util::Full::new(Bytes::from_static(ANSWER))
                        .map_err(|never| match never {})
                        .boxed_unsync(),
                }))
            });
            let server = http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

fn log() -> ReplyBody {
    static LINES: [u8; BLOCK] = [b'l'; BLOCK];
    let blocks = (0..STREAM / BLOCK).map(|_| Ok(Frame::data(Bytes::from_static(&LINES))));
    StreamBody::new(futures::stream::iter(blocks)).boxed_unsync()
}

/// Dials over a session.
#[derive(Debug)]
struct Over(Session);

impl Dial for Over {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            let stream = self.0.open().await;
            let stream =
                stream.map_err(|error| DialError::new(Kind::Unreachable, error.to_string()))?;
            Ok(Box::new(stream) as Box<dyn kah_net::Duplex>)
        })
    }
}

/// The agent's end: each stream is joined with a connection to the member.
fn bridge(mut incoming: Incoming, member: SocketAddr) {
    tokio::spawn(async move {
        while let Some(stream) = incoming.next().await {
            tokio::spawn(async move {
                let connection = TcpStream::connect(member).await.expect("connect");
                let _ = connection.set_nodelay(true);
                let stop = CancellationToken::new();
                kah_net::splice(stream, connection, Duration::from_secs(5), &stop).await;
            });
        }
    });
}

/// One tunnel to the member: the host's session. Both ends live as long as the process.
async fn tunnel(member: SocketAddr) -> Session {
    let authority = Authority::new().expect("authority");
    let hub = authority.issue("hub", false).expect("certificate");
    let agent = authority.issue("agent", false).expect("certificate");
    let mut config = hub.server(Some(&authority)).expect("server");
    config.alpn_protocols.clear();
    let server = Arc::new(config);
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM");
    roots.add(root).expect("root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(agent.certificate.as_bytes()).expect("PEM")],
            PrivateKeyDer::from_pem_slice(agent.key.as_bytes()).expect("PEM"),
        )
        .expect("certificate");

    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listen");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let (sessions, mut taken) = mpsc::channel(1);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accept");
        let _ = stream.set_nodelay(true);
        let service = service_fn(move |mut request: Request<Inbound>| {
            let (server, sessions) = (server.clone(), sessions.clone());
            async move {
                let (response, upgrade) = answer(&mut request).expect("upgrade");
                tokio::spawn(async move {
                    let stream = accept(upgrade, server).await.expect("TLS");
                    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
                    let limits = SessionLimits::default();
                    let both = session(stream, Side::Accepted, limits, &stop, &tasks);
                    let _ = sessions.send((both, stop)).await;
                });
                Ok::<_, Infallible>(response.map(|()| kah_net::empty()))
            }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let _ = connection.with_upgrades().await;
    });
    let stream = connect(&ConnectSettings {
        address: Address::parse(&url).expect("address"),
        path: "/tunnel",
        proxies: Proxies::default(),
        tls: Arc::new(client),
        server_name: "hub".try_into().expect("name"),
        step: Duration::from_secs(5),
    })
    .await
    .expect("connect");
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let limits = SessionLimits::default();
    let (agent, incoming) = session(stream, Side::Dialled, limits, &stop, &tasks);
    bridge(incoming, member);
    let ((host, theirs), ends) = taken.recv().await.expect("session");
    std::mem::forget((agent, stop, theirs, ends));
    host
}

async fn ask(upstream: &Upstream, target: &str) -> Response<Body> {
    let request = Request::get(target)
        .body(kah_net::empty())
        .expect("request");
    let forward = Forward::new(target.parse().expect("target"));
    upstream.send(request, forward).await.expect("answer")
}

/// How long each of the small requests took, sorted.
async fn small(upstream: &Upstream, until: impl Fn() -> bool) -> Vec<Duration> {
    let mut took = Vec::new();
    while took.len() < REQUESTS && !until() {
        let since = Instant::now();
        let body = ask(upstream, "/small").await.into_body().collect().await;
        assert_eq!(body.expect("body").to_bytes().len(), ANSWER.len());
        took.push(since.elapsed());
    }
    took.sort_unstable();
    took
}

/// The same while a large answer goes on; also its rate, bytes a second.
async fn beside(upstream: &Upstream) -> (Vec<Duration>, f64) {
    let large = upstream.clone();
    let since = Instant::now();
    let reading = tokio::spawn(async move {
        let mut body = ask(&large, "/log").await.into_body();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame.expect("frame").data_ref().map_or(0, Bytes::len);
        }
        assert_eq!(read, STREAM);
        since.elapsed()
    });
    let took = small(upstream, || reading.is_finished()).await;
    let whole = reading.await.expect("stream");
    (took, STREAM as f64 / whole.as_secs_f64())
}

fn at(sorted: &[Duration], share: f64) -> f64 {
    let place = (sorted.len() as f64 * share) as usize;
    sorted[place.min(sorted.len() - 1)].as_secs_f64() * 1e6
}

#[allow(clippy::print_stdout)]
fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let member = serve().await;
        let settings = || {
            let address = Address::parse(&format!("http://{member}")).expect("address");
            UpstreamSettings::new(address)
        };
        let direct = Upstream::new(settings()).expect("upstream");
        let tunnelled = Upstream::new(UpstreamSettings {
            dial: Some(Arc::new(Over(tunnel(member).await))),
            ..settings()
        })
        .expect("upstream");
        let mut medians = Vec::new();
        println!("way      small requests        number  median us   p99 us  stream MB/s");
        for (way, upstream) in [("direct", &direct), ("tunnel", &tunnelled)] {
            // The connection is there, and the code is warm.
            small(upstream, || false).await;
            let alone = small(upstream, || false).await;
            let (loaded, rate) = beside(upstream).await;
            let row = |what: &str, took: &[Duration]| {
                let (median, p99) = (at(took, 0.5), at(took, 0.99));
                println!(
                    "{way}   {what:<20} {:>7} {median:>10.0} {p99:>8.0}",
                    took.len()
                );
            };
            row("alone", &alone);
            row("beside a 1 GB stream", &loaded);
            println!("{way}   the stream itself {:>42.0}", rate / 1e6);
            let ratio = at(&loaded, 0.99) / at(&alone, 0.99);
            println!("{way}   p99 beside / alone {ratio:.2}");
            medians.push(at(&alone, 0.5));
        }
        println!("median, tunnel / direct {:.2}", medians[1] / medians[0]);
    });
}
