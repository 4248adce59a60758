//! What keeps a member from being as it should be, and for how long. Pure.

use std::{collections::HashMap, mem::Discriminant, time::Duration};

use kah_cluster::propagate::PropagateError;
use tokio::time::Instant;

/// What is in the way: the same cause with other words is no news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Cause {
    /// The whole member cannot be reached: the error, or that it is not known yet.
    Member(Option<Discriminant<PropagateError>>),
    /// Objects of this kind are refused.
    Objects(usize, Discriminant<PropagateError>),
}

/// The causes that there are now.
#[derive(Debug, Default)]
pub(super) struct Overdue {
    seen: HashMap<Cause, Seen>,
    /// Whether any was told since nothing was in the way.
    told: bool,
}

/// What people have to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// These have lasted.
    pub(super) causes: Vec<Cause>,
    /// What was told before is over, and nothing else is in the way.
    pub(super) over: bool,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    since: Instant,
    told: bool,
}

impl Overdue {
    /// Takes these as all that is in the way now; gives those that have lasted for `after` and were not told yet. One that went and came back counts
    /// anew.
    pub(super) fn take_in(&mut self, present: &[Cause], now: Instant, after: Duration) -> Due {
        self.seen.retain(|cause, _| present.contains(cause));
        let mut due = Due::default();
        for cause in present {
            let seen = self.seen.entry(*cause).or_insert(Seen {
                since: now,
                told: false,
            });
            if !seen.told && now.duration_since(seen.since) >= after {
                seen.told = true;
                self.told = true;
                due.causes.push(*cause);
            }
        }
        if present.is_empty() {
            due.over = std::mem::take(&mut self.told);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::mem::discriminant;

    use super::*;

    #[test]
    fn a_cause_is_told_once_when_it_has_lasted() {
        let unknown = Cause::Member(None);
        let lost = Cause::Member(Some(discriminant(&PropagateError::LeadsToHost)));
        let refused = Cause::Objects(1, discriminant(&PropagateError::LeadsToHost));
        let start = Instant::now();
        let mut overdue = Overdue::default();
        let mut ends = Vec::new();
        for (seconds, present, due) in [
            (0, vec![unknown], vec![]),
            (59, vec![unknown, refused], vec![]),
            (60, vec![unknown, refused], vec![unknown]),
            (90, vec![unknown, refused], vec![]),
            (119, vec![unknown, refused], vec![refused]),
            (200, vec![refused, lost], vec![]),
            (230, vec![refused], vec![]),
            (240, vec![refused, lost, unknown], vec![]),
            (300, vec![refused, lost, unknown], vec![lost, unknown]),
            (400, vec![], vec![]),
            (400, vec![], vec![]),
            (401, vec![refused], vec![]),
            (461, vec![refused], vec![refused]),
        ] {
            let now = start + Duration::from_secs(seconds);
            let told = overdue.take_in(&present, now, Duration::from_secs(60));
            assert_eq!(told.causes, due, "after {seconds} s");
            if told.over {
                ends.push(seconds);
            }
        }
        assert_eq!(ends, [400], "the end of what was told is told once");
    }
}
