//! By what the members of `kah up` know callers who come through the host.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kah_api::cluster::{Cluster as ClusterObject, Trust};
use kah_api::{config::edit, seed};
use kah_cluster::trust;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::failure::Failure;

const NEXT: &str = "Look at the clusters with kubectl and the kubeconfigs in the data folder, or start anew with another --data-dir.";

/// The trust of each member: what its Cluster object says, and `wanted` where there is none yet.
pub async fn of_members(
    host: &kube::Client,
    names: &[String],
    wanted: Trust,
) -> Result<BTreeMap<String, Trust>, Failure> {
    let clusters: Api<ClusterObject> = Api::all(host.clone());
    let known = clusters
        .list(&ListParams::default())
        .await
        .map_err(|error| Failure::new("read the host's Cluster objects", NEXT).because(error))?;
    let of = |name: &str| {
        let known = known
            .items
            .iter()
            .find(|cluster| cluster.metadata.name.as_deref() == Some(name));
        known.map_or(wanted, |cluster| cluster.spec.trust)
    };
    Ok(names.iter().map(|name| (name.clone(), of(name))).collect())
}

/// Tells a member that is new the host's keys; gives its identity.
pub async fn acquaint(
    name: &str,
    host: &kube::Client,
    member: &kube::Client,
) -> Result<String, Failure> {
    trust::acquaint(host, member, jiff::Timestamp::now())
        .await
        .map_err(|error| {
            Failure::new(format!("tell {name} the keys of the host"), NEXT).because(error)
        })
}

/// Makes a federated member share the host's secret; `false` where it does already.
pub async fn share_secret(
    name: &str,
    host: &kube::Client,
    member: &kube::Client,
    secret: &str,
) -> Result<bool, Failure> {
    let what = format!("make {name} share the host's secret");
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(what.clone(), NEXT).because(error)
    };
    let clusters: Api<ClusterObject> = Api::all(host.clone());
    let cluster = clusters
        .get(name)
        .await
        .map_err(|error| failed(error.into()))?;
    if cluster.spec.trust == Trust::SharedSecret {
        return Ok(false);
    }
    let maps: Api<ConfigMap> = Api::namespaced(member.clone(), seed::NAMESPACE);
    let mut map = maps
        .get(seed::CONFIG)
        .await
        .map_err(|error| failed(error.into()))?;
    let data = map.data.get_or_insert_default();
    let text = data.entry("kubesphere.yaml".into()).or_default();
    for (path, value) in [
        (["authentication", "jwtSecret"].as_slice(), secret),
        (
            &["authentication", "oauthOptions", "accessTokenMaxAge"],
            "0",
        ),
    ] {
        *text = edit::set(text, path, value).map_err(|error| failed(error.into()))?;
    }
    maps.replace(seed::CONFIG, &PostParams::default(), &map)
        .await
        .map_err(|error| failed(error.into()))?;
    let patch = json!({"spec": {"trust": Trust::SharedSecret.as_str()}});
    clusters
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(|error| failed(error.into()))?;
    let issuer = trust::issuer_of(host)
        .await
        .map_err(|error| failed(error.into()))?;
    trust::withdraw(member, &issuer)
        .await
        .map_err(|error| failed(error.into()))?;
    Ok(true)
}
