//! What a host knows and holds toward its members.

use std::sync::Arc;

use kah_iam::Clock;
use kube::{
    Api,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use tokio_util::task::TaskTracker;

use crate::{
    CallerCredential, Registry,
    proof::{ProofError, Prover},
};

/// The Cluster objects of a host. Untyped: one object of an unexpected shape is one member that cannot be used, not an unreadable list, and what is written
/// back holds everything that was read.
pub fn clusters(client: kube::Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("cluster.kubesphere.io", "v1alpha1", "Cluster");
    Api::all_with(
        client,
        &ApiResource::from_gvk_with_plural(&kind, "clusters"),
    )
}

/// Everything that handlers and reconcilers of a host need to deal with members. Clones share it.
///
/// Handlers and reconcilers never call each other: they meet in the stored objects that `client` reads and writes.
#[derive(Clone)]
pub struct Host {
    /// The host's own kube-apiserver, with the account of this program.
    pub client: kube::Client,
    /// The clusters of the fleet.
    pub registry: Registry,
    /// Proves that members let people in.
    pub prover: Prover,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Owns what goes on when the one who asked for it has left.
    pub tasks: TaskTracker,
}

impl Host {
    /// The host's own credential toward members: what is asked with it is answered as it is to people (see [`Prover`]).
    ///
    /// # Errors
    /// [`ProofError`]
    pub fn proof(&self) -> Result<CallerCredential, ProofError> {
        self.prover.proof()
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

/// The answer of a kube-apiserver, or that it did not come within this time: what does not answer is no reason to wait for ever.
///
/// # Errors
/// What the request ended with; a fault of the service where it did not end.
pub async fn within<T>(
    limit: std::time::Duration,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    tokio::time::timeout(limit, request)
        .await
        .unwrap_or_else(|elapsed| Err(kube::Error::Service(elapsed.into())))
}
