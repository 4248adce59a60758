//! Environment and arguments of a container: literal values, references, and `$(VAR)`.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};

/// What references of environments and volumes are looked up in.
#[derive(Default)]
pub struct Sources {
    pub config_maps: HashMap<String, Option<ConfigMap>>,
    pub secrets: HashMap<String, Option<Secret>>,
}

/// The values that a Pod may learn about itself.
pub struct Downward<'a> {
    pub pod: &'a Pod,
    pub ip: Ipv4Addr,
    pub node: &'a str,
}

impl Downward<'_> {
    /// Value of a `fieldRef`; `None` for a path that Kubernetes does not offer.
    pub fn field(&self, path: &str) -> Option<String> {
        let meta = &self.pod.metadata;
        if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
            let map = match map {
                "metadata.labels" => &meta.labels,
                "metadata.annotations" => &meta.annotations,
                _ => return None,
            };
            return Some(
                map.as_ref()
                    .and_then(|m| m.get(key))
                    .cloned()
                    .unwrap_or_default(),
            );
        }
        let spec = self.pod.spec.as_ref();
        Some(match path {
            "metadata.name" => meta.name.clone().unwrap_or_default(),
            "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
            "metadata.uid" => meta.uid.clone().unwrap_or_default(),
            "metadata.labels" => pairs(meta.labels.as_ref()),
            "metadata.annotations" => pairs(meta.annotations.as_ref()),
            "spec.nodeName" => self.node.to_owned(),
            "spec.serviceAccountName" => spec
                .and_then(|spec| spec.service_account_name.clone())
                .unwrap_or_else(|| "default".to_owned()),
            "status.podIP" | "status.podIPs" => self.ip.to_string(),
            "status.hostIP" | "status.hostIPs" => Ipv4Addr::LOCALHOST.to_string(),
            _ => return None,
        })
    }
}

fn pairs(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    lines.join("\n")
}

/// The variables of a container, in order, or why it cannot be made: the message of
/// `CreateContainerConfigError`. `given` come first and may be used and overridden by the container's own.
pub fn variables(
    container: &Container,
    downward: &Downward<'_>,
    sources: &Sources,
    given: &[(String, String)],
) -> Result<Vec<(String, String)>, String> {
    let mut found = Variables {
        list: given.to_vec(),
    };
    let namespace = downward
        .pod
        .metadata
        .namespace
        .as_deref()
        .unwrap_or_default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.clone().unwrap_or_default();
        if let Some(source) = &from.config_map_ref {
            match config_map(sources, &source.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        found.set(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if source.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", source.name)),
            }
        }
        if let Some(source) = &from.secret_ref {
            match secret(sources, &source.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        let text = String::from_utf8_lossy(&value.0).into_owned();
                        found.set(format!("{prefix}{key}"), text);
                    }
                }
                None if source.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", source.name)),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(expand(value, &found)),
            (None, Some(source)) => reference(source, downward, sources, namespace)?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            found.set(variable.name.clone(), value);
        }
    }
    Ok(found.list)
}

/// Arguments with their variables filled in.
pub fn arguments(words: &[String], variables: &[(String, String)]) -> Vec<String> {
    let variables = Variables {
        list: variables.to_vec(),
    };
    words.iter().map(|word| expand(word, &variables)).collect()
}

struct Variables {
    list: Vec<(String, String)>,
}

impl Variables {
    fn set(&mut self, name: String, value: String) {
        self.list.retain(|(old, _)| *old != name);
        self.list.push((name, value));
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.list
            .iter()
            .find(|(candidate, _)| candidate == name)
            .map(|(_, value)| value.as_str())
    }
}

fn config_map<'a>(sources: &'a Sources, name: &str) -> Option<&'a ConfigMap> {
    sources.config_maps.get(name)?.as_ref()
}

fn secret<'a>(sources: &'a Sources, name: &str) -> Option<&'a Secret> {
    sources.secrets.get(name)?.as_ref()
}

fn reference(
    source: &EnvVarSource,
    downward: &Downward<'_>,
    sources: &Sources,
    namespace: &str,
) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        return downward
            .field(&field.field_path)
            .map(Some)
            .ok_or_else(|| format!("unsupported fieldPath: {}", field.field_path));
    }
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional == Some(true);
        let Some(map) = config_map(sources, &key.name) else {
            return absent(optional, || format!("configmap {:?} not found", key.name));
        };
        return match map.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(value.clone())),
            None => absent(optional, || {
                let (key, name) = (&key.key, &key.name);
                format!("couldn't find key {key} in ConfigMap {namespace}/{name}")
            }),
        };
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional == Some(true);
        let Some(secret) = secret(sources, &key.name) else {
            return absent(optional, || format!("secret {:?} not found", key.name));
        };
        return match secret.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None => absent(optional, || {
                let (key, name) = (&key.key, &key.name);
                format!("couldn't find key {key} in Secret {namespace}/{name}")
            }),
        };
    }
    // Local processes have no resource limits of their own.
    Ok(Some("0".to_owned()))
}

fn absent(optional: bool, message: impl Fn() -> String) -> Result<Option<String>, String> {
    if optional { Ok(None) } else { Err(message()) }
}

/// Replaces `$(NAME)` by the variable's value; `$$` stands for `$`; what names no variable stays.
fn expand(text: &str, variables: &Variables) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|t| t.split_once(')'))
        {
            match variables.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn variables_expand_as_documented() {
        let variables = Variables {
            list: vec![("A".to_owned(), "1".to_owned())],
        };
        let table = [
            ("x", "x"),
            ("$(A)", "1"),
            ("-$(A)-$(A)", "-1-1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("a$", "a$"),
        ];
        for (text, expected) in table {
            assert_eq!(expand(text, &variables), expected, "{text}");
        }
    }

    #[test]
    fn references_are_resolved_or_named() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"app": "x"}},
        }))
        .unwrap();
        let downward = Downward {
            pod: &pod,
            ip: Ipv4Addr::new(127, 1, 2, 3),
            node: "node",
        };
        let mut sources = Sources::default();
        let map = json!({"metadata": {"name": "c"}, "data": {"k": "v"}});
        sources
            .config_maps
            .insert("c".to_owned(), Some(serde_json::from_value(map).unwrap()));
        let of = |env: serde_json::Value| {
            let container = serde_json::from_value(json!({"name": "c", "env": env})).unwrap();
            variables(&container, &downward, &sources, &[])
        };
        let from = |source: serde_json::Value| of(json!([{"name": "X", "valueFrom": source}]));
        let value = |text: &str| Ok(vec![("X".to_owned(), text.to_owned())]);
        assert_eq!(
            from(json!({"fieldRef": {"fieldPath": "status.podIP"}})),
            value("127.1.2.3")
        );
        assert_eq!(
            from(json!({"fieldRef": {"fieldPath": "metadata.labels['app']"}})),
            value("x")
        );
        assert_eq!(
            from(json!({"configMapKeyRef": {"name": "c", "key": "k"}})),
            value("v")
        );
        assert_eq!(
            from(json!({"configMapKeyRef": {"name": "c", "key": "no"}})),
            Err("couldn't find key no in ConfigMap n/c".to_owned())
        );
        assert_eq!(
            from(json!({"secretKeyRef": {"name": "s", "key": "k"}})),
            Err("secret \"s\" not found".to_owned())
        );
        assert_eq!(
            from(json!({"secretKeyRef": {"name": "s", "key": "k", "optional": true}})),
            Ok(vec![])
        );
    }
}
