//! The event stream's ring: recent events in memory, from which each watcher reads at its own pace. Past it, `reset`.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use chom_protocol::UnixMillis;
use chom_protocol::api::events::Event;
use tokio::sync::watch;

/// Events kept for watchers that come back: at 100 changes a second about 40 s.
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

/// The ring.
pub struct EventRing {
    epoch: u64,
    kept: Mutex<VecDeque<Event>>,
    /// The sequence that comes next.
    next: watch::Sender<u64>,
}

impl EventRing {
    /// An empty ring. Events are counted from 1, so that there is an id before the first: a watcher that has seen none yet
    /// resumes from there.
    #[must_use]
    pub fn new(started_at: UnixMillis) -> Self {
        Self { epoch: started_at.0, kept: Mutex::default(), next: watch::Sender::new(1) }
    }

    pub(super) fn push(&self, event: Event) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == RING_EVENTS_MAX {
            kept.pop_front();
        }
        kept.push_back(event);
        self.next.send_modify(|next| *next += 1);
    }

    /// The id that the next event will have: where a new watcher begins.
    #[must_use]
    pub fn end(&self) -> EventId {
        EventId { epoch: self.epoch, sequence: *self.next.borrow() }
    }

    /// Hears of new events.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.next.subscribe()
    }

    /// The event at `from` and those behind it, at most `count`; `None` when `from` is no longer in the ring or never was.
    #[must_use]
    pub fn read(&self, from: EventId, count: usize) -> Option<Vec<(EventId, Event)>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let next = *self.next.borrow();
        let oldest = next - kept.len() as u64;
        if from.epoch != self.epoch || from.sequence < oldest || from.sequence > next {
            return None;
        }
        let skip = usize::try_from(from.sequence - oldest).unwrap_or(usize::MAX);
        let numbered = |(place, event): (usize, &Event)| {
            (EventId { epoch: self.epoch, sequence: oldest + place as u64 }, event.clone())
        };
        Some(kept.iter().enumerate().skip(skip).take(count).map(numbered).collect())
    }
}
