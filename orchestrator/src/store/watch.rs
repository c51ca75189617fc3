//! Following the store: the events of recent commits in a bounded ring, from which every watcher reads at its own pace.
//! A slow watcher falls out of the ring and is told so; it never holds up the writer.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::Stream;
use futures_util::stream;
use tokio::sync::watch;

use super::commit::{Record, Revision};
use super::key::{Key, Prefix};

/// Revisions kept for watchers: at 1,000 commits a second a watcher may be some 8 s behind before it must list again.
pub const RING_REVISIONS_MAX: usize = 8192;

/// Keys and values of the kept revisions together, however few they are.
pub const RING_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What happened to one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The commit that did it.
    pub revision: Revision,
    /// The row.
    pub key: Key,
    /// What was done.
    pub change: Change,
}

/// What was done to a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(Record),
    /// It was removed.
    Delete,
}

/// All events of one commit, in key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventBatch {
    /// The commit.
    pub revision: Revision,
    /// What it changed, as far as the watched folder goes; never empty.
    pub events: Vec<Event>,
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The wanted revision is no longer kept: list again and watch from the list's revision plus one.
    #[error("the store's events from revision {wanted} on are no longer kept (oldest: {oldest}): list again")]
    Compacted {
        /// The next revision the watcher needed.
        wanted: Revision,
        /// The oldest that is kept.
        oldest: Revision,
    },
}

/// Batches in order of revision. Ends (`None`) when the store is closed, and after an error.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<EventBatch, WatchError>> + Send>>;

impl EventBatch {
    /// What of this batch lies in the folder, if anything.
    fn within(&self, folder: &Prefix) -> Option<Self> {
        let events: Vec<Event> =
            self.events.iter().filter(|event| folder.contains(&event.key)).cloned().collect();
        (!events.is_empty()).then_some(Self { revision: self.revision, events })
    }

    fn bytes(&self) -> usize {
        let value = |event: &Event| match &event.change {
            Change::Put(record) => record.value.len(),
            Change::Delete => 0,
        };
        self.events.iter().map(|event| event.key.as_str().len() + value(event)).sum()
    }
}

/// The recent batches of a store. One writer publishes; watchers read.
pub(super) struct Ring {
    kept: Mutex<Kept>,
    /// The newest published revision; none after the end.
    newest: watch::Sender<Option<Revision>>,
}

struct Kept {
    batches: VecDeque<Arc<EventBatch>>,
    bytes: usize,
    /// The first revision that a watcher can still have.
    oldest: Revision,
}

impl Ring {
    /// An empty ring behind that revision: what came before can only be listed.
    pub(super) fn new(revision: Revision) -> Arc<Self> {
        let kept = Kept { batches: VecDeque::new(), bytes: 0, oldest: revision.next() };
        Arc::new(Self { kept: Mutex::new(kept), newest: watch::Sender::new(Some(revision)) })
    }

    /// Adds batches, in order, each one revision after the one before.
    pub(super) fn publish(&self, batches: Vec<EventBatch>) {
        let Some(newest) = batches.last().map(|batch| batch.revision) else { return };
        {
            let mut kept = self.kept();
            for batch in batches {
                kept.bytes += batch.bytes();
                kept.batches.push_back(Arc::new(batch));
            }
            while kept.batches.len() > RING_REVISIONS_MAX || kept.bytes > RING_BYTES_MAX {
                let Some(gone) = kept.batches.pop_front() else { break };
                kept.bytes -= gone.bytes();
                kept.oldest = gone.revision.next();
            }
        }
        self.newest.send_replace(Some(newest));
    }

    /// Ends all watches once they have read what was published.
    pub(super) fn close(&self) {
        self.newest.send_replace(None);
    }

    /// The batch of that revision; none if it is still to come.
    fn batch(&self, wanted: Revision) -> Result<Option<Arc<EventBatch>>, WatchError> {
        let kept = self.kept();
        if wanted < kept.oldest {
            return Err(WatchError::Compacted { wanted, oldest: kept.oldest });
        }
        // Revisions in the ring have no gaps, so the place follows from the number.
        let place = usize::try_from(wanted.0 - kept.oldest.0).unwrap_or(usize::MAX);
        Ok(kept.batches.get(place).map(Arc::clone))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // The ring is whole between any two statements above, so a panic elsewhere leaves it usable.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows a folder.
    pub(super) fn follow(self: &Arc<Self>, folder: Prefix, from: Revision) -> WatchStream {
        let news = self.newest.subscribe();
        let follower = Follower { ring: Arc::clone(self), news, folder, next: from };
        Box::pin(stream::unfold(Some(follower), async |follower| {
            let mut follower = follower?;
            match follower.next().await? {
                Ok(batch) => Some((Ok(batch), Some(follower))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

struct Follower {
    ring: Arc<Ring>,
    news: watch::Receiver<Option<Revision>>,
    folder: Prefix,
    next: Revision,
}

impl Follower {
    async fn next(&mut self) -> Option<Result<EventBatch, WatchError>> {
        loop {
            // Marked as seen before the ring is read: what is published in between wakes the wait below.
            let open = self.news.borrow_and_update().is_some();
            match self.ring.batch(self.next) {
                Err(error) => return Some(Err(error)),
                Ok(Some(batch)) => {
                    self.next = batch.revision.next();
                    if let Some(mine) = batch.within(&self.folder) {
                        return Some(Ok(mine));
                    }
                }
                Ok(None) if !open => return None,
                Ok(None) => self.news.changed().await.ok()?,
            }
        }
    }
}
