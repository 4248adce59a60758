//! One Pod on this node, from the moment it is bound until it is deleted.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::container::{Live, Runner};
use super::environment::Downward;
use super::mount::{self, Content, Tokens};
use super::status::{self, Exit, State, View};
use super::{Inner, SIMULATED};
use crate::recorder::reference;

const RETRY: Duration = Duration::from_secs(1);
/// What processes get to end when the whole program ends.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// How long a simulated container that should end is running.
const SIMULATED_RUN: Duration = Duration::from_secs(1);

/// What the node keeps of a Pod that it runs.
pub struct Handle {
    /// The Pod as the API last showed it.
    pub latest: watch::Sender<Arc<Pod>>,
    /// The Pod is not in the API any more.
    pub gone: CancellationToken,
    /// Something that the Pod may refer to has changed.
    pub refresh: Arc<Notify>,
    pub live: Arc<Live>,
}

/// Whether a container runs our program here.
pub fn is_local(node: &Inner, container: &Container) -> bool {
    let program = node.options.program.as_ref();
    program.is_some_and(|program| Some(&program.image) == container.image.as_ref())
}

pub struct Worker {
    pub node: Arc<Inner>,
    pub folder: PathBuf,
    pub latest: watch::Receiver<Arc<Pod>>,
    pub gone: CancellationToken,
    pub refresh: Arc<Notify>,
    pub live: Arc<Live>,
    pub shutdown: CancellationToken,
}

/// Why a Pod's life here is over.
enum Over {
    /// It was deleted and its containers have ended.
    Deleted,
    Gone,
    Shutdown,
}

impl Worker {
    /// Runs the Pod until it is over.
    pub async fn run(mut self) {
        let over = self.live().await;
        match over {
            Over::Shutdown => return,
            Over::Deleted => self.confirm().await,
            Over::Gone => {}
        }
        let folder = self.folder.clone();
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
        if let Ok(Err(error)) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a pod's folder could not be removed");
        }
    }

    fn pod(&self) -> Arc<Pod> {
        self.latest.borrow().clone()
    }

    fn api(&self) -> Api<Pod> {
        let pod = self.pod();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.node.client.clone(), namespace)
    }

    fn is_deleted(&self) -> bool {
        self.latest.borrow().metadata.deletion_timestamp.is_some()
    }

    async fn live(&mut self) -> Over {
        let pod = self.pod();
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return self.wait_for_end().await;
        }
        if self.is_deleted() {
            return Over::Deleted;
        }
        let containers = pod
            .spec
            .as_ref()
            .map(|spec| spec.containers.clone())
            .unwrap_or_default();
        let local = containers
            .iter()
            .any(|container| is_local(&self.node, container));
        let ports = containers
            .iter()
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| u16::try_from(port.container_port).ok())
            .collect::<Vec<_>>();
        let (lease, ip) = if local {
            match self.node.addresses.lease(&ports) {
                Ok(lease) => {
                    let ip = lease.address();
                    (Some(lease), ip)
                }
                Err(error) => {
                    tracing::error!(%error, "no address is left for a pod");
                    return Over::Gone;
                }
            }
        } else {
            (None, plausible_address(&pod))
        };
        let mut tokens = Tokens::new();
        if local {
            self.live.views.send_replace(resumed(&pod, &containers));
            let init = init_views(&pod, (self.node.options.clock)());
            let mut written = pod.status.clone().unwrap_or_default();
            self.write_status(&mut written, &init, None).await;
            while let Err(error) = self.mount(&mut tokens, ip).await {
                self.warn_mount(&error);
                if let Some(over) = self.pause(RETRY).await {
                    return over;
                }
            }
        } else {
            self.mark_simulated(&pod).await;
        }
        let over = self.supervise(&containers, ip, &mut tokens, local).await;
        drop(lease);
        over
    }

    /// Starts the containers and looks after them until all has ended.
    async fn supervise(
        &mut self,
        containers: &[Container],
        ip: Ipv4Addr,
        tokens: &mut Tokens,
        local: bool,
    ) -> Over {
        let pod = self.pod();
        let stop = CancellationToken::new();
        let mut tasks: JoinSet<()> = JoinSet::new();
        if !local {
            self.live.views.send_replace(resumed(&pod, containers));
        }
        for (index, container) in containers.iter().enumerate() {
            if is_local(&self.node, container) {
                let finished = matches!(
                    self.live.views.borrow().get(index).map(|view| &view.state),
                    Some(State::Terminated(_))
                );
                if finished {
                    continue;
                }
                let runner = Runner {
                    node: self.node.clone(),
                    pod: pod.clone(),
                    container: container.clone(),
                    index,
                    ip,
                    folder: self.folder.clone(),
                    live: self.live.clone(),
                    stop: stop.clone(),
                };
                tasks.spawn(runner.run());
            } else {
                let clock = self.node.options.clock;
                let (live, stop) = (self.live.clone(), stop.clone());
                let policy = pod
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.restart_policy.clone());
                tasks.spawn(simulate(live, index, clock, policy, stop));
            }
        }
        let init: Vec<View> = init_views(&pod, (self.node.options.clock)());
        let mut views = self.live.views.subscribe();
        views.mark_changed();
        let mut written = pod.status.clone().unwrap_or_default();
        let mut ending: Option<Over> = None;
        loop {
            if tasks.is_empty() && ending.is_some() {
                self.write_status(&mut written, &init, Some(ip)).await;
                return ending.unwrap_or(Over::Gone);
            }
            let renew = self.renewal(tokens);
            tokio::select! {
                changed = views.changed() => {
                    if changed.is_ok() && !self.write_status(&mut written, &init, Some(ip)).await {
                        views.mark_changed();
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
                _ = tasks.join_next(), if !tasks.is_empty() => {}
                changed = self.latest.changed() => {
                    if changed.is_ok() && self.is_deleted() && ending.is_none() {
                        let grace = self.pod().metadata.deletion_grace_period_seconds.unwrap_or(30);
                        self.set_grace(Duration::from_secs(grace.try_into().unwrap_or(0)));
                        self.note_killing(containers);
                        stop.cancel();
                        ending = Some(Over::Deleted);
                    }
                }
                () = self.gone.cancelled(), if !matches!(ending, Some(Over::Gone)) => {
                    self.set_grace(SHUTDOWN_GRACE);
                    stop.cancel();
                    ending = Some(Over::Gone);
                }
                () = self.shutdown.cancelled(), if !matches!(ending, Some(Over::Shutdown)) => {
                    self.set_grace(SHUTDOWN_GRACE);
                    stop.cancel();
                    while tasks.join_next().await.is_some() {}
                    return Over::Shutdown;
                }
                () = self.refresh.notified(), if local && ending.is_none() => {
                    self.remount(tokens, ip).await;
                }
                () = tokio::time::sleep(renew), if local && ending.is_none() => {
                    self.remount(tokens, ip).await;
                }
            }
        }
    }

    fn set_grace(&self, grace: Duration) {
        let millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.live.grace.store(millis, Ordering::Relaxed);
    }

    fn note_killing(&self, containers: &[Container]) {
        let pod = self.pod();
        for container in containers {
            let mut object = reference(pod.as_ref());
            object.field_path = Some(format!("spec.containers{{{}}}", container.name));
            let message = format!("Stopping container {}", container.name);
            let clock = self.node.options.clock;
            self.node.recorder.normal(clock, object, "Killing", message);
        }
    }

    /// A finished Pod keeps its status until somebody deletes it.
    async fn wait_for_end(&mut self) -> Over {
        loop {
            if self.is_deleted() {
                return Over::Deleted;
            }
            tokio::select! {
                _ = self.latest.changed() => {}
                () = self.gone.cancelled() => return Over::Gone,
                () = self.shutdown.cancelled() => return Over::Shutdown,
            }
        }
    }

    async fn pause(&mut self, pause: Duration) -> Option<Over> {
        tokio::select! {
            () = tokio::time::sleep(pause) => None,
            () = self.refresh.notified() => None,
            _ = self.latest.changed() => self.is_deleted().then_some(Over::Deleted),
            () = self.gone.cancelled() => Some(Over::Gone),
            () = self.shutdown.cancelled() => Some(Over::Shutdown),
        }
    }

    fn renewal(&self, tokens: &Tokens) -> Duration {
        let now = (self.node.options.clock)();
        let next = tokens.values().map(|token| token.renew_at).min();
        let seconds = next.map_or(3600, |at| (at.as_second() - now.as_second()).max(1));
        Duration::from_secs(seconds.try_into().unwrap_or(1))
    }

    async fn remount(&self, tokens: &mut Tokens, ip: Ipv4Addr) {
        if let Err(error) = self.mount(tokens, ip).await {
            self.warn_mount(&error);
        }
    }

    fn warn_mount(&self, error: &mount::Error) {
        let pod = self.pod();
        let clock = self.node.options.clock;
        let object = reference(pod.as_ref());
        self.node
            .recorder
            .warning(clock, object, "FailedMount", error.to_string());
        tracing::debug!(pod = pod.metadata.name, %error, "volumes are not ready");
    }

    /// Brings the files of all volumes up to date, with fresh tokens where theirs grow old.
    async fn mount(&self, tokens: &mut Tokens, ip: Ipv4Addr) -> Result<(), mount::Error> {
        let pod = self.pod();
        let now = (self.node.options.clock)();
        let sources = mount::sources(&self.node.client, &pod).await?;
        let (volumes, _) = mount::volumes(&pod);
        for projection in mount::token_requests(&volumes) {
            let key = mount::token_key(projection);
            if tokens.get(&key).is_none_or(|token| token.renew_at <= now) {
                let token = mount::request_token(&self.node.client, &pod, &key, now)
                    .await
                    .map_err(mount::Error::Read)?;
                tokens.insert(key, token);
            }
        }
        let (node, root) = (self.node.clone(), self.live.root.clone());
        let tokens = tokens.clone();
        let written = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&root).map_err(|source| mount::Error::Write {
                volume: "root".to_owned(),
                source,
            })?;
            let content = Content {
                downward: Downward {
                    pod: &pod,
                    ip,
                    node: &node.options.name,
                },
                sources: &sources,
                tokens: &tokens,
                root_ca: &node.options.api_server.ca,
            };
            mount::write(&root, &pod, &content, now)
        });
        match written.await {
            Ok(result) => result.map(|_| ()),
            Err(stopped) => Err(mount::Error::Write {
                volume: "root".to_owned(),
                source: std::io::Error::other(stopped),
            }),
        }
    }

    async fn mark_simulated(&self, pod: &Pod) {
        let annotations = pod.metadata.annotations.as_ref();
        if annotations.is_some_and(|map| map.contains_key(SIMULATED)) {
            return;
        }
        let patch =
            json!({"metadata": {"uid": pod.metadata.uid, "annotations": {SIMULATED: "true"}}});
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let done = self
            .api()
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        if let Err(error) = done {
            tracing::debug!(%error, "a simulated pod could not be marked");
        }
    }

    /// Writes the status if it differs from what was written last. False: it should be tried again.
    async fn write_status(
        &self,
        written: &mut k8s_openapi::api::core::v1::PodStatus,
        init: &[View],
        ip: Option<Ipv4Addr>,
    ) -> bool {
        let mut pod = self.pod().as_ref().clone();
        pod.status = Some(written.clone());
        let views = self.live.views.borrow().clone();
        let now = (self.node.options.clock)();
        let status = status::compute(&pod, &views, init, ip, now);
        if status == *written {
            return true;
        }
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let done = self
            .api()
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        match done {
            Ok(_) => {
                *written = status;
                true
            }
            Err(error) => {
                tracing::debug!(pod = name, %error, "a pod's status could not be written");
                // The Pod went away, or another took its name: the watch tells.
                matches!(
                    crate::controllers::error_code(&error),
                    Some(404 | 409 | 422)
                )
            }
        }
    }

    /// Takes the Pod out of the API now that nothing of it runs.
    async fn confirm(&self) {
        let pod = self.pod();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let mut pause = Duration::from_millis(50);
        loop {
            match self.api().delete(name, &params).await {
                Ok(_) => return,
                Err(error) if matches!(crate::controllers::error_code(&error), Some(404 | 409)) => {
                    return;
                }
                Err(error) => tracing::debug!(pod = name, %error, "a pod could not be deleted yet"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
                () = self.gone.cancelled() => return,
                () = self.shutdown.cancelled() => return,
            }
        }
    }
}

/// Views to start with: what an earlier run of this program left running has ended with it.
fn resumed(pod: &Pod, containers: &[Container]) -> Vec<View> {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.clone());
    let statuses = statuses.unwrap_or_default();
    let never = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref())
        == Some("Never");
    let resume = |container: &Container| {
        let image = container.image.as_deref().unwrap_or_default();
        let mut view = View::new(&container.name, image);
        let Some(old) = statuses.iter().find(|status| status.name == container.name) else {
            return view;
        };
        let Some(exit) = ended(old) else {
            return view;
        };
        if never {
            view.state = State::Terminated(exit);
            view.restarts = old.restart_count;
        } else {
            view.last = Some(exit);
            view.restarts = old.restart_count + 1;
        }
        view
    };
    containers.iter().map(resume).collect()
}

fn ended(old: &ContainerStatus) -> Option<Exit> {
    let state = old.state.as_ref()?;
    if let Some(done) = &state.terminated {
        return Some(Exit {
            code: done.exit_code,
            signal: None,
            reason: if done.exit_code == 0 {
                "Completed"
            } else {
                "Error"
            },
            message: done.message.clone(),
            started: done.started_at.as_ref()?.0,
            finished: done.finished_at.as_ref()?.0,
            id: done.container_id.clone().unwrap_or_default(),
        });
    }
    let running = state.running.as_ref()?;
    let started = running.started_at.as_ref()?.0;
    Some(Exit {
        code: 255,
        signal: None,
        reason: "Unknown",
        message: None,
        started,
        finished: started,
        id: old.container_id.clone().unwrap_or_default(),
    })
}

/// Init containers are never run here: they count as done.
fn init_views(pod: &Pod, now: jiff::Timestamp) -> Vec<View> {
    let containers = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    containers
        .map(|container| View {
            ready: true,
            state: State::Terminated(Exit {
                code: 0,
                signal: None,
                reason: "Completed",
                message: None,
                started: now,
                finished: now,
                id: String::new(),
            }),
            ..View::new(
                &container.name,
                container.image.as_deref().unwrap_or_default(),
            )
        })
        .collect()
}

async fn simulate(
    live: Arc<Live>,
    index: usize,
    clock: crate::recorder::Clock,
    policy: Option<String>,
    stop: CancellationToken,
) {
    let since = clock();
    let id = format!("localkube://{}", uuid::Uuid::new_v4().simple());
    let change = |state: State, ready: bool| {
        live.views.send_modify(|views| {
            if let Some(view) = views.get_mut(index) {
                view.id.clone_from(&id);
                view.state = state;
                view.ready = ready;
                view.started = ready;
            }
        });
    };
    change(State::Running { since }, true);
    if matches!(policy.as_deref(), Some("Never" | "OnFailure")) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(SIMULATED_RUN) => {}
        }
    } else {
        stop.cancelled().await;
    }
    let exit = Exit {
        code: 0,
        signal: None,
        reason: "Completed",
        message: None,
        started: since,
        finished: clock(),
        id: id.clone(),
    };
    change(State::Terminated(exit), false);
}

/// An address as a Pod network would give it; nothing listens there.
fn plausible_address(pod: &Pod) -> Ipv4Addr {
    let old = pod
        .status
        .as_ref()
        .and_then(|status| status.pod_ip.as_ref()?.parse().ok());
    old.unwrap_or_else(|| {
        let [c, d] = rand::random::<[u8; 2]>();
        Ipv4Addr::new(10, 244, c, d.clamp(2, 254))
    })
}
