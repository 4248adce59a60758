//! One cluster is made a member by one at a time, whatever the names: who does that holds a Lease on the host, named after the cluster's identity.
//!
//! Invariant: nothing is written to a cluster that joins, and no Cluster is made of it, without the claim. Who lost it writes nothing more, as if
//! killed: whoever has taken it over finishes what was begun, or takes it back.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use jiff::SignedDuration;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kah_api::seed::NAMESPACE;
use kah_iam::Clock;
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
    core::ObjectMeta,
};
use tokio::time::{Instant, timeout_at};

use super::{JoinError, api};
use crate::{Host, host::within, retry::TRIES, tunnel::authority::hex};

/// Who was killed holds others up for no longer. Clocks of replicas may differ by nearly as much.
const DURATION: SignedDuration = SignedDuration::from_secs(30);
/// Between two renewals.
const RENEWAL: Duration = Duration::from_secs(5);
/// A holder that could not renew for so long ends: before anybody else may begin.
const GIVE_UP: Duration = Duration::from_secs(20);
/// For one request.
const REQUEST: Duration = Duration::from_secs(4);

/// Does something by which the cluster of this identity becomes a member, while nobody else does. The claim ends with it, however that ends; only where
/// this is dropped it has to run out.
///
/// # Errors
/// [`JoinError::UnderWay`] while somebody else does; then nothing was begun. [`JoinError::BrokenOff`] where the claim was lost.
pub(crate) async fn alone<T, E: From<JoinError>>(
    host: &Host,
    uid: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    Claim::new(host.client.clone(), host.clock.clone(), uid)
        .during(work)
        .await
}

struct Claim {
    leases: Api<Lease>,
    clock: Arc<dyn Clock>,
    name: String,
    holder: String,
}

impl Claim {
    fn new(client: Client, clock: Arc<dyn Clock>, uid: &str) -> Self {
        // An identity is a cluster's own word, and no name by itself.
        let name = hex(digest(&SHA256, uid.as_bytes()).as_ref());
        Self {
            leases: Api::namespaced(client, NAMESPACE),
            clock,
            name: format!("hub-joining-{}", name.get(..32).unwrap_or(&name)),
            holder: uuid::Uuid::new_v4().to_string(),
        }
    }

    async fn during<T, E: From<JoinError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        // From before the request on: it may have been stored long before its answer came.
        let asked = Instant::now();
        self.take().await?;
        let ended = tokio::select! {
            ended = work => ended,
            () = self.keep(asked) => Err(JoinError::BrokenOff.into()),
        };
        if let Err(error) = within(REQUEST, self.release()).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "end the claim of a join; it runs out"
            );
        }
        ended
    }

    fn none(&self) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.name = Some(self.name.clone());
        lease
    }

    async fn take(&self) -> Result<(), JoinError> {
        let failed = || api("claim the cluster, so that nobody else joins it meanwhile");
        let mut lease = self.none();
        for _ in 0..TRIES {
            let now = MicroTime(self.clock.now());
            lease.spec = Some(LeaseSpec {
                holder_identity: Some(self.holder.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                ..LeaseSpec::default()
            });
            let how = PostParams::default();
            let written = match lease.metadata.resource_version {
                None => within(REQUEST, self.leases.create(&how, &lease)).await,
                Some(_) => within(REQUEST, self.leases.replace(&self.name, &how, &lease)).await,
            };
            match written {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(failed()(error)),
            }
            let found = within(REQUEST, self.leases.get_opt(&self.name)).await;
            lease = found.map_err(failed())?.unwrap_or_else(|| self.none());
            if let Some(seconds) = self.left(&lease) {
                return Err(JoinError::UnderWay { seconds });
            }
        }
        Err(JoinError::UnderWay { seconds: 1 })
    }

    /// Seconds until a claim runs out; `None` for one that has. One whose time is far from ours, because a clock went wrong, is none: it would hold
    /// everybody up for as long as that.
    fn left(&self, lease: &Lease) -> Option<u64> {
        let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0;
        let age = self.clock.now().duration_since(renewed);
        (age.abs() < DURATION).then(|| (DURATION - age).as_secs_f64().ceil() as u64)
    }

    fn is_holder(&self, lease: &Lease) -> bool {
        let spec = lease.spec.as_ref();
        spec.and_then(|spec| spec.holder_identity.as_ref()) == Some(&self.holder)
    }

    /// Renews until it is lost. `held`: since when nobody else can take it for run out.
    async fn keep(&self, mut held: Instant) {
        loop {
            tokio::time::sleep(RENEWAL).await;
            let asked = Instant::now();
            match timeout_at(held + GIVE_UP, within(REQUEST, self.renew())).await {
                Ok(Ok(true)) => held = asked,
                Ok(Ok(false)) => return,
                Ok(Err(error)) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "renew the claim of a join");
                }
                Err(_) => {}
            }
            if Instant::now() >= held + GIVE_UP {
                return;
            }
        }
    }

    /// Whether it is ours.
    async fn renew(&self) -> Result<bool, kube::Error> {
        let found = self.leases.get_opt(&self.name).await?;
        let Some(mut lease) = found.filter(|lease| self.is_holder(lease)) else {
            return Ok(false);
        };
        let spec = lease.spec.get_or_insert_default();
        spec.renew_time = Some(MicroTime(self.clock.now()));
        let how = PostParams::default();
        let renewed = self.leases.replace(&self.name, &how, &lease);
        renewed.await.map(|_| true)
    }

    async fn release(&self) -> Result<(), kube::Error> {
        let found = self.leases.get_opt(&self.name).await?;
        let Some(lease) = found.filter(|lease| self.is_holder(lease)) else {
            return Ok(());
        };
        let ObjectMeta {
            uid,
            resource_version,
            ..
        } = lease.metadata;
        let how = DeleteParams::default().preconditions(Preconditions {
            uid,
            resource_version,
        });
        match self.leases.delete(&self.name, &how).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            deleted => deleted.map(drop),
        }
    }
}

#[cfg(test)]
mod tests;
