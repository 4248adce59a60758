//! What a cluster's own APIs say about it, and what the host writes into them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

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

use serde_json::Value;

use super::status::Facts;

/// For everything that is asked of one cluster.
const WITHIN: Duration = Duration::from_secs(10);
/// Objects a page.
const PAGE: u32 = 500;
/// Characters of a version, an identity, or the name of a component.
const LONGEST: usize = 128;
/// Components that are told of.
const COMPONENTS: usize = 128;
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
    /// The users to whom it has given a role, where it may be asked.
    pub granted: Option<BTreeSet<String>>,
}

/// Asks a cluster by its own client, and its ks-apiserver by the route of callers.
///
/// # Errors
/// [`FactsError`]; a ks-apiserver that does not answer is none, nor is a question that the cluster does not allow us.
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
        let identity = allowed(identity, "read the namespace kube-system")?;
        let facts = Facts {
            kubernetes: allowed(version, "ask the version of Kubernetes")?
                .map(|version| sane(&version.git_version)),
            nodes: allowed(nodes, "count the nodes")?,
            uid: identity.map(|it| sane(&it.metadata.uid.unwrap_or_default())),
            kubesphere: kubesphere.and_then(|told| Some(sane(told.get("gitVersion")?.as_str()?))),
            configz: configz.and_then(|told| components(&told)),
        };
        Ok(Found {
            facts,
            granted: allowed(granted, "list the roles of users")?,
        })
    };
    tokio::time::timeout(WITHIN, asked)
        .await
        .map_err(|_| FactsError::Late)?
}

/// `None` where we may not ask, which says nothing about the rest.
fn allowed<T>(asked: Result<T, kube::Error>, doing: &'static str) -> Result<Option<T>, FactsError> {
    match asked {
        Ok(told) => Ok(Some(told)),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            tracing::info!(refusal = status.message, "may not {doing}");
            Ok(None)
        }
        Err(error) => Err(failed(doing)(error)),
    }
}

/// A word of the cluster's, no longer than such a word is: one of any length would keep its object from being written.
fn sane(word: &str) -> String {
    word.chars().take(LONGEST).collect()
}

fn components(told: &Value) -> Option<BTreeMap<String, bool>> {
    let told = told.as_object()?;
    let known = told
        .iter()
        .filter(|(name, _)| name.len() <= LONGEST)
        .take(COMPONENTS);
    known
        .map(|(name, on)| Some((name.clone(), on.as_bool()?)))
        .collect()
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
        let read = Configuration::read(text, &BTreeMap::new());
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_of_a_cluster_have_a_sane_length() {
        assert_eq!(sane("v1.36.2"), "v1.36.2");
        assert_eq!(sane(&"\u{e9}".repeat(2_000_000)).chars().count(), LONGEST);
        let many: serde_json::Map<String, Value> = (0..1000)
            .map(|number| (format!("c{number}"), true.into()))
            .chain([("x".repeat(100_000), true.into())])
            .collect();
        assert_eq!(components(&many.into()).unwrap().len(), COMPONENTS);
        assert_eq!(
            components(&json!({"multicluster": false})),
            Some([("multicluster".to_owned(), false)].into())
        );
        assert_eq!(components(&json!({"a": "no"})), None);
    }

    /// One question that a cluster does not allow takes nothing from the others.
    #[tokio::test]
    async fn what_may_be_read_is_told() {
        use http::{Request, Response};
        use kube::client::Body;
        let client = |refused: &'static str, code: u16| {
            let service = tower::service_fn(move |request: Request<Body>| async move {
                let path = request.uri().path().to_owned();
                let (code, body) = if path.contains(refused) {
                    let refusal = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "No", "code": code});
                    (code, refusal)
                } else if path == "/version" {
                    let text = "x".repeat(2_000_000);
                    (
                        200,
                        json!({"major": "1", "minor": "36", "gitVersion": text, "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
                    )
                } else if path.contains("namespaces") {
                    (
                        200,
                        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "kube-system", "uid": "u"}}),
                    )
                } else {
                    (
                        200,
                        json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": []}),
                    )
                };
                let mut response = Response::new(Body::from(body.to_string().into_bytes()));
                *response.status_mut() = code.try_into()?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(response)
            });
            Client::new(service, "default")
        };
        let found = gather(&client("clusterrolebindings", 403), None)
            .await
            .unwrap();
        assert_eq!(found.granted, None);
        assert_eq!(
            (found.facts.nodes, found.facts.uid.as_deref()),
            (Some(0), Some("u"))
        );
        assert_eq!(found.facts.kubernetes.map(|it| it.len()), Some(LONGEST));
        let found = gather(&client("nodes", 403), None).await.unwrap();
        assert_eq!(
            (found.facts.nodes, found.granted),
            (None, Some(BTreeSet::new()))
        );
        assert!(gather(&client("nodes", 500), None).await.is_err());
    }
}
