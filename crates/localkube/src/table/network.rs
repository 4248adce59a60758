//! Services, `networking.k8s.io` and `discovery.k8s.io`.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{
    AGE, NAME, NONE, UNSET, age, at, column, labels, list_at, name, number_at, selector, shortened,
    text_at, text_or, wide,
};
use crate::builtin::fields::{items, text};
use crate::kind::Column;

pub(crate) const SERVICE: &[Column] = &[
    NAME,
    column("Type"),
    column("Cluster-IP"),
    column("External-IP"),
    column("Port(s)"),
    AGE,
    wide("Selector"),
];

pub(crate) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let address = match list_at(object, "/spec/clusterIPs").first() {
        Some(Value::String(address)) => address,
        _ => text_or(object, "/spec/clusterIP", NONE),
    };
    let ports: Vec<String> = list_at(object, "/spec/ports")
        .iter()
        .map(|port| {
            let number = number_at(port, "/port");
            let protocol = text(port, "protocol");
            match number_at(port, "/nodePort") {
                0 => format!("{number}/{protocol}"),
                node => format!("{number}:{node}/{protocol}"),
            }
        })
        .collect();
    let ports = if ports.is_empty() {
        NONE.to_owned()
    } else {
        ports.join(",")
    };
    vec![
        name(object),
        text_at(object, "/spec/type").into(),
        address.into(),
        external(object).into(),
        ports.into(),
        age(object, now),
        labels(at(object, "/spec/selector")).into(),
    ]
}

fn external(service: &Value) -> String {
    let mut addresses: Vec<String> = Vec::new();
    let kind = text_at(service, "/spec/type");
    if kind == "ExternalName" {
        return text_at(service, "/spec/externalName").to_owned();
    }
    if kind == "LoadBalancer" {
        addresses.extend(ingress_points(service));
    }
    addresses.extend(
        list_at(service, "/spec/externalIPs")
            .iter()
            .filter_map(|ip| ip.as_str().map(str::to_owned)),
    );
    if !addresses.is_empty() {
        return addresses.join(",");
    }
    if kind == "LoadBalancer" {
        "<pending>".to_owned()
    } else {
        NONE.to_owned()
    }
}

/// Addresses and names under `status.loadBalancer.ingress`.
fn ingress_points(object: &Value) -> Vec<String> {
    let mut points: Vec<String> = Vec::new();
    for point in list_at(object, "/status/loadBalancer/ingress") {
        let point = text_or(point, "/ip", text(point, "hostname"));
        if !point.is_empty() && !points.iter().any(|known| known == point) {
            points.push(point.to_owned());
        }
    }
    points
}

pub(crate) const INGRESS: &[Column] = &[
    NAME,
    column("Class"),
    column("Hosts"),
    column("Address"),
    column("Ports"),
    AGE,
];

pub(crate) fn ingress(object: &Value, now: Timestamp) -> Vec<Value> {
    let hosts: Vec<String> = list_at(object, "/spec/rules")
        .iter()
        .map(|rule| text(rule, "host").to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let ports = if list_at(object, "/spec/tls").is_empty() {
        "80"
    } else {
        "80, 443"
    };
    vec![
        name(object),
        text_or(object, "/spec/ingressClassName", NONE).into(),
        shortened(&hosts, 3, "*").into(),
        ingress_points(object).join(",").into(),
        ports.into(),
        age(object, now),
    ]
}

pub(crate) const INGRESS_CLASS: &[Column] =
    &[NAME, column("Controller"), column("Parameters"), AGE];

pub(crate) fn ingress_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = at(object, "/spec/parameters");
    let parameters = if parameters.is_null() {
        NONE.to_owned()
    } else {
        let group = match text(parameters, "apiGroup") {
            "" => String::new(),
            group => format!(".{group}"),
        };
        format!(
            "{}{group}/{}",
            text(parameters, "kind"),
            text(parameters, "name")
        )
    };
    vec![
        name(object),
        text_at(object, "/spec/controller").into(),
        parameters.into(),
        age(object, now),
    ]
}

pub(crate) const NETWORK_POLICY: &[Column] = &[NAME, column("Pod-Selector"), AGE];

pub(crate) fn network_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        selector(at(object, "/spec/podSelector")).into(),
        age(object, now),
    ]
}

pub(crate) const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    column("AddressType"),
    column("Ports"),
    column("Endpoints"),
    AGE,
];

pub(crate) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = list_at(object, "/ports")
        .iter()
        .map(|port| match at(port, "/port").as_i64() {
            Some(number) => number.to_string(),
            None => "*".to_owned(),
        })
        .collect();
    let addresses: Vec<String> = list_at(object, "/endpoints")
        .iter()
        .flat_map(|endpoint| items(endpoint, "addresses"))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    vec![
        name(object),
        text_at(object, "/addressType").into(),
        shortened(&ports, 3, UNSET).into(),
        shortened(&addresses, 3, UNSET).into(),
        age(object, now),
    ]
}
