//! Pods that are local processes, from the Deployment to the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use futures::{AsyncBufReadExt, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, LogParams, Patch, PatchParams};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{
    create, create_pod, ends, eventually, pid, pod_spec, pods, remote, runs, start, status,
};

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).expect("pid"), Signal::KILL).expect("kill");
}

#[tokio::test]
async fn a_deployment_runs_and_its_restart_replaces_the_process() {
    let folder = tempfile::tempdir().expect("folder");
    let cluster = start("rollout", folder.path()).await;
    let client = remote(&cluster).await;
    let spec = pod_spec(
        "echo pid=$$$$; read line",
        json!({"env": [{"name": "A", "value": "b"}]}),
    );
    create::<Deployment>(
        &client,
        json!({
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": spec},
            },
        }),
    )
    .await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let available = || async {
        let status = deployments.get("web").await.ok()?.status?;
        (status.available_replicas == Some(1)
            && status.updated_replicas == Some(1)
            && status.replicas == Some(1))
        .then_some(())
    };
    eventually("the deployment is available", available).await;
    let first = pods(&client, "app=web").await.remove(0);
    let name = first.metadata.name.clone().expect("name");
    let old = pid(&client, &name, 0).await;
    let again = json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}});
    deployments
        .patch("web", &PatchParams::default(), &Patch::Merge(&again))
        .await
        .expect("patch");
    let second = eventually("one other pod", || async {
        let mut all = pods(&client, "app=web").await;
        let only = (all.len() == 1).then(|| all.remove(0))?;
        (only.metadata.name.as_deref() != Some(&name)).then_some(only)
    })
    .await;
    let new = pid(&client, second.metadata.name.as_deref().expect("name"), 0).await;
    ends(old).await;
    assert!(runs(new));
    cluster.stop().await;
    assert!(!runs(new));
}

#[tokio::test]
async fn a_killed_process_comes_back_and_is_counted() {
    let folder = tempfile::tempdir().expect("folder");
    let cluster = start("restarts", folder.path()).await;
    let client = remote(&cluster).await;
    create_pod(
        &client,
        "p",
        pod_spec("echo pid=$$$$; read line", json!({})),
    )
    .await;
    let first = pid(&client, "p", 0).await;
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let follow = LogParams {
        follow: true,
        ..LogParams::default()
    };
    let log = api.log_stream("p", &follow).await.expect("log");
    let reading = tokio::spawn(log.lines().collect::<Vec<_>>());
    kill(first);
    let lines = tokio::time::timeout(Duration::from_secs(20), reading)
        .await
        .expect("the log ends with the process")
        .expect("reading");
    assert_eq!(lines.len(), 1);
    let second = pid(&client, "p", 1).await;
    assert_ne!(first, second);
    let pod = api.get("p").await.expect("pod");
    let last = status(&pod).and_then(|status| status.last_state.clone()?.terminated);
    assert_eq!(last.map(|last| last.exit_code), Some(137));
    kill(second);
    // Once is an accident; from the second time on there is a pause.
    let reason = eventually("a pause", || async {
        let pod = api.get("p").await.ok()?;
        status(&pod)?.state.clone()?.waiting?.reason
    })
    .await;
    assert_eq!(reason, "CrashLoopBackOff");
    let previous = LogParams {
        previous: true,
        ..LogParams::default()
    };
    let previous = api.logs("p", &previous).await.expect("the log before");
    assert_eq!(previous.trim(), format!("pid={first}"));
    cluster.stop().await;
}

#[tokio::test]
async fn a_changed_config_map_reaches_the_mounted_file() {
    let folder = tempfile::tempdir().expect("folder");
    let cluster = start("files", folder.path()).await;
    let client = remote(&cluster).await;
    create::<ConfigMap>(
        &client,
        json!({"metadata": {"name": "c"}, "data": {"key": "one"}}),
    )
    .await;
    let mut spec = pod_spec(
        "echo pid=$$$$; read line",
        json!({"volumeMounts": [{"name": "c", "mountPath": "/etc/c"}]}),
    );
    spec["volumes"] = json!([{"name": "c", "configMap": {"name": "c"}}]);
    create_pod(&client, "p", spec).await;
    pid(&client, "p", 0).await;
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let uid = api.get("p").await.expect("pod").metadata.uid.expect("uid");
    let path = folder
        .path()
        .join("node/pods")
        .join(uid)
        .join("root/etc/c/key");
    assert_eq!(std::fs::read_to_string(&path).expect("file"), "one");
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let change = json!({"data": {"key": "two"}});
    maps.patch("c", &PatchParams::default(), &Patch::Merge(&change))
        .await
        .expect("patch");
    eventually("the file changes", || async {
        // Never missing and never half written.
        let text = std::fs::read_to_string(&path).expect("file");
        assert!(text == "one" || text == "two", "{text}");
        (text == "two").then_some(())
    })
    .await;
    cluster.stop().await;
}

/// An HTTP server that answers every request with the code that it is told.
async fn answers(code: Arc<AtomicU16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let code = code.load(Ordering::SeqCst);
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 1024]).await;
                let text =
                    format!("HTTP/1.1 {code} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(text.as_bytes()).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn probes_decide_about_readiness_and_restarts() {
    let folder = tempfile::tempdir().expect("folder");
    let cluster = start("probes", folder.path()).await;
    let client = remote(&cluster).await;
    let codes: Vec<Arc<AtomicU16>> = [503, 503, 200]
        .into_iter()
        .map(|code| Arc::new(AtomicU16::new(code)))
        .collect();
    let mut probes: Vec<Value> = Vec::new();
    for code in &codes {
        let port = answers(code.clone()).await;
        probes.push(json!({"httpGet": {"host": "127.0.0.1", "port": port}, "periodSeconds": 1, "failureThreshold": 1}));
    }
    probes[0]["failureThreshold"] = json!(1000);
    // Time to let the next process live before it is asked for the first time.
    probes[2]["initialDelaySeconds"] = json!(2);
    let extra =
        json!({"startupProbe": probes[0], "readinessProbe": probes[1], "livenessProbe": probes[2]});
    create_pod(&client, "p", pod_spec("echo pid=$$$$; read line", extra)).await;
    let first = pid(&client, "p", 0).await;
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let is = |started: bool, ready: bool, restarts: i32| {
        let api = api.clone();
        move || {
            let api = api.clone();
            async move {
                let pod = api.get("p").await.ok()?;
                let status = status(&pod)?;
                (status.started == Some(started)
                    && status.ready == ready
                    && status.restart_count == restarts)
                    .then_some(())
            }
        }
    };
    // Nothing else is asked before the start is over.
    codes[2].store(500, Ordering::SeqCst);
    eventually("it has not started", is(false, false, 0)).await;
    codes[2].store(200, Ordering::SeqCst);
    codes[0].store(200, Ordering::SeqCst);
    eventually("it has started but is not ready", is(true, false, 0)).await;
    codes[1].store(200, Ordering::SeqCst);
    eventually("it is ready", is(true, true, 0)).await;
    codes[1].store(503, Ordering::SeqCst);
    eventually("it is not ready any more", is(true, false, 0)).await;
    assert!(runs(first));
    codes[2].store(500, Ordering::SeqCst);
    ends(first).await;
    codes[2].store(200, Ordering::SeqCst);
    let second = pid(&client, "p", 1).await;
    assert_ne!(first, second);
    cluster.stop().await;
}
