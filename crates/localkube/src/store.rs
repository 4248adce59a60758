//! Objects under one revision counter, with the recent past kept for watches and consistent pages.
//!
//! One thread writes. It takes every write that waits, checks each against the state that the ones before
//! it leave, makes all of them durable with one commit, and only then lets readers see them and answers.
//! So nothing is ever visible, or acknowledged, that a crash could take back.

mod document;
mod file;
mod memory;
mod watch;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::{mpsc, oneshot};

pub use document::{Document, Stored};
pub use memory::{Event, Page};
pub use watch::Watch;

use memory::State;

/// How many writes may wait for the writer.
const QUEUE: usize = 1024;

/// What of the past is kept for each resource. A watch that starts, or falls, behind it is told `Expired`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Events.
    pub events: usize,
    /// Bytes of the objects in these events.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            events: 4096,
            bytes: 16 << 20,
        }
    }
}

/// Where an object lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// [`crate::kind::Kind::storage_key`]: `pods`, `deployments.apps`.
    pub resource: Arc<str>,
    /// `namespace/name`, or `name` for objects that have no namespace.
    pub path: String,
}

impl Key {
    /// The key of an object; `namespace` is empty for cluster-scoped ones.
    pub fn new(resource: &str, namespace: &str, name: &str) -> Key {
        Key {
            resource: resource.into(),
            path: format!("{}{name}", prefix(namespace)),
        }
    }
}

/// The start of every path in a namespace; empty for all namespaces and for cluster-scoped objects.
pub fn prefix(namespace: &str) -> String {
    if namespace.is_empty() {
        String::new()
    } else {
        format!("{namespace}/")
    }
}

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No object has the key.
    Absent,
    /// The object's last write was this one.
    Revision(u64),
}

/// One change of one object.
#[derive(Clone, Debug)]
pub enum Change {
    /// The object becomes this.
    Put(Document),
    /// The object goes away.
    Delete,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// [`Expect::Absent`] did not hold.
    #[error("create an object whose key is taken")]
    Exists,
    /// [`Expect::Revision`] did not hold: another write came first. Read again, then retry.
    #[error("change an object that has changed since it was read")]
    Conflict,
    /// There is no such object.
    #[error("change an object that does not exist")]
    Missing,
    /// The revision is older than what is kept; the oldest that can be asked for is given.
    #[error("read at revision {asked}, of which the oldest kept is {oldest}")]
    Expired { asked: u64, oldest: u64 },
    /// The store is closed, or its file failed before. Not worth a retry.
    #[error("write to a closed store")]
    Closed,
    /// The file could not be read or written.
    #[error("{doing} the storage file")]
    File {
        doing: &'static str,
        #[source]
        source: Box<redb::Error>,
    },
}

pub(crate) struct Command {
    key: Key,
    expect: Expect,
    change: Change,
    answer: oneshot::Sender<Result<Stored, StoreError>>,
}

/// A handle; clones share the store. Reads never wait for the disk.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    state: Arc<RwLock<State>>,
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Store {
    /// A store that lives as long as the process.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn memory(limits: Limits) -> Result<Store, StoreError> {
        Store::start(State::new(limits), None)
    }

    /// A durable store in one file, made if it is missing. What earlier processes were told is written is there,
    /// and watches go on from any revision that is still kept.
    ///
    /// # Errors
    /// When the file cannot be opened, is locked by another process, or is not a store.
    pub fn open(path: &Path, limits: Limits) -> Result<Store, StoreError> {
        let (file, state) = file::File::open(path, limits)?;
        Store::start(state, Some(file))
    }

    fn start(state: State, file: Option<file::File>) -> Result<Store, StoreError> {
        let state = Arc::new(RwLock::new(state));
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = writer::Writer::new(state.clone(), file);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(receiver))
            .map_err(|error| StoreError::File {
                doing: "start the writer of",
                source: Box::new(redb::Error::Io(error)),
            })?;
        Ok(Store {
            shared: Arc::new(Shared {
                state,
                commands: Mutex::new(Some(sender)),
                writer: Mutex::new(Some(thread)),
            }),
        })
    }

    fn read<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        f(&self
            .shared
            .state
            .read()
            .unwrap_or_else(PoisonError::into_inner))
    }

    /// The revision of the last write.
    pub fn revision(&self) -> u64 {
        self.read(|state| state.revision)
    }

    /// The revision of the last write to a resource; 0 if it was never written.
    pub fn changed(&self, resource: &str) -> u64 {
        self.read(|state| state.changed(resource))
    }

    /// The object, as it is now.
    pub fn get(&self, key: &Key) -> Option<Stored> {
        self.read(|state| state.get(key).cloned())
    }

    /// The objects whose path starts with `prefix`, as they are now, or were at revision `at`.
    /// With `after`, only those with a greater path; at most `limit` of them.
    ///
    /// # Errors
    /// [`StoreError::Expired`] when `at` is older than what is kept.
    pub fn list(
        &self,
        resource: &str,
        prefix: &str,
        at: Option<u64>,
        after: Option<&str>,
        limit: Option<usize>,
    ) -> Result<Page, StoreError> {
        self.read(|state| state.list(resource, prefix, at, after, limit))
    }

    /// Every event after revision `from` of objects whose path starts with `prefix`.
    ///
    /// # Errors
    /// [`StoreError::Expired`] when `from` is older than what is kept.
    pub fn watch(&self, resource: &str, prefix: &str, from: u64) -> Result<Watch, StoreError> {
        Watch::start(self.shared.state.clone(), resource, prefix, from)
    }

    /// Makes one change. When this returns, the change is durable and visible. The answer is the object as it
    /// stands now or, for a deletion, as it stood last, with the revision of the deletion.
    ///
    /// # Errors
    /// When what was expected does not hold, or the file fails; then nothing has changed.
    pub async fn write(
        &self,
        key: Key,
        expect: Expect,
        change: Change,
    ) -> Result<Stored, StoreError> {
        let commands = self
            .shared
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or(StoreError::Closed)?;
        let (answer, receiver) = oneshot::channel();
        let command = Command {
            key,
            expect,
            change,
            answer,
        };
        commands
            .send(command)
            .await
            .map_err(|_| StoreError::Closed)?;
        drop(commands);
        receiver.await.map_err(|_| StoreError::Closed)?
    }

    /// Finishes the writes that wait, then closes the file. Reads go on; later writes fail.
    pub async fn close(&self) {
        drop(
            self.shared
                .commands
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .shared
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // It ends by itself once the last sender is gone; a panic in it has been reported by the runtime.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}
