//! Where the `kubernetes` Service of the namespace `default` leads: to the API's own address, of this start.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

const NAME: &str = "kubernetes";
const NAMESPACE: &str = "default";

/// Writes the Endpoints and the EndpointSlice.
///
/// # Errors
/// When the API refuses one.
pub async fn write(client: &kube::Client, address: SocketAddr) -> Result<(), kube::Error> {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let port = address.port();
    let endpoints = json!({
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            // It has a slice already; none is to be made from it.
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": ip}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }],
    });
    put::<Endpoints>(client, endpoints).await?;
    let slice = json!({
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": NAME},
        },
        "addressType": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    put::<EndpointSlice>(client, slice).await
}

async fn put<K>(client: &kube::Client, wanted: Value) -> Result<(), kube::Error>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + serde::Serialize
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    let mut object: K = serde_json::from_value(wanted).map_err(kube::Error::SerdeError)?;
    match api.get_metadata_opt(NAME).await? {
        None => api.create(&PostParams::default(), &object).await?,
        Some(found) => {
            object.meta_mut().resource_version = found.metadata.resource_version;
            api.replace(NAME, &PostParams::default(), &object).await?
        }
    };
    Ok(())
}
