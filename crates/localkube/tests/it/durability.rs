//! A process that writes is killed at any moment: what it was told is written is there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kah_localkube::store::{Change, Document, Expect, Key, Limits, Store, StoreError};
use serde_json::json;

const FILE: &str = "KAH_TEST_STORE_FILE";
const ROUNDS: u32 = 24;
const WRITERS: u32 = 4;

/// The child: writes until it is killed, and tells each write that was acknowledged. Without the variable it is no test.
#[test]
fn writes_until_killed() {
    let Ok(path) = std::env::var(FILE) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let store = Store::open(Path::new(&path), Limits::default()).expect("open");
        let tasks = (0..WRITERS).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                // The parent kills long before this; the bound keeps an orphan from running on.
                for count in 0..1_000_000_u64 {
                    let name = format!("w{writer}-{}", count % 7);
                    let key = Key::new("things", "a", &name);
                    let object = json!({"metadata": {"name": name}, "count": count});
                    let (expect, change) = match store.get(&key) {
                        None => (Expect::Absent, Change::Put(Document::new(&object))),
                        Some(stored) if count % 5 == 0 => {
                            (Expect::Revision(stored.revision), Change::Delete)
                        }
                        Some(stored) => (
                            Expect::Revision(stored.revision),
                            Change::Put(Document::new(&object)),
                        ),
                    };
                    let gone = matches!(change, Change::Delete);
                    let Ok(stored) = store.write(key, expect, change).await else {
                        return;
                    };
                    let count = if gone { -1 } else { count as i64 };
                    let line = format!("\nack {name} {} {count}\n", stored.revision);
                    if std::io::stdout().write_all(line.as_bytes()).is_err() {
                        return;
                    }
                }
            })
        });
        futures::future::join_all(tasks).await;
    });
}

#[tokio::test]
async fn kill_loses_no_acknowledged_write() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("store.redb");
    let program = std::env::current_exe().expect("this program");
    // name → (revision, count or -1 if it was deleted)
    let mut known: BTreeMap<String, (u64, i64)> = BTreeMap::new();
    let mut total = 0;
    let mut seen = 1;
    for round in 0..ROUNDS {
        let mut child = Command::new(&program)
            .args(["durability::writes_until_killed", "--exact", "--nocapture"])
            .env(FILE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("spawn");
        let output = child.stdout.take().expect("output");
        let reader = std::thread::spawn(move || {
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .filter(|line| line.starts_with("ack ") && line.split(' ').count() == 4)
                .collect::<Vec<_>>()
        });
        // The moments differ from round to round: this is what the loop is for.
        let pause = Duration::from_millis(u64::from(40 + (round * 37) % 160));
        let end = Instant::now() + pause;
        while Instant::now() < end {
            std::thread::yield_now();
        }
        child.kill().expect("kill");
        child.wait().expect("wait");
        for line in reader.join().expect("reader") {
            let parts: Vec<&str> = line.split(' ').collect();
            let revision: u64 = parts[2].parse().expect("revision");
            let count: i64 = parts[3].parse().expect("count");
            let entry = known.entry(parts[1].to_owned()).or_default();
            if revision >= entry.0 {
                *entry = (revision, count);
            }
            total += 1;
        }
        let store = Store::open(&path, Limits::default()).expect("reopen");
        for (name, (revision, count)) in &known {
            let stored = store.get(&Key::new("things", "a", name));
            assert!(store.revision() >= *revision, "the counter went back");
            match stored {
                // At most what was under way may have come after what was told.
                Some(stored) => {
                    assert!(stored.revision >= *revision, "{name} went back");
                    if stored.revision == *revision {
                        assert_eq!(stored.value()["count"], *count, "{name}");
                    }
                }
                None if *count == -1 => {}
                None => {
                    let mut watch = store.watch("things", "a/", *revision).expect("kept");
                    let events = watch.poll().expect("events");
                    assert!(
                        events
                            .iter()
                            .any(|event| event.deleted && event.path == format!("a/{name}")),
                        "{name} is lost"
                    );
                }
            }
        }
        // A watch goes on where an earlier process was.
        let mut state: BTreeMap<String, u64> = BTreeMap::new();
        match store.list("things", "a/", Some(seen), None, None) {
            Ok(page) => {
                state.extend(
                    page.items
                        .into_iter()
                        .map(|(path, stored)| (path, stored.revision)),
                );
                let mut watch = store.watch("things", "a/", seen).expect("watch");
                loop {
                    let events = watch.poll().expect("events");
                    if events.is_empty() {
                        break;
                    }
                    for event in events {
                        if event.deleted {
                            state.remove(&event.path);
                        } else {
                            state.insert(event.path.clone(), event.revision);
                        }
                    }
                }
                let now: BTreeMap<String, u64> = store
                    .list("things", "a/", None, None, None)
                    .expect("list")
                    .items
                    .into_iter()
                    .map(|(path, stored)| (path, stored.revision))
                    .collect();
                assert_eq!(state, now, "the watch from {seen} comes to another state");
            }
            Err(StoreError::Expired { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        seen = store.revision();
        store.close().await;
    }
    assert!(total > u64::from(ROUNDS), "the children wrote {total} only");
}
