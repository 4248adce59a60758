//! Lines of security-tests.md by every way to a member: its endpoint, the service proxy of its kube-apiserver, and the tunnel of its agent.
//! What a member sees is asserted at the member, behind the real listener and, for the tunnel, behind a real agent.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::body::Body;
use base64::{
    Engine,
    prelude::{BASE64_STANDARD as STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kah_gateway::{ServerLimits, serve};
use kah_net::Address;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::{
    member::{Member, Reply, Seen, answer, status, stream},
    room::Room,
    tunnel::{dial_in, dialled, serve_tunnels},
};

const WEAK: (&str, &str) = ("authorization", "Bearer weak");
const PROXY: &str = "/api/v1/namespaces/kubesphere-system/services/:ks-apiserver:/proxy";
/// What may be at a member, by any way.
const ADDED: [&str; 7] = [
    "authorization",
    "connection",
    "content-length",
    "host",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
];

/// One way to a member of its own.
struct Way {
    /// The cluster's name.
    name: &'static str,
    member: Member,
}

impl Way {
    /// What the member was asked, without the service proxy's part of it.
    fn target(&self, seen: &Seen) -> String {
        match self.name {
            "via" => seen.target.strip_prefix(PROXY).unwrap().to_owned(),
            _ => seen.target.clone(),
        }
    }

    fn last(&self) -> Seen {
        self.member.seen().pop().expect("a request")
    }

    fn count(&self) -> usize {
        self.member.seen().len()
    }

    /// Exactly one identity arrived, this caller's, and nothing that is not on the list.
    fn has_one_identity(&self, seen: &Seen, caller: &str) {
        let name = self.name;
        if name == "via" {
            assert_eq!(seen.header("authorization"), "Bearer stored", "{name}");
            assert_eq!(seen.header("x-kubesphere-authorization"), caller, "{name}");
        } else {
            assert_eq!(seen.header("authorization"), caller, "{name}");
            assert_eq!(seen.header("x-kubesphere-authorization"), "", "{name}");
        }
        for header in seen.headers.keys() {
            let proxied = name == "via" && header == "x-kubesphere-authorization";
            assert!(
                proxied
                    || kah_net::request_header_passes(header)
                    || ADDED.contains(&header.as_str()),
                "{name}: {header}"
            );
        }
    }
}

struct Ways {
    room: Room,
    hub: SocketAddr,
    ways: [Way; 3],
    stop: CancellationToken,
}

impl Drop for Ways {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What the members answer: by the last part of the path.
fn script(seen: &Seen) -> Reply {
    let path = seen.target.split('?').next().unwrap_or_default();
    match path.rsplit('/').next().unwrap_or_default() {
        "exec" => Reply::Upgrade,
        "refused" => status(403, "Forbidden", "no"),
        "plain" => answer(200, "text/plain", "no upgrade"),
        "away" => redirect("http://evil.example/"),
        "metadata" => redirect("http://169.254.169.254/latest/meta-data"),
        "things" => {
            let (sender, reply) = stream();
            let _ = sender.try_send(Ok("first\n".into()));
            // It goes on for as long as somebody could send.
            std::mem::forget(sender);
            reply
        }
        "endless" => {
            let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
            let endless = futures::stream::repeat_with(move || Ok(Frame::data(chunk.clone())));
            Reply::Answer(Response::new(StreamBody::new(endless).boxed_unsync()))
        }
        "bomb" => match answer(200, "application/json", "no gzip at all") {
            Reply::Answer(mut response) => {
                let headers = response.headers_mut();
                headers.insert("content-encoding", "gzip".parse().unwrap());
                Reply::Answer(response)
            }
            other => other,
        },
        "head" => match answer(200, "text/plain", "x") {
            Reply::Answer(mut response) => {
                let value = "x".repeat(8192);
                for number in 0..64 {
                    let name: http::HeaderName = format!("x-{number}").parse().unwrap();
                    response.headers_mut().insert(name, value.parse().unwrap());
                }
                Reply::Answer(response)
            }
            other => other,
        },
        "page" => acting("text/html", "<script>1</script>"),
        "script" => acting("text/javascript", "1"),
        _ => acting("application/json", "{}"),
    }
}

fn redirect(location: &str) -> Reply {
    match answer(302, "text/plain", "") {
        Reply::Answer(mut response) => {
            let headers = response.headers_mut();
            headers.insert("location", location.parse().unwrap());
            Reply::Answer(response)
        }
        other => other,
    }
}

/// Headers that would act on the host's origin.
const ACTING: [(&str, &str); 10] = [
    ("set-cookie", "token=x"),
    ("access-control-allow-origin", "*"),
    ("access-control-allow-credentials", "true"),
    ("strict-transport-security", "max-age=1"),
    ("clear-site-data", "\"*\""),
    ("alt-svc", "h3=\"evil.example:443\""),
    ("refresh", "0;url=http://evil.example"),
    ("service-worker-allowed", "/"),
    ("cross-origin-opener-policy", "unsafe-none"),
    ("www-authenticate", "Basic"),
];

fn acting(kind: &str, body: &'static str) -> Reply {
    match answer(200, kind, body) {
        Reply::Answer(mut response) => {
            for (name, value) in ACTING {
                let headers = response.headers_mut();
                headers.insert(name, value.parse().unwrap());
            }
            Reply::Answer(response)
        }
        other => other,
    }
}

fn direct(name: &str, mut connection: Value) -> kube::core::DynamicObject {
    connection["type"] = "direct".into();
    serde_json::from_value(json!({
        "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster",
        "metadata": {"name": name, "uid": format!("uid-{name}")},
        "spec": {"connection": connection},
    }))
    .unwrap()
}

impl Ways {
    async fn start() -> Self {
        Self::of(Room::host().await).await
    }

    async fn of(room: Room) -> Self {
        let authority = serve_tunnels(&room);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hub = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(
            listener,
            kah_gateway::Encryption::None,
            room.gateway.clone(),
            ServerLimits::default(),
            stop.clone(),
        ));
        let member = || async { Member::start(None, script).await.unwrap() };
        let ways = [
            Way {
                name: "near",
                member: member().await,
            },
            Way {
                name: "via",
                member: member().await,
            },
            Way {
                name: "far",
                member: member().await,
            },
        ];
        let [near, via, far] = ways.each_ref().map(|way| way.member.url());
        let straight = json!({"kubesphereAPIEndpoint": near});
        room.registry.apply(&direct("near", straight));
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster: {{server: '{via}'}}\n\
             users:\n- name: u\n  user: {{token: stored}}\ncontexts:\n- name: c\n  context: {{cluster: k, user: u}}\n"
        );
        let proxied = json!({"kubeconfig": STANDARD.encode(kubeconfig)});
        room.registry.apply(&direct("via", proxied));
        room.registry.apply(&dialled("far", "uid-far"));
        let address = Address::parse(&far).unwrap();
        dial_in(
            &room,
            &authority,
            &format!("http://{hub}"),
            address,
            stop.clone(),
        )
        .await;
        Self {
            room,
            hub,
            ways,
            stop,
        }
    }

    fn counts(&self) -> [usize; 3] {
        self.ways.each_ref().map(Way::count)
    }

    /// Connections that ever reached a member.
    fn opened(&self) -> [usize; 3] {
        self.ways.each_ref().map(|way| way.member.opened())
    }

    /// Sends over HTTP/1.1 or HTTP/2, on a connection of its own.
    async fn send(
        &self,
        two: bool,
        target: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Response<Incoming> {
        let uri = if two {
            format!("http://hub.example{target}")
        } else {
            target.to_owned()
        };
        let mut request = Request::get(uri);
        if !two {
            request = request.header("host", "hub.example");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).unwrap();
        let stream = TokioIo::new(TcpStream::connect(self.hub).await.unwrap());
        let sent = async {
            if two {
                let (mut sender, connection) =
                    conn::http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(connection);
                sender.send_request(request).await
            } else {
                let (mut sender, connection) = conn::http1::handshake(stream).await?;
                tokio::spawn(connection);
                sender.send_request(request).await
            }
        };
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, sent).await.unwrap().unwrap()
    }

    /// The status, the headers and the whole body of the answer.
    async fn ask(&self, two: bool, target: &str, headers: &[(&str, &str)]) -> Told {
        let response = self.send(two, target, headers, Body::empty()).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (
            parts.status,
            parts.headers,
            String::from_utf8_lossy(&body).into_owned(),
        )
    }

    /// Sends an upgrade; gives the connection, and the head of the answer.
    async fn upgrade(
        &self,
        target: &str,
        headers: &[(&str, &str)],
        behind: &str,
    ) -> (TcpStream, String) {
        let mut text = format!(
            "GET {target} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\nSec-WebSocket-Version: 13\r\n"
        );
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.push_str(behind);
        let mut stream = TcpStream::connect(self.hub).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon(stream.read_u8()).await.unwrap());
        }
        (
            stream,
            String::from_utf8(head).unwrap().to_ascii_lowercase(),
        )
    }
}

type Told = (StatusCode, HeaderMap, String);

async fn soon<T>(work: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, work).await.expect("in time")
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let ticks = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let held = tokio::time::timeout(Duration::from_secs(10), ticks).await;
    assert!(held.is_ok(), "{what}");
}

/// The forms of a target at one cluster, and what the member is asked.
fn targets(name: &str) -> [(String, &'static str); 2] {
    [
        (format!("/clusters/{name}/api/v1/pods"), "/api/v1/pods"),
        (
            format!("/kapis/clusters/{name}/a.io/v1/x"),
            "/kapis/a.io/v1/x",
        ),
    ]
}

#[tokio::test]
async fn h1_h2_h3_impersonation_reaches_no_member_by_any_way() {
    let ways = Ways::start().await;
    let opened = ways.opened();
    for name in ["near", "via", "far"] {
        for header in [
            "Impersonate-User",
            "IMPERSONATE-GROUP",
            "impersonate-uid",
            "Impersonate-Extra-Scopes",
            "Impersonate-Anything",
        ] {
            for value in ["system:masters", ""] {
                let named = header.to_ascii_lowercase();
                let headers = [WEAK, (named.as_str(), value), (named.as_str(), "admin")];
                for (target, _) in targets(name) {
                    for two in [false, true] {
                        let (status, _, _) = ways.ask(two, &target, &headers).await;
                        assert_eq!(status, 403, "{header} {target} {two}");
                    }
                }
                let exec = format!("/clusters/{name}/api/v1/namespaces/a/pods/b/exec");
                let headers = [WEAK, (header, value)];
                let (_, head) = ways.upgrade(&exec, &headers, "").await;
                assert!(head.starts_with("http/1.1 403"), "{head}");
            }
        }
    }
    assert_eq!(ways.counts(), [0; 3]);
    assert_eq!(ways.opened(), opened);
}

/// Names of an identity, as a client could write them.
const MADE_UP: [(&str, &str); 14] = [
    WEAK,
    ("x-remote-user", "root"),
    ("x-remote-group", "system:masters"),
    ("x-remote-extra-a", "b"),
    ("x-forwarded-user", "root"),
    ("x-webauth-user", "root"),
    ("x-forwarded-for", "1.1.1.1"),
    ("forwarded", "for=1.1.1.1"),
    ("cookie", "token=x"),
    ("proxy-authorization", "Basic eDp5"),
    ("x-kubesphere-authorization", "Bearer admin"),
    ("x-kubesphere-rawquery", "watch=1"),
    (
        "x-forwarded-uri",
        "/api/v1/namespaces/kubesphere-system/services/:ks-apiserver:/proxy/api/v1/pods",
    ),
    ("dryrun", "All"),
];

#[tokio::test]
async fn h4_h5_h6_h8_h14_the_member_sees_one_identity_by_every_way() {
    let ways = Ways::start().await;
    let hop = [
        ("te", "trailers, authorization"),
        (
            "connection",
            "Authorization, X-KubeSphere-Authorization, Impersonate-User, X-Request-Id",
        ),
        ("trailer", "authorization, impersonate-user"),
    ];
    for way in &ways.ways {
        for (target, arrives) in targets(way.name) {
            for two in [false, true] {
                // What belongs to one connection is not allowed in HTTP/2 at all.
                let mut headers = MADE_UP.to_vec();
                headers.extend(if two { &[][..] } else { &hop[..] });
                let (status, _, _) = ways.ask(two, &target, &headers).await;
                assert_eq!(status, 200, "{target} {two}");
                let seen = way.last();
                assert_eq!(way.target(&seen), arrives);
                way.has_one_identity(&seen, "Bearer weak");
                assert!(
                    !seen.header("x-forwarded-for").contains("1.1.1.1"),
                    "{seen:?}"
                );
            }
        }
        // An upgrade: its own `Connection` names an identity as well, and so does a subprotocol.
        let mut headers = MADE_UP.to_vec();
        headers.push(("connection", "Authorization, X-KubeSphere-Authorization"));
        let protocols = "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWRtaW4";
        headers.push(("sec-websocket-protocol", protocols));
        let exec = format!("/clusters/{}/api/v1/namespaces/a/pods/b/exec", way.name);
        let (_, head) = ways.upgrade(&exec, &headers, "").await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        let seen = way.last();
        way.has_one_identity(&seen, "Bearer weak");
        assert_eq!(seen.header("upgrade"), "websocket");
        assert_eq!(seen.header("sec-websocket-protocol"), "v5.channel.k8s.io");
        assert_eq!(seen.header("connection").to_ascii_lowercase(), "upgrade");
    }
}

/// Whatever is sent, by every way: what arrives is within the list, and one identity is there.
#[test]
fn h8_random_headers_are_within_the_list_by_every_way() {
    use proptest::{prelude::*, test_runner::TestRunner};
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ways = runtime.block_on(Ways::start());
    let mut runner = TestRunner::new(ProptestConfig::with_cases(60));
    let mut arrived = 0;
    let checked = runner.run(&crate::security::any_headers(), |headers| {
        let mut all = vec![WEAK];
        all.extend(
            headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        let impersonates = headers
            .iter()
            .any(|(name, _)| name.starts_with("impersonate-"));
        for way in &ways.ways {
            let before = way.count();
            let target = format!("/clusters/{}/api/v1/pods", way.name);
            let answer = runtime.block_on(ways.room.ask("GET", &target, &all, ""));
            if impersonates {
                prop_assert_eq!(answer.status, 403);
                prop_assert_eq!(way.count(), before);
            } else if way.count() > before {
                way.has_one_identity(&way.last(), "Bearer weak");
            }
        }
        Ok(())
    });
    checked.unwrap();
    for way in &ways.ways {
        arrived += way.count();
    }
    assert!(arrived > 20, "requests must have gone out: {arrived}");
}

#[tokio::test]
async fn h6_trailers_carry_no_names_by_any_way() {
    let ways = Ways::start().await;
    for way in &ways.ways {
        for two in [false, true] {
            let mut trailers = HeaderMap::new();
            trailers.insert("impersonate-user", "admin".parse().unwrap());
            trailers.insert("authorization", "Bearer admin".parse().unwrap());
            let frames = [
                Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"{}"))),
                Ok(Frame::trailers(trailers)),
            ];
            let body = Body::new(StreamBody::new(futures::stream::iter(frames)));
            let target = format!("/clusters/{}/api/v1/pods", way.name);
            let response = ways.send(two, &target, &[WEAK], body).await;
            assert_eq!(response.status(), 200, "{target}");
            let seen = way.last();
            way.has_one_identity(&seen, "Bearer weak");
            assert_eq!(seen.header("trailer"), "");
        }
    }
}

#[tokio::test]
async fn h9_s14_nobody_causes_a_dial_by_any_way() {
    let ways = Ways::start().await;
    let (opened, streams) = (ways.opened(), ways.room.registry.tunnels().count());
    let exec = "api/v1/namespaces/a/pods/b/exec";
    for name in ["near", "via", "far"] {
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer bad",
            "Basic eDp5",
            "Bearer forged",
        ] {
            let headers: &[(&str, &str)] = match value {
                "" => &[],
                value => &[("authorization", value)],
            };
            for (target, _) in targets(name) {
                for two in [false, true] {
                    let (status, _, _) = ways.ask(two, &target, headers).await;
                    assert_eq!(status, 401, "{value:?} {target} {two}");
                }
            }
            // Nor does a login that is meant for the member.
            for login in [
                "oauth/token",
                "oauth/token?grant_type=password&username=admin&password=guessed",
                "oauth/authorize?client_id=ks-console&response_type=token",
                "%6fauth/token",
            ] {
                let target = format!("/clusters/{name}/{login}");
                let (status, _, _) = ways.ask(false, &target, headers).await;
                assert!(
                    matches!(status.as_u16(), 401 | 403),
                    "{value:?} {target}: {status}"
                );
            }
            let target = format!("/clusters/{name}/{exec}");
            let (_, head) = ways.upgrade(&target, headers, "").await;
            assert!(head.starts_with("http/1.1 401"), "{value:?}: {head}");
        }
    }
    assert_eq!(ways.counts(), [0; 3]);
    assert_eq!(ways.opened(), opened);
    assert_eq!(ways.room.registry.tunnels().count(), streams);
}

#[tokio::test]
async fn s3_s4_redirects_are_not_followed_by_any_way() {
    let ways = Ways::start().await;
    for way in &ways.ways {
        for last in ["away", "metadata"] {
            for two in [false, true] {
                let before = way.count();
                let target = format!("/kapis/clusters/{}/a.io/v1/{last}", way.name);
                let (status, headers, body) = ways.ask(two, &target, &[WEAK]).await;
                assert_eq!(status, 502, "{target}: {body}");
                assert!(!headers.contains_key("location"), "{headers:?}");
                assert!(
                    !body.contains("evil.example") && !body.contains("169.254"),
                    "{body}"
                );
                assert_eq!(way.count(), before + 1);
            }
            let before = way.count();
            let target = format!("/clusters/{}/api/v1/namespaces/a/pods/b/{last}", way.name);
            let (_, head) = ways.upgrade(&target, &[WEAK], "").await;
            assert!(head.starts_with("http/1.1 502"), "{head}");
            assert!(!head.contains("location"), "{head}");
            assert_eq!(way.count(), before + 1);
        }
    }
}

#[tokio::test]
async fn s8_s9_answers_do_not_act_on_our_origin_by_any_way() {
    let ways = Ways::start().await;
    for way in &ways.ways {
        for (last, kind, policy) in [
            ("x", "application/json", ""),
            ("page", "text/html", "sandbox"),
            ("script", "text/plain; charset=utf-8", ""),
        ] {
            for two in [false, true] {
                let target = format!("/kapis/clusters/{}/a.io/v1/{last}", way.name);
                let (status, headers, _) = ways.ask(two, &target, &[WEAK]).await;
                assert_eq!(status, 200, "{target}");
                for (name, _) in ACTING {
                    assert!(!headers.contains_key(name), "{target}: {name}");
                }
                let told = |name: &str| headers.get(name).map_or("", |it| it.to_str().unwrap());
                assert_eq!(told("x-content-type-options"), "nosniff");
                assert_eq!(told("content-type"), kind);
                assert_eq!(told("content-security-policy"), policy);
            }
        }
    }
}

/// A member that says too much is heard no faster than its reader reads; what it compresses is not unpacked here; others are served meanwhile.
#[tokio::test]
async fn s10_a_member_that_floods_leaves_others_alone_by_any_way() {
    let ways = Ways::start().await;
    let mut held = Vec::new();
    for way in &ways.ways {
        for last in ["endless", "things?watch=1"] {
            let target = format!("/kapis/clusters/{}/a.io/v1/{last}", way.name);
            let response = ways.send(false, &target, &[WEAK], Body::empty()).await;
            assert_eq!(response.status(), 200);
            // Nobody reads on: what comes stays with the member.
            held.push(response);
        }
        let target = format!("/kapis/clusters/{}/a.io/v1/bomb", way.name);
        let (status, headers, body) = ways.ask(false, &target, &[WEAK]).await;
        assert_eq!((status.as_u16(), body.as_str()), (200, "no gzip at all"));
        assert_eq!(headers["content-encoding"], "gzip");
        let target = format!("/kapis/clusters/{}/a.io/v1/head", way.name);
        let (status, _, body) = ways.ask(false, &target, &[WEAK]).await;
        assert_eq!(status, 502, "{body}");
    }
    for way in &ways.ways {
        for (target, _) in targets(way.name) {
            assert_eq!(ways.ask(true, &target, &[WEAK]).await.0, 200, "{target}");
        }
    }
    drop(held);
    for way in &ways.ways {
        let target = format!("/kapis/clusters/{}/a.io/v1/x", way.name);
        assert_eq!(ways.ask(false, &target, &[WEAK]).await.0, 200, "{target}");
    }
}

/// What the system keeps of an answer for a caller who does not read it, as it tells: sent, and not yet taken by the other end.
#[cfg(target_os = "linux")]
fn unsent(from: SocketAddr, to: SocketAddr) -> usize {
    let hex = |address: SocketAddr| {
        let SocketAddr::V4(address) = address else {
            panic!("{address}")
        };
        let ip = u32::from_ne_bytes(address.ip().octets());
        format!("{ip:08X}:{:04X}", address.port())
    };
    let (from, to) = (hex(from), hex(to));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut lines = table.lines().map(|line| line.split_whitespace().skip(1));
    let queues = lines.find_map(|mut line| {
        let ends = (line.next()?, line.next()?);
        (ends == (&from, &to)).then(|| line.nth(1)).flatten()
    });
    let (sending, _) = queues.unwrap().split_once(':').unwrap();
    usize::from_str_radix(sending, 16).unwrap()
}

/// The system would keep megabytes for each of them, and lack that for all others.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn s10_little_waits_for_a_caller_who_does_not_read_by_any_way() {
    const ALLOWED: usize = 128 * 1024;
    let ways = Ways::start().await;
    for way in &ways.ways {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut caller = socket.connect(ways.hub).await.unwrap();
        let (name, (header, value)) = (way.name, WEAK);
        let request = format!(
            "GET /kapis/clusters/{name}/a.io/v1/endless HTTP/1.1\r\nhost: h\r\n{header}: {value}\r\n\r\n"
        );
        caller.write_all(request.as_bytes()).await.unwrap();
        let waits = || unsent(ways.hub, caller.local_addr().unwrap());
        until("it fills", || waits() >= ALLOWED).await;
        // Everybody has many turns meanwhile.
        let target = format!("/kapis/clusters/{name}/a.io/v1/x");
        for _ in 0..50 {
            assert_eq!(ways.ask(false, &target, &[WEAK]).await.0, 200);
        }
        // The piece with which it came to that was taken whole.
        assert!(waits() <= ALLOWED + 128 * 1024, "{name}: {}", waits());
    }
}

#[tokio::test]
async fn w2_a_refused_upgrade_leaves_no_connection_by_any_way() {
    let ways = Ways::start().await;
    let hidden = "GET /secret HTTP/1.1\r\nhost: h\r\nauthorization: Bearer admin\r\nconnection: close\r\n\r\n";
    for way in &ways.ways {
        for (last, code) in [("refused", "403"), ("plain", "502")] {
            let target = format!("/clusters/{}/api/v1/namespaces/a/pods/b/{last}", way.name);
            let before = way.count();
            let (mut stream, head) = ways.upgrade(&target, &[WEAK], hidden).await;
            assert!(head.starts_with(&format!("http/1.1 {code}")), "{head}");
            let mut rest = Vec::new();
            let _ = soon(stream.read_to_end(&mut rest)).await;
            assert_eq!(way.count(), before + 1, "once, and nothing behind it");
            until("nothing stays open", || way.member.connections() == 0).await;
        }
    }
}

/// All that is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn w4_a_token_stands_in_no_record_by_any_way() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("kah_gateway=trace,kah_net=trace,kah_cluster=trace")
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let ways = Ways::start().await;
    let protocols = "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.Y2FuYXJ5";
    for way in &ways.ways {
        let base = format!("/clusters/{}/api/v1/namespaces/a/pods/b", way.name);
        let query = "command=ls&access_token=canary&token=canary";
        let headers = [WEAK, ("sec-websocket-protocol", protocols)];
        let (_, head) = ways
            .upgrade(&format!("{base}/exec?{query}"), &headers, "")
            .await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert_eq!(
            ways.ask(true, &format!("{base}/log?{query}"), &[WEAK])
                .await
                .0,
            200
        );
    }
    tracing::debug!(target: "kah_gateway", "it is heard");
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("it is heard"), "{logged}");
    for token in ["canary", "Y2FuYXJ5", "Bearer weak", "stored"] {
        assert!(!logged.contains(token), "{token}: {logged}");
    }
    let records = ways.room.records.0.lock().unwrap().clone();
    assert!(records.len() >= 6);
    for record in records {
        let text = format!("{record:?}");
        assert!(
            !text.contains("canary") && !text.contains("Y2FuYXJ5"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn w5_t13_streams_end_with_the_callers_credential_by_any_way() {
    let ways = Ways::start().await;
    let (gateway, looks) = (ways.room.gateway.clone(), ways.stop.clone());
    tokio::spawn(async move { gateway.end_streams(Duration::from_millis(5), looks).await });
    let (mut terminals, mut watches) = (Vec::new(), Vec::new());
    for way in &ways.ways {
        let exec = format!("/clusters/{}/api/v1/namespaces/a/pods/b/exec", way.name);
        let (mut terminal, head) = ways.upgrade(&exec, &[WEAK], "alive").await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        let mut back = [0; 5];
        soon(terminal.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, b"alive");
        terminals.push(terminal);
        for two in [false, true] {
            let watch = format!("/kapis/clusters/{}/a.io/v1/things?watch=1", way.name);
            let response = ways.send(two, &watch, &[WEAK], Body::empty()).await;
            let mut body = response.into_body();
            let first = soon(body.frame()).await.unwrap().unwrap();
            assert_eq!(first.into_data().unwrap(), "first\n");
            watches.push(body);
        }
    }
    // Another caller's goes on.
    let admin = ("authorization", "Bearer admin");
    let (mut other, _) = ways
        .upgrade(
            "/clusters/far/api/v1/namespaces/a/pods/b/exec",
            &[admin],
            "",
        )
        .await;
    ways.room.callers.ended.lock().unwrap().push("weak".into());
    for mut terminal in terminals {
        let mut rest = Vec::new();
        let _ = soon(terminal.read_to_end(&mut rest)).await;
        assert!(rest.is_empty());
    }
    for mut body in watches {
        // Broken off, not ended well.
        let end = soon(body.frame()).await;
        assert!(matches!(end, Some(Err(_))), "{end:?}");
    }
    other.write_all(b"alive").await.unwrap();
    let mut back = [0; 5];
    soon(other.read_exact(&mut back)).await.unwrap();
    let [near, via, far] = &ways.ways;
    for way in [near, via] {
        until("nothing stays open", || way.member.connections() == 0).await;
    }
    drop(other);
    until("nothing stays open", || far.member.connections() == 0).await;
}

/// Their connections are no longer the listener's to count.
#[tokio::test]
async fn upgrades_beyond_the_limit_are_told_to_come_back_by_any_way() {
    let ways = Ways::of(Room::host_with_upgrades(3).await).await;
    let exec = |way: &Way| {
        let name = way.name;
        format!("/clusters/{name}/api/v1/namespaces/a/pods/b/exec?command=sh")
    };
    let mut open = Vec::new();
    for way in &ways.ways {
        let (stream, head) = ways.upgrade(&exec(way), &[WEAK], "").await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        open.push(stream);
    }
    for (place, way) in ways.ways.iter().enumerate() {
        let asked = way.count();
        // Whoever asks.
        for caller in [WEAK, ("authorization", "Bearer admin")] {
            let (mut stream, head) = ways.upgrade(&exec(way), &[caller], "").await;
            assert!(head.starts_with("http/1.1 503"), "{head}");
            assert!(head.contains("\r\nretry-after: 5\r\n"), "{head}");
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.unwrap().parse().unwrap()];
            soon(stream.read_exact(&mut body)).await.unwrap();
            let status: Value = serde_json::from_slice(&body).unwrap();
            let words = "too many terminals and forwarded ports are open here; close some of them, and try again";
            assert_eq!(status["message"], words);
        }
        assert_eq!(way.count(), asked, "nothing reached the member");
        // What needs no place is served.
        let target = format!("/kapis/clusters/{}/a.io/v1/x", way.name);
        assert_eq!(ways.ask(false, &target, &[WEAK]).await.0, 200);
        // One that ends is another one's place.
        drop(open.remove(place));
        let again = async {
            loop {
                let (stream, head) = ways.upgrade(&exec(way), &[WEAK], "").await;
                if head.starts_with("http/1.1 101") {
                    return stream;
                }
            }
        };
        open.insert(place, soon(again).await);
    }
}

#[tokio::test]
async fn w8_requests_do_not_hide_in_others_by_any_way() {
    let ways = Ways::start().await;
    let hidden = "GET /api/v1/smuggled HTTP/1.1\r\nhost: x\r\nauthorization: Bearer admin\r\n\r\n";
    for way in &ways.ways {
        for head in [
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: 5, 6\r\n",
            "content-length: +5\r\n",
            "transfer-encoding: chunked, identity\r\n",
            "transfer-encoding: xchunked\r\n",
            "transfer-encoding : chunked\r\n",
            "content-length: 4\r\ntransfer-encoding: chunked\r\nconnection: close\r\n",
        ] {
            let text = format!(
                "POST /clusters/{}/api/v1/pods HTTP/1.1\r\nhost: x\r\nauthorization: Bearer weak\r\n{head}\r\n0\r\n\r\n{hidden}",
                way.name
            );
            let mut stream = TcpStream::connect(ways.hub).await.unwrap();
            let _ = stream.write_all(text.as_bytes()).await;
            let mut told = Vec::new();
            let _ = soon(stream.read_to_end(&mut told)).await;
            let both = head.contains("content-length: 4");
            let told = String::from_utf8_lossy(&told).into_owned();
            assert!(
                both || told.is_empty() || told.starts_with("HTTP/1.1 400"),
                "{head:?}: {told}"
            );
        }
        for seen in way.member.seen() {
            assert_eq!(way.target(&seen), "/api/v1/pods");
            let length = seen.headers.contains_key("content-length");
            assert!(!(length && seen.headers.contains_key("transfer-encoding")));
            way.has_one_identity(&seen, "Bearer weak");
        }
        // From HTTP/2: a length that is not the body's, and names that would be two in HTTP/1.1.
        let before = way.count();
        let target = format!("/clusters/{}/api/v1/pods", way.name);
        let told = ways.ask(true, &target, &[WEAK, ("x-a", "b")]).await;
        assert_eq!(told.0, 200);
        assert_eq!(way.count(), before + 1);
    }
    assert_eq!(ways.room.kube.count(), 0);
}

/// A member that trusts federated tokens is given one that is good for it alone, by whatever way, and never the caller's.
#[tokio::test]
async fn t1_h9_a_member_gets_a_token_for_itself_by_every_way() {
    use kah_iam::{Clock, SigningKeys, SystemClock};
    let ways = Ways::start().await;
    let via = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster: {{server: '{}'}}\n\
         users:\n- name: u\n  user: {{token: stored}}\ncontexts:\n- name: c\n  context: {{cluster: k, user: u}}\n",
        ways.ways[1].member.url()
    );
    let objects = [
        direct(
            "near",
            json!({"kubesphereAPIEndpoint": ways.ways[0].member.url()}),
        ),
        direct("via", json!({"kubeconfig": STANDARD.encode(via)})),
        dialled("far", "uid-far"),
    ];
    let name = |object: &kube::core::DynamicObject| object.metadata.name.clone().unwrap();
    for mut object in objects {
        object.data["spec"]["trust"] = "federated".into();
        object.data["status"] = json!({"uid": format!("cluster-{}", name(&object))});
        ways.room.registry.apply(&object);
    }
    let exec = |way: &Way| format!("/clusters/{}/api/v1/namespaces/a/pods/b/exec", way.name);
    // No key yet: nothing is sent, least of all without an identity.
    let counts = ways.counts();
    for way in &ways.ways {
        for (target, _) in targets(way.name) {
            assert_eq!(ways.ask(true, &target, &[WEAK]).await.0, 503, "{target}");
        }
        let (_, head) = ways.upgrade(&exec(way), &[WEAK], "").await;
        assert!(head.starts_with("http/1.1 503"), "{head}");
    }
    assert_eq!(ways.counts(), counts);
    let clock = SystemClock::default();
    let signer = ways.room.registry.signer();
    signer
        .take("i", SigningKeys::first(clock.now()).unwrap())
        .unwrap();
    for way in &ways.ways {
        for (target, _) in targets(way.name) {
            assert_eq!(ways.ask(true, &target, &[WEAK]).await.0, 200, "{target}");
        }
        let (_, head) = ways.upgrade(&exec(way), &[WEAK], "").await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        let seen = way.member.seen();
        assert_eq!(seen.len(), 3);
        for seen in seen {
            let carrier = if way.name == "via" {
                "x-kubesphere-authorization"
            } else {
                "authorization"
            };
            let carried = seen.header(carrier);
            way.has_one_identity(&seen, &carried);
            let token = carried.strip_prefix("Bearer ").unwrap();
            let payload = token.split('.').nth(1).unwrap();
            let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap();
            let claims: Value = serde_json::from_slice(&payload).unwrap();
            // Whom a member's verifier lets in by it: t1_a_token_for_a_is_refused_at_b.
            assert_eq!(claims["aud"], format!("cluster-{}", way.name), "{claims}");
            assert_eq!(claims["sub"], "weak", "{claims}");
        }
    }
}

/// T5, T6: each request is at the cluster that it names, and a cluster that was deleted takes its way with it.
#[tokio::test]
async fn t5_t6_a_request_is_at_its_own_member_by_any_way() {
    let ways = Ways::start().await;
    let asked: Vec<_> = (0..60)
        .map(|number| {
            let name = ["near", "via", "far"][number % 3];
            let target = format!("/kapis/clusters/{name}/a.io/v1/x?cluster={name}&nonce={number}");
            let ways = &ways;
            async move { ways.ask(number % 2 == 0, &target, &[WEAK]).await.0 }
        })
        .collect();
    for status in futures::future::join_all(asked).await {
        assert_eq!(status, 200);
    }
    for way in &ways.ways {
        let seen = way.member.seen();
        assert_eq!(seen.len(), 20);
        for seen in seen {
            assert!(
                seen.target.contains(&format!("cluster={}&", way.name)),
                "{seen:?}"
            );
        }
    }
    // Deleted, and created again under the same name: nothing of the old way is used.
    let counts = ways.counts();
    for name in ["near", "via"] {
        let object = direct(name, json!({"kubesphereAPIEndpoint": "http://127.0.0.1:1"}));
        let mut anew = object;
        anew.metadata.uid = Some(format!("uid-{name}-2"));
        ways.room.registry.apply(&anew);
    }
    ways.room.registry.apply(&dialled("far", "uid-far-2"));
    for name in ["near", "via", "far"] {
        let target = format!("/kapis/clusters/{name}/a.io/v1/x");
        assert_eq!(ways.ask(false, &target, &[WEAK]).await.0, 502, "{name}");
    }
    assert_eq!(ways.counts(), counts);
}
