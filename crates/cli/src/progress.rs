//! How far something is that takes a while: one line that changes on a terminal, a line a step elsewhere. All of it is talk, on stderr.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// Shows that this goes on until it has ended.
pub async fn during<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut progress = Progress::begin(what);
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = seconds.tick() => progress.step(""),
        }
    }
}

/// What is shown while something goes on. On a terminal its line is gone with it.
pub struct Progress {
    what: String,
    step: String,
    since: Instant,
    terminal: bool,
}

impl Progress {
    /// Says what begins.
    pub fn begin(what: &str) -> Self {
        let progress = Self {
            what: what.to_owned(),
            step: String::new(),
            since: Instant::now(),
            terminal: std::io::stderr().is_terminal(),
        };
        progress.write(&progress.what);
        progress
    }

    /// Says which step it is at, where that is news; on a terminal also for how long it has gone on.
    pub fn step(&mut self, step: &str) {
        let news = self.step != step;
        step.clone_into(&mut self.step);
        if self.terminal || news {
            let since = self.terminal.then(|| self.since.elapsed());
            self.write(&line(&self.what, step, since));
        }
    }

    fn write(&self, line: &str) {
        let mut err = std::io::stderr().lock();
        // Nobody can be told that stderr is closed.
        let _ = if self.terminal {
            write!(err, "\r\x1b[2K{line} …").and_then(|()| err.flush())
        } else {
            writeln!(err, "{line} …")
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[2K").and_then(|()| err.flush());
        }
    }
}

fn line(what: &str, step: &str, since: Option<Duration>) -> String {
    let mut line = what.to_owned();
    if !step.is_empty() {
        line = format!("{line}: {step}");
    }
    match since {
        Some(since) if since.as_secs() > 0 => format!("{line} ({} s)", since.as_secs()),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_how_far_and_for_how_long() {
        assert_eq!(line("Restoring", "", None), "Restoring");
        assert_eq!(
            line("Restoring", "restarting", Some(Duration::ZERO)),
            "Restoring: restarting"
        );
        let late = Some(Duration::from_secs(12));
        assert_eq!(
            line("Restoring", "restarting", late),
            "Restoring: restarting (12 s)"
        );
    }
}
