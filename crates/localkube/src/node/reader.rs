//! Reading a container's log: the answer to `pods/NAME/log`.

use std::io::{self, SeekFrom};
use std::path::Path;

use bytes::Bytes;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncSeekExt, BufReader};
use tokio::sync::mpsc;

use super::log::{Log, aside};

/// The query of `pods/NAME/log` (`PodLogOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub container: Option<String>,
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub since: Option<jiff::Timestamp>,
    pub tail: Option<u64>,
    pub limit: Option<u64>,
}

impl Options {
    /// From a query string; the message of a 400 if a value cannot be read.
    pub fn parse(query: &str, now: jiff::Timestamp) -> Result<Options, String> {
        let mut options = Options::default();
        let truth = |value: &str| !matches!(value, "false" | "0");
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let number = || -> Result<u64, String> {
                value.parse().map_err(|_| {
                    format!("invalid value {value:?} of {key}: must be a number, not negative")
                })
            };
            match key.as_ref() {
                "container" if !value.is_empty() => options.container = Some(value.into_owned()),
                "follow" => options.follow = truth(&value),
                "previous" => options.previous = truth(&value),
                "timestamps" => options.timestamps = truth(&value),
                "tailLines" => options.tail = Some(number()?),
                "limitBytes" => options.limit = Some(number()?),
                "sinceSeconds" => {
                    let seconds = i64::try_from(number()?).unwrap_or(i64::MAX);
                    let from = now.as_second().saturating_sub(seconds);
                    options.since = jiff::Timestamp::from_second(from).ok();
                }
                "sinceTime" => {
                    options.since = Some(
                        value
                            .parse()
                            .map_err(|_| format!("invalid value {value:?} of sinceTime"))?,
                    );
                }
                _ => {}
            }
        }
        Ok(options)
    }
}

/// Sends what the options ask for, until the log has ended or nobody listens.
pub async fn read(log: Log, options: Options, sender: mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut extent = log.subscribe();
    let mut left = options.limit;
    let start = *extent.borrow_and_update();
    let mut out = Output {
        options: &options,
        sender,
        partial: false,
    };
    let old = aside(log.path());
    // Skipping is counted over what is there now; lines written meanwhile are only ever added at the end.
    let skip = match options.tail {
        None => 0,
        Some(tail) => {
            let all = count(&old, out.options).await? + count(log.path(), out.options).await?;
            all.saturating_sub(tail)
        }
    };
    let mut skip = skip;
    if let Ok(file) = File::open(&old).await {
        let mut reader = BufReader::new(file);
        out.pass(&mut reader, &mut 0, &mut skip, &mut left).await?;
    }
    let mut file = match File::open(log.path()).await {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut rotations = start.rotations;
    let mut at = 0;
    loop {
        out.pass(&mut file, &mut at, &mut skip, &mut left).await?;
        let now = *extent.borrow_and_update();
        if now.rotations != rotations {
            // What was added to the file before it was put aside is still to be read from it.
            out.pass(&mut file, &mut at, &mut skip, &mut left).await?;
            rotations = now.rotations;
            file = BufReader::new(File::open(log.path()).await?);
            at = 0;
            continue;
        }
        if left == Some(0) || !options.follow || (now.closed && at >= now.length) {
            return Ok(());
        }
        if at < now.length {
            continue;
        }
        tokio::select! {
            () = out.sender.closed() => return Ok(()),
            changed = extent.changed() => if changed.is_err() {
                return Ok(());
            },
        }
    }
}

async fn count(path: &Path, options: &Options) -> io::Result<u64> {
    let Ok(file) = File::open(path).await else {
        return Ok(0);
    };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut lines = 0;
    while reader.read_until(b'\n', &mut line).await? > 0 {
        if let Some(record) = Record::parse(&line)
            && record.full
            && record.is_after(options.since)
        {
            lines += 1;
        }
        line.clear();
    }
    Ok(lines)
}

struct Record<'a> {
    time: &'a str,
    full: bool,
    text: &'a [u8],
}

impl Record<'_> {
    fn parse(line: &[u8]) -> Option<Record<'_>> {
        let line = line.strip_suffix(b"\n")?;
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        parts.next()?;
        let full = parts.next()? == b"F";
        Some(Record {
            time,
            full,
            text: parts.next()?,
        })
    }

    fn is_after(&self, since: Option<jiff::Timestamp>) -> bool {
        since.is_none_or(|since| {
            self.time
                .parse::<jiff::Timestamp>()
                .is_ok_and(|time| time >= since)
        })
    }
}

struct Output<'a> {
    options: &'a Options,
    sender: mpsc::Sender<Bytes>,
    /// The last piece did not end its line.
    partial: bool,
}

impl Output<'_> {
    /// Passes on whole records from `at` to the end of the file.
    async fn pass(
        &mut self,
        reader: &mut BufReader<File>,
        at: &mut u64,
        skip: &mut u64,
        left: &mut Option<u64>,
    ) -> io::Result<()> {
        reader.seek(SeekFrom::Start(*at)).await?;
        let mut line = Vec::new();
        let mut chunk = Vec::new();
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).await?;
            let Some(record) = Record::parse(&line) else {
                if length == 0 || !line.ends_with(b"\n") {
                    break;
                }
                *at += length as u64;
                continue;
            };
            *at += length as u64;
            if !record.is_after(self.options.since) {
                continue;
            }
            if *skip > 0 {
                *skip -= u64::from(record.full);
                continue;
            }
            if self.options.timestamps && !self.partial {
                chunk.extend_from_slice(record.time.as_bytes());
                chunk.push(b' ');
            }
            chunk.extend_from_slice(record.text);
            self.partial = !record.full;
            if record.full {
                chunk.push(b'\n');
            }
            if chunk.len() >= 32 << 10 && !self.send(&mut chunk, left).await {
                return Ok(());
            }
        }
        if !chunk.is_empty() {
            self.send(&mut chunk, left).await;
        }
        Ok(())
    }

    async fn send(&self, chunk: &mut Vec<u8>, left: &mut Option<u64>) -> bool {
        let mut chunk = std::mem::take(chunk);
        if let Some(left) = left {
            chunk.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= chunk.len() as u64;
            if chunk.is_empty() {
                return false;
            }
        }
        self.sender.send(chunk.into()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::log::Source;

    fn options(query: &str) -> Options {
        Options::parse(query, jiff::Timestamp::from_second(1000).unwrap()).unwrap()
    }

    async fn collect(log: &Log, query: &str) -> String {
        let (sender, mut receiver) = mpsc::channel(4);
        let reading = tokio::spawn(read(log.clone(), options(query), sender));
        let mut text = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            text.extend_from_slice(&chunk);
        }
        reading.await.unwrap().unwrap();
        String::from_utf8(text).unwrap()
    }

    fn write(log: &Log, second: i64, line: &str) {
        let time = jiff::Timestamp::from_second(second).unwrap();
        log.append(Source::Stdout, line.as_bytes(), time).unwrap();
    }

    #[tokio::test]
    async fn each_option_selects_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path().join("0.log")).unwrap();
        for (second, line) in [(10, "one"), (20, ""), (990, "three")] {
            write(&log, second, line);
        }
        let table = [
            ("", "one\n\nthree\n"),
            ("tailLines=2", "\nthree\n"),
            ("tailLines=0", ""),
            ("tailLines=9", "one\n\nthree\n"),
            ("limitBytes=5", "one\n\n"),
            ("sinceSeconds=20", "three\n"),
            ("sinceTime=1970-01-01T00:00:20Z", "\nthree\n"),
            (
                "tailLines=1&timestamps=true",
                "1970-01-01T00:16:30.000000000Z three\n",
            ),
        ];
        for (query, expected) in table {
            assert_eq!(collect(&log, query).await, expected, "{query}");
        }
        assert!(Options::parse("tailLines=-1", jiff::Timestamp::UNIX_EPOCH).is_err());
    }

    #[tokio::test]
    async fn following_ends_with_the_log_and_with_the_listener() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path().join("0.log")).unwrap();
        write(&log, 1, "old");
        let (sender, mut receiver) = mpsc::channel(4);
        let reading = tokio::spawn(read(
            log.clone(),
            options("follow=true&tailLines=0"),
            sender,
        ));
        let (other, nobody) = mpsc::channel(4);
        let abandoned = tokio::spawn(read(log.clone(), options("follow=true"), other));
        drop(nobody);
        abandoned.await.unwrap().unwrap();
        // `tailLines=0` counts what was there when it began: let it begin.
        tokio::task::yield_now().await;
        let long = "x".repeat(40_000);
        let mut text = String::new();
        while !text.ends_with("new\n") {
            write(&log, 2, "new");
            if let Ok(Some(chunk)) =
                tokio::time::timeout(std::time::Duration::from_millis(50), receiver.recv()).await
            {
                text.push_str(std::str::from_utf8(&chunk).unwrap());
            }
        }
        write(&log, 3, &long);
        log.close();
        while let Some(chunk) = receiver.recv().await {
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        reading.await.unwrap().unwrap();
        assert!(text.ends_with(&format!("{long}\n")));
        assert!(!text.contains("old"));
    }
}
