//! A member that leaves forgets its host, as far as it can be reached.

use std::{future::Future, time::Duration};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Secret, ServiceAccount},
    rbac::v1::ClusterRoleBinding,
};
use kah_api::{cluster::Trust, seed};
use kube::{Api, Client, Error, api::DeleteParams};
use serde::Serialize;

use crate::{
    Host, Member, Route,
    enrol::manifest::{AGENT, TRUST},
    identity::ANSWER,
    trust,
};

/// For all of it: a member that is gone holds nobody up for longer.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// Removes from a member what this host put there: the keys by which it trusts the host and, where it was joined by an agent, the agent. What
/// somebody has removed already counts as removed, so that it may be run again; it never takes longer than 10 s.
///
/// The agent may not remove its own roles. Without its account and the binding to the cluster's role they give nothing to anybody.
pub async fn clean_member(host: &Host, member: &Member) -> Cleaning {
    let mut cleaning = Cleaning::default();
    let by_agent = matches!(member.route(), Ok(Route::Tunnel(_)));
    let client = member.kubernetes().ok();
    let until = tokio::time::Instant::now() + PATIENCE;
    let ours = Some(seed::NAMESPACE);

    let issuer = host.registry.signer().keys().map(|(issuer, _)| issuer);
    if let (Trust::Federated, Some(issuer)) = (member.trust(), issuer) {
        let done = match &client {
            Some(client) => limited(until, trust::withdraw(client, &issuer)).await == Some(true),
            None => false,
        };
        cleaning.note(done, "configmap", ours, TRUST);
    }
    if !by_agent {
        return cleaning;
    }
    // In this order: with the Deployment the tunnel ends, with the account every right.
    let secrets = client.as_ref().map(namespaced::<Secret>);
    let bindings = client.clone().map(Api::<ClusterRoleBinding>::all);
    let deployments = client.as_ref().map(namespaced::<Deployment>);
    let accounts = client.as_ref().map(namespaced::<ServiceAccount>);
    let done = delete(until, secrets).await;
    cleaning.note(done, "secret", ours, AGENT);
    let done = delete(until, bindings).await;
    cleaning.note(done, "clusterrolebinding", None, AGENT);
    let done = delete(until, deployments).await;
    cleaning.note(done, "deployment", ours, AGENT);
    let done = delete(until, accounts).await;
    cleaning.note(done, "serviceaccount", ours, AGENT);
    for (kind, namespace) in [("role", ours), ("rolebinding", ours), ("clusterrole", None)] {
        cleaning.note(false, kind, namespace, AGENT);
    }
    cleaning
}

fn namespaced<K>(client: &Client) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    Api::namespaced(client.clone(), seed::NAMESPACE)
}

async fn delete<K>(until: tokio::time::Instant, api: Option<Api<K>>) -> bool
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let Some(api) = api else { return false };
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
