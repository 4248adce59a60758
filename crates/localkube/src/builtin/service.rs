//! Services: defaults, addresses and node ports.
//!
//! Addresses and node ports are derived from the Service's name, so that they need no state and survive
//! a restart. Two Services may meet on one; whoever stores them tries the next `attempt` then.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::fields::{
    default, default_text, ensure, has, items, items_mut, remove, set, text, within,
};

/// First node port of the range 30000-32767.
pub const NODE_PORT_FIRST: u16 = 30000;
/// Number of node ports.
pub const NODE_PORT_COUNT: u16 = 2768;

/// The `attempt`-th address in 10.96.0.0/16 for a Service. Never the network's first 10 addresses, which
/// are kept for the cluster's own Services, nor its last.
pub fn cluster_ip(namespace: &str, name: &str, attempt: u32) -> String {
    const FIRST: u32 = 10;
    const COUNT: u32 = 65_535 - FIRST;
    let host = FIRST + hash(&[namespace, name, "address"]).wrapping_add(attempt) % COUNT;
    format!("10.96.{}.{}", host >> 8, host & 0xff)
}

/// The `attempt`-th node port for a Service's port.
pub fn node_port(namespace: &str, name: &str, port: &str, attempt: u32) -> u16 {
    let offset = hash(&[namespace, name, port]).wrapping_add(attempt) % u32::from(NODE_PORT_COUNT);
    NODE_PORT_FIRST + u16::try_from(offset).unwrap_or(0)
}

fn hash(parts: &[&str]) -> u32 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update([0]);
    }
    let digest = hash.finalize();
    digest
        .iter()
        .take(4)
        .fold(0, |sum, byte| (sum << 8) | u32::from(*byte))
}

/// Defaults on create and update.
pub(super) fn defaults(object: &mut Value) {
    ensure(object, "status", |status| {
        default(status, "loadBalancer", json!({}));
    });
    ensure(object, "spec", |spec| {
        default_text(spec, "sessionAffinity", "None");
        default_text(spec, "type", "ClusterIP");
        if text(spec, "sessionAffinity") == "ClientIP" {
            ensure(spec, "sessionAffinityConfig", |config| {
                ensure(config, "clientIP", |client| {
                    default(client, "timeoutSeconds", 10_800);
                });
            });
        } else {
            remove(spec, "sessionAffinityConfig");
        }
        for port in items_mut(spec, "ports") {
            default_text(port, "protocol", "TCP");
            let target = port.get("targetPort");
            let unset = target.is_none_or(|t| t.is_null() || t == 0 || t == "");
            if unset && let Some(number) = port.get("port").cloned() {
                set(port, "targetPort", number);
            }
        }
        match text(spec, "type") {
            "NodePort" | "LoadBalancer" => {
                default_text(spec, "externalTrafficPolicy", "Cluster");
                default_text(spec, "internalTrafficPolicy", "Cluster");
            }
            "ClusterIP" => default_text(spec, "internalTrafficPolicy", "Cluster"),
            _ => {}
        }
        if text(spec, "type") == "LoadBalancer" {
            default(spec, "allocateLoadBalancerNodePorts", true);
        }
    });
}

/// Allocates what a new Service needs.
pub(super) fn prepare_create(object: &mut Value) {
    set(object, "status", json!({"loadBalancer": {}}));
    allocate(object);
}

/// Keeps what was allocated, and allocates what a changed type needs.
pub(super) fn prepare_update(object: &mut Value, old: &Value) {
    let old_spec = old.get("spec").cloned().unwrap_or(Value::Null);
    within(object, "spec", |spec| {
        let external = text(spec, "type") == "ExternalName";
        let was_external = text(&old_spec, "type") == "ExternalName";
        if !external && !was_external {
            follow_first_address(spec, &old_spec);
            if text(spec, "clusterIP").is_empty() && items(spec, "clusterIPs").is_empty() {
                for field in ["clusterIP", "clusterIPs"] {
                    if let Some(value) = old_spec.get(field) {
                        set(spec, field, value.clone());
                    }
                }
            }
            for field in ["ipFamilies", "ipFamilyPolicy"] {
                if let Some(value) = old_spec.get(field) {
                    default(spec, field, value.clone());
                }
            }
        }
        if external && !was_external {
            let unchanged = spec.get("clusterIP") == old_spec.get("clusterIP");
            if unchanged {
                for field in ["clusterIP", "clusterIPs"] {
                    remove(spec, field);
                }
            }
            for field in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
                remove(spec, field);
            }
        }
        if wants_node_ports(spec) {
            for port in items_mut(spec, "ports") {
                if has(port, "nodePort") && port.get("nodePort") != Some(&Value::from(0)) {
                    continue;
                }
                let before = items(&old_spec, "ports").iter().find(|before| {
                    before.get("port") == port.get("port")
                        && text(before, "protocol") == text(port, "protocol")
                });
                if let Some(number) = before.and_then(|before| before.get("nodePort")) {
                    set(port, "nodePort", number.clone());
                }
            }
        } else {
            if text(spec, "type") == "ClusterIP" || external {
                remove(spec, "externalTrafficPolicy");
            }
            // Node ports that the client merely read and sent back go with the type.
            let old_ports = items(&old_spec, "ports");
            for (at, port) in items_mut(spec, "ports").iter_mut().enumerate() {
                let before = old_ports.get(at).and_then(|before| before.get("nodePort"));
                if port.get("nodePort") == before {
                    remove(port, "nodePort");
                }
            }
        }
        if text(spec, "type") != "LoadBalancer" && text(&old_spec, "type") == "LoadBalancer" {
            remove(spec, "allocateLoadBalancerNodePorts");
        }
    });
    allocate(object);
}

/// A client that knows `clusterIP` only speaks for the first of `clusterIPs` as well.
fn follow_first_address(spec: &mut Value, old_spec: &Value) {
    let address = text(spec, "clusterIP").to_owned();
    if !address.is_empty()
        && address != text(old_spec, "clusterIP")
        && spec.get("clusterIPs") == old_spec.get("clusterIPs")
        && let Some(first) = items_mut(spec, "clusterIPs").first_mut()
    {
        *first = Value::from(address);
    }
}

fn wants_node_ports(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

fn allocate(object: &mut Value) {
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    let namespace = text(metadata, "namespace").to_owned();
    let name = text(metadata, "name").to_owned();
    within(object, "spec", |spec| {
        if text(spec, "type") == "ExternalName" {
            return;
        }
        if text(spec, "clusterIP").is_empty() {
            let address = match items(spec, "clusterIPs").first() {
                Some(Value::String(address)) => address.clone(),
                _ => cluster_ip(&namespace, &name, 0),
            };
            set(spec, "clusterIP", address);
        }
        let address = text(spec, "clusterIP").to_owned();
        default(spec, "clusterIPs", json!([address]));
        if address == "None"
            && spec
                .get("selector")
                .and_then(Value::as_object)
                .is_none_or(serde_json::Map::is_empty)
        {
            default_text(spec, "ipFamilyPolicy", "RequireDualStack");
            default(spec, "ipFamilies", json!(["IPv4", "IPv6"]));
        }
        default_text(spec, "ipFamilyPolicy", "SingleStack");
        default(spec, "ipFamilies", json!(["IPv4"]));
        if !wants_node_ports(spec) {
            return;
        }
        let mut taken: Vec<u16> = items(spec, "ports")
            .iter()
            .filter_map(|port| port.get("nodePort")?.as_u64())
            .filter_map(|number| u16::try_from(number).ok())
            .collect();
        for port in items_mut(spec, "ports") {
            if port.get("nodePort").and_then(Value::as_u64).unwrap_or(0) != 0 {
                continue;
            }
            let key = format!(
                "{}/{}",
                port.get("port").and_then(Value::as_u64).unwrap_or(0),
                text(port, "protocol")
            );
            let free = (0..u32::from(NODE_PORT_COUNT))
                .map(|attempt| node_port(&namespace, &name, &key, attempt))
                .find(|number| !taken.contains(number));
            if let Some(number) = free {
                taken.push(number);
                set(port, "nodePort", number);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(spec: Value) -> Value {
        let mut object = json!({
            "kind": "Service", "apiVersion": "v1",
            "metadata": {"name": "web", "namespace": "shop"}, "spec": spec,
        });
        defaults(&mut object);
        prepare_create(&mut object);
        object
    }

    #[test]
    fn addresses_are_inside_the_network_and_differ_by_attempt() {
        for attempt in 0..200 {
            let address: std::net::Ipv4Addr = cluster_ip("a", "b", attempt).parse().expect("ip");
            assert_eq!(address.octets()[..2], [10, 96]);
            assert_ne!(
                cluster_ip("a", "b", attempt),
                cluster_ip("a", "b", attempt + 1)
            );
            let port = node_port("a", "b", "80/TCP", attempt);
            assert!((30000..=32767).contains(&port));
        }
    }

    #[test]
    fn a_cluster_service_gets_its_fields() {
        let object = created(json!({"selector": {"a": "b"}, "ports": [{"port": 80}]}));
        let spec = &object["spec"];
        assert_eq!(
            spec["ports"],
            json!([{"port": 80, "protocol": "TCP", "targetPort": 80}])
        );
        assert_eq!(spec["clusterIPs"], json!([spec["clusterIP"]]));
        assert_eq!(spec["internalTrafficPolicy"], "Cluster");
        assert_eq!(spec["ipFamilyPolicy"], "SingleStack");
        assert!(spec.get("externalTrafficPolicy").is_none());
    }

    #[test]
    fn node_ports_are_given_and_kept() {
        let old = created(json!({"type": "NodePort", "ports": [
            {"name": "a", "port": 80}, {"name": "b", "port": 81, "nodePort": 30881},
        ]}));
        assert_eq!(old["spec"]["ports"][1]["nodePort"], 30881);
        let given = old["spec"]["ports"][0]["nodePort"].clone();
        assert!(given.is_u64());
        let mut new = old.clone();
        remove(&mut new["spec"]["ports"][0], "nodePort");
        remove(&mut new["spec"], "clusterIP");
        remove(&mut new["spec"], "clusterIPs");
        prepare_update(&mut new, &old);
        assert_eq!(new["spec"]["ports"][0]["nodePort"], given);
        assert_eq!(new["spec"]["clusterIP"], old["spec"]["clusterIP"]);
    }

    #[test]
    fn node_ports_go_with_the_type() {
        let old = created(json!({"type": "NodePort", "ports": [{"port": 80}]}));
        let mut new = old.clone();
        set(&mut new["spec"], "type", "ClusterIP");
        prepare_update(&mut new, &old);
        assert!(new["spec"]["ports"][0].get("nodePort").is_none());
        assert!(new["spec"].get("externalTrafficPolicy").is_none());
    }

    #[test]
    fn external_names_have_no_address() {
        let object = created(json!({"type": "ExternalName", "externalName": "example.com"}));
        assert_eq!(
            object["spec"],
            json!({"type": "ExternalName", "externalName": "example.com", "sessionAffinity": "None"})
        );
    }
}
