//! What is open right now.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Counters of open things. Each goes down again exactly when the thing it counts is gone, so a leak shows as a number that stays.
#[derive(Debug, Default)]
pub struct Gauges {
    connections: AtomicUsize,
    requests: AtomicUsize,
    splices: AtomicUsize,
}

/// A reading of [`Gauges`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Open {
    /// Connections to upstreams, idle ones in a pool included.
    pub connections: usize,
    /// Requests without an answer, and answers whose body has not ended.
    pub requests: usize,
    /// Pairs of connections spliced after an upgrade.
    pub splices: usize,
}

impl Gauges {
    /// Reads all counters.
    #[must_use]
    pub fn open(&self) -> Open {
        Open {
            connections: self.connections.load(Ordering::Acquire),
            requests: self.requests.load(Ordering::Acquire),
            splices: self.splices.load(Ordering::Acquire),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum What {
    Connection,
    Request,
    Splice,
}

/// Counts one thing for as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted {
    gauges: Arc<Gauges>,
    what: What,
}

impl Counted {
    fn new(gauges: &Arc<Gauges>, what: What) -> Self {
        let counted = Self {
            gauges: gauges.clone(),
            what,
        };
        counted.cell().fetch_add(1, Ordering::AcqRel);
        counted
    }

    pub(crate) fn connection(gauges: &Arc<Gauges>) -> Self {
        Self::new(gauges, What::Connection)
    }

    pub(crate) fn request(gauges: &Arc<Gauges>) -> Self {
        Self::new(gauges, What::Request)
    }

    pub(crate) fn splice(gauges: &Arc<Gauges>) -> Self {
        Self::new(gauges, What::Splice)
    }

    fn cell(&self) -> &AtomicUsize {
        match self.what {
            What::Connection => &self.gauges.connections,
            What::Request => &self.gauges.requests,
            What::Splice => &self.gauges.splices,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.cell().fetch_sub(1, Ordering::AcqRel);
    }
}
