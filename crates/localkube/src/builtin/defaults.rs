//! Defaults of the smaller kinds.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::fields::{
    default, default_text, ensure, has, items, items_mut, remove, set, text, within,
};
use super::pod_defaults::claim_spec;
use super::quantity::{normalise, normalise_map};

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn namespace(object: &mut Value) {
    let name = text(object.get("metadata").unwrap_or(&Value::Null), "name").to_owned();
    ensure(object, "spec", |_| {});
    ensure(object, "status", |status| {
        default_text(status, "phase", "Active");
    });
    if name.is_empty() {
        return;
    }
    ensure(object, "metadata", |metadata| {
        ensure(metadata, "labels", |labels| {
            set(labels, "kubernetes.io/metadata.name", name);
        });
    });
}

pub(super) fn namespace_created(object: &mut Value) {
    set(object, "status", json!({"phase": "Active"}));
    ensure(object, "spec", |spec| {
        let held = items(spec, "finalizers")
            .iter()
            .any(|name| name == "kubernetes");
        if held {
            return;
        }
        default(spec, "finalizers", json!([]));
        if let Some(Value::Array(finalizers)) = spec.get_mut("finalizers") {
            finalizers.push("kubernetes".into());
        }
    });
}

/// Only the finalize subresource changes the finalizers of the spec.
pub(super) fn namespace_updated(object: &mut Value, old: &Value) {
    let finalizers = old.pointer("/spec/finalizers").cloned();
    ensure(object, "spec", |spec| match finalizers {
        Some(finalizers) => set(spec, "finalizers", finalizers),
        None => remove(spec, "finalizers"),
    });
}

pub(super) fn secret(object: &mut Value) {
    let plain = match object.get("stringData") {
        Some(Value::Object(plain)) => plain.clone(),
        _ => Map::new(),
    };
    remove(object, "stringData");
    if !plain.is_empty() {
        ensure(object, "data", |data| {
            for (key, value) in plain {
                let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
                set(data, &key, encoded);
            }
        });
    }
    default_text(object, "type", "Opaque");
}

pub(super) fn node(object: &mut Value) {
    ensure(object, "spec", |_| {});
    ensure(object, "status", |status| {
        normalise_map(status.get_mut("capacity"));
        normalise_map(status.get_mut("allocatable"));
        ensure(status, "daemonEndpoints", |endpoints| {
            ensure(endpoints, "kubeletEndpoint", |endpoint| {
                default(endpoint, "Port", 0);
            });
        });
        ensure(status, "nodeInfo", |info| {
            for field in [
                "machineID",
                "systemUUID",
                "bootID",
                "kernelVersion",
                "osImage",
                "containerRuntimeVersion",
                "kubeletVersion",
                "kubeProxyVersion",
                "operatingSystem",
                "architecture",
            ] {
                default(info, field, "");
            }
        });
    });
}

pub(super) fn event(object: &mut Value) {
    for field in ["source", "involvedObject"] {
        ensure(object, field, |_| {});
    }
    for field in ["firstTimestamp", "lastTimestamp", "eventTime"] {
        if object.get(field).is_none() {
            set(object, field, Value::Null);
        }
    }
    default(object, "reportingComponent", "");
    default(object, "reportingInstance", "");
}

pub(super) fn endpoints(object: &mut Value) {
    for subset in items_mut(object, "subsets") {
        for port in items_mut(subset, "ports") {
            default_text(port, "protocol", "TCP");
        }
    }
}

pub(super) fn endpoint_slice(object: &mut Value) {
    for endpoint in items_mut(object, "endpoints") {
        ensure(endpoint, "conditions", |_| {});
    }
    for port in items_mut(object, "ports") {
        default(port, "name", "");
        default_text(port, "protocol", "TCP");
    }
}

pub(super) fn limit_range(object: &mut Value) {
    within(object, "spec", |spec| {
        for limit in items_mut(spec, "limits") {
            if text(limit, "type") == "Container" {
                if let Some(Value::Object(max)) = limit.get("max").cloned() {
                    ensure(limit, "default", |target| fill(target, &max));
                }
                if let Some(Value::Object(standard)) = limit.get("default").cloned() {
                    ensure(limit, "defaultRequest", |target| fill(target, &standard));
                }
                if let Some(Value::Object(min)) = limit.get("min").cloned() {
                    ensure(limit, "defaultRequest", |target| fill(target, &min));
                }
            }
            for field in [
                "max",
                "min",
                "default",
                "defaultRequest",
                "maxLimitRequestRatio",
            ] {
                normalise_map(limit.get_mut(field));
            }
        }
    });
}

fn fill(target: &mut Value, from: &Map<String, Value>) {
    for (key, value) in from {
        default(target, key, value.clone());
    }
}

pub(super) fn resource_quota(object: &mut Value) {
    default(object, "status", json!({}));
    ensure(object, "spec", |spec| normalise_map(spec.get_mut("hard")));
    within(object, "status", |status| {
        normalise_map(status.get_mut("hard"));
        normalise_map(status.get_mut("used"));
    });
}

pub(super) fn empty_status(object: &mut Value) {
    set(object, "status", json!({}));
}

pub(super) fn claim(object: &mut Value) {
    ensure(object, "spec", claim_spec);
    ensure(object, "status", |status| {
        default_text(status, "phase", "Pending");
        normalise_map(status.get_mut("capacity"));
    });
}

pub(super) fn claim_created(object: &mut Value) {
    set(object, "status", json!({"phase": "Pending"}));
    finalizer(object, "kubernetes.io/pvc-protection");
}

pub(super) fn volume(object: &mut Value) {
    ensure(object, "spec", |spec| {
        default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        default_text(spec, "volumeMode", "Filesystem");
        normalise_map(spec.get_mut("capacity"));
        within(spec, "hostPath", |path| default(path, "type", ""));
    });
    ensure(object, "status", |status| {
        default_text(status, "phase", "Pending");
    });
}

pub(super) fn volume_created(object: &mut Value) {
    set(object, "status", json!({"phase": "Pending"}));
    finalizer(object, "kubernetes.io/pv-protection");
}

fn finalizer(object: &mut Value, name: &str) {
    ensure(object, "metadata", |metadata| {
        default(metadata, "finalizers", json!([]));
        if let Some(Value::Array(finalizers)) = metadata.get_mut("finalizers")
            && !finalizers.iter().any(|known| known == name)
        {
            finalizers.push(name.into());
        }
    });
}

pub(super) fn storage_class(object: &mut Value) {
    default_text(object, "reclaimPolicy", "Delete");
    default_text(object, "volumeBindingMode", "Immediate");
}

pub(super) fn csi_driver(object: &mut Value) {
    ensure(object, "spec", |spec| {
        default(spec, "attachRequired", true);
        default_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        for field in [
            "podInfoOnMount",
            "requiresRepublish",
            "seLinuxMount",
            "storageCapacity",
        ] {
            default(spec, field, false);
        }
        default(spec, "volumeLifecycleModes", json!(["Persistent"]));
    });
}

pub(super) fn volume_attachment(object: &mut Value) {
    ensure(object, "status", |status| {
        default(status, "attached", false)
    });
}

pub(super) fn volume_attachment_created(object: &mut Value) {
    set(object, "status", json!({"attached": false}));
}

pub(super) fn ingress(object: &mut Value) {
    ensure(object, "spec", |_| {});
    ensure(object, "status", |status| {
        default(status, "loadBalancer", json!({}));
    });
}

pub(super) fn ingress_created(object: &mut Value) {
    set(object, "status", json!({"loadBalancer": {}}));
}

pub(super) fn ingress_class(object: &mut Value) {
    within(object, "spec", |spec| {
        within(spec, "parameters", |parameters| {
            default_text(parameters, "scope", "Cluster");
        });
    });
}

pub(super) fn network_policy(object: &mut Value) {
    ensure(object, "spec", |spec| {
        ensure(spec, "podSelector", |_| {});
        for direction in ["ingress", "egress"] {
            for rule in items_mut(spec, direction) {
                for port in items_mut(rule, "ports") {
                    default_text(port, "protocol", "TCP");
                }
            }
        }
        if items(spec, "policyTypes").is_empty() {
            let types = if items(spec, "egress").is_empty() {
                json!(["Ingress"])
            } else {
                json!(["Ingress", "Egress"])
            };
            set(spec, "policyTypes", types);
        }
    });
}

pub(super) fn role(object: &mut Value) {
    if object.get("rules").is_none() {
        set(object, "rules", Value::Null);
    }
}

pub(super) fn role_binding(object: &mut Value) {
    within(object, "roleRef", |reference| {
        default_text(reference, "apiGroup", RBAC);
    });
    for subject in items_mut(object, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            default_text(subject, "apiGroup", RBAC);
        }
    }
}

pub(super) fn lease(object: &mut Value) {
    ensure(object, "spec", |_| {});
}

pub(super) fn priority_class(object: &mut Value) {
    default_text(object, "preemptionPolicy", "PreemptLowerPriority");
    default(object, "value", 0);
}

/// Defaults of a CRD. What the API server learns of its schemas is not written back.
pub(super) fn custom_resource_definition(object: &mut Value) {
    ensure(object, "spec", |spec| {
        ensure(spec, "names", |names| {
            let kind = text(names, "kind").to_owned();
            if !kind.is_empty() {
                default_text(names, "singular", &kind.to_ascii_lowercase());
                default_text(names, "listKind", &format!("{kind}List"));
            }
        });
        ensure(spec, "conversion", |conversion| {
            default_text(conversion, "strategy", "None");
        });
    });
    ensure(object, "status", |status| {
        ensure(status, "acceptedNames", |names| {
            default(names, "plural", "");
            default(names, "kind", "");
        });
        if status.get("conditions").is_none() {
            set(status, "conditions", Value::Null);
        }
        if !has(status, "storedVersions") {
            set(status, "storedVersions", Value::Null);
        }
    });
}

pub(super) fn custom_resource_definition_created(object: &mut Value) {
    let stored: Vec<Value> = object
        .get("spec")
        .map(|spec| items(spec, "versions"))
        .unwrap_or_default()
        .iter()
        .filter(|version| version.get("storage") == Some(&Value::Bool(true)))
        .filter_map(|version| version.get("name").cloned())
        .collect();
    set(
        object,
        "status",
        json!({
            "conditions": null,
            "acceptedNames": {"plural": "", "kind": ""},
            "storedVersions": stored,
        }),
    );
}

pub(super) fn autoscaler_quantities(object: &mut Value) {
    within(object, "spec", |spec| {
        for metric in items_mut(spec, "metrics") {
            for source in [
                "resource",
                "pods",
                "object",
                "external",
                "containerResource",
            ] {
                within(metric, source, |source| {
                    within(source, "target", |target| {
                        for field in ["value", "averageValue"] {
                            within(target, field, normalise);
                        }
                    });
                });
            }
        }
    });
}
