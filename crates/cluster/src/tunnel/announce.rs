//! The Lease by which a replica says which members' tunnels it holds.

use std::{collections::HashMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kah_api::seed::NAMESPACE;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{HubKeys, Replica, sessions::Sessions};
use crate::retry::{Pauses, Retry};

/// The label of such Leases.
pub(super) const LABEL: &str = "hub.kubeaihub.io/tunnels";
/// The annotation with the replica's address.
pub(super) const ADDRESS: &str = "hub.kubeaihub.io/address";
/// The annotation with the UIDs of the Cluster objects and when their agents' certificates end, `UID=SECONDS` since 1970, with commas between.
pub(super) const SESSIONS: &str = "hub.kubeaihub.io/sessions";
/// A Lease that was not written for so long says nothing any more.
pub(super) const DURATION: Duration = Duration::from_secs(15);
/// Members that one Lease names: all annotations together may have 256 KiB.
pub(super) const MOST: usize = 5000;
/// Between two writes that only say that we live.
const RENEWAL: Duration = Duration::from_secs(5);
/// Changes that come together are written together.
const TOGETHER: Duration = Duration::from_millis(200);
/// A Lease that was not written for so long is that of a replica which did not end in order. If that one lives after all, it writes another.
const ABANDONED: SignedDuration = SignedDuration::from_hours(24);
/// Between two looks for such.
const SWEEP: Duration = Duration::from_secs(60 * 60);
/// For one such look and what it deletes.
const SWEEPING: Duration = Duration::from_secs(60);
/// For one request.
const REQUEST: Duration = Duration::from_secs(4);

/// The name of a replica's Lease.
pub(super) fn name(replica: &str) -> String {
    format!("ks-apiserver-tunnels-{replica}")
}

/// Writes the Lease whenever what it says changes, and often enough; deletes it at the end.
pub(super) async fn keep(
    sessions: &Sessions,
    client: Client,
    keys: &HubKeys,
    replica: &Replica,
    stop: &CancellationToken,
) {
    let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let mut changes = sessions.changes();
    let mut pauses = Pauses::of(Retry {
        first: Duration::from_millis(500),
        // A Lease must not end because of one failure.
        longest: RENEWAL,
        at_least: 0,
    });
    let writing = async {
        loop {
            changes.mark_unchanged();
            let mut members = sessions.members();
            if members.len() > MOST {
                tracing::warn!(
                    members = members.len(),
                    "only {MOST} members fit into the Lease of the tunnels"
                );
                members.truncate(MOST);
            }
            let lease = lease(replica, &members, keys);
            match timeout(REQUEST, write(&leases, replica, &lease)).await {
                Ok(Ok(())) => {
                    pauses.succeeded();
                    tokio::select! {
                        () = tokio::time::sleep(RENEWAL) => {}
                        _ = changes.changed() => tokio::time::sleep(TOGETHER).await,
                    }
                }
                failed => {
                    let error = match failed {
                        Ok(Err(error)) => crate::with_causes(&error),
                        _ => "no answer in time".to_owned(),
                    };
                    tracing::warn!(%error, "write the Lease of the tunnels; trying again");
                    tokio::time::sleep(pauses.failed()).await;
                }
            }
        }
    };
    let sweeping = async {
        loop {
            let swept = timeout(SWEEPING, sweep(&leases, keys.clock.now())).await;
            if let Ok(Err(error)) = swept {
                let error = crate::with_causes(&error);
                tracing::warn!(%error, "delete Leases of replicas that are gone; trying again");
            }
            tokio::time::sleep(SWEEP).await;
        }
    };
    stop.run_until_cancelled(async { tokio::join!(writing, sweeping) })
        .await;
    let (name, how) = (name(&replica.name), DeleteParams::default());
    let delete = leases.delete(&name, &how);
    // Where that fails the others find out after its duration.
    let _ = timeout(REQUEST, delete).await;
}

/// Deletes what replicas left that are gone.
async fn sweep(leases: &Api<Lease>, now: Timestamp) -> Result<(), kube::Error> {
    let labelled = ListParams::default().labels(LABEL);
    for lease in leases.list(&labelled).await?.items {
        let renewed = lease.spec.and_then(|spec| spec.renew_time);
        let abandoned = renewed.is_none_or(|renewed| now.duration_since(renewed.0) > ABANDONED);
        let Some(name) = lease.metadata.name.filter(|_| abandoned) else {
            continue;
        };
        let only = Preconditions {
            uid: lease.metadata.uid,
            resource_version: lease.metadata.resource_version,
        };
        let how = DeleteParams::default().preconditions(only);
        match leases.delete(&name, &how).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            deleted => drop(deleted?),
        }
    }
    Ok(())
}

/// A member in [`SESSIONS`].
fn entry((uid, ends): &(String, Timestamp)) -> String {
    format!("{uid}={}", ends.as_second())
}

/// What [`SESSIONS`] says.
pub(super) fn members(told: &str) -> HashMap<String, Timestamp> {
    let members = told.split(',').take(MOST).filter_map(|entry| {
        let (uid, ends) = entry.split_once('=')?;
        let ends = Timestamp::from_second(ends.parse().ok()?).ok()?;
        Some((uid.to_owned(), ends))
    });
    members.collect()
}

fn lease(replica: &Replica, members: &[(String, Timestamp)], keys: &HubKeys) -> Value {
    let members: Vec<String> = members.iter().map(entry).collect();
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name(&replica.name),
            "labels": { LABEL: "true" },
            "annotations": { ADDRESS: replica.address, SESSIONS: members.join(",") },
        },
        "spec": {
            "holderIdentity": replica.name,
            "leaseDurationSeconds": DURATION.as_secs(),
            // Six digits, as Kubernetes writes it.
            "renewTime": format!("{:.6}", keys.clock.now()),
        },
    })
}

async fn write(leases: &Api<Lease>, replica: &Replica, lease: &Value) -> Result<(), kube::Error> {
    let name = name(&replica.name);
    match leases
        .patch(&name, &PatchParams::default(), &Patch::Merge(lease))
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let lease = serde_json::from_value(lease.clone()).map_err(kube::Error::SerdeError)?;
            leases.create(&PostParams::default(), &lease).await?;
            Ok(())
        }
        written => written.map(drop),
    }
}
