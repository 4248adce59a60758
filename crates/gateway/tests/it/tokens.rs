//! Bearer tokens that must open nothing, with the real verifier, over both versions of HTTP.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::body::{Body, to_bytes};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::StreamExt;
use http::{Request, Response};
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::{SignedDuration, Timestamp};
use kah_api::{
    config::{Configuration, JwtSecret},
    iam::{GlobalRoleBinding, PLATFORM_ADMIN, User, UserSpec, UserStatus},
    time::GoDuration,
};
use kah_cluster::tunnel::authority::{
    AgentIdentity, TunnelAuthority, private_key, request_certificate,
};
use kah_gateway::{Encryption, ROUTES, ServerLimits, Sessions, serve};
use kah_iam::{
    Authentication, Clock, GlobalRoles, HostTrust, MemoryCache, SigningKeys, SystemClock,
    TokenCache, TokenType, Tokens, Users,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::{member::Authority, room::Room};

/// A clock that is wrong by so many seconds.
struct Off(i64);

impl Clock for Off {
    fn now(&self) -> Timestamp {
        Timestamp::now() + SignedDuration::from_secs(self.0)
    }

    fn uptime(&self) -> f64 {
        1.0
    }
}

fn tokens(secret: &str, issuer: &str, off: i64) -> Tokens {
    let skew = GoDuration::from_secs(10);
    Tokens::new(
        &JwtSecret::new(secret),
        issuer,
        true,
        skew,
        Arc::new(Off(off)),
    )
}

fn issue(tokens: &Tokens, user: &str, kind: TokenType, life: i64) -> String {
    let life = GoDuration::from_secs(life);
    tokens.issue(user, kind, &BTreeMap::new(), life)
}

fn user(name: &str, state: &str) -> User {
    let mut user = User::new(name, UserSpec::default());
    user.status = Some(UserStatus {
        state: state.into(),
        ..UserStatus::default()
    });
    user
}

/// Sessions of a host with this access token age, and one good token of `admin`.
async fn sessions(age: &str) -> (Sessions, String) {
    let text = format!(
        "authentication: {{jwtSecret: ours, oauthOptions: {{accessTokenMaxAge: {age}}}}}\nmulticluster: {{enable: true, clusterRole: host}}\n"
    );
    let configuration = Configuration::read(&text, &BTreeMap::new()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let users = Arc::new(Users::default());
    users.replace(vec![user("admin", "Active"), user("off", "Disabled")]);
    let roles = Arc::new(GlobalRoles::default());
    roles.replace(vec![GlobalRoleBinding::for_user(
        "a",
        "admin",
        PLATFORM_ADMIN,
    )]);
    let cache = Arc::new(MemoryCache::new(Arc::clone(&clock)));
    let good = issue(
        &tokens("ours", "kubesphere", 0),
        "admin",
        TokenType::Access,
        3600,
    );
    let life = GoDuration::from_secs(3600);
    cache.insert("admin", &good, life).await.unwrap();
    let authentication = Authentication::new(&configuration, cache, users, clock);
    let sessions = Sessions::new(&configuration, authentication, roles);
    (sessions, good)
}

/// A clock that a test moves.
#[derive(Default)]
struct Moved(std::sync::atomic::AtomicI64);

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        let seconds = self.0.load(std::sync::atomic::Ordering::SeqCst);
        Timestamp::now() + SignedDuration::from_secs(seconds)
    }

    fn uptime(&self) -> f64 {
        1.0
    }
}

/// Begins a watch with this credential, and reads its first line.
async fn watch(room: &Room, authorization: &str) -> axum::body::BodyDataStream {
    let request = Request::get("/api/v1/pods?watch=1&endless=1")
        .header("authorization", authorization)
        .body(Body::empty())
        .unwrap();
    let response = room.gateway.serve(request).await;
    assert_eq!(response.status(), 200);
    let mut body = response.into_body().into_data_stream();
    let first = tokio::time::timeout(Duration::from_secs(10), body.next()).await;
    assert_eq!(first.unwrap().unwrap().unwrap(), "first\n");
    body
}

#[tokio::test]
async fn w5_t13_a_watch_that_a_host_vouched_for_outlives_the_token_and_ends_with_user_and_right() {
    let text = "authentication: {jwtSecret: ours}\nmulticluster: {clusterRole: member}\n";
    let configuration = Configuration::read(text, &BTreeMap::new()).unwrap();
    let moved = Arc::new(Moved::default());
    let clock: Arc<dyn Clock> = moved.clone();
    let users = Arc::new(Users::default());
    users.replace(vec![user("admin", "Active"), user("other", "Active")]);
    let roles = Arc::new(GlobalRoles::default());
    let bindings =
        || ["admin", "other"].map(|name| GlobalRoleBinding::for_user(name, name, PLATFORM_ADMIN));
    roles.replace(bindings().into());
    let keys = SigningKeys::first(clock.now()).unwrap();
    let trust = Arc::new(HostTrust::default());
    trust.set(Some(keys.trusted("kubeaihub:h", "m")));
    let cache = Arc::new(MemoryCache::new(Arc::clone(&clock)));
    let authentication = Authentication::new(&configuration, cache, users.clone(), clock.clone())
        .trusting(trust.clone());
    let sessions = Sessions::new(&configuration, authentication, roles.clone());
    let room = Room::member_with(Arc::new(sessions)).await;
    let (gateway, stop) = (room.gateway.clone(), CancellationToken::new());
    let looks = stop.clone();
    tokio::spawn(async move { gateway.end_streams(Duration::from_millis(5), looks).await });

    let key = keys.active().unwrap().unwrap();
    let now = clock.now().as_second();
    let token = |name: &str| key.mint("kubeaihub:h", "m", name, now);
    let admin = format!("Bearer {}", token("admin"));
    let mut streams = [
        watch(&room, &admin).await,
        watch(&room, &format!("bearer {}", token("other"))).await,
    ];
    // Its token has ended, and nobody vouches for anybody any more.
    moved.0.store(120, std::sync::atomic::Ordering::SeqCst);
    let late = [("authorization", admin.as_str())];
    let late = room.ask("GET", "/api/v1/pods", &late, "").await;
    assert_eq!(late.status, 401);
    trust.set(None);
    for body in &mut streams {
        let quiet = tokio::time::timeout(Duration::from_millis(100), body.next()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }
    let [mut disabled, mut powerless] = streams;
    users.apply(user("admin", "Disabled"));
    let end = tokio::time::timeout(Duration::from_secs(10), disabled.next()).await;
    assert!(matches!(end, Ok(Some(Err(_)))), "{end:?}");
    let quiet = tokio::time::timeout(Duration::from_millis(100), powerless.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    roles.replace(bindings().into_iter().take(1).collect());
    let end = tokio::time::timeout(Duration::from_secs(10), powerless.next()).await;
    assert!(matches!(end, Ok(Some(Err(_)))), "{end:?}");
    stop.cancel();
}

fn unsigned(header: &str, payload: &str) -> String {
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.AAAA", part(header), part(payload))
}

/// Tokens, and how each refusal begins.
fn refused() -> Vec<(String, &'static str)> {
    let ours = tokens("ours", "kubesphere", 0);
    let access = TokenType::Access;
    let admin = |tokens: &Tokens| issue(tokens, "admin", access, 3600);
    let claims = r#"{"iss":"kubesphere","sub":"admin","exp":9999999999,"iat":1,"token_type":"access_token","username":"admin"}"#;
    let (signed, _) = admin(&ours)
        .rsplit_once('.')
        .map(|(signed, tag)| (signed.to_owned(), tag.to_owned()))
        .unwrap();
    let kind = |kind| issue(&ours, "admin", kind, 3600);
    vec![
        (
            admin(&tokens("theirs", "kubesphere", 0)),
            "signature is invalid",
        ),
        (format!("{signed}."), "signature is invalid"),
        (
            unsigned(r#"{"alg":"HS256","typ":"JWT"}"#, claims),
            "signature is invalid",
        ),
        (
            admin(&tokens("ours", "kubesphere", -7200)),
            "jwt: token is expired by ",
        ),
        (
            admin(&tokens("ours", "kubesphere", 600)),
            "jwt: token used before issued, iat:",
        ),
        (
            admin(&tokens("ours", "elsewhere", 0)),
            "jwt: token has a wrong iss",
        ),
        (issue(&ours, "admin", access, 0), "jwt: token has no exp"),
        (
            kind(TokenType::Refresh),
            "ivalid token type refresh_token want access_token",
        ),
        (
            kind(TokenType::Code),
            "ivalid token type code want access_token",
        ),
        (
            kind(TokenType::Id),
            "ivalid token type id_token want access_token",
        ),
        (
            unsigned(r#"{"alg":"none"}"#, claims),
            "signing method none is invalid",
        ),
        (
            unsigned(r#"{"alg":"HS384"}"#, claims),
            "signing method HS384 is invalid",
        ),
        (
            unsigned(r#"{"alg":"RS256"}"#, claims),
            "key is of invalid type",
        ),
        (
            unsigned(r#"{"alg":"HS256","crit":["exp"]}"#, claims),
            "token header crit is not understood",
        ),
        ("x".into(), "token contains an invalid number of segments"),
        (
            "a.b.c.d".into(),
            "token contains an invalid number of segments",
        ),
        ("!.b.c".into(), "illegal base64 data at input byte 0"),
        // Good, but never given out here.
        (
            issue(&ours, "admin", access, 1800),
            "token not found in cache",
        ),
    ]
}

/// A connection of either version.
enum Wire {
    One(conn::http1::SendRequest<Body>),
    Two(conn::http2::SendRequest<Body>),
}

impl Wire {
    async fn open(address: std::net::SocketAddr, two: bool) -> Self {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        if two {
            let opened = conn::http2::handshake(TokioExecutor::new(), stream).await;
            let (sender, connection) = opened.unwrap();
            tokio::spawn(connection);
            Self::Two(sender)
        } else {
            let (sender, connection) = conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            Self::One(sender)
        }
    }

    async fn get(&mut self, target: &str, token: &str) -> hyper::Result<Response<Incoming>> {
        let request = |uri: String| {
            Request::get(uri)
                .header("host", "hub.example")
                .header("authorization", format!("Bearer {token}"))
                .body(Body::empty())
                .unwrap()
        };
        let asked = async {
            match self {
                Self::One(sender) => {
                    sender.ready().await?;
                    sender.send_request(request(target.to_owned())).await
                }
                Self::Two(sender) => {
                    sender.ready().await?;
                    let mut request = request(format!("http://hub.example{target}"));
                    request.headers_mut().remove("host");
                    sender.send_request(request).await
                }
            }
        };
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, asked).await.expect("in time")
    }
}

async fn message(response: Response<Incoming>) -> String {
    let body = to_bytes(Body::new(response.into_body()), 1 << 20).await;
    let status: Value = serde_json::from_slice(&body.unwrap()).unwrap();
    assert_eq!(status["reason"], "Unauthorized");
    status["message"].as_str().unwrap().to_owned()
}

const TARGETS: [&str; 4] = [
    "/api/v1/pods",
    "/clusters/m1/api/v1/pods",
    "/kapis/clusters/m1/version",
    "/kapis/version",
];

#[tokio::test]
async fn j1_j2_j4_tokens_that_open_nothing_over_both_versions_of_http() {
    let (sessions, good) = sessions("2h").await;
    let room = Room::host_with(Arc::new(sessions)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(
        listener,
        Encryption::None,
        room.gateway.clone(),
        ServerLimits::default(),
        stop.clone(),
    ));
    for two in [false, true] {
        let mut wire = Wire::open(address, two).await;
        for (token, text) in refused() {
            for target in TARGETS {
                let answer = wire.get(target, &token).await.unwrap();
                assert_eq!(answer.status(), 401, "{text} {target}");
                let message = message(answer).await;
                assert!(
                    message.starts_with(&format!("Unauthorized: {text}")),
                    "{message} for {text}"
                );
            }
        }
        // A head of 1 MB: 431, or the connection's end, and nothing goes on.
        let huge = "a".repeat(1 << 20);
        let mut other = Wire::open(address, two).await;
        if let Ok(answer) = other.get("/api/v1/pods", &huge).await {
            assert_eq!(answer.status(), 431);
        }
        assert_eq!((room.kube.count(), room.member.count()), (0, 0));
    }
    // The same ways are open to a good one.
    for two in [false, true] {
        let mut wire = Wire::open(address, two).await;
        for target in TARGETS {
            let answer = wire.get(target, &good).await.unwrap();
            assert_eq!(answer.status(), 200, "{target}");
        }
    }
    assert!(room.kube.count() >= 2 && room.member.count() == 4);
    stop.cancel();
    serving.await.unwrap().unwrap();
}

/// Keeps what is logged at a place, as `file:line text`.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        #[derive(Default)]
        struct Fields(String, u64, String);
        impl tracing::field::Visit for Fields {
            fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
                if field.name() == "klog.line" {
                    self.1 = value;
                }
            }

            fn record_i64(&mut self, field: &tracing::field::Field, value: i64) {
                self.record_u64(field, value.unsigned_abs());
            }

            fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
                if field.name() == "klog.file" {
                    value.clone_into(&mut self.0);
                }
            }

            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.2 = format!("{value:?}");
                }
            }
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        if !fields.0.is_empty() {
            let line = format!("{}:{}] {}", fields.0, fields.1, fields.2);
            self.0.lock().unwrap().push(line);
        }
    }
}

/// A connection over TLS on which an agent shows the certificate of its tunnels.
async fn with_certificate(
    address: std::net::SocketAddr,
    outer: &Authority,
) -> conn::http1::SendRequest<Body> {
    let tunnels = TunnelAuthority::in_memory(Timestamp::now()).unwrap();
    let key = private_key().unwrap();
    let csr = request_certificate(&key).unwrap();
    let chain = tunnels
        .issue_agent(
            &csr,
            &AgentIdentity::first("m1", "uid-m1"),
            Timestamp::now(),
        )
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(outer.pem().as_bytes()).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            CertificateDer::pem_slice_iter(chain.as_bytes())
                .collect::<Result<_, _>>()
                .unwrap(),
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "127.0.0.1".try_into().unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.unwrap();
    let (sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// An agent holds an account of its own cluster and a certificate for its tunnels. With neither is it anybody here.
#[tokio::test]
async fn t3_an_agents_credentials_read_and_write_nothing_at_the_host() {
    let (sessions, _) = sessions("2h").await;
    let room = Room::host_with(Arc::new(sessions)).await;
    let account = "system:serviceaccount:kubesphere-system:kah-agent";
    let claims = format!(
        r#"{{"iss":"https://kubernetes.default.svc.cluster.local","sub":"{account}","aud":["https://kubernetes.default.svc.cluster.local"],"exp":9999999999,"iat":1,"username":"{account}","token_type":"access_token"}}"#
    );
    let ours = tokens("ours", "kubesphere", 0);
    let bearers = [
        unsigned(r#"{"alg":"RS256","kid":"abc"}"#, &claims),
        issue(
            &tokens("theirs", "kubesphere", 0),
            account,
            TokenType::Access,
            3600,
        ),
        // Even if the host itself had signed it.
        issue(&ours, account, TokenType::Access, 3600),
        issue(&ours, account, TokenType::Static, 3600),
    ];
    let mut paths: Vec<String> = ROUTES
        .iter()
        .map(|route| {
            route
                .path
                .replace("{cluster}", "m1")
                .replace("{token}", "m1.0")
        })
        .collect();
    paths.extend(TARGETS.map(str::to_owned));
    paths.push("/api/v1/namespaces/kubesphere-system/secrets/hub-signing-keys".to_owned());
    for path in &paths {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            for bearer in &bearers {
                let value = format!("Bearer {bearer}");
                let headers = [
                    ("authorization", value.as_str()),
                    ("content-type", "application/json"),
                ];
                let answer = room.ask(method, path, &headers, "{}").await;
                assert_eq!(answer.status, 401, "{method} {path}: {}", answer.body);
            }
        }
    }
    assert_eq!((room.kube.count(), room.member.count()), (0, 0));

    let outer = Authority::new().unwrap();
    let tls = outer
        .issue("127.0.0.1", false)
        .unwrap()
        .server(None)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(
        listener,
        Encryption::Tls(Arc::new(tls)),
        room.gateway.clone(),
        ServerLimits::default(),
        CancellationToken::new(),
    ));
    let mut agent = with_certificate(address, &outer).await;
    for path in &paths {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let nobody = room.ask(method, path, &[], "").await.status;
            let request = Request::builder().method(method).uri(path);
            let request = request.header("host", "hub.example").body(Body::empty());
            agent.ready().await.unwrap();
            let answer = agent.send_request(request.unwrap()).await.unwrap();
            assert_eq!(answer.status(), nobody, "{method} {path}");
            let body = to_bytes(Body::new(answer.into_body()), 1 << 20).await;
            drop(body.unwrap());
        }
    }
    // `/kapis/version` is for everybody, and says what the kube-apiserver says.
    let seen = room.kube.seen.lock().unwrap().clone();
    assert!(
        seen.iter().all(|seen| seen.target == "/version"),
        "{seen:?}"
    );
    assert!(
        room.member
            .seen
            .lock()
            .unwrap()
            .iter()
            .all(|seen| seen.target == "/kapis/version")
    );
}

#[tokio::test]
async fn every_refused_token_leaves_the_three_lines() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::registry().with(lines.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    let (sessions, _) = sessions("0").await;
    let room = Room::host_with(Arc::new(sessions)).await;
    let ours = tokens("ours", "kubesphere", 0);
    let theirs = tokens("theirs", "kubesphere", 0);
    for (token, text) in [
        (
            issue(&theirs, "admin", TokenType::Access, 60),
            "signature is invalid",
        ),
        (
            issue(&ours, "ghost", TokenType::Access, 60),
            r#"user.iam.kubesphere.io "ghost" not found"#,
        ),
        (
            issue(&ours, "off", TokenType::Access, 60),
            "account is not active",
        ),
        (
            issue(&ours, "admin", TokenType::Refresh, 60),
            "ivalid token type refresh_token want access_token",
        ),
    ] {
        assert_eq!(room.get("/kapis/version", &token).await.status, 401);
        let found = std::mem::take(&mut *lines.0.lock().unwrap());
        let expected = [
            format!("token.go:65] {text}"),
            format!("jwt_token.go:45] {text}"),
            format!(
                "authentication.go:60] Unable to authenticate the request due to error: {text}"
            ),
        ];
        assert_eq!(found, expected);
        // W4: never the token itself.
        assert!(!found.iter().any(|line| line.contains(&token)));
    }
    // No token, no lines.
    let basic = [("authorization", "Basic b2ZmOlBAODh3MHJk")];
    let answer = room.ask("GET", "/kapis/version", &basic, "").await;
    assert_eq!(answer.status, 401);
    assert!(lines.0.lock().unwrap().is_empty());
}
