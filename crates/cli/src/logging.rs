//! Log lines in the format of klog: `Lmmdd hh:mm:ss.uuuuuu       1 file.go:65] text`.
//!
//! People and alert rules search for these lines, three of them by file name and number (the founding story of the product), so an event may say both
//! itself in the fields `klog.file` and `klog.line`; every other event shows the place of its own call.

use std::fmt;

use jiff::{Timestamp, tz::TimeZone};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Where an event's time comes from.
pub type Clock = fn() -> Timestamp;

/// Formats events as klog does.
#[derive(Debug, Clone, Copy)]
pub struct Klog {
    /// Tells the time.
    pub clock: Clock,
    /// Shown in 7 columns; a program in a Pod is process 1 there.
    pub process: u32,
}

impl Default for Klog {
    fn default() -> Self {
        Self {
            clock: Timestamp::now,
            process: 1,
        }
    }
}

impl<S, N> FormatEvent<S, N> for Klog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        let meta = event.metadata();
        let level = match *meta.level() {
            Level::ERROR if line.fatal => 'F',
            Level::ERROR => 'E',
            Level::WARN => 'W',
            _ => 'I',
        };
        let now = (self.clock)().to_zoned(TimeZone::UTC);
        let path = meta.file().unwrap_or("unknown");
        let own_file = path.rsplit('/').next().unwrap_or(path);
        let file = line.file.as_deref().unwrap_or(own_file);
        let number = line.line.unwrap_or_else(|| meta.line().unwrap_or(0).into());
        writeln!(
            writer,
            "{level}{} {:>7} {file}:{number}] {}{}",
            now.strftime("%m%d %H:%M:%S.%6f"),
            self.process,
            line.message,
            line.rest,
        )
    }
}

/// What an event says, gathered. Control characters are written as escapes: one event is one line, whoever chose its words.
#[derive(Default)]
struct Line {
    message: String,
    rest: String,
    file: Option<String>,
    line: Option<u64>,
    fatal: bool,
}

impl Line {
    fn put(&mut self, field: &Field, text: &str, quoted: bool) {
        match field.name() {
            "message" => self.message = printable(text),
            "klog.file" => self.file = Some(printable(text)),
            name => {
                let text = printable(text);
                let quote = if quoted { "\"" } else { "" };
                self.rest.push_str(&format!(" {name}={quote}{text}{quote}"));
            }
        }
    }
}

fn printable(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|c| {
            let (plain, escaped) = if c.is_control() {
                (None, Some(c.escape_default()))
            } else {
                (Some(c), None)
            };
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"), false);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value, true);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "klog.line" {
            self.line = Some(value);
        } else {
            self.put(field, &value.to_string(), false);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "klog.line" {
            self.line = u64::try_from(value).ok();
        } else {
            self.put(field, &value.to_string(), false);
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "klog.fatal" {
            self.fatal = value;
        } else {
            self.put(field, &value.to_string(), false);
        }
    }
}

/// Sends what is logged to standard error, in klog's format. `verbosity` is klog's `-v`: from 4 on, debug events too; `RUST_LOG` wins over it.
pub fn init(verbosity: u8) {
    let level = match verbosity {
        0..4 => "info",
        4..8 => "info,kah=debug,kah_gateway=debug,kah_iam=debug,kah_cluster=debug,kah_net=debug",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // A second call finds the first one's subscriber in place and leaves it there.
    let _ = tracing_subscriber::fmt()
        .event_format(Klog::default())
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(events: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let clock: Clock = || "2026-03-05T03:46:42.105625Z".parse().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .event_format(Klog { clock, process: 1 })
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, events);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_published_line_to_the_letter() {
        let text = logged(|| {
            tracing::error!(
                klog.file = "token.go",
                klog.line = 65,
                "token not found in cache"
            );
            tracing::error!(
                klog.file = "jwt_token.go",
                klog.line = 45,
                "{}",
                "token not found in cache"
            );
        });
        assert_eq!(
            text,
            "E0305 03:46:42.105625       1 token.go:65] token not found in cache\n\
             E0305 03:46:42.105625       1 jwt_token.go:45] token not found in cache\n"
        );
    }

    #[test]
    fn levels_places_and_fields() {
        let text = logged(|| {
            tracing::warn!(user = "tom", tries = 3, "refused");
            tracing::info!("started");
            tracing::error!(klog.fatal = true, "gone");
        });
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[0].starts_with("W0305 03:46:42.105625       1 logging.rs:"),
            "{text}"
        );
        assert!(
            lines[0].ends_with("] refused user=\"tom\" tries=3"),
            "{text}"
        );
        assert!(lines[1].starts_with("I0305"), "{text}");
        assert!(lines[2].starts_with("F0305"), "{text}");
    }

    #[test]
    fn one_event_is_one_line() {
        let text = logged(|| tracing::info!("a\nE0305 forged\u{1b}[2J"));
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("a\\nE0305 forged\\u{1b}[2J"), "{text}");
    }
}
