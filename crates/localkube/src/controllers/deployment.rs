//! Deployments: one ReplicaSet for each Pod template, and the way from one to the next.

pub mod plan;
mod revision;
mod sets;
mod status;
pub mod template;

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, PostParams};

use super::ownership::{claim, controller_of, is_empty};
use super::{Context, Error, Key, pods, unless_gone};
use plan::Bounds;
use sets::{size, view};
use status::Builder;

/// One look at one Deployment.
struct Rollout<'a> {
    context: &'a Context,
    deployment: Deployment,
    spec: DeploymentSpec,
    bounds: Bounds,
    new: Option<ReplicaSet>,
    /// Oldest first.
    old: Vec<ReplicaSet>,
    pods: Vec<Pod>,
}

/// Brings one Deployment a step further; the changes it makes bring it back here.
pub async fn reconcile(context: Context, key: Key) -> Result<Option<Duration>, Error> {
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(deployment) = api
        .get_opt(&key.name)
        .await
        .map_err(Error::doing("get a deployment"))?
    else {
        return Ok(None);
    };
    let Some(spec) = deployment.spec.clone() else {
        return Ok(None);
    };
    if is_empty(&spec.selector) {
        return Ok(None);
    }
    let mut sets: Vec<ReplicaSet> = claim(&context.client, &deployment, &spec.selector).await?;
    sets.sort_by_key(|set| {
        let created = set.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created, set.metadata.name.clone())
    });
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let pods = pods
        .list(&ListParams::default())
        .await
        .map_err(Error::doing("list the pods of a deployment"))?
        .items;
    let uids: Vec<_> = sets
        .iter()
        .filter_map(|set| set.metadata.uid.clone())
        .collect();
    let pods = pods
        .into_iter()
        .filter(|pod| controller_of(&pod.metadata).is_some_and(|owner| uids.contains(&owner.uid)))
        .collect();
    let position = sets.iter().position(|set| {
        let current = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        current.is_some_and(|current| template::same(current, &spec.template))
    });
    let new = position.map(|at| sets.remove(at));
    let replicas = spec.replicas.unwrap_or(1);
    let strategy = spec.strategy.clone().unwrap_or_default();
    let recreate = strategy.type_.as_deref() == Some("Recreate");
    let bounds = if recreate {
        Bounds::recreate(replicas)
    } else {
        let rolling = strategy.rolling_update.unwrap_or_default();
        Bounds::rolling(
            replicas,
            rolling.max_surge.as_ref(),
            rolling.max_unavailable.as_ref(),
        )
    };
    let mut rollout = Rollout {
        context: &context,
        deployment,
        spec,
        bounds,
        new,
        old: sets,
        pods,
    };
    if rollout.deployment.metadata.deletion_timestamp.is_some() {
        return rollout.write_counts().await;
    }
    rollout.note_pause().await?;
    if rollout.spec.paused == Some(true) {
        rollout.write_revision().await?;
        rollout.scale_all().await?;
        return rollout.write_counts().await;
    }
    if rollout.was_scaled() {
        rollout.write_revision().await?;
        rollout.scale_all().await?;
        return rollout.write_counts().await;
    }
    if recreate {
        rollout.recreate().await
    } else {
        rollout.roll().await
    }
}

impl Rollout<'_> {
    fn name(&self) -> &str {
        self.deployment.metadata.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.deployment
            .metadata
            .namespace
            .as_deref()
            .unwrap_or_default()
    }

    fn api(&self) -> Api<Deployment> {
        Api::namespaced(self.context.client.clone(), self.namespace())
    }

    fn sets_api(&self) -> Api<ReplicaSet> {
        Api::namespaced(self.context.client.clone(), self.namespace())
    }

    fn max(&self) -> i32 {
        self.bounds.replicas.saturating_add(self.bounds.surge)
    }

    async fn roll(mut self) -> Result<Option<Duration>, Error> {
        if !self.make_new().await? {
            return Ok(None);
        }
        let all = self.old.iter().map(size).sum::<i32>() + self.new.as_ref().map_or(0, size);
        if let Some(new) = &self.new {
            let wanted = plan::new_size(self.bounds, size(new), all);
            if wanted != size(new) {
                let name = new.metadata.name.clone().unwrap_or_default();
                self.resize(&[(name, wanted)]).await?;
                return self.write_rollout().await;
            }
        }
        let old: Vec<_> = self.old.iter().map(view).collect();
        let resizes = plan::shrink_old(self.bounds, self.new.as_ref().map(view).as_ref(), &old);
        if !resizes.is_empty() {
            self.resize(&resizes).await?;
            return self.write_rollout().await;
        }
        self.clean_up().await?;
        self.write_rollout().await
    }

    async fn recreate(mut self) -> Result<Option<Duration>, Error> {
        self.write_revision().await?;
        let resizes: Vec<_> = self
            .old
            .iter()
            .filter(|set| size(set) > 0)
            .map(|set| (set.metadata.name.clone().unwrap_or_default(), 0))
            .collect();
        if !resizes.is_empty() {
            self.resize(&resizes).await?;
            return self.write_rollout().await;
        }
        let new = self
            .new
            .as_ref()
            .and_then(|set| set.metadata.uid.as_deref());
        let still_running = self.pods.iter().any(|pod| {
            !matches!(pods::phase(pod), "Succeeded" | "Failed")
                && controller_of(&pod.metadata).is_some_and(|owner| Some(owner.uid.as_str()) != new)
        });
        if still_running {
            return self.write_rollout().await;
        }
        if !self.make_new().await? {
            return Ok(None);
        }
        if let Some(new) = &self.new
            && size(new) != self.bounds.replicas
        {
            let name = new.metadata.name.clone().unwrap_or_default();
            self.resize(&[(name, self.bounds.replicas)]).await?;
        }
        self.clean_up().await?;
        self.write_rollout().await
    }

    /// Notes in the Progressing condition that a rollout was paused or goes on.
    async fn note_pause(&mut self) -> Result<(), Error> {
        if self.spec.progress_deadline_seconds.is_none() {
            return Ok(());
        }
        let mut status = self.deployment.status.clone().unwrap_or_default();
        let reason = status::condition(&status, "Progressing")
            .and_then(|c| c.reason.clone())
            .unwrap_or_default();
        let paused = self.spec.paused == Some(true);
        if reason == "ProgressDeadlineExceeded" && paused {
            return Ok(());
        }
        let (reason, message) = match (paused, reason == "DeploymentPaused") {
            (true, false) => ("DeploymentPaused", "Deployment is paused"),
            (false, true) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return Ok(()),
        };
        self.builder()
            .progressing(&mut status, "Unknown", reason, message.to_owned());
        self.write_status(status).await
    }

    fn builder(&self) -> Builder<'_> {
        let terminating = self
            .pods
            .iter()
            .filter(|pod| {
                pod.metadata.deletion_timestamp.is_some()
                    && !matches!(pods::phase(pod), "Succeeded" | "Failed")
            })
            .count();
        Builder {
            deployment: &self.deployment,
            bounds: self.bounds,
            new: self.new.as_ref(),
            old: &self.old,
            terminating: i32::try_from(terminating).unwrap_or(i32::MAX),
            now: self.context.now(),
        }
    }

    async fn write_counts(mut self) -> Result<Option<Duration>, Error> {
        let status = self.builder().counted();
        self.write_status(status).await?;
        Ok(None)
    }

    async fn write_rollout(mut self) -> Result<Option<Duration>, Error> {
        let failure = self.old.iter().chain(&self.new).rev_find_failure();
        let (status, pause) = self.builder().rolled(failure);
        self.write_status(status).await?;
        Ok(pause)
    }

    async fn write_status(&mut self, status: DeploymentStatus) -> Result<(), Error> {
        if self.deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = self.deployment.clone();
        changed.status = Some(status);
        let done = self
            .api()
            .replace_status(self.name(), &PostParams::default(), &changed)
            .await;
        if let Some(written) = unless_gone(done, "write the status of a deployment")? {
            self.deployment = written;
        }
        Ok(())
    }
}

trait FindFailure {
    fn rev_find_failure(self) -> Option<(String, String)>;
}

impl<'a, I: Iterator<Item = &'a ReplicaSet>> FindFailure for I {
    /// The failure of the newest ReplicaSet that has one.
    fn rev_find_failure(self) -> Option<(String, String)> {
        self.filter_map(|set| set.status.as_ref()?.conditions.as_ref())
            .flatten()
            .filter(|c| c.type_ == "ReplicaFailure" && c.status == "True")
            .last()
            .map(|c| {
                (
                    c.reason.clone().unwrap_or_default(),
                    c.message.clone().unwrap_or_default(),
                )
            })
    }
}
