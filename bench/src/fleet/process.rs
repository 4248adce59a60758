//! What the system says of a running process.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// Memory and processor time of a process at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Resident memory that is the process's own, in bytes.
    pub memory: u64,
    /// Processor time since its start.
    pub processor: Duration,
}

/// The process below `parent` whose command line has this word.
///
/// # Errors
/// There is none.
pub fn child(parent: u32, word: &str) -> Result<u32> {
    let mut below = vec![parent];
    while let Some(pid) = below.pop() {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if pid != parent && command.split('\0').any(|part| part == word) {
            return Ok(pid);
        }
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten();
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            below.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
    }
    anyhow::bail!("no process {word} below {parent}")
}

/// What it uses now.
///
/// # Errors
/// It has ended.
pub fn usage(pid: u32) -> Result<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("read the memory of process {pid}"))?;
    let kilobytes = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    let memory = 1024 * (kilobytes("Private_Dirty:") + kilobytes("Private_Clean:"));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("read the times of process {pid}"))?;
    // Fields are counted behind the name, which may hold blanks; times are in hundredths of a second on Linux.
    let behind = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<u64> = behind
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let ticks = fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0);
    Ok(Usage {
        memory,
        processor: Duration::from_millis(10 * ticks),
    })
}

/// Resident memory of a process since [`forget_peak`], in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    /// Now.
    pub now: u64,
    /// At most.
    pub peak: u64,
}

/// Resident memory, shared pages included.
///
/// # Errors
/// It has ended.
pub fn resident(pid: u32) -> Result<Resident> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("read the state of process {pid}"))?;
    let kilobytes = |name: &str| -> Result<u64> {
        let line = status.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        let number = number.with_context(|| format!("{name} of process {pid}"))?;
        Ok(1024 * number.parse::<u64>()?)
    };
    Ok(Resident {
        now: kilobytes("VmRSS:")?,
        peak: kilobytes("VmHWM:")?,
    })
}

/// From now on the peak counts anew.
///
/// # Errors
/// It has ended.
pub fn forget_peak(pid: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
        .with_context(|| format!("forget the peak of process {pid}"))
}

/// Files that a process has open.
///
/// # Errors
/// It has ended.
pub fn files(pid: u32) -> Result<usize> {
    let open = fs::read_dir(format!("/proc/{pid}/fd"));
    Ok(open
        .with_context(|| format!("count the files of process {pid}"))?
        .count())
}

/// Memory of all TCP connections of this system, in bytes.
///
/// # Errors
/// The system does not say.
pub fn sockets() -> Result<u64> {
    let all = fs::read_to_string("/proc/net/sockstat").context("read the memory of sockets")?;
    let line = all.lines().find(|line| line.starts_with("TCP:"));
    let pages = line.and_then(|line| line.rsplit("mem ").next());
    let pages: u64 = pages.context("the memory of sockets")?.trim().parse()?;
    // Pages of 4 KiB, as on most machines.
    Ok(pages * 4096)
}
