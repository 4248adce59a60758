//! From the name in a proxy path to an address.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::api::Api;
use rand::seq::IndexedRandom;
use serde_json::Value;

use crate::status::ApiError;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub https: bool,
    pub address: SocketAddr,
}

/// `[scheme:]name[:port]`, as `k8s.io/apimachinery/pkg/util/net.SplitSchemeNamePort` reads it.
pub fn split(id: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme @ ("" | "http" | "https"), name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (!name.is_empty()).then_some((scheme, name, port))
}

/// The addresses behind one port of a Service.
pub struct Ready {
    pub addresses: Vec<SocketAddr>,
}

/// Ready addresses of a Service's port (its name; empty for the only one), from its Endpoints.
pub async fn ready(
    client: &kube::Client,
    namespace: &str,
    name: &str,
    port_name: &str,
) -> Result<Ready, kube::Error> {
    let api: Api<Endpoints> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(name).await?;
    let subsets = found
        .iter()
        .flat_map(|endpoints| endpoints.subsets.iter().flatten());
    let mut addresses = Vec::new();
    for subset in subsets {
        let ports = subset.ports.iter().flatten();
        for port in ports.filter(|port| port.name.as_deref().unwrap_or_default() == port_name) {
            for address in subset.addresses.iter().flatten() {
                if let (Ok(ip), Ok(port)) = (address.ip.parse(), u16::try_from(port.port)) {
                    addresses.push(SocketAddr::new(ip, port));
                }
            }
        }
    }
    Ok(Ready { addresses })
}

/// A ready endpoint of a Service, chosen at random.
pub async fn of_service(
    client: &kube::Client,
    namespace: &str,
    id: &str,
    object: &Value,
) -> Result<Target, ApiError> {
    let (scheme, name, port) = split(id)
        .ok_or_else(|| ApiError::bad_request(format!("invalid service request {id:?}")))?;
    let unavailable = |message: String| ApiError::new(503, "ServiceUnavailable", message);
    let service: Service = serde_json::from_value(object.clone())
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    // A number stands for the port of that number; its name is what Endpoints know.
    let port_name = match port.parse::<i32>() {
        Ok(number) => {
            let found = ports.iter().find(|candidate| candidate.port == number);
            let found = found.ok_or_else(|| {
                unavailable(format!(
                    "no service port {number} found for service {name:?}"
                ))
            })?;
            found.name.clone().unwrap_or_default()
        }
        // Without a port, a Service with a single port means that one, whatever its name.
        Err(_) if port.is_empty() => match ports.as_slice() {
            [only] => only.name.clone().unwrap_or_default(),
            _ => String::new(),
        },
        Err(_) => port.to_owned(),
    };
    let found = ready(client, namespace, name, &port_name)
        .await
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let address = found
        .addresses
        .choose(&mut rand::rng())
        .ok_or_else(|| unavailable(format!("no endpoints available for service {id:?}")))?;
    Ok(Target {
        https: scheme == "https",
        address: *address,
    })
}

/// The address of a Pod. Without a port it is the first one that a container names, else 80.
pub fn of_pod(id: &str, object: &Value) -> Result<Target, ApiError> {
    let (scheme, name, port) =
        split(id).ok_or_else(|| ApiError::bad_request(format!("invalid pod request {id:?}")))?;
    let pod: Pod = serde_json::from_value(object.clone())
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let declared = pod
        .spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .flat_map(|container| container.ports.iter().flatten())
        .next()
        .and_then(|port| u16::try_from(port.container_port).ok());
    let number = if port.is_empty() {
        declared.unwrap_or(80)
    } else {
        port.parse()
            .map_err(|_| ApiError::bad_request(format!("invalid pod request {id:?}")))?
    };
    let ip = pod.status.and_then(|status| status.pod_ip?.parse().ok());
    let ip =
        ip.ok_or_else(|| ApiError::bad_request(format!("pod {name:?} has no IP address yet")))?;
    let address = SocketAddr::new(ip, number);
    Ok(Target {
        https: scheme == "https",
        address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_as_kubernetes_splits_them() {
        let table = [
            ("a", Some(("", "a", ""))),
            ("a:80", Some(("", "a", "80"))),
            (":a:", Some(("", "a", ""))),
            ("https:a:web", Some(("https", "a", "web"))),
            ("http:a:", Some(("http", "a", ""))),
            ("ftp:a:1", None),
            ("a:b:c:d", None),
            ("::", None),
            ("", None),
        ];
        for (id, expected) in table {
            assert_eq!(split(id), expected, "{id}");
        }
    }
}
