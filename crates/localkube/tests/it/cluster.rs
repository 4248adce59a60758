//! A whole cluster: its folder, its listener, and how it ends.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, LogParams, PostParams};
use serde_json::{Value, json};

use crate::support::{create, create_pod, ends, pid, pod_spec, remote, runs, start};

const FOLDER: &str = "KAH_TEST_CLUSTER_FOLDER";
const SCRIPT: &str = "echo pid=$$$$; read line";

#[tokio::test]
async fn a_folder_brings_back_data_and_processes() {
    let folder = tempfile::tempdir().expect("folder");
    let mut before = 0;
    for round in 0..2 {
        let cluster = start("again", folder.path()).await;
        let client = remote(&cluster).await;
        if round == 0 {
            create::<ConfigMap>(
                &client,
                json!({"metadata": {"name": "kept"}, "data": {"a": "b"}}),
            )
            .await;
            create_pod(&client, "p", pod_spec(SCRIPT, json!({}))).await;
        }
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        assert!(
            maps.get("kept")
                .await
                .expect("kept")
                .data
                .is_some_and(|data| data["a"] == "b")
        );
        let now = pid(&client, "p", round).await;
        assert!(runs(now) && now != before);
        let address = cluster.address();
        let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), "default");
        let own = serde_json::to_value(endpoints.get("kubernetes").await.expect("endpoints"))
            .expect("json");
        assert_eq!(own["subsets"][0]["addresses"][0]["ip"], json!(address.ip()));
        assert_eq!(own["subsets"][0]["ports"][0]["port"], json!(address.port()));
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
        let slice =
            serde_json::to_value(slices.get("kubernetes").await.expect("slice")).expect("json");
        assert_eq!(slice["ports"][0]["port"], json!(address.port()));
        cluster.stop().await;
        assert!(!runs(now), "a process was left behind");
        before = now;
    }
}

#[tokio::test]
async fn three_clusters_start_at_once() {
    let folders: Vec<_> = (0..3)
        .map(|_| tempfile::tempdir().expect("folder"))
        .collect();
    let starting = folders.iter().map(|folder| start("many", folder.path()));
    let clusters = futures::future::join_all(starting).await;
    for cluster in &clusters {
        let client = remote(cluster).await;
        create_pod(&client, "p", pod_spec(SCRIPT, json!({}))).await;
        pid(&client, "p", 0).await;
    }
    futures::future::join_all(clusters.into_iter().map(kah_localkube::Cluster::stop)).await;
}

#[tokio::test]
async fn open_streams_end_with_the_cluster() {
    let folder = tempfile::tempdir().expect("folder");
    let cluster = start("ends", folder.path()).await;
    let client = remote(&cluster).await;
    create_pod(&client, "p", pod_spec(SCRIPT, json!({}))).await;
    let now = pid(&client, "p", 0).await;
    let mut watches = Vec::new();
    for _ in 0..20 {
        let request = http::Request::get("/api/v1/namespaces/default/configmaps?watch=1")
            .body(Vec::new())
            .expect("request");
        let lines = client.request_stream(request).await.expect("watch");
        watches.push(lines.lines().collect::<Vec<_>>());
    }
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let follow = LogParams {
        follow: true,
        ..LogParams::default()
    };
    let mut log = api.log_stream("p", &follow).await.expect("log").lines();
    let first = log.next().await.expect("a line").expect("text");
    assert_eq!(first, format!("pid={now}"));
    let reading = tokio::spawn(async move {
        let lines = futures::future::join_all(watches).await;
        let log = log.collect::<Vec<_>>().await;
        (lines, log)
    });
    let begun = Instant::now();
    cluster.stop().await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "stopping took {took:?}");
    assert!(!runs(now));
    let ended = tokio::time::timeout(Duration::from_secs(10), reading).await;
    let (lines, log) = ended.expect("streams end").expect("reading");
    // A watch ends in order, between two events.
    assert!(lines.iter().flatten().all(Result::is_ok));
    assert!(log.is_empty(), "{log:?}");
}

#[tokio::test]
async fn a_watch_ends_with_its_definition() {
    let folder = tempfile::tempdir().expect("folder");
    let cluster = start("definition", folder.path()).await;
    let client = cluster.client();
    let post = |path: &'static str, object: Value| {
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(object.to_string().into_bytes())
            .expect("request");
        client.request::<Value>(request)
    };
    post(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "things.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object"}}}],
            },
        }),
    )
    .await
    .expect("definition");
    let thing =
        json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "one"}});
    crate::support::eventually("the kind is served", || async {
        post(
            "/apis/example.com/v1/namespaces/default/things",
            thing.clone(),
        )
        .await
        .ok()
    })
    .await;
    let request = http::Request::get("/apis/example.com/v1/things?watch=1")
        .body(Vec::new())
        .expect("request");
    let lines = client.request_stream(request).await.expect("watch").lines();
    let definitions: Api<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> =
        Api::all(client.clone());
    definitions
        .delete("things.example.com", &DeleteParams::default())
        .await
        .expect("delete");
    let lines = tokio::time::timeout(Duration::from_secs(20), lines.try_collect::<Vec<_>>())
        .await
        .expect("the watch ends")
        .expect("in order");
    let types: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("event")["type"].take())
        .collect();
    assert_eq!(
        (types.first(), types.last()),
        (Some(&json!("ADDED")), Some(&json!("DELETED")))
    );
    cluster.stop().await;
}

/// The child: a cluster with one process, until it is killed. Without the variable it is no test.
#[test]
fn runs_until_killed() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let cluster = start("killed", folder.as_ref()).await;
        let client = cluster.client();
        create_pod(&client, "p", pod_spec(SCRIPT, json!({}))).await;
        println!("\npid {}", pid(&client, "p", 0).await);
        // The parent kills long before this; the bound keeps an orphan from running on.
        tokio::time::sleep(Duration::from_secs(120)).await;
    });
}

#[tokio::test]
async fn a_killed_cluster_leaves_no_process() {
    let folder = tempfile::tempdir().expect("folder");
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(&program)
        .args(["cluster::runs_until_killed", "--exact", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("spawn");
    let output = BufReader::new(child.stdout.take().expect("output"));
    let told = tokio::task::spawn_blocking(move || {
        let mut lines = output.lines().map_while(Result::ok);
        lines.find_map(|line| line.strip_prefix("pid ").and_then(|pid| pid.parse().ok()))
    });
    let told: Option<i32> = told.await.expect("reader");
    let process = told.expect("a process");
    assert!(runs(process));
    child.kill().expect("kill");
    child.wait().expect("wait");
    ends(process).await;
    // The next start finds everything in order.
    let cluster = start("killed", folder.path()).await;
    let client = cluster.client();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let map = serde_json::from_value(json!({"metadata": {"name": "m"}})).expect("map");
    maps.create(&PostParams::default(), &map)
        .await
        .expect("create");
    pid(&client, "p", 1).await;
    cluster.stop().await;
}
