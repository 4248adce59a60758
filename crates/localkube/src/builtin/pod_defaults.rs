//! Defaults of Pods and of the Pod templates inside workloads, and what admission adds to a new Pod.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::fields::{default, default_text, ensure, has, items, items_mut, set, text, within};
use super::quantity::{Quantity, normalise, normalise_map};

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
/// ASCII letters and digits of generated names: no vowels, no look-alikes.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Defaults of `kind: Pod`.
pub(super) fn pod(pod: &mut Value) {
    ensure(pod, "spec", |spec| {
        requests_from_limits(spec);
        default(spec, "enableServiceLinks", true);
        pod_spec(spec);
    });
}

/// Defaults of a `PodTemplateSpec`.
pub(super) fn template(template: &mut Value) {
    default(template, "metadata", json!({}));
    ensure(template, "spec", pod_spec);
}

fn pod_spec(spec: &mut Value) {
    default_text(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    default_text(spec, "dnsPolicy", "ClusterFirst");
    let account = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if !account.is_empty() {
        set(spec, "serviceAccountName", account.as_str());
        set(spec, "serviceAccount", account);
    }
    default(spec, "securityContext", json!({}));
    default_text(spec, "schedulerName", "default-scheduler");
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in CONTAINER_LISTS {
        for one in items_mut(spec, list) {
            container(one);
            if host_network {
                for port in items_mut(one, "ports") {
                    if let Some(number) = port.get("containerPort").cloned() {
                        default(port, "hostPort", number);
                    }
                }
            }
        }
    }
    for volume in items_mut(spec, "volumes") {
        self::volume(volume);
    }
    within(spec, "resources", resources);
    normalise_map(spec.get_mut("overhead"));
}

fn resources(resources: &mut Value) {
    normalise_map(resources.get_mut("limits"));
    normalise_map(resources.get_mut("requests"));
}

/// A limit without a request is also the request. Only Pods get this, not templates.
fn requests_from_limits(spec: &mut Value) {
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            within(container, "resources", |resources| {
                let Some(limits) = resources.get("limits").cloned() else {
                    return;
                };
                let Value::Object(limits) = limits else {
                    return;
                };
                if limits.is_empty() {
                    return;
                }
                ensure(resources, "requests", |requests| {
                    for (name, limit) in limits {
                        default(requests, &name, limit);
                    }
                });
            });
        }
    }
}

fn container(container: &mut Value) {
    let policy = match image_tag(text(container, "image")) {
        "latest" => "Always",
        _ => "IfNotPresent",
    };
    default_text(container, "imagePullPolicy", policy);
    default(container, "resources", json!({}));
    within(container, "resources", resources);
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    for port in items_mut(container, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for variable in items_mut(container, "env") {
        within(variable, "valueFrom", |source| {
            within(source, "fieldRef", |field| {
                default_text(field, "apiVersion", "v1");
            });
            within(source, "resourceFieldRef", |field| {
                default(field, "divisor", "0");
                within(field, "divisor", normalise);
            });
            within(source, "fileKeyRef", |field| {
                default(field, "optional", false);
            });
        });
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        within(container, name, probe);
    }
    within(container, "lifecycle", |lifecycle| {
        for hook in ["postStart", "preStop"] {
            within(lifecycle, hook, handler);
        }
    });
}

/// The tag of an image reference; `latest` where none is written, empty for a digest.
fn image_tag(image: &str) -> &str {
    if image.contains('@') {
        return "";
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').map_or("latest", |(_, tag)| tag)
}

fn probe(probe: &mut Value) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if probe.get(field) == Some(&Value::from(0)) {
            set(probe, field, value);
        }
        default(probe, field, value);
    }
    handler(probe);
}

fn handler(handler: &mut Value) {
    within(handler, "httpGet", |get| {
        default_text(get, "path", "/");
        default_text(get, "scheme", "HTTP");
    });
    within(handler, "grpc", |grpc| default(grpc, "service", ""));
}

fn volume(volume: &mut Value) {
    let sources = volume
        .as_object()
        .map_or(0, |map| map.values().filter(|v| !v.is_null()).count());
    if sources == usize::from(has(volume, "name")) {
        set(volume, "emptyDir", json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        within(volume, source, |source| default(source, "defaultMode", 420));
    }
    within(volume, "downwardAPI", downward_items);
    within(volume, "emptyDir", |dir| {
        within(dir, "sizeLimit", normalise);
    });
    within(volume, "hostPath", |path| default(path, "type", ""));
    within(volume, "projected", |projected| {
        for source in items_mut(projected, "sources") {
            within(source, "serviceAccountToken", |token| {
                default(token, "expirationSeconds", 3600);
            });
            within(source, "downwardAPI", downward_items);
        }
    });
    within(volume, "ephemeral", |ephemeral| {
        within(ephemeral, "volumeClaimTemplate", |claim| {
            default(claim, "metadata", json!({}));
            ensure(claim, "spec", claim_spec);
        });
    });
}

fn downward_items(source: &mut Value) {
    for item in items_mut(source, "items") {
        within(item, "fieldRef", |field| {
            default_text(field, "apiVersion", "v1");
        });
        within(item, "resourceFieldRef", |field| {
            default(field, "divisor", "0");
        });
    }
}

/// Defaults of a PersistentVolumeClaimSpec.
pub(super) fn claim_spec(spec: &mut Value) {
    default_text(spec, "volumeMode", "Filesystem");
    default(spec, "resources", json!({}));
    within(spec, "resources", resources);
}

/// What the admission plugins ServiceAccount, Priority and DefaultTolerationSeconds add, and the status
/// every Pod starts with.
pub(super) fn prepare_create(pod: &mut Value) {
    let status =
        json!({"phase": "Pending", "qosClass": quality(pod.get("spec").unwrap_or(&Value::Null))});
    set(pod, "status", status);
    let volume_name = format!("kube-api-access-{}", suffix(pod));
    within(pod, "spec", |spec| {
        default_text(spec, "serviceAccountName", "default");
        let account = text(spec, "serviceAccountName").to_owned();
        set(spec, "serviceAccount", account);
        if spec.get("automountServiceAccountToken") != Some(&Value::Bool(false)) {
            mount_token(spec, &volume_name);
        }
        let priority = match text(spec, "priorityClassName") {
            "system-cluster-critical" => 2_000_000_000,
            "system-node-critical" => 2_000_001_000,
            _ => 0,
        };
        default(spec, "priority", priority);
        default_text(spec, "preemptionPolicy", "PreemptLowerPriority");
        tolerate(spec);
    });
}

fn mount_token(spec: &mut Value, volume_name: &str) {
    const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            let taken = items(container, "volumeMounts")
                .iter()
                .any(|mount| text(mount, "mountPath") == MOUNT_PATH);
            if taken {
                continue;
            }
            mounted = true;
            default(container, "volumeMounts", json!([]));
            if let Some(Value::Array(mounts)) = container.get_mut("volumeMounts") {
                mounts
                    .push(json!({"name": volume_name, "readOnly": true, "mountPath": MOUNT_PATH}));
            }
        }
    }
    if !mounted {
        return;
    }
    default(spec, "volumes", json!([]));
    if let Some(Value::Array(volumes)) = spec.get_mut("volumes") {
        volumes.push(json!({
            "name": volume_name,
            "projected": {
                "sources": [
                    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                    {"configMap": {
                        "name": "kube-root-ca.crt",
                        "items": [{"key": "ca.crt", "path": "ca.crt"}],
                    }},
                    {"downwardAPI": {"items": [{
                        "path": "namespace",
                        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                    }]}},
                ],
                "defaultMode": 420,
            },
        }));
    }
}

fn tolerate(spec: &mut Value) {
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let tolerated = items(spec, "tolerations").iter().any(|toleration| {
            let effect = text(toleration, "effect");
            let named = text(toleration, "key");
            (named == key || named.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if tolerated {
            continue;
        }
        default(spec, "tolerations", json!([]));
        if let Some(Value::Array(tolerations)) = spec.get_mut("tolerations") {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }));
        }
    }
}

/// Five letters that are the same for the same Pod and differ between Pods.
fn suffix(pod: &Value) -> String {
    let metadata = pod.get("metadata").unwrap_or(&Value::Null);
    let mut hash = Sha256::new();
    for field in ["uid", "namespace", "name", "generateName"] {
        hash.update(text(metadata, field));
        hash.update([0]);
    }
    hash.finalize()
        .iter()
        .take(5)
        .filter_map(|byte| SUFFIX_ALPHABET.get(usize::from(*byte) % SUFFIX_ALPHABET.len()))
        .map(|letter| char::from(*letter))
        .collect()
}

/// The quality-of-service class of a Pod with this spec.
pub(crate) fn quality(spec: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for list in ["initContainers", "containers"] {
        for container in items(spec, list) {
            let resources = container.get("resources").unwrap_or(&Value::Null);
            for name in ["cpu", "memory"] {
                let read = |kind: &str| {
                    resources
                        .get(kind)
                        .and_then(|map| map.get(name))
                        .and_then(Quantity::from_value)
                        .filter(|quantity| !quantity.is_zero())
                };
                let (limit, request) = (read("limits"), read("requests"));
                any |= limit.is_some() || request.is_some();
                let equal = match (limit, request) {
                    (Some(limit), Some(request)) => limit.cmp(request).is_eq(),
                    (Some(_), None) => true,
                    _ => false,
                };
                guaranteed &= equal;
            }
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
