//! The store against a plain map.

use std::collections::BTreeMap;

use kah_localkube::store::{Change, Document, Expect, Key, Limits, Store, StoreError};
use proptest::prelude::*;
use serde_json::json;

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Delete(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_u8..6).prop_map(Step::Put),
        2 => (0_u8..6).prop_map(Step::Delete),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

type States = Vec<(u64, BTreeMap<String, u64>)>;

fn state(store: &Store, at: Option<u64>) -> Result<BTreeMap<String, u64>, StoreError> {
    let page = store.list("things", "", at, None, None)?;
    Ok(page
        .items
        .into_iter()
        .map(|(path, stored)| (path, stored.revision))
        .collect())
}

async fn run(steps: Vec<Step>, limits: Limits) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("store.redb");
    let mut store = Store::open(&path, limits).expect("open");
    let mut model: BTreeMap<String, u64> = BTreeMap::new();
    let mut states: States = vec![(store.revision(), model.clone())];
    for step in steps {
        match step {
            Step::Put(number) | Step::Delete(number) => {
                let key = Key::new(
                    "things",
                    if number % 2 == 0 { "a" } else { "b" },
                    &format!("n{number}"),
                );
                let name = key.path.clone();
                let object = json!({"metadata": {"name": format!("n{number}")}});
                let known = model.get(&name).copied();
                let expect = known.map_or(Expect::Absent, Expect::Revision);
                let deletes = matches!(step, Step::Delete(_));
                let change = if deletes {
                    Change::Delete
                } else {
                    Change::Put(Document::new(&object))
                };
                // What no longer holds is refused, whatever it is.
                let stale = store
                    .write(
                        key.clone(),
                        Expect::Revision(known.unwrap_or(0) + 1_000_000),
                        Change::Delete,
                    )
                    .await;
                prop_assert!(matches!(
                    stale,
                    Err(StoreError::Conflict | StoreError::Missing)
                ));
                if deletes && known.is_none() {
                    continue;
                }
                let stored = store.write(key, expect, change).await.expect("write");
                if deletes {
                    model.remove(&name);
                } else {
                    model.insert(name, stored.revision);
                }
                states.push((stored.revision, model.clone()));
            }
            Step::Reopen => {
                store.close().await;
                drop(store);
                store = Store::open(&path, limits).expect("reopen");
            }
        }
        prop_assert_eq!(&state(&store, None).expect("list"), &model);
    }
    let last = states.last().map_or(0, |(revision, _)| *revision);
    prop_assert_eq!(store.revision(), last);
    let mut kept = 0;
    for (revision, then) in &states {
        match state(&store, Some(*revision)) {
            Ok(past) => {
                kept += 1;
                prop_assert_eq!(&past, then, "at {}", revision);
                // Pages of the past are the past in pieces.
                let mut paged = BTreeMap::new();
                let mut after: Option<String> = None;
                loop {
                    let page = store
                        .list("things", "", Some(*revision), after.as_deref(), Some(2))
                        .expect("page");
                    after = page.items.last().map(|(path, _)| path.clone());
                    paged.extend(
                        page.items
                            .into_iter()
                            .map(|(path, stored)| (path, stored.revision)),
                    );
                    if page.remaining == 0 {
                        break;
                    }
                }
                prop_assert_eq!(&paged, then);
                let mut replayed = then.clone();
                let mut watch = store.watch("things", "", *revision).expect("watch");
                for event in watch.poll().expect("events") {
                    prop_assert_eq!(
                        event.object.value()["metadata"]["resourceVersion"]
                            .as_str()
                            .map(str::to_owned),
                        Some(event.revision.to_string())
                    );
                    let before = event.previous.as_ref().map(|stored| stored.revision);
                    prop_assert_eq!(replayed.get(&event.path).copied(), before);
                    if event.deleted {
                        replayed.remove(&event.path);
                    } else {
                        replayed.insert(event.path.clone(), event.revision);
                    }
                }
                prop_assert_eq!(&replayed, &model);
                prop_assert_eq!(watch.revision(), last);
            }
            Err(StoreError::Expired { .. }) => {
                prop_assert!(store.watch("things", "", *revision).is_err());
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
    }
    prop_assert!(kept >= states.len().min(limits.events));
    store.close().await;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_past_replays_to_the_present(steps in steps(), events in prop_oneof![Just(5_usize), Just(1000)]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(run(steps, Limits { events, bytes: 1 << 20 }))?;
    }
}
