//! The way to members that dial out to their host.
//!
//! An agent dials and holds a few tunnels, each with one replica of the host. Who it is stands in its certificate alone, and a tunnel belongs to one
//! Cluster object by UID. Whoever needs the member, in this process or in another replica, asks [`Tunnels`] for a stream: it takes the least loaded
//! tunnel held here, or asks the replica that holds one, which it knows from that replica's Lease.

mod announce;
pub mod authority;
mod handshakes;
mod hub;
mod peers;
pub(crate) mod protocol;
mod sessions;

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use kah_iam::Clock;
use kah_net::{
    Dial, DialError, Dialling, Duplex, Kind,
    tunnel::{SessionLimits, Stream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use hub::Counters;
pub use protocol::{Reason, Refusal, Target};

use crate::{
    Registry,
    retry::{Pauses, Retry},
};
use authority::TunnelAuthority;
use handshakes::Handshakes;
use hub::Hub;
use peers::Peers;
use protocol::{OpenError, Opening};
use sessions::Sessions;

/// The path of the websocket, on every replica of a host.
pub const PATH: &str = "/kapis/hub.kubeaihub.io/v1/tunnel";

/// How many, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelLimits {
    /// Tunnels that have not shown who they are yet.
    pub handshakes: usize,
    /// For showing who they are.
    pub handshake: Duration,
    /// How old a handshake is at least before it has to make room for another one.
    pub grace: Duration,
    /// Tunnels of one member with one replica of the host: twice as many as an agent holds, because it replaces each before it lets it go.
    pub per_member: usize,
    /// Replicas of the host that this one serves, tunnels each counted.
    pub peers: usize,
    /// For a stream to a member.
    pub open: Duration,
    /// What one tunnel with an agent carries.
    pub session: SessionLimits,
}

impl Default for TunnelLimits {
    fn default() -> Self {
        Self {
            handshakes: 256,
            handshake: Duration::from_secs(10),
            grace: Duration::from_secs(1),
            per_member: 16,
            peers: 64,
            open: Duration::from_secs(4),
            session: SessionLimits::default(),
        }
    }
}

/// What replicas of a host prove themselves with.
#[derive(Clone)]
pub struct HubKeys {
    /// The authority that agents, peers and servers are certified by.
    pub authority: Arc<TunnelAuthority>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for HubKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HubKeys({:?})", self.authority)
    }
}

/// A replica of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its name, unlike that of any other: a Pod's name.
    pub name: String,
    /// `http(s)://IP:PORT` by which other replicas reach it.
    pub address: String,
}

/// Where a member's tunnels are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Here, so many.
    Here(usize),
    /// At this replica.
    At(String),
    /// Nowhere: its agent is not connected.
    Nowhere,
}

/// Why a tunnel is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    /// This server holds no tunnels.
    #[error("this server holds no tunnels")]
    NotServed,
    /// Too many have not shown who they are yet.
    #[error("too many tunnels are being opened")]
    Busy,
}

/// The tunnels of the fleet, as this process sees them. Clones share them.
#[derive(Clone)]
pub struct Tunnels(Arc<Inner>);

struct Inner {
    limits: TunnelLimits,
    sessions: Sessions,
    handshakes: Arc<Handshakes>,
    peer_places: Arc<tokio::sync::Semaphore>,
    counters: Counters,
    hub: ArcSwapOption<Hub>,
    peers: ArcSwapOption<Peers>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tunnels({})", self.0.sessions.count())
    }
}

impl Tunnels {
    /// None yet. `stop` ends every tunnel; `tasks` owns what drives them.
    #[must_use]
    pub fn new(limits: TunnelLimits, stop: CancellationToken, tasks: TaskTracker) -> Self {
        Self(Arc::new(Inner {
            limits,
            sessions: Sessions::new(limits.per_member),
            handshakes: Arc::new(Handshakes::new(limits.handshakes, limits.grace)),
            peer_places: Arc::new(tokio::sync::Semaphore::new(limits.peers)),
            counters: Counters::default(),
            hub: ArcSwapOption::empty(),
            peers: ArcSwapOption::empty(),
            stop,
            tasks,
        }))
    }

    /// From now on [`Tunnels::accept`] accepts.
    pub fn serve(&self, keys: HubKeys) {
        self.0.hub.store(Some(Arc::new(Hub::new(keys))));
    }

    /// Whether tunnels are accepted at all.
    #[must_use]
    pub fn are_served(&self) -> bool {
        self.0.hub.load().is_some()
    }

    /// Takes a connection that is about to become a websocket. Who is at the other end, and whether it may be there, comes out within
    /// [`TunnelLimits::handshake`]; nothing is believed before.
    ///
    /// # Errors
    /// [`NotAccepted`]; the upgrade must not be answered then.
    pub fn accept(&self, registry: &Registry, upgrade: OnUpgrade) -> Result<(), NotAccepted> {
        let hub = self.0.hub.load_full().ok_or(NotAccepted::NotServed)?;
        let handshake = self.0.handshakes.begin().map_err(|_| {
            self.0.counters.refused_busy();
            NotAccepted::Busy
        })?;
        let (tunnels, registry) = (self.clone(), registry.clone());
        let stop = self.0.stop.clone();
        self.0
            .tasks
            .spawn(stop.run_until_cancelled_owned(async move {
                hub::greet(&tunnels, &hub, &registry, upgrade, handshake).await;
            }));
        Ok(())
    }

    /// Follows the Leases of all replicas, so that members whose tunnels are held elsewhere are reached. `me` is the name of this process; its own
    /// Lease is passed over. Ends with the stop of these tunnels.
    pub async fn follow_peers(&self, client: kube::Client, keys: HubKeys, me: &str) {
        let peers = Arc::new(Peers::new(keys, me.to_owned(), self.0.limits));
        self.0.peers.store(Some(Arc::clone(&peers)));
        let stop = self.0.stop.clone();
        stop.run_until_cancelled(peers.follow(client)).await;
    }

    /// Keeps a Lease that says which members' tunnels are held here. Ends with the stop of these tunnels, and takes the Lease back then.
    pub async fn announce(&self, client: kube::Client, keys: &HubKeys, replica: &Replica) {
        announce::keep(&self.0.sessions, client, keys, replica, &self.0.stop).await;
    }

    /// Everything that a process of a host does for tunnels, until their stop: one with an address holds them, says so to the others, and asks
    /// those; one without only asks. `name` is unlike that of any other process: a Pod's.
    pub async fn run(
        &self,
        client: kube::Client,
        clock: Arc<dyn Clock>,
        name: String,
        address: Option<String>,
    ) {
        let stop = self.0.stop.clone();
        let Some(keys) = stop.run_until_cancelled(keys(&client, clock)).await else {
            return;
        };
        let follow = self.follow_peers(client.clone(), keys.clone(), &name);
        let Some(address) = address else {
            return follow.await;
        };
        self.serve(keys.clone());
        let replica = Replica {
            name: name.clone(),
            address,
        };
        tokio::join!(follow, self.announce(client, &keys, &replica));
    }

    /// Where the tunnels of this Cluster object are.
    #[must_use]
    pub fn link(&self, uid: &str) -> Link {
        let here = self.0.sessions.of(uid).len();
        if here > 0 {
            return Link::Here(here);
        }
        let peers = self.0.peers.load();
        let holders = peers.as_ref().map(|peers| peers.holders(uid));
        match holders.into_iter().flatten().next() {
            Some(holder) => Link::At(holder.name.clone()),
            None => Link::Nowhere,
        }
    }

    /// When the certificate of this Cluster object's agent ends; `None` while it is not connected anywhere.
    #[must_use]
    pub fn certificate_ends(&self, uid: &str) -> Option<Timestamp> {
        let peers = self.0.peers.load();
        let there = peers.as_ref().and_then(|peers| peers.certificate_ends(uid));
        self.0.sessions.certificate_ends(uid).max(there)
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Tunnels with agents that are held here.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.sessions.count()
    }

    /// Tunnels that have not shown who they are yet.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.0.handshakes.count()
    }

    /// Ends the tunnels of this Cluster object that are held here.
    pub(crate) fn close(&self, uid: &str) {
        self.0.sessions.close(uid);
    }

    /// Ends the tunnels of this Cluster object that are held here and whose agents enrolled before this generation.
    pub(crate) fn close_before(&self, uid: &str, generation: u64) {
        self.0.sessions.close_before(uid, generation);
    }

    /// What an upstream to this member dials with.
    pub(crate) fn dialler(&self, uid: &str, target: Target) -> Arc<dyn Dial> {
        Arc::new(Dialler {
            tunnels: self.clone(),
            uid: uid.to_owned(),
            target,
        })
    }

    /// A stream through a tunnel that is held here: the least loaded, and where that one fails the next.
    async fn open_here(&self, uid: &str, target: Target) -> Result<Stream, OpenError> {
        let mut last = None;
        for session in self.0.sessions.of(uid) {
            let within = self.0.limits.open;
            match protocol::open(&session, &Opening::To(target), within).await {
                Ok(stream) => return Ok(stream),
                Err(error) if error.is_of_this_tunnel() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| {
            OpenError::Refused(Refusal::new(
                Reason::NoTunnel,
                "the cluster's agent is not connected to this host",
            ))
        }))
    }

    async fn open(&self, uid: &str, target: Target) -> Result<Stream, OpenError> {
        let here = match self.open_here(uid, target).await {
            Err(error) if error.is_of_this_tunnel() => error,
            done => return done,
        };
        match self.0.peers.load_full() {
            Some(peers) => peers.open(self, uid, target, here).await,
            None => Err(here),
        }
    }
}

/// The keys that the host keeps, as soon as they can be had.
async fn keys(client: &kube::Client, clock: Arc<dyn Clock>) -> HubKeys {
    let mut pauses = Pauses::of(Retry::TRANSIENT);
    loop {
        match TunnelAuthority::open(client, clock.now()).await {
            Ok(authority) => {
                return HubKeys {
                    authority: Arc::new(authority),
                    clock,
                };
            }
            Err(error) => {
                let error = crate::with_causes(&error);
                tracing::warn!(%error, "no tunnels yet; trying again");
                tokio::time::sleep(pauses.failed()).await;
            }
        }
    }
}

#[derive(Debug)]
struct Dialler {
    tunnels: Tunnels,
    uid: String,
    target: Target,
}

impl Dial for Dialler {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            // Without a UID there is no object that a tunnel could belong to.
            if self.uid.is_empty() {
                let words = "the Cluster has no UID yet";
                return Err(DialError::new(Kind::Unreachable, words));
            }
            let stream = self.tunnels.open(&self.uid, self.target).await;
            let stream = stream.map_err(OpenError::into_dial_error)?;
            Ok(Box::new(stream) as Box<dyn Duplex>)
        })
    }
}
