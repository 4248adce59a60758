//! Asks one member again and again whether it lets the host in.

use std::time::Duration;

use kah_cluster::{
    Answer, Host, Member, Route,
    health::{Health, Verdict},
    tunnel::Link,
};
use tokio::{sync::watch, time::Instant};

use crate::Metrics;

/// How much one answer moves the smoothed latency.
const WEIGHT: f64 = 0.2;

/// What is held of a member now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Held {
    /// What the answers so far add up to.
    pub verdict: Option<Verdict>,
    /// Whether the last answer failed to come.
    pub in_doubt: bool,
    /// Why nothing is asked, where that is so.
    pub unproven: Option<String>,
    /// Whether the member's agent is connected; `None` where it has none.
    pub agent: Option<bool>,
}

/// Whether the agent of a member that dials out is connected. What came through a tunnel shows it, too: a Lease tells of a tunnel a moment later.
fn agent(host: &Host, member: &Member, answered: bool) -> Option<bool> {
    let dials = matches!(member.route(), Ok(Route::Tunnel(_)));
    dials.then(|| answered || host.registry.tunnels().link(member.uid()) != Link::Nowhere)
}

/// Probes until it is dropped. What is held is told when it changes; the latency whenever an answer came.
pub async fn probe(
    host: &Host,
    name: &str,
    metrics: &Metrics,
    held: &watch::Sender<Held>,
    latency: &watch::Sender<Option<Duration>>,
) {
    let mut health = Health::default();
    let mut smoothed: Option<f64> = None;
    loop {
        let now = match (host.registry.get(name), host.proof()) {
            // The registry learns of it a moment later.
            (None, _) => Held::default(),
            (Some(member), Err(error)) => Held {
                unproven: Some(error.to_string()),
                agent: agent(host, &member, false),
                ..Held::default()
            },
            (Some(member), Ok(proof)) => {
                let began = Instant::now();
                let answer = member.probe_within(&proof, health.limit()).await;
                let ended = Instant::now();
                health.observe(&answer, began, ended);
                metrics.probed(name, ended - began);
                if !health.is_in_doubt() {
                    let took = (ended - began).as_secs_f64();
                    let value = smoothed.map_or(took, |old| old + WEIGHT * (took - old));
                    smoothed = Some(value);
                    latency.send_replace(Some(Duration::from_secs_f64(value)));
                }
                Held {
                    verdict: health.verdict().cloned(),
                    in_doubt: health.is_in_doubt(),
                    unproven: None,
                    agent: agent(host, &member, answer == Answer::Accepted),
                }
            }
        };
        let pause = if now == Held::default() {
            Duration::from_millis(100)
        } else {
            health.pause(rand::random())
        };
        held.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        let mut changes = host.registry.changes();
        let before = host.registry.get(name);
        // Another way to the member is tried at once.
        let rerouted = async {
            while changes.changed().await.is_ok() {
                match (&before, host.registry.get(name)) {
                    (Some(before), Some(now))
                        if before.is_reached_as(&now)
                            && before.is_undecided() == now.is_undecided() => {}
                    (None, None) => {}
                    _ => return,
                }
            }
            std::future::pending().await
        };
        let _ = tokio::time::timeout(pause, rerouted).await;
    }
}
