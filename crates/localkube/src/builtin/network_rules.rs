//! What Services, Ingresses and NetworkPolicies must obey.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::check::{Faults, PORT};
use super::fields::{has, items, text};
use crate::status::FieldError;

fn spec(object: &Value) -> &Value {
    object.get("spec").unwrap_or(&Value::Null)
}

pub(super) fn service(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let new_spec = spec(new);
    let kind = text(new_spec, "type");
    let address = text(new_spec, "clusterIP");
    if items(new_spec, "ports").is_empty() && address != "None" && kind != "ExternalName" {
        faults.required("spec.ports");
    }
    match kind {
        "ExternalName" => {
            if !address.is_empty() {
                faults.forbidden(
                    "spec.clusterIPs",
                    "may not be set for ExternalName services",
                );
            }
            match text(new_spec, "externalName") {
                "" => faults.required("spec.externalName"),
                name => {
                    faults.subdomain("spec.externalName", name.strip_suffix('.').unwrap_or(name))
                }
            }
        }
        "NodePort" | "LoadBalancer" if address == "None" => faults.invalid_text(
            "spec.clusterIPs[0]",
            "None",
            &format!("may not be set to 'None' for {kind} services"),
        ),
        _ => {}
    }
    service_ports(&mut faults, new_spec, kind);
    faults.labels("spec.selector", new_spec.get("selector"));
    faults.one_of(new_spec, "spec", "sessionAffinity", &["ClientIP", "None"]);
    if kind != "ExternalName" {
        for (index, address) in items(new_spec, "clusterIPs").iter().enumerate() {
            let address = address.as_str().unwrap_or_default();
            if address != "None" {
                faults.address(format!("spec.clusterIPs[{index}]"), address);
            }
        }
    }
    for (index, address) in items(new_spec, "externalIPs").iter().enumerate() {
        faults.address(
            format!("spec.externalIPs[{index}]"),
            address.as_str().unwrap_or_default(),
        );
    }
    faults.one_of(
        new_spec,
        "spec",
        "type",
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    );
    let policy = text(new_spec, "externalTrafficPolicy");
    let outside =
        matches!(kind, "NodePort" | "LoadBalancer") || !items(new_spec, "externalIPs").is_empty();
    if !policy.is_empty() {
        if outside {
            faults.one_of(
                new_spec,
                "spec",
                "externalTrafficPolicy",
                &["Cluster", "Local"],
            );
        } else {
            faults.invalid_text(
                "spec.externalTrafficPolicy",
                policy,
                "may only be set for externally-accessible services",
            );
        }
    }
    faults.one_of(
        new_spec,
        "spec",
        "internalTrafficPolicy",
        &["Cluster", "Local"],
    );
    if let Some(old) = old {
        let old_spec = spec(old);
        let before = items(old_spec, "clusterIPs");
        let stays = text(old_spec, "type") != "ExternalName" && kind != "ExternalName";
        let after = new_spec.get("clusterIPs").unwrap_or(&Value::Null);
        if stays
            && let Some(first) = before.first()
            && items(new_spec, "clusterIPs").first() != Some(first)
        {
            faults.invalid("spec.clusterIPs[0]", after, "may not change once set");
        }
    }
    faults.into_errors()
}

fn service_ports(faults: &mut Faults, spec: &Value, kind: &str) {
    let ports = items(spec, "ports");
    let mut names = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = text(port, "name");
        if name.is_empty() {
            if ports.len() > 1 {
                faults.required(format!("{path}.name"));
            }
        } else {
            faults.label(format!("{path}.name"), name);
            if !names.insert(name) {
                faults.duplicate(format!("{path}.name"), &name.into());
            }
        }
        faults.port_number(
            format!("{path}.port"),
            port.get("port").unwrap_or(&Value::from(0)),
        );
        faults.one_of(port, &path, "protocol", &["SCTP", "TCP", "UDP"]);
        faults.int_or_port(
            &format!("{path}.targetPort"),
            port.get("targetPort").unwrap_or(&Value::from(0)),
        );
        let node_port = port.get("nodePort").and_then(Value::as_i64).unwrap_or(0);
        if node_port != 0 && matches!(kind, "ClusterIP" | "ExternalName") {
            faults.forbidden(
                format!("{path}.nodePort"),
                &format!("may not be used when `type` is '{kind}'"),
            );
        } else if node_port != 0 && !(1..=65535).contains(&node_port) {
            faults.invalid(format!("{path}.nodePort"), &node_port.into(), PORT);
        }
    }
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let key = (
            text(port, "protocol"),
            port.get("port").and_then(Value::as_i64),
        );
        if !seen.insert(key) {
            faults.duplicate(
                format!("spec.ports[{index}]"),
                &json!({
                    "Name": "", "Protocol": key.0, "AppProtocol": null, "Port": key.1,
                    "TargetPort": 0, "NodePort": 0,
                }),
            );
        }
    }
}

pub(super) fn ingress(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let spec = spec(new);
    if items(spec, "rules").is_empty() && !has(spec, "defaultBackend") {
        faults.invalid(
            "spec",
            &Value::Null,
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    if let Some(backend) = spec.get("defaultBackend").filter(|value| !value.is_null()) {
        self::backend(&mut faults, "spec.defaultBackend", backend);
    }
    for (index, rule) in items(spec, "rules").iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        let host = text(rule, "host");
        if host.parse::<std::net::IpAddr>().is_ok() {
            let why = "must be a DNS name, not an IP address";
            faults.invalid_text(format!("{path}.host"), host, why);
        } else if !host.is_empty() {
            let name = host.strip_prefix("*.").unwrap_or(host);
            faults.subdomain(format!("{path}.host"), name);
        }
        let Some(http) = rule.get("http").filter(|value| !value.is_null()) else {
            continue;
        };
        if items(http, "paths").is_empty() {
            faults.required(format!("{path}.http.paths"));
        }
        for (index, route) in items(http, "paths").iter().enumerate() {
            let path = format!("{path}.http.paths[{index}]");
            match text(route, "pathType") {
                "" => faults
                    .required_because(format!("{path}.pathType"), "pathType must be specified"),
                "Exact" | "Prefix" if !text(route, "path").starts_with('/') => {
                    let why = "must be an absolute path";
                    faults.invalid_text(format!("{path}.path"), text(route, "path"), why);
                }
                _ => faults.one_of(
                    route,
                    &path,
                    "pathType",
                    &["Exact", "ImplementationSpecific", "Prefix"],
                ),
            }
            backend(
                &mut faults,
                &format!("{path}.backend"),
                route.get("backend").unwrap_or(&Value::Null),
            );
        }
    }
    faults.into_errors()
}

fn backend(faults: &mut Faults, path: &str, backend: &Value) {
    if has(backend, "resource") {
        return;
    }
    let Some(service) = backend.get("service").filter(|value| !value.is_null()) else {
        faults.invalid_text(path, "", "resource or service backend is required");
        return;
    };
    if text(service, "name").is_empty() {
        faults.required(format!("{path}.service.name"));
    }
    let port = service.get("port").unwrap_or(&Value::Null);
    match (port.get("number"), text(port, "name")) {
        (None, "") => faults.required_because(path, "port name or number is required"),
        (Some(number), "") => faults.port_number(format!("{path}.service.port.number"), number),
        (None, name) => faults.port_name(&format!("{path}.service.port.name"), name),
        (Some(_), _) => faults.invalid_text(path, "", "cannot set both port name & port number"),
    }
}

pub(super) fn ingress_class(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    if let Some(old) = old {
        faults.immutable(spec(new), spec(old), "spec", "controller");
    } else if text(spec(new), "controller").is_empty() {
        faults.required("spec.controller");
    }
    faults.into_errors()
}

pub(super) fn network_policy(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let spec = spec(new);
    if let Some(selector) = spec.get("podSelector") {
        faults.selector("spec.podSelector", selector);
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in items(spec, direction).iter().enumerate() {
            let path = format!("spec.{direction}[{index}]");
            for (index, port) in items(rule, "ports").iter().enumerate() {
                let path = format!("{path}.ports[{index}]");
                faults.one_of(port, &path, "protocol", &["TCP", "UDP", "SCTP"]);
                if let Some(number) = port.get("port").filter(|value| !value.is_null()) {
                    faults.int_or_port(&format!("{path}.port"), number);
                }
            }
            for (index, peer) in items(rule, peers).iter().enumerate() {
                let path = format!("{path}.{peers}[{index}]");
                let selectors = has(peer, "podSelector") || has(peer, "namespaceSelector");
                match peer.get("ipBlock").filter(|value| !value.is_null()) {
                    None if !selectors => {
                        faults.required_because(path, "must specify a peer");
                    }
                    Some(_) if selectors => {
                        faults.forbidden(path, "may not specify both ipBlock and another peer")
                    }
                    Some(block) if !is_network(text(block, "cidr")) => faults.invalid_text(
                        format!("{path}.ipBlock.cidr"),
                        text(block, "cidr"),
                        "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                    ),
                    _ => {}
                }
            }
        }
    }
    for (index, kind) in items(spec, "policyTypes").iter().enumerate() {
        let kind = kind.as_str().unwrap_or_default();
        if !matches!(kind, "Ingress" | "Egress") {
            let path = format!("spec.policyTypes[{index}]");
            faults.unsupported(path, kind, &["Ingress", "Egress"]);
        }
    }
    faults.into_errors()
}

fn is_network(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else {
        return false;
    };
    let Ok(address) = address.parse::<std::net::IpAddr>() else {
        return false;
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

pub(super) fn endpoints(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    for (index, subset) in items(new, "subsets").iter().enumerate() {
        let path = format!("subsets[{index}]");
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|list| items(subset, list).is_empty()) {
            let why = "must specify `addresses` or `notReadyAddresses`";
            faults.required_because(&path, why);
        }
        for list in lists {
            for (index, address) in items(subset, list).iter().enumerate() {
                faults.address(format!("{path}.{list}[{index}].ip"), text(address, "ip"));
            }
        }
        for (index, port) in items(subset, "ports").iter().enumerate() {
            let field = format!("{path}.ports[{index}].port");
            faults.port_number(field, port.get("port").unwrap_or(&Value::from(0)));
        }
    }
    faults.into_errors()
}

pub(super) fn endpoint_slice(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    if text(new, "addressType").is_empty() {
        faults.required("addressType");
    } else {
        faults.one_of(new, "", "addressType", &["FQDN", "IPv4", "IPv6"]);
    }
    for (index, endpoint) in items(new, "endpoints").iter().enumerate() {
        if items(endpoint, "addresses").is_empty() {
            let field = format!("endpoints[{index}].addresses");
            faults.required_because(field, "must contain at least 1 address");
        }
    }
    if let Some(old) = old {
        faults.immutable(new, old, "", "addressType");
    }
    faults.into_errors()
}
