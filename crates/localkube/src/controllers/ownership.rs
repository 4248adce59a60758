//! Who owns what: controller references, adoption and release, selectors.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Error;

/// The reference that makes `owner` the controller of another object.
pub fn controller_reference<K>(owner: &K) -> OwnerReference
where
    K: kube::Resource<DynamicType = ()>,
{
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The owner that controls an object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

/// Whether labels satisfy a selector. A selector without terms matches everything; an operator that is
/// not known matches nothing.
pub fn matches(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let get = |key: &str| labels.and_then(|labels| labels.get(key));
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|term| {
            let value = get(&term.key);
            let listed =
                value.is_some_and(|value| term.values.iter().flatten().any(|v| v == value));
            match term.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether a selector has no term at all.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.iter().flatten().next().is_none()
        && selector.match_expressions.iter().flatten().next().is_none()
}

/// The objects of a namespace that `owner` controls. Orphans that match are adopted, owned objects that
/// no longer match are released, as every workload controller of Kubernetes does.
pub async fn claim<O, K>(
    client: &kube::Client,
    owner: &O,
    selector: &LabelSelector,
) -> Result<Vec<K>, Error>
where
    O: kube::Resource<DynamicType = ()>,
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let uid = owner.meta().uid.as_deref().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let all = api
        .list(&ListParams::default())
        .await
        .map_err(Error::doing("list the objects to own"))?;
    let mut owned = Vec::new();
    for object in all.items {
        let meta = object.meta();
        let fits = matches(selector, meta.labels.as_ref());
        match controller_of(meta) {
            Some(reference) if reference.uid == uid => {
                if fits {
                    owned.push(object);
                } else if owner.meta().deletion_timestamp.is_none() {
                    release(&api, meta, uid).await?;
                }
            }
            Some(_) => {}
            None => {
                if fits
                    && owner.meta().deletion_timestamp.is_none()
                    && meta.deletion_timestamp.is_none()
                    && let Some(adopted) = adopt(&api, meta, controller_reference(owner)).await?
                {
                    owned.push(adopted);
                }
            }
        }
    }
    Ok(owned)
}

async fn adopt<K>(
    api: &Api<K>,
    meta: &ObjectMeta,
    reference: OwnerReference,
) -> Result<Option<K>, Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut references = meta.owner_references.clone().unwrap_or_default();
    references.retain(|old| old.uid != reference.uid);
    references.push(reference);
    change_owners(api, meta, &references).await
}

async fn release<K>(api: &Api<K>, meta: &ObjectMeta, uid: &str) -> Result<(), Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut references = meta.owner_references.clone().unwrap_or_default();
    references.retain(|old| old.uid != uid);
    change_owners(api, meta, &references).await.map(|_| ())
}

async fn change_owners<K>(
    api: &Api<K>,
    meta: &ObjectMeta,
    references: &[OwnerReference],
) -> Result<Option<K>, Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": references,
    }});
    let name = meta.name.as_deref().unwrap_or_default();
    let done = api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    super::unless_gone(done, "change the owner of an object")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_match_as_documented() {
        let selector: LabelSelector = serde_json::from_value(json!({
            "matchLabels": {"app": "a"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["x", "y"]},
                {"key": "old", "operator": "DoesNotExist"},
            ],
        }))
        .unwrap();
        let table = [
            (json!({"app": "a", "tier": "x"}), true),
            (json!({"app": "a", "tier": "z"}), false),
            (json!({"app": "b", "tier": "x"}), false),
            (json!({"app": "a", "tier": "y", "old": ""}), false),
            (json!({}), false),
        ];
        for (labels, expected) in table {
            let labels: BTreeMap<String, String> = serde_json::from_value(labels).unwrap();
            assert_eq!(matches(&selector, Some(&labels)), expected, "{labels:?}");
        }
    }
}
