//! Reconcilers of a host: each compares what is with what should be, and mends the difference.
//!
//! A reconciler takes no input: it is woken, reads the stored objects anew, and acts. It never calls the gateway, nor is it called by it.
//!
//! * [`cluster`] keeps the Cluster objects true: who is ready, who lets people in, and why not.
//! * [`auto_restore`] repairs access where a Cluster asks for it, and ends what another process left half done.
//! * [`renewal`] replaces the host's own credentials at members before they end.
//! * [`propagation`] keeps in every member what the host owns: users, roles, groups, workspaces.
//! * [`trust`] keeps members told of the host's signing keys, and changes the keys.
//! * [`leader`] sees to it that only one process of a host does any of this.

pub mod auto_restore;
pub mod cluster;
mod departures;
pub mod leader;
pub mod metrics;
pub mod propagation;
pub mod renewal;
pub mod trust;

use std::time::Duration;

use futures::future::BoxFuture;
use kah_cluster::Host;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use departures::Departures;
pub use leader::Leader;
pub use metrics::Metrics;

/// What the reconcilers of one host depend on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name that the host's own Cluster object gets.
    pub host_cluster: String,
    /// How the host's own kube-apiserver is reached, for the host's Cluster object; empty: nothing is stored.
    pub host_kubeconfig: String,
    /// How often everything that a Cluster's status tells is looked at, beside what is always looked at.
    pub resync: Duration,
}

/// Runs every reconciler until `stop`, or until one of them ends, which none does by itself.
pub async fn run(host: Host, settings: Settings, metrics: Metrics, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    // Ends all of them when any of them ends, also by a panic.
    let stop = stop.child_token();
    let departures = Departures::default();
    let all: Vec<(&'static str, BoxFuture<'static, ()>)> = vec![
        (
            "propagation",
            Box::pin(propagation::run(
                host.clone(),
                metrics.clone(),
                departures.clone(),
                stop.clone(),
            )),
        ),
        ("trust", Box::pin(trust::run(host.clone(), stop.clone()))),
        (
            "clusters",
            Box::pin(cluster::run(
                host,
                settings,
                metrics,
                departures,
                stop.clone(),
            )),
        ),
    ];
    for (name, reconciler) in all {
        let end = stop.clone();
        tasks.spawn(async move {
            let end = end.drop_guard();
            reconciler.await;
            if !end.token().is_cancelled() {
                tracing::error!("the reconciler of {name} has ended");
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}
