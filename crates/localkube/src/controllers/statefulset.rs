//! StatefulSets: Pods with fixed names, made and replaced in order.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};

use super::ownership::{claim, controller_reference, is_empty};
use super::{Context, Error, Key, pods, unless_gone};
use crate::recorder::reference;

const REVISION: &str = "controller-revision-hash";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// Brings one StatefulSet a step further.
pub async fn reconcile(context: Context, key: Key) -> Result<Option<Duration>, Error> {
    let api: Api<StatefulSet> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(set) = api
        .get_opt(&key.name)
        .await
        .map_err(Error::doing("get a stateful set"))?
    else {
        return Ok(None);
    };
    let Some(spec) = set.spec.clone().filter(|spec| !is_empty(&spec.selector)) else {
        return Ok(None);
    };
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let mut owned: Vec<Pod> = claim(&context.client, &set, &spec.selector).await?;
    let hash = super::deployment::template::hash(&spec.template, None);
    let revision = format!("{}-{hash}", key.name);
    let replicas = spec.replicas.unwrap_or(1);
    let parallel = spec.pod_management_policy.as_deref() == Some("Parallel");
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    let on_delete = strategy.type_.as_deref() == Some("OnDelete");
    let partition = strategy
        .rolling_update
        .and_then(|rolling| rolling.partition)
        .unwrap_or(0);
    let start = spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0);
    let is_current = |pod: &Pod| {
        pod.metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(REVISION))
            == Some(&revision)
    };
    let ordinal = |pod: &Pod| -> Option<i32> {
        let name = pod.metadata.name.as_deref()?;
        name.strip_prefix(&key.name)?
            .strip_prefix('-')?
            .parse()
            .ok()
    };
    let recorder = context.recorder.component("statefulset-controller");
    let clock = context.options.clock;
    let mut blocked = false;
    for index in start..start.saturating_add(replicas) {
        let found = owned.iter().find(|pod| ordinal(pod) == Some(index));
        match found {
            Some(pod) if matches!(pods::phase(pod), "Failed" | "Succeeded") => {
                pods::delete(&context, pod).await?;
                blocked = true;
            }
            Some(pod) => {
                blocked |= !pods::is_ready(pod) || pod.metadata.deletion_timestamp.is_some();
            }
            None => {
                let owner = controller_reference(&set);
                let mut pod = pods::from_template(&spec.template, &key.namespace, &key.name, owner);
                let name = format!("{}-{index}", key.name);
                pod.metadata.generate_name = Some(format!("{}-", key.name));
                pod.metadata.name = Some(name.clone());
                let labels = pod.metadata.labels.get_or_insert_default();
                labels.insert(POD_NAME.to_owned(), name.clone());
                labels.insert(POD_INDEX.to_owned(), index.to_string());
                labels.insert(REVISION.to_owned(), revision.clone());
                if let Some(pod_spec) = &mut pod.spec {
                    pod_spec.hostname = Some(name.clone());
                    pod_spec.subdomain.clone_from(&spec.service_name);
                }
                let made = pods::create(&context, &key.namespace, &pod).await?;
                let message = format!("create Pod {name} in StatefulSet {} successful", key.name);
                recorder.normal(clock, reference(&set), "SuccessfulCreate", message);
                owned.push(made);
                blocked = true;
            }
        }
        if blocked && !parallel {
            break;
        }
    }
    // The highest first: surplus ones, then those of an old template.
    owned.sort_by_key(|pod| std::cmp::Reverse(ordinal(pod)));
    if !blocked || parallel {
        let ending = owned
            .iter()
            .any(|pod| pod.metadata.deletion_timestamp.is_some());
        let last = start.saturating_add(replicas);
        let surplus = owned
            .iter()
            .find(|pod| ordinal(pod).is_none_or(|index| index >= last));
        let stale = owned.iter().find(|pod| {
            !on_delete && !is_current(pod) && ordinal(pod).is_some_and(|index| index >= partition)
        });
        if let Some(pod) = surplus.or(stale).filter(|_| !ending) {
            pods::delete(&context, pod).await?;
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let message = format!("delete Pod {name} in StatefulSet {} successful", key.name);
            recorder.normal(clock, reference(&set), "SuccessfulDelete", message);
        }
    }
    let old = set.status.clone().unwrap_or_default();
    let now = context.now();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let ready = owned.iter().filter(|pod| pods::is_ready(pod)).count();
    let waits: Vec<Duration> = owned
        .iter()
        .filter_map(|pod| pods::available_in(pod, min_ready, now))
        .collect();
    let updated = owned.iter().filter(|pod| is_current(pod)).count();
    let rolled = updated == owned.len() && count(ready) == replicas;
    let current_revision = match &old.current_revision {
        Some(before) if !rolled => before.clone(),
        _ => revision.clone(),
    };
    let of = |wanted: &str| {
        let has = |pod: &&Pod| {
            pod.metadata
                .labels
                .iter()
                .flatten()
                .any(|(k, v)| k == REVISION && v == wanted)
        };
        Some(count(owned.iter().filter(has).count())).filter(|n| *n != 0)
    };
    let status = StatefulSetStatus {
        replicas: count(owned.len()),
        ready_replicas: Some(count(ready)).filter(|n| *n != 0),
        available_replicas: Some(count(waits.iter().filter(|wait| wait.is_zero()).count())),
        current_replicas: of(&current_revision),
        updated_replicas: of(&revision),
        current_revision: Some(current_revision),
        update_revision: Some(revision.clone()),
        observed_generation: set.metadata.generation,
        collision_count: old.collision_count.or(Some(0)),
        conditions: old.conditions.clone(),
    };
    if status != old {
        let mut changed = set.clone();
        changed.status = Some(status);
        let done = api
            .replace_status(&key.name, &PostParams::default(), &changed)
            .await;
        unless_gone(done, "write the status of a stateful set")?;
    }
    Ok(waits.into_iter().filter(|wait| !wait.is_zero()).min())
}
