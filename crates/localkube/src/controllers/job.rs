//! Jobs: Pods that run to their end, a number of times.

use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, PostParams};

use super::ownership::{claim, controller_reference};
use super::{Context, Error, Key, pods, unless_gone};
use crate::recorder::reference;

/// Brings one Job closer to its completions.
pub async fn reconcile(context: Context, key: Key) -> Result<Option<Duration>, Error> {
    let api: Api<Job> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(job) = api
        .get_opt(&key.name)
        .await
        .map_err(Error::doing("get a job"))?
    else {
        return Ok(None);
    };
    let Some(spec) = &job.spec else {
        return Ok(None);
    };
    let Some(selector) = &spec.selector else {
        return Ok(None);
    };
    let old = job.status.clone().unwrap_or_default();
    let over = |kind: &str| {
        let mut conditions = old.conditions.iter().flatten();
        conditions.any(|c| c.type_ == kind && c.status == "True")
    };
    if job.metadata.deletion_timestamp.is_some() || over("Complete") || over("Failed") {
        return Ok(None);
    }
    let owned: Vec<Pod> = claim(&context.client, &job, selector).await?;
    let count = |phase: &str| owned.iter().filter(|pod| pods::phase(pod) == phase).count();
    let (succeeded, failed) = (count("Succeeded"), count("Failed"));
    let mut active: Vec<Pod> = owned.into_iter().filter(pods::is_active).collect();
    let number =
        |value: Option<i32>, default: i32| usize::try_from(value.unwrap_or(default)).unwrap_or(0);
    let parallelism = number(spec.parallelism, 1);
    let completions = spec.completions.map(|wanted| number(Some(wanted), 1));
    let has_failed = failed > number(spec.backoff_limit, 6);
    let is_complete = match completions {
        Some(wanted) => succeeded >= wanted,
        // Without a number, the first success means that the work is done.
        None => succeeded > 0 && active.is_empty(),
    };
    let recorder = context.recorder.component("job-controller");
    let clock = context.options.clock;
    let wanted = if has_failed || is_complete || spec.suspend == Some(true) {
        0
    } else {
        match completions {
            Some(all) => parallelism.min(all - succeeded),
            None if succeeded > 0 => active.len().min(parallelism),
            None => parallelism,
        }
    };
    while active.len() > wanted {
        if let Some(pod) = active.pop() {
            pods::delete(&context, &pod).await?;
        }
    }
    for _ in active.len()..wanted {
        let reference_to_job = controller_reference(&job);
        let pod = pods::from_template(&spec.template, &key.namespace, &key.name, reference_to_job);
        let made = pods::create(&context, &key.namespace, &pod).await?;
        let name = made.metadata.name.clone().unwrap_or_default();
        let message = format!("Created pod: {name}");
        recorder.normal(clock, reference(&job), "SuccessfulCreate", message);
        active.push(made);
    }
    let now = context.now();
    let ready = active.iter().filter(|pod| pods::is_ready(pod)).count();
    let nonzero = |n: usize| i32::try_from(n).ok().filter(|n| *n != 0);
    let mut status = JobStatus {
        active: nonzero(active.len()),
        ready: i32::try_from(ready).ok(),
        terminating: Some(0),
        succeeded: nonzero(succeeded),
        failed: nonzero(failed),
        start_time: old.start_time.clone().or(Some(Time(now))),
        uncounted_terminated_pods: Some(UncountedTerminatedPods::default()),
        ..old.clone()
    };
    let verdict: &[(&str, Option<&str>, Option<&str>)] = if is_complete {
        let (reason, message) = (
            "CompletionsReached",
            "Reached expected number of succeeded pods",
        );
        &[
            ("SuccessCriteriaMet", Some(reason), Some(message)),
            ("Complete", Some(reason), Some(message)),
        ]
    } else if has_failed {
        let (reason, message) = (
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
        );
        &[
            ("FailureTarget", Some(reason), Some(message)),
            ("Failed", Some(reason), Some(message)),
        ]
    } else {
        &[]
    };
    for (kind, reason, message) in verdict {
        status
            .conditions
            .get_or_insert_default()
            .push(JobCondition {
                type_: (*kind).to_owned(),
                status: "True".to_owned(),
                reason: reason.map(str::to_owned),
                message: message.map(str::to_owned),
                last_probe_time: Some(Time(now)),
                last_transition_time: Some(Time(now)),
            });
    }
    if is_complete {
        status.completion_time = Some(Time(now));
    }
    if status != old {
        let mut changed = job.clone();
        changed.status = Some(status);
        let done = api
            .replace_status(&key.name, &PostParams::default(), &changed)
            .await;
        if unless_gone(done, "write the status of a job")?.is_some() {
            if is_complete {
                recorder.normal(clock, reference(&job), "Completed", "Job completed");
            } else if has_failed {
                let message = "Job has reached the specified backoff limit";
                recorder.warning(clock, reference(&job), "BackoffLimitExceeded", message);
            }
        }
    }
    Ok(None)
}
