//! The other replicas of the host, and the tunnels that they hold.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::{StreamExt, pin_mut};
use jiff::Timestamp;
use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::MicroTime};
use kah_api::seed::NAMESPACE;
use kah_net::{
    Address,
    tunnel::{ConnectSettings, Proxies, Session, SessionLimits, Side, Stream, connect, session},
};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout};

use super::{
    HubKeys, PATH, Target, TunnelLimits, Tunnels, announce,
    authority::{AuthorityError, SERVER_NAME, client_config},
    protocol::{ALPN, Answer, OpenError, Opening, Reason, Refusal, WORD, beat, hear, open},
};
use crate::retry::{Pauses, Retry};

/// For each step of dialling another replica: it is near.
const STEP: Duration = Duration::from_secs(2);
/// Streams through another replica: a thousand members, each with those that it keeps and a few more while it is looked at. Who comes when there are as
/// many waits, and a probe that waits is late.
const STREAMS: usize = 4096;

/// A replica as its Lease shows it.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) name: String,
    address: Address,
    /// When the certificate of each one's agent ends.
    members: HashMap<String, Timestamp>,
    /// When its Lease was written last, as it says.
    renewed: Option<MicroTime>,
    /// When its Lease was seen to change last, by our own clock: clocks of two machines are not compared.
    seen: Instant,
    /// Whether it was seen to change at all. A Lease that is only found may be that of one which is long gone.
    lives: bool,
}

pub(super) struct Peers {
    keys: HubKeys,
    me: String,
    limits: TunnelLimits,
    holders: ArcSwap<HashMap<String, Arc<Holder>>>,
    links: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Link>>>>,
}

/// The one connection with another replica.
struct Link {
    session: Option<Session>,
    pauses: Pauses,
    not_before: Option<Instant>,
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            session.close();
        }
    }
}

impl Peers {
    pub(super) fn new(keys: HubKeys, me: String, limits: TunnelLimits) -> Self {
        Self {
            keys,
            me,
            limits,
            holders: ArcSwap::default(),
            links: Mutex::default(),
        }
    }

    /// Follows the Leases for ever.
    pub(super) async fn follow(&self, client: Client) {
        let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
        let events = watcher(leases, watcher::Config::default().labels(announce::LABEL))
            .backoff(Pauses::of(Retry::TRANSIENT));
        pin_mut!(events);
        let mut listed: HashMap<String, Arc<Holder>> = HashMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(lease)) => {
                    listed.extend(self.holder(&lease).map(|it| (it.name.clone(), it)));
                }
                Ok(watcher::Event::InitDone) => self.replace(std::mem::take(&mut listed)),
                Ok(watcher::Event::Apply(lease)) => {
                    let mut holders = HashMap::clone(&self.holders.load());
                    holders.extend(self.holder(&lease).map(|it| (it.name.clone(), it)));
                    self.replace(holders);
                }
                Ok(watcher::Event::Delete(lease)) => {
                    if let Some(gone) = self.holder(&lease) {
                        let mut holders = HashMap::clone(&self.holders.load());
                        holders.remove(&gone.name);
                        self.replace(holders);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "watch the Leases of the tunnels; trying again");
                }
            }
        }
    }

    fn replace(&self, holders: HashMap<String, Arc<Holder>>) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|name, _| holders.contains_key(name));
        self.holders.store(Arc::new(holders));
    }

    fn holder(&self, lease: &Lease) -> Option<Arc<Holder>> {
        let name = lease.spec.as_ref()?.holder_identity.clone()?;
        if name == self.me {
            return None;
        }
        let annotations = lease.metadata.annotations.as_ref()?;
        let address = Address::parse(annotations.get(announce::ADDRESS)?).ok()?;
        let told = annotations.get(announce::SESSIONS);
        let renewed = lease.spec.as_ref()?.renew_time.clone();
        let holders = self.holders.load();
        let before = holders.get(&name);
        let same = before.filter(|before| before.renewed == renewed);
        Some(Arc::new(Holder {
            name,
            address,
            members: announce::members(told.map_or("", String::as_str)),
            renewed,
            seen: same.map_or_else(Instant::now, |same| same.seen),
            lives: same.map_or(before.is_some(), |same| same.lives),
        }))
    }

    /// The replicas that hold tunnels of this member, as far as they live.
    pub(super) fn holders(&self, uid: &str) -> Vec<Arc<Holder>> {
        let holders = self.holders.load();
        let mut found: Vec<Arc<Holder>> = holders
            .values()
            .filter(|holder| {
                holder.members.contains_key(uid) && holder.seen.elapsed() < announce::DURATION
            })
            .cloned()
            .collect();
        // Not always the same one first.
        let start = rand::random_range(0..found.len().max(1));
        found.rotate_left(start);
        found.sort_by_key(|holder| !holder.lives);
        found
    }

    /// When the certificate of this member's agent ends, as those say that hold its tunnels.
    pub(super) fn certificate_ends(&self, uid: &str) -> Option<Timestamp> {
        let holders = self.holders(uid);
        let ends = holders.iter().filter_map(|holder| holder.members.get(uid));
        ends.max().copied()
    }

    /// A stream to this member through a replica that holds a tunnel of it; `otherwise` where none does.
    pub(super) async fn open(
        &self,
        tunnels: &Tunnels,
        uid: &str,
        target: Target,
        otherwise: OpenError,
    ) -> Result<Stream, OpenError> {
        let mut last = otherwise;
        for holder in self.holders(uid) {
            let opened = async {
                let session = self.link(tunnels, &holder).await?;
                let cluster = uid.to_owned();
                let relay = Opening::Relay { cluster, target };
                open(&session, &relay, self.limits.open).await
            };
            match opened.await {
                Err(error) if error.is_of_this_tunnel() => last = error,
                done => return done,
            }
        }
        Err(last)
    }

    /// The connection with this replica, dialled at first use. Those who come meanwhile wait for the same attempt.
    async fn link(&self, tunnels: &Tunnels, holder: &Holder) -> Result<Session, OpenError> {
        let link = {
            let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            let link = links.entry(holder.name.clone()).or_insert_with(|| {
                Arc::new(tokio::sync::Mutex::new(Link {
                    session: None,
                    pauses: Pauses::of(Retry::TRANSIENT),
                    not_before: None,
                }))
            });
            Arc::clone(link)
        };
        let mut link = link.lock().await;
        if let Some(session) = link.session.as_ref().filter(|session| !session.is_closed()) {
            return Ok(session.clone());
        }
        link.session = None;
        if link.not_before.is_some_and(|then| Instant::now() < then) {
            return Err(OpenError::Ended);
        }
        match self.dial(tunnels, holder).await {
            Ok(session) => {
                link.pauses.succeeded();
                link.not_before = None;
                link.session = Some(session.clone());
                Ok(session)
            }
            Err(error) => {
                tracing::warn!(replica = %holder.name, error = %crate::with_causes(&error), "reach another replica of the host");
                link.not_before = Some(Instant::now() + link.pauses.failed());
                Err(error)
            }
        }
    }

    async fn dial(&self, tunnels: &Tunnels, holder: &Holder) -> Result<Session, OpenError> {
        let failed = |words: String| OpenError::Refused(Refusal::new(Reason::NoTunnel, words));
        let settings = self
            .settings(holder)
            .map_err(|error| failed(crate::with_causes(&error)))?;
        let mut transport = connect(&settings)
            .await
            .map_err(|error| failed(crate::with_causes(&error)))?;
        match timeout(WORD, hear(&mut transport)).await {
            Ok(Ok(Answer::Yes)) => {}
            Ok(Ok(Answer::No(refusal))) => return Err(OpenError::Refused(refusal)),
            Ok(Ok(_)) => return Err(OpenError::Nonsense),
            Ok(Err(error)) => return Err(OpenError::Io(error)),
            Err(_) => return Err(OpenError::Late),
        }
        let limits = SessionLimits {
            ours: STREAMS,
            theirs: 1,
            ..self.limits.session
        };
        let inner = &tunnels.0;
        let (session, incoming) =
            session(transport, Side::Dialled, limits, &inner.stop, &inner.tasks);
        // It opens nothing toward us.
        drop(incoming);
        let beating = session.clone();
        let stop = inner.stop.clone();
        inner
            .tasks
            .spawn(stop.run_until_cancelled_owned(async move {
                beat(&beating).await;
            }));
        Ok(session)
    }

    fn settings(&self, holder: &Holder) -> Result<ConnectSettings, AuthorityError> {
        let HubKeys { authority, clock } = &self.keys;
        let own = authority.issue_peer(&self.me, clock.now())?;
        let mut tls = client_config(authority.ca_pem(), authority.pin(), &own, Arc::clone(clock))?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        Ok(ConnectSettings {
            address: holder.address.clone(),
            path: PATH,
            proxies: Proxies::default(),
            tls: Arc::new(tls),
            server_name: ServerName::try_from(SERVER_NAME)
                .map_err(|error| AuthorityError::Tls(error.into()))?,
            step: STEP,
        })
    }
}
