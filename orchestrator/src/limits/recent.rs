//! A map that never grows beyond a bound: the entry that was used longest ago goes first. Pure.

use std::collections::BTreeMap;

/// Entries in the order in which they were last used.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    entries: BTreeMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
    uses: u64,
    max: usize,
}

impl<K: Ord + Clone, V> Recent<K, V> {
    /// An empty one that holds at most `max` entries.
    pub(super) fn new(max: usize) -> Self {
        Self { entries: BTreeMap::new(), order: BTreeMap::new(), uses: 0, max }
    }

    /// An entry, made where there is none; from now on the one that was used last.
    pub(super) fn touch(&mut self, key: &K, new: impl FnOnce() -> V) -> &mut V {
        self.uses += 1;
        match self.entries.get(key) {
            Some((used, _)) => {
                self.order.remove(used);
            }
            None if self.entries.len() >= self.max => {
                if let Some((_, oldest)) = self.order.pop_first() {
                    self.entries.remove(&oldest);
                }
            }
            None => {}
        }
        self.order.insert(self.uses, key.clone());
        let entry = self.entries.entry(key.clone()).or_insert_with(|| (0, new()));
        entry.0 = self.uses;
        &mut entry.1
    }

    /// An entry, as it stands.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// The same, to change it without its counting as a use.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(_, value)| value)
    }

    /// Takes an entry away.
    pub(super) fn remove(&mut self, key: &K) {
        if let Some((used, _)) = self.entries.remove(key) {
            self.order.remove(&used);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.entries.len(), self.order.len());
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_used_longest_ago_goes_first() {
        let mut recent = Recent::new(2);
        for key in ["a", "b", "a", "c"] {
            *recent.touch(&key, || 0) += 1;
        }
        assert_eq!((recent.get(&"a"), recent.get(&"b"), recent.get(&"c")), (Some(&2), None, Some(&1)));
        recent.remove(&"a");
        assert_eq!(recent.len(), 1);
    }
}
