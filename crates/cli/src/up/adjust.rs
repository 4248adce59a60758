//! What an earlier start made and this one needs otherwise.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Secret, Service};
use kah_api::seed;
use kah_cluster::enrol::manifest::AGENT;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::joining;
use crate::failure::Failure;

/// The image that is this program.
pub fn image() -> String {
    format!("kubeaihub.io/kah:{}", env!("CARGO_PKG_VERSION"))
}

/// The port may be another one than at the last start. The agents of these members are told before the host forgets the old one.
pub async fn host(
    client: &kube::Client,
    node_port: u16,
    members: Vec<kube::Client>,
) -> Result<(), Failure> {
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
    let before = ports.first().and_then(|port| port.node_port);
    if before == Some(node_port.into()) {
        return Ok(());
    }
    let told = members
        .into_iter()
        .map(|member| agent(member, before, node_port));
    futures::future::try_join_all(told).await?;
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

/// An agent that dials the host's former port on this machine dials the present one.
async fn agent(member: kube::Client, before: Option<i32>, port: u16) -> Result<(), Failure> {
    let failed = |error: kube::Error| {
        Failure::new(
            format!("give Secret {AGENT} of a member the host's port {port}"),
            "Look at the Secret with kubectl, or invite the cluster anew with `kah cluster join NAME --agent --force`.",
        )
        .because(error)
    };
    let secrets: Api<Secret> = Api::namespaced(member.clone(), seed::NAMESPACE);
    let secret = secrets.get_opt(AGENT).await.map_err(failed)?;
    let hub = secret.and_then(|secret| secret.data?.remove("hub"));
    let hub = hub.and_then(|hub| String::from_utf8(hub.0).ok());
    let Some(hub) = hub.and_then(|hub| with_port(&hub, before, port)) else {
        return Ok(());
    };
    let patch = json!({"stringData": {"hub": hub}});
    secrets
        .patch(AGENT, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(failed)?;
    // It reads its Secret when it starts, which it may have done already.
    let deployments: Api<Deployment> = Api::namespaced(member, seed::NAMESPACE);
    match deployments.restart(AGENT).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        restarted => restarted.map(drop).map_err(failed),
    }
}

/// The address with another port, if it leads to the former one on this machine.
fn with_port(address: &str, before: Option<i32>, port: u16) -> Option<String> {
    let (scheme, authority) = address.split_once("://")?;
    let (host, former) = authority.rsplit_once(':')?;
    let former: i32 = former.parse().ok()?;
    let here = joining::is_here(address) && Some(former) == before;
    here.then(|| format!("{scheme}://{host}:{port}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_former_address_of_the_host_is_replaced() {
        for (address, expected) in [
            ("http://127.0.0.1:7", Some("http://127.0.0.1:8")),
            ("https://localhost:7", Some("https://localhost:8")),
            ("https://[::1]:7", Some("https://[::1]:8")),
            ("http://127.0.0.1:6", None),
            ("https://hub.example.org:7", None),
            ("https://hub.example.org", None),
            ("", None),
        ] {
            assert_eq!(
                with_port(address, Some(7), 8).as_deref(),
                expected,
                "{address}"
            );
        }
        assert_eq!(with_port("http://127.0.0.1:7", None, 8), None);
    }
}
