//! What a host knows and holds toward its members.

use std::sync::Arc;

use kah_iam::Clock;
use tokio_util::task::TaskTracker;

use crate::Registry;

/// Everything that handlers and reconcilers of a host need to deal with members. Clones share it.
///
/// Handlers and reconcilers never call each other: they meet in the stored objects that `client` reads and writes.
#[derive(Clone)]
pub struct Host {
    /// The host's own kube-apiserver, with the account of this program.
    pub client: kube::Client,
    /// The clusters of the fleet.
    pub registry: Registry,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Owns what goes on when the one who asked for it has left.
    pub tasks: TaskTracker,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}
