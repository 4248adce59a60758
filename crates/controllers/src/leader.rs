//! One of many: the process that holds a Lease does the work, the others wait for it to end.
//!
//! As Kubernetes' own elections do, a holder is given up by what the others see for themselves (a Lease that does not change for its duration),
//! never by comparing clocks.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kah_cluster::within;
use kube::{Api, api::PostParams};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

/// How long a holder that says nothing keeps the others waiting.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for this long stops: before anybody else begins.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// For one request.
const REQUEST: Duration = Duration::from_secs(4);

/// A candidate.
#[derive(Debug, Clone)]
pub struct Leader {
    leases: Api<Lease>,
    name: String,
    identity: String,
    now: fn() -> Timestamp,
    pace: Pace,
}

/// The times of an election.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How long a holder that says nothing keeps the others waiting.
    pub duration: Duration,
    /// A holder that could not renew for this long stops.
    pub give_up: Duration,
    /// Between two looks.
    pub look: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            duration: DURATION,
            give_up: GIVE_UP,
            look: LOOK,
        }
    }
}

/// What was last seen of the Lease, and since when.
#[derive(Default)]
struct Seen(Option<(Option<String>, Instant)>);

impl Leader {
    /// A candidate of this name, unique among all, for the Lease `name` in `namespace`.
    #[must_use]
    pub fn new(
        client: kube::Client,
        namespace: &str,
        name: impl Into<String>,
        identity: impl Into<String>,
        pace: Pace,
    ) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.into(),
            identity: identity.into(),
            now: Timestamp::now,
            pace,
        }
    }

    /// Waits to be the one, works until `stop` or until it is the one no longer, and gives the Lease back. `false` after `stop`.
    ///
    /// Whatever the work does when it is told to end, it is dropped before another may begin.
    pub async fn lead<F: Future<Output = ()>>(
        &self,
        stop: &CancellationToken,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> bool {
        let mut seen = Seen::default();
        let mut held = loop {
            // From before the request on: it may have been stored long before its answer came.
            let asked = Instant::now();
            match self.try_hold(&mut seen).await {
                Ok(true) => break asked,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "take the Lease {}", self.name),
            }
            let pause = tokio::time::sleep(self.pace.look);
            if stop.run_until_cancelled(pause).await.is_none() {
                return false;
            }
        };
        tracing::info!("{} holds the Lease {}", self.identity, self.name);
        let end = stop.child_token();
        let work = work(end.clone());
        tokio::pin!(work);
        let ended = tokio::select! {
            () = &mut work => true,
            () = self.keep(&mut held, &mut seen, &end) => {
                end.cancel();
                let spare = self.pace.duration.saturating_sub(self.pace.give_up);
                let until = held + self.pace.give_up + spare.mul_f64(0.8);
                timeout_at(until, &mut work).await.is_ok()
            }
        };
        if !ended {
            tracing::error!("the work under the Lease {} did not end in time", self.name);
            return !stop.is_cancelled();
        }
        if let Err(error) = self.release().await {
            tracing::warn!(%error, "give the Lease {} back", self.name);
        }
        !stop.is_cancelled()
    }

    /// Renews until `end`, or until it is held no longer. `held`: since when nobody else can have begun to wait.
    async fn keep(&self, held: &mut Instant, seen: &mut Seen, end: &CancellationToken) {
        loop {
            let give_up = *held + self.pace.give_up;
            let look = sleep_until(give_up.min(Instant::now() + self.pace.look));
            if end.run_until_cancelled(look).await.is_none() {
                return;
            }
            let asked = Instant::now();
            let renewed = timeout_at(give_up, self.try_hold(seen));
            match end.run_until_cancelled(renewed).await {
                None => return,
                Some(Ok(Ok(true))) => *held = asked,
                Some(Ok(Ok(false))) => {
                    tracing::error!("another process holds the Lease {}", self.name);
                    return;
                }
                Some(Ok(Err(error))) => tracing::warn!(%error, "renew the Lease {}", self.name),
                Some(Err(_)) => {}
            }
            if Instant::now() >= *held + self.pace.give_up {
                tracing::error!("the Lease {} could not be renewed in time", self.name);
                return;
            }
        }
    }

    /// Takes or renews the Lease, if nobody else holds it.
    async fn try_hold(&self, seen: &mut Seen) -> Result<bool, kube::Error> {
        let Some(mut lease) = within(REQUEST, self.leases.get_opt(&self.name)).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(None)),
            };
            return won(within(REQUEST, self.leases.create(&PostParams::default(), &lease)).await);
        };
        let version = lease.metadata.resource_version.clone();
        let since = match &seen.0 {
            Some((known, since)) if *known == version => *since,
            _ => Instant::now(),
        };
        seen.0 = Some((version, since));
        let holder = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.clone());
        let free = match holder.as_deref() {
            None | Some("") => true,
            Some(holder) => holder == self.identity || since.elapsed() >= self.pace.duration,
        };
        if !free {
            return Ok(false);
        }
        lease.spec = Some(self.spec(lease.spec.take()));
        won(within(
            REQUEST,
            self.leases
                .replace(&self.name, &PostParams::default(), &lease),
        )
        .await)
    }

    fn spec(&self, before: Option<LeaseSpec>) -> LeaseSpec {
        let before = before.unwrap_or_default();
        let now = Some(MicroTime((self.now)()));
        let ours = before.holder_identity.as_deref() == Some(self.identity.as_str());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.pace.duration.as_secs().max(1)).ok(),
            acquire_time: if ours {
                before.acquire_time
            } else {
                now.clone()
            },
            renew_time: now,
            lease_transitions: Some(
                before.lease_transitions.unwrap_or(0)
                    + i32::from(!ours && before.holder_identity.is_some()),
            ),
            ..LeaseSpec::default()
        }
    }

    /// Lets the next one begin at once.
    async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = within(REQUEST, self.leases.get_opt(&self.name)).await? else {
            return Ok(());
        };
        let Some(spec) = lease.spec.as_mut() else {
            return Ok(());
        };
        if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime((self.now)()));
        won(within(
            REQUEST,
            self.leases
                .replace(&self.name, &PostParams::default(), &lease),
        )
        .await)
        .map(drop)
    }
}

/// Of two who write at once one is told that the other was first.
fn won(written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Method, Request, Response};
    use http_body_util::BodyExt;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// A kube-apiserver that stores one Lease at once, and says so later.
    struct Slow {
        lease: Value,
        stored: Instant,
        /// Writes until it answers no more.
        left: u32,
    }

    fn slow(answers_after: Duration, writes: u32) -> (Arc<Mutex<Slow>>, kube::Client) {
        let slow = Arc::new(Mutex::new(Slow {
            lease: json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l", "resourceVersion": "0"}}),
            stored: Instant::now(),
            left: writes,
        }));
        let shared = slow.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let shared = shared.clone();
            async move {
                let write = request.method() != Method::GET;
                let body = request.into_body().collect().await?.to_bytes();
                let answer = {
                    let mut slow = shared.lock().unwrap();
                    if slow.left == 0 {
                        None
                    } else {
                        if write {
                            slow.left -= 1;
                            slow.stored = Instant::now();
                            slow.lease = serde_json::from_slice(&body)?;
                            slow.lease["metadata"]["resourceVersion"] =
                                slow.left.to_string().into();
                        }
                        Some(slow.lease.to_string())
                    }
                };
                let Some(answer) = answer else {
                    return std::future::pending().await;
                };
                if write {
                    tokio::time::sleep(answers_after).await;
                }
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Response::new(Body::from(
                    answer.into_bytes(),
                )))
            }
        });
        (slow, kube::Client::new(service, "default"))
    }

    #[tokio::test(start_paused = true)]
    async fn the_work_is_over_before_another_may_begin() {
        let millis = Duration::from_millis;
        for answers_after in [millis(1), millis(2000), millis(3900)] {
            for stubborn in [false, true] {
                let (slow, client) = slow(answers_after, 3);
                let leader = Leader::new(client, "default", "l", "me", Pace::default());
                let told = Mutex::new(None);
                let work = |end: CancellationToken| {
                    let told = &told;
                    async move {
                        end.cancelled().await;
                        *told.lock().unwrap() = Some(Instant::now());
                        if stubborn {
                            std::future::pending::<()>().await;
                        }
                    }
                };
                let never = CancellationToken::new();
                let led = tokio::time::timeout(DURATION * 10, leader.lead(&never, work));
                assert_eq!(led.await, Ok(true), "{answers_after:?}");
                let stored = slow.lock().unwrap().stored;
                let told = told.lock().unwrap().unwrap();
                assert!(
                    told - stored <= GIVE_UP,
                    "{answers_after:?}: {:?}",
                    told - stored
                );
                if stubborn {
                    assert!(
                        stored.elapsed() < DURATION,
                        "{answers_after:?}: {:?}",
                        stored.elapsed()
                    );
                }
            }
        }
    }
}
