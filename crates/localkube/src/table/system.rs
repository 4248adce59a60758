//! Storage, scheduling, leases, RBAC bindings.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{
    AGE, NAME, UNSET, age, at, boolean, column, integer, list_at, name, number_at, text_at,
    text_or, wide,
};
use crate::builtin::fields::text;
use crate::kind::Column;

fn flag(object: &Value, pointer: &str) -> Value {
    at(object, pointer).as_bool().unwrap_or(false).into()
}

pub(crate) const STORAGE_CLASS: &[Column] = &[
    NAME,
    column("Provisioner"),
    column("ReclaimPolicy"),
    column("VolumeBindingMode"),
    column("AllowVolumeExpansion"),
    AGE,
];

pub(crate) fn storage_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let annotations = at(object, "/metadata/annotations");
    let standard = text(annotations, "storageclass.kubernetes.io/is-default-class") == "true"
        || text(
            annotations,
            "storageclass.beta.kubernetes.io/is-default-class",
        ) == "true";
    let mut title = text_at(object, "/metadata/name").to_owned();
    if standard {
        title.push_str(" (default)");
    }
    vec![
        title.into(),
        text_at(object, "/provisioner").into(),
        text_or(object, "/reclaimPolicy", "Delete").into(),
        text_or(object, "/volumeBindingMode", "Immediate").into(),
        flag(object, "/allowVolumeExpansion"),
        age(object, now),
    ]
}

pub(crate) const CSI_DRIVER: &[Column] = &[
    NAME,
    boolean("AttachRequired"),
    boolean("PodInfoOnMount"),
    boolean("StorageCapacity"),
    column("TokenRequests"),
    boolean("RequiresRepublish"),
    column("Modes"),
    AGE,
];

pub(crate) fn csi_driver(object: &Value, now: Timestamp) -> Vec<Value> {
    let join = |parts: Vec<&str>| {
        if parts.is_empty() {
            UNSET.to_owned()
        } else {
            parts.join(",")
        }
    };
    let audiences = list_at(object, "/spec/tokenRequests")
        .iter()
        .map(|request| text(request, "audience"))
        .collect();
    let modes = list_at(object, "/spec/volumeLifecycleModes")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    vec![
        name(object),
        flag(object, "/spec/attachRequired"),
        flag(object, "/spec/podInfoOnMount"),
        flag(object, "/spec/storageCapacity"),
        join(audiences).into(),
        flag(object, "/spec/requiresRepublish"),
        join(modes).into(),
        age(object, now),
    ]
}

pub(crate) const CSI_NODE: &[Column] = &[NAME, integer("Drivers"), AGE];

pub(crate) fn csi_node(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        list_at(object, "/spec/drivers").len().into(),
        age(object, now),
    ]
}

pub(crate) const VOLUME_ATTACHMENT: &[Column] = &[
    NAME,
    Column {
        format: "name",
        ..column("Attacher")
    },
    column("PV"),
    column("Node"),
    boolean("Attached"),
    AGE,
];

pub(crate) fn volume_attachment(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text_at(object, "/spec/attacher").into(),
        text_at(object, "/spec/source/persistentVolumeName").into(),
        text_at(object, "/spec/nodeName").into(),
        flag(object, "/status/attached"),
        age(object, now),
    ]
}

pub(crate) const PRIORITY_CLASS: &[Column] = &[
    NAME,
    integer("Value"),
    boolean("Global-Default"),
    AGE,
    column("PreemptionPolicy"),
];

pub(crate) fn priority_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        number_at(object, "/value").into(),
        flag(object, "/globalDefault"),
        age(object, now),
        text_at(object, "/preemptionPolicy").into(),
    ]
}

pub(crate) const LEASE: &[Column] = &[NAME, column("Holder"), AGE];

pub(crate) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text_at(object, "/spec/holderIdentity").into(),
        age(object, now),
    ]
}

pub(crate) const RUNTIME_CLASS: &[Column] = &[NAME, column("Handler"), AGE];

pub(crate) fn runtime_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text_at(object, "/handler").into(),
        age(object, now),
    ]
}

pub(crate) const ROLE_BINDING: &[Column] = &[
    NAME,
    column("Role"),
    AGE,
    wide("Users"),
    wide("Groups"),
    wide("ServiceAccounts"),
];

pub(crate) fn role_binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let subjects = |kind: &str| -> Value {
        let names: Vec<String> = list_at(object, "/subjects")
            .iter()
            .filter(|subject| text(subject, "kind") == kind)
            .map(|subject| match kind {
                "ServiceAccount" => {
                    format!("{}/{}", text(subject, "namespace"), text(subject, "name"))
                }
                _ => text(subject, "name").to_owned(),
            })
            .collect();
        names.join(", ").into()
    };
    vec![
        name(object),
        format!(
            "{}/{}",
            text_at(object, "/roleRef/kind"),
            text_at(object, "/roleRef/name")
        )
        .into(),
        age(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}
