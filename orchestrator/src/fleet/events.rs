//! Rings of what happened lately, in memory, from which each watcher reads at its own pace: events, in words, and which rows
//! changed. Past a ring, `reset`.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use chom_protocol::api::events::Event;
use chom_protocol::{AlertId, HostId, Name, OperationId, UnixMillis, VpsId};
use tokio::sync::watch;

/// Entries kept for watchers that come back: at 100 changes a second about 40 s.
pub const RING_EVENTS_MAX: usize = 4096;

/// Where an event stands in the stream. The epoch is the moment the orchestrator started, as the ring is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// Which ring.
    pub epoch: u64,
    /// Which event of it.
    pub sequence: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.epoch, self.sequence)
    }
}

impl FromStr for EventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (epoch, sequence) = text.split_once('.').ok_or(())?;
        Ok(Self { epoch: epoch.parse().map_err(|_| ())?, sequence: sequence.parse().map_err(|_| ())? })
    }
}

/// A row that changed, was made or was removed; and whose it is, as the row may be gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touched {
    /// What is wanted of a VPS, or what was seen of it.
    Vps(VpsId, Name),
    /// A host, or what it says of itself.
    Host(HostId),
    /// A host went out of sight or came back: what is said of all that stands on it changes.
    Sight(HostId),
    /// An operation, and about which VPS it is.
    Operation(OperationId, Name, Option<VpsId>),
    /// An alert.
    Alert(AlertId),
}

/// Something that happened.
#[derive(Debug)]
pub struct Entry<T> {
    /// What.
    pub what: T,
    /// As it is written to streams: made by the first that writes it, once for those who are told of hosts and once for those
    /// who are not.
    pub texts: [OnceLock<Arc<str>>; 2],
}

/// What happened lately.
pub struct Ring<T> {
    epoch: u64,
    kept: Mutex<VecDeque<Arc<Entry<T>>>>,
    /// The sequence that comes next.
    next: watch::Sender<u64>,
}

/// What happened, in words.
pub type EventRing = Ring<Event>;
/// Which rows changed.
pub type ChangeRing = Ring<Touched>;

impl<T> Ring<T> {
    /// An empty ring. Entries are counted from 1, so that there is an id before the first: a watcher that has seen none yet
    /// resumes from there.
    #[must_use]
    pub fn new(started_at: UnixMillis) -> Self {
        Self { epoch: started_at.0, kept: Mutex::default(), next: watch::Sender::new(1) }
    }

    pub(super) fn push(&self, what: impl IntoIterator<Item = T>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for what in what {
            if kept.len() == RING_EVENTS_MAX {
                kept.pop_front();
            }
            kept.push_back(Arc::new(Entry { what, texts: Default::default() }));
            count += 1;
        }
        // Watchers are woken once for all of it.
        if count > 0 {
            self.next.send_modify(|next| *next += count);
        }
    }

    /// The id that the next entry will have: where a new watcher begins.
    #[must_use]
    pub fn end(&self) -> EventId {
        EventId { epoch: self.epoch, sequence: *self.next.borrow() }
    }

    /// Hears of new entries.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.next.subscribe()
    }

    /// The entry at `from` and those behind it, at most `count`; `None` when `from` is no longer in the ring or never was.
    #[must_use]
    pub fn read(&self, from: EventId, count: usize) -> Option<Vec<(EventId, Arc<Entry<T>>)>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let next = *self.next.borrow();
        let oldest = next - kept.len() as u64;
        if from.epoch != self.epoch || from.sequence < oldest || from.sequence > next {
            return None;
        }
        let skip = usize::try_from(from.sequence - oldest).unwrap_or(usize::MAX);
        let numbered = |(place, entry): (usize, &Arc<Entry<T>>)| {
            (EventId { epoch: self.epoch, sequence: oldest + place as u64 }, Arc::clone(entry))
        };
        Some(kept.iter().enumerate().skip(skip).take(count).map(numbered).collect())
    }
}
