//! The embedded store's one writer: takes queued commits in order, checks their guards on the newest state, writes them in
//! groups, and answers and publishes only what is on disk. Knows no database: it writes through [`Disk`].
//!
//! The whole store stands in memory as a persistent map: a clone is a consistent snapshot for readers and exports, and
//! neither a read nor a guard ever waits for the disk.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use imbl::OrdMap;
use tokio::sync::oneshot;

use super::commit::{Commit, CommitError, Expect, ReadError, Record, Revision, StoreFailure};
use super::key::{Key, Prefix};
use super::pulse::Pulse;
use super::watch::{Change, Event, EventBatch, Ring, WatchStream};
use super::{QUEUE_BYTES_MAX, QUEUE_COMMITS_MAX, Store};

/// Commits written with one sync: enough for every client of a busy API, and small against a watcher's ring.
const GROUP_COMMITS_MAX: usize = 256;

/// Bytes of one group, so that a group of large commits does not make its first one wait for megabytes.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Where groups of changes go. One thread calls it; an error ends the store.
pub(super) trait Disk: Send + 'static {
    /// Writes the changes together and returns when they will survive a power cut.
    fn write(&mut self, group: &Group) -> Result<(), (&'static str, io::Error)>;
    /// Where it is, for messages.
    fn place(&self) -> String;
}

/// What one group of commits does to the disk.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// The newest state of every row that changed, in key order; none for a removed one.
    pub changes: BTreeMap<Key, Option<Record>>,
    /// The newest revision after the group.
    pub revision: Revision,
    /// How many rows there are after the group.
    pub records: usize,
}

/// All rows at one revision.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub revision: Revision,
    pub rows: OrdMap<Key, Record>,
}

struct Waiting {
    commit: Commit,
    bytes: usize,
    answer: oneshot::Sender<Result<Revision, CommitError>>,
}

/// A store in one process: the queue in front of the writer thread, and what readers see.
pub(super) struct Embedded {
    queue: Option<SyncSender<Waiting>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    durable: ArcSwap<Snapshot>,
    pulse: Pulse,
    ring: Arc<Ring>,
    queued_bytes: AtomicUsize,
    queued_commits: AtomicUsize,
}

impl Embedded {
    /// Starts the writer on what the disk holds.
    pub(super) fn start(disk: impl Disk, loaded: Snapshot) -> io::Result<Self> {
        let (queue, queued) = sync_channel(QUEUE_COMMITS_MAX);
        let shared = Arc::new(Shared {
            ring: Ring::new(loaded.revision),
            durable: ArcSwap::from_pointee(loaded.clone()),
            pulse: Pulse::default(),
            queued_bytes: AtomicUsize::new(0),
            queued_commits: AtomicUsize::new(0),
        });
        let writer = Writer { disk, newest: loaded, shared: Arc::clone(&shared), failed: None };
        let thread =
            std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run(&queued))?;
        Ok(Self { queue: Some(queue), shared, thread: Some(thread) })
    }

    fn enqueue(
        &self,
        commit: Commit,
    ) -> Result<oneshot::Receiver<Result<Revision, CommitError>>, CommitError> {
        commit.check()?;
        let queue = self.queue.as_ref().ok_or(CommitError::Closed)?;
        let bytes = commit.bytes();
        let busy = || CommitError::Busy { commits: self.shared.queued_commits.load(Ordering::Relaxed) };
        // Counted before it is queued, so that the writer never takes off what was not yet put on.
        if self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > QUEUE_BYTES_MAX {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(busy());
        }
        self.shared.queued_commits.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        queue.try_send(Waiting { commit, bytes, answer }).map_err(|error| {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.queued_commits.fetch_sub(1, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => busy(),
                TrySendError::Disconnected(_) => CommitError::Closed,
            }
        })?;
        Ok(answered)
    }
}

impl Store for Embedded {
    fn get(&self, key: &Key) -> BoxFuture<'static, Result<Option<Record>, ReadError>> {
        future::ready(Ok(self.shared.durable.load().rows.get(key).cloned())).boxed()
    }

    fn list(&self, folder: &Prefix) -> BoxFuture<'static, Result<(Revision, Vec<Record>), ReadError>> {
        let snapshot = self.shared.durable.load_full();
        let records = snapshot
            .rows
            .range::<_, str>((Bound::Included(folder.as_str()), Bound::Unbounded))
            .map(|(_, record)| record)
            .take_while(|record| folder.contains(&record.key))
            .cloned()
            .collect();
        future::ready(Ok((snapshot.revision, records))).boxed()
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Revision, CommitError>> {
        match self.enqueue(commit) {
            Ok(answered) => async { answered.await.unwrap_or(Err(CommitError::Closed)) }.boxed(),
            Err(error) => future::ready(Err(error)).boxed(),
        }
    }

    fn watch(&self, folder: &Prefix, from: Revision) -> WatchStream {
        self.shared.ring.follow(folder.clone(), from)
    }

    fn ready(&self) -> Result<(), CommitError> {
        match &self.thread {
            Some(thread) if !thread.is_finished() => self.shared.pulse.check(Instant::now()),
            _ => Err(CommitError::Closed),
        }
    }

    fn revision(&self) -> Revision {
        self.shared.durable.load().revision
    }
}

impl Drop for Embedded {
    /// Writes what is queued, then closes the disk, so that the folder may be opened again at once.
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            // The thread catches its panics; there is nobody left to tell if it could not.
            let _ = thread.join();
        }
    }
}

struct Writer<D> {
    disk: D,
    /// The state after all commits taken so far, durable or not.
    newest: Snapshot,
    shared: Arc<Shared>,
    failed: Option<Arc<StoreFailure>>,
}

/// A commit that was decided on; answered when its group is on disk, since it may rest on others of the group.
struct Decided {
    answer: oneshot::Sender<Result<Revision, CommitError>>,
    outcome: Result<Revision, CommitError>,
}

impl<D: Disk> Writer<D> {
    fn run(mut self, queued: &Receiver<Waiting>) {
        while let Ok(first) = queued.recv() {
            self.write_group(first, queued);
        }
        self.shared.ring.close();
    }

    /// Takes the first commit and all that wait behind it, within the group's bounds.
    fn write_group(&mut self, first: Waiting, queued: &Receiver<Waiting>) {
        let mut group = Group::default();
        let (mut decided, mut batches) = (Vec::new(), Vec::new());
        let (mut commits, mut bytes) = (0, 0);
        let mut next = Some(first);
        while let Some(waiting) = next {
            commits += 1;
            bytes += waiting.bytes;
            self.shared.queued_bytes.fetch_sub(waiting.bytes, Ordering::Relaxed);
            self.shared.queued_commits.fetch_sub(1, Ordering::Relaxed);
            let outcome = self.decide(waiting.commit, &mut group).map(|batch| {
                batches.extend(batch);
                self.newest.revision
            });
            decided.push(Decided { answer: waiting.answer, outcome });
            let full = commits >= GROUP_COMMITS_MAX || bytes >= GROUP_BYTES_MAX;
            next = if full { None } else { queued.try_recv().ok() };
        }
        self.finish(group, decided, batches);
    }

    /// Makes a group durable, then visible, then answers: in that order.
    fn finish(&mut self, mut group: Group, decided: Vec<Decided>, batches: Vec<EventBatch>) {
        group.revision = self.newest.revision;
        group.records = self.newest.rows.len();
        if !batches.is_empty() && self.failed.is_none() {
            self.shared.pulse.begin(Instant::now());
            self.failed = self.write(&group).err().map(Arc::new);
            self.shared.pulse.end(self.failed.clone());
        }
        if self.failed.is_none() && !batches.is_empty() {
            self.shared.durable.store(Arc::new(self.newest.clone()));
            self.shared.ring.publish(batches);
        }
        for Decided { answer, mut outcome } in decided {
            if let Some(failure) = &self.failed {
                outcome = Err(CommitError::Failed { source: Arc::clone(failure) });
            }
            // A caller that went away does not want its answer.
            drop(answer.send(outcome));
        }
    }

    fn write(&mut self, group: &Group) -> Result<(), StoreFailure> {
        let place = self.disk.place();
        let disk = &mut self.disk;
        let outcome = catch_unwind(AssertUnwindSafe(|| disk.write(group)))
            .unwrap_or_else(|panic| Err(("write", io::Error::other(panic_text(panic.as_ref())))));
        outcome.map_err(|(step, source)| StoreFailure { step, place, source })
    }

    /// Checks one commit on the newest state and applies it there; none when it changes nothing.
    fn decide(&mut self, commit: Commit, group: &mut Group) -> Result<Option<EventBatch>, CommitError> {
        if let Some(failure) = &self.failed {
            return Err(CommitError::Failed { source: Arc::clone(failure) });
        }
        for guard in commit.guards {
            let found = self.newest.rows.get(&guard.key).map(|record| record.mod_revision);
            let holds = match guard.expect {
                Expect::Absent => found.is_none(),
                Expect::Revision(revision) => found == Some(revision),
            };
            if !holds {
                return Err(CommitError::Conflict { key: guard.key, found });
            }
        }
        let revision = self.newest.revision.next();
        let mut events = Vec::with_capacity(commit.puts.len() + commit.deletes.len());
        for (key, value) in commit.puts {
            let create_revision =
                self.newest.rows.get(&key).map_or(revision, |record| record.create_revision);
            let record = Record { key: key.clone(), value, mod_revision: revision, create_revision };
            self.newest.rows.insert(key.clone(), record.clone());
            group.changes.insert(key.clone(), Some(record.clone()));
            events.push(Event { revision, key, change: Change::Put(record) });
        }
        for key in commit.deletes {
            if self.newest.rows.remove(&key).is_some() {
                group.changes.insert(key.clone(), None);
                events.push(Event { revision, key, change: Change::Delete });
            }
        }
        if events.is_empty() {
            return Ok(None);
        }
        self.newest.revision = revision;
        events.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Some(EventBatch { revision, events }))
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic without a text").to_owned()
}
