//! Follows a mounted file and takes over what is new in it, without a restart (differences.md R8).

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

/// No configuration is larger; a larger file is refused like a broken one.
const LARGEST: u64 = 1024 * 1024;

/// What became of the changes that were seen.
#[derive(Debug, Default)]
pub struct ReloadCounters {
    /// Taken over.
    pub taken: AtomicU64,
    /// Refused: the last good one stayed in force.
    pub refused: AtomicU64,
}

/// A file whose content is looked at again and again. Content, not time stamps: a ConfigMap volume swaps symbolic links.
#[derive(Debug)]
pub struct Follower {
    /// The file.
    pub path: PathBuf,
    /// Between two looks.
    pub interval: Duration,
    /// The content that is in force.
    pub current: String,
}

impl Follower {
    /// Looks until `stop`, and hands each new content to `apply` once; an error of it is logged and counted, and leaves everything as it was.
    pub async fn run<E: std::fmt::Display>(
        mut self,
        counters: &ReloadCounters,
        stop: CancellationToken,
        mut apply: impl FnMut(&str) -> Result<(), E>,
    ) {
        let mut refused: Option<String> = None;
        while stop
            .run_until_cancelled(tokio::time::sleep(self.interval))
            .await
            .is_some()
        {
            let text = match read(&self.path).await {
                Ok(text) => text,
                Err(error) => {
                    let said = error.to_string();
                    if refused.as_ref() != Some(&said) {
                        counters.refused.fetch_add(1, Ordering::Relaxed);
                        tracing::warn!(path = %self.path.display(), "error reading config file: {said}");
                        refused = Some(said);
                    }
                    continue;
                }
            };
            if text == self.current {
                refused = None;
                continue;
            }
            if refused.as_ref() == Some(&text) {
                continue;
            }
            match apply(&text) {
                Ok(()) => {
                    counters.taken.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(path = %self.path.display(), "the configuration was reloaded");
                    self.current = text;
                    refused = None;
                }
                Err(error) => {
                    counters.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(
                        "config reload error: {error}; the last good configuration stays in force"
                    );
                    refused = Some(text);
                }
            }
        }
    }
}

/// Reads a configuration file, if it is not larger than we accept.
///
/// # Errors
/// Those of the file system; `InvalidData` where it is too large or not UTF-8.
pub async fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = tokio::fs::File::open(path).await?;
    file.take(LARGEST.saturating_add(1))
        .read_to_string(&mut text)
        .await?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file is larger than 1 MiB",
        ));
    }
    Ok(text)
}
