//! Garbage collection: objects whose owners are gone go too, and owners that wait for them are let go.
//!
//! One watch for each kind that can be deleted keeps an index of who owns whom. Decisions are made on live
//! objects; the index only says where to look.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions,
    PropagationPolicy,
};
use kube::core::PartialObjectMeta;
use kube::discovery::{Discovery, verbs};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use futures::StreamExt;

use super::{Change, Context, Error, Key, Queue, error_code, feed, unless_gone};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Groups whose objects own nothing, are owned by nothing that matters, and change all the time.
const NOT_WATCHED: [&str; 2] = ["events", "leases"];

#[derive(Clone)]
struct Node {
    resource: ApiResource,
    namespace: String,
    name: String,
    owners: Vec<OwnerReference>,
    /// It was deleted and waits for a finalizer of ours.
    waits: bool,
}

/// The index: every object by uid.
#[derive(Default)]
struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, BTreeSet<String>>,
}

/// A collector's shared state.
#[derive(Clone)]
pub struct Garbage {
    graph: Arc<Mutex<Graph>>,
    queue: Queue,
    context: Context,
    kinds: Arc<Mutex<BTreeMap<String, ApiResource>>>,
}

fn key(uid: &str) -> Key {
    Key {
        namespace: String::new(),
        name: uid.to_owned(),
    }
}

impl Garbage {
    pub fn new(context: Context) -> Garbage {
        Garbage {
            graph: Arc::default(),
            queue: Queue::default(),
            context,
            kinds: Arc::default(),
        }
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches all kinds, those of new CRDs too, and collects, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let changed = Arc::new(Notify::new());
        changed.notify_one();
        let crds: Api<CustomResourceDefinition> = Api::all(self.context.client.clone());
        let notify = changed.clone();
        let definitions = feed(
            crds,
            watcher::Config::default(),
            shutdown.clone(),
            move |change| {
                let established = |crd: &CustomResourceDefinition| {
                    let conditions = crd
                        .status
                        .iter()
                        .flat_map(|s| s.conditions.iter().flatten());
                    conditions
                        .into_iter()
                        .any(|c| c.type_ == "Established" && c.status == "True")
                };
                match change {
                    Change::Applied(crd) if established(crd) => notify.notify_one(),
                    Change::Applied(_) | Change::Resynced => {}
                    Change::Deleted(_) => notify.notify_one(),
                }
            },
        );
        let collector = self.clone();
        let work = self
            .queue
            .clone()
            .work(shutdown.clone(), "garbage", move |key| {
                let collector = collector.clone();
                async move { collector.collect(&key.name).await }
            });
        tokio::join!(definitions, work, self.watch_kinds(changed, shutdown));
    }

    async fn watch_kinds(&self, changed: Arc<Notify>, shutdown: CancellationToken) {
        let tracker = TaskTracker::new();
        let mut watched: HashMap<String, CancellationToken> = HashMap::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = changed.notified() => {}
            }
            let kinds = match discover(&self.context.client).await {
                Ok(kinds) => kinds,
                Err(error) => {
                    tracing::debug!(%error, "kinds could not be discovered yet");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    changed.notify_one();
                    continue;
                }
            };
            watched.retain(|name, stop| {
                let stays = kinds.contains_key(name);
                if !stays {
                    stop.cancel();
                }
                stays
            });
            for (name, resource) in &kinds {
                if watched.contains_key(name) {
                    continue;
                }
                let stop = shutdown.child_token();
                watched.insert(name.clone(), stop.clone());
                tracker.spawn(self.clone().watch(resource.clone(), stop));
            }
            *self.kinds.lock().unwrap_or_else(PoisonError::into_inner) = kinds;
        }
        tracker.close();
        tracker.wait().await;
    }

    async fn watch(self, resource: ApiResource, stop: CancellationToken) {
        let client = self.context.client.clone();
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &resource);
        let stream = watcher::watcher(api, watcher::Config::default()).default_backoff();
        let mut stream = std::pin::pin!(stream);
        let mut listed: BTreeSet<String> = BTreeSet::new();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = stream.next() => event,
            };
            match event {
                None => return,
                Some(Ok(watcher::Event::Init)) => listed.clear(),
                Some(Ok(watcher::Event::InitApply(object))) => {
                    listed.extend(object.metadata.uid.clone());
                    self.applied(&resource, &object);
                }
                Some(Ok(watcher::Event::Apply(object))) => self.applied(&resource, &object),
                Some(Ok(watcher::Event::Delete(object))) => {
                    self.deleted(object.metadata.uid.as_deref().unwrap_or_default());
                }
                Some(Ok(watcher::Event::InitDone)) => {
                    let gone: Vec<String> = self
                        .graph()
                        .nodes
                        .iter()
                        .filter(|(uid, node)| node.resource == resource && !listed.contains(*uid))
                        .map(|(uid, _)| uid.clone())
                        .collect();
                    for uid in gone {
                        self.deleted(&uid);
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(kind = resource.kind, %error, "a watch ended and is taken up again");
                }
            }
        }
    }

    fn applied(&self, resource: &ApiResource, object: &PartialObjectMeta<DynamicObject>) {
        let meta = &object.metadata;
        let Some(uid) = meta.uid.clone() else { return };
        let finalizers = meta.finalizers.iter().flatten();
        let waits = meta.deletion_timestamp.is_some()
            && finalizers
                .into_iter()
                .any(|f| f == FOREGROUND || f == ORPHAN);
        let node = Node {
            resource: resource.clone(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            waits,
        };
        let mut graph = self.graph();
        let before = graph
            .nodes
            .get(&uid)
            .map(|node| (node.owners.clone(), node.waits));
        let fresh = before.as_ref() != Some(&(node.owners.clone(), node.waits));
        for owner in before.iter().flat_map(|(owners, _)| owners) {
            if let Some(set) = graph.dependents.get_mut(&owner.uid) {
                set.remove(&uid);
            }
        }
        for owner in &node.owners {
            graph
                .dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.clone());
        }
        let owned = !node.owners.is_empty();
        graph.nodes.insert(uid.clone(), node);
        let mut concerned: Vec<String> = Vec::new();
        if waits {
            concerned.extend(graph.dependents.get(&uid).into_iter().flatten().cloned());
        }
        drop(graph);
        if (fresh && owned) || waits {
            self.queue.add(key(&uid));
        }
        for uid in concerned {
            self.queue.add(key(&uid));
        }
    }

    fn deleted(&self, uid: &str) {
        let mut graph = self.graph();
        let node = graph.nodes.remove(uid);
        let mut concerned: Vec<String> =
            graph.dependents.remove(uid).into_iter().flatten().collect();
        for owner in node.iter().flat_map(|node| &node.owners) {
            if let Some(set) = graph.dependents.get_mut(&owner.uid) {
                set.remove(uid);
            }
            concerned.push(owner.uid.clone());
        }
        drop(graph);
        for uid in concerned {
            self.queue.add(key(&uid));
        }
    }

    fn api(&self, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        let client = self.context.client.clone();
        if namespace.is_empty() {
            Api::all_with(client, resource)
        } else {
            Api::namespaced_with(client, namespace, resource)
        }
    }

    /// Decides about one object.
    async fn collect(&self, uid: &str) -> Result<Option<Duration>, Error> {
        let Some(node) = self.graph().nodes.get(uid).cloned() else {
            return Ok(None);
        };
        let api = self.api(&node.resource, &node.namespace);
        let live = api
            .get_metadata_opt(&node.name)
            .await
            .map_err(Error::doing("get an object to collect"))?;
        let Some(live) = live.filter(|live| live.metadata.uid.as_deref() == Some(uid)) else {
            return Ok(None);
        };
        let finalizers = live.metadata.finalizers.clone().unwrap_or_default();
        if live.metadata.deletion_timestamp.is_some() {
            if finalizers.iter().any(|f| f == ORPHAN) {
                self.orphan(uid).await?;
                return self.drop_finalizer(&api, &live, ORPHAN).await;
            }
            if finalizers.iter().any(|f| f == FOREGROUND) && !self.is_blocked(uid) {
                return self.drop_finalizer(&api, &live, FOREGROUND).await;
            }
            return Ok(None);
        }
        let owners = live.metadata.owner_references.clone().unwrap_or_default();
        if owners.is_empty() {
            return Ok(None);
        }
        let (mut solid, mut dangling, mut waiting) = (0, Vec::new(), Vec::new());
        for owner in &owners {
            match self.owner_state(owner, &node.namespace).await? {
                Owner::Solid => solid += 1,
                Owner::Waiting => waiting.push(owner.uid.clone()),
                Owner::Gone => dangling.push(owner.uid.clone()),
            }
        }
        if dangling.is_empty() && waiting.is_empty() {
            return Ok(None);
        }
        if solid > 0 {
            let kept: Vec<_> = owners
                .iter()
                .filter(|owner| !dangling.contains(&owner.uid) && !waiting.contains(&owner.uid))
                .collect();
            let patch = json!({"metadata": {
                "uid": uid, "resourceVersion": live.metadata.resource_version, "ownerReferences": kept,
            }});
            let done = api
                .patch(&node.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            unless_gone(done, "drop an owner that is gone")?;
            return Ok(None);
        }
        let has_dependents = self
            .graph()
            .dependents
            .get(uid)
            .is_some_and(|dependents| !dependents.is_empty());
        let policy = if finalizers.iter().any(|f| f == ORPHAN) {
            PropagationPolicy::Orphan
        } else if !waiting.is_empty() && has_dependents {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: live.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        unless_gone(api.delete(&node.name, &params).await, "delete garbage")?;
        Ok(None)
    }

    /// Whether an owner that waits has dependents that it must wait for.
    fn is_blocked(&self, uid: &str) -> bool {
        let graph = self.graph();
        let dependents = graph.dependents.get(uid).into_iter().flatten();
        dependents
            .filter_map(|dependent| graph.nodes.get(dependent))
            .flat_map(|node| &node.owners)
            .any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
    }

    async fn orphan(&self, uid: &str) -> Result<(), Error> {
        let dependents: Vec<Node> = {
            let graph = self.graph();
            let uids = graph.dependents.get(uid).into_iter().flatten();
            uids.filter_map(|uid| graph.nodes.get(uid).cloned())
                .collect()
        };
        for node in dependents {
            let api = self.api(&node.resource, &node.namespace);
            let live = api
                .get_metadata_opt(&node.name)
                .await
                .map_err(Error::doing("get an object to orphan"))?;
            let Some(live) = live else { continue };
            let owners = live.metadata.owner_references.clone().unwrap_or_default();
            let kept: Vec<_> = owners.iter().filter(|owner| owner.uid != uid).collect();
            if kept.len() == owners.len() {
                continue;
            }
            let patch = json!({"metadata": {
                "uid": live.metadata.uid, "resourceVersion": live.metadata.resource_version,
                "ownerReferences": kept,
            }});
            let done = api
                .patch(&node.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            unless_gone(done, "orphan an object")?;
        }
        Ok(())
    }

    async fn drop_finalizer(
        &self,
        api: &Api<DynamicObject>,
        live: &PartialObjectMeta<DynamicObject>,
        finalizer: &str,
    ) -> Result<Option<Duration>, Error> {
        let finalizers = live.metadata.finalizers.iter().flatten();
        let kept: Vec<_> = finalizers.filter(|name| *name != finalizer).collect();
        let patch = json!({"metadata": {
            "uid": live.metadata.uid, "resourceVersion": live.metadata.resource_version, "finalizers": kept,
        }});
        let name = live.metadata.name.as_deref().unwrap_or_default();
        let done = api
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        unless_gone(done, "let an owner go")?;
        Ok(None)
    }

    async fn owner_state(&self, owner: &OwnerReference, namespace: &str) -> Result<Owner, Error> {
        let resource = {
            let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
            kinds
                .values()
                .find(|kind| kind.kind == owner.kind && kind.api_version == owner.api_version)
                .cloned()
        };
        let known = self.graph().nodes.get(&owner.uid).cloned();
        let resource = match (&known, resource) {
            (Some(node), _) => node.resource.clone(),
            (None, Some(resource)) => resource,
            // A kind that is not served (any more, or in this version): nothing is known, so nothing is deleted.
            (None, None) => return Ok(Owner::Solid),
        };
        let place = known
            .as_ref()
            .map_or(namespace, |node| node.namespace.as_str());
        let found = match self
            .api(&resource, place)
            .get_metadata_opt(&owner.name)
            .await
        {
            // A cluster-wide kind is not found below a namespace.
            Ok(None) if known.is_none() && !place.is_empty() => {
                let everywhere = self.api(&resource, "").get_metadata_opt(&owner.name).await;
                match everywhere {
                    Err(error) if matches!(error_code(&error), Some(404 | 405)) => Ok(None),
                    other => other,
                }
            }
            other => other,
        };
        let found = found.map_err(Error::doing("get an owner"))?;
        Ok(match found {
            Some(found) if found.metadata.uid.as_deref() == Some(&owner.uid) => {
                let finalizers = found.metadata.finalizers.iter().flatten();
                let foreground = found.metadata.deletion_timestamp.is_some()
                    && finalizers.into_iter().any(|name| name == FOREGROUND);
                if foreground {
                    Owner::Waiting
                } else {
                    Owner::Solid
                }
            }
            _ => Owner::Gone,
        })
    }
}

enum Owner {
    Solid,
    /// It is being deleted in the foreground: it waits for its dependents.
    Waiting,
    Gone,
}

/// Every kind whose objects can be listed, watched and deleted, in its preferred version.
async fn discover(client: &kube::Client) -> Result<BTreeMap<String, ApiResource>, kube::Error> {
    let discovery = Discovery::new(client.clone()).run().await?;
    let mut kinds = BTreeMap::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.resources_by_stability() {
            let usable = [verbs::LIST, verbs::WATCH, verbs::DELETE]
                .into_iter()
                .all(|verb| capabilities.supports_operation(verb));
            if usable && !NOT_WATCHED.contains(&resource.plural.as_str()) {
                kinds.insert(format!("{}.{}", resource.plural, resource.group), resource);
            }
        }
    }
    Ok(kinds)
}
