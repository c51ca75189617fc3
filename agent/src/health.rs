//! How the agent itself is: that its main loop turns, and what is wrong with the host as a whole.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts turns of the main loop.
#[derive(Debug, Clone, Default)]
pub struct Heartbeat(Arc<AtomicU64>);

impl Heartbeat {
    pub(crate) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many turns so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is wrong with the host as a whole, by where it was noticed.
#[derive(Debug, Clone, Default)]
pub struct Troubles(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Troubles {
    pub(crate) fn set(&self, place: &'static str, problem: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(place, problem);
    }

    pub(crate) fn clear(&self, place: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(place);
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
