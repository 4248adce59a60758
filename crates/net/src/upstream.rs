//! One address that requests are sent to.

use std::{
    future::Future,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version, header,
    uri::PathAndQuery,
};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioTimer};
use rustls::pki_types::ServerName;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Address, Allow, Body, BoxError, Dial, Gauges, Kind, Open, ProxyError, TlsSettings,
    body::{Inbound, Outbound, closed},
    connect::Connector,
    gauge::Counted,
    headers::{clean_response, forwarded_for, is_upgrade, request_headers},
    shown::Memory,
    upgrade,
};

/// How long and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For name and TCP connection together.
    pub connect: Duration,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the head of the answer, from the end of the request's body on; `None` waits for as long as the caller does. A [`Forward`] may say
    /// otherwise for its request.
    pub answer: Option<Duration>,
    /// For the answer to an upgrade.
    pub upgrade: Duration,
    /// How long a spliced pair stays after one direction has ended and the other is silent.
    pub half_closed: Duration,
    /// Between probes of a silent connection.
    pub keep_alive: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
    /// Unused connections kept.
    pub max_idle: usize,
    /// Bytes of an answer's head.
    pub max_head: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
            answer: None,
            upgrade: Duration::from_secs(30),
            half_closed: Duration::from_secs(10),
            keep_alive: Duration::from_secs(5),
            idle: Duration::from_secs(60),
            max_idle: 64,
            max_head: 64 * 1024,
        }
    }
}

/// A header that an upstream asks of us, whoever the request is for. `Debug` hides the value.
#[derive(Debug, Clone)]
pub struct Credential {
    name: HeaderName,
    value: HeaderValue,
}

impl Credential {
    /// Any header with a secret value.
    #[must_use]
    pub fn new(name: HeaderName, mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        Self { name, value }
    }

    /// `Authorization: Bearer TOKEN`; `None` where the token cannot stand in a header.
    #[must_use]
    pub fn bearer(token: &str) -> Option<Self> {
        let value = HeaderValue::try_from(format!("Bearer {}", token.trim())).ok()?;
        Some(Self::new(header::AUTHORIZATION, value))
    }
}

/// What an [`Upstream`] is built from.
#[derive(Debug, Clone)]
pub struct UpstreamSettings {
    /// Where it listens.
    pub address: Address,
    /// Makes the connections, where TCP to the address does not; the address then names the upstream and stands in `Host`.
    pub dial: Option<Arc<dyn Dial>>,
    /// Which addresses may be connected to by TCP; `None` lets all.
    pub allow: Option<Arc<dyn Allow>>,
    /// How it is verified; not used where the address speaks no TLS.
    pub tls: TlsSettings,
    /// What we show it on every request.
    pub credential: Option<Credential>,
    /// Time and size limits.
    pub limits: Limits,
    /// Ends everything that goes on with this upstream.
    pub stop: CancellationToken,
    /// Owns the tasks that drive its connections.
    pub tasks: TaskTracker,
    /// Counts what is open; several upstreams may share it.
    pub gauges: Arc<Gauges>,
}

impl UpstreamSettings {
    /// Settings for an address with everything else as by default.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            address,
            dial: None,
            allow: None,
            tls: TlsSettings::default(),
            credential: None,
            limits: Limits::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            gauges: Arc::default(),
        }
    }
}

/// What one request needs beside itself.
#[derive(Debug, Clone)]
pub struct Forward {
    /// Where it goes, already encoded; sent as it is.
    pub target: PathAndQuery,
    /// Headers that are set after the client's were sifted; they replace the client's. The identity of the caller is one of them.
    pub headers: HeaderMap,
    /// Whose address is appended to `X-Forwarded-For`.
    pub client: Option<IpAddr>,
    /// Another limit than [`Limits::answer`] for this request; `Some(None)` is no limit.
    pub answer_within: Option<Option<Duration>>,
    /// Ends the answer, or what came of an upgrade, when it is cancelled. It is held for as long as there is something to end.
    pub ends: Option<Arc<CancellationToken>>,
}

impl Forward {
    /// To this target, with nothing added.
    #[must_use]
    pub fn new(target: PathAndQuery) -> Self {
        Self {
            target,
            headers: HeaderMap::new(),
            client: None,
            answer_within: None,
            ends: None,
        }
    }
}

/// Streams that one HTTP/2 connection is given before another is opened; servers commonly allow 100, and watches hold theirs for long.
const STREAMS: usize = 80;
/// HTTP/2 connections at most.
const LANES: usize = 32;
/// Bytes of one answer over HTTP/2 that may wait for whoever reads it.
const WINDOW: u32 = 128 * 1024;
/// The same of all answers of one connection: as many as servers allow at one time (250 is what a kube-apiserver does), each with all that it may have.
/// With less, those that nobody reads would hold up the others.
const CONNECTION_WINDOW: u32 = 256 * WINDOW;

/// One address with its credentials, connection pools and limits. Clones share them.
///
/// Dropping the last clone closes idle connections; what is under way goes on until it ends, or until [`Upstream::close`].
#[derive(Clone)]
pub struct Upstream(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) name: Arc<str>,
    authority: String,
    scheme: &'static str,
    credential: Option<Credential>,
    pub(crate) limits: Limits,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) gauges: Arc<Gauges>,
    /// HTTP/1.1 only.
    pub(crate) raw: Connector,
    /// Offers both; finds out which is spoken.
    either: Connector,
    spoken: Spoken,
    http1: Client<Connector, Body>,
    lanes: Vec<Lane>,
}

/// Which protocol the peer chose, once known.
///
/// A pool that does not know dials once for each of many requests that come together; one that knows it is HTTP/2 dials once for all.
#[derive(Default)]
struct Spoken {
    protocol: AtomicU8,
    attempts: AtomicU64,
    /// What the last attempt failed with, for all who waited for it.
    failed: tokio::sync::Mutex<Option<(Kind, String)>>,
}

const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

struct Lane {
    client: Client<Connector, Body>,
    /// Its strong count, less one, is the number of requests under way.
    load: Arc<()>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upstream({})", self.0.name)
    }
}

/// Spawns what drives connections, under the owner of the upstream.
#[derive(Clone)]
struct Drive {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for Drive
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled_owned(future).await;
        });
    }
}

impl Upstream {
    /// Prepares an upstream; nothing is dialled yet.
    ///
    /// # Errors
    /// [`Kind::Settings`] where certificates cannot be read or the host is no valid name.
    pub fn new(settings: UpstreamSettings) -> Result<Self, ProxyError> {
        let UpstreamSettings {
            address,
            dial,
            allow,
            tls,
            credential,
            limits,
            stop,
            tasks,
            gauges,
        } = settings;
        let stop = stop.child_token();
        let name: Arc<str> = address.to_string().into();
        let refuse = |error: BoxError| ProxyError::because(Kind::Settings, &name, error);
        let authority = address.authority();
        let scheme = if address.tls { "https" } else { "http" };
        let either = Connector {
            address: Arc::new(address),
            dial,
            allow,
            name: name.clone(),
            tls: None,
            limits,
            gauges: gauges.clone(),
            refused: Arc::default(),
            shown: Memory::default(),
        };
        let (mut raw, mut multiplexed, mut either) = (either.clone(), either.clone(), either);
        let spoken = Spoken::default();
        if either.address.tls {
            let server_name = tls
                .server_name
                .as_ref()
                .unwrap_or(&either.address.host)
                .clone();
            let server_name =
                ServerName::try_from(server_name).map_err(|error| refuse(error.into()))?;
            let configs = tls.build().map_err(refuse)?;
            either.tls = Some((configs.either, server_name.clone()));
            multiplexed.tls = Some((configs.http2, server_name.clone()));
            raw.tls = Some((configs.http1, server_name));
        } else {
            spoken.protocol.store(HTTP1, Ordering::Release);
        }
        let drive = Drive {
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let mut builder = Client::builder(drive);
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(limits.idle)
            .pool_max_idle_per_host(limits.max_idle)
            .http1_max_buf_size(limits.max_head.max(16 * 1024))
            .http2_max_header_list_size(u32::try_from(limits.max_head).unwrap_or(u32::MAX))
            .http2_initial_stream_window_size(WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(limits.keep_alive)
            .http2_keep_alive_timeout(limits.keep_alive);
        let http1 = builder.build(raw.clone());
        builder.http2_only(true);
        let lanes = (0..LANES)
            .map(|_| Lane {
                client: builder.build(multiplexed.clone()),
                load: Arc::new(()),
            })
            .collect();
        Ok(Self(Arc::new(Inner {
            name,
            authority,
            scheme,
            credential,
            limits,
            stop,
            tasks,
            gauges,
            raw,
            either,
            spoken,
            http1,
            lanes,
        })))
    }

    /// Sends a request and returns its answer as soon as its head is there; both bodies stream.
    ///
    /// Of the client's headers those pass that [`request_header_passes`](crate::request_header_passes) names; trailers do not. An upgrade goes out
    /// exactly once, on a connection of its own; after a 101 the two connections are spliced as soon as the caller has sent the answer on.
    /// Redirects are answers like any other. Dropping the future, or the body of the answer, ends the request at the upstream.
    ///
    /// # Errors
    /// [`ProxyError`] where there is no answer that can be relayed.
    pub async fn send<B>(
        &self,
        request: Request<B>,
        forward: Forward,
    ) -> Result<Response<Body>, ProxyError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let inner = &self.0;
        let (mut parts, body) = request.into_parts();
        if parts.method == Method::CONNECT || parts.method == Method::TRACE {
            return Err(ProxyError::because(
                Kind::Request,
                &inner.name,
                format!("method {} is not relayed", parts.method),
            ));
        }
        if inner.stop.is_cancelled() {
            return Err(ProxyError::new(Kind::Closed, &inner.name, None));
        }
        let upgrade = is_upgrade(&parts.headers);
        let client_side = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let offered = upgrade
            .then(|| crate::upgrade_protocols(&parts.headers))
            .flatten();

        let mut added = forward.headers;
        if let Some(address) = forward.client {
            added.insert(
                HeaderName::from_static("x-forwarded-for"),
                forwarded_for(&parts.headers, address),
            );
        }
        if let Some(credential) = &inner.credential {
            added.insert(credential.name.clone(), credential.value.clone());
        }
        let mut headers = request_headers(&parts.headers, added);
        if let Ok(host) = HeaderValue::try_from(inner.authority.as_str()) {
            headers.insert(header::HOST, host);
        }
        let sent = CancellationToken::new();
        let counted = Counted::request(&inner.gauges);
        let outbound = Outbound::new(body, sent.clone());

        if upgrade {
            let (Some(client_side), Some(offered)) = (client_side, offered) else {
                return Err(ProxyError::because(
                    Kind::Request,
                    &inner.name,
                    "the request asks for an upgrade that its connection cannot make",
                ));
            };
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, offered);
            let request = build(
                parts.method,
                Uri::from(forward.target),
                headers,
                outbound.boxed_unsync(),
            );
            return upgrade::send(inner, request, client_side, counted, forward.ends).await;
        }

        let uri = Uri::builder()
            .scheme(inner.scheme)
            .authority(inner.authority.as_str())
            .path_and_query(forward.target)
            .build()
            .map_err(|error| ProxyError::because(Kind::Request, &inner.name, error))?;
        let limit = forward.answer_within.unwrap_or(inner.limits.answer);
        let (client, load) = inner.client().await?;
        // A pooled connection may be closed by its peer in the moment in which it is used. What changes nothing there is sent once more.
        let repeatable = matches!(parts.method, Method::GET | Method::HEAD)
            && http_body::Body::is_end_stream(&outbound);
        let again = repeatable.then(|| {
            build(
                parts.method.clone(),
                uri.clone(),
                headers.clone(),
                crate::empty(),
            )
        });
        let request = build(parts.method, uri, headers, outbound.boxed_unsync());
        let mut answer = inner.answer(client.request(request), limit, &sent).await;
        if let (Some(request), Err(error)) = (again, &answer)
            && error.kind() == Kind::Reset
        {
            answer = inner.answer(client.request(request), limit, &sent).await;
        }
        if matches!(&answer, Err(error) if error.kind() == Kind::Tls) && inner.raw.tls.is_some() {
            // A peer that was exchanged may speak another protocol than before.
            inner.spoken.protocol.store(UNKNOWN, Ordering::Release);
        }
        let mut response = answer?;
        clean_response(response.headers_mut());
        let (parts, body) = response.into_parts();
        let closed = closed(inner.stop.clone(), forward.ends);
        let body = Inbound::new(body, closed, (counted, load)).boxed_unsync();
        Ok(Response::from_parts(parts, body))
    }

    /// `SCHEME://HOST:PORT`, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// `HOST[:PORT]`, as sent in `Host`.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.0.authority
    }

    /// What is open now.
    #[must_use]
    pub fn open(&self) -> Open {
        self.0.gauges.open()
    }

    /// Ends at once whatever goes on: answers break off with an error, spliced connections close, later requests fail with [`Kind::Closed`].
    pub fn close(&self) {
        self.0.stop.cancel();
    }
}

impl Inner {
    /// The client to send with, and what to hold while the answer lasts.
    async fn client(&self) -> Result<(&Client<Connector, Body>, Arc<()>), ProxyError> {
        let load = |lane: &&Lane| Arc::strong_count(&lane.load);
        let http2 = self.protocol().await? == HTTP2;
        // The first lane with room, else the least loaded.
        let room = || self.lanes.iter().find(|lane| load(lane) <= STREAMS);
        let lane = http2
            .then(|| room().or_else(|| self.lanes.iter().min_by_key(load)))
            .flatten();
        Ok(match lane {
            Some(lane) => (&lane.client, lane.load.clone()),
            None => (&self.http1, Arc::new(())),
        })
    }

    /// Finds out once what the peer speaks; those who come meanwhile wait for the same attempt and share its end.
    async fn protocol(&self) -> Result<u8, ProxyError> {
        let spoken = &self.spoken;
        let known = || spoken.protocol.load(Ordering::Acquire);
        if known() != UNKNOWN {
            return Ok(known());
        }
        let before = spoken.attempts.load(Ordering::Acquire);
        let mut failed = spoken.failed.lock().await;
        if known() != UNKNOWN {
            return Ok(known());
        }
        if let (true, Some((kind, why))) =
            (spoken.attempts.load(Ordering::Acquire) != before, &*failed)
        {
            return Err(ProxyError::because(*kind, &self.name, why.clone()));
        }
        let attempt = tokio::select! {
            attempt = self.either.clone().connect() => attempt,
            () = self.stop.cancelled() => Err(ProxyError::new(Kind::Closed, &self.name, None)),
        };
        spoken.attempts.fetch_add(1, Ordering::AcqRel);
        match attempt {
            Ok(wire) => {
                let protocol = if wire.is_http2() { HTTP2 } else { HTTP1 };
                spoken.protocol.store(protocol, Ordering::Release);
                Ok(protocol)
            }
            Err(error) => {
                *failed = Some((error.kind(), error.root_cause()));
                Err(error)
            }
        }
    }

    pub(crate) async fn answer<T, E>(
        &self,
        answer: impl Future<Output = Result<T, E>>,
        limit: Option<Duration>,
        sent: &CancellationToken,
    ) -> Result<T, ProxyError>
    where
        E: Into<BoxError>,
    {
        let late = async {
            match limit {
                None => std::future::pending().await,
                Some(limit) => {
                    sent.cancelled().await;
                    tokio::time::sleep(limit).await;
                }
            }
        };
        tokio::select! {
            answer = answer => match answer {
                Ok(answer) => {
                    self.either.refused.store(false, Ordering::Release);
                    Ok(answer)
                }
                Err(error) => {
                    let error = ProxyError::classify(&self.name, error.into(), Kind::Reset);
                    let refused = self.either.refused.load(Ordering::Acquire);
                    Err(if refused && matches!(error.kind(), Kind::Reset | Kind::Tls) {
                        ProxyError::because(Kind::CertificateRefused, &self.name, error)
                    } else {
                        error
                    })
                }
            },
            () = self.stop.cancelled() => Err(ProxyError::new(Kind::Closed, &self.name, None)),
            () = late => Err(ProxyError::new(Kind::Timeout, &self.name, None)),
        }
    }
}

fn build(method: Method, uri: Uri, headers: HeaderMap, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    request
}
