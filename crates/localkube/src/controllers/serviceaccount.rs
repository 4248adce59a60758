//! What every namespace has: the service account `default` and the ConfigMap `kube-root-ca.crt`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};

use super::error::code;
use super::{Context, Error, Key};

/// Name of the ConfigMap with the API's CA.
pub const ROOT_CA: &str = "kube-root-ca.crt";
/// Name of the service account of Pods that name none.
pub const ACCOUNT: &str = "default";

/// Makes what is missing in the namespace that the key names (a cluster-wide key).
pub async fn reconcile(context: Context, key: Key) -> Result<Option<Duration>, Error> {
    let namespaces: Api<Namespace> = Api::all(context.client.clone());
    let namespace = namespaces
        .get_opt(&key.name)
        .await
        .map_err(Error::doing("get a namespace"))?;
    if namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
        return Ok(None);
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(context.client.clone(), &key.name);
    let account = accounts
        .get_opt(ACCOUNT)
        .await
        .map_err(Error::doing("get the default service account"))?;
    if account.is_none() {
        let account = ServiceAccount {
            metadata: named(ACCOUNT, &key.name),
            ..ServiceAccount::default()
        };
        let made = accounts.create(&PostParams::default(), &account).await;
        unless_there(made, "make the default service account")?;
    }
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &key.name);
    let data = BTreeMap::from([("ca.crt".to_owned(), context.options.root_ca.clone())]);
    let map = maps
        .get_opt(ROOT_CA)
        .await
        .map_err(Error::doing("get the config map with the root CA"))?;
    match map {
        None => {
            let mut metadata = named(ROOT_CA, &key.name);
            metadata.annotations = Some(BTreeMap::from([(
                "kubernetes.io/description".to_owned(),
                "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                 endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                 guaranteed across distributions of Kubernetes clusters."
                    .to_owned(),
            )]));
            let map = ConfigMap {
                metadata,
                data: Some(data),
                ..ConfigMap::default()
            };
            let made = maps.create(&PostParams::default(), &map).await;
            unless_there(made, "make the config map with the root CA")?;
        }
        Some(mut map) if map.data.as_ref() != Some(&data) => {
            map.data = Some(data);
            maps.replace(ROOT_CA, &PostParams::default(), &map)
                .await
                .map_err(Error::doing("write the config map with the root CA"))?;
        }
        Some(_) => {}
    }
    Ok(None)
}

fn named(name: &str, namespace: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    }
}

fn unless_there<T>(result: Result<T, kube::Error>, doing: &'static str) -> Result<(), Error> {
    match result {
        Err(error) if code(&error) != Some(409) => Err(Error::doing(doing)(error)),
        _ => Ok(()),
    }
}
