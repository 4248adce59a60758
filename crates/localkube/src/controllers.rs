//! The controllers of a cluster: what kube-controller-manager does, for the kinds that localkube serves.
//!
//! Each is a level-triggered reconciler fed by watches. They talk to the API with `kube::Client` only,
//! keep nothing that a restart would miss, and read live state before they write, so that a late watch
//! event never makes them act twice.

mod daemonset;
mod deployment;
mod endpoints;
mod error;
mod feed;
mod garbage;
mod job;
mod namespace;
mod ownership;
mod pods;
mod queue;
mod replicaset;
mod routes;
mod serviceaccount;
mod statefulset;

use tokio_util::sync::CancellationToken;

use crate::recorder::{Clock, Recorder};

pub(crate) use error::{Error, code as error_code, unless_gone};
pub(crate) use feed::{Change, feed};
pub(crate) use queue::{Key, Queue};

/// What the controllers are told by whoever starts them.
#[derive(Clone)]
pub struct Options {
    /// PEM of the CA that signed the API's certificate: content of each namespace's `kube-root-ca.crt`.
    pub root_ca: String,
    /// The current time.
    pub clock: Clock,
}

/// What every controller works with.
#[derive(Clone)]
struct Context {
    client: kube::Client,
    recorder: Recorder,
    options: Options,
}

impl Context {
    fn now(&self) -> jiff::Timestamp {
        (self.options.clock)()
    }
}

/// Runs all controllers until `shutdown`; returns when every task of theirs has ended.
pub async fn run(client: kube::Client, options: Options, shutdown: CancellationToken) {
    let (recorder, writer) = Recorder::new(client.clone(), shutdown.clone());
    let context = Context {
        client,
        recorder,
        options,
    };
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(writer);
    tasks.spawn(garbage::Garbage::new(context.clone()).run(shutdown.clone()));
    routes::start(&mut tasks, &context, &shutdown);
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller stopped unexpectedly");
        }
    }
}
