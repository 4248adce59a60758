//! What Pods and Pod templates must obey.

use std::collections::HashSet;

use serde_json::Value;

use super::check::{Faults, PORT};
use super::fields::{has, items, remove, set, text};
use super::quantity::Quantity;
use crate::status::FieldError;

const FIELD_PATHS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const UPDATE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Rules for `kind: Pod`.
pub(super) fn pod(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let spec = new.get("spec").unwrap_or(&Value::Null);
    match old {
        None => {
            if !items(spec, "ephemeralContainers").is_empty() {
                faults.forbidden("spec.ephemeralContainers", "cannot be set on create");
            }
            pod_spec(&mut faults, "spec", spec);
        }
        Some(old) => update(&mut faults, spec, old.get("spec").unwrap_or(&Value::Null)),
    }
    faults.into_errors()
}

fn update(faults: &mut Faults, new: &Value, old: &Value) {
    for list in ["containers", "initContainers"] {
        if items(new, list).len() != items(old, list).len() {
            faults.forbidden(
                format!("spec.{list}"),
                "pod updates may not add or remove containers",
            );
            return;
        }
        for (index, container) in items(new, list).iter().enumerate() {
            image(faults, &format!("spec.{list}[{index}]"), container);
        }
    }
    let (before, after) = (
        old.get("activeDeadlineSeconds").and_then(Value::as_i64),
        new.get("activeDeadlineSeconds").and_then(Value::as_i64),
    );
    match (before, after) {
        (Some(old), Some(new)) if new > old => faults.invalid(
            "spec.activeDeadlineSeconds",
            &new.into(),
            "must be less than or equal to previous value",
        ),
        (Some(_), None) => faults.invalid(
            "spec.activeDeadlineSeconds",
            &Value::Null,
            "must not update from a positive integer to nil value",
        ),
        _ => {}
    }
    let tolerations = items(new, "tolerations");
    let kept = items(old, "tolerations")
        .iter()
        .all(|toleration| tolerations.contains(toleration));
    // With what may change made equal, the rest must be equal.
    let mut munged = new.clone();
    for field in ["activeDeadlineSeconds", "tolerations"] {
        let allowed = field != "tolerations" || kept;
        match old.get(field) {
            _ if !allowed => {}
            Some(value) => set(&mut munged, field, value.clone()),
            None => remove(&mut munged, field),
        }
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        let Some(Value::Array(containers)) = munged.get_mut(list) else {
            continue;
        };
        for (container, before) in containers.iter_mut().zip(items(old, list)) {
            if let Some(image) = before.get("image") {
                set(container, "image", image.clone());
            }
        }
    }
    // Ephemeral containers are added by their own subresource, nodeName by binding, gates by schedulers.
    for field in ["ephemeralContainers", "schedulingGates"] {
        if let Some(value) = new.get(field) {
            set(&mut munged, field, value.clone());
        }
    }
    let mut old = old.clone();
    for field in ["ephemeralContainers", "schedulingGates"] {
        remove(&mut old, field);
        remove(&mut munged, field);
    }
    if munged != old {
        faults.forbidden("spec", UPDATE);
    }
}

/// Rules for a PodTemplateSpec inside a workload.
pub(super) fn template(faults: &mut Faults, path: &str, template: &Value) {
    let metadata = template.get("metadata").unwrap_or(&Value::Null);
    faults.labels(&format!("{path}.labels"), metadata.get("labels"));
    let spec = template.get("spec").unwrap_or(&Value::Null);
    let path = format!("{path}.spec");
    if !items(spec, "ephemeralContainers").is_empty() {
        faults.forbidden(
            format!("{path}.ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
    pod_spec(faults, &path, spec);
}

fn pod_spec(faults: &mut Faults, path: &str, spec: &Value) {
    let volumes = volumes(faults, &format!("{path}.volumes"), spec);
    let containers = items(spec, "containers");
    if containers.is_empty() {
        faults.required(format!("{path}.containers"));
    }
    let mut names = HashSet::new();
    for list in ["containers", "initContainers"] {
        for (index, container) in items(spec, list).iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            self::container(faults, &path, container, &volumes, &mut names);
        }
    }
    faults.one_of(
        spec,
        path,
        "restartPolicy",
        &["Always", "OnFailure", "Never"],
    );
    faults.one_of(
        spec,
        path,
        "dnsPolicy",
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    if text(spec, "dnsPolicy") == "None" && !has(spec, "dnsConfig") {
        faults.required_because(
            format!("{path}.dnsConfig"),
            "must provide `dnsConfig` when `dnsPolicy` is None",
        );
    }
    faults.labels(&format!("{path}.nodeSelector"), spec.get("nodeSelector"));
    if let Some(user) = spec.pointer("/securityContext/runAsUser")
        && user.as_i64().is_some_and(|user| user < 0)
    {
        faults.invalid(
            format!("{path}.securityContext.runAsUser"),
            user,
            "must be between 0 and 2147483647, inclusive",
        );
    }
    for (field, value) in [
        ("serviceAccountName", text(spec, "serviceAccountName")),
        ("nodeName", text(spec, "nodeName")),
    ] {
        if !value.is_empty() {
            faults.subdomain(format!("{path}.{field}"), value);
        }
    }
    if let Some(deadline) = spec.get("activeDeadlineSeconds")
        && deadline
            .as_i64()
            .is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds))
    {
        faults.invalid(
            format!("{path}.activeDeadlineSeconds"),
            deadline,
            "must be between 1 and 2147483647, inclusive",
        );
    }
    for field in ["hostname", "subdomain"] {
        let value = text(spec, field);
        if !value.is_empty() {
            faults.label(format!("{path}.{field}"), value);
        }
    }
    for (index, toleration) in items(spec, "tolerations").iter().enumerate() {
        let path = format!("{path}.tolerations[{index}]");
        let operator = text(toleration, "operator");
        if text(toleration, "key").is_empty() && operator != "Exists" {
            faults.invalid_text(
                format!("{path}.operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if !operator.is_empty() {
            faults.one_of(toleration, &path, "operator", &["Equal", "Exists"]);
        }
    }
}

fn volumes(faults: &mut Faults, path: &str, spec: &Value) -> HashSet<String> {
    let mut names = HashSet::new();
    for (index, volume) in items(spec, "volumes").iter().enumerate() {
        let path = format!("{path}[{index}]");
        let name = text(volume, "name");
        if name.is_empty() {
            faults.required(format!("{path}.name"));
        } else {
            faults.label(format!("{path}.name"), name);
            if !names.insert(name.to_owned()) {
                faults.duplicate(format!("{path}.name"), &name.into());
            }
        }
        let mut sources = 0;
        // Kubernetes looks at the kinds of volumes in its own order.
        for (source, field) in [
            ("emptyDir", ""),
            ("hostPath", "path"),
            ("secret", "secretName"),
            ("nfs", "server"),
            ("persistentVolumeClaim", "claimName"),
            ("configMap", "name"),
            ("downwardAPI", ""),
            ("csi", "driver"),
            ("projected", ""),
            ("ephemeral", ""),
        ] {
            let Some(value) = volume.get(source).filter(|value| !value.is_null()) else {
                continue;
            };
            let path = format!("{path}.{source}");
            sources += 1;
            if sources > 1 {
                faults.forbidden(path, "may not specify more than 1 volume type");
                continue;
            }
            if !field.is_empty() && text(value, field).is_empty() {
                faults.required(format!("{path}.{field}"));
            }
            mode(faults, &path, "defaultMode", value);
            if source != "downwardAPI" {
                key_paths(faults, &path, value);
            }
        }
    }
    names
}

fn mode(faults: &mut Faults, path: &str, field: &str, value: &Value) {
    if let Some(mode) = value.get(field)
        && mode
            .as_i64()
            .is_some_and(|mode| !(0..=0o777).contains(&mode))
    {
        faults.invalid(
            format!("{path}.{field}"),
            mode,
            "must be a number between 0 and 0777 (octal), both inclusive",
        );
    }
}

fn key_paths(faults: &mut Faults, path: &str, source: &Value) {
    for (index, item) in items(source, "items").iter().enumerate() {
        let path = format!("{path}.items[{index}]");
        if text(item, "key").is_empty() {
            faults.required(format!("{path}.key"));
        }
        let target = text(item, "path");
        let field = format!("{path}.path");
        if target.is_empty() {
            faults.required(field);
        } else if target.starts_with('/') {
            faults.invalid_text(field, target, "must be a relative path");
        } else if target.split('/').any(|part| part == "..") {
            faults.invalid_text(field, target, "must not contain '..'");
        }
        mode(faults, &path, "mode", item);
    }
}

fn image(faults: &mut Faults, path: &str, container: &Value) {
    let image = text(container, "image");
    if image.is_empty() {
        faults.required(format!("{path}.image"));
    } else if image.trim() != image {
        faults.invalid_text(
            format!("{path}.image"),
            image,
            "must not have leading or trailing whitespace",
        );
    }
}

fn container(
    faults: &mut Faults,
    path: &str,
    container: &Value,
    volumes: &HashSet<String>,
    names: &mut HashSet<String>,
) {
    let name = text(container, "name");
    if name.is_empty() {
        faults.required(format!("{path}.name"));
    } else {
        faults.label(format!("{path}.name"), name);
        if !names.insert(name.to_owned()) {
            faults.duplicate(format!("{path}.name"), &name.into());
        }
    }
    image(faults, path, container);
    lifecycle(faults, path, container);
    faults.one_of(
        container,
        path,
        "terminationMessagePolicy",
        &["File", "FallbackToLogsOnError"],
    );
    ports(faults, path, container);
    env(faults, path, container);
    mounts(faults, path, container, volumes);
    faults.one_of(
        container,
        path,
        "imagePullPolicy",
        &["Always", "IfNotPresent", "Never"],
    );
    resources(faults, path, container);
}

fn lifecycle(faults: &mut Faults, path: &str, container: &Value) {
    let lifecycle = container.get("lifecycle").unwrap_or(&Value::Null);
    for hook in ["postStart", "preStop"] {
        if let Some(hook_value) = lifecycle.get(hook).filter(|value| !value.is_null()) {
            handler(faults, &format!("{path}.lifecycle.{hook}"), hook_value);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get(name).filter(|value| !value.is_null()) else {
            continue;
        };
        let path = format!("{path}.{name}");
        handler(faults, &path, probe);
        faults.not_negative(
            probe,
            &path,
            &[
                "initialDelaySeconds",
                "timeoutSeconds",
                "periodSeconds",
                "successThreshold",
                "failureThreshold",
            ],
        );
        if let Some(threshold) = probe.get("successThreshold")
            && name != "readinessProbe"
            && threshold.as_i64().is_some_and(|threshold| threshold > 1)
        {
            faults.invalid(format!("{path}.successThreshold"), threshold, "must be 1");
        }
    }
}

fn handler(faults: &mut Faults, path: &str, handler: &Value) {
    let mut count = 0;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let Some(action) = handler.get(kind).filter(|value| !value.is_null()) else {
            continue;
        };
        let path = format!("{path}.{kind}");
        count += 1;
        if count > 1 {
            faults.forbidden(path, "may not specify more than 1 handler type");
            continue;
        }
        match kind {
            "exec" if items(action, "command").is_empty() => {
                faults.required(format!("{path}.command"));
            }
            "httpGet" => {
                faults.int_or_port(
                    &format!("{path}.port"),
                    action.get("port").unwrap_or(&Value::Null),
                );
                faults.one_of(action, &path, "scheme", &["HTTP", "HTTPS"]);
            }
            "tcpSocket" | "grpc" => {
                let port = action.get("port").unwrap_or(&Value::Null);
                faults.int_or_port(&format!("{path}.port"), port);
            }
            _ => {}
        }
    }
    if count == 0 {
        faults.required_because(path, "must specify a handler type");
    }
}

fn ports(faults: &mut Faults, path: &str, container: &Value) {
    let mut names = HashSet::new();
    for (index, port) in items(container, "ports").iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        let name = text(port, "name");
        if !name.is_empty() {
            let before = format!("{path}.name");
            if name.len() <= 15 && !super::check::is_label(name) {
                let why = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)";
                faults.invalid_text(before, name, why);
            } else {
                faults.port_name(&before, name);
            }
            if !names.insert(name) {
                faults.duplicate(format!("{path}.name"), &name.into());
            }
        }
        match port.get("containerPort").and_then(Value::as_i64) {
            None | Some(0) => faults.required(format!("{path}.containerPort")),
            Some(number) => faults.port_number(format!("{path}.containerPort"), &number.into()),
        }
        if let Some(host) = port.get("hostPort")
            && host
                .as_i64()
                .is_some_and(|port| port != 0 && !(1..=65535).contains(&port))
        {
            faults.invalid(format!("{path}.hostPort"), host, PORT);
        }
        faults.one_of(port, &path, "protocol", &["SCTP", "TCP", "UDP"]);
    }
}

fn env(faults: &mut Faults, path: &str, container: &Value) {
    for (index, variable) in items(container, "env").iter().enumerate() {
        let path = format!("{path}.env[{index}]");
        let name = text(variable, "name");
        if name.is_empty() {
            faults.required(format!("{path}.name"));
        } else if !name.chars().all(|c| matches!(c, ' '..='~') && c != '=') {
            faults.invalid_text(
                format!("{path}.name"),
                name,
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            );
        }
        let Some(source) = variable.get("valueFrom").filter(|value| !value.is_null()) else {
            continue;
        };
        let path = format!("{path}.valueFrom");
        if !text(variable, "value").is_empty() {
            faults.invalid_text(&path, "", "may not be specified when `value` is not empty");
            continue;
        }
        let mut sources = 0;
        if let Some(field) = source.get("fieldRef").filter(|value| !value.is_null()) {
            sources += 1;
            let field_path = text(field, "fieldPath");
            let at = format!("{path}.fieldRef.fieldPath");
            let subscripted = ["metadata.labels['", "metadata.annotations['"]
                .iter()
                .any(|prefix| field_path.starts_with(prefix) && field_path.ends_with("']"));
            if field_path.is_empty() {
                faults.required(at);
            } else if !subscripted && !FIELD_PATHS.contains(&field_path) {
                faults.invalid_text(
                    at,
                    field_path,
                    &format!("error converting fieldPath: field label not supported: {field_path}"),
                );
            }
        }
        if let Some(field) = source
            .get("resourceFieldRef")
            .filter(|value| !value.is_null())
        {
            sources += 1;
            if text(field, "resource").is_empty() {
                faults.required(format!("{path}.resourceFieldRef.resource"));
            }
        }
        for kind in ["configMapKeyRef", "secretKeyRef"] {
            if let Some(field) = source.get(kind).filter(|value| !value.is_null()) {
                sources += 1;
                faults.subdomain(format!("{path}.{kind}.name"), text(field, "name"));
                match text(field, "key") {
                    "" => faults.required(format!("{path}.{kind}.key")),
                    key => faults.config_key(&format!("{path}.{kind}.key"), key),
                }
            }
        }
        sources += usize::from(has(source, "fileKeyRef"));
        if sources == 0 {
            faults.invalid_text(
                &path,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            );
        } else if sources > 1 {
            faults.invalid_text(
                &path,
                "",
                "may not have more than one field specified at a time",
            );
        }
    }
    for source in items(container, "envFrom") {
        if !has(source, "configMapRef") && !has(source, "secretRef") {
            faults.invalid_text(
                format!("{path}.envFrom"),
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            );
        }
    }
}

fn mounts(faults: &mut Faults, path: &str, container: &Value, volumes: &HashSet<String>) {
    let mut paths = HashSet::new();
    for (index, mount) in items(container, "volumeMounts").iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let name = text(mount, "name");
        if name.is_empty() {
            faults.required(format!("{path}.name"));
        }
        if !volumes.contains(name) {
            faults.not_found(format!("{path}.name"), name);
        }
        let target = text(mount, "mountPath");
        if target.is_empty() {
            faults.required(format!("{path}.mountPath"));
        }
        if !paths.insert(target) {
            faults.invalid_text(format!("{path}.mountPath"), target, "must be unique");
        }
    }
}

fn resources(faults: &mut Faults, path: &str, container: &Value) {
    let resources = container.get("resources").unwrap_or(&Value::Null);
    let limits = resources.get("limits").and_then(Value::as_object);
    let requests = resources.get("requests").and_then(Value::as_object);
    for (kind, map) in [("limits", limits), ("requests", requests)] {
        for (name, value) in map.into_iter().flatten() {
            let field = format!("{path}.resources.{kind}[{name}]");
            let standard = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
                || name.starts_with("hugepages-");
            if !standard && !name.contains('/') {
                let value = Value::from(name.as_str());
                let why = "must be a standard resource type or fully qualified";
                faults.invalid(field.clone(), &value, why);
                faults.invalid(
                    field.clone(),
                    &value,
                    "must be a standard resource for containers",
                );
            }
            if Quantity::from_value(value).is_some_and(Quantity::is_negative) {
                faults.invalid(field, value, super::check::NOT_NEGATIVE);
            }
        }
    }
    for (name, request) in requests.into_iter().flatten() {
        let Some(limit) = limits.and_then(|limits| limits.get(name)) else {
            continue;
        };
        let (Some(most), Some(asked)) =
            (Quantity::from_value(limit), Quantity::from_value(request))
        else {
            continue;
        };
        if asked.cmp(most).is_gt() {
            faults.invalid_text(
                format!("{path}.resources.requests"),
                &asked.canonical(),
                &format!(
                    "must be less than or equal to {name} limit of {}",
                    most.canonical()
                ),
            );
        }
    }
}
