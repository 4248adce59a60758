//! Local processes: started with nothing but what the Pod gives them, stopped politely, then firmly.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use super::log::{Log, Source};
use crate::recorder::Clock;

/// What to run.
pub struct Launch<'a> {
    pub program: &'a Path,
    pub arguments: &'a [String],
    pub variables: &'a [(String, String)],
    /// The working folder.
    pub folder: &'a Path,
    /// Where the process is written down, so that a later run finds it.
    pub record: PathBuf,
}

/// A running process. Dropping it kills the process.
pub struct Process {
    child: Child,
    record: PathBuf,
    readers: tokio::task::JoinSet<()>,
    log: Log,
}

/// A line without end is cut into pieces of this size.
const LONGEST: usize = 64 << 10;

impl Process {
    /// Starts a process whose output goes to `log`. Its standard input is a pipe that stays open as long
    /// as this program lives: `KAH_PARENT_PIPE=1` tells it to leave when the pipe ends.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(launch: &Launch<'_>, log: Log, clock: Clock) -> io::Result<Process> {
        let mut child = Command::new(launch.program)
            .args(launch.arguments)
            .env_clear()
            .envs(launch.variables.iter().map(|(k, v)| (k, v)))
            .env("KAH_PARENT_PIPE", "1")
            .current_dir(launch.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: Ctrl-C at the terminal reaches us alone, and we end it in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let mut readers = tokio::task::JoinSet::new();
        if let Some(out) = child.stdout.take() {
            readers.spawn(copy(out, Source::Stdout, log.clone(), clock));
        }
        if let Some(err) = child.stderr.take() {
            readers.spawn(copy(err, Source::Stderr, log.clone(), clock));
        }
        if let Some(pid) = child.id()
            && let Some(started) = start_time(pid)
        {
            fs::write(&launch.record, format!("{pid} {started}\n"))?;
        }
        Ok(Process {
            child,
            record: launch.record.clone(),
            readers,
            log,
        })
    }

    /// Waits for the process and for the rest of its output. May be dropped and called again.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let id = self.child.id();
        // `Child::wait` would close the pipe that tells the process that we live.
        let pipe = self.child.stdin.take();
        let mut held = Held {
            pipe,
            child: &mut self.child,
        };
        let status = held.child.wait().await?;
        held.pipe = None;
        drop(held);
        let _ = id;
        // A grandchild may hold the pipes; the output that matters is there already.
        let drained = async { while self.readers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_millis(500), drained).await;
        self.readers.abort_all();
        self.log.close();
        let _ = fs::remove_file(&self.record);
        Ok(status)
    }

    /// Asks the process to end, and kills it when `grace` has passed. Gives its exit status.
    pub async fn stop(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        self.signal(Signal::TERM);
        if let Ok(status) = tokio::time::timeout(grace, self.wait()).await {
            return status;
        }
        self.signal(Signal::KILL);
        self.wait().await
    }

    fn signal(&self, signal: Signal) {
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.try_into().ok()?));
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::debug!(%error, "a process could not be signalled");
        }
    }
}

/// Puts the pipe back when a wait is given up.
struct Held<'a> {
    pipe: Option<tokio::process::ChildStdin>,
    child: &'a mut Child,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.child.stdin = self.pipe.take();
    }
}

async fn copy(output: impl AsyncRead + Unpin, source: Source, log: Log, clock: Clock) {
    let mut reader = BufReader::with_capacity(LONGEST, output);
    let mut line: Vec<u8> = Vec::new();
    loop {
        let (used, ended) = match reader.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(bytes) => match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    line.extend(bytes.iter().take(end));
                    (end + 1, true)
                }
                None => {
                    line.extend_from_slice(bytes);
                    (bytes.len(), line.len() >= LONGEST)
                }
            },
        };
        reader.consume(used);
        if ended {
            append(&log, source, &line, clock);
            line.clear();
        }
    }
    if !line.is_empty() {
        append(&log, source, &line, clock);
    }
}

fn append(log: &Log, source: Source, line: &[u8], clock: Clock) {
    if let Err(error) = log.append(source, line, clock()) {
        tracing::warn!(path = %log.path().display(), %error, "a line of a container's log was lost");
    }
}

/// When a process started, in clock ticks since boot: with the id, a name that is never used twice.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold anything.
    let rest = stat.rsplit_once(')')?.1;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// Ends the processes that an earlier run of this program recorded below `pods` and did not end.
pub async fn end_leftovers(pods: &Path) {
    let Ok(entries) = fs::read_dir(pods) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(files) = fs::read_dir(entry.path()) else {
            continue;
        };
        for file in files.flatten() {
            if file.path().extension().is_some_and(|ext| ext == "pid") {
                end_leftover(&file.path()).await;
            }
        }
    }
}

async fn end_leftover(record: &Path) {
    let text = fs::read_to_string(record).unwrap_or_default();
    let mut words = text.split_whitespace();
    let pid = words.next().and_then(|word| word.parse::<u32>().ok());
    let started = words.next().and_then(|word| word.parse::<u64>().ok());
    if let (Some(pid), Some(started)) = (pid, started) {
        let alive = || start_time(pid) == Some(started);
        let target = pid.try_into().ok().and_then(Pid::from_raw);
        if let Some(target) = target {
            for signal in [Signal::TERM, Signal::KILL] {
                if !alive() {
                    break;
                }
                tracing::info!(pid, "ending a process that an earlier run left behind");
                let _ = kill_process(target, signal);
                for _ in 0..100 {
                    if !alive() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
    let _ = fs::remove_file(record);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn start(folder: &Path, script: &str) -> (Process, Log) {
        let log = Log::create(folder.join("logs/0.log")).unwrap();
        let arguments = ["-c".to_owned(), script.to_owned()];
        let launch = Launch {
            program: Path::new("/bin/sh"),
            arguments: &arguments,
            variables: &[("A".to_owned(), "b".to_owned())],
            folder,
            record: folder.join("c.pid"),
        };
        let process = Process::start(&launch, log.clone(), jiff::Timestamp::now).unwrap();
        (process, log)
    }

    #[tokio::test]
    async fn output_and_exit_code_are_kept_and_nothing_of_ours_leaks() {
        let folder = tempfile::tempdir().unwrap();
        let (mut process, log) = start(folder.path(), "echo $A$HOME; echo err >&2; exit 3");
        assert!(folder.path().join("c.pid").exists());
        assert_eq!(process.wait().await.unwrap().code(), Some(3));
        let text = fs::read_to_string(log.path()).unwrap();
        assert!(text.contains(" stdout F b\n"), "{text}");
        assert!(text.contains(" stderr F err\n"), "{text}");
        assert!(log.subscribe().borrow().closed);
        assert!(!folder.path().join("c.pid").exists());
    }

    #[tokio::test]
    async fn a_process_that_does_not_listen_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let (mut process, log) = start(
            folder.path(),
            "trap '' TERM; echo ready; while :; do read x; done",
        );
        let mut extent = log.subscribe();
        extent.wait_for(|extent| extent.length > 0).await.unwrap();
        let status = process.stop(Duration::from_millis(50)).await.unwrap();
        assert_eq!(status.signal(), Some(9));
    }

    #[tokio::test]
    async fn the_input_stays_open_while_somebody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let (mut process, log) = start(folder.path(), "echo ready; read x; echo end of input");
        let mut extent = log.subscribe();
        extent.wait_for(|extent| extent.length > 0).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(100), process.wait()).await;
        assert!(early.is_err());
        let status = process.stop(Duration::from_secs(5)).await.unwrap();
        assert_eq!(status.signal(), Some(15));
        let text = fs::read_to_string(log.path()).unwrap();
        assert!(!text.contains("end of input"), "{text}");
    }

    #[tokio::test]
    async fn leftovers_of_an_earlier_run_are_ended() {
        let folder = tempfile::tempdir().unwrap();
        let pod = folder.path().join("uid");
        fs::create_dir(&pod).unwrap();
        let (mut process, _) = start(&pod, "while :; do read x; done");
        end_leftovers(folder.path()).await;
        assert!(process.wait().await.unwrap().signal().is_some());
        assert!(!pod.join("c.pid").exists());
    }
}
