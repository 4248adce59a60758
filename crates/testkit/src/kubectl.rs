//! The real kubectl, never a stand-in and never skipped.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};

/// kubectl bound to one kubeconfig, with a home folder of its own so that caches are never shared.
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: tempfile::TempDir,
}

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Kubectl {
    /// # Errors
    /// No kubectl on this machine: says how to get one.
    pub fn new(kubeconfig: &Path) -> Result<Self> {
        Ok(Kubectl {
            program: find()?,
            kubeconfig: kubeconfig.to_owned(),
            home: tempfile::tempdir()?,
        })
    }

    /// Runs kubectl with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with_input(arguments, "")
    }

    /// Runs kubectl with these arguments and `input` on its standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = self.command();
        command.args(arguments);
        finish(command, input)
    }

    /// Runs a line of shell in `folder`, in which `kubectl` is this one; killed after ten minutes.
    pub fn shell(&self, line: &str, folder: &Path) -> Ran {
        self.shell_within(line, folder, Duration::from_secs(600))
    }

    /// The same, killed after `limit`, what it started included. The code is then 124.
    pub fn shell_within(&self, line: &str, folder: &Path, limit: Duration) -> Ran {
        let mut command = Command::new("timeout");
        command
            .arg("--kill-after=5")
            .arg(limit.as_secs().to_string())
            .args(["sh", "-c"])
            .arg(line)
            .current_dir(folder);
        self.environment(&mut command);
        finish(command, "")
    }

    /// A command for kubectl, to which arguments and pipes can still be given.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        let folder = self.program.parent().unwrap_or(Path::new("/"));
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", folder.display()))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.home.path())
            .env_remove("KUBERNETES_MASTER");
    }
}

fn finish(mut command: Command, input: &str) -> Ran {
    let started = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let output = started.and_then(|mut child| {
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input closes the pipe: not an error of ours.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    });
    match output {
        Ok(Output {
            status,
            stdout,
            stderr,
        }) => Ran {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        },
        Err(error) => Ran {
            code: -1,
            stdout: String::new(),
            stderr: format!("could not start: {error}"),
        },
    }
}

/// `KAH_KUBECTL`, else the one beside the control plane's programs, else the one on the PATH.
fn find() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("KAH_KUBECTL") {
        return Ok(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = crate::plane::assets().into_iter().collect();
    folders.extend(std::env::split_paths(&path));
    for folder in folders {
        let candidate = folder.join("kubectl");
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!(
        "no kubectl found: put one on the PATH or name it in KAH_KUBECTL (`make test` installs one)"
    )
}
