//! The host's end: who dialled, and what they may.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use kah_net::tunnel::{Incoming, SessionLimits, Side, Stream, Transport, session};
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{
    HubKeys, Tunnels,
    authority::{AgentIdentity, AuthorityError, Identity},
    handshakes::Handshake,
    protocol::{ALPN, Answer, OpenError, Opening, Reason, Refusal, WORD, echo_beats, hear, say},
};
use crate::{Registry, Route};

/// The server's certificate is made anew well before it ends.
const CERTIFICATE_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a spliced pair stays after one direction has ended and the other is silent.
const HALF_CLOSED: Duration = Duration::from_secs(10);
/// Streams that another replica may have open here: more than it takes at most, so that none is reset.
const PEER_STREAMS: usize = 8192;

/// What became of those who dialled.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    busy: AtomicU64,
    not_allowed: AtomicU64,
}

impl Counters {
    /// Tunnels of agents and peers that were accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Those with a good certificate for something that is not, or no longer, served.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Those that never showed a good certificate, or not in time.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Those that came when too many others were being opened.
    #[must_use]
    pub fn busy(&self) -> u64 {
        self.busy.load(Ordering::Relaxed)
    }

    /// Streams that asked for what their tunnel's identity may not.
    #[must_use]
    pub fn not_allowed(&self) -> u64 {
        self.not_allowed.load(Ordering::Relaxed)
    }

    pub(super) fn refused_busy(&self) {
        count(&self.busy);
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The keys of a replica that accepts.
pub(super) struct Hub {
    keys: HubKeys,
    tls: Mutex<Option<(Timestamp, Arc<ServerConfig>)>>,
}

impl Hub {
    pub(super) fn new(keys: HubKeys) -> Self {
        Self {
            keys,
            tls: Mutex::default(),
        }
    }

    fn tls(&self) -> Result<Arc<ServerConfig>, AuthorityError> {
        let now = self.keys.clock.now();
        let mut kept = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, tls)) = &*kept
            && now.duration_since(*made).unsigned_abs() < CERTIFICATE_AGE
        {
            return Ok(Arc::clone(tls));
        }
        let mut tls = self
            .keys
            .authority
            .server_config(Arc::clone(&self.keys.clock))?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let tls = Arc::new(tls);
        *kept = Some((now, Arc::clone(&tls)));
        Ok(tls)
    }
}

/// Finds out who dialled, and serves them until the end.
pub(super) async fn greet(
    tunnels: &Tunnels,
    hub: &Arc<Hub>,
    registry: &Registry,
    upgrade: OnUpgrade,
    handshake: Handshake,
) {
    let counters = &tunnels.0.counters;
    let tls = match hub.tls() {
        Ok(tls) => tls,
        Err(error) => {
            tracing::error!(error = %crate::with_causes(&error), "prepare TLS of the tunnel");
            return;
        }
    };
    let limit = tunnels.0.limits.handshake;
    let shown = async {
        let transport = kah_net::tunnel::accept(upgrade, tls).await.ok()?;
        let (identity, ends) = shown(&transport)?;
        Some((transport, identity, ends))
    };
    let shown = tokio::select! {
        () = handshake.cut.cancelled() => None,
        shown = timeout(limit, shown) => shown.ok().flatten(),
    };
    let Some((mut transport, identity, ends)) = shown else {
        count(&counters.failed);
        tracing::debug!("a tunnel was given up: no certificate of ours was shown in time");
        return;
    };
    let admitted = match admit(tunnels, registry, &identity) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            count(&counters.refused);
            tracing::warn!(identity = %identity.uri(), reason = %refusal, "refused a tunnel");
            let bye = async {
                say(&mut transport, &Answer::No(refusal)).await?;
                transport.shutdown().await
            };
            let _ = timeout(WORD, bye).await;
            return;
        }
    };
    if !matches!(
        timeout(WORD, say(&mut transport, &Answer::Yes)).await,
        Ok(Ok(()))
    ) {
        count(&counters.failed);
        return;
    }
    drop(handshake);
    count(&counters.accepted);
    let limits = match &identity {
        Identity::Agent(_) => tunnels.0.limits.session,
        Identity::Peer { .. } => SessionLimits {
            ours: 1,
            theirs: PEER_STREAMS,
            ..tunnels.0.limits.session
        },
    };
    let inner = &tunnels.0;
    let (held, incoming) = session(transport, Side::Accepted, limits, &inner.stop, &inner.tasks);
    if let Identity::Agent(agent) = &identity
        && (!inner.sessions.add(agent, &held, ends) || admit_agent(registry, agent).is_err())
    {
        // Another was faster, or the Cluster has gone or enrolled anew meanwhile.
        held.close();
    }
    tracing::info!(identity = %identity.uri(), "a tunnel is up");
    let left = ends.duration_since(hub.keys.clock.now()).unsigned_abs();
    tokio::select! {
        () = serve(tunnels, hub, &identity, incoming) => {}
        // Whoever has a newer certificate comes back with it.
        () = tokio::time::sleep(left) => held.close(),
    }
    if let Identity::Agent(agent) = &identity {
        inner.sessions.remove(&agent.uid, &held);
    }
    drop(admitted);
    tracing::info!(identity = %identity.uri(), "a tunnel has ended");
}

/// The identity of the other end and when it ends; `None` where it does not speak our protocol.
fn shown(transport: &Transport) -> Option<(Identity, Timestamp)> {
    let (_, tls) = transport.get_ref();
    if tls.alpn_protocol() != Some(ALPN) {
        return None;
    }
    let certificate: &CertificateDer<'_> = tls.peer_certificates()?.first()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let ends = Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()?;
    Some((Identity::of(certificate)?, ends))
}

type Place = Option<tokio::sync::OwnedSemaphorePermit>;

/// Whether this identity may hold a tunnel with us, and its place if places are counted.
fn admit(tunnels: &Tunnels, registry: &Registry, identity: &Identity) -> Result<Place, Refusal> {
    let busy = |words: &str| Refusal::new(Reason::Busy, words);
    match identity {
        Identity::Peer { .. } => Arc::clone(&tunnels.0.peer_places)
            .try_acquire_owned()
            .map(Some)
            .map_err(|_| busy("as many replicas are connected as may be")),
        Identity::Agent(agent) => {
            admit_agent(registry, agent)?;
            if tunnels.0.sessions.of(&agent.uid).len() >= tunnels.0.limits.per_member {
                return Err(busy("the cluster has as many tunnels as it may"));
            }
            Ok(None)
        }
    }
}

/// A certificate is for one Cluster object: one of the same name that was created anew is another cluster. Of those for one object the last
/// enrolment counts; a certificate of a later one than is known here yet is as good, because nobody else signs any.
fn admit_agent(registry: &Registry, agent: &AgentIdentity) -> Result<(), Refusal> {
    let AgentIdentity {
        cluster,
        uid,
        generation,
    } = agent;
    let words = match registry.get(cluster) {
        None => format!("{cluster} is not a cluster of this hub"),
        Some(member) if member.uid() != uid => {
            format!(
                "{cluster} has left this hub since, and is another cluster now; it has to join anew"
            )
        }
        Some(member) if !matches!(member.route(), Ok(Route::Tunnel(_))) => {
            format!("this hub does not reach {cluster} by a tunnel")
        }
        Some(member) if *generation < member.agent_generation() => {
            let words = format!(
                "{cluster} has enrolled anew since, and this certificate is from before that"
            );
            return Err(Refusal::new(Reason::Superseded, words));
        }
        Some(_) => return Ok(()),
    };
    Err(Refusal::new(Reason::UnknownCluster, words))
}

/// Serves the streams that the other end opens.
async fn serve(tunnels: &Tunnels, hub: &Arc<Hub>, identity: &Identity, mut incoming: Incoming) {
    while let Some(stream) = incoming.next().await {
        let (tunnels, hub, identity) = (tunnels.clone(), Arc::clone(hub), identity.clone());
        let stop = tunnels.0.stop.clone();
        let tasks = tunnels.0.tasks.clone();
        tasks.spawn(stop.run_until_cancelled_owned(async move {
            answer(&tunnels, &hub, &identity, stream).await;
        }));
    }
}

async fn answer(tunnels: &Tunnels, hub: &Hub, identity: &Identity, mut stream: Stream) {
    let Ok(Ok(opening)) = timeout(WORD, hear::<Opening>(&mut stream)).await else {
        return;
    };
    let word = match (identity, opening) {
        (_, Opening::Heartbeat) => return echo_beats(stream).await,
        (Identity::Agent(agent), Opening::Renew { csr }) => {
            let now = hub.keys.clock.now();
            // The names and the generation are those of the session, whatever the request says and whoever has enrolled meanwhile.
            match hub.keys.authority.issue_agent(&csr, agent, now) {
                Ok(chain) => {
                    tracing::info!(identity = %identity.uri(), "renewed an agent's certificate");
                    Answer::Certificate(chain)
                }
                Err(error) => Answer::No(Refusal::new(Reason::Failed, crate::with_causes(&error))),
            }
        }
        (Identity::Peer { .. }, Opening::Relay { cluster, target }) => {
            match tunnels.open_here(&cluster, target).await {
                Ok(far) => return relay(tunnels, stream, far).await,
                Err(OpenError::Refused(refusal)) => Answer::No(refusal),
                Err(error) => {
                    let words = crate::with_causes(&error);
                    Answer::No(Refusal::new(Reason::NoTunnel, words))
                }
            }
        }
        (identity, _) => {
            count(&tunnels.0.counters.not_allowed);
            tracing::warn!(identity = %identity.uri(), "a tunnel asked for what it may not");
            let words = "this end of the tunnel does not do that for you";
            Answer::No(Refusal::new(Reason::NotAllowed, words))
        }
    };
    let said = async {
        say(&mut stream, &word).await?;
        stream.shutdown().await
    };
    let _ = timeout(WORD, said).await;
}

async fn relay(tunnels: &Tunnels, mut near: Stream, far: Stream) {
    if matches!(
        timeout(WORD, say(&mut near, &Answer::Yes)).await,
        Ok(Ok(()))
    ) {
        kah_net::splice(near, far, HALF_CLOSED, &tunnels.0.stop).await;
    }
}
