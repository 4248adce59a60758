//! The member's side of a restore: its ConfigMap, its Deployment, and its answer over the real route.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{apps::v1::Deployment, core::v1::ConfigMap},
};
use kah_api::{cluster::Trust, seed};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{
    ANNOTATION, Change, Plan, Request, RestoreError, State,
    plan::{plan, plan_of_role},
};
use crate::{
    AccessCode, Answer, Host, Member,
    trust::{self, rotation::Told},
};

/// The key of the configuration in the ConfigMap.
const TEXT: &str = "kubesphere.yaml";
/// The key of the text before the change. It is binary data, so that `grep` in the ConfigMap's YAML finds each setting once.
const BACKUP: &str = "backup-kubesphere.yaml";
/// Which restore wrote the ConfigMap.
const MARK: &str = "hub.kubeaihub.io/restore-id";
pub(super) struct OnMember<'a> {
    host: &'a Host,
    request: &'a Request,
    member: Arc<Member>,
    /// The trust that is to work, where it is not the one that is in force.
    trust: Option<Trust>,
    maps: Api<ConfigMap>,
    deployments: Api<Deployment>,
}

impl<'a> OnMember<'a> {
    pub(super) fn find(
        host: &'a Host,
        request: &'a Request,
        trust: Option<Trust>,
    ) -> Result<Self, RestoreError> {
        let name = &request.cluster;
        let member = host
            .registry
            .get(name)
            .ok_or_else(|| RestoreError::Unknown(name.clone()))?;
        if member.is_host() {
            return Err(RestoreError::IsHost(name.clone()));
        }
        let client = member
            .kubernetes()
            .map_err(|error| RestoreError::Settings(error.clone()))?;
        Ok(Self {
            host,
            request,
            maps: Api::namespaced(client.clone(), seed::NAMESPACE),
            deployments: Api::namespaced(client, seed::NAMESPACE),
            member,
            trust,
        })
    }

    /// What an earlier run has not ended, as far as the registry knows.
    pub(super) fn begun(&self) -> Option<State> {
        let state: State = serde_json::from_str(self.member.annotation(ANNOTATION)?).ok()?;
        (!state.step.is_last()).then_some(state)
    }

    /// Whether the member accepts the proof, as the Cluster object is now.
    pub(super) async fn probe(&self) -> Answer {
        match self.host.registry.get(&self.request.cluster) {
            Some(member) => match self.trust {
                Some(trust) => {
                    let identity = member.identity().unwrap_or_default();
                    let member = member.with_trust(trust, identity);
                    member.probe(&self.request.proof).await
                }
                None => member.probe(&self.request.proof).await,
            },
            None => Answer::Refused {
                code: None,
                evidence: "the Cluster has gone".into(),
            },
        }
    }

    fn trust(&self) -> Trust {
        self.trust.unwrap_or(self.member.trust())
    }

    /// What has to change in this `kubesphere.yaml` for the trust that is to work.
    pub(super) async fn plan(&self, text: &str, key: &[u8]) -> Result<Plan, RestoreError> {
        match self.trust() {
            Trust::Federated => plan_of_role(text),
            Trust::SharedSecret => plan(&self.host_configuration().await?, text, key),
        }
    }

    /// What a federated member has to be told, if it does not know all of the host's keys.
    pub(super) async fn untold(&self) -> Option<Change> {
        if self.trust() != Trust::Federated {
            return None;
        }
        let from = match trust::told(self.host, &self.member).await {
            Told::Other(ids) if ids.is_empty() => "no keys of this host".to_owned(),
            Told::Other(ids) => ids.join(", "),
            Told::Foreign(issuer) => format!("the keys of {issuer}"),
            Told::All | Told::Away(_) => return None,
        };
        Some(Change {
            key: "ConfigMap hub-trust".into(),
            from,
            to: "the keys of this host".into(),
            code: AccessCode::SignatureInvalid,
        })
    }

    /// Tells the member, and says whether it accepts then.
    pub(super) async fn tell_again(&self) -> Result<bool, RestoreError> {
        trust::tell(self.host, &self.member)
            .await
            .map_err(|error| RestoreError::Keys(Box::new(error)))?;
        let deadline = tokio::time::Instant::now() + self.request.patience.live;
        while self.probe().await != Answer::Accepted {
            if tokio::time::Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(self.request.patience.look).await;
        }
        Ok(true)
    }

    async fn host_configuration(&self) -> Result<String, RestoreError> {
        let maps: Api<ConfigMap> = Api::namespaced(self.host.client.clone(), seed::NAMESPACE);
        let map = maps
            .get(seed::CONFIG)
            .await
            .map_err(failed("read ConfigMap kubesphere-config of the host"))?;
        Ok(text(&map))
    }

    pub(super) async fn configuration(&self) -> Result<ConfigMap, RestoreError> {
        self.maps
            .get(seed::CONFIG)
            .await
            .map_err(failed("read ConfigMap kubesphere-config of the member"))
    }

    /// New text and backup in one write, against the version that was planned with.
    pub(super) async fn write(
        &self,
        mut map: ConfigMap,
        plan: &Plan,
        id: &str,
    ) -> Result<(), RestoreError> {
        let before = text(&map);
        map.binary_data
            .get_or_insert_default()
            .insert(BACKUP.into(), ByteString(before.into_bytes()));
        map.data
            .get_or_insert_default()
            .insert(TEXT.into(), plan.text.clone());
        map.metadata
            .annotations
            .get_or_insert_default()
            .insert(MARK.into(), id.into());
        self.replace(&map).await
    }

    /// The old text again, or already; `false` where somebody else wrote since.
    pub(super) async fn put_back(&self, id: &str) -> Result<bool, RestoreError> {
        let mut map = self.configuration().await?;
        let annotations = map.metadata.annotations.clone().unwrap_or_default();
        let backup = map
            .binary_data
            .as_ref()
            .and_then(|data| data.get(BACKUP))
            .and_then(|backup| String::from_utf8(backup.0.clone()).ok());
        let ours = annotations.get(MARK).map(String::as_str) == Some(id);
        let backup = match backup {
            Some(backup) if ours => backup,
            // Mark and backup go with one write: without either, an earlier run was here.
            backup => return Ok(backup.is_none() && !annotations.contains_key(MARK)),
        };
        // An edit by hand keeps mark and backup. What we wrote follows from the backup and the host's configuration, so it can be told without
        // keeping a trace of it.
        let written = self.plan(&backup, &[]).await?;
        if written.text != text(&map) {
            return Ok(false);
        }
        if let Some(annotations) = map.metadata.annotations.as_mut() {
            annotations.remove(MARK);
        }
        if let Some(binary) = map.binary_data.as_mut() {
            binary.remove(BACKUP);
        }
        map.data.get_or_insert_default().insert(TEXT.into(), backup);
        self.replace(&map).await?;
        Ok(true)
    }

    async fn replace(&self, map: &ConfigMap) -> Result<(), RestoreError> {
        self.maps
            .replace(seed::CONFIG, &PostParams::default(), map)
            .await
            .map(drop)
            .map_err(failed("write ConfigMap kubesphere-config of the member"))
    }

    pub(super) async fn has_no_replicas(&self) -> Result<bool, RestoreError> {
        let deployment = self
            .deployments
            .get_opt(seed::SERVER)
            .await
            .map_err(failed("read Deployment ks-apiserver of the member"))?;
        let replicas = deployment.and_then(|it| it.spec).map(|spec| spec.replicas);
        Ok(replicas == Some(Some(0)))
    }

    pub(super) async fn scale(&self, replicas: i32) -> Result<(), RestoreError> {
        self.patch(json!({"spec": {"replicas": replicas}})).await
    }

    /// As `kubectl rollout restart` does. The same time again restarts nothing.
    pub(super) async fn restart(&self, at: Timestamp) -> Result<(), RestoreError> {
        let annotations = json!({"kubectl.kubernetes.io/restartedAt": at.to_string()});
        self.patch(json!({"spec": {"template": {"metadata": {"annotations": annotations}}}}))
            .await
    }

    /// Where there is no Deployment, whoever runs ks-apiserver has to see to it: the proof waits for them.
    async fn patch(&self, patch: serde_json::Value) -> Result<(), RestoreError> {
        let patched = self
            .deployments
            .patch(seed::SERVER, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        match patched {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(failed("change Deployment ks-apiserver of the member")(
                error,
            )),
            Ok(_) => Ok(()),
        }
    }
}

/// `kubesphere.yaml`; empty where the ConfigMap has none.
pub(super) fn text(map: &ConfigMap) -> String {
    let text = map.data.as_ref().and_then(|data| data.get(TEXT));
    text.cloned().unwrap_or_default()
}

/// Whether this restore wrote it.
pub(super) fn is_marked(map: &ConfigMap, id: &str) -> bool {
    let mark = map
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(MARK));
    mark.is_some_and(|mark| mark == id)
}

fn failed(doing: &'static str) -> impl FnOnce(kube::Error) -> RestoreError {
    move |source| RestoreError::Api {
        doing,
        source: Box::new(source),
    }
}
