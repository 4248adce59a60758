//! Times and durations as Go writes and reads them.

use std::fmt;

use jiff::Timestamp;

const SECOND: i64 = 1_000_000_000;

/// A Go duration: nanoseconds, signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(pub i64);

/// A text that is no Go duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DurationError(String);

impl GoDuration {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds.saturating_mul(SECOND))
    }

    /// Whole seconds, cut.
    #[must_use]
    pub const fn as_secs(self) -> i64 {
        self.0 / SECOND
    }

    /// Whether it is exactly zero.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// As an unsigned duration; a negative one is zero.
    #[must_use]
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// Reads Go syntax: `10m0s`, `1.5h`, `-2ms`, `0`.
    ///
    /// # Errors
    /// The text of Go's own error, for example `time: unknown unit "d" in duration "1d"`.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError(format!("time: invalid duration {text:?}"));
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, text.get(1..).unwrap_or("")),
            Some(b'+') => (false, text.get(1..).unwrap_or("")),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
            let whole = digits(rest);
            let (integer, after) = rest.split_at(whole);
            let (fraction, after) = match after.strip_prefix('.') {
                Some(after) => after.split_at(digits(after)),
                None => ("", after),
            };
            if (integer.is_empty() && fraction.is_empty()) || integer.len() > 19 {
                return Err(invalid());
            }
            let unit_length = after
                .find(|character: char| character == '.' || character.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, next) = after.split_at(unit_length);
            let scale: i128 = match unit {
                "ns" => 1,
                "us" | "µs" | "μs" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                "" => {
                    return Err(DurationError(format!(
                        "time: missing unit in duration {text:?}"
                    )));
                }
                other => {
                    return Err(DurationError(format!(
                        "time: unknown unit {other:?} in duration {text:?}"
                    )));
                }
            };
            total += integer.parse::<i128>().unwrap_or(0) * scale;
            let fraction = fraction.get(..fraction.len().min(15)).unwrap_or(fraction);
            if !fraction.is_empty() {
                let power = 10_i128.pow(u32::try_from(fraction.len()).unwrap_or(15));
                total += fraction.parse::<i128>().unwrap_or(0) * scale / power;
            }
            if total > i128::from(i64::MAX) {
                return Err(invalid());
            }
            rest = next;
        }
        let total = i64::try_from(total).map_err(|_| invalid())?;
        Ok(Self(if negative { -total } else { total }))
    }
}

impl fmt::Display for GoDuration {
    /// `1m30.562730594s`, `2h0m0s`, `3.6µs`, `0s`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.unsigned_abs();
        if self.0 < 0 {
            formatter.write_str("-")?;
        }
        let second = SECOND.unsigned_abs();
        if nanoseconds == 0 {
            return formatter.write_str("0s");
        }
        if nanoseconds < second {
            let (scale, unit) = match nanoseconds {
                ..1_000 => (1, "ns"),
                1_000..1_000_000 => (1_000, "µs"),
                _ => (1_000_000, "ms"),
            };
            return write!(formatter, "{}{unit}", decimal(nanoseconds, scale));
        }
        let seconds = nanoseconds / second;
        if seconds >= 3600 {
            write!(formatter, "{}h", seconds / 3600)?;
        }
        if seconds >= 60 {
            write!(formatter, "{}m", seconds / 60 % 60)?;
        }
        write!(
            formatter,
            "{}s",
            decimal(seconds % 60 * second + nanoseconds % second, second)
        )
    }
}

/// `value / scale` with as many decimals as it has.
fn decimal(value: u64, scale: u64) -> String {
    let fraction = value % scale;
    if fraction == 0 {
        return (value / scale).to_string();
    }
    let width = scale.ilog10() as usize;
    let digits = format!("{fraction:0width$}");
    format!("{}.{}", value / scale, digits.trim_end_matches('0'))
}

/// A time as Go prints it: `2026-11-23 21:35:04 +0000 UTC`, with as many decimals as it has.
#[must_use]
pub fn go_time(time: Timestamp) -> String {
    let seconds = time.strftime("%Y-%m-%d %H:%M:%S");
    let fraction = time.subsec_nanosecond();
    if fraction == 0 {
        return format!("{seconds} +0000 UTC");
    }
    let digits = format!("{:09}", fraction.unsigned_abs());
    format!("{seconds}.{} +0000 UTC", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print_as_in_go() {
        let cases = [
            ("0", 0, "0s"),
            ("10m0s", 600_000_000_000, "10m0s"),
            ("168h", 604_800_000_000_000, "168h0m0s"),
            ("1m30.562730594s", 90_562_730_594, "1m30.562730594s"),
            ("3600ns", 3_600, "3.6µs"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("-2ms", -2_000_000, "-2ms"),
            ("1500ms", 1_500_000_000, "1.5s"),
        ];
        for (text, nanoseconds, printed) in cases {
            let duration = GoDuration::parse(text).unwrap();
            assert_eq!(duration.0, nanoseconds, "{text}");
            assert_eq!(duration.to_string(), printed, "{text}");
        }
        for (text, error) in [
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("3600", "time: missing unit in duration \"3600\""),
            ("", "time: invalid duration \"\""),
            ("h", "time: invalid duration \"h\""),
            ("99999999999h", "time: invalid duration \"99999999999h\""),
        ] {
            assert_eq!(GoDuration::parse(text).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn times_print_as_in_go() {
        let time: Timestamp = "2026-11-23T21:33:34.56Z".parse().unwrap();
        assert_eq!(go_time(time), "2026-11-23 21:33:34.56 +0000 UTC");
        let whole: Timestamp = "2026-11-23T21:35:04Z".parse().unwrap();
        assert_eq!(go_time(whole), "2026-11-23 21:35:04 +0000 UTC");
    }

    proptest::proptest! {
        #[test]
        fn durations_round_trip(nanoseconds in -i64::MAX..i64::MAX) {
            let text = GoDuration(nanoseconds).to_string();
            proptest::prop_assert_eq!(GoDuration::parse(&text), Ok(GoDuration(nanoseconds)));
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".{0,40}") {
            let _ = GoDuration::parse(&text);
        }
    }
}
