//! Whole clusters for tests: a shell is the program that Pods of [`IMAGE`] run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kah_localkube::node::Program;
use kah_localkube::{Cluster, Options};
use kube::api::{Api, ListParams, LogParams, PostParams};
use serde_json::{Value, json};

pub const IMAGE: &str = "test/shell:1";
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster on a folder, with controllers, node and listener.
pub async fn start(name: &str, folder: &Path) -> Cluster {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut options = Options::new(name);
    options.data_dir = Some(folder.to_owned());
    options.program = Some(Program {
        image: IMAGE.to_owned(),
        path: PathBuf::from("/bin/sh"),
    });
    Cluster::start(options).await.expect("start")
}

/// A client that comes over TLS, as kubectl does.
pub async fn remote(cluster: &Cluster) -> kube::Client {
    let kubeconfig =
        kube::config::Kubeconfig::from_yaml(cluster.admin_kubeconfig()).expect("kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .expect("config");
    kube::Client::try_from(config).expect("client")
}

/// Asks until there is an answer, or too much time has passed.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// A Pod whose one container runs `script`, in which `$$` stands for `$`; `extra` goes into the container.
pub fn pod_spec(script: &str, extra: Value) -> Value {
    let mut container = json!({"name": "main", "image": IMAGE, "args": ["-c", script]});
    if let (Some(container), Value::Object(extra)) = (container.as_object_mut(), extra) {
        container.extend(extra);
    }
    json!({"containers": [container], "terminationGracePeriodSeconds": 1})
}

pub async fn create<K>(client: &kube::Client, object: Value)
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + serde::Serialize
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), "default");
    let object: K = serde_json::from_value(object).expect("object");
    api.create(&PostParams::default(), &object)
        .await
        .expect("create");
}

pub async fn create_pod(client: &kube::Client, name: &str, spec: Value) {
    create::<Pod>(client, json!({"metadata": {"name": name}, "spec": spec})).await;
}

pub async fn pods(client: &kube::Client, labels: &str) -> Vec<Pod> {
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    api.list(&ListParams::default().labels(labels))
        .await
        .expect("pods")
        .items
}

/// Of the only container.
pub fn status(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

/// What the script printed after `pid=`, once the Pod is running and has been restarted `restarts` times.
pub async fn pid(client: &kube::Client, name: &str, restarts: i32) -> i32 {
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    eventually("a process tells its id", || async {
        let pod = api.get(name).await.ok()?;
        let status = status(&pod)?;
        status.state.as_ref()?.running.as_ref()?;
        (status.restart_count == restarts).then_some(())?;
        let log = api.logs(name, &LogParams::default()).await.ok()?;
        let line = log.lines().find_map(|line| line.strip_prefix("pid="))?;
        line.parse().ok()
    })
    .await
}

/// Whether a process runs (and does not only wait for its parent to look).
pub fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub async fn ends(pid: i32) {
    eventually("a process ends", || async { (!runs(pid)).then_some(()) }).await;
}
