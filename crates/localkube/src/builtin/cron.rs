//! Cron schedules: whether one can be read, and what is wrong with it otherwise.

const DESCRIPTORS: &[&str] = &[
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@midnight",
    "@hourly",
];
const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Range and names of one field; `first` is what the first name stands for.
struct Field {
    least: u32,
    most: u32,
    names: &'static [&'static str],
    first: u32,
}

const fn plain(least: u32, most: u32) -> Field {
    Field {
        least,
        most,
        names: &[],
        first: 0,
    }
}

/// Minute, hour, day of month, month, day of week.
const FIELDS: [Field; 5] = [
    plain(0, 59),
    plain(0, 23),
    plain(1, 31),
    Field {
        least: 1,
        most: 12,
        names: MONTHS,
        first: 1,
    },
    Field {
        least: 0,
        most: 6,
        names: DAYS,
        first: 0,
    },
];

/// Checks a schedule.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    if schedule.starts_with('@') {
        if DESCRIPTORS.contains(&schedule) || schedule.starts_with("@every ") {
            return Ok(());
        }
        return Err(format!("unrecognized descriptor: {schedule}"));
    }
    let parts: Vec<&str> = schedule.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            parts.len(),
            parts.join(" ")
        ));
    }
    for (part, field) in parts.iter().zip(&FIELDS) {
        for range in part.split(',').filter(|range| !range.is_empty()) {
            check_range(range, field)?;
        }
    }
    Ok(())
}

fn check_range(range: &str, field: &Field) -> Result<(), String> {
    let mut halves = range.split('/');
    let span = halves.next().unwrap_or_default();
    let step = halves.next();
    if halves.next().is_some() {
        return Err(format!("too many slashes: {range}"));
    }
    let (start, mut end) = if matches!(span, "*" | "?") {
        (field.least, field.most)
    } else {
        let mut ends = span.split('-');
        let start = number(ends.next().unwrap_or_default(), field)?;
        let end = match ends.next() {
            Some(end) => number(end, field)?,
            None => start,
        };
        if ends.next().is_some() {
            return Err(format!("too many hyphens: {range}"));
        }
        (start, end)
    };
    if let Some(step) = step {
        let step = number(step, &plain(0, 0))?;
        if step == 0 {
            return Err(format!(
                "step of range should be a positive number: {range}"
            ));
        }
        if !span.contains('-') {
            end = field.most;
        }
    }
    if start < field.least {
        return Err(format!(
            "beginning of range ({start}) below minimum ({}): {range}",
            field.least
        ));
    }
    if end > field.most {
        return Err(format!(
            "end of range ({end}) above maximum ({}): {range}",
            field.most
        ));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {range}"
        ));
    }
    Ok(())
}

fn number(text: &str, field: &Field) -> Result<u32, String> {
    let lower = text.to_lowercase();
    if let Some(at) = field.names.iter().position(|name| *name == lower) {
        return Ok(field.first + u32::try_from(at).unwrap_or(0));
    }
    text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in [
            "* * * * *",
            "*/5 0-23/2 1,15 JAN-MAR mon-fri",
            "@daily",
            "@every 1h",
            "0 0 ? * 0",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            (
                "a * * * *",
                "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax",
            ),
            ("@foo", "unrecognized descriptor: @foo"),
            (
                "5-3 * * * *",
                "beginning of range (5) beyond end of range (3): 5-3",
            ),
            (
                "*/0 * * * *",
                "step of range should be a positive number: */0",
            ),
        ] {
            assert_eq!(check(bad), Err(why.to_owned()));
        }
    }
}
