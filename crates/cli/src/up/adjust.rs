//! What an earlier start made and this one needs otherwise.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kah_api::seed;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::failure::Failure;

/// The image that is this program.
pub fn image() -> String {
    format!("kubeaihub.io/kah:{}", env!("CARGO_PKG_VERSION"))
}

/// The port may be another one than at the last start.
pub async fn host(client: &kube::Client, node_port: u16) -> Result<(), Failure> {
    let services: Api<Service> = Api::namespaced(client.clone(), seed::NAMESPACE);
    let failed = |error| {
        Failure::new(
            format!("give Service ks-apiserver of the host the port {node_port}"),
            "Look at the Service with kubectl, or start anew with another --data-dir.",
        )
        .because(error)
    };
    let service = services.get(seed::SERVER).await.map_err(failed)?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    if ports
        .iter()
        .any(|port| port.node_port == Some(node_port.into()))
    {
        return Ok(());
    }
    let patch = json!([
        {"op": "replace", "path": "/spec/ports/0/nodePort", "value": node_port},
    ]);
    let patch: json_patch::Patch = serde_json::from_value(patch)
        .map_err(|error| Failure::new("write a patch", "Report this.").because(error))?;
    services
        .patch(
            seed::SERVER,
            &PatchParams::default(),
            &Patch::Json::<()>(patch),
        )
        .await
        .map(drop)
        .map_err(failed)
}

/// Only Pods of exactly this program's image run here: after an upgrade the Deployment follows.
pub async fn images(client: kube::Client) -> Result<(), Failure> {
    let deployments: Api<Deployment> = Api::namespaced(client, seed::NAMESPACE);
    for name in [seed::SERVER, seed::CONTROLLERS] {
        adjust_deployment(&deployments, name).await?;
    }
    Ok(())
}

async fn adjust_deployment(deployments: &Api<Deployment>, name: &str) -> Result<(), Failure> {
    let image = image();
    let failed = |error| {
        Failure::new(
            format!("give Deployment {name} the image {image}"),
            "Look at the Deployment with kubectl, or start anew with another --data-dir.",
        )
        .because(error)
    };
    let Some(deployment) = deployments.get_opt(name).await.map_err(failed)? else {
        // A member has no reconcilers; and whoever deleted something meant it.
        return Ok(());
    };
    let pod = deployment.spec.and_then(|spec| spec.template.spec);
    let containers = pod.map(|pod| pod.containers).unwrap_or_default();
    if containers
        .iter()
        .all(|container| container.image.as_deref() == Some(image.as_str()))
    {
        return Ok(());
    }
    let patch =
        json!({"spec": {"template": {"spec": {"containers": [{"name": name, "image": image}]}}}});
    deployments
        .patch(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map(drop)
        .map_err(failed)
}
