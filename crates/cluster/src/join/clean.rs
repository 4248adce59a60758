//! A member that leaves forgets its host, as far as it can be reached.

use std::{future::Future, time::Duration};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Secret, ServiceAccount},
    rbac::v1::ClusterRoleBinding,
};
use kah_api::seed;
use kube::{Api, Client, Error, api::DeleteParams};
use serde::Serialize;

use crate::{Member, Route, enrol::manifest::AGENT, identity::ANSWER};

/// For all of it: a member that is gone holds nobody up for longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the agent may remove of itself.
const REMOVED: [(&str, Option<&str>); 4] = [
    ("secret", Some(seed::NAMESPACE)),
    ("clusterrolebinding", None),
    ("deployment", Some(seed::NAMESPACE)),
    ("serviceaccount", Some(seed::NAMESPACE)),
];

/// What became of what a member holds of its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cleaning {
    /// What is gone from it now, whoever removed it.
    pub removed: Vec<String>,
    /// What is, or may be, still there.
    pub remains: Vec<String>,
    /// The commands, for an administrator of the member, that remove it.
    pub commands: Vec<String>,
}

impl Cleaning {
    fn note(&mut self, done: bool, kind: &str, namespace: Option<&str>, name: &str) {
        let shown = format!("{kind}/{name}");
        if done {
            self.removed.push(shown);
            return;
        }
        let within = namespace.map_or_else(String::new, |namespace| format!(" -n {namespace}"));
        self.commands
            .push(format!("kubectl delete{within} {shown} --ignore-not-found"));
        self.remains.push(shown);
    }
}

/// Whether this member is reached by an agent of ours.
pub(super) fn by_agent(member: &Member) -> bool {
    matches!(member.route(), Ok(Route::Tunnel(_)))
}

/// What is, or may be, still in a member that was joined by an agent: `cleaned` says whether the host came to remove the rest.
///
/// The agent may not remove its own roles. Without its account and the binding to the cluster's role they give nothing to anybody.
pub(super) fn remains(cleaned: bool) -> Cleaning {
    let ours = Some(seed::NAMESPACE);
    let mut cleaning = Cleaning::default();
    for (kind, namespace) in REMOVED {
        cleaning.note(cleaned, kind, namespace, AGENT);
    }
    for (kind, namespace) in [("role", ours), ("rolebinding", ours), ("clusterrole", None)] {
        cleaning.note(false, kind, namespace, AGENT);
    }
    cleaning
}

/// Removes the agent from a member, by the tunnel that it holds; so this comes last. What somebody has removed already counts as removed, and it never
/// takes longer than 10 s. Whether all of it is gone.
pub(super) async fn remove_agent(member: &Member) -> bool {
    let Ok(client) = member.kubernetes() else {
        return false;
    };
    let until = tokio::time::Instant::now() + PATIENCE;
    // In this order: with the Deployment the tunnel ends, with the account every right.
    delete(until, namespaced::<Secret>(&client)).await
        && delete(until, Api::<ClusterRoleBinding>::all(client.clone())).await
        && delete(until, namespaced::<Deployment>(&client)).await
        && delete(until, namespaced::<ServiceAccount>(&client)).await
}

fn namespaced<K>(client: &Client) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    Api::namespaced(client.clone(), seed::NAMESPACE)
}

async fn delete<K>(until: tokio::time::Instant, api: Api<K>) -> bool
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let parameters = DeleteParams::background();
    let asked = async {
        match api.delete(AGENT, &parameters).await {
            Ok(_) => Ok(()),
            Err(Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    };
    limited(until, asked).await == Some(true)
}

/// Whether it went well; `None` where it took too long.
async fn limited<T, E: std::error::Error>(
    until: tokio::time::Instant,
    work: impl Future<Output = Result<T, E>>,
) -> Option<bool> {
    let until = until.min(tokio::time::Instant::now() + ANSWER);
    let ended = tokio::time::timeout_at(until, work).await.ok()?;
    if let Err(error) = &ended {
        tracing::debug!(error = %crate::with_causes(error), "clean a member up");
    }
    Some(ended.is_ok())
}
