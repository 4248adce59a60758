//! The original ks-apiserver 3.4 on a real control plane of its own: a member or host that we did not write.
//!
//! Found through `KAH_REFERENCE`, the folder that holds the script `kubesphere`. Where it is absent the tests
//! that need it say so and stop; nothing of the original is part of this project.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{http_client::send, plane::free_ports};

/// What the original's configuration says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A host with `multicluster.enable: true`.
    Host,
    /// A member.
    Member,
}

/// A running original. It and its control plane end when this is dropped.
pub struct Original {
    script: PathBuf,
    folder: TempDir,
    port: u16,
}

/// The folder of the reference programs, if this machine has one.
pub fn reference() -> Option<PathBuf> {
    std::env::var_os("KAH_REFERENCE").map(PathBuf::from)
}

impl Original {
    /// Starts the original with this role, `accessTokenMaxAge` and `jwtSecret`. User `admin`, password `P@88w0rd`.
    ///
    /// # Errors
    /// The script fails; the error holds what it printed.
    pub fn start(
        reference: &Path,
        role: Role,
        access_token_max_age: &str,
        jwt_secret: &str,
    ) -> Result<Self> {
        let script = reference.join("kubesphere");
        let folder = tempfile::Builder::new().prefix("original-").tempdir()?;
        let [port, ..] = free_ports::<4>()?;
        let role = match role {
            Role::Host => "host",
            Role::Member => "member",
        };
        let original = Original {
            script,
            folder,
            port,
        };
        original.run(&[
            "up",
            &original.path(),
            &port.to_string(),
            role,
            access_token_max_age,
            jwt_secret,
        ])?;
        original.answers()?;
        Ok(original)
    }

    /// Starts ks-apiserver anew with the ConfigMap's present content, as a kubelet would after `rollout restart`.
    ///
    /// # Errors
    /// The script fails.
    pub fn restart(&self) -> Result<()> {
        self.run(&["restart", &self.path()])?;
        self.answers()
    }

    /// The script waits for ks-apiserver, and says nothing if that was in vain.
    fn answers(&self) -> Result<()> {
        let address = format!("{}/kapis/version", self.address());
        let why = match send(http::Method::GET, &address, &[], "") {
            Ok(answer) if answer.status == 200 => return Ok(()),
            Ok(answer) => format!("it answers {}", answer.status),
            Err(error) => format!("{error:#}"),
        };
        let log = self.log()?;
        let end: Vec<&str> = log.lines().rev().take(5).collect();
        bail!("the original ks-apiserver does not run: {why}; its log ends, backwards: {end:?}")
    }

    /// Address of its ks-apiserver.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port + 3)
    }

    /// Address of its kube-apiserver.
    pub fn kube_address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The administrator's kubeconfig for its kube-apiserver.
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// What its ks-apiserver has logged so far.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(
            self.folder.path().join("ks-apiserver.log"),
        )?)
    }

    fn path(&self) -> String {
        self.folder.path().display().to_string()
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let log = self.folder.path().join("script.log");
        let output = std::fs::File::create(&log)?;
        // Output goes to a file: the programs it leaves running would hold a pipe open.
        let status = Command::new(&self.script)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .status()
            .with_context(|| format!("running {}", self.script.display()))?;
        if !status.success() {
            bail!(
                "{} {arguments:?} failed ({status}): {}",
                self.script.display(),
                std::fs::read_to_string(&log)?
            );
        }
        Ok(())
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        // Nothing can be done about a failure here but to leave the processes to the end of the machine.
        let _ = self.run(&["down", &self.path()]);
    }
}
