//! Telling a restarted agent from a copied key. A run of an agent that is over never comes back; so when an earlier run
//! returns after another one was there, two machines use one key. Pure.

use chom_protocol::{InstanceId, UnixMillis};

/// Runs of an agent that are remembered: a clone shows at the third connection, and an agent in a crash loop must not push
/// the other machine's out within the pauses that both make.
const INSTANCES_MAX: usize = 8;
/// A run that was not seen for so long is forgotten.
const CLONE_WINDOW_SECONDS: u64 = 24 * 60 * 60;

/// The runs of one host's agent, newest last.
#[derive(Debug, Default)]
pub(super) struct Instances(Vec<(InstanceId, UnixMillis)>);

impl Instances {
    /// Takes note that a run connected; says whether it is a clone, or has one.
    pub(super) fn is_clone(&mut self, instance: InstanceId, now: UnixMillis) -> bool {
        self.0.retain(|(_, seen)| now.seconds_since(*seen) <= CLONE_WINDOW_SECONDS);
        let earlier = self.0.iter().position(|(other, _)| *other == instance);
        let returned = earlier.is_some_and(|place| place + 1 < self.0.len());
        if let Some(place) = earlier {
            self.0.remove(place);
        }
        if self.0.len() == INSTANCES_MAX {
            self.0.remove(0);
        }
        self.0.push((instance, now));
        returned
    }

    /// Begins anew: the host got a new key.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    /// One connection a minute, by the letters; says at which places a clone was seen.
    fn clones(connections: &str) -> Vec<usize> {
        let mut instances = Instances::default();
        let is_clone = |(place, letter): (usize, char)| {
            let id = InstanceId::new(Uuid::from_u128(letter as u128));
            instances.is_clone(id, UnixMillis(place as u64 * 60_000)).then_some(place)
        };
        connections.chars().enumerate().filter_map(is_clone).collect()
    }

    #[test]
    fn an_agent_that_reconnects_or_is_restarted_is_no_clone() {
        for restarted in ["A", "AAAA", "AB", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "AABBCC"] {
            assert!(clones(restarted).is_empty(), "{restarted}");
        }
    }

    #[test]
    fn a_run_that_returns_after_another_is_a_clone() {
        assert_eq!(clones("ABA"), [2]);
        assert_eq!(clones("ABBA"), [3]);
        assert_eq!(clones("ABCA"), [3]);
        assert_eq!(clones("ABAB"), [2, 3]);
    }

    #[test]
    fn a_run_not_seen_for_a_day_is_forgotten() {
        let mut instances = Instances::default();
        let id = |n| InstanceId::new(Uuid::from_u128(n));
        assert!(!instances.is_clone(id(1), UnixMillis(0)));
        assert!(!instances.is_clone(id(2), UnixMillis(0)));
        assert!(!instances.is_clone(id(1), UnixMillis(0).plus_seconds(CLONE_WINDOW_SECONDS + 1)));
    }
}
