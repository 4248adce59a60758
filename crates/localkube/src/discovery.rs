//! Discovery documents, in the old forms and as `apidiscovery.k8s.io/v2`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::kind::Kind;

const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// `GET /api`. `address` is host:port of this server.
pub fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `GET /apis`.
pub fn api_group_list(kinds: &[Arc<Kind>]) -> Value {
    let groups: Vec<Value> = groups(kinds, false)
        .into_iter()
        .map(|(group, versions)| group_entry(group, &versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/{group}`; `None` if no kind has that group.
pub fn api_group(kinds: &[Arc<Kind>], group: &str) -> Option<Value> {
    let (name, versions) = groups(kinds, false)
        .into_iter()
        .find(|(name, _)| *name == group)?;
    let mut document = json!({"kind": "APIGroup", "apiVersion": "v1"});
    if let (Value::Object(document), Value::Object(entry)) =
        (&mut document, group_entry(name, &versions))
    {
        document.extend(entry);
    }
    Some(document)
}

/// `GET /api/v1` (empty group) and `GET /apis/{group}/{version}`; `None` if nothing is served there.
pub fn api_resource_list(kinds: &[Arc<Kind>], group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in of_version(kinds, group, version) {
        let mut entry = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": kind.verbs,
        });
        add_names(kind, &mut entry);
        resources.push(entry);
        for sub in subresources(kind) {
            let mut entry = Map::new();
            entry.insert(
                "name".into(),
                format!("{}/{}", kind.plural, sub.name).into(),
            );
            entry.insert("singularName".into(), "".into());
            entry.insert("namespaced".into(), kind.namespaced.into());
            if let Some((group, version)) = sub.group_version {
                entry.insert("group".into(), group.into());
                entry.insert("version".into(), version.into());
            }
            entry.insert("kind".into(), sub.kind.into());
            entry.insert("verbs".into(), json!(sub.verbs));
            resources.push(Value::Object(entry));
        }
    }
    if resources.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    let mut list = json!({"kind": "APIResourceList"});
    // The core group predates the field.
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    list["groupVersion"] = group_version.into();
    list["resources"] = resources.into();
    Some(list)
}

/// The aggregated form of `GET /api` (`core`) or `GET /apis`: an APIGroupDiscoveryList. Answer it with
/// `application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList`.
pub fn aggregated(kinds: &[Arc<Kind>], core: bool) -> Value {
    let mut items = Vec::new();
    for (group, versions) in groups(kinds, core) {
        let versions: Vec<Value> = versions
            .iter()
            .map(|version| {
                let resources: Vec<Value> = of_version(kinds, group, version)
                    .map(aggregated_resource)
                    .collect();
                json!({"version": version, "resources": resources, "freshness": "Current"})
            })
            .collect();
        let metadata = if group.is_empty() {
            json!({})
        } else {
            json!({"name": group})
        };
        items.push(json!({"metadata": metadata, "versions": versions}));
    }
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {}, "items": items,
    })
}

fn aggregated_resource(kind: &Kind) -> Value {
    // kube-apiserver leaves group and version out of its own kinds and fills them for custom ones.
    let (group, version) = match kind.schema {
        Some(_) => (kind.group.as_str(), kind.version.as_str()),
        None => ("", ""),
    };
    let mut entry = json!({
        "resource": kind.plural,
        "responseKind": {"group": group, "version": version, "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    add_names(kind, &mut entry);
    let subresources: Vec<Value> = subresources(kind)
        .into_iter()
        .map(|sub| {
            let (group, version) = sub.group_version.unwrap_or((group, version));
            json!({
                "subresource": sub.name,
                "responseKind": {"group": group, "version": version, "kind": sub.kind},
                "verbs": sub.verbs,
            })
        })
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}

fn add_names(kind: &Kind, entry: &mut Value) {
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
}

/// One line of discovery below a resource.
struct Sub<'a> {
    name: &'a str,
    kind: &'a str,
    group_version: Option<(&'a str, &'a str)>,
    verbs: &'a [&'static str],
}

/// Status and scale, which every kind of server knows, with the others, in alphabetical order.
fn subresources(kind: &Kind) -> Vec<Sub<'_>> {
    let mut subs: Vec<Sub<'_>> = kind
        .subresources
        .iter()
        .map(|sub| Sub {
            name: sub.name,
            kind: sub.kind,
            group_version: sub.group_version,
            verbs: sub.verbs,
        })
        .collect();
    if kind.status_subresource {
        subs.push(Sub {
            name: "status",
            kind: &kind.kind,
            group_version: None,
            verbs: STATUS_VERBS,
        });
    }
    if kind.scale.is_some() {
        subs.push(Sub {
            name: "scale",
            kind: "Scale",
            group_version: Some(("autoscaling", "v1")),
            verbs: STATUS_VERBS,
        });
    }
    subs.sort_by_key(|sub| sub.name);
    subs
}

fn of_version<'a>(
    kinds: &'a [Arc<Kind>],
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'a Kind> {
    kinds
        .iter()
        .map(Arc::as_ref)
        .filter(move |kind| kind.group == group && kind.version == version)
}

/// The named groups (or the core group alone), each with its versions, the preferred one first.
fn groups(kinds: &[Arc<Kind>], core: bool) -> Vec<(&str, Vec<&str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for kind in kinds.iter().filter(|kind| kind.group.is_empty() == core) {
        match groups.iter_mut().find(|(group, _)| *group == kind.group) {
            Some((_, versions)) => {
                if !versions.contains(&kind.version.as_str()) {
                    versions.push(&kind.version);
                }
            }
            None => groups.push((&kind.group, vec![&kind.version])),
        }
    }
    for (_, versions) in &mut groups {
        versions.sort_by_key(|version| std::cmp::Reverse(version_rank(version)));
    }
    groups
}

fn group_entry(group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    let preferred = versions.first().cloned();
    json!({"name": group, "versions": versions, "preferredVersion": preferred})
}

/// Kubernetes' order of version names: v2 before v1 before v1beta1 before v1alpha1 before anything else.
pub(crate) fn version_rank(version: &str) -> (u8, u64, u64) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit());
        let (major, tail) = match digits {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let major = major.parse().ok()?;
        if tail.is_empty() {
            return Some((3, major, 0));
        }
        if let Some(minor) = tail.strip_prefix("beta") {
            return Some((2, major, minor.parse().ok()?));
        }
        let minor = tail.strip_prefix("alpha")?;
        Some((1, major, minor.parse().ok()?))
    };
    parse().unwrap_or((0, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds() -> Vec<Arc<Kind>> {
        crate::builtin::kinds().into_iter().map(Arc::new).collect()
    }

    #[test]
    fn versions_are_ordered_as_kubernetes_orders_them() {
        let mut versions = ["foo", "v1alpha1", "v1", "v2beta1", "v2", "v1beta2", "v10"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_rank(version)));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo"]
        );
    }

    #[test]
    fn core_resources_carry_their_subresources() {
        let list = api_resource_list(&kinds(), "", "v1").expect("core");
        assert!(list.get("apiVersion").is_none());
        let names: Vec<&str> = list["resources"]
            .as_array()
            .expect("resources")
            .iter()
            .filter_map(|entry| entry["name"].as_str())
            .collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(names, sorted);
        for name in [
            "pods/log",
            "pods/status",
            "services/proxy",
            "namespaces/finalize",
        ] {
            assert!(names.contains(&name), "{name} is missing");
        }
    }

    #[test]
    fn aggregated_form_agrees_with_the_old_one() {
        let kinds = kinds();
        for core in [true, false] {
            let list = aggregated(&kinds, core);
            for item in list["items"].as_array().expect("items") {
                let group = item["metadata"]["name"].as_str().unwrap_or_default();
                for version in item["versions"].as_array().expect("versions") {
                    let name = version["version"].as_str().expect("version");
                    let old = api_resource_list(&kinds, group, name).expect("old form");
                    let mut count = 0;
                    for resource in version["resources"].as_array().expect("resources") {
                        count += 1 + resource["subresources"].as_array().map_or(0, Vec::len);
                    }
                    assert_eq!(old["resources"].as_array().map(Vec::len), Some(count));
                }
            }
        }
    }

    #[test]
    fn unknown_groups_are_absent() {
        assert!(api_group(&kinds(), "nope.example.com").is_none());
        assert!(api_resource_list(&kinds(), "apps", "v1beta1").is_none());
        let apps = api_group(&kinds(), "apps").expect("apps");
        assert_eq!(apps["preferredVersion"]["groupVersion"], "apps/v1");
    }
}
