//! What every backend must do: one suite over `dyn Store`, run on the embedded backend and on a disk in memory that can fail.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{FutureExt, StreamExt};
use imbl::OrdMap;
use proptest::prelude::*;

use super::watch::{RING_BYTES_MAX, RING_REVISIONS_MAX};
use super::writer::{Disk, Embedded, Group, Snapshot};
use super::*;

mod export;
mod sled;

/// A disk in memory: keeps what was written, and fails when told to.
#[derive(Debug, Clone, Default)]
struct MemoryDisk {
    written: Arc<Mutex<BTreeMap<Key, Record>>>,
    full: Arc<AtomicBool>,
    panics: Arc<AtomicBool>,
}

impl Disk for MemoryDisk {
    fn write(&mut self, group: &Group) -> Result<(), (&'static str, io::Error)> {
        assert!(!self.panics.load(Ordering::SeqCst), "the database panicked");
        if self.full.load(Ordering::SeqCst) {
            return Err(("flush", io::ErrorKind::StorageFull.into()));
        }
        let mut written = self.written.lock().unwrap();
        for (key, change) in &group.changes {
            match change {
                Some(record) => written.insert(key.clone(), record.clone()),
                None => written.remove(key),
            };
        }
        assert_eq!(written.len(), group.records);
        Ok(())
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}

fn memory() -> (MemoryDisk, Arc<dyn Store>) {
    let disk = MemoryDisk::default();
    let store =
        Embedded::start(disk.clone(), Snapshot { revision: Revision(0), rows: OrdMap::new() }).unwrap();
    (disk, Arc::new(store))
}

fn key(name: &str) -> Key {
    Key::new(&format!("/chom/v1/{name}")).unwrap()
}

/// A commit that writes one row.
fn put(name: &str, value: &str) -> Commit {
    Commit::new().put(key(name), value)
}

async fn value(store: &dyn Store, name: &str) -> Option<String> {
    store.get(&key(name)).await.unwrap().map(|record| record.value.as_ref().to_owned())
}

async fn names(store: &dyn Store, folder: &'static str) -> Vec<String> {
    let (_, records) = store.list(&Prefix::folder(folder)).await.unwrap();
    records.iter().map(|record| record.key.below(&EVERYTHING).unwrap().to_owned()).collect()
}

/// Renders batches: `7: +a=1 -b`.
fn render(batch: &EventBatch) -> String {
    let mut line = format!("{}:", batch.revision);
    for event in &batch.events {
        assert_eq!(event.revision, batch.revision);
        let name = event.key.below(&EVERYTHING).unwrap();
        match &event.change {
            Change::Put(record) => {
                assert_eq!((&record.key, record.mod_revision), (&event.key, batch.revision));
                line += &format!(" +{name}={}", record.value);
            }
            Change::Delete => line += &format!(" -{name}"),
        }
    }
    line
}

/// The suite. Runs on an empty store.
async fn contract(store: &dyn Store) {
    revisions_count_changes(store).await;
    guards_hold_on_the_newest_state(store).await;
    folders_do_not_cut_names(store).await;
    pipelined_commits_keep_their_order(store).await;
    a_watch_sees_every_commit_whole(store).await;
    bounds_are_kept(store).await;
}

async fn revisions_count_changes(store: &dyn Store) {
    assert_eq!(store.revision(), Revision(0));
    assert_eq!(store.commit(put("a", "1")).await.unwrap(), Revision(1));
    assert_eq!(store.commit(put("a", "2").put(key("b"), "1")).await.unwrap(), Revision(2));
    let a = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((a.value.as_ref(), a.create_revision, a.mod_revision), ("2", Revision(1), Revision(2)));
    assert_eq!(store.commit(Commit::new()).await.unwrap(), Revision(2), "nothing changed");
    assert_eq!(store.commit(Commit::new().delete(key("x"))).await.unwrap(), Revision(2), "nothing changed");
    assert_eq!(store.commit(Commit::new().delete(key("a"))).await.unwrap(), Revision(3));
    assert_eq!(value(store, "a").await, None);
    assert_eq!(store.commit(put("a", "3")).await.unwrap(), Revision(4));
    let a = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((a.create_revision, a.mod_revision), (Revision(4), Revision(4)), "made anew");
    assert_eq!(store.revision(), Revision(4));
}

async fn guards_hold_on_the_newest_state(store: &dyn Store) {
    let before = store.revision();
    let error = store.commit(put("a", "no").if_absent(key("a"))).await.unwrap_err();
    assert!(matches!(error, CommitError::Conflict { found: Some(Revision(4)), .. }), "{error}");
    let error = store.commit(put("a", "no").if_revision(key("gone"), Revision(1))).await.unwrap_err();
    assert!(matches!(error, CommitError::Conflict { found: None, .. }), "{error}");
    let error =
        store.commit(put("c", "no").if_revision(key("a"), Revision(3)).delete(key("a"))).await.unwrap_err();
    assert!(matches!(error, CommitError::Conflict { found: Some(Revision(4)), .. }), "{error}");
    assert_eq!(store.revision(), before, "a conflict changes nothing");
    assert_eq!((value(store, "a").await.as_deref(), value(store, "c").await), (Some("3"), None));
    // Not awaited in between: the second sees what the first will have written.
    let first = store.commit(put("g", "1").if_absent(key("g")));
    let second = store.commit(put("g", "2").if_absent(key("g")));
    let third = store.commit(put("g", "3").if_revision(key("g"), before.next()));
    assert_eq!(first.await.unwrap(), before.next());
    assert!(matches!(second.await, Err(CommitError::Conflict { .. })));
    assert_eq!(third.await.unwrap(), before.next().next());
    assert_eq!(value(store, "g").await.as_deref(), Some("3"));
}

async fn folders_do_not_cut_names(store: &dyn Store) {
    let rows = ["l/1", "l/1/x", "l/1.5", "l/10", "l/10/x", "l/2", "l2", "k"];
    store.commit(rows.iter().fold(Commit::new(), |all, name| all.put(key(name), "{}"))).await.unwrap();
    assert_eq!(names(store, "/chom/v1/l/").await, ["l/1", "l/1.5", "l/1/x", "l/10", "l/10/x", "l/2"]);
    assert_eq!(names(store, "/chom/v1/l/1/").await, ["l/1/x"]);
    assert_eq!(names(store, "/chom/v1/nothing/").await, Vec::<String>::new());
    let (revision, all) = store.list(&EVERYTHING).await.unwrap();
    assert_eq!(revision, store.revision());
    assert!(all.len() > rows.len() && all.is_sorted_by(|a, b| a.key < b.key));
}

async fn pipelined_commits_keep_their_order(store: &dyn Store) {
    let before = store.revision().0;
    let answers: Vec<_> = (0..1000_u64).map(|n| store.commit(put("p", &n.to_string()))).collect();
    for (answer, n) in answers.into_iter().zip(1..) {
        assert_eq!(answer.await.unwrap(), Revision(before + n));
        assert!(store.revision() >= Revision(before + n), "what is answered can be read");
    }
    assert_eq!(value(store, "p").await.as_deref(), Some("999"));
    // A dropped future does not take its commit back.
    drop(store.commit(put("p", "dropped")));
    store.commit(put("q", "1")).await.unwrap();
    assert_eq!(value(store, "p").await.as_deref(), Some("dropped"));
}

async fn a_watch_sees_every_commit_whole(store: &dyn Store) {
    let start = store.revision().0;
    let mut early = store.watch(&EVERYTHING, Revision(start + 1));
    let mut folder = store.watch(&Prefix::folder("/chom/v1/w/"), Revision(start + 1));
    assert!(early.next().now_or_never().is_none(), "nothing happened yet");
    store.commit(put("w/b", "1").put(key("w/a"), "1").put(key("v"), "1")).await.unwrap();
    store.commit(put("v", "2")).await.unwrap();
    store.commit(put("w/a", "2").delete(key("w/b")).delete(key("absent"))).await.unwrap();
    let expected = [(1, " +v=1 +w/a=1 +w/b=1"), (2, " +v=2"), (3, " +w/a=2 -w/b")];
    let mut late = store.watch(&EVERYTHING, Revision(start + 2));
    for (n, line) in expected {
        let line = format!("{}:{line}", start + n);
        assert_eq!(render(&early.next().await.unwrap().unwrap()), line);
        if n >= 2 {
            assert_eq!(render(&late.next().await.unwrap().unwrap()), line, "from a revision that is past");
        }
    }
    assert_eq!(render(&folder.next().await.unwrap().unwrap()), format!("{}: +w/a=1 +w/b=1", start + 1));
    assert_eq!(render(&folder.next().await.unwrap().unwrap()), format!("{}: +w/a=2 -w/b", start + 3));
    assert!(folder.next().now_or_never().is_none());
    // From a revision that is still to come: nothing before it is seen.
    let mut ahead = store.watch(&EVERYTHING, Revision(start + 5));
    store.commit(put("v", "4")).await.unwrap();
    store.commit(put("v", "5")).await.unwrap();
    assert_eq!(render(&ahead.next().await.unwrap().unwrap()), format!("{}: +v=5", start + 5));
}

async fn bounds_are_kept(store: &dyn Store) {
    let before = store.revision();
    let large = "x".repeat(commit::VALUE_BYTES_LIMIT);
    let error = store.commit(put("large", &large)).await.unwrap_err();
    assert!(matches!(error, CommitError::ValueTooLarge { .. }), "{error}");
    let allowed = &large[1..];
    store.commit(put("large", allowed)).await.unwrap();
    assert_eq!(value(store, "large").await.as_deref(), Some(allowed));
    let many =
        (0..=commit::COMMIT_OPERATIONS_MAX).fold(Commit::new(), |all, n| all.put(key(&n.to_string()), "1"));
    let error = store.commit(many).await.unwrap_err();
    assert!(matches!(error, CommitError::TooManyOperations { .. }), "{error}");
    assert_eq!(store.revision(), before.next());
}

#[tokio::test]
async fn a_disk_in_memory_keeps_the_contract() {
    contract(memory().1.as_ref()).await;
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_told_to_list_again() {
    let (_, store) = memory();
    let mut slow = store.watch(&EVERYTHING, Revision(1));
    let mut last = None;
    for n in 0..=RING_REVISIONS_MAX {
        let answer = store.commit(put("a", &n.to_string()));
        last = Some(if n % 1000 == 0 { futures_util::future::ready(answer.await).boxed() } else { answer });
    }
    last.unwrap().await.unwrap();
    let compacted = WatchError::Compacted { wanted: Revision(1), oldest: Revision(2) };
    assert_eq!(slow.next().await, Some(Err(compacted)));
    assert_eq!(slow.next().await, None, "ends after the error");
    let mut again = store.watch(&EVERYTHING, Revision(2));
    assert_eq!(render(&again.next().await.unwrap().unwrap()), "2: +a=1");
}

#[tokio::test]
async fn the_ring_is_bounded_in_bytes_too() {
    let (_, store) = memory();
    let value: Arc<str> = "x".repeat(60 * 1024).into();
    let fills = RING_BYTES_MAX / value.len() + 1;
    for _ in 0..fills {
        store.commit(Commit::new().put(key("a"), Arc::clone(&value))).await.unwrap();
    }
    let first = store.watch(&EVERYTHING, Revision(1)).next().await.unwrap();
    assert!(matches!(first, Err(WatchError::Compacted { .. })), "{first:?}");
}

#[tokio::test]
async fn watches_end_when_the_store_is_closed() {
    let (_, store) = memory();
    let mut watch = store.watch(&EVERYTHING, Revision(1));
    let answer = store.commit(put("a", "1"));
    drop(store);
    assert_eq!(answer.await.unwrap(), Revision(1), "what was queued is still written");
    assert_eq!(render(&watch.next().await.unwrap().unwrap()), "1: +a=1");
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn after_a_full_disk_nothing_is_acknowledged_or_visible_any_more() {
    let (disk, store) = memory();
    store.commit(put("a", "1")).await.unwrap();
    let mut watch = store.watch(&EVERYTHING, Revision(2));
    disk.full.store(true, Ordering::SeqCst);
    let failing = store.commit(put("a", "2"));
    let conflict = store.commit(put("a", "3").if_absent(key("a")));
    let error = failing.await.unwrap_err();
    let CommitError::Failed { source } = &error else { panic!("{error}") };
    assert_eq!(source.source.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("restart"), "{error}");
    assert!(conflict.await.is_err());
    disk.full.store(false, Ordering::SeqCst);
    let later = store.commit(put("b", "1")).await;
    assert!(matches!(later, Err(CommitError::Failed { .. })), "it stays failed");
    assert_eq!((value(store.as_ref(), "a").await.as_deref(), store.revision()), (Some("1"), Revision(1)));
    assert!(watch.next().now_or_never().is_none());
    assert_eq!(disk.written.lock().unwrap()[&key("a")].value.as_ref(), "1");
}

#[tokio::test]
async fn while_the_disk_stalls_nothing_new_is_visible_and_the_queue_is_bounded() {
    let (disk, store) = memory();
    let stalled = Arc::clone(&disk.written);
    let mut answers = Vec::new();
    let mut watch = store.watch(&EVERYTHING, Revision(1));
    let error = {
        let _stalled = stalled.lock().unwrap();
        let error = loop {
            let mut answer = store.commit(put("a", "1"));
            match (&mut answer).now_or_never() {
                Some(Err(error)) => break error,
                Some(Ok(revision)) => panic!("{revision} answered while the disk stalls"),
                None => answers.push(answer),
            }
        };
        assert_eq!((store.revision(), value(store.as_ref(), "a").now_or_never()), (Revision(0), Some(None)));
        assert!(watch.next().now_or_never().is_none());
        error
    };
    assert!(matches!(error, CommitError::Busy { .. }) && error.is_retryable(), "{error}");
    assert!(answers.len() >= QUEUE_COMMITS_MAX);
    for (answer, n) in answers.into_iter().zip(1..) {
        assert_eq!(answer.await.unwrap(), Revision(n));
    }
    store.commit(put("a", "2")).await.unwrap();
}

#[tokio::test]
async fn a_panic_of_the_database_is_a_failed_commit() {
    let (disk, store) = memory();
    disk.panics.store(true, Ordering::SeqCst);
    let error = store.commit(put("a", "1")).await.unwrap_err();
    let CommitError::Failed { source } = &error else { panic!("{error}") };
    assert!(source.source.to_string().contains("the database panicked"), "{source:?}");
}

/// One step of the model: guards, puts and deletes on a few keys.
#[derive(Debug, Clone)]
struct Step {
    guards: Vec<(u8, Option<u64>)>,
    puts: BTreeMap<u8, u8>,
    deletes: Vec<u8>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one_key = 0..6_u8;
    let step = (
        prop::collection::vec((one_key.clone(), prop::option::weighted(0.6, 0..12_u64)), 0..2),
        prop::collection::btree_map(one_key.clone(), any::<u8>(), 0..4),
        prop::collection::btree_set(one_key, 0..3),
    );
    let step = step.prop_map(|(guards, puts, deletes)| {
        let deletes = deletes.into_iter().filter(|key| !puts.contains_key(key)).collect();
        Step { guards, puts, deletes }
    });
    prop::collection::vec(step, 1..40)
}

/// The rules in their shortest form.
#[derive(Debug, Default)]
struct Model {
    revision: u64,
    rows: BTreeMap<u8, (u8, u64, u64)>,
}

impl Model {
    fn apply(&mut self, step: &Step) -> Option<u64> {
        let found = |key: &u8| self.rows.get(key).map(|row| row.2);
        if step.guards.iter().any(|(key, expected)| found(key) != *expected) {
            return None;
        }
        let next = self.revision + 1;
        let gone = step.deletes.iter().filter(|key| self.rows.remove(key).is_some()).count();
        for (&key, &value) in &step.puts {
            let created = self.rows.get(&key).map_or(next, |row| row.1);
            self.rows.insert(key, (value, created, next));
        }
        if gone + step.puts.len() > 0 {
            self.revision = next;
        }
        Some(self.revision)
    }
}

fn model_key(key: u8) -> Key {
    EVERYTHING.row(&u64::from(key))
}

fn as_commit(step: &Step) -> Commit {
    let mut commit = Commit::new();
    for (key, expected) in &step.guards {
        commit = match expected {
            None => commit.if_absent(model_key(*key)),
            Some(revision) => commit.if_revision(model_key(*key), Revision(*revision)),
        };
    }
    for (key, value) in &step.puts {
        commit = commit.put(model_key(*key), value.to_string());
    }
    step.deletes.iter().fold(commit, |commit, key| commit.delete(model_key(*key)))
}

proptest! {
    /// Any run of commits, sent without waiting, ends as the model says; a watch from the beginning rebuilds it.
    #[test]
    fn any_run_of_commits_is_as_the_model(steps in steps()) {
        let (disk, store) = memory();
        let mut model = Model::default();
        let answers: Vec<_> = steps.iter().map(|step| (model.apply(step), store.commit(as_commit(step)))).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for (expected, answer) in answers {
                match (expected, answer.await) {
                    (Some(revision), Ok(found)) => prop_assert_eq!(Revision(revision), found),
                    (None, Err(CommitError::Conflict { .. })) => {}
                    (expected, found) => prop_assert!(false, "{:?} {:?}", expected, found),
                }
            }
            let expected: BTreeMap<Key, Record> = model.rows.iter().map(|(&key, &(value, created, modified))| {
                let (mod_revision, create_revision) = (Revision(modified), Revision(created));
                let key = model_key(key);
                (key.clone(), Record { key, value: value.to_string().into(), mod_revision, create_revision })
            }).collect();
            let (revision, records) = store.list(&EVERYTHING).await.unwrap();
            prop_assert_eq!(revision, Revision(model.revision));
            prop_assert_eq!(&records, &expected.values().cloned().collect::<Vec<_>>());
            prop_assert_eq!(&*disk.written.lock().unwrap(), &expected);
            let mut watch = store.watch(&EVERYTHING, Revision(1));
            drop(store);
            let mut rebuilt = BTreeMap::new();
            while let Some(batch) = watch.next().await {
                for event in batch.unwrap().events {
                    match event.change {
                        Change::Put(record) => rebuilt.insert(event.key, record),
                        Change::Delete => rebuilt.remove(&event.key),
                    };
                }
            }
            prop_assert_eq!(rebuilt, expected);
            Ok(())
        })?;
    }
}
