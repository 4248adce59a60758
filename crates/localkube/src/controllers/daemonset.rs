//! DaemonSets: one Pod on each node. Updates replace a Pod whose template is old.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, PostParams};

use super::ownership::{claim, controller_reference, is_empty};
use super::{Context, Error, Key, pods, unless_gone};
use crate::recorder::reference;

/// The label that tells which template a Pod was made from.
const HASH: &str = "controller-revision-hash";
const GENERATION: &str = "pod-template-generation";

/// Brings one DaemonSet closer to a Pod on each node.
pub async fn reconcile(context: Context, key: Key) -> Result<Option<Duration>, Error> {
    let api: Api<DaemonSet> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(set) = api
        .get_opt(&key.name)
        .await
        .map_err(Error::doing("get a daemon set"))?
    else {
        return Ok(None);
    };
    let Some(spec) = set.spec.clone().filter(|spec| !is_empty(&spec.selector)) else {
        return Ok(None);
    };
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let owned: Vec<Pod> = claim(&context.client, &set, &spec.selector).await?;
    let nodes: Api<Node> = Api::all(context.client.clone());
    let nodes = nodes
        .list_metadata(&ListParams::default())
        .await
        .map_err(Error::doing("list nodes"))?;
    let hash = super::deployment::template::hash(&spec.template, None);
    let on_delete = spec
        .update_strategy
        .as_ref()
        .and_then(|s| s.type_.as_deref())
        == Some("OnDelete");
    let is_current =
        |pod: &Pod| pod.metadata.labels.as_ref().and_then(|l| l.get(HASH)) == Some(&hash);
    let recorder = context.recorder.component("daemonset-controller");
    let clock = context.options.clock;
    let mut running: Vec<Pod> = Vec::new();
    let mut ending: Vec<String> = Vec::new();
    let node_of = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    for pod in owned {
        if pod.metadata.deletion_timestamp.is_some() {
            ending.extend(node_of(&pod));
        } else if !pods::is_active(&pod) || (!on_delete && !is_current(&pod)) {
            pods::delete(&context, &pod).await?;
            let name = pod.metadata.name.clone().unwrap_or_default();
            let message = format!("Deleted pod: {name}");
            recorder.normal(clock, reference(&set), "SuccessfulDelete", message);
            ending.extend(node_of(&pod));
        } else {
            running.push(pod);
        }
    }
    for node in &nodes.items {
        let name = node.metadata.name.clone();
        let taken = running.iter().any(|pod| node_of(pod) == name)
            || ending.iter().any(|node| Some(node) == name.as_ref());
        if taken {
            continue;
        }
        let owner = controller_reference(&set);
        let mut pod = pods::from_template(&spec.template, &key.namespace, &key.name, owner);
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(HASH.to_owned(), hash.clone());
        let generation = set.metadata.generation.unwrap_or(1).to_string();
        labels.insert(GENERATION.to_owned(), generation);
        if let Some(spec) = &mut pod.spec {
            spec.node_name = name;
        }
        let made = pods::create(&context, &key.namespace, &pod).await?;
        let message = format!(
            "Created pod: {}",
            made.metadata.name.as_deref().unwrap_or_default()
        );
        recorder.normal(clock, reference(&set), "SuccessfulCreate", message);
        running.push(made);
    }
    let now = context.now();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let nonzero = |number: usize| Some(count(number)).filter(|n| *n != 0);
    let wanted = nodes.items.len();
    let waits: Vec<Duration> = running
        .iter()
        .filter_map(|pod| pods::available_in(pod, min_ready, now))
        .collect();
    let available = waits.iter().filter(|wait| wait.is_zero()).count();
    let status = DaemonSetStatus {
        current_number_scheduled: count(running.len()),
        desired_number_scheduled: count(wanted),
        number_available: nonzero(available),
        number_unavailable: nonzero(wanted.saturating_sub(available)),
        number_ready: count(waits.len()),
        updated_number_scheduled: nonzero(running.iter().filter(|pod| is_current(pod)).count()),
        observed_generation: set.metadata.generation,
        ..set.status.clone().unwrap_or_default()
    };
    if set.status.as_ref() != Some(&status) {
        let mut changed = set.clone();
        changed.status = Some(status);
        let done = api
            .replace_status(&key.name, &PostParams::default(), &changed)
            .await;
        unless_gone(done, "write the status of a daemon set")?;
    }
    Ok(waits.into_iter().filter(|wait| !wait.is_zero()).min())
}
