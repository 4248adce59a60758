//! Output of one run of a container: a file with a line for each line, its time and its stream, in the
//! format of the container runtime interface (`TIME stdout F text`). At most two files of a bounded size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Size at which a file is put aside; the one put aside before is dropped.
pub const ROTATE: u64 = 10 << 20;
/// Longer lines are stored in pieces.
const LINE: usize = 16 << 10;

/// How far a log is. A reader waits for a change of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Number of files that were put aside.
    pub rotations: u64,
    /// Bytes in the current file.
    pub length: u64,
    /// Nothing more will come.
    pub closed: bool,
}

/// A log that is written and read at the same time. Clones share it.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    file: Mutex<Option<File>>,
    extent: watch::Sender<Extent>,
    rotate: u64,
}

/// Which of the two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Stdout,
    Stderr,
}

/// Name of the file that was put aside.
pub fn aside(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

impl Log {
    /// Starts a log.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: PathBuf) -> io::Result<Log> {
        Self::create_bounded(path, ROTATE)
    }

    fn create_bounded(path: PathBuf, rotate: u64) -> io::Result<Log> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let length = file.metadata()?.len();
        let extent = Extent {
            rotations: 0,
            length,
            closed: false,
        };
        Ok(Log {
            inner: Arc::new(Inner {
                path,
                file: Mutex::new(Some(file)),
                extent: watch::Sender::new(extent),
                rotate,
            }),
        })
    }

    /// A log that an earlier process wrote; nothing more will come.
    pub fn finished(path: PathBuf) -> Log {
        let extent = Extent {
            rotations: 0,
            length: fs::metadata(&path).map_or(0, |meta| meta.len()),
            closed: true,
        };
        Log {
            inner: Arc::new(Inner {
                path,
                file: Mutex::new(None),
                extent: watch::Sender::new(extent),
                rotate: ROTATE,
            }),
        }
    }

    /// Where the current file lies.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Tells readers how far the log is.
    pub fn subscribe(&self) -> watch::Receiver<Extent> {
        self.inner.extent.subscribe()
    }

    /// Adds one line, given without its end.
    ///
    /// # Errors
    /// When it cannot be written, e.g. because the disk is full.
    pub fn append(&self, source: Source, line: &[u8], now: jiff::Timestamp) -> io::Result<()> {
        let stream = match source {
            Source::Stdout => "stdout",
            Source::Stderr => "stderr",
        };
        let mut record = Vec::with_capacity(line.len() + 64);
        let mut pieces = line.chunks(LINE).peekable();
        if pieces.peek().is_none() {
            writeln!(record, "{now:.9} {stream} F ")?;
        }
        while let Some(piece) = pieces.next() {
            let flag = if pieces.peek().is_some() { 'P' } else { 'F' };
            write!(record, "{now:.9} {stream} {flag} ")?;
            record.extend_from_slice(piece);
            record.push(b'\n');
        }
        let mut slot = self
            .inner
            .file
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(file) = slot.as_mut() else {
            return Ok(());
        };
        let mut extent = *self.inner.extent.borrow();
        if extent.length >= self.inner.rotate {
            fs::rename(&self.inner.path, aside(&self.inner.path))?;
            *file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.inner.path)?;
            extent.rotations += 1;
            extent.length = 0;
        }
        file.write_all(&record)?;
        extent.length += record.len() as u64;
        self.inner.extent.send_replace(extent);
        Ok(())
    }

    /// Ends the log: readers that follow it come to an end.
    pub fn close(&self) {
        *self
            .inner
            .file
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
        self.inner.extent.send_modify(|extent| extent.closed = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_at_most_two_files() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create_bounded(folder.path().join("0.log"), 1000).unwrap();
        for number in 0..200 {
            let line = format!("line {number}");
            log.append(Source::Stdout, line.as_bytes(), jiff::Timestamp::UNIX_EPOCH)
                .unwrap();
        }
        let sizes: Vec<u64> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|size| *size < 1100));
        let text = fs::read_to_string(log.path()).unwrap();
        assert!(
            text.ends_with("1970-01-01T00:00:00.000000000Z stdout F line 199\n"),
            "{text}"
        );
    }
}
