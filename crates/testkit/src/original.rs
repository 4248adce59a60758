//! The original ks-apiserver 3.4 on a real control plane of its own: a member or host that we did not write.
//!
//! Found through `KAH_REFERENCE`, the folder that holds the script `kubesphere`. Where it is absent the tests
//! that need it say so and stop; nothing of the original is part of this project.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

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
        let port = free_range(4)?;
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
        Ok(original)
    }

    /// Starts ks-apiserver anew with the ConfigMap's present content, as a kubelet would after `rollout restart`.
    ///
    /// # Errors
    /// The script fails.
    pub fn restart(&self) -> Result<()> {
        self.run(&["restart", &self.path()])
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

/// The first of `count` neighbouring ports that were all free a moment ago.
fn free_range(count: u16) -> Result<u16> {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        if first.checked_add(count).is_none() {
            continue;
        }
        let all: std::io::Result<Vec<TcpListener>> = (first..first + count)
            .map(|port| TcpListener::bind(("127.0.0.1", port)))
            .collect();
        if all.is_ok() {
            return Ok(first);
        }
    }
    bail!("no {count} neighbouring free ports found in 100 tries")
}
