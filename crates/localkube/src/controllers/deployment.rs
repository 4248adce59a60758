//! Deployments: one ReplicaSet for each Pod template, and the way from one to the next.

pub mod plan;
mod revision;
mod status;
pub mod template;

use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::error::code;
use super::ownership::{claim, controller_of, controller_reference, is_empty};
use super::{Context, Error, Key, pods, unless_gone};
use crate::recorder::reference;
use plan::Bounds;
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

    fn next_revision(&self) -> i64 {
        self.old.iter().map(revision::of).max().unwrap_or(0) + 1
    }

    /// Keeps revision and annotations of the current ReplicaSet, if it exists, up to date.
    async fn write_revision(&mut self) -> Result<(), Error> {
        let Some(new) = &self.new else { return Ok(()) };
        let wanted = self.next_revision();
        let current = new.metadata.annotations.as_ref();
        let (replicas, max) = (
            revision::number(current, revision::DESIRED),
            revision::number(current, revision::MAX),
        );
        let number = |value: Option<i64>, other: i32| {
            value.and_then(|v| i32::try_from(v).ok()).unwrap_or(other)
        };
        // Sizes are left as they are: they change together with spec.replicas only.
        let annotations = revision::annotate(
            &self.deployment,
            current,
            wanted,
            number(replicas, self.bounds.replicas),
            number(max, self.max()),
        );
        let min_ready = self.spec.min_ready_seconds;
        let old_min_ready = new.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        if current != Some(&annotations) || old_min_ready.unwrap_or(0) != min_ready.unwrap_or(0) {
            let name = new.metadata.name.clone().unwrap_or_default();
            let patch = json!({
                "metadata": {"annotations": annotations},
                "spec": {"minReadySeconds": min_ready.filter(|seconds| *seconds != 0)},
            });
            let done = self
                .sets_api()
                .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            if let Some(changed) = unless_gone(done, "annotate a replica set")? {
                self.new = Some(changed);
            }
        }
        let now = self.new.as_ref().map_or(wanted, revision::of);
        self.write_own_revision(now).await
    }

    async fn write_own_revision(&mut self, wanted: i64) -> Result<(), Error> {
        let current = self.deployment.metadata.annotations.as_ref();
        if revision::number(current, revision::REVISION) == Some(wanted) {
            return Ok(());
        }
        let patch = json!({"metadata": {"annotations": {revision::REVISION: wanted.to_string()}}});
        let done = self
            .api()
            .patch(self.name(), &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        if let Some(changed) = unless_gone(done, "write the revision of a deployment")? {
            self.deployment = changed;
        }
        Ok(())
    }

    /// Makes the ReplicaSet of the current template unless it exists. False: look again from the start.
    async fn make_new(&mut self) -> Result<bool, Error> {
        if self.new.is_some() {
            self.write_revision().await?;
            return Ok(true);
        }
        let collisions = self
            .deployment
            .status
            .as_ref()
            .and_then(|s| s.collision_count);
        let hash = template::hash(&self.spec.template, collisions);
        let name = format!("{}-{hash}", self.name());
        let mut pod = self.spec.template.clone();
        let metadata = pod.metadata.get_or_insert_default();
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(template::HASH_LABEL.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut match_labels = self.spec.selector.match_labels.clone().unwrap_or_default();
        match_labels.insert(template::HASH_LABEL.to_owned(), hash);
        let all = self.old.iter().map(size).sum::<i32>();
        let replicas = plan::new_size(self.bounds, 0, all);
        let revision = self.next_revision();
        let annotations = revision::annotate(
            &self.deployment,
            None,
            revision,
            self.bounds.replicas,
            self.max(),
        );
        let set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: self.deployment.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: Some(annotations),
                owner_references: Some(vec![controller_reference(&self.deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                min_ready_seconds: self.spec.min_ready_seconds,
                selector: LabelSelector {
                    match_labels: Some(match_labels),
                    match_expressions: self.spec.selector.match_expressions.clone(),
                },
                template: Some(pod),
            }),
            status: None,
        };
        let recorder = self.context.recorder.component("deployment-controller");
        let clock = self.context.options.clock;
        match self.sets_api().create(&PostParams::default(), &set).await {
            Ok(made) => self.new = Some(made),
            Err(error) if code(&error) == Some(409) => {
                // Ours was listed above if it was ours, so this is a collision of hashes.
                let mut status = self.deployment.status.clone().unwrap_or_default();
                status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                self.write_status(status).await?;
                return Ok(true);
            }
            Err(error) => {
                let message = format!("Failed to create new replica set {name:?}: {error}");
                recorder.warning(
                    clock,
                    reference(&self.deployment),
                    "ReplicaSetCreateError",
                    message,
                );
                let builder = self.builder();
                let mut status = builder.counted();
                builder.progressing(
                    &mut status,
                    "False",
                    "ReplicaSetCreateError",
                    error.to_string(),
                );
                self.write_status(status).await?;
                return Err(Error::doing("make a replica set")(error));
            }
        }
        if replicas > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {replicas}");
            recorder.normal(
                clock,
                reference(&self.deployment),
                "ScalingReplicaSet",
                message,
            );
        }
        self.write_own_revision(revision).await?;
        let builder = self.builder();
        let mut status = self.deployment.status.clone().unwrap_or_default();
        if self.spec.progress_deadline_seconds.is_some() {
            let message = format!("Created new replica set {name:?}");
            builder.progressing(&mut status, "True", "NewReplicaSetCreated", message);
        }
        self.write_status(status).await?;
        Ok(true)
    }

    /// Whether `spec.replicas` changed since the ReplicaSets were last sized.
    fn was_scaled(&self) -> bool {
        self.old.iter().chain(&self.new).any(|set| {
            let desired = revision::number(set.metadata.annotations.as_ref(), revision::DESIRED);
            size(set) > 0 && desired.is_some_and(|n| n != i64::from(self.bounds.replicas))
        })
    }

    async fn scale_all(&mut self) -> Result<(), Error> {
        let active: Vec<&ReplicaSet> = self
            .old
            .iter()
            .chain(&self.new)
            .filter(|set| size(set) > 0)
            .collect();
        let single = match active.as_slice() {
            [] => self.new.as_ref().or(self.old.last()),
            [one] => Some(*one),
            _ => None,
        };
        let resizes = if let Some(set) = single {
            vec![(
                set.metadata.name.clone().unwrap_or_default(),
                self.bounds.replicas,
            )]
        } else if self.new.as_ref().is_some_and(|new| {
            size(new) == self.bounds.replicas && view(new).available == self.bounds.replicas
        }) {
            self.old
                .iter()
                .filter(|set| size(set) > 0)
                .map(|set| (set.metadata.name.clone().unwrap_or_default(), 0))
                .collect()
        } else {
            let mut sets: Vec<_> = active.iter().map(|set| view(set)).collect();
            let grows = sets.iter().map(|set| set.replicas).sum::<i32>() < self.max();
            // The bigger first; of equals the newer one when there are Pods to add, else the older one.
            if grows {
                sets.reverse();
            }
            sets.sort_by_key(|set| std::cmp::Reverse(set.replicas));
            let mut resizes = plan::proportional(self.bounds, &sets);
            // Those that keep their size get the new annotations all the same.
            for set in sets {
                if !resizes.iter().any(|(name, _)| *name == set.name) {
                    resizes.push((set.name, set.replicas));
                }
            }
            resizes
        };
        self.resize(&resizes).await
    }

    /// Writes sizes, with an event for each that changes.
    async fn resize(&mut self, resizes: &[plan::Resize]) -> Result<(), Error> {
        let recorder = self.context.recorder.component("deployment-controller");
        let api = self.sets_api();
        for (name, replicas) in resizes {
            let found = self.old.iter_mut().chain(self.new.as_mut());
            let Some(set) = found
                .into_iter()
                .find(|set| set.metadata.name.as_ref() == Some(name))
            else {
                continue;
            };
            let before = size(set);
            let max = self.bounds.replicas.saturating_add(self.bounds.surge);
            let patch = json!({
                "metadata": {
                    "resourceVersion": set.metadata.resource_version,
                    "annotations": {
                        revision::DESIRED: self.bounds.replicas.to_string(),
                        revision::MAX: max.to_string(),
                    },
                },
                "spec": {"replicas": replicas},
            });
            let current = set.metadata.annotations.as_ref();
            if before == *replicas
                && revision::number(current, revision::DESIRED)
                    == Some(i64::from(self.bounds.replicas))
                && revision::number(current, revision::MAX) == Some(i64::from(max))
            {
                continue;
            }
            let done = api
                .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            if let Some(changed) = unless_gone(done, "scale a replica set")? {
                *set = changed;
            }
            if before != *replicas {
                let way = if *replicas > before { "up" } else { "down" };
                let message =
                    format!("Scaled {way} replica set {name} from {before} to {replicas}");
                recorder.normal(
                    self.context.options.clock,
                    reference(&self.deployment),
                    "ScalingReplicaSet",
                    message,
                );
            }
        }
        Ok(())
    }

    /// Deletes the oldest ReplicaSets beyond `revisionHistoryLimit` once a rollout is complete.
    async fn clean_up(&mut self) -> Result<(), Error> {
        let builder = self.builder();
        if !builder.is_complete(&builder.counted()) {
            return Ok(());
        }
        let Some(limit) = self
            .spec
            .revision_history_limit
            .filter(|limit| *limit != i32::MAX)
        else {
            return Ok(());
        };
        let mut alive: Vec<&ReplicaSet> = self
            .old
            .iter()
            .filter(|set| set.metadata.deletion_timestamp.is_none())
            .collect();
        let surplus = alive
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(0));
        alive.sort_by_key(|set| revision::of(set));
        for set in alive.into_iter().take(surplus) {
            let status = set.status.clone().unwrap_or_default();
            if status.replicas != 0
                || size(set) != 0
                || set.metadata.generation > status.observed_generation
            {
                continue;
            }
            let name = set.metadata.name.as_deref().unwrap_or_default();
            let done = self
                .sets_api()
                .delete(name, &DeleteParams::background())
                .await;
            unless_gone(done, "delete an old replica set")?;
        }
        Ok(())
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

fn size(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(0)
}

fn view(set: &ReplicaSet) -> plan::Set {
    plan::Set {
        name: set.metadata.name.clone().unwrap_or_default(),
        replicas: size(set),
        available: set
            .status
            .as_ref()
            .and_then(|status| status.available_replicas)
            .unwrap_or(0),
        max_replicas: revision::number(set.metadata.annotations.as_ref(), revision::MAX)
            .and_then(|number| i32::try_from(number).ok()),
    }
}
