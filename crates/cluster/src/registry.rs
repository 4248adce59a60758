//! Which clusters there are, as the Cluster objects say.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use futures::{StreamExt, pin_mut};
use kah_iam::{Signer, SystemClock};
use kah_net::{Gauges, Limits, Open};
use kube::{
    Client,
    core::DynamicObject,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    guard::AddressGuard,
    host::clusters,
    member::{Member, Shared, member},
    retry::{Pauses, Retry},
    tunnel::{TunnelLimits, Tunnels},
};

type Members = HashMap<String, Arc<Member>>;

/// The members of the fleet, always as the last event left them. Clones share them.
///
/// One writer ([`Registry::follow`]) and any number of readers, which never wait.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    members: ArcSwap<Members>,
    shared: Shared,
    synced: watch::Sender<bool>,
    changes: watch::Sender<u64>,
}

impl Registry {
    /// An empty registry that asks any address, by the machine's clock. `stop` ends every connection to every member; `tasks` owns the tasks that drive them.
    #[must_use]
    pub fn new(limits: Limits, stop: CancellationToken, tasks: TaskTracker) -> Self {
        let clock = Arc::new(SystemClock::default());
        let tunnels = Tunnels::new(TunnelLimits::default(), stop.clone(), tasks.clone());
        let signer = Arc::new(Signer::new(clock));
        Self::over(limits, None, tunnels, signer, stop, tasks)
    }

    /// An empty registry over these tunnels, with the one who mints tokens for federated members. Whoever wrote a Cluster, and by what way, its
    /// member is asked only at addresses that `guard` allows; without one, at any.
    #[must_use]
    pub fn over(
        limits: Limits,
        guard: Option<AddressGuard>,
        tunnels: Tunnels,
        signer: Arc<Signer>,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        let shared = Shared {
            limits,
            guard: guard.map(Arc::new),
            gauges: Arc::new(Gauges::default()),
            tunnels,
            stop,
            tasks,
            signer,
        };
        Self(Arc::new(Inner {
            members: ArcSwap::default(),
            shared,
            synced: watch::channel(false).0,
            changes: watch::channel(0).0,
        }))
    }

    /// Mints the tokens by which federated members know callers.
    #[must_use]
    pub fn signer(&self) -> &Arc<Signer> {
        &self.0.shared.signer
    }

    /// The member of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Member>> {
        self.0.members.load().get(name).cloned()
    }

    /// What this object would be as a member. The registry does not keep it; whoever asks closes it.
    #[must_use]
    pub(crate) fn candidate(&self, object: &DynamicObject) -> Option<Arc<Member>> {
        member(object, None, &self.0.shared).map(Arc::new)
    }

    /// All members, by name.
    #[must_use]
    pub fn members(&self) -> Vec<Arc<Member>> {
        let mut members: Vec<_> = self.0.members.load().values().cloned().collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }

    /// Told after every change of any member. Whoever is told looks anew.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn changed(&self) {
        self.0
            .changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The tunnels that members hold with this host.
    #[must_use]
    pub fn tunnels(&self) -> &Tunnels {
        &self.0.shared.tunnels
    }

    /// What is open toward all members together.
    #[must_use]
    pub fn open(&self) -> Open {
        self.0.shared.gauges.open()
    }

    /// Waits until the first list of Clusters was read.
    pub async fn synced(&self) {
        let mut synced = self.0.synced.subscribe();
        // The sender lives as long as `self`.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Follows the Cluster objects until the registry's `stop`. Failures are retried with growing pauses; meanwhile the last known state serves.
    pub async fn follow(&self, client: Client) {
        let events = watcher(clusters(client), watcher::Config::default())
            .backoff(Pauses::of(Retry::TRANSIENT));
        let events = events.take_until(self.0.shared.stop.cancelled());
        pin_mut!(events);
        let mut listed: Option<Vec<DynamicObject>> = None;
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed = Some(Vec::new()),
                Ok(watcher::Event::InitApply(object)) => {
                    listed.get_or_insert_default().push(object)
                }
                Ok(watcher::Event::InitDone) => self.replace(listed.take().unwrap_or_default()),
                Ok(watcher::Event::Apply(object)) => self.apply(&object),
                Ok(watcher::Event::Delete(object)) => self.delete(&object),
                Err(error) => tracing::warn!(%error, "watch Clusters; trying again"),
            }
        }
    }

    /// Takes a whole list as the truth.
    pub fn replace(&self, objects: Vec<DynamicObject>) {
        let before = self.0.members.load_full();
        let mut members = Members::with_capacity(objects.len());
        for object in &objects {
            let known = object
                .metadata
                .name
                .as_ref()
                .and_then(|name| before.get(name));
            if let Some(member) = member(object, known, &self.0.shared) {
                members.insert(member.name.clone(), Arc::new(member));
            }
        }
        let members = Arc::new(members);
        self.0.members.store(members.clone());
        for old in before.values() {
            if members.get(&old.name).is_none_or(|new| new.uid != old.uid) {
                self.forget(old);
            }
        }
        for member in members.values() {
            self.end_superseded(member);
        }
        self.0.synced.send_replace(true);
        self.changed();
    }

    /// Takes one object as it is now.
    pub fn apply(&self, object: &DynamicObject) {
        let before = self.0.members.load_full();
        let known = object
            .metadata
            .name
            .as_ref()
            .and_then(|name| before.get(name));
        let Some(member) = member(object, known, &self.0.shared) else {
            return;
        };
        let mut members = Members::clone(&before);
        let old = members.insert(member.name.clone(), Arc::new(member.clone()));
        self.0.members.store(Arc::new(members));
        self.changed();
        // Another object under the same name: nothing of the old one survives. The same object with another connection: what goes on may end by itself.
        if let Some(old) = old.filter(|old| old.uid != member.uid) {
            self.forget(&old);
        }
        self.end_superseded(&member);
    }

    /// Forgets the member that this object described.
    pub fn delete(&self, object: &DynamicObject) {
        let Some(name) = &object.metadata.name else {
            return;
        };
        let mut members = Members::clone(&self.0.members.load());
        let same = |old: &Arc<Member>| {
            object
                .metadata
                .uid
                .as_ref()
                .is_none_or(|uid| *uid == old.uid)
        };
        if !members.get(name).is_some_and(same) {
            return;
        }
        if let Some(old) = members.remove(name) {
            self.0.members.store(Arc::new(members));
            self.changed();
            self.forget(&old);
        }
    }

    /// What an agent opened goes when its cluster has enrolled anew.
    fn end_superseded(&self, member: &Member) {
        let tunnels = &self.0.shared.tunnels;
        tunnels.close_before(&member.uid, member.agent_generation());
    }

    /// Nothing that goes on with a Cluster object survives it, its tunnels least of all.
    fn forget(&self, member: &Member) {
        member.close();
        self.0.shared.tunnels.close(&member.uid);
    }
}
