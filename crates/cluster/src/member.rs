//! One cluster of the fleet.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use kah_api::cluster::{HOST_LABEL, IDENTITY, Trust};
use kah_iam::Signer;
use kah_net::{Address, Allow, Gauges, Limits, TlsSettings, Upstream, UpstreamSettings};
use serde::Deserialize;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Kubeconfig, SettingsError,
    doctor::{AGENT_CERTIFICATE, Expiry},
    enrol,
    guard::AddressGuard,
    probe::Proven,
    trust,
    tunnel::{Target, Tunnels},
};

/// What annotations of ours begin with.
const ANNOTATIONS: &str = "hub.kubeaihub.io/";
/// What the servers at the end of a tunnel are called in `Host` and in messages.
const KS_APISERVER: &str = "ks-apiserver.kubesphere-system.svc";
const KUBE_APISERVER: &str = "kubernetes.default.svc";
/// Unused streams that are kept to either of them. All members whose tunnels another replica holds share one connection with that one, and a new stream
/// is cheap.
const KEPT: usize = 2;

/// Whether requests are sent to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Nothing speaks against it.
    Ready,
    /// Its condition `Ready` has the status `False`.
    NotReady {
        /// The condition's reason.
        reason: String,
        /// The condition's message.
        message: String,
    },
}

/// By which way a member is reached.
#[derive(Debug, Clone)]
pub enum Route {
    /// Through the service proxy of its kube-apiserver, which our stored credential opens (multicluster.md §7.3).
    ServiceProxy(Upstream),
    /// Straight to its ks-apiserver (multicluster.md §7.4).
    Endpoint(Upstream),
    /// To its ks-apiserver, through a tunnel that its agent holds with this host.
    Tunnel(Upstream),
}

impl Route {
    /// What requests are sent with.
    #[must_use]
    pub fn upstream(&self) -> &Upstream {
        match self {
            Self::ServiceProxy(upstream) | Self::Endpoint(upstream) | Self::Tunnel(upstream) => {
                upstream
            }
        }
    }
}

/// A Cluster object, and the way to what it stands for.
#[derive(Debug, Clone)]
pub struct Member {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) host: bool,
    pub(crate) readiness: Readiness,
    pub(crate) connection: Connection,
    pub(crate) route: Result<(Route, Address), SettingsError>,
    pub(crate) kubernetes: Result<Upstream, SettingsError>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) identity: String,
    pub(crate) stranger: Option<String>,
    pub(crate) proven: Arc<Proven>,
    pub(crate) trust: Trust,
    pub(crate) undecided: bool,
    pub(crate) signer: Arc<Signer>,
    guard: Option<Arc<AddressGuard>>,
    tunnels: Tunnels,
}

impl Member {
    /// The Cluster's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Cluster object's UID: another object of the same name is another member.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Whether this is the cluster that we run on. Requests for it are answered here.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.host
    }

    /// Whether requests are sent.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Whether it is said not to be ready, and this process has not just seen for itself that it is.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away().is_some()
    }

    /// Why it is away, if it is.
    pub(crate) fn away(&self) -> Option<&str> {
        match &self.readiness {
            Readiness::NotReady { reason, message } if !self.proven.is_recent() => {
                Some(if message.is_empty() { reason } else { message })
            }
            _ => None,
        }
    }

    /// The way to it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn route(&self) -> Result<&Route, &SettingsError> {
        self.route.as_ref().map(|(route, _)| route)
    }

    /// Its kube-apiserver, with the credential that the host stores for it. Callers' requests never go this way.
    ///
    /// # Errors
    /// Why there is no way to it.
    pub fn kubernetes(&self) -> Result<kube::Client, &SettingsError> {
        self.kubernetes.as_ref().map(crate::kubernetes::client)
    }

    /// When the stored credential ends, where it has an end: a client certificate, or a service account's token.
    #[must_use]
    pub fn credential(&self) -> Option<Expiry> {
        self.connection.kubeconfig().ok()?.expiry
    }

    /// When its agent's certificate ends; `None` while no agent is connected.
    pub(crate) fn agent_certificate(&self) -> Option<Expiry> {
        if !self.connection.is_tunnel() {
            return None;
        }
        Some(Expiry {
            what: AGENT_CERTIFICATE,
            from: None,
            ends: self.tunnels.certificate_ends(&self.uid)?,
        })
    }

    /// How often its cluster has enrolled anew: agents from before that are not let in.
    pub(crate) fn agent_generation(&self) -> u64 {
        enrol::generation(self.annotation(enrol::GENERATION))
    }

    /// The soonest end of what the way to it depends on: the stored credential, or the certificate of its agent, and what its servers show, as far as
    /// that is checked.
    #[must_use]
    pub fn certificate_ends(&self) -> Option<jiff::Timestamp> {
        let expiry = self.credential().or_else(|| self.agent_certificate());
        let serving = self.serving().into_iter().filter(|it| it.checked);
        let all = serving.map(|it| it.expiry).chain(expiry);
        all.map(|expiry| expiry.ends).min()
    }

    /// Whether the other is the same member, reached with the same connection.
    #[must_use]
    pub fn is_reached_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.proven, &other.proven)
    }

    /// An annotation of the Cluster object; those of ours begin with `hub.kubeaihub.io/`.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    /// `status.uid`: the UID of its namespace kube-system, where it is known.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        Some(self.identity.as_str()).filter(|uid| !uid.is_empty())
    }

    /// Why what answers is not taken for this member, where the Cluster says so: nothing is signed for it.
    #[must_use]
    pub fn stranger(&self) -> Option<&str> {
        self.stranger.as_deref()
    }

    /// By what it is to know callers.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// Whether it is not decided yet by what it is to know callers: it joined by an agent, and has not shown that it is one of ours. Until then nothing
    /// that says who somebody is goes there.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        self.undecided
    }

    /// The same member by the same ways, as it would be with this trust.
    pub(crate) fn with_trust(&self, trust: Trust, identity: &str) -> Self {
        Self {
            trust,
            undecided: false,
            identity: identity.to_owned(),
            // What it proves is nothing about the member as it is.
            proven: Arc::default(),
            ..self.clone()
        }
    }

    /// At which addresses it may be asked; `None` lets any.
    pub(crate) fn allow(&self) -> Option<Arc<dyn Allow>> {
        allow(self.guard.as_ref())
    }

    /// The stored kubeconfig, as it was written.
    pub(crate) fn stored_yaml(&self) -> Result<Vec<u8>, SettingsError> {
        self.connection.yaml()
    }

    /// The stored kubeconfig as it is understood, and where the kube-apiserver is.
    pub(crate) fn stored(&self) -> Result<(Kubeconfig, Address), SettingsError> {
        let kubeconfig = self.connection.kubeconfig()?;
        let address = self.connection.address(&kubeconfig)?;
        Ok((kubeconfig, address))
    }

    /// Whether both are reached in the same way.
    pub(crate) fn has_connection_of(&self, other: &Self) -> bool {
        self.connection == other.connection
    }

    /// Ends at once everything that goes on with it.
    pub(crate) fn close(&self) {
        if let Ok((route, _)) = &self.route {
            route.upstream().close();
        }
        if let Ok(upstream) = &self.kubernetes {
            upstream.close();
        }
    }
}

/// What every member's upstream shares.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    /// Which addresses may be asked; `None` asks any.
    pub(crate) guard: Option<Arc<AddressGuard>>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) tunnels: Tunnels,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) signer: Arc<Signer>,
}

/// `spec.connection`, as far as requests depend on it. Equal ones share an upstream.
#[derive(Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Connection {
    r#type: String,
    #[serde(rename = "kubesphereAPIEndpoint")]
    kubesphere: String,
    #[serde(rename = "kubernetesAPIEndpoint")]
    kubernetes: String,
    kubeconfig: String,
}

impl Connection {
    /// Whether the member's agent dials us: a proxied cluster of the original has an endpoint on this side.
    fn is_tunnel(&self) -> bool {
        self.r#type == "proxy" && self.kubesphere.is_empty()
    }

    fn yaml(&self) -> Result<Vec<u8>, SettingsError> {
        if self.kubeconfig.is_empty() {
            return Err(SettingsError::Missing);
        }
        STANDARD
            .decode(self.kubeconfig.trim())
            .map_err(|_| SettingsError::Unreadable("it is not base64".into()))
    }

    fn kubeconfig(&self) -> Result<Kubeconfig, SettingsError> {
        Kubeconfig::read(&self.yaml()?)
    }

    /// Where the kube-apiserver is: what the Cluster says goes before what the kubeconfig says.
    fn address(&self, kubeconfig: &Kubeconfig) -> Result<Address, SettingsError> {
        if self.kubernetes.is_empty() {
            return Ok(kubeconfig.server.clone());
        }
        endpoint("spec.connection.kubernetesAPIEndpoint", &self.kubernetes)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("type", &self.r#type)
            .field("kubesphere", &self.kubesphere)
            .field("kubernetes", &self.kubernetes)
            .finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    spec: Spec,
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    connection: Connection,
    trust: Trust,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
    uid: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
    reason: String,
    message: String,
}

/// Builds the member that a Cluster object describes. `before` is what stands for the same name now: its route is kept if it leads the same way.
pub(crate) fn member(
    object: &kube::core::DynamicObject,
    before: Option<&Arc<Member>>,
    shared: &Shared,
) -> Option<Member> {
    let name = object.metadata.name.clone()?;
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let host = object
        .metadata
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(HOST_LABEL));
    let (read, unreadable) = match serde_json::from_value::<Object>(object.data.clone()) {
        Ok(read) => (read, None),
        Err(_) => {
            let reason = "its spec or status has not the shape of a Cluster's".to_owned();
            (Object::default(), Some(SettingsError::Cluster(reason)))
        }
    };
    let Object { spec, status } = read;
    let connection = spec.connection;
    let same = before.filter(|before| before.uid == uid && before.connection == connection);
    let (route, kubernetes) = match (unreadable, same) {
        (Some(error), _) => (Err(error.clone()), Err(error)),
        (None, Some(same)) => (same.route.clone(), same.kubernetes.clone()),
        (None, None) if connection.is_tunnel() => tunnelled(&uid, &connection, shared),
        (None, None) => ways(&connection, shared),
    };
    let proven = same.map(|same| same.proven.clone()).unwrap_or_default();
    let annotations = object.metadata.annotations.iter().flatten();
    Some(Member {
        // Of those of others there may be any number and size.
        annotations: annotations
            .filter(|(name, _)| name.starts_with(ANNOTATIONS))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        identity: status.uid,
        stranger: stranger(&status.conditions),
        undecided: spec.trust == Trust::SharedSecret && trust::is_marked(object),
        proven,
        trust: spec.trust,
        signer: shared.signer.clone(),
        guard: shared.guard.clone(),
        tunnels: shared.tunnels.clone(),
        kubernetes,
        name,
        uid,
        host,
        readiness: readiness(status.conditions),
        connection,
        route,
    })
}

fn stranger(conditions: &[Condition]) -> Option<String> {
    let of = |condition: &&Condition| condition.r#type == IDENTITY && condition.status == "False";
    let told = conditions.iter().rfind(of)?;
    Some(told.message.clone())
}

fn readiness(conditions: Vec<Condition>) -> Readiness {
    conditions
        .into_iter()
        .rfind(|condition| condition.r#type == "Ready" && condition.status == "False")
        .map_or(Readiness::Ready, |condition| Readiness::NotReady {
            reason: condition.reason,
            message: condition.message,
        })
}

/// The way of callers' requests, and our own way to the kube-apiserver. They are one where the first leads through the second.
fn ways(
    connection: &Connection,
    shared: &Shared,
) -> (
    Result<(Route, Address), SettingsError>,
    Result<Upstream, SettingsError>,
) {
    let kubernetes = kubernetes(connection, shared);
    if connection.r#type != "proxy" && connection.kubesphere.is_empty() {
        let route = kubernetes
            .clone()
            .map(|(upstream, address)| (Route::ServiceProxy(upstream), address));
        return (route, kubernetes.map(|(upstream, _)| upstream));
    }
    let route = match &kubernetes {
        // An endpoint does not need a kubeconfig; one that is there has to be readable, but callers do not suffer from what is in it.
        Err(error) if !connection.kubeconfig.is_empty() && !is_of_tls(error) => Err(error.clone()),
        _ => direct(connection, shared),
    };
    (route, kubernetes.map(|(upstream, _)| upstream))
}

/// Both ways through the tunnels of this Cluster object; a kubeconfig that somebody stored still leads to the kube-apiserver.
fn tunnelled(
    uid: &str,
    connection: &Connection,
    shared: &Shared,
) -> (
    Result<(Route, Address), SettingsError>,
    Result<Upstream, SettingsError>,
) {
    let through = |target: Target, host: &str| {
        let address = Address {
            tls: false,
            host: host.to_owned(),
            port: 80,
        };
        let mut settings = settings(address.clone(), TlsSettings::default(), shared);
        settings.dial = Some(shared.tunnels.dialler(uid, target));
        settings.limits.max_idle = settings.limits.max_idle.min(KEPT);
        Ok((upstream(settings)?, address))
    };
    let route = through(Target::KsApiserver, KS_APISERVER)
        .map(|(upstream, address)| (Route::Tunnel(upstream), address));
    let kubernetes = if connection.kubeconfig.is_empty() {
        through(Target::KubeApiserver, KUBE_APISERVER)
    } else {
        kubernetes(connection, shared)
    };
    (route, kubernetes.map(|(upstream, _)| upstream))
}

fn is_of_tls(error: &SettingsError) -> bool {
    matches!(error, SettingsError::Upstream(_))
}

fn kubernetes(
    connection: &Connection,
    shared: &Shared,
) -> Result<(Upstream, Address), SettingsError> {
    let kubeconfig = connection.kubeconfig()?;
    let address = connection.address(&kubeconfig)?;
    let mut settings = settings(address.clone(), kubeconfig.tls, shared);
    settings.credential = kubeconfig.credential;
    Ok((upstream(settings)?, address))
}

fn direct(connection: &Connection, shared: &Shared) -> Result<(Route, Address), SettingsError> {
    if connection.kubesphere.is_empty() {
        return Err(SettingsError::Missing);
    }
    let address = endpoint(
        "spec.connection.kubesphereAPIEndpoint",
        &connection.kubesphere,
    )?;
    let settings = settings(address.clone(), TlsSettings::default(), shared);
    Ok((Route::Endpoint(upstream(settings)?), address))
}

fn endpoint(field: &'static str, url: &str) -> Result<Address, SettingsError> {
    Address::parse(url).map_err(|error| SettingsError::Endpoint {
        field,
        reason: error.to_string(),
    })
}

fn settings(address: Address, tls: TlsSettings, shared: &Shared) -> UpstreamSettings {
    UpstreamSettings {
        allow: allow(shared.guard.as_ref()),
        tls,
        limits: shared.limits,
        stop: shared.stop.clone(),
        tasks: shared.tasks.clone(),
        gauges: shared.gauges.clone(),
        ..UpstreamSettings::new(address)
    }
}

fn allow(guard: Option<&Arc<AddressGuard>>) -> Option<Arc<dyn Allow>> {
    guard.map(|guard| Arc::clone(guard) as Arc<dyn Allow>)
}

fn upstream(settings: UpstreamSettings) -> Result<Upstream, SettingsError> {
    Upstream::new(settings).map_err(|error| SettingsError::Upstream(error.root_cause()))
}
