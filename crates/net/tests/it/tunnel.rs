use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Request;
use http_body_util::BodyExt;
use hyper::{body::Incoming as Inbound, service::service_fn};
use hyper_util::rt::TokioIo;
use kah_net::{
    Address, Dial, DialError, Dialling, Kind, Upstream, UpstreamSettings,
    tunnel::{
        ConnectSettings, Incoming, NoUpgrade, Proxies, Session, SessionLimits, Side, accept,
        answer, connect, read_frame, session, write_frame,
    },
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    front, get,
    member::{Authority, Member, Pair, Reply, stream},
    soon, to, until,
};

struct Ends {
    ours: Session,
    theirs: Session,
    incoming: Incoming,
    stop: CancellationToken,
    _keep: Incoming,
}

/// Both ends of a session over memory; streams of `ours` come in at the other end.
fn ends(limits: SessionLimits) -> Ends {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let (ours, keep) = session(near, Side::Accepted, limits, &stop, &tasks);
    let (theirs, incoming) = session(far, Side::Dialled, limits, &stop, &tasks);
    Ends {
        ours,
        theirs,
        incoming,
        stop,
        _keep: keep,
    }
}

#[tokio::test]
async fn an_end_and_a_cut_are_told_apart() {
    let mut ends = ends(SessionLimits::default());
    let mut ours = soon(ends.ours.open()).await.expect("stream");
    ours.write_all(b"hello").await.expect("write");
    let mut theirs = soon(ends.incoming.next()).await.expect("stream");
    let mut word = [0; 5];
    soon(theirs.read_exact(&mut word)).await.expect("read");
    assert_eq!(&word, b"hello");
    // A good end, the other direction still open.
    theirs.write_all(b"bye").await.expect("write");
    theirs.shutdown().await.expect("end");
    let mut rest = String::new();
    soon(ours.read_to_string(&mut rest)).await.expect("read");
    assert_eq!(rest, "bye");
    // Dropped without an end: an error, as no good end may be made up.
    let mut ours = soon(ends.ours.open()).await.expect("stream");
    ours.write_all(b"x").await.expect("write");
    drop(soon(ends.incoming.next()).await.expect("stream"));
    let error = soon(ours.read(&mut word)).await.expect_err("cut");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn the_end_of_a_session_cuts_its_streams_and_frees_them() {
    let mut ends = ends(SessionLimits::default());
    let mut ours = soon(ends.ours.open()).await.expect("stream");
    ours.write_all(b"x").await.expect("write");
    let mut theirs = soon(ends.incoming.next()).await.expect("stream");
    assert_eq!((ends.ours.load(), ends.theirs.load()), (1, 1));
    let since = std::time::Instant::now();
    ends.theirs.close();
    let mut word = [0; 1];
    theirs.read_exact(&mut word).await.expect("what was sent");
    soon(theirs.read(&mut word)).await.expect_err("cut");
    soon(ours.read(&mut word)).await.expect_err("cut");
    soon(ends.ours.closed()).await;
    assert!(ends.ours.is_closed() && soon(ends.incoming.next()).await.is_none());
    soon(ends.ours.open()).await.expect_err("no stream");
    // Whoever waits is told, not only whoever asks.
    assert!(since.elapsed() < Duration::from_secs(5));
    drop((ours, theirs));
    assert_eq!((ends.ours.load(), ends.theirs.load()), (0, 0));
}

/// As many as may be are taken, however late: a hundred members that are asked at the same moment are a hundred streams to another replica.
#[tokio::test]
async fn streams_that_come_at_once_wait_to_be_taken() {
    const MANY: usize = 200;
    let mut ends = ends(SessionLimits {
        theirs: MANY,
        ..SessionLimits::default()
    });
    let mut ours = Vec::new();
    for _ in 0..MANY {
        let mut stream = soon(ends.ours.open()).await.expect("stream");
        stream.write_all(b"x").await.expect("write");
        ours.push(stream);
    }
    until("all have arrived", || ends.theirs.load() == MANY).await;
    for _ in 0..MANY {
        let mut theirs = soon(ends.incoming.next()).await.expect("stream");
        theirs.write_all(b"y").await.expect("write");
        theirs.shutdown().await.expect("end");
    }
    for mut stream in ours {
        let mut said = String::new();
        soon(stream.read_to_string(&mut said)).await.expect("taken");
        assert_eq!(said, "y");
    }
}

#[tokio::test]
async fn stop_ends_a_session() {
    let ends = ends(SessionLimits::default());
    ends.stop.cancel();
    soon(ends.ours.closed()).await;
    soon(ends.theirs.closed()).await;
}

/// A connection that is open and silent, as one whose other end was unplugged.
#[tokio::test(start_paused = true)]
async fn a_half_open_connection_is_noticed_in_under_10_s() {
    let (near, far) = tokio::io::duplex(1024);
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let limits = SessionLimits::default();
    let (lonely, _incoming) = session(near, Side::Accepted, limits, &stop, &tasks);
    let since = tokio::time::Instant::now();
    lonely.closed().await;
    assert!(since.elapsed() >= limits.silence && since.elapsed() < Duration::from_secs(10));
    drop(far);
}

#[tokio::test(start_paused = true)]
async fn whoever_says_something_stays() {
    let mut ends = ends(SessionLimits::default());
    let mut beat = ends.theirs.open().await.expect("stream");
    // The other end opens the stream's counterpart and says the same back.
    let ours = async {
        for _ in 0..20 {
            write_frame(&mut beat, b"beat").await.expect("write");
            assert_eq!(read_frame(&mut beat, 16).await.expect("read"), b"beat");
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    };
    let theirs = async {
        let mut stream = ends._keep.next().await.expect("stream");
        while let Ok(frame) = read_frame(&mut stream, 16).await {
            write_frame(&mut stream, &frame).await.expect("write");
        }
    };
    tokio::select! {
        () = ours => {}
        () = theirs => panic!("the stream ended"),
    }
    assert!(!ends.ours.is_closed() && !ends.theirs.is_closed());
    drop(ends.incoming);
}

#[tokio::test]
async fn more_streams_than_allowed_are_reset_and_the_session_lives() {
    let mut ends = ends(SessionLimits {
        theirs: 2,
        ..SessionLimits::default()
    });
    let mut streams = Vec::new();
    let mut served = Vec::new();
    for _ in 0..2 {
        let mut stream = soon(ends.ours.open()).await.expect("stream");
        stream.write_all(b"x").await.expect("write");
        streams.push(stream);
        served.push(soon(ends.incoming.next()).await.expect("stream"));
    }
    let mut third = soon(ends.ours.open()).await.expect("stream");
    third.write_all(b"x").await.expect("write");
    soon(third.read(&mut [0; 1])).await.expect_err("reset");
    served.pop();
    let mut fourth = soon(ends.ours.open()).await.expect("stream");
    fourth.write_all(b"x").await.expect("write");
    assert!(soon(ends.incoming.next()).await.is_some());
}

/// All of them are there before any is taken: as many as yamux lets one side open that the other has not answered yet, which is 256.
#[tokio::test]
async fn a_burst_of_streams_loses_none() {
    const BURST: usize = 256;
    let mut ends = ends(SessionLimits {
        ours: BURST,
        theirs: BURST,
        ..SessionLimits::default()
    });
    let mut streams = Vec::new();
    for _ in 0..BURST {
        let mut stream = soon(ends.ours.open()).await.expect("stream");
        stream.write_all(b"x").await.expect("write");
        streams.push(stream);
    }
    // Each has arrived, and counts, at the end that serves it.
    until("all have arrived", || ends.theirs.load() == BURST).await;
    for (number, mut stream) in streams.into_iter().enumerate() {
        let mut theirs = soon(ends.incoming.next()).await.expect("stream");
        theirs.write_all(b"y").await.expect("write");
        theirs.shutdown().await.expect("end");
        let mut answer = String::new();
        let read = soon(stream.read_to_string(&mut answer)).await;
        assert!(read.is_ok() && answer == "y", "{number}: {read:?}");
    }
}

#[tokio::test]
async fn streams_beyond_our_own_limit_wait() {
    let ends = ends(SessionLimits {
        ours: 1,
        ..SessionLimits::default()
    });
    let first = soon(ends.ours.open()).await.expect("stream");
    let second = ends.ours.open();
    tokio::pin!(second);
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    soon(second).await.expect("stream");
}

/// One stream that nobody reads, full of data, beside small ones.
#[tokio::test]
async fn a_slow_reader_holds_up_nobody() {
    let mut ends = ends(SessionLimits::default());
    let mut big = soon(ends.ours.open()).await.expect("stream");
    big.write_all(b"big").await.expect("write");
    let mut feeding = soon(ends.incoming.next()).await.expect("stream");
    let said = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&said);
    let fed = tokio::spawn(async move {
        let block = vec![0; 16 * 1024];
        let mut sent = 0_usize;
        while feeding.write_all(&block).await.is_ok() {
            sent += block.len();
            count.store(sent, Ordering::Release);
            if sent == 64 * 1024 * 1024 {
                let _ = feeding.shutdown().await;
                break;
            }
        }
        sent
    });
    for _ in 0..100 {
        let mut small = soon(ends.ours.open()).await.expect("stream");
        small.write_all(b"ping").await.expect("write");
        let mut serving = soon(ends.incoming.next()).await.expect("stream");
        let mut word = [0; 4];
        soon(serving.read_exact(&mut word)).await.expect("read");
        serving.write_all(&word).await.expect("write");
        soon(small.read_exact(&mut word)).await.expect("read");
    }
    // Its share is bounded: one credit of yamux.
    assert_eq!(said.load(Ordering::Acquire), 256 * 1024);
    let mut rest = Vec::new();
    soon(big.read_to_end(&mut rest)).await.expect("read");
    assert_eq!(rest.len(), soon(fed).await.expect("fed"));
}

/// Dials over a session.
#[derive(Debug)]
struct Over(Session);

impl Dial for Over {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            let mut stream = self
                .0
                .open()
                .await
                .map_err(|error| DialError::new(Kind::Unreachable, error.to_string()))?;
            write_frame(&mut stream, b"to the member")
                .await
                .map_err(|error| DialError::new(Kind::Reset, error.to_string()))?;
            Ok(Box::new(stream) as Box<dyn kah_net::Duplex>)
        })
    }
}

/// Takes streams from a session and joins each with a new connection to the member.
fn bridge(mut incoming: Incoming, member: std::net::SocketAddr) {
    tokio::spawn(async move {
        while let Some(mut stream) = incoming.next().await {
            tokio::spawn(async move {
                let header = read_frame(&mut stream, 64).await.expect("header");
                assert_eq!(header, b"to the member");
                let connection = TcpStream::connect(member).await.expect("connect");
                let stop = CancellationToken::new();
                kah_net::splice(stream, connection, Duration::from_secs(5), &stop).await;
            });
        }
    });
}

fn over(session: &Session) -> Upstream {
    Upstream::new(UpstreamSettings {
        dial: Some(Arc::new(Over(session.clone()))),
        ..UpstreamSettings::new(Address::parse("http://behind.the.tunnel").expect("address"))
    })
    .expect("upstream")
}

#[tokio::test]
async fn requests_watches_and_upgrades_go_over_a_session() {
    let member = Member::start(None, |seen| match seen.target.as_str() {
        "/echo" => Reply::Echo,
        "/exec" => Reply::Upgrade,
        _ => crate::member::answer(200, "text/plain", "here"),
    })
    .await
    .expect("member");
    let ends = ends(SessionLimits::default());
    bridge(ends.incoming, member.address());
    let upstream = over(&ends.ours);
    let answer = soon(upstream.send(get("/x"), to("/x")))
        .await
        .expect("answer");
    let body = soon(answer.into_body().collect()).await.expect("body");
    assert_eq!(body.to_bytes(), "here");
    assert_eq!(member.seen()[0].header("host"), "behind.the.tunnel");

    let address = front(upstream.clone()).await;
    let mut client = TcpStream::connect(address).await.expect("connect");
    client
        .write_all(b"GET /exec HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nkeys")
        .await
        .expect("write");
    let mut text = String::new();
    let mut buffer = vec![0; 1024];
    while !text.ends_with("keys") {
        let length = soon(client.read(&mut buffer)).await.expect("read");
        assert!(length > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert!(text.starts_with("HTTP/1.1 101"), "{text}");
    assert_eq!(ends.ours.load(), 2);
    drop(client);
    // One stays, in the pool.
    until("the stream is freed", || ends.ours.load() == 1).await;
}

#[tokio::test]
async fn a_session_that_is_cut_breaks_answers_off_and_later_ones_are_unreachable() {
    let (events, reply) = stream();
    let reply = std::sync::Mutex::new(Some(reply));
    let member = Member::start(None, move |_| {
        reply.lock().expect("lock").take().expect("one request")
    })
    .await
    .expect("member");
    let ends = ends(SessionLimits::default());
    bridge(ends.incoming, member.address());
    let upstream = over(&ends.ours);
    let mut answer = soon(upstream.send(get("/watch"), to("/watch")))
        .await
        .expect("answer")
        .into_body();
    events.send(Ok("event".into())).await.expect("send");
    assert!(soon(answer.frame()).await.expect("frame").is_ok());
    ends.theirs.close();
    assert!(soon(answer.frame()).await.expect("frame").is_err());
    let error = soon(upstream.send(get("/x"), to("/x")))
        .await
        .expect_err("gone");
    assert_eq!(error.kind(), Kind::Unreachable);
    assert_eq!(error.root_cause(), "the tunnel has ended");
}

fn server(pair: &Pair, clients: &Authority) -> Arc<ServerConfig> {
    let mut config = pair.server(Some(clients)).expect("server");
    config.alpn_protocols = vec![b"streams/1".to_vec()];
    Arc::new(config)
}

fn client(authority: &Authority, own: Option<&Pair>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM"))
        .expect("root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).expect("PEM")],
                PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("PEM"),
            )
            .expect("certificate"),
    };
    config.alpn_protocols = vec![b"streams/1".to_vec()];
    Arc::new(config)
}

fn settings(address: &str, tls: Arc<ClientConfig>) -> ConnectSettings {
    ConnectSettings {
        address: Address::parse(address).expect("address"),
        path: "/tunnel",
        proxies: Proxies::default(),
        tls,
        server_name: "hub".try_into().expect("name"),
        step: Duration::from_secs(5),
    }
}

/// An HTTP server, over TLS if given, that makes each websocket a session.
async fn hub(
    outer: Option<ServerConfig>,
    tls: Arc<ServerConfig>,
) -> (String, mpsc::Receiver<(Session, Incoming)>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listen");
    let scheme = if outer.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr().expect("address"));
    let (sessions, taken) = mpsc::channel(4);
    let outer = outer.map(|outer| tokio_rustls::TlsAcceptor::from(Arc::new(outer)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, sessions, outer) = (tls.clone(), sessions.clone(), outer.clone());
            tokio::spawn(async move {
                let service = service_fn(move |mut request: Request<Inbound>| {
                    let (tls, sessions) = (tls.clone(), sessions.clone());
                    async move {
                        let Ok((response, upgrade)) = answer(&mut request) else {
                            let mut refusal = http::Response::new(kah_net::empty());
                            *refusal.status_mut() = http::StatusCode::UPGRADE_REQUIRED;
                            return Ok::<_, std::convert::Infallible>(refusal);
                        };
                        tokio::spawn(async move {
                            let Ok(stream) = accept(upgrade, tls).await else {
                                return;
                            };
                            let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
                            let limits = SessionLimits::default();
                            let both = session(stream, Side::Accepted, limits, &stop, &tasks);
                            let _ = sessions.send(both).await;
                        });
                        Ok(response.map(|()| kah_net::empty()))
                    }
                });
                let server = hyper::server::conn::http1::Builder::new();
                match outer {
                    None => drop(
                        server
                            .serve_connection(TokioIo::new(stream), service)
                            .with_upgrades()
                            .await,
                    ),
                    Some(outer) => {
                        let stream = outer.accept(stream).await.expect("TLS");
                        drop(
                            server
                                .serve_connection(TokioIo::new(stream), service)
                                .with_upgrades()
                                .await,
                        );
                    }
                }
            });
        }
    });
    (url, taken)
}

/// Says a word over a session between both ends, to the end.
async fn works(settings: &ConnectSettings, sessions: &mut mpsc::Receiver<(Session, Incoming)>) {
    let stream = soon(connect(settings)).await.expect("connect");
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let (_ours, mut incoming) = session(
        stream,
        Side::Dialled,
        SessionLimits::default(),
        &stop,
        &tasks,
    );
    let (theirs, _incoming) = soon(sessions.recv()).await.expect("session");
    let mut out = soon(theirs.open()).await.expect("stream");
    let body = vec![7; 1024 * 1024];
    let sent = body.clone();
    let sending = async move {
        out.write_all(&sent).await.expect("write");
        out.shutdown().await.expect("end");
        out
    };
    let receiving = async {
        let mut stream = incoming.next().await.expect("stream");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.expect("read");
        received
    };
    let (_out, received) = soon(async { tokio::join!(sending, receiving) }).await;
    assert!(received == body);
}

#[tokio::test]
async fn s6_both_ends_know_each_other_inside_the_websocket() {
    let authority = Authority::new().expect("authority");
    let own = authority.issue("agent", false).expect("certificate");
    let hubs = authority.issue("hub", false).expect("certificate");
    // Outside, any certificate will do: what is trusted is inside.
    let stranger = Authority::new().expect("authority");
    let outer = stranger.issue("127.0.0.1", false).expect("certificate");
    let outer = outer.server(None).expect("server");
    for outer in [None, Some(outer)] {
        let (url, mut sessions) = hub(outer, server(&hubs, &authority)).await;
        works(
            &settings(&url, client(&authority, Some(&own))),
            &mut sessions,
        )
        .await;

        // W12: another authority, and an end without a certificate or with one of another authority.
        let error = soon(connect(&settings(&url, client(&stranger, Some(&own)))))
            .await
            .expect_err("untrusted");
        assert_eq!(error.kind(), Kind::TlsUntrusted);
        let foreign = stranger.issue("agent", false).expect("certificate");
        for own in [None, Some(&foreign)] {
            // In TLS 1.3 the refusal comes with the first bytes that are read.
            let refused = match soon(connect(&settings(&url, client(&authority, own)))).await {
                Err(error) => error.kind() == Kind::CertificateRefused,
                Ok(mut stream) => soon(stream.read(&mut [0; 1])).await.is_err(),
            };
            assert!(refused);
        }
        assert!(sessions.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_proxy_on_the_way_is_asked_by_connect() {
    let authority = Authority::new().expect("authority");
    let own = authority.issue("agent", false).expect("certificate");
    let hubs = authority.issue("hub", false).expect("certificate");
    let (url, mut sessions) = hub(None, server(&hubs, &authority)).await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listen");
    let proxy = format!(
        "http://me:secret@{}",
        listener.local_addr().expect("address")
    );
    let (heads, mut seen) = mpsc::channel(4);
    let behind = url.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("read"));
            }
            heads
                .send(String::from_utf8(head).expect("text"))
                .await
                .expect("send");
            let mut onward = TcpStream::connect(&behind).await.expect("connect");
            stream
                .write_all(b"HTTP/1.1 200 OK\r\n\r\n")
                .await
                .expect("write");
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
            });
        }
    });
    // The name resolves nowhere here: only the proxy knows the way.
    let mut settings = settings("http://hub.invalid:8080", client(&authority, Some(&own)));
    settings.proxies.http = proxy;
    works(&settings, &mut sessions).await;
    let head = seen.recv().await.expect("head");
    assert!(
        head.starts_with("CONNECT hub.invalid:8080 HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains("Basic bWU6c2VjcmV0"), "{head}");
    settings.proxies.no = "hub.invalid".to_owned();
    let error = soon(connect(&settings)).await.expect_err("no way");
    assert_eq!(error.kind(), Kind::NameNotResolved);
}

#[tokio::test]
async fn only_websockets_are_answered_and_anything_else_is_told_by_its_status() {
    let mut plain = get("/tunnel");
    assert_eq!(answer(&mut plain).err(), Some(NoUpgrade));
    let member = Member::start(None, |_| crate::member::answer(503, "text/plain", "busy"))
        .await
        .expect("member");
    let authority = Authority::new().expect("authority");
    let error = soon(connect(&settings(&member.url(), client(&authority, None))))
        .await
        .expect_err("refused");
    assert_eq!(error.kind(), Kind::InvalidUpgrade);
    assert_eq!(error.status().map(|status| status.as_u16()), Some(503));
}
