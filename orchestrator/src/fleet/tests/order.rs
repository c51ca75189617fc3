//! Mutations in turn: no address or name twice, each key once, stale callers refused, nothing acknowledged lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chom_protocol::vps::Sha256;
use futures_util::future::{BoxFuture, join_all};

use super::*;
use crate::fleet::ErrorKind;
use crate::fleet::rows::{AuditRow, VpsRow};
use crate::store::{CommitError, Key, Prefix, ReadError, Record, Revision, WatchStream};

#[tokio::test]
async fn creates_at_once_take_no_address_twice_and_overfill_no_host() {
    let world = World::new().await;
    for n in 0..4 {
        world.host(&format!("h{n}"), "eu-west", 10).await;
    }
    let creates = (0..50).map(|n| {
        let world = &world;
        async move { world.create(&format!("v{n}"), "eu-west").await }
    });
    let outcomes = join_all(creates).await;
    let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert_eq!(refused.len(), 10, "40 fit");
    assert!(refused.iter().all(|error| error.kind() == ErrorKind::NoCapacity), "{refused:?}");
    let state = world.fleet.state();
    let places: BTreeSet<_> = state
        .vps
        .values()
        .map(|stored| (stored.row.host, stored.row.spec.interface.addresses.clone()))
        .collect();
    assert_eq!(places.len(), 40);
    assert!(state.held.values().all(|held| held.count == 10), "spread: {:?}", state.held);
}

#[tokio::test]
async fn one_of_two_creates_of_one_name_is_refused() {
    let world = World::new().await;
    world.host("h", "eu-west", 10).await;
    let (one, two) = tokio::join!(world.create("a", "eu-west"), world.create("a", "eu-west"));
    assert_eq!([one.is_ok(), two.is_ok()].iter().filter(|ok| **ok).count(), 1);
    let error = world.create("a", "eu-west").await.unwrap_err();
    assert_eq!((error.kind(), error.location()), (ErrorKind::Conflict, Some("/name")));
}

#[tokio::test]
async fn the_same_key_and_request_get_the_same_answer_also_after_a_restart() {
    let world = World::new().await;
    world.host("h", "eu-west", 10).await;
    let mark = |body: &[u8]| RequestMark {
        idempotency: Some(("k1".to_owned(), Sha256::of(body))),
        ..RequestMark::default()
    };
    let create = |world: &World, mark| {
        let fleet = world.fleet.clone();
        async move { fleet.create_vps(&caller(), mark, request("a", "eu-west")).await }
    };
    let first = create(&world, mark(b"x")).await.unwrap();
    let again = create(&world, mark(b"x")).await.unwrap();
    assert!(!first.replayed && again.replayed);
    assert_eq!(first.value, again.value);
    let error = create(&world, mark(b"y")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::KeyReused);

    let world = world.restart().await;
    let later = create(&world, mark(b"x")).await.unwrap();
    assert_eq!(first.value, later.value);
    assert_eq!(world.fleet.state().vps.len(), 1);
}

#[tokio::test]
async fn a_caller_who_saw_an_older_revision_is_refused() {
    let world = World::new().await;
    world.host("h", "eu-west", 10).await;
    let vps = world.create("a", "eu-west").await.unwrap().value.vps;
    let mark = |revision| RequestMark { if_match: Some(Revision(revision)), ..RequestMark::default() };
    let stopped =
        world.fleet.act(&caller(), mark(vps.revision), vps.id, Action::Stop).await.unwrap().value.vps;
    assert!(stopped.revision > vps.revision);
    let error = world.fleet.act(&caller(), mark(vps.revision), vps.id, Action::Start).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart_revisions_included() {
    let world = World::new().await;
    world.host("h", "eu-west", 100).await;
    let creates = (0..64).map(|n| {
        let world = &world;
        async move { world.create(&format!("v{n}"), "eu-west").await.unwrap() }
    });
    join_all(creates).await;
    let revisions = |world: &World| -> Vec<(VpsId, Revision, VpsRow)> {
        let state = world.fleet.state();
        state.vps.iter().map(|(id, stored)| (*id, stored.revision, stored.row.as_ref().clone())).collect()
    };
    let before = revisions(&world);
    let audit = world.fleet.state().audit.len();
    let world = world.restart().await;
    assert_eq!(before, revisions(&world), "predicted revisions are the real ones");
    assert_eq!(audit, world.fleet.state().audit.len());
    let sequences: Vec<u64> = world
        .fleet
        .state()
        .audit
        .values()
        .map(|s| {
            let row: &AuditRow = &s.row;
            row.sequence
        })
        .collect();
    assert_eq!(sequences, (1..=audit as u64).collect::<Vec<_>>());
}

/// A store whose commits fail when told so.
struct Faulty {
    store: Arc<dyn Store>,
    failing: AtomicBool,
}

impl Store for Faulty {
    fn get(&self, key: &Key) -> BoxFuture<'static, Result<Option<Record>, ReadError>> {
        self.store.get(key)
    }

    fn list(&self, folder: &Prefix) -> BoxFuture<'static, Result<(Revision, Vec<Record>), ReadError>> {
        self.store.list(folder)
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Revision, CommitError>> {
        if self.failing.load(Ordering::SeqCst) {
            return Box::pin(async { Err(CommitError::Closed) });
        }
        self.store.commit(commit)
    }

    fn watch(&self, folder: &Prefix, from: Revision) -> WatchStream {
        self.store.watch(folder, from)
    }

    fn ready(&self) -> Result<(), CommitError> {
        self.store.ready()
    }

    fn revision(&self) -> Revision {
        self.store.revision()
    }
}

#[tokio::test]
async fn a_commit_that_fails_leaves_no_trace_in_memory() {
    let world = World::new().await;
    world.host("h", "eu-west", 10).await;
    world.create("a", "eu-west").await.unwrap();
    let folder = world.end().await;
    let faulty = Arc::new(Faulty { store: open(&folder), failing: AtomicBool::new(false) });
    let world = World::start(folder, Arc::clone(&faulty) as Arc<dyn Store>, catalogue()).await;
    let host = *world.fleet.state().hosts.keys().next().unwrap();
    world.fleet.seen(host);

    faulty.failing.store(true, Ordering::SeqCst);
    let creates = (0..20).map(|n| {
        let world = &world;
        async move { world.create(&format!("lost{n}"), "eu-west").await }
    });
    assert!(join_all(creates).await.iter().all(Result::is_err));
    faulty.failing.store(false, Ordering::SeqCst);
    assert_eq!(world.fleet.state().vps.len(), 1);
    world.create("lost3", "eu-west").await.expect("the name was never taken");
    assert_eq!(world.fleet.state().vps.len(), 2);
}
