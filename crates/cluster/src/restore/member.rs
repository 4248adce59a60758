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
use serde_json::{Value, json};

use super::{Change, Plan, Request, RestoreError, plan};
use crate::{
    AccessCode, Answer, Host, Member,
    retry::TRIES,
    trust::{self, TrustError, rotation::Told},
};

/// The key of the configuration in the ConfigMap.
const TEXT: &str = "kubesphere.yaml";
/// The key of the text before the change. It is binary data, so that `grep` in the ConfigMap's YAML finds each setting once.
const BACKUP: &str = "backup-kubesphere.yaml";
/// Which restore wrote the ConfigMap.
const MARK: &str = "hub.kubeaihub.io/restore-id";

/// What `kubectl rollout restart` writes.
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";

pub(super) struct OnMember<'a> {
    host: &'a Host,
    request: &'a Request,
    member: Arc<Member>,
    /// It is not, or not yet, the one that the registry holds.
    candidate: bool,
    /// The trust that is to work, where it is not the one that is in force.
    trust: Option<Trust>,
    maps: Api<ConfigMap>,
    deployments: Api<Deployment>,
}

impl<'a> OnMember<'a> {
    pub(super) fn new(
        host: &'a Host,
        request: &'a Request,
        member: Arc<Member>,
        candidate: bool,
        client: Option<kube::Client>,
        trust: Option<Trust>,
    ) -> Result<Self, RestoreError> {
        let client = match client {
            Some(client) => client,
            None => member
                .kubernetes()
                .map_err(|error| RestoreError::Settings(error.clone()))?,
        };
        Ok(Self {
            host,
            request,
            maps: Api::namespaced(client.clone(), seed::NAMESPACE),
            deployments: Api::namespaced(client, seed::NAMESPACE),
            member,
            candidate,
            trust,
        })
    }

    pub(super) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Whether the member accepts the proof, as the Cluster object is now.
    pub(super) async fn probe(&self) -> Answer {
        let member = if self.candidate {
            Some(Arc::clone(&self.member))
        } else {
            self.host.registry.get(&self.request.cluster)
        };
        match (member, self.trust) {
            (Some(member), None) => member.probe(&self.request.proof).await,
            (Some(member), Some(trust)) => {
                let identity = member.identity().unwrap_or_default();
                let member = member.with_trust(trust, identity);
                member.probe(&self.request.proof).await
            }
            (None, _) => Answer::Refused {
                code: None,
                evidence: "the Cluster has gone".into(),
            },
        }
    }

    /// The same member, for this trust to work on it.
    pub(super) fn for_trust(&self, trust: Option<Trust>) -> Self {
        Self {
            host: self.host,
            request: self.request,
            member: Arc::clone(&self.member),
            candidate: self.candidate,
            trust,
            maps: self.maps.clone(),
            deployments: self.deployments.clone(),
        }
    }

    /// The trust that is to work, where it is not the one that is in force.
    pub(super) fn wanted(&self) -> Option<Trust> {
        self.trust
    }

    fn trust(&self) -> Trust {
        self.trust.unwrap_or(self.member.trust())
    }

    /// What has to change in this `kubesphere.yaml` for the trust that is to work; where `only` names keys, no other.
    pub(super) async fn plan(
        &self,
        text: &str,
        key: &[u8],
        only: Option<&[String]>,
    ) -> Result<Plan, RestoreError> {
        // To a federated member neither its secret nor its cache matters.
        let role = [plan::ROLE_KEY.to_owned()];
        let only = match self.trust() {
            Trust::Federated => Some(role.as_slice()),
            Trust::SharedSecret => only,
        };
        plan::plan(&self.host_configuration().await?, text, key, only)
    }

    /// What a federated member has to be told, if it does not know all of the host's keys. What another host has told it is people's to take away.
    pub(super) async fn untold(&self) -> Result<Option<Change>, RestoreError> {
        if self.trust() != Trust::Federated {
            return Ok(None);
        }
        let from = match trust::told(self.host, &self.member).await {
            Told::Other(ids) if ids.is_empty() => "no keys of this host".to_owned(),
            Told::Other(ids) => ids.join(", "),
            Told::Foreign(issuer) => {
                return Err(RestoreError::NotRepairable {
                    code: Some(AccessCode::SignatureInvalid),
                    evidence: TrustError::Foreign(issuer).to_string(),
                });
            }
            Told::All | Told::Away(_) => return Ok(None),
        };
        Ok(Some(Change {
            key: "ConfigMap hub-trust".into(),
            from,
            to: "the keys of this host".into(),
            code: AccessCode::SignatureInvalid,
        }))
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
    pub(super) async fn put_back(&self, id: &str, keys: &[String]) -> Result<bool, RestoreError> {
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
        let written = self.plan(&backup, &[], Some(keys)).await?;
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

    /// One replica, and our mark. Whatever people have made of it is left.
    pub(super) async fn scale_up(&self, id: &str) -> Result<(), RestoreError> {
        self.edit(|deployment| {
            (replicas(deployment) == Some(0))
                .then(|| json!({"metadata": {"annotations": {MARK: id}}, "spec": {"replicas": 1}}))
        })
        .await
    }

    /// No replica again, where it has the one that this restore gave it.
    pub(super) async fn scale_down(&self, id: &str) -> Result<(), RestoreError> {
        self.edit(|deployment| {
            let annotations = deployment.metadata.annotations.as_ref()?;
            annotations.get(MARK).filter(|mark| *mark == id)?;
            let mut patch = json!({"metadata": {"annotations": {MARK: null}}});
            if replicas(deployment) == Some(1) {
                patch["spec"] = json!({"replicas": 0});
            }
            Some(patch)
        })
        .await
    }

    /// As `kubectl rollout restart` does. The same time again restarts nothing.
    pub(super) async fn restart(&self, at: Timestamp) -> Result<(), RestoreError> {
        self.edit(|_| Some(restarted(at))).await
    }

    /// Another restart, where the last one was ours.
    pub(super) async fn restart_again(&self, at: Timestamp) -> Result<(), RestoreError> {
        self.edit(|deployment| {
            let template = &deployment.spec.as_ref()?.template;
            let annotations = template.metadata.as_ref()?.annotations.as_ref()?;
            let last = annotations.get(RESTARTED)?;
            let again = at.saturating_add(jiff::SignedDuration::from_secs(1)).ok()?;
            (*last == at.to_string()).then(|| restarted(again))
        })
        .await
    }

    /// Patches the Deployment as it is now; `None` leaves it. Where there is none, whoever runs ks-apiserver has to see to it: the proof waits for
    /// them.
    async fn edit(
        &self,
        change: impl Fn(&Deployment) -> Option<Value>,
    ) -> Result<(), RestoreError> {
        let failed = failed("change Deployment ks-apiserver of the member");
        let mut tries = 0;
        loop {
            let deployment = match self.deployments.get_opt(seed::SERVER).await {
                Ok(Some(deployment)) => deployment,
                Ok(None) => return Ok(()),
                Err(error) => return Err(failed(error)),
            };
            let Some(mut patch) = change(&deployment) else {
                return Ok(());
            };
            // Only what was looked at is patched.
            patch["metadata"]["resourceVersion"] = deployment.metadata.resource_version.into();
            let patched = self
                .deployments
                .patch(seed::SERVER, &PatchParams::default(), &Patch::Merge(patch))
                .await;
            match patched {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => tries += 1,
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

fn replicas(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref()?.replicas
}

fn restarted(at: Timestamp) -> Value {
    let annotations = json!({RESTARTED: at.to_string()});
    json!({"spec": {"template": {"metadata": {"annotations": annotations}}}})
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
