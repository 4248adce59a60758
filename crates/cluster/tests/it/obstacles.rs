//! What stands in the way of a restore, beside the fault that it repairs.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering;

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use kah_api::access::AccessCode;
use kah_cluster::{
    clusters,
    propagate::PropagateError,
    restore::{ANNOTATION, Outcome, RestoreError, State, Step},
    with_causes,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PostParams},
};
use serde_json::{Value, json};

use crate::restore::Stage;

const MISSING: &str = "Unauthorized: user.iam.kubesphere.io \"admin\" not found";
const HASH: &str = "$2a$10$mAfEbk/YCKGFKjubA/SCVuGDbQuz6WvWezwxkM53g.42cwQsYV93.";

fn api(client: &Client, group: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
    let (group, version) = group.split_once('/').unwrap();
    let kind = GroupVersionKind::gvk(group, version, kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, plural);
    Api::all_with(client.clone(), &resource)
}

fn users(client: &Client) -> Api<DynamicObject> {
    api(client, "iam.kubesphere.io/v1alpha2", "User", "users")
}

async fn patch(api: &Api<DynamicObject>, name: &str, patch: Value) {
    api.patch(name, &Default::default(), &Patch::Merge(patch))
        .await
        .unwrap();
}

async fn create(api: &Api<DynamicObject>, object: Value) {
    let object = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

fn of_another_host() -> Value {
    json!({"metadata": {"labels": {"hub.kubeaihub.io/host": "another"}}})
}

/// Where the last restore stands, if there was one.
async fn state(stage: &Stage) -> Option<State> {
    let found = clusters(stage.host.client.clone()).get("m").await.unwrap();
    let annotations = found.metadata.annotations?;
    serde_json::from_str(annotations.get(ANNOTATION)?).unwrap()
}

/// A member that refuses a user for good, whose password may travel.
async fn refusing() -> Stage {
    let stage = Stage::new().await;
    let hashed = json!({"spec": {"password": HASH}});
    patch(&users(&stage.host.client), "admin", hashed).await;
    *stage.words.lock().unwrap() = MISSING;
    stage
}

#[tokio::test]
async fn a_user_whom_kubefed_or_another_host_brings_is_left_to_them_before_anything_is_begun() {
    let stage = refusing().await;
    let member = users(&stage.planes[1].client());
    patch(&member, "admin", of_another_host()).await;
    let text = stage.text().await;
    let (steps, ended) = stage.run(|_| false).await;
    let error = ended.unwrap_err();
    assert_eq!(
        (steps, error.code()),
        (vec![], Some(AccessCode::UserMissing))
    );
    let words = with_causes(&error);
    assert!(
        words.contains("belongs to another host (another)"),
        "{words}"
    );
    let remedy = error.remedy().unwrap().text;
    assert!(remedy.contains("hub.kubeaihub.io/host"), "{remedy}");
    let ours = json!({"metadata": {"labels": {"hub.kubeaihub.io/host": null}}});
    patch(&member, "admin", ours).await;

    let host = &stage.host.client;
    let definitions = api(
        host,
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
    );
    create(
        &definitions,
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "federatedusers.types.kubefed.io", "annotations": {"api-approved.kubernetes.io": "unapproved, a test"}},
            "spec": {
                "group": "types.kubefed.io", "scope": "Cluster",
                "names": {"kind": "FederatedUser", "plural": "federatedusers", "singular": "federateduser", "listKind": "FederatedUserList"},
                "versions": [{"name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
            },
        }),
    )
    .await;
    let federated = api(
        host,
        "types.kubefed.io/v1beta1",
        "FederatedUser",
        "federatedusers",
    );
    let object = json!({
        "apiVersion": "types.kubefed.io/v1beta1", "kind": "FederatedUser", "metadata": {"name": "admin"},
    });
    // A definition is served a moment after it was made.
    served_and_created(&federated, object).await;
    let (steps, ended) = stage.run(|_| false).await;
    let error = ended.unwrap_err();
    assert_eq!(
        (steps, error.code()),
        (vec![], Some(AccessCode::UserMissing))
    );
    assert_eq!(
        with_causes(&error),
        "bring the user and its roles to the member: User is propagated by KubeFed on this host"
    );
    let remedy = error.remedy().unwrap();
    assert!(remedy.text.contains("FederatedUser"), "{remedy:?}");
    assert!(remedy.commands[0].contains("federatedusers"), "{remedy:?}");
    assert_eq!(stage.text().await, text);
    assert_eq!(state(&stage).await, None);
}

async fn served_and_created(api: &Api<DynamicObject>, object: Value) {
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    for _ in 0..500 {
        if api.create(&PostParams::default(), &object).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the kind is not served");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_people_can_change_ends_a_run_and_not_all_later_ones() {
    let stage = refusing().await;
    let member = users(&stage.planes[1].client());
    let runtime = tokio::runtime::Handle::current();
    // The user was free when the plan was made, and is another host's when it is carried out.
    let taking = |told: usize| {
        if told == 1 {
            tokio::task::block_in_place(|| {
                runtime.block_on(patch(&member, "admin", of_another_host()));
            });
        }
        false
    };
    let (_, ended) = stage.run(taking).await;
    let error = ended.unwrap_err();
    assert!(
        matches!(&error, RestoreError::User { source, .. } if matches!(**source, PropagateError::Foreign { .. })),
        "{error:?}"
    );
    assert_eq!(state(&stage).await.unwrap().step, Step::Undone);

    // Whatever else is wrong is repaired as if that had not been.
    *stage.words.lock().unwrap() = "Unauthorized: token not found in cache";
    let (_, ended) = stage.run(|_| false).await;
    assert_eq!(ended.unwrap().outcome, Outcome::Restored);
    assert!(stage.accepting.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_credential_that_cannot_be_replaced_keeps_nothing_else_from_being_repaired() {
    let stage = Stage::new().await;
    let member = &stage.planes[1];
    // It may do what a restore of the configuration takes, and no more.
    let rules = json!([
        {"apiGroups": ["", "apps"], "resources": ["configmaps", "deployments", "namespaces"], "verbs": ["get", "list", "update", "patch"]},
    ]);
    let group = "rbac.authorization.k8s.io/v1";
    create(
        &api(&member.client(), group, "ClusterRole", "clusterroles"),
        json!({"apiVersion": group, "kind": "ClusterRole", "metadata": {"name": "few"}, "rules": rules}),
    )
    .await;
    create(
        &api(&member.client(), group, "ClusterRoleBinding", "clusterrolebindings"),
        json!({
            "apiVersion": group, "kind": "ClusterRoleBinding", "metadata": {"name": "few"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "few"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "few"}],
        }),
    )
    .await;
    let now = Timestamp::from_second(stage.host.clock.now().as_second()).unwrap();
    let life = i64::try_from(kah_localkube::authority::CERTIFICATE_LIFE.as_secs()).unwrap();
    let issued = now + SignedDuration::from_hours(10 * 24) - SignedDuration::from_secs(life);
    let few = member
        .authority()
        .client_certificate("few", &[], issued)
        .unwrap();
    let server = format!("https://{}", member.address());
    let kubeconfig = member.authority().kubeconfig("m", &server, &few);
    let stored = json!({"spec": {"connection": {"kubeconfig": STANDARD.encode(&kubeconfig)}}});
    patch(&clusters(stage.host.client.clone()), "m", stored).await;
    crate::until("the registry has it", || {
        let member = stage.host.registry.get("m").unwrap();
        member.credential().is_some_and(|it| it.is_soon(now))
    })
    .await;

    let (_, ended) = stage.run(|_| false).await;
    let report = ended.unwrap();
    assert_eq!(
        (report.outcome, report.code),
        (Outcome::Restored, Some(AccessCode::TokenNotInCache))
    );
    let kept = &report.actions[0];
    assert_eq!(kept.what, "stored credential");
    assert!(kept.to.starts_with("not replaced: "), "{kept:?}");
    // Where nothing else is wrong it is what is told.
    let (_, ended) = stage.run(|_| false).await;
    assert!(matches!(ended, Err(RestoreError::Api { .. })), "{ended:?}");
}
