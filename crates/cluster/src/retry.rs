//! When to try again: the one policy of this room.

use std::time::Duration;

/// Pauses that double from failure to failure, up to a limit, and are spread by chance so that many who failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure, before it is spread.
    pub first: Duration,
    /// No pause is longer.
    pub longest: Duration,
}

impl Backoff {
    /// The pause after this many failures in a row, between half of it and all of it as `chance` (0 to 1) says. No failure, no pause.
    #[must_use]
    pub fn pause(&self, failures: u32, chance: f64) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 2u32.checked_pow(doublings).unwrap_or(u32::MAX);
        let whole = self.first.saturating_mul(factor).min(self.longest);
        spread(whole, chance)
    }
}

/// Between half of a time and all of it, as `chance` (0 to 1) says.
#[must_use]
pub fn spread(whole: Duration, chance: f64) -> Duration {
    let chance = if chance.is_finite() {
        chance.clamp(0.0, 1.0)
    } else {
        1.0
    };
    whole.mul_f64(0.5 + 0.5 * chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_are_spread() {
        let policy = Backoff {
            first: Duration::from_millis(400),
            longest: Duration::from_secs(30),
        };
        for (failures, chance, milliseconds) in [
            (0, 1.0, 0),
            (1, 1.0, 400),
            (1, 0.0, 200),
            (2, 1.0, 800),
            (3, 0.5, 1200),
            (7, 1.0, 25_600),
            (8, 1.0, 30_000),
            (8, 0.0, 15_000),
            (40, 1.0, 30_000),
            (u32::MAX, 1.0, 30_000),
            (1, f64::NAN, 400),
            (1, 9.0, 400),
            (1, -9.0, 200),
        ] {
            assert_eq!(
                policy.pause(failures, chance),
                Duration::from_millis(milliseconds),
                "{failures} {chance}"
            );
        }
    }
}
