//! The smaller kinds of the core group.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{
    AGE, NAME, NONE, UNKNOWN, UNSET, age, at, column, integer, is_deleted, list_at, name,
    number_at, since, size_at, text_at, text_or, wide,
};
use crate::builtin::fields::{items, text};
use crate::kind::Column;

pub(crate) const NAME_AND_AGE: &[Column] = &[NAME, AGE];

pub(crate) fn name_and_age(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

pub(crate) const CONFIG_MAP: &[Column] = &[NAME, column("Data"), AGE];

pub(crate) fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let keys = size_at(object, "/data") + size_at(object, "/binaryData");
    vec![name(object), keys.into(), age(object, now)]
}

pub(crate) const SECRET: &[Column] = &[NAME, column("Type"), column("Data"), AGE];

pub(crate) fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text_at(object, "/type").into(),
        size_at(object, "/data").into(),
        age(object, now),
    ]
}

pub(crate) const NAMESPACE: &[Column] = &[NAME, column("Status"), AGE];

pub(crate) fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text_at(object, "/status/phase").into(),
        age(object, now),
    ]
}

pub(crate) const NODE: &[Column] = &[
    NAME,
    column("Status"),
    column("Roles"),
    AGE,
    column("Version"),
    wide("Internal-IP"),
    wide("External-IP"),
    wide("OS-Image"),
    wide("Kernel-Version"),
    wide("Container-Runtime"),
];

pub(crate) fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = list_at(object, "/status/conditions")
        .iter()
        .find(|condition| text(condition, "type") == "Ready");
    let mut status = match ready {
        Some(condition) if text(condition, "status") == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if at(object, "/spec/unschedulable") == true {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| {
        list_at(object, "/status/addresses")
            .iter()
            .find(|address| text(address, "type") == kind)
            .map_or(NONE, |address| text(address, "address"))
    };
    let info = |field: &str| -> Value {
        text_or(object, &format!("/status/nodeInfo/{field}"), UNKNOWN).into()
    };
    vec![
        name(object),
        status.into(),
        roles(object).into(),
        age(object, now),
        text_at(object, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = at(node, "/metadata/labels")
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.as_str() {
            "kubernetes.io/role" => value.as_str(),
            key => key.strip_prefix("node-role.kubernetes.io/"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() {
        NONE.to_owned()
    } else {
        roles.join(",")
    }
}

pub(crate) const EVENT: &[Column] = &[
    column("Last Seen"),
    column("Type"),
    column("Reason"),
    column("Object"),
    wide("Subobject"),
    wide("Source"),
    column("Message"),
    wide("First Seen"),
    wide("Count"),
    Column {
        priority: 1,
        ..NAME
    },
];

pub(crate) fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let first = match at(object, "/firstTimestamp") {
        Value::Null => since(at(object, "/eventTime"), now),
        time => since(time, now),
    };
    let mut last = match at(object, "/lastTimestamp") {
        Value::Null => first.clone(),
        time => since(time, now),
    };
    let mut count = number_at(object, "/count").max(1);
    if !at(object, "/series").is_null() {
        last = since(at(object, "/series/lastObservedTime"), now);
        count = number_at(object, "/series/count");
    }
    let kind = text_at(object, "/involvedObject/kind").to_lowercase();
    let target = match text_at(object, "/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = text_or(
        object,
        "/source/component",
        text_at(object, "/reportingComponent"),
    );
    let host = text_or(
        object,
        "/source/host",
        text_at(object, "/reportingInstance"),
    );
    let source = if host.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    };
    vec![
        last.into(),
        text_at(object, "/type").into(),
        text_at(object, "/reason").into(),
        target.into(),
        text_at(object, "/involvedObject/fieldPath").into(),
        source.into(),
        text_at(object, "/message").trim().into(),
        first.into(),
        count.into(),
        name(object),
    ]
}

pub(crate) const CLAIM: &[Column] = &[
    NAME,
    column("Status"),
    column("Volume"),
    column("Capacity"),
    column("Access Modes"),
    column("StorageClass"),
    column("VolumeAttributesClass"),
    AGE,
    wide("VolumeMode"),
];

pub(crate) fn claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let volume = text_at(object, "/spec/volumeName");
    let (capacity, modes) = if volume.is_empty() {
        ("", String::new())
    } else {
        (
            text_at(object, "/status/capacity/storage"),
            access_modes(list_at(object, "/status/accessModes")),
        )
    };
    vec![
        name(object),
        phase(object),
        volume.into(),
        capacity.into(),
        modes.into(),
        text_at(object, "/spec/storageClassName").into(),
        text_or(object, "/spec/volumeAttributesClassName", UNSET).into(),
        age(object, now),
        text_or(object, "/spec/volumeMode", UNSET).into(),
    ]
}

pub(crate) const VOLUME: &[Column] = &[
    NAME,
    column("Capacity"),
    column("Access Modes"),
    column("Reclaim Policy"),
    column("Status"),
    column("Claim"),
    column("StorageClass"),
    column("VolumeAttributesClass"),
    column("Reason"),
    AGE,
    wide("VolumeMode"),
];

pub(crate) fn volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match text_at(object, "/spec/claimRef/name") {
        "" => String::new(),
        name => format!("{}/{name}", text_at(object, "/spec/claimRef/namespace")),
    };
    vec![
        name(object),
        text_at(object, "/spec/capacity/storage").into(),
        access_modes(list_at(object, "/spec/accessModes")).into(),
        text_at(object, "/spec/persistentVolumeReclaimPolicy").into(),
        phase(object),
        claim.into(),
        text_at(object, "/spec/storageClassName").into(),
        text_or(object, "/spec/volumeAttributesClassName", UNSET).into(),
        text_at(object, "/status/reason").into(),
        age(object, now),
        text_or(object, "/spec/volumeMode", UNSET).into(),
    ]
}

fn phase(object: &Value) -> Value {
    if is_deleted(object) {
        "Terminating".into()
    } else {
        text_at(object, "/status/phase").into()
    }
}

fn access_modes(modes: &[Value]) -> String {
    let short: Vec<&str> = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .into_iter()
    .filter(|(mode, _)| modes.iter().any(|known| known == mode))
    .map(|(_, short)| short)
    .collect();
    short.join(",")
}

pub(crate) const QUOTA: &[Column] = &[NAME, column("Request"), column("Limit"), AGE];

pub(crate) fn quota(object: &Value, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let mut hard: Vec<(&String, &Value)> = at(object, "/status/hard")
        .as_object()
        .into_iter()
        .flatten()
        .collect();
    hard.sort_by_key(|(name, _)| name.as_str());
    for (resource, most) in hard {
        let used = at(object, "/status/used").get(resource);
        let line = format!(
            "{resource}: {}/{}",
            used.and_then(Value::as_str).unwrap_or("0"),
            most.as_str().unwrap_or_default()
        );
        if resource.starts_with("limits") {
            limits.push(line);
        } else {
            requests.push(line);
        }
    }
    vec![
        name(object),
        requests.join(", ").into(),
        limits.join(", ").into(),
        age(object, now),
    ]
}

pub(crate) const ENDPOINTS: &[Column] = &[NAME, column("Endpoints"), AGE];

pub(crate) fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut targets = Vec::new();
    for subset in list_at(object, "/subsets") {
        let ports = items(subset, "ports");
        for address in items(subset, "addresses") {
            let ip = text(address, "ip");
            if ports.is_empty() {
                targets.push(ip.to_owned());
            }
            for port in ports {
                targets.push(join_host_port(ip, number_at(port, "/port")));
            }
        }
    }
    vec![
        name(object),
        super::cells::shortened(&targets, 3, NONE).into(),
        age(object, now),
    ]
}

fn join_host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

pub(crate) const REPLICATION_CONTROLLER: &[Column] = &[
    NAME,
    integer("Desired"),
    integer("Current"),
    integer("Ready"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
