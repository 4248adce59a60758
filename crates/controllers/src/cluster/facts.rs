//! What a cluster's own APIs say about it, and what the host writes into them.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, Node},
    rbac::v1::ClusterRoleBinding,
};
use kah_api::{
    config::{Configuration, edit},
    seed,
};
use kah_cluster::Member;
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};

use super::status::Facts;

/// For everything that is asked of one cluster.
const WITHIN: Duration = Duration::from_secs(10);
/// Objects a page.
const PAGE: u32 = 500;
/// Names the user whom a binding is for.
const USER_REF: &str = "iam.kubesphere.io/user-ref";

/// Why a cluster could not be asked, or written to.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// Its kube-apiserver.
    #[error("{doing}")]
    Api {
        /// What was being tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// Its configuration.
    #[error("set multicluster.clusterName in ConfigMap kubesphere-config")]
    Configuration(#[source] edit::EditError),
    /// Its ConfigMap has no `kubesphere.yaml`.
    #[error("ConfigMap kubesphere-config has no key kubesphere.yaml")]
    NoConfiguration,
    /// It took too long.
    #[error("no answer within {WITHIN:?}")]
    Late,
}

fn failed(doing: &'static str) -> impl FnOnce(kube::Error) -> FactsError {
    move |source| FactsError::Api {
        doing,
        source: Box::new(source),
    }
}

/// What was found out in one go.
#[derive(Debug, Clone)]
pub struct Found {
    /// For the status.
    pub facts: Facts,
    /// The other Cluster that has this identity.
    pub double: Option<String>,
    /// The users to whom it has given a role.
    pub granted: BTreeSet<String>,
}

/// Asks a cluster by its own client, and its ks-apiserver by the route of callers.
///
/// # Errors
/// [`FactsError`]; a ks-apiserver that does not answer is none.
pub async fn gather(client: &Client, member: Option<&Member>) -> Result<Found, FactsError> {
    let asked = async {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let told = |path| async move {
            match member {
                Some(member) => member.told(path).await,
                None => None,
            }
        };
        let (version, nodes, identity, granted, kubesphere, configz) = tokio::join!(
            client.apiserver_version(),
            nodes(client),
            namespaces.get_metadata("kube-system"),
            granted(client),
            told("/kapis/version"),
            told("/kapis/config.kubesphere.io/v1alpha2/configs/configz"),
        );
        let facts = Facts {
            kubernetes: version
                .map_err(failed("ask the version of Kubernetes"))?
                .git_version,
            nodes: nodes.map_err(failed("count the nodes"))?,
            uid: identity
                .map_err(failed("read the namespace kube-system"))?
                .metadata
                .uid
                .unwrap_or_default(),
            kubesphere: kubesphere
                .and_then(|told| Some(told.get("gitVersion")?.as_str()?.to_owned())),
            configz: configz.and_then(|told| serde_json::from_value(told).ok()),
        };
        Ok(Found {
            facts,
            double: None,
            granted: granted.map_err(failed("list the roles of users"))?,
        })
    };
    tokio::time::timeout(WITHIN, asked)
        .await
        .map_err(|_| FactsError::Late)?
}

async fn nodes(client: &Client) -> Result<i64, kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut count = 0;
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = nodes.list_metadata(&parameters).await?;
        count += i64::try_from(page.items.len()).unwrap_or(0);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(count),
        }
    }
}

async fn granted(client: &Client) -> Result<BTreeSet<String>, kube::Error> {
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let mut users = BTreeSet::new();
    let mut parameters = ListParams::default().labels(USER_REF).limit(PAGE);
    loop {
        let page = bindings.list(&parameters).await?;
        let subjects = page
            .items
            .into_iter()
            .filter_map(|it| it.subjects)
            .flatten();
        users.extend(subjects.filter(|it| it.kind == "User").map(|it| it.name));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(users),
        }
    }
}

/// Tells a cluster its own name: one key of its `kubesphere.yaml`, in place (differences.md R4). Somebody else's write meanwhile is an error; the next
/// time will do.
///
/// # Errors
/// [`FactsError`]
pub async fn tell_name(client: &Client, name: &str) -> Result<(), FactsError> {
    let told = async {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), seed::NAMESPACE);
        let mut map = maps
            .get(seed::CONFIG)
            .await
            .map_err(failed("read ConfigMap kubesphere-config"))?;
        let text = map
            .data
            .as_mut()
            .and_then(|data| data.get_mut("kubesphere.yaml"))
            .ok_or(FactsError::NoConfiguration)?;
        let read = Configuration::read(text, &std::collections::BTreeMap::new());
        if read.is_ok_and(|it| it.multicluster.cluster_name == name) {
            return Ok(());
        }
        *text = edit::set(text, &["multicluster", "clusterName"], name)
            .map_err(FactsError::Configuration)?;
        maps.replace(seed::CONFIG, &PostParams::default(), &map)
            .await
            .map(drop)
            .map_err(failed("write ConfigMap kubesphere-config"))
    };
    tokio::time::timeout(WITHIN, told)
        .await
        .map_err(|_| FactsError::Late)?
}
