//! What the smaller kinds must obey.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::check::{Faults, IMMUTABLE, is_empty, join};
use super::fields::{has, items, remove, text};
use super::quantity::Quantity;
use crate::status::FieldError;

/// ConfigMaps and Secrets hold at most 1 MiB.
const MOST_BYTES: usize = 1024 * 1024;
const RBAC: &str = "rbac.authorization.k8s.io";

fn spec(object: &Value) -> &Value {
    object.get("spec").unwrap_or(&Value::Null)
}

fn entries<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object
        .get(key)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}

/// How many bytes a base64 text stands for.
fn decoded_length(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

pub(super) fn config_map(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let mut size = 0;
    for (key, value) in entries(new, "data") {
        let field = format!("data[{key}]");
        faults.config_key(&field, key);
        if new.get("binaryData").is_some_and(|data| has(data, key)) {
            faults.invalid_text(field, key, "duplicate of key present in binaryData");
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in entries(new, "binaryData") {
        faults.config_key(&format!("binaryData[{key}]"), key);
        size += value.as_str().map_or(0, decoded_length);
    }
    if size > MOST_BYTES {
        // The field is the object itself.
        faults.too_long("[]", MOST_BYTES);
    }
    if let Some(old) = old {
        frozen(&mut faults, new, old, &["data", "binaryData"]);
    }
    faults.into_errors()
}

/// An object with `immutable: true` keeps its data, and stays immutable.
fn frozen(faults: &mut Faults, new: &Value, old: &Value, fields: &[&str]) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return;
    }
    if new.get("immutable") != Some(&Value::Bool(true)) {
        faults.forbidden("immutable", WHY);
    }
    for field in fields {
        let (new, old) = (new.get(*field), old.get(*field));
        if new != old && !(is_empty(new) && is_empty(old)) {
            faults.forbidden(*field, WHY);
        }
    }
}

pub(super) fn secret(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let mut size = 0;
    for (key, value) in entries(new, "data") {
        faults.config_key(&format!("data[{key}]"), key);
        size += value.as_str().map_or(0, decoded_length);
    }
    if size > MOST_BYTES {
        faults.too_long("data", MOST_BYTES);
    }
    let data = new.get("data").unwrap_or(&Value::Null);
    let missing = |faults: &mut Faults, keys: &[&str]| {
        for key in keys {
            if data.get(*key).is_none() {
                faults.required(format!("data[{key}]"));
            }
        }
    };
    match text(new, "type") {
        "kubernetes.io/service-account-token" => {
            let named = new
                .pointer("/metadata/annotations")
                .is_some_and(|map| !text(map, "kubernetes.io/service-account.name").is_empty());
            if !named {
                faults.required("metadata.annotations[kubernetes.io/service-account.name]");
            }
        }
        "kubernetes.io/dockercfg" => json_key(&mut faults, data, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => json_key(&mut faults, data, ".dockerconfigjson"),
        "kubernetes.io/basic-auth"
            if data.get("username").is_none() && data.get("password").is_none() =>
        {
            missing(&mut faults, &["username", "password"]);
        }
        "kubernetes.io/ssh-auth" => missing(&mut faults, &["ssh-privatekey"]),
        "kubernetes.io/tls" => missing(&mut faults, &["tls.crt", "tls.key"]),
        _ => {}
    }
    if let Some(old) = old {
        faults.immutable(new, old, "", "type");
        frozen(&mut faults, new, old, &["data"]);
    }
    faults.into_errors()
}

/// A key whose value must be JSON; the value never stands in the message.
fn json_key(faults: &mut Faults, data: &Value, key: &str) {
    let field = format!("data[{key}]");
    let Some(value) = data.get(key) else {
        faults.required(field);
        return;
    };
    let decoded = STANDARD
        .decode(value.as_str().unwrap_or_default())
        .unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<Value>(&decoded) {
        let why = if error.is_eof() {
            "unexpected end of JSON input".to_owned()
        } else {
            "invalid JSON".to_owned()
        };
        faults.invalid_text(field, "<secret contents redacted>", &why);
    }
}

pub(super) fn event(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let namespace = new
        .pointer("/metadata/namespace")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let about = new.get("involvedObject").unwrap_or(&Value::Null);
    let other = text(about, "namespace");
    let matching = match other {
        "" => namespace == "default",
        other => namespace == other,
    };
    if !matching {
        faults.invalid_text(
            "involvedObject.namespace",
            other,
            "does not match event.namespace",
        );
    }
    faults.into_errors()
}

const ACCESS_MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

fn access_modes(faults: &mut Faults, spec: &Value) {
    for mode in items(spec, "accessModes") {
        let mode = mode.as_str().unwrap_or_default();
        if !ACCESS_MODES.contains(&mode) {
            faults.unsupported("spec.accessModes", mode, ACCESS_MODES);
        }
    }
}

fn positive(faults: &mut Faults, field: &str, value: &Value) {
    if let Some(quantity) = Quantity::from_value(value)
        && (quantity.is_negative() || quantity.is_zero())
    {
        faults.invalid(field, value, "must be greater than zero");
    }
}

pub(super) fn claim(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let spec = spec(new);
    if items(spec, "accessModes").is_empty() {
        faults.required_because("spec.accessModes", "at least 1 access mode is required");
    }
    access_modes(&mut faults, spec);
    match spec.pointer("/resources/requests/storage") {
        None => faults.required("spec.resources[storage]"),
        Some(storage) => positive(&mut faults, "spec.resources[storage]", storage),
    }
    if let Some(old) = old {
        let fixed = |object: &Value| {
            let mut spec = self::spec(object).clone();
            remove(&mut spec, "resources");
            remove(&mut spec, "volumeAttributesClassName");
            // Set once, by whoever binds the claim.
            if text(self::spec(old), "volumeName").is_empty() {
                remove(&mut spec, "volumeName");
            }
            if !has(self::spec(old), "storageClassName") {
                remove(&mut spec, "storageClassName");
            }
            spec
        };
        if fixed(new) != fixed(old) {
            faults.forbidden("spec", "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims");
        }
    }
    faults.into_errors()
}

pub(super) fn volume(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    const SOURCES: &[&str] = &[
        "hostPath", "nfs", "csi", "local", "iscsi", "fc", "rbd", "cephfs",
    ];
    let mut faults = Faults::default();
    let spec = spec(new);
    if items(spec, "accessModes").is_empty() {
        faults.required("spec.accessModes");
    }
    access_modes(&mut faults, spec);
    let capacity = spec.get("capacity").unwrap_or(&Value::Null);
    if is_empty(Some(capacity)) {
        faults.required("spec.capacity");
    }
    match capacity.get("storage") {
        None => faults.unsupported_value("spec.capacity", capacity, &["storage"]),
        Some(storage) => positive(&mut faults, "spec.capacity[storage]", storage),
    }
    faults.one_of(
        spec,
        "spec",
        "persistentVolumeReclaimPolicy",
        &["Delete", "Recycle", "Retain"],
    );
    let mut sources = 0;
    for source in SOURCES {
        if has(spec, source) {
            sources += 1;
            if sources > 1 {
                let field = format!("spec.{source}");
                faults.forbidden(field, "may not specify more than 1 volume type");
            }
        }
    }
    if sources == 0 {
        faults.required_because("spec", "must specify a volume type");
    }
    if let Some(old) = old {
        let old_spec = self::spec(old);
        if SOURCES
            .iter()
            .any(|source| spec.get(*source) != old_spec.get(*source))
        {
            faults.forbidden(
                "spec.persistentvolumesource",
                "spec.persistentvolumesource is immutable after creation",
            );
        }
    }
    faults.into_errors()
}

pub(super) fn quota(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    const STANDARD_NAMES: &[&str] = &[
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.storage",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
        "services",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
    ];
    let mut faults = Faults::default();
    for (name, value) in entries(spec(new), "hard") {
        let field = format!("spec.hard[{name}]");
        if !name.contains('/') && !STANDARD_NAMES.contains(&name.as_str()) {
            for why in [
                "must be a standard resource type or fully qualified",
                "must be a standard resource for quota",
            ] {
                faults.invalid_text(field.clone(), name, why);
            }
        }
        if Quantity::from_value(value).is_some_and(Quantity::is_negative) {
            faults.invalid(field, value, super::check::NOT_NEGATIVE);
        }
    }
    faults.into_errors()
}

pub(super) fn storage_class(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    if let Some(old) = old {
        for field in [
            "parameters",
            "provisioner",
            "reclaimPolicy",
            "volumeBindingMode",
        ] {
            faults.immutable(new, old, "", field);
        }
        return faults.into_errors();
    }
    if text(new, "provisioner").is_empty() {
        faults.required("provisioner");
    }
    for (field, known) in [
        ("reclaimPolicy", ["Delete", "Retain"]),
        ("volumeBindingMode", ["Immediate", "WaitForFirstConsumer"]),
    ] {
        if has(new, field) && !known.contains(&text(new, field)) {
            faults.unsupported(field, text(new, field), &known);
        }
    }
    faults.into_errors()
}

pub(super) fn priority_class(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    if let Some(old) = old {
        if new.get("value") != old.get("value") {
            faults.forbidden("value", "may not be changed in an update.");
        }
        faults.immutable(new, old, "", "preemptionPolicy");
        return faults.into_errors();
    }
    let name = new
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let system = matches!(name, "system-cluster-critical" | "system-node-critical");
    if name.starts_with("system-") && !system {
        faults.forbidden("metadata.name", &format!("priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a known system priority class"));
    } else if !system
        && new
            .get("value")
            .and_then(Value::as_i64)
            .is_some_and(|value| value > 1_000_000_000)
    {
        faults.forbidden(
            "value",
            "maximum allowed value of a user defined priority is 1000000000",
        );
    }
    let policy = text(new, "preemptionPolicy");
    if !matches!(policy, "PreemptLowerPriority" | "Never") {
        faults.unsupported(
            "preemptionPolicy",
            policy,
            &["PreemptLowerPriority", "Never"],
        );
    }
    faults.into_errors()
}

pub(super) fn lease(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let spec = spec(new);
    if let Some(seconds) = spec.get("leaseDurationSeconds")
        && seconds.as_i64().is_some_and(|seconds| seconds <= 0)
    {
        faults.invalid(
            "spec.leaseDurationSeconds",
            seconds,
            "must be greater than 0",
        );
    }
    faults.not_negative(spec, "spec", &["leaseTransitions"]);
    faults.into_errors()
}

pub(super) fn runtime_class(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    if text(new, "handler").is_empty() {
        faults.required("handler");
    }
    if let Some(old) = old {
        faults.immutable(new, old, "", "handler");
    }
    faults.into_errors()
}

pub(super) fn role(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    rules(new, true)
}

pub(super) fn cluster_role(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    rules(new, false)
}

fn rules(role: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut faults = Faults::default();
    for (index, rule) in items(role, "rules").iter().enumerate() {
        let path = format!("rules[{index}]");
        if items(rule, "verbs").is_empty() {
            let why = "verbs must contain at least one value";
            faults.required_because(format!("{path}.verbs"), why);
        }
        let urls = items(rule, "nonResourceURLs");
        if !urls.is_empty() {
            let value = Value::from(urls.to_vec());
            let field = format!("{path}.nonResourceURLs");
            if namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                faults.invalid(field.clone(), &value, why);
            }
            if !items(rule, "apiGroups").is_empty()
                || !items(rule, "resources").is_empty()
                || !items(rule, "resourceNames").is_empty()
            {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                faults.invalid(field, &value, why);
            }
            continue;
        }
        if items(rule, "apiGroups").is_empty() {
            let why = "resource rules must supply at least one api group";
            faults.required_because(format!("{path}.apiGroups"), why);
        }
        if items(rule, "resources").is_empty() {
            let why = "resource rules must supply at least one resource";
            faults.required_because(format!("{path}.resources"), why);
        }
    }
    faults.into_errors()
}

pub(super) fn role_binding(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    binding(new, old, &["Role", "ClusterRole"], true)
}

pub(super) fn cluster_role_binding(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    binding(new, old, &["ClusterRole"], false)
}

fn binding(new: &Value, old: Option<&Value>, kinds: &[&str], namespaced: bool) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let reference = new.get("roleRef").unwrap_or(&Value::Null);
    let group = text(reference, "apiGroup");
    if !group.is_empty() && group != RBAC {
        faults.unsupported("roleRef.apiGroup", group, &[RBAC]);
    }
    let kind = text(reference, "kind");
    if !kinds.contains(&kind) {
        faults.unsupported("roleRef.kind", kind, kinds);
    }
    if text(reference, "name").is_empty() {
        faults.required("roleRef.name");
    }
    for (index, subject) in items(new, "subjects").iter().enumerate() {
        self::subject(
            &mut faults,
            &format!("subjects[{index}]"),
            subject,
            namespaced,
        );
    }
    if let Some(old) = old
        && old.get("roleRef") != new.get("roleRef")
    {
        faults.invalid(
            "roleRef",
            &json!({"APIGroup": group, "Kind": kind, "Name": text(reference, "name")}),
            "cannot change roleRef",
        );
    }
    faults.into_errors()
}

fn subject(faults: &mut Faults, path: &str, subject: &Value, namespaced: bool) {
    let name = text(subject, "name");
    if name.is_empty() {
        faults.required(format!("{path}.name"));
    }
    let group = text(subject, "apiGroup");
    let field = join(path, "apiGroup");
    match text(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                faults.subdomain(format!("{path}.name"), name);
            }
            if !group.is_empty() {
                faults.unsupported(field, group, &[""]);
            }
            if !namespaced && text(subject, "namespace").is_empty() {
                faults.required(format!("{path}.namespace"));
            }
        }
        "User" | "Group" => {
            if group != RBAC {
                faults.unsupported(field, group, &[RBAC]);
            }
        }
        other => faults.unsupported(
            format!("{path}.kind"),
            other,
            &["ServiceAccount", "User", "Group"],
        ),
    }
}

pub(super) fn volume_attachment(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    for field in ["attacher", "nodeName"] {
        if text(spec(new), field).is_empty() {
            faults.required(format!("spec.{field}"));
        }
    }
    if let Some(old) = old
        && spec(new) != spec(old)
    {
        faults.invalid("spec", spec(new), IMMUTABLE);
    }
    faults.into_errors()
}
