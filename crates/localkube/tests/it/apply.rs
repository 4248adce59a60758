//! Server-side apply as kube-rs does it.

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kah_localkube::connect::{Body, full};
use kah_localkube::identity::User;
use kah_localkube::{Cluster, Options};
use kube::ResourceExt;
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::remote;

async fn cluster() -> Cluster {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut options = Options::new("apply");
    options.controllers = false;
    Cluster::start(options).await.expect("start")
}

fn config_map(data: Value) -> Value {
    let mut map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    // An empty map would be a claim on the map itself.
    if data != json!({}) {
        map["data"] = data;
    }
    map
}

/// A definition; with `status`, its status is a subresource.
fn definition(plural: &str, status: bool) -> Value {
    let kind = format!("{}{}", plural[..1].to_uppercase(), &plural[1..]);
    let mut version = json!({
        "name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "one": {"type": "string"}, "two": {"type": "string"},
            }},
            "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
        }}},
    });
    if status {
        version["subresources"] = json!({"status": {}});
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.test.io")},
        "spec": {
            "group": "test.io", "scope": "Cluster", "versions": [version],
            "names": {"plural": plural, "kind": kind},
        },
    })
}

#[tokio::test]
async fn kube_client_applies_what_is_there_and_what_is_not() {
    let cluster = cluster().await;
    let maps: Api<ConfigMap> = Api::namespaced(remote(&cluster).await, "default");
    let apply = |manager: &str, force: bool, data: Value| {
        let (maps, mut terms) = (maps.clone(), PatchParams::apply(manager));
        terms.force = force;
        async move {
            maps.patch("a", &terms, &Patch::Apply(config_map(data)))
                .await
        }
    };
    apply("one", false, json!({"x": "1", "y": "1"}))
        .await
        .expect("created");
    let Err(kube::Error::Api(refused)) = apply("two", false, json!({"x": "2"})).await else {
        panic!("a conflict is an error");
    };
    assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
    let details = refused.details.expect("details");
    assert_eq!(details.causes.len(), 1);
    assert_eq!(details.causes[0].field, ".data.x");
    apply("two", true, json!({"x": "2"})).await.expect("forced");
    let map = apply("one", false, json!({})).await.expect("given up");
    assert_eq!(map.data.expect("data"), [("x".into(), "2".into())].into());
    // Who writes in the ordinary way owns what it changes.
    let mut map = maps.get("a").await.expect("stored");
    map.data = Some([("x".into(), "3".into())].into());
    maps.replace(
        "a",
        &PostParams {
            field_manager: Some("writer".into()),
            ..PostParams::default()
        },
        &map,
    )
    .await
    .expect("replaced");
    let map = maps.get("a").await.expect("stored");
    let owners: Vec<_> = map
        .managed_fields()
        .iter()
        .map(|entry| (entry.manager.clone(), entry.operation.clone()))
        .collect();
    assert_eq!(
        owners,
        [(Some("writer".into()), Some("Update".into()))],
        "{map:?}"
    );
    // The same again changes nothing, not even the version.
    let before = apply("writer2", true, json!({"x": "3"}))
        .await
        .expect("shared");
    let after = apply("writer2", false, json!({"x": "3"}))
        .await
        .expect("shared");
    assert_eq!(before.resource_version(), after.resource_version());
    cluster.stop().await;
}

#[tokio::test]
async fn status_is_applied_by_itself_where_it_is_a_subresource() {
    let cluster = cluster().await;
    let client = remote(&cluster).await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for (plural, status) in [("boxes", true), ("bags", false)] {
        definitions
            .patch(
                &format!("{plural}.test.io"),
                &PatchParams::apply("setup"),
                &Patch::Apply(definition(plural, status)),
            )
            .await
            .expect("defined");
        let kind = format!("{}{}", plural[..1].to_uppercase(), &plural[1..]);
        let resource = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk("test.io", "v1", &kind),
            plural,
        );
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let object = |content: Value| {
            let mut object = json!({
                "apiVersion": "test.io/v1", "kind": kind, "metadata": {"name": "a"},
            });
            if let (Some(object), Value::Object(content)) = (object.as_object_mut(), content) {
                object.extend(content);
            }
            Patch::Apply(object)
        };
        let spec = object(json!({"spec": {"one": "1", "two": "2"}, "status": {"phase": "New"}}));
        let made = api
            .patch("a", &PatchParams::apply("main"), &spec)
            .await
            .expect("applied");
        let phase = made.data.pointer("/status/phase").and_then(Value::as_str);
        assert_eq!(phase, (!status).then_some("New"), "{plural}");
        if status {
            let phase = object(json!({"status": {"phase": "Old"}, "spec": {"one": "x"}}));
            let told = api
                .patch_status("a", &PatchParams::apply("teller"), &phase)
                .await
                .expect("told");
            assert_eq!(told.data["status"], json!({"phase": "Old"}));
            assert_eq!(told.data["spec"], json!({"one": "1", "two": "2"}));
        }
        // What main no longer says goes; what it never owned stays.
        let less = object(json!({"spec": {"one": "1"}}));
        let left = api
            .patch("a", &PatchParams::apply("main"), &less)
            .await
            .expect("applied");
        assert_eq!(left.data["spec"], json!({"one": "1"}));
        let phase = left.data.pointer("/status/phase").and_then(Value::as_str);
        assert_eq!(phase, status.then_some("Old"), "{plural}");
    }
    cluster.stop().await;
}

/// Sends a request as jane, and gives its code and message.
async fn as_jane(cluster: &Cluster, method: &str, path: &str, body: Value) -> (StatusCode, String) {
    let jane = User {
        name: "jane".to_owned(),
        ..User::default()
    };
    let request: Request<Body> = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/apply-patch+yaml")
        .extension(jane)
        .body(full(body.to_string()))
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
    let answer: Value = serde_json::from_slice(&bytes).expect("JSON");
    (
        status,
        answer["message"].as_str().unwrap_or_default().to_owned(),
    )
}

#[tokio::test]
async fn who_may_only_patch_or_get_does_not_create() {
    let cluster = cluster().await;
    let client = cluster.client();
    let roles: Api<DynamicObject> = Api::default_namespaced_with(
        client.clone(),
        &ApiResource::from_gvk(&GroupVersionKind::gvk(
            "rbac.authorization.k8s.io",
            "v1",
            "Role",
        )),
    );
    let bindings: Api<DynamicObject> = Api::default_namespaced_with(
        client.clone(),
        &ApiResource::from_gvk(&GroupVersionKind::gvk(
            "rbac.authorization.k8s.io",
            "v1",
            "RoleBinding",
        )),
    );
    for (api, object) in [
        (
            &roles,
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}, "rules": [
                {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]},
                {"apiGroups": [""], "resources": ["pods/exec", "pods/portforward"], "verbs": ["get"]},
            ]}),
        ),
        (
            &bindings,
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "r"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]}),
        ),
    ] {
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        let made = api
            .create(&PostParams::default(), &object)
            .await
            .expect("created");
        // What the process itself writes belongs to nobody.
        assert!(made.managed_fields().is_empty());
    }
    let path = "/api/v1/namespaces/default/configmaps/a?fieldManager=jane";
    let (code, message) = as_jane(&cluster, "PATCH", path, config_map(json!({}))).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert_eq!(
        message,
        "configmaps \"a\" is forbidden: User \"jane\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let map: ConfigMap = serde_json::from_value(config_map(json!({"x": "1"}))).expect("a map");
    maps.create(&PostParams::default(), &map)
        .await
        .expect("created");
    let (code, _) = as_jane(&cluster, "PATCH", path, config_map(json!({"y": "1"}))).await;
    assert_eq!(code, StatusCode::OK);
    for stream in ["exec", "portforward"] {
        let path = format!("/api/v1/namespaces/default/pods/p/{stream}");
        let (code, message) = as_jane(&cluster, "GET", &path, json!({})).await;
        assert_eq!(code, StatusCode::FORBIDDEN);
        assert!(
            message.contains(&format!("cannot create resource \"pods/{stream}\"")),
            "{message}"
        );
    }
    cluster.stop().await;
}
