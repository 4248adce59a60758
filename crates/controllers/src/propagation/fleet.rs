//! Which members there are to propagate to, and the worker of each.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use futures::StreamExt;
use kah_api::cluster::HOST_LABEL;
use kah_cluster::{
    Host,
    propagate::{Owner, takes_passwords},
    retry::{Pauses, Retry},
};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Pace,
    member::{Memory, Worker},
    queue::Queue,
    sources::Sources,
    told::Told,
};
use crate::{Departures, Metrics};

/// What of a Cluster decides over the copies in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) passwords: bool,
}

/// The workers, one a member.
pub(super) struct Fleet {
    pub(super) pace: Pace,
    pub(super) host: Host,
    pub(super) owner: Owner,
    pub(super) metrics: Metrics,
    pub(super) departures: Departures,
    pub(super) sources: Arc<Sources>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) workers: Mutex<HashMap<String, Running>>,
}

pub(super) struct Running {
    uid: Option<String>,
    /// What decides over the way to the member: if it changes, trying again at once makes sense.
    way: Value,
    seen: Arc<ArcSwap<Seen>>,
    queue: Arc<Queue>,
    stop: CancellationToken,
}

impl Fleet {
    fn workers(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One source has changed.
    pub(super) fn tell(&self, index: usize, name: &str) {
        for worker in self.workers().values() {
            worker.queue.push((index, name.to_owned()));
        }
    }

    /// Everything may have.
    pub(super) fn tell_all(&self) {
        for worker in self.workers().values() {
            worker.queue.push_all();
        }
    }

    /// Follows the Cluster objects: begins, wakes and ends workers.
    pub(super) async fn follow(&self) {
        let kind = GroupVersionKind::gvk("cluster.kubesphere.io", "v1alpha1", "Cluster");
        let resource = ApiResource::from_gvk_with_plural(&kind, "clusters");
        let clusters: Api<DynamicObject> = Api::all_with(self.host.client.clone(), &resource);
        let mut events = std::pin::pin!(
            watcher(clusters, watcher::Config::default()).backoff(Pauses::of(Retry::TRANSIENT))
        );
        let mut listed: Vec<String> = Vec::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(cluster)) => {
                    listed.extend(cluster.metadata.name.clone());
                    self.apply(&cluster);
                }
                Ok(watcher::Event::InitDone) => {
                    let gone: Vec<String> = self
                        .workers()
                        .keys()
                        .filter(|name| !listed.contains(name))
                        .cloned()
                        .collect();
                    gone.iter().for_each(|name| self.end(name));
                }
                Ok(watcher::Event::Apply(cluster)) => self.apply(&cluster),
                Ok(watcher::Event::Delete(cluster)) => {
                    if let Some(name) = &cluster.metadata.name {
                        self.end(name);
                    }
                }
                Err(error) => {
                    tracing::warn!(error = super::chain(&error), "watch Clusters; trying again")
                }
            }
        }
    }

    fn end(&self, name: &str) {
        if let Some(worker) = self.workers().remove(name) {
            worker.stop.cancel();
        }
    }

    fn apply(&self, cluster: &DynamicObject) {
        let Some(name) = cluster.metadata.name.clone() else {
            return;
        };
        let labels = cluster.metadata.labels.clone().unwrap_or_default();
        if cluster.metadata.deletion_timestamp.is_some() || labels.contains_key(HOST_LABEL) {
            self.end(&name);
            return;
        }
        let way = way(cluster);
        let seen = Seen {
            labels,
            passwords: takes_passwords(cluster),
        };
        if let Some(known) = self.workers().get_mut(&name)
            && known.uid == cluster.metadata.uid
        {
            if **known.seen.load() != seen {
                known.seen.store(Arc::new(seen));
                known.queue.push_all();
            }
            if known.way != way {
                known.way = way;
                known.queue.push_all();
            }
            return;
        }
        self.end(&name);
        let running = Running {
            uid: cluster.metadata.uid.clone(),
            way,
            seen: Arc::new(ArcSwap::from_pointee(seen)),
            queue: Arc::default(),
            stop: self.stop.child_token(),
        };
        let uid = running.uid.as_deref().unwrap_or_default();
        let Some(ended) = self.departures.begin(uid, &running.stop) else {
            return;
        };
        let worker = Worker {
            pace: self.pace,
            host: self.host.clone(),
            owner: self.owner.clone(),
            sources: self.sources.clone(),
            name: name.clone(),
            uid: running.uid.clone().unwrap_or_default(),
            seen: running.seen.clone(),
            queue: running.queue.clone(),
            memory: Memory::default(),
            told: Told::new(&self.metrics, &name),
        };
        let stop = running.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled_owned(worker.run()).await;
            drop(ended);
        });
        self.workers().insert(name, running);
    }
}

/// The connection, and whether the cluster is said to be ready.
fn way(cluster: &DynamicObject) -> Value {
    let conditions = cluster
        .data
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready");
    serde_json::json!([
        cluster.data.pointer("/spec/connection"),
        cluster.data.pointer("/status/uid"),
        ready.map(|ready| &ready["status"]),
    ])
}
