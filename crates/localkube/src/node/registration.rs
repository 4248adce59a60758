//! The Node object: what this machine offers, and that it is alive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::status::seconds;
use crate::controllers::error_code;

/// Version of the Kubernetes API that is served, as a kubelet would report it.
const VERSION: &str = "v1.36.2";
const HEARTBEAT: Duration = Duration::from_secs(10);
const LEASES: &str = "kube-node-lease";

/// Keeps the Node object and its Lease, until `shutdown`.
pub async fn run(node: Arc<Inner>, shutdown: CancellationToken) {
    let mut pause = Duration::from_millis(50);
    loop {
        match register(&node).await {
            Ok(()) => {
                pause = HEARTBEAT;
                if let Err(error) = renew(&node).await {
                    tracing::debug!(%error, "the node's lease could not be renewed");
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the node could not be registered");
                pause = (pause * 2).min(HEARTBEAT);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn register(node: &Inner) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(node.client.clone());
    let name = &node.options.name;
    let found = match api.get_opt(name).await? {
        Some(found) => found,
        None => {
            let arch = match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            };
            let labels = [
                ("beta.kubernetes.io/arch", arch),
                ("beta.kubernetes.io/os", "linux"),
                ("kubernetes.io/arch", arch),
                ("kubernetes.io/hostname", name),
                ("kubernetes.io/os", "linux"),
                ("node-role.kubernetes.io/control-plane", ""),
            ];
            let new = Node {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    labels: Some(
                        labels
                            .into_iter()
                            .map(|(k, v)| (k.to_owned(), v.to_owned()))
                            .collect::<BTreeMap<_, _>>(),
                    ),
                    ..ObjectMeta::default()
                },
                ..Node::default()
            };
            api.create(&PostParams::default(), &new).await?
        }
    };
    let conditions = found
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let is_ready = conditions
        .iter()
        .flat_map(|list| list.iter())
        .any(|c| c.type_ == "Ready" && c.status == "True");
    if is_ready {
        return Ok(());
    }
    let now = seconds((node.options.clock)());
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let resources = json!({
        "cpu": cpus.to_string(), "memory": memory(), "pods": "110", "ephemeral-storage": "100Gi",
    });
    let status = json!({
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": "127.0.0.1"},
            {"type": "Hostname", "address": name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "machineID": "", "systemUUID": "", "bootID": "",
            "kernelVersion": first_line("/proc/sys/kernel/osrelease"),
            "osImage": "localkube", "containerRuntimeVersion": "localkube://local-process",
            "kubeletVersion": VERSION, "kubeProxyVersion": "", "operatingSystem": "linux",
            "architecture": found.metadata.labels.iter().flatten()
                .find(|(key, _)| *key == "kubernetes.io/arch").map(|(_, value)| value.clone()),
        },
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ],
    });
    let patch = json!({"status": status});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    // A fresh Node object is born with this taint where a node controller exists; nobody else takes it off.
    if found
        .spec
        .as_ref()
        .is_some_and(|spec| spec.taints.is_some())
    {
        let patch = json!({"spec": {"taints": null}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
    }
    Ok(())
}

async fn renew(node: &Inner) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(node.client.clone(), LEASES);
    let name = &node.options.name;
    let now = MicroTime((node.options.clock)());
    let patch = json!({"spec": {"renewTime": now}});
    match api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
    {
        Err(error) if error_code(&error) == Some(404) => {}
        done => return done.map(|_| ()),
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASES.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(40),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    match api.create(&PostParams::default(), &lease).await {
        // The namespace for leases is made by somebody else, perhaps later.
        Err(error) if error_code(&error) == Some(404) => Ok(()),
        done => done.map(|_| ()),
    }
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

fn memory() -> String {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    format!("{}Ki", kib.unwrap_or("1048576"))
}
