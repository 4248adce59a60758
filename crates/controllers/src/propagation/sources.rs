//! The host's objects, kept by watches, and which kinds KubeFed propagates already.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use futures::StreamExt;
use kah_cluster::{
    propagate::{Ending, KINDS, Kind, is_federated},
    retry::{Pauses, Retry},
};
use kube::{
    Api, Client,
    api::DynamicObject,
    runtime::{WatchStreamExt, watcher},
};

use super::{Pace, fleet::Fleet};

/// Deletions that are remembered.
const MOST_ENDED: usize = 10_000;
/// Finalizer by which a WorkspaceTemplate says that what depends on its Workspaces shall stay.
const ORPHAN: &str = "orphan.finalizers.kubesphere.io";
/// The same of Kubernetes itself.
const ORPHAN_DEPENDENTS: &str = "orphan";

/// The sources of all kinds.
#[derive(Default)]
pub(super) struct Sources {
    kinds: [RwLock<OfKind>; KINDS.len()],
}

#[derive(Default)]
struct OfKind {
    /// Whether a whole list was read. Before that, absence means nothing.
    listed: bool,
    /// Whether KubeFed propagates the kind, where that is known.
    federated: Option<bool>,
    objects: HashMap<String, Arc<DynamicObject>>,
    /// Names of those that were seen to be deleted with all that depends on them.
    ended: HashSet<String>,
    /// Names of those that are being deleted so that dependents stay. The word for it may be taken off before the object goes.
    keeping: HashSet<String>,
}

impl OfKind {
    fn note(&mut self, name: &str, source: &DynamicObject) {
        if keeps_dependents(source) {
            self.keeping.insert(name.to_owned());
        } else if source.metadata.deletion_timestamp.is_none() {
            self.keeping.remove(name);
        }
    }

    fn ours(&self) -> bool {
        self.listed && self.federated == Some(false)
    }
}

impl Sources {
    fn read(&self, index: usize) -> Option<RwLockReadGuard<'_, OfKind>> {
        let kind = self.kinds.get(index)?;
        Some(kind.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, index: usize) -> Option<RwLockWriteGuard<'_, OfKind>> {
        let kind = self.kinds.get(index)?;
        Some(kind.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// All sources of a kind; `None` where they are not known, or are not ours to propagate.
    pub(super) fn all(&self, index: usize) -> Option<HashMap<String, Arc<DynamicObject>>> {
        let kind = self.read(index)?;
        kind.ours().then(|| kind.objects.clone())
    }

    /// One source, which may not be there; `None` as in [`Sources::all`].
    pub(super) fn get(&self, index: usize, name: &str) -> Option<Option<Arc<DynamicObject>>> {
        let kind = self.read(index)?;
        kind.ours().then(|| kind.objects.get(name).cloned())
    }

    /// How a source that is not there, or does not go to some member, came to its end.
    pub(super) fn ending(&self, index: usize, name: &str) -> Ending {
        let Some(kind) = self.read(index) else {
            return Ending::KeepDependents;
        };
        let there = kind.objects.contains_key(name);
        if !kind.keeping.contains(name) && (there || kind.ended.contains(name)) {
            Ending::Whole
        } else {
            Ending::KeepDependents
        }
    }

    /// Takes a whole list as the truth. Gives the names of what has changed, or `None` if it is the first.
    fn replace(&self, index: usize, listed: Vec<DynamicObject>) -> Option<Vec<String>> {
        let mut kind = self.write(index)?;
        let objects: HashMap<String, Arc<DynamicObject>> = listed
            .into_iter()
            .map(slim)
            .filter_map(|object| Some((object.metadata.name.clone()?, Arc::new(object))))
            .collect();
        kind.keeping.retain(|name| objects.contains_key(name));
        kind.ended.retain(|name| !objects.contains_key(name));
        for (name, object) in &objects {
            kind.note(name, object);
            // Nobody saw how its deletion began.
            let unseen = kind.objects.get(name).is_none_or(|before| {
                before.metadata.uid != object.metadata.uid
                    || before.metadata.deletion_timestamp.is_none()
            });
            if object.metadata.deletion_timestamp.is_some() && unseen {
                kind.keeping.insert(name.clone());
            }
        }
        let before = std::mem::replace(&mut kind.objects, objects);
        let first = !std::mem::replace(&mut kind.listed, true);
        if first {
            return None;
        }
        let gone = before
            .keys()
            .filter(|name| !kind.objects.contains_key(*name));
        let new = kind.objects.iter().filter(|(name, object)| {
            before
                .get(*name)
                .is_none_or(|before| differs(index, before, object))
        });
        Some(
            gone.cloned()
                .chain(new.map(|(name, _)| name.clone()))
                .collect(),
        )
    }

    /// Takes one object as it is now. Gives its name if that makes a difference to members.
    fn apply(&self, index: usize, object: DynamicObject) -> Option<String> {
        let object = slim(object);
        let name = object.metadata.name.clone()?;
        let mut kind = self.write(index)?;
        kind.ended.remove(&name);
        kind.note(&name, &object);
        let differs = kind
            .objects
            .get(&name)
            .is_none_or(|before| differs(index, before, &object));
        kind.objects.insert(name.clone(), Arc::new(object));
        differs.then_some(name)
    }

    fn delete(&self, index: usize, object: &DynamicObject) -> Option<String> {
        let name = object.metadata.name.clone()?;
        let mut kind = self.write(index)?;
        kind.note(&name, object);
        kind.objects.remove(&name);
        if kind.ended.len() >= MOST_ENDED {
            kind.ended.clear();
        }
        if !kind.keeping.remove(&name) {
            kind.ended.insert(name.clone());
        }
        Some(name)
    }

    /// Whether that is news.
    fn set_federated(&self, index: usize, federated: bool) -> bool {
        self.write(index)
            .is_some_and(|mut kind| kind.federated.replace(federated) != Some(federated))
    }
}

fn keeps_dependents(source: &DynamicObject) -> bool {
    let finalizers = source.metadata.finalizers.iter().flatten();
    source.metadata.deletion_timestamp.is_some()
        && finalizers
            .into_iter()
            .any(|finalizer| finalizer == ORPHAN || finalizer == ORPHAN_DEPENDENTS)
}

/// Without what no copy carries and nobody here asks for.
fn slim(mut object: DynamicObject) -> DynamicObject {
    object.metadata.managed_fields = None;
    object
}

/// Whether a copy could differ.
fn differs(index: usize, before: &DynamicObject, after: &DynamicObject) -> bool {
    let (old, new) = (&before.metadata, &after.metadata);
    let annotations = KINDS.get(index).is_some_and(Kind::carries_annotations);
    old.labels != new.labels
        || annotations && old.annotations != new.annotations
        || old.deletion_timestamp.is_some() != new.deletion_timestamp.is_some()
        || old.uid != new.uid
        || before.data != after.data
}

/// Keeps the sources of a kind current, and tells the fleet what has changed. Failures are retried with growing pauses; meanwhile the last known
/// state stands.
pub(super) async fn follow(
    index: usize,
    kind: &'static Kind,
    client: Client,
    sources: Arc<Sources>,
    fleet: Arc<Fleet>,
) {
    let objects: Api<DynamicObject> = Api::all_with(client, &kind.source());
    let mut events = std::pin::pin!(
        watcher(objects, watcher::Config::default()).backoff(Pauses::of(Retry::TRANSIENT))
    );
    let (mut listed, mut failing) = (Vec::new(), false);
    while let Some(event) = events.next().await {
        if let Err(error) = event {
            if !failing {
                tracing::warn!(
                    kind = kind.name,
                    error = super::chain(&error),
                    "watch sources; trying again"
                );
            }
            failing = true;
            continue;
        }
        failing = false;
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => listed.push(object),
            Ok(watcher::Event::InitDone) => {
                match sources.replace(index, std::mem::take(&mut listed)) {
                    Some(changed) => changed
                        .into_iter()
                        .for_each(|name| fleet.tell(index, &name)),
                    None => fleet.tell_all(),
                }
            }
            Ok(watcher::Event::Apply(object)) => {
                if let Some(name) = sources.apply(index, object) {
                    fleet.tell(index, &name);
                }
            }
            Ok(watcher::Event::Delete(object)) => {
                if let Some(name) = sources.delete(index, &object) {
                    fleet.tell(index, &name);
                }
            }
            Err(_) => {}
        }
    }
}

/// Looks again and again whether KubeFed propagates a kind. Nothing of a kind is propagated before the first answer.
pub(super) async fn watch_kubefed(
    pace: Pace,
    host: Client,
    sources: Arc<Sources>,
    fleet: Arc<Fleet>,
) {
    let mut failures = 0;
    loop {
        let mut failed = false;
        for (index, kind) in KINDS.iter().enumerate() {
            match is_federated(&host, kind).await {
                Ok(federated) => {
                    if !sources.set_federated(index, federated) {
                        continue;
                    }
                    if federated {
                        tracing::warn!(
                            kind = kind.name,
                            "KubeFed propagates this kind: it is left to it"
                        );
                    } else {
                        fleet.tell_all();
                    }
                }
                Err(error) => {
                    failed = true;
                    if failures == 0 {
                        tracing::warn!(
                            error = super::chain(&error),
                            "look for KubeFed; trying again"
                        );
                    }
                }
            }
        }
        let pause = if failed {
            failures += 1;
            pace.retry.pause(failures, (pace.chance)())
        } else {
            failures = 0;
            pace.look
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(name: &str, metadata: Value) -> DynamicObject {
        let mut object = json!({"metadata": metadata});
        object["metadata"]["name"] = name.into();
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn absence_means_nothing_before_a_list_and_where_kubefed_is_at_work() {
        let sources = Sources::default();
        assert!(sources.all(0).is_none() && sources.get(0, "a").is_none());
        sources.set_federated(0, false);
        assert!(sources.all(0).is_none() && sources.get(0, "a").is_none());
        assert_eq!(sources.replace(0, vec![object("a", json!({}))]), None);
        assert_eq!(sources.all(0).map(|all| all.len()), Some(1));
        assert!(sources.get(0, "b").is_some_and(|source| source.is_none()));
        assert!(sources.all(1).is_none());
        assert!(sources.set_federated(0, true) && !sources.set_federated(0, true));
        assert!(sources.all(0).is_none() && sources.get(0, "a").is_none());
    }

    #[test]
    fn only_what_makes_a_difference_is_told() {
        let sources = Sources::default();
        let version = |version: &str| {
            object(
                "a",
                json!({"resourceVersion": version, "labels": {"a": "b"}}),
            )
        };
        assert_eq!(
            sources.replace(0, vec![version("1"), object("b", json!({}))]),
            None
        );
        assert_eq!(sources.apply(0, version("2")), None);
        // Only of some kinds a copy has annotations.
        let annotated = |text: &str| object("a", json!({"annotations": {"a": text}}));
        for (index, news) in [(0, Some("a".to_owned())), (1, None)] {
            let sources = Sources::default();
            sources.replace(index, vec![annotated("1")]);
            assert_eq!(sources.apply(index, annotated("2")), news);
        }
        let changed = object("a", json!({"labels": {"a": "c"}}));
        assert_eq!(sources.apply(0, changed.clone()), Some("a".into()));
        assert_eq!(sources.apply(0, object("c", json!({}))), Some("c".into()));
        let mut told = sources
            .replace(0, vec![changed, object("d", json!({}))])
            .unwrap();
        told.sort();
        assert_eq!(told, ["b", "c", "d"]);
    }

    #[test]
    fn dependents_are_taken_along_only_where_that_was_seen_to_be_meant() {
        let sources = Sources::default();
        let leaving = |finalizer: &str| {
            object(
                "w",
                json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer]}),
            )
        };
        let (plain, orphan) = (
            object("w", json!({})),
            leaving("orphan.finalizers.kubesphere.io"),
        );
        sources.replace(0, vec![plain.clone()]);
        assert_eq!(
            sources.ending(0, "w"),
            Ending::Whole,
            "it is there, and leaves by its placement"
        );
        assert_eq!(sources.ending(0, "unknown"), Ending::KeepDependents);

        sources.delete(0, &plain);
        assert_eq!(sources.ending(0, "w"), Ending::Whole);
        sources.apply(0, orphan.clone());
        assert_eq!(sources.ending(0, "w"), Ending::KeepDependents);
        // The word may be taken off before the object goes.
        sources.apply(0, leaving("other"));
        assert_eq!(sources.ending(0, "w"), Ending::KeepDependents);
        sources.delete(0, &leaving("other"));
        assert_eq!(sources.ending(0, "w"), Ending::KeepDependents);
        sources.apply(0, plain.clone());
        sources.apply(0, leaving("other"));
        assert_eq!(sources.ending(0, "w"), Ending::Whole);
        sources.apply(0, leaving("orphan"));
        assert_eq!(sources.ending(0, "w"), Ending::KeepDependents);

        // Seen whole, made anew and deleted in another way while nobody watched.
        sources.apply(0, plain.clone());
        sources.delete(0, &plain);
        sources.replace(0, vec![plain.clone()]);
        sources.replace(0, Vec::new());
        assert_eq!(sources.ending(0, "w"), Ending::KeepDependents);

        // The word may be off by the time that somebody looks.
        let late = Sources::default();
        late.replace(0, vec![leaving("other")]);
        assert_eq!(late.ending(0, "w"), Ending::KeepDependents);
        late.replace(0, vec![leaving("other")]);
        assert_eq!(late.ending(0, "w"), Ending::KeepDependents);
        late.replace(0, vec![plain.clone()]);
        assert_eq!(late.ending(0, "w"), Ending::Whole);
        late.apply(0, leaving("other"));
        late.replace(0, vec![leaving("other")]);
        assert_eq!(late.ending(0, "w"), Ending::Whole, "its beginning was seen");

        sources.apply(0, plain);
        sources.replace(0, Vec::new());
        assert_eq!(
            sources.ending(0, "w"),
            Ending::KeepDependents,
            "nobody saw how"
        );
    }
}
