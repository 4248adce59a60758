//! The ReplicaSets of a rollout: their revisions, sizes and end.

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::{Rollout, plan, revision, template};
use crate::controllers::error::code;
use crate::controllers::ownership::controller_reference;
use crate::controllers::{Error, unless_gone};
use crate::recorder::reference;

impl Rollout<'_> {
    pub(super) fn next_revision(&self) -> i64 {
        self.old.iter().map(revision::of).max().unwrap_or(0) + 1
    }

    /// Keeps revision and annotations of the current ReplicaSet, if it exists, up to date.
    pub(super) async fn write_revision(&mut self) -> Result<(), Error> {
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

    pub(super) async fn write_own_revision(&mut self, wanted: i64) -> Result<(), Error> {
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
    pub(super) async fn make_new(&mut self) -> Result<bool, Error> {
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
    pub(super) fn was_scaled(&self) -> bool {
        self.old.iter().chain(&self.new).any(|set| {
            let desired = revision::number(set.metadata.annotations.as_ref(), revision::DESIRED);
            size(set) > 0 && desired.is_some_and(|n| n != i64::from(self.bounds.replicas))
        })
    }

    pub(super) async fn scale_all(&mut self) -> Result<(), Error> {
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
    pub(super) async fn resize(&mut self, resizes: &[plan::Resize]) -> Result<(), Error> {
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
    pub(super) async fn clean_up(&mut self) -> Result<(), Error> {
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
}

pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(0)
}

pub(super) fn view(set: &ReplicaSet) -> plan::Set {
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
