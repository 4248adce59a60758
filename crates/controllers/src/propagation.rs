//! Keeps in every member what the host owns: users, roles, bindings, groups and workspaces (multicluster.md §6).
//!
//! The host's objects are watched. Each member has a queue and a worker of its own, so that one that is slow or gone
//! holds up no other. A worker goes through everything when it begins, when its member has come back, and from time to time, because what
//! somebody changes in a member is seen in no other way; between these looks it carries single changes. What is to be done about one object is
//! said by [`kah_cluster::propagate`].

mod fleet;
mod member;
mod overdue;
mod queue;
mod sources;
mod told;

use std::{
    error::Error,
    sync::{Arc, Mutex},
    time::Duration,
};

use kah_cluster::{
    Host,
    propagate::{KINDS, Owner},
    retry::Retry,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Departures, Metrics};
use fleet::Fleet;
use sources::Sources;

/// How often things are done.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two looks at everything a member holds, before it is spread. Drift is seen within it.
    pub look: Duration,
    /// For each object that a look has read, the next is at least this far away: members with very many objects are not read all the time.
    pub rest: Duration,
    /// The first looks are spread over this time.
    pub stagger: Duration,
    /// What is in the way for so long is told by an Event.
    pub overdue: Duration,
    /// Pauses while a member cannot be reached.
    pub retry: Retry,
    /// From 0 to 1, by chance.
    pub chance: fn() -> f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(20),
            rest: Duration::from_millis(2),
            stagger: Duration::from_secs(1),
            overdue: Duration::from_secs(60),
            retry: Retry {
                first: Duration::from_millis(500),
                longest: Duration::from_secs(30),
                at_least: 50,
            },
            chance: rand::random,
        }
    }
}

/// Propagates until `stop`.
pub async fn run(host: Host, metrics: Metrics, departures: Departures, stop: CancellationToken) {
    run_at(Pace::default(), host, metrics, departures, stop).await;
}

/// Propagates at this pace until `stop`; every task of it has ended then.
pub async fn run_at(
    pace: Pace,
    host: Host,
    metrics: Metrics,
    departures: Departures,
    stop: CancellationToken,
) {
    let stop = stop.child_token();
    let tasks = TaskTracker::new();
    if let Some(owner) = stop.run_until_cancelled(identity(pace, &host)).await {
        let sources = Arc::new(Sources::default());
        let fleet = Arc::new(Fleet {
            pace,
            host: host.clone(),
            owner,
            metrics,
            departures,
            sources: sources.clone(),
            stop: stop.clone(),
            tasks: tasks.clone(),
            workers: Mutex::default(),
        });
        for (index, kind) in KINDS.iter().enumerate() {
            let followed = sources::follow(
                index,
                kind,
                host.client.clone(),
                sources.clone(),
                fleet.clone(),
            );
            tasks.spawn(stop.clone().run_until_cancelled_owned(followed));
        }
        let stands_aside =
            sources::watch_kubefed(pace, host.client.clone(), sources, fleet.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(stands_aside));
        stop.run_until_cancelled(fleet.follow()).await;
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

/// The host's identity, asked for until it is known.
async fn identity(pace: Pace, host: &Host) -> Owner {
    let mut failures = 0;
    loop {
        match Owner::of(&host.client).await {
            Ok(owner) => return owner,
            Err(error) => tracing::warn!(
                error = chain(&error),
                "propagation cannot begin; trying again"
            ),
        }
        failures += 1;
        tokio::time::sleep(pace.retry.pause(failures, (pace.chance)())).await;
    }
}

/// An error with all its causes. None of them quotes what is in an object.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
