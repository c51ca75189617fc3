//! Shares of something of which there is only so much: event streams, memory, connections. Each caller has at most its share,
//! and gives it back by dropping it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What is given out, by caller.
#[derive(Debug)]
pub(super) struct Slots<K> {
    taken: Arc<Mutex<BTreeMap<K, usize>>>,
    per_caller: usize,
    together: usize,
}

impl<K> Clone for Slots<K> {
    fn clone(&self) -> Self {
        Self { taken: Arc::clone(&self.taken), ..*self }
    }
}

/// Why there is no share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    /// What the caller has already.
    pub(super) own: usize,
    /// What all have together.
    pub(super) all: usize,
}

impl<K: Ord + Clone> Slots<K> {
    pub(super) fn new(per_caller: usize, together: usize) -> Self {
        Self { taken: Arc::default(), per_caller, together }
    }

    /// Takes so much for a caller.
    pub(super) fn take(&self, caller: K, amount: usize) -> Result<Slot<K>, Full> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(&caller).copied().unwrap_or_default();
        if own.saturating_add(amount) > self.per_caller || all.saturating_add(amount) > self.together {
            return Err(Full { own, all });
        }
        taken.insert(caller.clone(), own + amount);
        Ok(Slot { slots: self.clone(), caller, amount })
    }

    /// What all have together.
    pub(super) fn count(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

/// A share; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot<K: Ord + Clone> {
    slots: Slots<K>,
    caller: K,
    amount: usize,
}

impl<K: Ord + Clone> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.caller) {
            *count = count.saturating_sub(self.amount);
            if *count == 0 {
                taken.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_share_all_together_no_more_than_there_is_and_what_is_dropped_is_there_again() {
        let slots = Slots::new(2, 3);
        let own = [slots.take("a", 1).unwrap(), slots.take("a", 1).unwrap()];
        assert_eq!(slots.take("a", 1).unwrap_err(), Full { own: 2, all: 2 });
        let other = slots.take("b", 1).unwrap();
        assert_eq!(slots.take("c", 1).unwrap_err(), Full { own: 0, all: 3 });
        drop(own);
        assert!(slots.take("c", 2).is_ok());
        assert!(slots.take("c", 3).is_err(), "more than its share at once");
        drop(other);
        assert_eq!(slots.count(), 0);
        assert!(slots.taken.lock().unwrap().is_empty(), "who has nothing is forgotten");
    }
}
