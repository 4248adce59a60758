//! ReplicaSets: as many Pods as asked for.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, PostParams};

use super::ownership::{claim, controller_reference, is_empty};
use super::{Context, Error, Key, pods, unless_gone};
use crate::recorder::reference;

/// At most this many Pods are made or deleted in one pass.
const BURST: usize = 500;

/// Brings one ReplicaSet closer to what it asks for.
pub async fn reconcile(context: Context, key: Key) -> Result<Option<Duration>, Error> {
    let api: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(set) = api
        .get_opt(&key.name)
        .await
        .map_err(Error::doing("get a replica set"))?
    else {
        return Ok(None);
    };
    let Some(spec) = &set.spec else {
        return Ok(None);
    };
    if is_empty(&spec.selector) {
        return Ok(None);
    }
    let owned: Vec<Pod> = claim(&context.client, &set, &spec.selector).await?;
    let (active, finished): (Vec<Pod>, Vec<Pod>) = owned.into_iter().partition(pods::is_active);
    let terminating = finished
        .iter()
        .filter(|pod| {
            pod.metadata.deletion_timestamp.is_some()
                && !matches!(pods::phase(pod), "Succeeded" | "Failed")
        })
        .count();
    let (active, failure) = if set.metadata.deletion_timestamp.is_none() {
        balance(&context, &set, active).await?
    } else {
        (active, None)
    };
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let now = context.now();
    let (status, pause) = status(
        &set,
        &active,
        terminating,
        failure
            .as_ref()
            .map(|(reason, error)| (*reason, error.chain())),
        min_ready,
        now,
    );
    if set.status.as_ref() != Some(&status) {
        let mut changed = set.clone();
        changed.status = Some(status);
        let done = api
            .replace_status(&key.name, &PostParams::default(), &changed)
            .await;
        unless_gone(done, "write the status of a replica set")?;
    }
    match failure {
        Some((_, error)) => Err(error),
        None => Ok(pause),
    }
}

type Failure = (&'static str, Error);

/// Makes missing Pods or deletes surplus ones; gives the Pods that are left.
async fn balance(
    context: &Context,
    set: &ReplicaSet,
    mut active: Vec<Pod>,
) -> Result<(Vec<Pod>, Option<Failure>), Error> {
    let Some(spec) = &set.spec else {
        return Ok((active, None));
    };
    let recorder = context.recorder.component("replicaset-controller");
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let mut failure = None;
    if active.len() < wanted {
        let template = spec.template.clone().unwrap_or_default();
        let pod = pods::from_template(&template, namespace, name, controller_reference(set));
        let missing = (wanted - active.len()).min(BURST);
        // Doubling batches: a template that is refused is tried once, not five hundred times.
        let (mut made, mut batch) = (0, 1);
        while made < missing && failure.is_none() {
            let count = batch.min(missing - made);
            let results =
                join_all((0..count).map(|_| pods::create(context, namespace, &pod))).await;
            for result in results {
                match result {
                    Ok(created) => {
                        let message = format!(
                            "Created pod: {}",
                            created.metadata.name.as_deref().unwrap_or_default()
                        );
                        recorder.normal(
                            context.options.clock,
                            reference(set),
                            "SuccessfulCreate",
                            message,
                        );
                        active.push(created);
                    }
                    Err(error) => {
                        let message = format!("Error creating: {}", error.cause());
                        recorder.warning(
                            context.options.clock,
                            reference(set),
                            "FailedCreate",
                            message,
                        );
                        failure = Some(("FailedCreate", error));
                    }
                }
            }
            made += count;
            batch *= 2;
        }
    } else if active.len() > wanted {
        active.sort_by_cached_key(pods::deletion_order);
        let surplus: Vec<Pod> = active.drain(..(active.len() - wanted).min(BURST)).collect();
        let results = join_all(surplus.iter().map(|pod| pods::delete(context, pod))).await;
        for (pod, result) in surplus.into_iter().zip(results) {
            match result {
                Ok(_) => {
                    let message = format!(
                        "Deleted pod: {}",
                        pod.metadata.name.as_deref().unwrap_or_default()
                    );
                    recorder.normal(
                        context.options.clock,
                        reference(set),
                        "SuccessfulDelete",
                        message,
                    );
                }
                Err(error) => {
                    active.push(pod);
                    failure = Some(("FailedDelete", error));
                }
            }
        }
    }
    Ok((active, failure))
}

/// The status of a ReplicaSet with these Pods, and when to look again because one becomes available.
fn status(
    set: &ReplicaSet,
    active: &[Pod],
    terminating: usize,
    failure: Option<(&'static str, String)>,
    min_ready_seconds: i32,
    now: jiff::Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let template_labels = set
        .spec
        .iter()
        .filter_map(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.as_ref())
        .flatten();
    let labels: Vec<_> = template_labels.collect();
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let nonzero = |number: usize| Some(count(number)).filter(|n| *n != 0);
    let fully_labeled = active
        .iter()
        .filter(|pod| {
            labels.iter().all(|(key, value)| {
                pod.metadata
                    .labels
                    .iter()
                    .flatten()
                    .any(|(k, v)| k == *key && v == *value)
            })
        })
        .count();
    let ready = active.iter().filter(|pod| pods::is_ready(pod)).count();
    let waits: Vec<Duration> = active
        .iter()
        .filter_map(|pod| pods::available_in(pod, min_ready_seconds, now))
        .collect();
    let available = waits.iter().filter(|wait| wait.is_zero()).count();
    let pause = waits.into_iter().filter(|wait| !wait.is_zero()).min();
    let old = set.status.as_ref();
    let conditions = failure.map(|(reason, message)| {
        vec![ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: old
                .and_then(|status| {
                    status
                        .conditions
                        .as_ref()?
                        .first()?
                        .last_transition_time
                        .clone()
                })
                .or(Some(Time(now))),
        }]
    });
    let status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: nonzero(fully_labeled),
        ready_replicas: nonzero(ready),
        available_replicas: nonzero(available),
        // Present, even if zero, once the server has said so: the field says "known", not only "some".
        terminating_replicas: Some(count(terminating)),
        observed_generation: set.metadata.generation,
        conditions,
    };
    (status, pause)
}
