//! `resource.Quantity`: parsing and the canonical form in which kube-apiserver writes it back.

use serde_json::Value;

const NANO: i128 = 1_000_000_000;
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Decimal,
    Binary,
    Exponent,
}

/// A parsed quantity, exact to a billionth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Quantity {
    nano: i128,
    format: Format,
}

impl Quantity {
    /// Reads a quantity; `None` if it is none.
    pub fn parse(text: &str) -> Option<Quantity> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, text.get(1..)?),
            b'+' => (false, text.get(1..)?),
            _ => (false, text),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let (format, multiplier, power) = scale(suffix)?;
        let mut digits: i128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            digits = digits
                .checked_mul(10)?
                .checked_add(i128::from(digit - b'0'))?;
        }
        let exponent = power + 9 - i32::try_from(fraction.len()).ok()?;
        let mut nano = digits.checked_mul(multiplier)?;
        if exponent >= 0 {
            nano = nano.checked_mul(10i128.checked_pow(exponent.unsigned_abs())?)?;
        } else {
            // Below a billionth, Kubernetes rounds away from zero.
            let divisor = 10i128.checked_pow(exponent.unsigned_abs())?;
            nano = nano.checked_add(divisor - 1)? / divisor;
        }
        Some(Quantity {
            nano: if negative { -nano } else { nano },
            format,
        })
    }

    /// Reads a JSON string or number.
    pub fn from_value(value: &Value) -> Option<Quantity> {
        match value {
            Value::String(text) => Quantity::parse(text.trim()),
            Value::Number(number) => Quantity::parse(&number.to_string()),
            _ => None,
        }
    }

    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    pub fn cmp(self, other: Quantity) -> std::cmp::Ordering {
        self.nano.cmp(&other.nano)
    }

    /// The canonical text.
    pub fn canonical(self) -> String {
        let binary = self.format == Format::Binary
            && self.nano % NANO == 0
            && self.nano.abs() >= 1024 * NANO;
        if binary {
            let mut value = self.nano / NANO;
            let mut suffix = "";
            for next in BINARY {
                if value % 1024 != 0 {
                    break;
                }
                value /= 1024;
                suffix = next;
            }
            return format!("{value}{suffix}");
        }
        if self.nano == 0 {
            return "0".to_owned();
        }
        let mut value = self.nano;
        let mut at = 0;
        while value % 1000 == 0 && at + 1 < DECIMAL.len() {
            value /= 1000;
            at += 1;
        }
        let (suffix, power) = DECIMAL.get(at).copied().unwrap_or(("", 0));
        match self.format {
            Format::Exponent if power != 0 => format!("{value}e{power}"),
            _ => format!("{value}{suffix}"),
        }
    }
}

/// Format, multiplier and power of ten of a suffix.
fn scale(suffix: &str) -> Option<(Format, i128, i32)> {
    if let Some(at) = BINARY.iter().position(|known| *known == suffix) {
        let multiplier = 1024i128.checked_pow(u32::try_from(at).ok()? + 1)?;
        return Some((Format::Binary, multiplier, 0));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(known, _)| *known == suffix) {
        return Some((Format::Decimal, 1, *power));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let power: i32 = exponent.parse().ok()?;
    (-18..=18)
        .contains(&power)
        .then_some((Format::Exponent, 1, power))
}

/// Rewrites a quantity in its canonical form; leaves anything else alone.
pub(crate) fn normalise(value: &mut Value) {
    if let Some(quantity) = Quantity::from_value(value) {
        *value = quantity.canonical().into();
    }
}

/// Rewrites every quantity of a map such as `limits`.
pub(crate) fn normalise_map(map: Option<&mut Value>) {
    if let Some(Value::Object(map)) = map {
        map.values_mut().for_each(normalise);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, canonical) in [
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            ("1024Mi", "1Gi"),
            ("1000Mi", "1000Mi"),
            ("0.5Gi", "512Mi"),
            ("100Ki", "100Ki"),
            ("0", "0"),
            ("0Gi", "0"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("1000000", "1M"),
            ("1234", "1234"),
            ("-5", "-5"),
            (".5", "500m"),
            ("1Ei", "1Ei"),
            ("100m", "100m"),
            ("0.1Ki", "102400m"),
        ] {
            assert_eq!(
                Quantity::parse(text).map(Quantity::canonical).as_deref(),
                Some(canonical),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_quantity() {
        for text in ["", "x", "1.2.3", "1Kx", "--1", "1 Gi", "e3", ".", "1é"] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }
}
