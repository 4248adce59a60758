//! Fleets for black-box tests, asked over HTTP and kubectl: `kah up` in a process of its own, or the same host and
//! members on real control planes.

mod real;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;

use crate::kubectl::Kubectl;
use crate::plane::RealPlane;

/// The line that `kah up -o json` prints.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The host's address.
    pub address: String,
    /// Who can log in.
    pub user: String,
    /// Where the initial password lies.
    pub password_file: PathBuf,
    /// The CA certificate for TLS at the address.
    pub certificate_authority: PathBuf,
    /// The host first.
    pub clusters: Vec<ClusterFacts>,
}

/// One cluster in [`Facts`].
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterFacts {
    /// Its name.
    pub name: String,
    /// An administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// Its Kubernetes API.
    pub address: String,
    /// An address of its ks-apiserver that outlives Pods, where it has one.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The name of its Cluster, if it has one.
    #[serde(default)]
    pub in_fleet_as: Option<String>,
}

/// A child process that gets a SIGTERM when its owner goes, and is killed if that does not help.
pub struct Guard {
    child: Child,
}

impl Guard {
    /// Starts it.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Guard { child })
    }

    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal; a process that is gone already gets none.
    pub fn signal(&self, signal: Signal) {
        if let Some(id) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(id, signal);
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// It did not end within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("process {} did not end within {limit:?}", self.child.id());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        self.signal(Signal::TERM);
        if self.wait(Duration::from_secs(20)).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A host and its members, on ports that the system chooses.
pub struct Fleet {
    program: PathBuf,
    plane: Plane,
    facts: Facts,
    // After the plane: it writes there until it has ended.
    folder: TempDir,
}

enum Plane {
    Local(Guard),
    Real(Box<real::RealFleet>),
}

impl Fleet {
    /// Starts the program in a fresh folder and waits until all is ready.
    ///
    /// # Errors
    /// It ends, or is not ready within a minute.
    pub fn start(program: &Path, arguments: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("fleet-").tempdir()?;
        let (process, facts) = up(program, folder.path(), arguments)?;
        Ok(Fleet {
            program: program.to_owned(),
            plane: Plane::Local(process),
            facts,
            folder,
        })
    }

    /// The same host and members on real control planes, made of the programs in `assets`.
    ///
    /// # Errors
    /// Whatever does not start.
    pub fn start_real(assets: &Path, program: &Path, members: usize) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("fleet-").tempdir()?;
        let (fleet, facts) = real::RealFleet::start(assets, program, folder.path(), members)?;
        Ok(Fleet {
            program: program.to_owned(),
            plane: Plane::Real(Box::new(fleet)),
            facts,
            folder,
        })
    }

    /// Ends it as `signal` does, and starts it again on the same data.
    ///
    /// # Errors
    /// It does not end within 20 s, does not become ready again, or is no `kah up`.
    pub fn restart(&mut self, signal: Signal, arguments: &[&str]) -> Result<()> {
        let process = self.process()?;
        process.signal(signal);
        process.wait(Duration::from_secs(20))?;
        let (process, facts) = up(&self.program, self.folder.path(), arguments)?;
        self.plane = Plane::Local(process);
        self.facts = facts;
        Ok(())
    }

    /// What the program said.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What `kah up` has told people since it was started last.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn told(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.folder.path().join("up.err"))?)
    }

    /// The running `kah up`.
    ///
    /// # Errors
    /// This fleet is none.
    pub fn process(&mut self) -> Result<&mut Guard> {
        match &mut self.plane {
            Plane::Local(process) => Ok(process),
            Plane::Real(_) => bail!("control planes of their own have no `kah up`"),
        }
    }

    /// The real control plane of a cluster, where it has one.
    pub fn real_plane(&self, cluster: &str) -> Option<&RealPlane> {
        match &self.plane {
            Plane::Local(_) => None,
            Plane::Real(fleet) => fleet.plane(cluster),
        }
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where `kah up` keeps its state.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// kubectl as the administrator of one cluster.
    ///
    /// # Errors
    /// There is no such cluster, or no kubectl.
    pub fn kubectl(&self, cluster: &str) -> Result<Kubectl> {
        let found = self
            .facts
            .clusters
            .iter()
            .find(|facts| facts.name == cluster);
        Kubectl::new(
            &found
                .with_context(|| format!("find cluster {cluster}"))?
                .kubeconfig,
        )
    }

    /// The initial password.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn password(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.facts.password_file)?
            .trim()
            .to_owned())
    }

    /// The program with these arguments, its login kept in this fleet's folder.
    pub fn kah(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("KAH_CONFIG", self.folder.path().join("login.json"))
            .env("HOME", self.folder.path())
            .stdin(Stdio::null());
        command
    }
}

fn up(program: &Path, folder: &Path, arguments: &[&str]) -> Result<(Guard, Facts)> {
    let errors = folder.join("up.err");
    let mut command = Command::new(program);
    command
        .args(["up", "-o", "json", "--port", "0", "--data-dir"])
        .arg(folder.join("data"))
        .args(arguments)
        .env("HOME", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&errors)?);
    let mut process = Guard::spawn(&mut command)?;
    let stdout = process
        .child()
        .stdout
        .take()
        .context("no standard output")?;
    let (sender, receiver) = mpsc::channel();
    // Ends with the process: its standard output is closed then.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let _ = sender.send(read.map(|_| line));
    });
    let told = || std::fs::read_to_string(&errors).unwrap_or_default();
    let line = receiver
        .recv_timeout(Duration::from_secs(75))
        .with_context(|| format!("`kah up` was not ready; it said:\n{}", told()))??;
    let facts = serde_json::from_str(&line)
        .with_context(|| format!("`kah up` printed {line:?} and said:\n{}", told()))?;
    Ok((process, facts))
}

/// Looks every 50 ms until `holds` gives something, for at most `limit`.
///
/// # Errors
/// It did not; `what` is named.
pub fn until<T>(limit: Duration, what: &str, mut holds: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = holds() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
