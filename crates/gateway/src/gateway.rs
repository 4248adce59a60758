//! The life of a request, layer by layer.

use std::{
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use axum::{body::Body, response::Response};
use futures::{FutureExt, future::BoxFuture};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header, request::Parts,
    uri::PathAndQuery,
};
use http_body::Body as _;
use jiff::Timestamp;
use kah_api::{
    path::{ClusterForm, Target, parse},
    status::Status,
};
use kah_cluster::{Host, Registry, enrol::without_tokens};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    answer::{self, routing_error},
    audit::{Audit, Object, Record, Recording},
    callers::{Caller, Callers, Rejection},
    edge,
    kube_proxy::KubeProxy,
    member, routes,
    server::ServerLimits,
    settings::Settings,
    streams::{Streams, TooMany},
};

/// Enrolments at one time; more are told to come back.
const ENTRIES: usize = 16;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The address at the other end of the connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// What a [`Gateway`] is built from.
#[derive(Clone)]
pub struct GatewayParts {
    /// What of `kubesphere.yaml` concerns the gateway.
    pub settings: Settings,
    /// Who callers are and what they may.
    pub callers: Arc<dyn Callers>,
    /// The clusters of the fleet; used by a host only.
    pub registry: Registry,
    /// What a host knows and holds toward its members; a member has none.
    pub host: Option<Host>,
    /// The way to this cluster's kube-apiserver.
    pub kube: KubeProxy,
    /// Keeps the records.
    pub audit: Arc<dyn Audit>,
}

/// What went wrong that no answer tells.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests.
    pub requests: AtomicU64,
    /// Panics that were caught.
    pub panics: AtomicU64,
}

/// Answers requests. Clones share everything.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) settings: ArcSwap<Settings>,
    pub(crate) callers: Arc<dyn Callers>,
    pub(crate) registry: Registry,
    pub(crate) host: Option<Host>,
    pub(crate) kube: KubeProxy,
    /// Enrolments and the like at one time: anybody may ask for them.
    pub(crate) entries: Semaphore,
    pub(crate) streams: Streams,
    audit: Arc<dyn Audit>,
    counters: Counters,
}

/// A request on its way through the layers.
pub(crate) struct Arrived {
    pub(crate) parts: Parts,
    pub(crate) body: Body,
    pub(crate) target: Target,
    pub(crate) caller: Caller,
    pub(crate) client: Option<IpAddr>,
    pub(crate) settings: Arc<Settings>,
}

impl Arrived {
    /// A Status in the form that this caller asked for.
    pub(crate) fn refuse(&self, status: &Status) -> Response {
        refuse(&self.parts, status)
    }

    /// The request without what only this server needs, for the wire.
    pub(crate) fn into_request(self) -> (Request<Body>, Target) {
        (Request::from_parts(self.parts, self.body), self.target)
    }
}

impl Gateway {
    /// A gateway over these parts, with as many upgrades as [`ServerLimits`] allows by default. Nothing is asked or opened yet.
    #[must_use]
    pub fn new(parts: GatewayParts) -> Self {
        Self::with_upgrades(parts, ServerLimits::default().upgrades)
    }

    /// The same with so many terminals, forwarded ports and other upgrades at one time; more are told to come back.
    #[must_use]
    pub fn with_upgrades(parts: GatewayParts, at_most: usize) -> Self {
        Self(Arc::new(Inner {
            settings: ArcSwap::from_pointee(parts.settings),
            callers: parts.callers,
            registry: parts.registry,
            host: parts.host,
            kube: parts.kube,
            entries: Semaphore::new(ENTRIES),
            streams: Streams::new(at_most),
            audit: parts.audit,
            counters: Counters::default(),
        }))
    }

    /// Takes over other settings: requests that come from now on are judged by them; sessions and connections stay.
    pub fn reload(&self, settings: Settings) {
        self.0.settings.store(Arc::new(settings));
    }

    /// Judges everything that goes on, once ([`Streams::judge`]).
    pub(crate) async fn judge_streams(&self, round: u64) {
        self.0.streams.judge(&*self.0.callers, round).await;
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Answers one request. Never panics, and always answers.
    pub async fn serve(&self, request: Request<Body>) -> Response {
        let inner = &self.0;
        inner.counters.requests.fetch_add(1, Ordering::Relaxed);
        // Outermost: a panic below costs its own request only.
        let recorded: BoxFuture<'_, Response> = Box::pin(inner.recorded(request));
        match AssertUnwindSafe(recorded).catch_unwind().await {
            Ok(response) => response,
            Err(_panic) => {
                inner.counters.panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!("a request made this server panic");
                let status = Status::internal_error("this server met a fault of its own");
                answer::status(&status, &HeaderMap::new(), None)
            }
        }
    }
}

impl Inner {
    /// Audit: every request leaves one record, whatever becomes of it.
    async fn recorded(&self, mut request: Request<Body>) -> Response {
        let client = request
            .extensions()
            .get::<Peer>()
            .map(|peer| peer.0.ip().to_canonical());
        let asked = request_id(request.headers());
        let id = asked
            .clone()
            .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        if let Ok(value) = HeaderValue::try_from(id.as_str()) {
            request.headers_mut().insert(REQUEST_ID, value);
        }
        let mut recording = Recording::new(
            self.audit.clone(),
            Record {
                id,
                received: Timestamp::now(),
                took: std::time::Duration::ZERO,
                source: client,
                user: String::new(),
                method: request.method().to_string(),
                path: without_tokens(request.uri().path()).into_owned(),
                verb: String::new(),
                cluster: String::new(),
                object: Object::default(),
                code: 0,
            },
        );
        let mut response = self.parsed(request, client, &mut recording.record).await;
        recording.record.code = response.status().as_u16();
        // Only for those who gave one: the original's answers carry no such header.
        match asked.map(HeaderValue::try_from) {
            Some(Ok(value)) => response.headers_mut().insert(REQUEST_ID, value),
            _ => response.headers_mut().remove(REQUEST_ID),
        };
        response
    }

    /// What the request is about, after what only a host may say was dropped or put in its place.
    async fn parsed(
        &self,
        request: Request<Body>,
        client: Option<IpAddr>,
        record: &mut Record,
    ) -> Response {
        let (mut parts, body) = request.into_parts();
        let settings = self.settings.load_full();

        // Edge: identities and hop headers that a client made up.
        let Parts { headers, uri, .. } = &mut parts;
        let target = match edge::enter(settings.place(), headers, uri) {
            Ok(target) => target,
            Err(status) => return refuse(&parts, &status),
        };
        // Path: one parser; what it read is what is authorised and what is sent on.
        let target = match parse(&parts.method, target.as_str()) {
            Ok(target) => target,
            Err(error) => return refuse(&parts, &Status::bad_request(error.to_string())),
        };
        record.verb.clone_from(&target.verb);
        record.cluster = target.cluster.clone().unwrap_or_default();
        record.object = Object {
            group: target.group.clone(),
            resource: target.resource.clone(),
            subresource: target.subresource.clone(),
            namespace: target.namespace.clone(),
            name: without_tokens(&target.name).into_owned(),
        };
        // Authentication: a bad credential ends here, on any path.
        let caller = match self.authenticated(&parts.headers).await {
            Ok(caller) => caller,
            Err(status) => return refuse(&parts, &status),
        };
        record.user.clone_from(&caller.name);
        self.dispatched(Arrived {
            parts,
            body,
            target,
            caller,
            client,
            settings,
        })
        .await
    }

    async fn authenticated(&self, headers: &HeaderMap) -> Result<Caller, Box<Status>> {
        let mut sent = headers.get_all(header::AUTHORIZATION).iter();
        let rejection = match (sent.next(), sent.next()) {
            (one, None) => match self.callers.authenticate(one).await {
                Ok(caller) => return Ok(caller),
                Err(rejection) => rejection,
            },
            // Two identities are none.
            (_, Some(_)) => Rejection {
                text: "%!s(<nil>)".to_owned(),
                bearer: false,
                undecided: false,
            },
        };
        if rejection.bearer {
            // To the letter: people and alert rules search for these three lines (lost-access.md).
            let text = &rejection.text;
            tracing::error!(klog.file = "token.go", klog.line = 65, "{text}");
            tracing::error!(klog.file = "jwt_token.go", klog.line = 45, "{text}");
            tracing::error!(
                klog.file = "authentication.go",
                klog.line = 60,
                "Unable to authenticate the request due to error: {text}"
            );
        }
        Err(Box::new(Status::unauthorized(&rejection.text)))
    }

    /// Members: a path that names another cluster leaves here, with the caller's own credential.
    async fn dispatched(&self, arrived: Arrived) -> Response {
        let host = arrived.settings.multicluster;
        let Some(name) = arrived.target.cluster.clone().filter(|_| host) else {
            return self.authorized(arrived).await;
        };
        match self.registry.get(&name) {
            None => member::unknown(&name),
            Some(member) if member.is_host() => self.authorized(arrived).await,
            Some(member) => {
                let ends = match self.ends(&arrived, None) {
                    Ok(ends) => ends,
                    Err(status) => return arrived.refuse(&status),
                };
                member::forward(self.host.as_ref(), &member, arrived, ends).await
            }
        }
    }

    /// Authorisation, by the roles of this cluster.
    async fn authorized(&self, arrived: Arrived) -> Response {
        // A member tells everyone which keys it trusts: a host must learn it before it can show who it is.
        let open = !arrived.settings.multicluster
            && routes::is_trust(&arrived.parts.method, &arrived.target);
        if !open && let Err(reason) = self.callers.authorize(&arrived.caller, &arrived.target) {
            let status = Status::forbidden(&arrived.caller.name, &arrived.target, &reason);
            return arrived.refuse(&status);
        }
        // A member serves no cluster but itself: the prefix must not fall through to whatever stands behind it.
        if arrived.target.cluster.is_some() && !arrived.settings.multicluster {
            return if arrived.target.is_kubernetes {
                arrived.refuse(&Status::not_found(
                    "the server could not find the requested resource",
                ))
            } else {
                routing_error(StatusCode::NOT_FOUND, "404: Page Not Found")
            };
        }
        if arrived.target.is_kubernetes || is_kubernetes_besides(&arrived.target) {
            return self.proxied(arrived).await;
        }
        self.handled(arrived).await
    }

    /// Kubernetes paths: to this cluster's kube-apiserver, as this server.
    async fn proxied(&self, arrived: Arrived) -> Response {
        let Ok(target) = PathAndQuery::try_from(arrived.target.forward.as_str()) else {
            return arrived.refuse(&Status::bad_request("the request's target is not valid"));
        };
        let (headers, query) = (
            arrived.parts.headers.clone(),
            arrived.parts.uri.query().map(str::to_owned),
        );
        let client = arrived.client;
        let ends = match self.ends(&arrived, Some(&arrived.target)) {
            Ok(ends) => ends,
            Err(status) => return arrived.refuse(&status),
        };
        let (request, _) = arrived.into_request();
        match self.kube.forward(request, target, client, ends).await {
            Ok(response) => response,
            Err(status) => answer::status(&status, &headers, query.as_deref()),
        }
    }

    /// What ends this request, if it is one that goes on.
    fn ends(
        &self,
        arrived: &Arrived,
        target: Option<&Target>,
    ) -> Result<Option<Arc<CancellationToken>>, Box<Status>> {
        let headers = &arrived.parts.headers;
        if !member::is_long_running(&arrived.target, headers) {
            return Ok(None);
        }
        self.streams.begin(headers, &arrived.caller, target).map_err(|TooMany| {
            let words = "too many terminals and forwarded ports are open here; close some of them, and try again";
            Box::new(Status::service_unavailable(words, Vec::new(), 5))
        })
    }

    /// Everything else: what this server answers itself, with one line in the log.
    async fn handled(&self, arrived: Arrived) -> Response {
        let since = std::time::Instant::now();
        let source = arrived
            .client
            .map_or_else(|| "-".to_owned(), |ip| ip.to_string());
        let (method, version) = (arrived.parts.method.clone(), arrived.parts.version);
        let path = without_tokens(&arrived.target.path).into_owned();
        let response = match routes::find(
            &method,
            arrived.target.forward_path(),
            &arrived.parts.headers,
        ) {
            Ok(matched) => self.answer(matched, arrived).await,
            Err(response) => *response,
        };
        let code = response.status().as_u16();
        let bytes = response.body().size_hint().exact().unwrap_or(0);
        let took = since.elapsed().as_millis();
        // The path alone: a query may hold a credential.
        if code > 400 {
            tracing::info!(
                klog.file = "apiserver.go",
                klog.line = 667,
                "{source} - \"{method} {path} {version:?}\" {code} {bytes} {took}ms"
            );
        } else {
            tracing::debug!(
                klog.file = "apiserver.go",
                klog.line = 667,
                "{source} - \"{method} {path} {version:?}\" {code} {bytes} {took}ms"
            );
        }
        response
    }
}

/// `/openapi`, and `/version` where the cluster was named as kubectl's `server:` does (differences.md A1).
fn is_kubernetes_besides(target: &Target) -> bool {
    let path = target.forward_path();
    path.starts_with("/openapi/")
        || (target.cluster_form == ClusterForm::Prefix && path.trim_end_matches('/') == "/version")
}

fn refuse(parts: &Parts, status: &Status) -> Response {
    answer::status(status, &parts.headers, parts.uri.query())
}

/// An id that the client gave, if it is one that may stand in a log.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(REQUEST_ID)?.to_str().ok()?;
    let well_formed = (1..=128).contains(&value.len())
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    well_formed.then(|| value.to_owned())
}
