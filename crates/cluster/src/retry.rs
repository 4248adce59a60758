//! How long to wait before something is tried again, and how often: the one policy of this room.

use std::time::Duration;

/// How often a write against the version that was read is tried again where somebody else came before: more often than an object has writers at a time.
pub(crate) const TRIES: usize = 8;

/// Pauses that double up to a limit, each drawn at random from the whole of its length, so that many who failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The longest first pause.
    pub first: Duration,
    /// The longest pause of all.
    pub longest: Duration,
    /// The share of a pause that is always waited, in percent.
    pub at_least: u32,
}

impl Retry {
    /// For what may succeed at any moment.
    pub const TRANSIENT: Self = Self {
        first: Duration::from_millis(500),
        longest: Duration::from_secs(15),
        at_least: 0,
    };
    /// For what somebody has to mend first.
    pub const REFUSED: Self = Self {
        first: Duration::from_secs(60),
        longest: Duration::from_secs(600),
        at_least: 50,
    };

    /// The pause after this many failures in a row; `chance` is from 0 to 1. No failure, no pause.
    #[must_use]
    pub fn pause(&self, failures: u32, chance: f64) -> Duration {
        if failures == 0 {
            return Duration::ZERO;
        }
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(31));
        let whole = self.first.saturating_mul(doubled).min(self.longest);
        spread(whole, self.at_least, chance)
    }
}

/// A time of which `at_least` percent are certain, and the rest as `chance` (0 to 1) says.
#[must_use]
pub fn spread(whole: Duration, at_least: u32, chance: f64) -> Duration {
    let certain = whole * at_least.min(100) / 100;
    let chance = if chance.is_finite() { chance } else { 1.0 };
    certain + (whole - certain).mul_f64(chance.clamp(0.0, 1.0))
}

/// The pauses of one thing that is tried again and again.
#[derive(Debug, Clone)]
pub struct Pauses {
    retry: Retry,
    failures: u32,
}

impl Pauses {
    /// The pauses of this policy, from the first on.
    #[must_use]
    pub fn of(retry: Retry) -> Self {
        Self { retry, failures: 0 }
    }

    /// It failed once more; how long to wait now.
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.retry.pause(self.failures, rand::random())
    }

    /// It went well.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// As watches ask for it.
impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.failed())
    }
}

impl kube::runtime::utils::Backoff for Pauses {
    fn reset(&mut self) {
        self.succeeded();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_spread_over_their_length() {
        let retry = Retry {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(10),
            at_least: 50,
        };
        for (failures, shortest, longest) in [(1, 500, 1000), (2, 1000, 2000), (9, 5000, 10_000)] {
            assert_eq!(retry.pause(failures, 0.0).as_millis(), shortest);
            assert_eq!(retry.pause(failures, 1.0).as_millis(), longest);
        }
        assert_eq!(
            Retry::TRANSIENT.pause(u32::MAX, 1.0),
            Retry::TRANSIENT.longest
        );
        assert_eq!(Retry::TRANSIENT.pause(3, 0.0), Duration::ZERO);
        assert_eq!(retry.pause(0, 1.0), Duration::ZERO);
        for (chance, milliseconds) in [(f64::NAN, 1000), (9.0, 1000), (-9.0, 500)] {
            assert_eq!(retry.pause(1, chance).as_millis(), milliseconds);
        }
    }
}
