//! Which kinds are served now: the built-in ones, and those of stored CustomResourceDefinitions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::kind::Kind;
use crate::store::Store;

/// Storage key of the objects that add kinds.
pub const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// The kinds of one moment.
#[derive(Default)]
pub struct Kinds {
    all: Vec<Arc<Kind>>,
    by_path: HashMap<(String, String, String), Arc<Kind>>,
}

impl Kinds {
    fn new(all: Vec<Arc<Kind>>) -> Kinds {
        let mut by_path = HashMap::new();
        for kind in &all {
            let path = (
                kind.group.clone(),
                kind.version.clone(),
                kind.plural.clone(),
            );
            by_path.entry(path).or_insert_with(|| kind.clone());
        }
        Kinds { all, by_path }
    }

    /// All of them, built-in kinds first.
    pub fn all(&self) -> &[Arc<Kind>] {
        &self.all
    }

    /// The kind that a path names.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        let path = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.by_path.get(&path).cloned()
    }

    /// The kind that an object names with `apiVersion` and `kind`.
    pub fn of_object(&self, api_version: &str, kind: &str) -> Option<Arc<Kind>> {
        self.all
            .iter()
            .find(|known| known.kind == kind && known.api_version() == api_version)
            .cloned()
    }

    /// Whether anything is served in this group version.
    pub fn serves(&self, group: &str, version: &str) -> bool {
        self.all
            .iter()
            .any(|kind| kind.group == group && kind.version == version)
    }
}

/// Keeps [`Kinds`] as new as the store: whoever asks after a definition was written sees its kinds.
pub struct Registry {
    builtin: Vec<Arc<Kind>>,
    kinds: ArcSwap<Kinds>,
    revision: AtomicU64,
}

impl Registry {
    /// The built-in kinds, and nothing else yet.
    pub fn new(builtin: Vec<Kind>) -> Registry {
        let builtin: Vec<Arc<Kind>> = builtin.into_iter().map(Arc::new).collect();
        Registry {
            kinds: ArcSwap::from_pointee(Kinds::new(builtin.clone())),
            builtin,
            revision: AtomicU64::new(0),
        }
    }

    /// The kinds served now.
    pub fn kinds(&self, store: &Store) -> Arc<Kinds> {
        let changed = store.changed(DEFINITIONS);
        // Two requests that both see the change both do the work, and come to the same result.
        if self.revision.load(Ordering::Acquire) < changed {
            let mut all = self.builtin.clone();
            let page = store
                .list(DEFINITIONS, "", None, None, None)
                .unwrap_or_default();
            for (name, stored) in page.items {
                match crate::crd::kinds_of(&stored.value()) {
                    Ok(kinds) => all.extend(kinds.into_iter().map(Arc::new)),
                    Err(error) => {
                        tracing::warn!(name, error = error.message, "definition is not served");
                    }
                }
            }
            self.kinds.store(Arc::new(Kinds::new(all)));
            self.revision.fetch_max(changed, Ordering::Release);
        }
        self.kinds.load_full()
    }
}
