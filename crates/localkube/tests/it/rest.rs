//! The API as kube::Client and plain requests see it.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kah_localkube::connect::{Body, full};
use kah_localkube::identity::User;
use kah_localkube::{Cluster, Options};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use serde_json::{Value, json};
use tower::ServiceExt;

async fn cluster() -> Cluster {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut options = Options::new("test");
    options.controllers = false;
    Cluster::start(options).await.expect("start")
}

fn admin() -> User {
    User {
        name: "admin".to_owned(),
        groups: vec!["system:masters".to_owned()],
        ..User::default()
    }
}

async fn send(cluster: &Cluster, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
    let kind = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let request: Request<Body> = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .extension(admin())
        .body(full(body.to_owned()))
        .expect("request");
    let response = cluster
        .service()
        .oneshot(request)
        .await
        .expect("infallible");
    let status = response.status();
    let bytes = response
        .into_body()
        .collect()
        .await
        .expect("body")
        .to_bytes();
    let value = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    (status, value)
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {"n": name}}, "data": {"a": "b"}}),
    )
    .expect("map")
}

#[tokio::test]
async fn kube_client_reads_and_writes() {
    let cluster = cluster().await;
    let api: Api<ConfigMap> = Api::namespaced(cluster.client(), "default");
    let made = api
        .create(&PostParams::default(), &map("one"))
        .await
        .expect("create");
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    let taken = api.create(&PostParams::default(), &map("one")).await;
    assert!(matches!(taken, Err(kube::Error::Api(status)) if status.reason == "AlreadyExists"));
    let patch = json!({"data": {"c": "d"}});
    let patched = api
        .patch("one", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("patch");
    assert_eq!(patched.data.as_ref().map(|data| data.len()), Some(2));
    // The first one's revision is of the past.
    let stale = api.replace("one", &PostParams::default(), &made).await;
    let Err(kube::Error::Api(status)) = stale else {
        panic!("a stale write went through");
    };
    assert_eq!(
        status.message,
        "Operation cannot be fulfilled on configmaps \"one\": the object has been modified; please apply your changes to the latest version and try again"
    );
    for name in ["two", "three"] {
        api.create(&PostParams::default(), &map(name))
            .await
            .expect("create");
    }
    let selected = api
        .list(&ListParams::default().labels("n in (one,two)"))
        .await
        .expect("list");
    assert_eq!(selected.items.len(), 2);
    let page = api
        .list(&ListParams::default().limit(2))
        .await
        .expect("page");
    assert_eq!(
        (page.items.len(), page.metadata.remaining_item_count),
        (2, Some(1))
    );
    // What comes between the pages is not seen.
    api.delete("two", &DeleteParams::default())
        .await
        .expect("delete");
    let token = page.metadata.continue_.expect("token");
    let rest = api
        .list(&ListParams::default().limit(2).continue_token(&token))
        .await
        .expect("rest");
    assert_eq!(rest.items.len(), 1);
    assert_eq!(rest.items[0].metadata.name.as_deref(), Some("two"));
    cluster.stop().await;
}

#[tokio::test]
async fn watches_tell_everything_in_order() {
    let cluster = cluster().await;
    let api: Api<ConfigMap> = Api::namespaced(cluster.client(), "default");
    let version = api
        .list(&ListParams::default())
        .await
        .expect("list")
        .metadata
        .resource_version
        .expect("version");
    let mut events = api
        .watch(&WatchParams::default().labels("n=x"), &version)
        .await
        .expect("watch")
        .boxed();
    api.create(&PostParams::default(), &map("x"))
        .await
        .expect("create");
    api.create(&PostParams::default(), &map("y"))
        .await
        .expect("create");
    let patch = json!({"metadata": {"labels": {"n": "other"}}});
    api.patch("x", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("patch");
    let mut told = Vec::new();
    while told.len() < 2 {
        let event = tokio::time::timeout(Duration::from_secs(5), events.try_next())
            .await
            .expect("in time")
            .expect("event");
        match event.expect("more") {
            WatchEvent::Added(object) => told.push(format!(
                "added {}",
                object.metadata.name.unwrap_or_default()
            )),
            WatchEvent::Deleted(object) => told.push(format!(
                "deleted {}",
                object.metadata.name.unwrap_or_default()
            )),
            other => panic!("{other:?}"),
        }
    }
    // It left the selector's view.
    assert_eq!(told, ["added x", "deleted x"]);
    cluster.stop().await;
}

#[tokio::test]
async fn reflector_follows() {
    let cluster = cluster().await;
    let api: Api<ConfigMap> = Api::all(cluster.client());
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let (reader, writer) = reflector::store();
        let stream = reflector::reflector(writer, watcher(api.clone(), config)).applied_objects();
        let task = tokio::spawn(stream.for_each(|_| async {}));
        reader.wait_until_ready().await.expect("ready");
        let name = format!("map-{}", reader.len());
        let here: Api<ConfigMap> = Api::namespaced(cluster.client(), "default");
        here.create(&PostParams::default(), &map(&name))
            .await
            .expect("create");
        tokio::time::timeout(Duration::from_secs(5), async {
            while !reader
                .state()
                .iter()
                .any(|map| map.metadata.name.as_deref() == Some(name.as_str()))
            {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("seen");
        task.abort();
    }
    cluster.stop().await;
}

#[tokio::test]
async fn finalizers_and_namespaces_hold_objects() {
    let cluster = cluster().await;
    let (code, _) = send(
        &cluster,
        "POST",
        "/api/v1/namespaces",
        r#"{"metadata":{"name":"n"}}"#,
    )
    .await;
    assert_eq!(code, 201);
    let (_, made) = send(
        &cluster,
        "POST",
        "/api/v1/namespaces/n/configmaps",
        r#"{"metadata":{"name":"m","finalizers":["example.com/x"]}}"#,
    )
    .await;
    assert_eq!(made["metadata"]["finalizers"], json!(["example.com/x"]));
    let (code, marked) = send(&cluster, "DELETE", "/api/v1/namespaces/n/configmaps/m", "").await;
    assert_eq!(code, 200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let (code, _) = send(
        &cluster,
        "PATCH",
        "/api/v1/namespaces/n/configmaps/m",
        r#"{"metadata":{"finalizers":null}}"#,
    )
    .await;
    assert_eq!(code, 200);
    let (code, _) = send(&cluster, "GET", "/api/v1/namespaces/n/configmaps/m", "").await;
    assert_eq!(code, 404);
    let (code, gone) = send(&cluster, "DELETE", "/api/v1/namespaces/n", "").await;
    assert_eq!(
        (code.as_u16(), &gone["status"]["phase"]),
        (200, &json!("Terminating"))
    );
    let (code, refused) = send(
        &cluster,
        "POST",
        "/api/v1/namespaces/n/configmaps",
        r#"{"metadata":{"name":"m"}}"#,
    )
    .await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "configmaps \"m\" is forbidden: unable to create new content in namespace n because it is being terminated"
    );
    let (code, _) = send(
        &cluster,
        "PUT",
        "/api/v1/namespaces/n/finalize",
        r#"{"metadata":{"name":"n"},"spec":{"finalizers":[]}}"#,
    )
    .await;
    assert_eq!(code, 200);
    let api: Api<Namespace> = Api::all(cluster.client());
    assert!(api.get_opt("n").await.expect("get").is_none());
    let (code, text) = send(&cluster, "DELETE", "/api/v1/namespaces/default", "").await;
    assert_eq!(code, 403);
    assert_eq!(
        text["message"],
        "namespaces \"default\" is forbidden: this namespace may not be deleted"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn refusals_have_kubernetes_words() {
    let cluster = cluster().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for (method, path, body, code, message) in [
        (
            "GET",
            "/api/v1/foos",
            "",
            404,
            "the server could not find the requested resource",
        ),
        (
            "GET",
            "/api/v1/namespaces/default/configmaps/zz",
            "",
            404,
            "configmaps \"zz\" not found",
        ),
        (
            "POST",
            "/api/v1/configmaps",
            "{}",
            405,
            "the server does not allow this method on the requested resource",
        ),
        (
            "POST",
            "/api/v1/namespaces/nons/configmaps",
            r#"{"metadata":{"name":"a"}}"#,
            404,
            "namespaces \"nons\" not found",
        ),
        (
            "POST",
            maps,
            r#"{"metadata":{"name":"a","resourceVersion":"5"}}"#,
            500,
            "resourceVersion should not be set on objects to be created",
        ),
        (
            "POST",
            maps,
            r#"{"metadata":{"name":"a","namespace":"b"}}"#,
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "POST",
            maps,
            r#"{"metadata":{}}"#,
            422,
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        (
            "PUT",
            "/api/v1/namespaces/default/configmaps/a",
            r#"{"metadata":{"name":"b"}}"#,
            400,
            "the name of the object (b) does not match the name on the URL (a)",
        ),
        (
            "GET",
            "/api/v1/configmaps?fieldSelector=data.x%3Db",
            "",
            400,
            "\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        (
            "GET",
            "/api/v1/configmaps?resourceVersionMatch=Exact",
            "",
            422,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "DELETE",
            "/api/v1/namespaces/default/configmaps/a?propagationPolicy=Foo",
            "",
            422,
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Foo\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
        ),
    ] {
        let (got, body) = send(&cluster, method, path, body).await;
        assert_eq!(
            (got.as_u16(), body["message"].as_str()),
            (code, Some(message)),
            "{method} {path}"
        );
    }
    let (code, text) = send(&cluster, "GET", "/nope", "").await;
    assert_eq!((code.as_u16(), text), (404, json!("404 page not found\n")));
    let (code, _) = send(
        &cluster,
        "POST",
        maps,
        &format!("{{\"a\":\"{}\"}}", "x".repeat(4 << 20)),
    )
    .await;
    assert_eq!(code, 413);
    cluster.stop().await;
}

#[tokio::test]
async fn dry_run_leaves_nothing_and_names_are_generated() {
    let cluster = cluster().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let (code, made) = send(
        &cluster,
        "POST",
        &format!("{maps}?dryRun=All"),
        r#"{"metadata":{"name":"d"}}"#,
    )
    .await;
    assert_eq!(
        (code.as_u16(), &made["metadata"]["name"]),
        (201, &json!("d"))
    );
    let (code, _) = send(&cluster, "GET", &format!("{maps}/d"), "").await;
    assert_eq!(code, 404);
    let (code, made) = send(
        &cluster,
        "POST",
        maps,
        r#"{"metadata":{"generateName":"g-"}}"#,
    )
    .await;
    assert_eq!(code, 201);
    let name = made["metadata"]["name"].as_str().expect("name");
    assert!(name.starts_with("g-") && name.len() == 7, "{name}");
    cluster.stop().await;
}
