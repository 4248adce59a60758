//! Tunnels that have not shown who they are yet: bounded in number and in patience (security-tests.md W11).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The handshakes in progress. When there are too many, the oldest makes room: whoever means it is done in a moment, and those who only hold a
/// place cannot keep others out for long.
#[derive(Debug)]
pub(crate) struct Handshakes {
    running: Mutex<VecDeque<(Instant, CancellationToken)>>,
    at_most: usize,
    /// None is cut off before it is this old.
    grace: Duration,
}

/// As many are in progress as may be, all of them young.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

/// One handshake in progress; its place is free when it is dropped.
#[derive(Debug)]
pub(crate) struct Handshake {
    all: Arc<Handshakes>,
    begun: Instant,
    /// Cancelled when it has to make room.
    pub(crate) cut: CancellationToken,
}

impl Handshakes {
    pub(crate) fn new(at_most: usize, grace: Duration) -> Self {
        Self {
            running: Mutex::default(),
            at_most,
            grace,
        }
    }

    pub(crate) fn begin(self: &Arc<Self>) -> Result<Handshake, TooMany> {
        let now = Instant::now();
        let cut = CancellationToken::new();
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.len() >= self.at_most {
            match running.front() {
                Some((begun, _)) if now.duration_since(*begun) >= self.grace => {
                    if let Some((_, oldest)) = running.pop_front() {
                        oldest.cancel();
                    }
                }
                _ => return Err(TooMany),
            }
        }
        running.push_back((now, cut.clone()));
        drop(running);
        Ok(Handshake {
            all: Arc::clone(self),
            begun: now,
            cut,
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut running = self
            .all
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // One that was cut off has left the queue already; another may have begun in the same instant.
        self.cut.cancel();
        running.retain(|(begun, cut)| *begun != self.begun || !cut.is_cancelled());
    }
}
