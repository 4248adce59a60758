//! A replica of a host that ends, stands still and comes back on the same port when it is told to.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kah_testkit::kubectl::Kubectl;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::{TcpListener, TcpStream};

/// The only ks-apiserver of its host, a process of its own.
pub struct Host {
    program: PathBuf,
    kubeconfig: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    files: Option<u64>,
    child: Option<Child>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end();
    }
}

impl Host {
    /// Takes the place of the ks-apiserver that runs at this kube-apiserver, with the same configuration; not started yet.
    ///
    /// # Errors
    /// The configuration cannot be read, or the other one does not go.
    pub async fn instead(
        program: &Path,
        kubeconfig: &Path,
        kubectl: &Kubectl,
        files: Option<u64>,
    ) -> Result<Self> {
        let system = ["-n", "kubesphere-system"];
        let run = |arguments: &[&str]| -> Result<String> {
            let ran = kubectl.run(&[&system, arguments].concat());
            ensure!(ran.code == 0, "kubectl {arguments:?}: {}", ran.stderr);
            Ok(ran.stdout)
        };
        let what = r"jsonpath={.data.kubesphere\.yaml}";
        let text = run(&["get", "configmap", "kubesphere-config", "-o", what])?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("kubesphere.yaml"), text)?;
        run(&["scale", "deployment", "ks-apiserver", "--replicas=0"])?;
        let pods = ["get", "pods", "-l", "app=ks-apiserver", "-o", "name"];
        let deadline = Instant::now() + Duration::from_secs(60);
        while !run(&pods)?.trim().is_empty() {
            ensure!(Instant::now() < deadline, "the other replica does not end");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let free = TcpListener::bind(("127.0.0.1", 0)).await?;
        Ok(Self {
            program: program.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            folder,
            port: free.local_addr()?.port(),
            files,
            child: None,
        })
    }

    /// `host:port`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        let child = self.child.as_ref();
        child.map(Child::id).context("the host does not run")
    }

    /// Starts it, and tells since when it listens.
    ///
    /// # Errors
    /// It does not, within a minute.
    pub async fn start(&mut self) -> Result<Instant> {
        let log = File::create(self.folder.path().join("log"))?;
        let limit = self.files.map_or_else(
            || "true".to_owned(),
            |files| format!("ulimit -n {files} && ulimit -Hn {files}"),
        );
        let port = self.port.to_string();
        let child = Command::new("sh")
            .args(["-c", &format!("{limit} && exec \"$@\""), "sh"])
            .arg(&self.program)
            .arg("apiserver")
            .arg("--config")
            .arg(self.folder.path().join("kubesphere.yaml"))
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--bind-address", "127.0.0.1", "--insecure-port", &port])
            .args(["--advertise-address", "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start the host")?;
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(self.address()).await.is_err() {
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(self.folder.path().join("log"));
                anyhow::bail!("the host does not listen: {}", log.unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(Instant::now())
    }

    /// Ends it by SIGKILL.
    pub fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only where it has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()?).ok().and_then(Pid::from_raw);
        kill_process(pid.context("the host's process")?, signal).context("signal the host")
    }
}
