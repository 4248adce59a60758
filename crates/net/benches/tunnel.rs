//! What a tunnel adds to a request, and what a large answer, a large request and a slow reader do to small ones beside them: each directly and over one
//! tunnel, in several rounds of one run.
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
const ROUNDS: usize = 5;
/// Between two pieces that a slow reader takes.
const SLOW: Duration = Duration::from_millis(50);

/// The member: one small answer, a large one at `/log`, and at `/take` it reads what it is given.
async fn serve() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listen");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let service = service_fn(|request: Request<Inbound>| async move {
                Ok::<_, Infallible>(Response::new(match request.uri().path() {
                    "/log" => log(),
                    "/take" => {
                        assert_eq!(length(request.into_body()).await, STREAM);
                        answered()
                    }
                    _ => answered(),
                }))
            });
            let server = http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

fn answered() -> ReplyBody {
    http_body_util::Full::new(Bytes::from_static(ANSWER))
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn log() -> ReplyBody {
    static LINES: [u8; BLOCK] = [b'l'; BLOCK];
    let blocks = (0..STREAM / BLOCK).map(|_| Ok(Frame::data(Bytes::from_static(&LINES))));
    StreamBody::new(futures::stream::iter(blocks)).boxed_unsync()
}

/// Reads a body to its end.
async fn length<B>(mut body: B) -> usize
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame.expect("frame").data_ref().map_or(0, Bytes::len);
    }
    read
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
                    let limits = SessionLimits {
                        silence: Duration::from_secs(3600),
                        ..SessionLimits::default()
                    };
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
    let limits = SessionLimits {
        silence: Duration::from_secs(3600),
        ..SessionLimits::default()
    };
    let (agent, incoming) = session(stream, Side::Dialled, limits, &stop, &tasks);
    bridge(incoming, member);
    let ((host, theirs), ends) = taken.recv().await.expect("session");
    std::mem::forget((agent, stop, theirs, ends));
    host
}

async fn ask(upstream: &Upstream, target: &str, body: Body) -> Response<Body> {
    let method = if target == "/take" { "POST" } else { "GET" };
    let request = Request::builder().method(method).uri(target);
    let request = request.body(body).expect("request");
    let forward = Forward::new(target.parse().expect("target"));
    upstream.send(request, forward).await.expect("answer")
}

/// How long each of the small requests took, sorted.
async fn small(upstream: &Upstream, until: impl Fn() -> bool) -> Vec<Duration> {
    let mut took = Vec::new();
    while took.len() < REQUESTS && !until() {
        let since = Instant::now();
        let answer = ask(upstream, "/small", kah_net::empty()).await;
        assert_eq!(length(answer.into_body()).await, ANSWER.len());
        took.push(since.elapsed());
    }
    took.sort_unstable();
    took
}

/// What goes on beside small requests.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    Stream,
    Upload,
    SlowReader,
}

impl Beside {
    const ALL: [Self; 4] = [Self::Nothing, Self::Stream, Self::Upload, Self::SlowReader];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "alone",
            Self::Stream => "beside a 1 GB answer",
            Self::Upload => "beside a 1 GB request",
            Self::SlowReader => "beside a slow reader",
        }
    }

    async fn happen(self, upstream: Upstream) {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::Stream => {
                let body = ask(&upstream, "/log", kah_net::empty()).await.into_body();
                assert_eq!(length(body).await, STREAM);
            }
            Self::Upload => {
                let body = ask(&upstream, "/take", log().map_err(Into::into).boxed_unsync()).await;
                assert_eq!(length(body.into_body()).await, ANSWER.len());
            }
            Self::SlowReader => {
                let mut body = ask(&upstream, "/log", kah_net::empty()).await.into_body();
                while let Some(frame) = body.frame().await {
                    frame.expect("frame");
                    tokio::time::sleep(SLOW).await;
                }
            }
        }
    }

    /// Small requests meanwhile; and the rate of what was measured to its end, bytes a second.
    async fn measure(self, upstream: &Upstream) -> (Vec<Duration>, Option<f64>) {
        let since = Instant::now();
        let going = tokio::spawn(self.happen(upstream.clone()));
        let took = small(upstream, || going.is_finished()).await;
        if matches!(self, Self::Nothing | Self::SlowReader) {
            going.abort();
            return (took, None);
        }
        going.await.expect("what goes on");
        (took, Some(STREAM as f64 / since.elapsed().as_secs_f64()))
    }
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
        println!("way      small requests          number  median us   p99 us  MB/s");
        let mut ratios: Vec<(&str, Beside, Vec<f64>)> = Vec::new();
        let mut added = Vec::new();
        for round in 1..=ROUNDS {
            println!("round {round}");
            let mut medians = Vec::new();
            for (way, upstream) in [("direct", &direct), ("tunnel", &tunnelled)] {
                // The connection is there, and the code is warm.
                small(upstream, || false).await;
                let mut calm = f64::NAN;
                for beside in Beside::ALL {
                    let (took, rate) = beside.measure(upstream).await;
                    let (median, p99) = (at(&took, 0.5), at(&took, 0.99));
                    let rate = rate.map_or_else(String::new, |it| format!("{:.0}", it / 1e6));
                    println!(
                        "{way}   {:<21} {:>8} {median:>10.0} {p99:>8.0} {rate:>5}",
                        beside.name(),
                        took.len()
                    );
                    if matches!(beside, Beside::Nothing) {
                        calm = p99;
                        medians.push(median);
                        continue;
                    }
                    let ratio = p99 / calm;
                    let known = ratios
                        .iter_mut()
                        .find(|(known, what, _)| *known == way && what.name() == beside.name());
                    match known {
                        Some((_, _, all)) => all.push(ratio),
                        None => ratios.push((way, beside, vec![ratio])),
                    }
                }
            }
            added.push(medians[1] / medians[0]);
        }
        println!("over {ROUNDS} rounds                              smallest  median  largest");
        for (way, beside, mut all) in ratios {
            let what = format!("{way}, p99 {} / alone", beside.name());
            spread(&what, &mut all);
        }
        spread("median alone, tunnel / direct", &mut added);
    });
}

#[allow(clippy::print_stdout)]
fn spread(what: &str, all: &mut [f64]) {
    all.sort_by(f64::total_cmp);
    let (smallest, median, largest) = (all[0], all[all.len() / 2], all[all.len() - 1]);
    println!("{what:<44} {smallest:>7.2} {median:>7.2} {largest:>8.2}");
}
