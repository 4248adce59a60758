//! Endpoints and EndpointSlices of Services: the addresses of the Pods behind them.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service, ServicePort,
};
use k8s_openapi::api::discovery::v1::{self as discovery, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, DeleteParams, ListParams, PostParams};

use super::error::code;
use super::ownership::{controller_reference, matches};
use super::{Context, Error, Key, pods, unless_gone};

/// Value of `endpointslice.kubernetes.io/managed-by`.
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Writes the Endpoints and the EndpointSlice of one Service.
pub async fn reconcile(context: Context, key: Key) -> Result<Option<Duration>, Error> {
    let services: Api<Service> = Api::namespaced(context.client.clone(), &key.namespace);
    let service = services
        .get_opt(&key.name)
        .await
        .map_err(Error::doing("get a service"))?;
    let endpoints: Api<Endpoints> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(service) = service else {
        // Endpoints go with the Service of their name; slices are owned and go by garbage collection.
        let done = endpoints.delete(&key.name, &DeleteParams::default()).await;
        unless_gone(done, "delete endpoints")?;
        return Ok(None);
    };
    let Some(spec) = service.spec.as_ref().filter(|spec| {
        spec.selector.as_ref().is_some_and(|s| !s.is_empty())
            && spec.type_.as_deref() != Some("ExternalName")
    }) else {
        return Ok(None);
    };
    let selector = LabelSelector {
        match_labels: spec.selector.clone(),
        match_expressions: None,
    };
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let mut members: Vec<Pod> = api
        .list(&ListParams::default())
        .await
        .map_err(Error::doing("list the pods of a service"))?
        .items
        .into_iter()
        .filter(|pod| matches(&selector, pod.metadata.labels.as_ref()) && is_member(pod))
        .collect();
    members.sort_by(|a, b| {
        address(a)
            .cmp(address(b))
            .then(a.metadata.name.cmp(&b.metadata.name))
    });
    write_endpoints(&endpoints, &service, &members).await?;
    write_slice(&context, &service, &members).await?;
    Ok(None)
}

fn address(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.pod_ip.as_deref())
        .unwrap_or_default()
}

fn is_member(pod: &Pod) -> bool {
    !address(pod).is_empty() && !matches!(pods::phase(pod), "Succeeded" | "Failed")
}

fn serves(service: &Service, pod: &Pod) -> bool {
    let spec = service.spec.as_ref();
    let early = spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    early || (pods::is_ready(pod) && pod.metadata.deletion_timestamp.is_none())
}

/// The port of a Pod that a Service's port leads to.
fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => pod
            .spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .flat_map(|container| container.ports.iter().flatten())
            .find(|candidate| {
                candidate.name.as_ref() == Some(name)
                    && candidate.protocol.as_deref().unwrap_or("TCP")
                        == port.protocol.as_deref().unwrap_or("TCP")
            })
            .map(|found| found.container_port),
    }
}

/// All ports of a Service for one Pod, as (name, number, protocol).
fn ports(service: &Service, pod: &Pod) -> Vec<(Option<String>, i32, String)> {
    let ports = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some((port.name.clone(), target(port, pod)?, protocol))
        })
        .collect()
}

fn is_headless(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}

fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    (spec.subdomain == service.metadata.name)
        .then(|| spec.hostname.clone())
        .flatten()
}

async fn write_endpoints(
    api: &Api<Endpoints>,
    service: &Service,
    members: &[Pod],
) -> Result<(), Error> {
    type Halves = (Vec<EndpointAddress>, Vec<EndpointAddress>);
    let mut groups: BTreeMap<Vec<(Option<String>, i32, String)>, Halves> = BTreeMap::new();
    for pod in members {
        let ready = serves(service, pod);
        if !ready && pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let entry = EndpointAddress {
            ip: address(pod).to_owned(),
            hostname: hostname(service, pod),
            node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            target_ref: Some(target_reference(pod)),
        };
        let halves = groups.entry(ports(service, pod)).or_default();
        if ready { &mut halves.0 } else { &mut halves.1 }.push(entry);
    }
    let some = |list: Vec<EndpointAddress>| Some(list).filter(|list| !list.is_empty());
    let subsets: Vec<EndpointSubset> = groups
        .into_iter()
        .map(|(ports, (ready, waiting))| EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(waiting),
            ports: Some(
                ports
                    .into_iter()
                    .map(|(name, port, protocol)| EndpointPort {
                        name,
                        port,
                        protocol: Some(protocol),
                        app_protocol: None,
                    })
                    .collect(),
            ),
        })
        .collect();
    let subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    let mut labels = labels(service);
    labels.insert(
        "endpoints.kubernetes.io/managed-by".to_owned(),
        "endpoint-controller".to_owned(),
    );
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let old = api
        .get_opt(name)
        .await
        .map_err(Error::doing("get endpoints"))?;
    match old {
        Some(mut old) => {
            if old.subsets == subsets && old.metadata.labels.as_ref() == Some(&labels) {
                return Ok(());
            }
            old.subsets = subsets;
            old.metadata.labels = Some(labels);
            let done = api.replace(name, &PostParams::default(), &old).await;
            unless_gone(done, "write endpoints")?;
        }
        None => {
            let new = Endpoints {
                metadata: ObjectMeta {
                    name: service.metadata.name.clone(),
                    namespace: service.metadata.namespace.clone(),
                    labels: Some(labels),
                    ..ObjectMeta::default()
                },
                subsets,
            };
            match api.create(&PostParams::default(), &new).await {
                // The namespace is ending, or somebody else was first: the next event tells.
                Err(error) if code(&error) == Some(403) => {}
                done => {
                    done.map_err(Error::doing("make endpoints"))?;
                }
            }
        }
    }
    Ok(())
}

fn target_reference(pod: &Pod) -> k8s_openapi::api::core::v1::ObjectReference {
    k8s_openapi::api::core::v1::ObjectReference {
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        ..Default::default()
    }
}

async fn write_slice(context: &Context, service: &Service, members: &[Pod]) -> Result<(), Error> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let api: Api<EndpointSlice> = Api::namespaced(context.client.clone(), namespace);
    let selector = format!(
        "kubernetes.io/service-name={name},endpointslice.kubernetes.io/managed-by={MANAGER}"
    );
    let old = api
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(Error::doing("list endpoint slices"))?
        .items;
    type Ports = Vec<(Option<String>, i32, String)>;
    let mut groups: BTreeMap<Ports, Vec<discovery::Endpoint>> = BTreeMap::new();
    for pod in members {
        let ready = pods::is_ready(pod);
        let ending = pod.metadata.deletion_timestamp.is_some();
        groups
            .entry(ports(service, pod))
            .or_default()
            .push(discovery::Endpoint {
                addresses: vec![address(pod).to_owned()],
                conditions: Some(discovery::EndpointConditions {
                    ready: Some(serves(service, pod)),
                    serving: Some(ready),
                    terminating: Some(ending),
                }),
                hostname: hostname(service, pod),
                node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
                target_ref: Some(target_reference(pod)),
                ..Default::default()
            });
    }
    if groups.is_empty() {
        groups.insert(Vec::new(), Vec::new());
    }
    let mut labels = labels(service);
    labels.insert("kubernetes.io/service-name".to_owned(), name.to_owned());
    labels.insert(
        "endpointslice.kubernetes.io/managed-by".to_owned(),
        MANAGER.to_owned(),
    );
    let mut old = old.into_iter();
    for (ports, endpoints) in groups {
        let ports = Some(
            ports
                .into_iter()
                .map(|(name, port, protocol)| discovery::EndpointPort {
                    name: Some(name.unwrap_or_default()),
                    port: Some(port),
                    protocol: Some(protocol),
                    app_protocol: None,
                })
                .collect::<Vec<_>>(),
        )
        .filter(|ports| !ports.is_empty());
        match old.next() {
            Some(mut slice) => {
                if slice.endpoints.as_ref().map_or(&[][..], |list| list) == endpoints
                    && slice.ports.as_ref().map_or(&[][..], |list| list)
                        == ports.as_deref().unwrap_or_default()
                    && slice.metadata.labels.as_ref() == Some(&labels)
                {
                    continue;
                }
                slice.endpoints = Some(endpoints);
                slice.ports = ports;
                slice.metadata.labels = Some(labels.clone());
                let slice_name = slice.metadata.name.clone().unwrap_or_default();
                let done = api
                    .replace(&slice_name, &PostParams::default(), &slice)
                    .await;
                unless_gone(done, "write an endpoint slice")?;
            }
            None => {
                let slice = EndpointSlice {
                    metadata: ObjectMeta {
                        generate_name: Some(format!("{name}-")),
                        namespace: Some(namespace.to_owned()),
                        labels: Some(labels.clone()),
                        owner_references: Some(vec![controller_reference(service)]),
                        ..ObjectMeta::default()
                    },
                    address_type: "IPv4".to_owned(),
                    endpoints: Some(endpoints),
                    ports,
                };
                match api.create(&PostParams::default(), &slice).await {
                    Err(error) if code(&error) == Some(403) => {}
                    done => {
                        done.map_err(Error::doing("make an endpoint slice"))?;
                    }
                }
            }
        }
    }
    for surplus in old {
        let done = api
            .delete(
                surplus.metadata.name.as_deref().unwrap_or_default(),
                &DeleteParams::default(),
            )
            .await;
        unless_gone(done, "delete an endpoint slice")?;
    }
    Ok(())
}
