//! The Cluster object of the host itself (multicluster.md §3).

use std::sync::Arc;

use k8s_openapi::ByteString;
use kah_api::cluster::HOST_LABEL;
use kah_cluster::{Kubeconfig, clusters};
use kube::{
    api::{Patch, PatchParams, PostParams},
    core::DynamicObject,
};
use serde_json::json;

use crate::Settings;

const MANAGED: &str = "kubesphere.io/managed";
const DESCRIPTION: &str = "The description was created by KubeSphere automatically. It is recommended that you use the Host Cluster to manage clusters only and deploy workloads on Member Clusters.";

/// Creates the object, or keeps the kubeconfig of the one that is ours to keep. Of several none is touched.
///
/// # Errors
/// The host's kube-apiserver refused.
pub async fn keep(
    client: &kube::Client,
    settings: &Settings,
    hosts: &[Arc<DynamicObject>],
) -> Result<(), kube::Error> {
    let api = clusters(client.clone());
    let kubeconfig = ByteString(settings.host_kubeconfig.clone().into_bytes());
    match hosts {
        [] => {
            let object = json!({
                "apiVersion": "cluster.kubesphere.io/v1alpha1",
                "kind": "Cluster",
                "metadata": {
                    "name": settings.host_cluster,
                    "labels": {HOST_LABEL: "", MANAGED: "true"},
                    "annotations": {"kubesphere.io/description": DESCRIPTION},
                },
                "spec": {
                    "joinFederation": true,
                    "enable": true,
                    "provider": "kubesphere",
                    "connection": {"type": "direct", "kubeconfig": kubeconfig},
                },
            });
            let object: DynamicObject =
                serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
            match api.create(&PostParams::default(), &object).await {
                // Somebody was faster; the next look sees theirs.
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                done => done.map(drop),
            }
        }
        [host] => {
            let managed = host.metadata.labels.as_ref().and_then(|it| it.get(MANAGED));
            if managed.map(String::as_str) != Some("true")
                || settings.host_kubeconfig.is_empty()
                || leads_here(host, &settings.host_kubeconfig)
            {
                return Ok(());
            }
            let name = host.metadata.name.clone().unwrap_or_default();
            let patch = json!({
                "metadata": {"resourceVersion": host.metadata.resource_version},
                "spec": {"connection": {"kubeconfig": kubeconfig}},
            });
            match api
                .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                .await
            {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                done => done.map(drop),
            }
        }
        hosts => {
            tracing::error!(
                "there MUST not be more than one host clusters, while there are {}",
                hosts.len()
            );
            Ok(())
        }
    }
}

/// Whether the stored kubeconfig leads to the same server and trusts the same authority. Credentials may differ: of those that work any will do.
fn leads_here(host: &DynamicObject, ours: &str) -> bool {
    let stored = host.data.pointer("/spec/connection/kubeconfig");
    let stored = stored.and_then(|it| serde_json::from_value::<ByteString>(it.clone()).ok());
    let read = |text: &[u8]| Kubeconfig::read(text).ok();
    match (stored.and_then(|it| read(&it.0)), read(ours.as_bytes())) {
        (Some(stored), Some(ours)) => {
            stored.server == ours.server
                && format!("{:?}", stored.tls.roots) == format!("{:?}", ours.tls.roots)
        }
        // Ours cannot be read: nothing better is at hand.
        (_, None) => true,
        (None, Some(_)) => false,
    }
}
