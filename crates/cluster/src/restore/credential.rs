//! A credential of the host's own at a member, in the place of one that ends: a service account's token, renewed as often as needed.
//!
//! A token rather than a client certificate: it works where certificates are signed by nobody whom we may ask, it ends when the account is deleted,
//! and its rights are the account's and not those of whoever joined the cluster.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kah_api::seed;
use kah_iam::federated::HOST_TRUST;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};

use super::{
    RestoreError,
    connection::{Replacement, failed},
};
use crate::{Host, Kubeconfig, Member, kubeconfig::ACCOUNT};

/// The life that is asked for: 90 days. A cluster may give less.
const LIFE: i64 = 90 * 24 * 3600;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    /// When the new credential ends.
    pub ends: Option<Timestamp>,
}

/// The account, as people name it.
pub(super) fn account() -> String {
    format!("{}/{ACCOUNT}", seed::NAMESPACE)
}

/// Has the member issue a new credential to the host, with the stored one, and stores it once it was tried. The old one is left to end.
///
/// # Errors
/// [`RestoreError`]; the stored credential stays then.
pub async fn renew_credential(host: &Host, member: &Arc<Member>) -> Result<Renewed, RestoreError> {
    let client = member
        .kubernetes()
        .map_err(|error| RestoreError::Settings(error.clone()))?;
    renew_by(host, member, client).await
}

/// Has the member issue a new credential to the host by way of this client of its kube-apiserver, and stores it once it was tried.
pub(super) async fn renew_by(
    host: &Host,
    member: &Arc<Member>,
    client: Client,
) -> Result<Renewed, RestoreError> {
    let stored = member.stored_yaml().map_err(RestoreError::Settings)?;
    for object in rights() {
        give(&client, &object).await?;
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(client, seed::NAMESPACE);
    let wanted = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(LIFE),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let issued = accounts
        .create_token_request(ACCOUNT, &PostParams::default(), &wanted)
        .await
        .map_err(failed("have the member issue a token"))?;
    let token = issued
        .status
        .and_then(|status| status.token)
        .filter(|token| !token.is_empty())
        .ok_or_else(|| RestoreError::NotRenewable("the member issued an empty token".into()))?;
    let kubeconfig = Kubeconfig::changed(&stored, None, Some(&token))
        .map_err(|error| RestoreError::NotRenewable(error.to_string()))?;
    let replacement = Replacement::prepare(host, member, &kubeconfig).await?;
    // What callers need, too: their way may lead through this credential.
    if member.server_version().await.is_some()
        && replacement.candidate.server_version().await.is_none()
    {
        replacement.candidate.close();
        return Err(RestoreError::NotRenewable(
            "the new one does not open the way to ks-apiserver".into(),
        ));
    }
    let member = replacement.store(host).await?;
    Ok(Renewed {
        ends: member.credential().map(|expiry| expiry.ends),
    })
}

/// Creates an object of the account, or brings its rules up to date. An account that may not change its own rights keeps those that it has.
async fn give(client: &Client, wanted: &Value) -> Result<(), RestoreError> {
    let failed = failed("make the account of the host on the member");
    let text = |pointer: &str| wanted.pointer(pointer).and_then(Value::as_str);
    let (kind, version) = (text("/kind"), text("/apiVersion"));
    let (group, version) = version
        .and_then(|version| version.split_once('/'))
        .unwrap_or(("", "v1"));
    let kind = GroupVersionKind::gvk(group, version, kind.unwrap_or_default());
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match text("/metadata/namespace") {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let found = match api.get_opt(ACCOUNT).await {
        Ok(found) => found,
        Err(error) => return Err(failed(error)),
    };
    let rules = wanted.get("rules");
    match found {
        Some(found) if rules.is_none_or(|rules| found.data.get("rules") == Some(rules)) => Ok(()),
        Some(_) => {
            let patch = Patch::Merge(json!({"rules": rules}));
            match api.patch(ACCOUNT, &PatchParams::default(), &patch).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    tracing::warn!(
                        "the account {} cannot be given the rights that this version needs, as nobody may extend their own: store the kubeconfig of an \
                         administrator of the member (kah restore-access CLUSTER --kubeconfig FILE), and have the credential renewed with it",
                        account()
                    );
                    Ok(())
                }
                Err(error) => Err(failed(error)),
            }
        }
        None => {
            let object: DynamicObject = serde_json::from_value(wanted.clone())
                .map_err(|error| RestoreError::NotRenewable(error.to_string()))?;
            match api.create(&PostParams::default(), &object).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                Err(error) => Err(failed(error)),
            }
        }
    }
}

/// All that a host does at a member, and no more.
fn rights() -> Vec<Value> {
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
    let (read, all) = (&["get", "list", "watch"][..], &["*"][..]);
    let group = "rbac.authorization.k8s.io";
    let object = |kind: &str, version: &str, namespaced: bool| {
        let mut object = json!({
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": ACCOUNT},
        });
        if namespaced {
            object["metadata"]["namespace"] = seed::NAMESPACE.into();
        }
        object
    };
    let version = format!("{group}/v1");
    let bound = |mut binding: Value, kind: &str| {
        binding["roleRef"] = json!({"apiGroup": group, "kind": kind, "name": ACCOUNT});
        binding["subjects"] =
            json!([{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": seed::NAMESPACE}]);
        binding
    };
    let mut everywhere = object("ClusterRole", &version, false);
    everywhere["rules"] = json!([
        rule(&[""], &["namespaces", "nodes"], read),
        // Users, roles, groups and workspaces are propagated from the host.
        rule(&["iam.kubesphere.io", "tenant.kubesphere.io"], all, all),
        rule(
            &["apiextensions.k8s.io"],
            &["customresourcedefinitions"],
            read
        ),
        // So that the rights of this very account can be compared when it is renewed.
        rule(&[group], &["clusterroles"], &["get"]),
        // And so that it is known to whom the cluster has given roles.
        rule(&[group], &["clusterrolebindings"], &["get", "list"]),
        json!({"nonResourceURLs": ["/version", "/healthz", "/livez", "/readyz", "/api", "/apis", "/api/*", "/apis/*"], "verbs": ["get"]}),
    ]);
    let mut inside = object("Role", &version, true);
    inside["rules"] = json!([
        rule(
            &[""],
            &["configmaps"],
            &["get", "list", "watch", "create", "update", "patch"]
        ),
        // Trust that is taken back; its configuration the host never deletes.
        json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [HOST_TRUST], "verbs": ["delete"]}),
        rule(&[""], &["services"], read),
        // The way of callers, with whatever method.
        rule(&[""], &["services/proxy"], all),
        rule(&[""], &["pods", "pods/log"], read),
        rule(
            &["apps"],
            &["deployments"],
            &["get", "list", "watch", "update", "patch"]
        ),
        rule(&[""], &["serviceaccounts"], &["get", "create"]),
        json!({"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": [ACCOUNT], "verbs": ["create"]}),
        rule(&[group], &["roles", "rolebindings"], &["get"]),
    ]);
    vec![
        object("ServiceAccount", "v1", true),
        everywhere,
        bound(object("ClusterRoleBinding", &version, false), "ClusterRole"),
        inside,
        bound(object("RoleBinding", &version, true), "Role"),
    ]
}
