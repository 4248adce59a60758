//! One container that is a local process: started, probed, restarted, stopped.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Probe};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::environment::{self, Downward};
use super::log::Log;
use super::probe::{self, Timing, Verdict};
use super::process::{Launch, Process};
use super::status::{Exit, State, View};
use super::{Inner, mount};
use crate::recorder::{Recorder, reference};

/// First pause between restarts of a container that keeps failing; it doubles.
const BACKOFF: Duration = Duration::from_secs(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// After a run this long the pauses start over.
const GOOD_RUN: Duration = Duration::from_secs(600);
const RETRY: Duration = Duration::from_secs(1);

/// Logs of a container: of the run that is on (or was last) and of the one before.
#[derive(Clone, Default)]
pub struct Logs {
    pub current: Option<Log>,
    pub previous: Option<Log>,
}

/// What all containers of a Pod share with those who look at them.
pub struct Live {
    pub views: watch::Sender<Vec<View>>,
    pub logs: watch::Sender<std::collections::HashMap<String, Logs>>,
    /// Variables of the current run, by container.
    pub variables: watch::Sender<std::collections::HashMap<String, Vec<(String, String)>>>,
    /// The container root, once it exists.
    pub root: PathBuf,
    /// Milliseconds that a stopped process gets before it is killed.
    pub grace: AtomicU64,
}

/// Runs one container.
pub struct Runner {
    pub node: Arc<Inner>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub index: usize,
    pub ip: Ipv4Addr,
    /// The Pod's own folder.
    pub folder: PathBuf,
    pub live: Arc<Live>,
    pub stop: CancellationToken,
}

enum End {
    Exited,
    Stopped,
    Unhealthy(String),
}

impl Runner {
    /// Until the container has ended for good or `stop` is called; then no process of it is left.
    pub async fn run(self) {
        let mut backoff: Option<Duration> = None;
        while !self.stop.is_cancelled() {
            let Some((arguments, variables)) = self.configure().await else {
                continue;
            };
            let started = self.now();
            let (exit, stopped) = self.once(&arguments, &variables).await;
            let lasted = self.now().as_millisecond() - started.as_millisecond();
            self.change(|view| {
                view.state = State::Terminated(exit.clone());
                view.ready = false;
                view.started = false;
            });
            if stopped || !self.restarts(exit.code) {
                return;
            }
            if u128::try_from(lasted).unwrap_or(0) >= GOOD_RUN.as_millis() {
                backoff = None;
            }
            if let Some(pause) = backoff {
                let who = self.who();
                let name = &self.container.name;
                let message = format!(
                    "back-off {} restarting failed container={name} pod={who}",
                    words(pause)
                );
                self.change(|view| {
                    view.state = State::Waiting {
                        reason: "CrashLoopBackOff",
                        message,
                    };
                    view.last = Some(exit.clone());
                });
                let message = format!("Back-off restarting failed container {name} in pod {who}");
                self.warning("BackOff", message);
                self.pause(pause).await;
                if self.stop.is_cancelled() {
                    self.change(|view| view.state = State::Terminated(exit.clone()));
                    return;
                }
            }
            backoff = Some(backoff.map_or(BACKOFF, |pause| (pause * 2).min(LONGEST_BACKOFF)));
            self.change(|view| {
                view.last = Some(exit.clone());
                view.restarts += 1;
            });
        }
    }

    fn now(&self) -> jiff::Timestamp {
        (self.node.options.clock)()
    }

    fn who(&self) -> String {
        let meta = &self.pod.metadata;
        format!(
            "{}_{}({})",
            meta.name.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default(),
            meta.uid.as_deref().unwrap_or_default()
        )
    }

    fn change(&self, change: impl FnOnce(&mut View)) {
        self.live.views.send_modify(|views| {
            if let Some(view) = views.get_mut(self.index) {
                change(view);
            }
        });
    }

    fn object(&self) -> ObjectReference {
        ObjectReference {
            field_path: Some(format!("spec.containers{{{}}}", self.container.name)),
            ..reference(self.pod.as_ref())
        }
    }

    fn recorder(&self) -> &Recorder {
        &self.node.recorder
    }

    fn normal(&self, reason: &'static str, message: impl Into<String>) {
        let clock = self.node.options.clock;
        self.recorder()
            .normal(clock, self.object(), reason, message);
    }

    fn warning(&self, reason: &'static str, message: impl Into<String>) {
        let clock = self.node.options.clock;
        self.recorder()
            .warning(clock, self.object(), reason, message);
    }

    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    fn restarts(&self, code: i32) -> bool {
        let policy = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.as_deref());
        match policy {
            Some("Never") => false,
            Some("OnFailure") => code != 0,
            _ => true,
        }
    }

    /// Arguments and variables of the next run; `None` after a pause if something is missing.
    async fn configure(&self) -> Option<(Vec<String>, Vec<(String, String)>)> {
        let sources = match mount::sources(&self.node.client, &self.pod).await {
            Ok(sources) => sources,
            Err(error) => {
                tracing::debug!(%error, "a container's configuration could not be read");
                self.pause(RETRY).await;
                return None;
            }
        };
        let downward = Downward {
            pod: &self.pod,
            ip: self.ip,
            node: &self.node.options.name,
        };
        let api = &self.node.options.api_server;
        let name = self.pod.metadata.name.clone().unwrap_or_default();
        let given = [
            ("PATH", "/usr/bin:/bin".to_owned()),
            ("HOSTNAME", name),
            ("KUBERNETES_SERVICE_HOST", api.host.clone()),
            ("KUBERNETES_SERVICE_PORT", api.port.to_string()),
            ("KUBERNETES_SERVICE_PORT_HTTPS", api.port.to_string()),
            ("KAH_ROOT", self.live.root.to_string_lossy().into_owned()),
        ];
        let given: Vec<_> = given.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        match environment::variables(&self.container, &downward, &sources, &given) {
            Ok(variables) => {
                let command = self.container.command.iter().flatten();
                let all: Vec<String> = command
                    .chain(self.container.args.iter().flatten())
                    .cloned()
                    .collect();
                Some((environment::arguments(&all, &variables), variables))
            }
            Err(message) => {
                self.warning("Failed", format!("Error: {message}"));
                self.change(|view| {
                    view.state = State::Waiting {
                        reason: "CreateContainerConfigError",
                        message,
                    };
                });
                self.pause(RETRY).await;
                None
            }
        }
    }

    /// One run of the process, and whether it ended because it was told to.
    async fn once(&self, arguments: &[String], variables: &[(String, String)]) -> (Exit, bool) {
        let name = &self.container.name;
        let image = self.container.image.clone().unwrap_or_default();
        let id = format!("localkube://{}", uuid::Uuid::new_v4().simple());
        let started = self.now();
        let exit = |code: i32, reason, message| Exit {
            code,
            signal: None,
            reason,
            message,
            started,
            finished: self.now(),
            id: id.clone(),
        };
        self.normal(
            "Pulled",
            format!("Container image {image:?} already present on machine"),
        );
        let mut process = match self.start(arguments, variables) {
            Ok(process) => process,
            Err(message) => {
                self.warning("Failed", format!("Error: {message}"));
                return (exit(128, "StartError", Some(message)), false);
            }
        };
        self.live.variables.send_modify(|all| {
            all.insert(name.clone(), variables.to_vec());
        });
        self.normal("Created", format!("Created container: {name}"));
        self.change(|view| {
            view.id.clone_from(&id);
            view.state = State::Running { since: started };
            view.started = self.container.startup_probe.is_none();
            view.ready = view.started && self.container.readiness_probe.is_none();
        });
        self.normal("Started", format!("Started container {name}"));
        let mut status = None;
        let end = tokio::select! {
            ended = process.wait() => {
                status = Some(ended);
                End::Exited
            }
            () = self.stop.cancelled() => End::Stopped,
            why = self.probe() => End::Unhealthy(why),
        };
        let stopped = matches!(end, End::Stopped);
        if let End::Unhealthy(why) = end {
            self.normal("Killing", why);
        }
        let status = match status {
            Some(status) => status,
            None => {
                self.change(|view| view.ready = false);
                let grace = Duration::from_millis(self.live.grace.load(Ordering::Relaxed));
                process.stop(grace).await
            }
        };
        let signal = status
            .as_ref()
            .ok()
            .and_then(std::os::unix::process::ExitStatusExt::signal);
        let code = match (&status, signal) {
            (_, Some(signal)) => 128 + signal,
            (Ok(status), None) => status.code().unwrap_or(255),
            (Err(_), None) => 255,
        };
        let reason = if code == 0 { "Completed" } else { "Error" };
        let mut exit = exit(code, reason, None);
        exit.signal = signal;
        (exit, stopped)
    }

    fn start(
        &self,
        arguments: &[String],
        variables: &[(String, String)],
    ) -> Result<Process, String> {
        let program = self
            .node
            .options
            .program
            .as_ref()
            .ok_or("no program is given")?;
        let has_command = self.container.command.iter().flatten().next().is_some();
        let arguments = match arguments.split_first() {
            Some((first, rest)) if has_command => {
                let base = first.rsplit('/').next().unwrap_or_default();
                if base != "kah" && program.path.file_name().is_none_or(|name| name != base) {
                    return Err(format!(
                        "exec: {first:?}: executable file not found in $PATH"
                    ));
                }
                rest
            }
            _ => arguments,
        };
        let name = &self.container.name;
        let run = self
            .live
            .views
            .borrow()
            .get(self.index)
            .map_or(0, |view| view.restarts);
        let folder = self.folder.join("logs").join(name);
        let log = Log::create(folder.join(format!("{run}.log")))
            .map_err(|error| format!("make a log file: {error}"))?;
        self.live.logs.send_modify(|all| {
            let logs = all.entry(name.clone()).or_default();
            if let Some(old) = logs.previous.take() {
                let _ = std::fs::remove_file(super::log::aside(old.path()));
                let _ = std::fs::remove_file(old.path());
            }
            logs.previous = logs.current.replace(log.clone());
        });
        let launch = Launch {
            program: &program.path,
            arguments,
            variables,
            folder: &self.live.root,
            record: self.folder.join(format!("{name}.pid")),
        };
        Process::start(&launch, log.clone(), self.node.options.clock).map_err(|error| {
            log.close();
            format!("exec: {:?}: {error}", program.path.display())
        })
    }

    /// Asks the probes for as long as it is polled; ends with the reason to kill the container.
    async fn probe(&self) -> String {
        let name = &self.container.name;
        if let Some(startup) = &self.container.startup_probe {
            let timing = Timing::of(startup);
            let mut verdict = Verdict::new(timing, false);
            tokio::time::sleep(timing.initial).await;
            loop {
                let good = self.ask(startup, "Startup").await;
                if verdict.answer(good) {
                    if verdict.good {
                        break;
                    }
                    return format!("Container {name} failed startup probe, will be restarted");
                }
                tokio::time::sleep(timing.period).await;
            }
            self.change(|view| {
                view.started = true;
                view.ready = self.container.readiness_probe.is_none();
            });
        }
        let readiness = async {
            let Some(readiness) = &self.container.readiness_probe else {
                return std::future::pending().await;
            };
            let timing = Timing::of(readiness);
            let mut verdict = Verdict::new(timing, false);
            tokio::time::sleep(timing.initial).await;
            // Until it is ready for the first time the container is asked more often than its period
            // says: kubelet asks out of turn too whenever something about the container changes.
            let mut eager = Duration::from_millis(50);
            loop {
                let good = self.ask(readiness, "Readiness").await;
                verdict.answer(good);
                self.live.views.send_if_modified(|views| {
                    let view = views.get_mut(self.index);
                    view.is_some_and(|view| {
                        std::mem::replace(&mut view.ready, verdict.good) != verdict.good
                    })
                });
                if verdict.good || eager >= timing.period {
                    eager = timing.period;
                    tokio::time::sleep(timing.period).await;
                } else {
                    tokio::time::sleep(eager).await;
                    eager *= 2;
                }
            }
        };
        let liveness = async {
            let Some(liveness) = &self.container.liveness_probe else {
                return std::future::pending().await;
            };
            let timing = Timing::of(liveness);
            let mut verdict = Verdict::new(timing, true);
            tokio::time::sleep(timing.initial).await;
            loop {
                let good = self.ask(liveness, "Liveness").await;
                if verdict.answer(good) && !verdict.good {
                    return format!("Container {name} failed liveness probe, will be restarted");
                }
                tokio::time::sleep(timing.period).await;
            }
        };
        tokio::select! {
            why = readiness => why,
            why = liveness => why,
        }
    }

    async fn ask(&self, asked: &Probe, kind: &str) -> bool {
        match probe::ask(asked, &self.container, self.ip).await {
            Ok(()) => true,
            Err(why) => {
                self.warning("Unhealthy", format!("{kind} probe failed: {why}"));
                false
            }
        }
    }
}

/// `10s`, `2m40s`: a pause as Go prints it.
fn words(pause: Duration) -> String {
    let seconds = pause.as_secs();
    match (seconds / 60, seconds % 60) {
        (0, rest) => format!("{rest}s"),
        (minutes, rest) => format!("{minutes}m{rest}s"),
    }
}
