//! Where a restore stands. It lies in an annotation of the Cluster object, so that whoever comes next can go on from there.

use jiff::{SignedDuration, Timestamp};
use kah_api::cluster::Trust;
use kube::{Api, api::PostParams, core::DynamicObject};
use serde::{Deserialize, Serialize};

use super::RestoreError;
use crate::{Host, host::clusters, retry::TRIES};

/// The annotation that holds it. No secret is part of it.
pub const ANNOTATION: &str = "hub.kubeaihub.io/restore";
/// A run that has not written for this long is over, whatever became of its process.
pub const STALE: SignedDuration = SignedDuration::from_secs(5);

/// What has been done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Nothing was changed yet.
    Planned,
    /// The ConfigMap holds the new text, and the old one as a backup; the Deployment is scaled up.
    Changed,
    /// ks-apiserver was told to start anew.
    Restarted,
    /// The member accepts the token again. The end.
    Restored,
    /// It did not help: the old text is being put back.
    Undoing,
    /// All is as it was. The end.
    Undone,
}

impl Step {
    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_last(self) -> bool {
        matches!(self, Self::Restored | Self::Undone)
    }
}

/// A restore under way, or the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Marks what belongs to this restore on the member.
    pub id: String,
    /// Who asked for it.
    pub by: String,
    /// The run that goes on with it. Another one takes over after [`STALE`].
    pub holder: String,
    /// When the holder last wrote.
    pub renewed: Timestamp,
    /// Where it stands.
    pub step: Step,
    /// The value of the Deployment's `restartedAt`: fixed at the beginning, so that going on restarts nothing twice.
    pub restart: Timestamp,
    /// The keys that change.
    pub keys: Vec<String>,
    /// Whether the Deployment had no replicas.
    #[serde(default)]
    pub scaled: bool,
    /// The user that is brought to the member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether ks-apiserver was told to start anew.
    #[serde(default)]
    pub restarted: bool,
    /// The trust that is to work, where it is not the one that was in force: what was written follows from it, and so does what proves access.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Trust>,
}

/// The state in the Cluster object, written only against the version that was read.
pub(crate) struct Stored {
    clusters: Api<DynamicObject>,
    name: String,
}

impl Stored {
    pub(crate) fn of(host: &Host, name: &str) -> Self {
        Self {
            clusters: clusters(host.client.clone()),
            name: name.to_owned(),
        }
    }

    /// The state as it is now.
    pub(crate) async fn read(&self) -> Result<Option<State>, RestoreError> {
        let found = self.clusters.get_opt(&self.name).await.map_err(failed)?;
        let object = found.ok_or_else(|| RestoreError::Unknown(self.name.clone()))?;
        Ok(state(object.metadata.annotations.as_ref()))
    }

    /// Changes the state from what it is to what `next` says, as one step: of two at once one sees the other's.
    pub(crate) async fn change(
        &self,
        mut next: impl FnMut(Option<State>) -> Result<State, RestoreError>,
    ) -> Result<State, RestoreError> {
        let mut tries = 0;
        loop {
            let found = self.clusters.get_opt(&self.name).await.map_err(failed)?;
            let mut object = found.ok_or_else(|| RestoreError::Unknown(self.name.clone()))?;
            let annotations = object.metadata.annotations.get_or_insert_default();
            let state = next(state(Some(annotations)))?;
            annotations.insert(
                ANNOTATION.to_owned(),
                serde_json::to_string(&state).unwrap_or_default(),
            );
            match self
                .clusters
                .replace(&self.name, &PostParams::default(), &object)
                .await
            {
                Ok(_) => return Ok(state),
                Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => tries += 1,
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

fn state(annotations: Option<&std::collections::BTreeMap<String, String>>) -> Option<State> {
    serde_json::from_str(annotations?.get(ANNOTATION)?).ok()
}

fn failed(source: kube::Error) -> RestoreError {
    RestoreError::Api {
        doing: "keep the state of the restore in the Cluster",
        source: Box::new(source),
    }
}
