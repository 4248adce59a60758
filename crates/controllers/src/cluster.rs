//! The Cluster objects of a host (multicluster.md §2, §3, §5): their finalizer, their status, what follows from it.
//!
//! Each cluster has a worker of its own, so that none waits for another.

mod asking;
mod events;
mod facts;
mod granted;
mod host_object;
mod probing;
pub mod status;
mod worker;

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt, pin_mut};
use kah_api::cluster::HOST_LABEL;
use kah_cluster::{
    Host, clusters,
    retry::{Pauses, Retry},
};
use kube::{
    core::DynamicObject,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Departures, Metrics, Settings};

pub use events::News;
pub(crate) use events::tell as tell_event;

/// Keeps all Cluster objects true until `stop`.
pub async fn run(
    host: Host,
    settings: Settings,
    metrics: Metrics,
    departures: Departures,
    stop: CancellationToken,
) {
    let mut fleet = Fleet {
        host: host.clone(),
        settings: settings.clone(),
        metrics: metrics.clone(),
        departures,
        workers: HashMap::new(),
        tasks: TaskTracker::new(),
        stop: stop.child_token(),
    };
    let events = watcher(clusters(host.client.clone()), watcher::Config::default())
        .backoff(Pauses::of(Retry::TRANSIENT))
        .take_until(stop.cancelled());
    pin_mut!(events);
    let mut listed: Option<Vec<DynamicObject>> = None;
    let mut again = tokio::time::interval(settings.resync);
    again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut synced = false;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = again.tick(), if synced => {
                fleet.host_object().await;
                continue;
            }
        };
        match event {
            None => break,
            Some(Ok(watcher::Event::Init)) => listed = Some(Vec::new()),
            Some(Ok(watcher::Event::InitApply(object))) => {
                listed.get_or_insert_default().push(object);
            }
            Some(Ok(watcher::Event::InitDone)) => {
                fleet.replace(listed.take().unwrap_or_default());
                synced = true;
            }
            Some(Ok(watcher::Event::Apply(object))) => fleet.apply(object),
            Some(Ok(watcher::Event::Delete(object))) => fleet.delete(&object),
            Some(Err(error)) => tracing::warn!(%error, "watch Clusters; trying again"),
        }
    }
    fleet.stop.cancel();
    fleet.tasks.close();
    fleet.tasks.wait().await;
    metrics.forget_all();
}

struct Fleet {
    host: Host,
    settings: Settings,
    metrics: Metrics,
    departures: Departures,
    workers: HashMap<String, Worker>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The end of a worker that is held here. Dropping it ends the worker.
struct Worker {
    uid: Option<String>,
    object: watch::Sender<Arc<DynamicObject>>,
    _stop: tokio_util::sync::DropGuard,
}

impl Fleet {
    fn replace(&mut self, objects: Vec<DynamicObject>) {
        let mut gone = std::mem::take(&mut self.workers);
        for object in objects {
            if let Some(name) = &object.metadata.name
                && let Some(worker) = gone.remove(name)
            {
                self.workers.insert(name.clone(), worker);
            }
            self.apply(object);
        }
        for (name, worker) in gone {
            self.metrics.forget(&name);
            self.departures.forget(&worker.uid.unwrap_or_default());
        }
    }

    fn apply(&mut self, object: DynamicObject) {
        let Some(name) = object.metadata.name.clone() else {
            return;
        };
        let (uid, object) = (object.metadata.uid.clone(), Arc::new(object));
        if let Some(worker) = self.workers.get(&name).filter(|worker| worker.uid == uid) {
            worker.object.send_replace(object);
            return;
        }
        self.metrics.begin(&name);
        let (sender, receiver) = watch::channel(object);
        let stop = self.stop.child_token();
        self.tasks.spawn(worker::run(
            worker::Work {
                host: self.host.clone(),
                name: name.clone(),
                resync: self.settings.resync,
                metrics: self.metrics.clone(),
                departures: self.departures.clone(),
            },
            receiver,
            stop.clone(),
        ));
        let worker = Worker {
            uid,
            object: sender,
            _stop: stop.drop_guard(),
        };
        self.workers.insert(name, worker);
    }

    fn delete(&mut self, object: &DynamicObject) {
        let Some(name) = &object.metadata.name else {
            return;
        };
        if let Some(uid) = &object.metadata.uid {
            self.departures.forget(uid);
        }
        let same = |worker: &Worker| worker.uid == object.metadata.uid;
        if self.workers.get(name).is_some_and(same) {
            self.workers.remove(name);
            self.metrics.forget(name);
        }
    }

    /// Sees to it that the host itself has a Cluster object.
    async fn host_object(&self) {
        let hosts: Vec<Arc<DynamicObject>> = self
            .workers
            .values()
            .map(|worker| worker.object.borrow().clone())
            .filter(|object| is_host(object))
            .collect();
        // Events wait meanwhile.
        let kept = worker::within(host_object::keep(&self.host.client, &self.settings, &hosts));
        if let Err(error) = kept.await {
            tracing::warn!(%error, "keep the Cluster object of the host");
        }
    }
}

fn is_host(object: &DynamicObject) -> bool {
    let labels = object.metadata.labels.as_ref();
    labels.is_some_and(|labels| labels.contains_key(HOST_LABEL))
}
