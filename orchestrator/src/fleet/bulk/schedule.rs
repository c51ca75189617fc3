//! Which VPSs of an order on many are begun with next: only so many at a time, and of no host more than its share. Pure.

use std::collections::BTreeMap;

use chom_protocol::HostId;

/// VPSs of one order that are under way at once. Each is a row, an operation and a guest that a host works on.
pub(super) const UNDER_WAY_MAX: usize = 64;
/// VPSs of one host that are under way at once: what its disks and processors bear when guests stop or start together.
pub(super) const UNDER_WAY_PER_HOST_MAX: usize = 8;

/// How far one VPS is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Waiting,
    UnderWay,
    Ended,
}

/// The places to begin with, at most `most`: hosts in turn, the one with the fewest under way first, and of each the VPS
/// that stands first.
pub(super) fn next(items: &[(HostId, Stage)], most: usize) -> Vec<usize> {
    let mut under_way: BTreeMap<HostId, usize> = BTreeMap::new();
    for (host, _) in items.iter().filter(|(_, stage)| *stage == Stage::UnderWay) {
        *under_way.entry(*host).or_default() += 1;
    }
    let room = UNDER_WAY_MAX.saturating_sub(under_way.values().sum()).min(most);
    // The n-th VPS that a host would have under way stands in the n-th turn.
    let mut turns: Vec<(usize, usize)> = Vec::new();
    for (place, (host, _)) in items.iter().enumerate().filter(|(_, (_, stage))| *stage == Stage::Waiting) {
        let turn = under_way.entry(*host).or_default();
        if *turn < UNDER_WAY_PER_HOST_MAX {
            turns.push((*turn, place));
            *turn += 1;
        }
    }
    turns.sort_unstable();
    turns.into_iter().take(room).map(|(_, place)| place).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn host(n: u8) -> HostId {
        HostId::new(Uuid::from_u128(n.into()))
    }

    /// `a` waits on host a, `A` is under way there, `-` has ended there.
    fn items(text: &str) -> Vec<(HostId, Stage)> {
        let stage = |c: char| match c {
            '-' => (host(0), Stage::Ended),
            c if c.is_ascii_uppercase() => (host(c.to_ascii_lowercase() as u8), Stage::UnderWay),
            c => (host(c as u8), Stage::Waiting),
        };
        text.chars().map(stage).collect()
    }

    #[test]
    fn hosts_take_turns_and_none_has_more_than_its_share() {
        for (text, most, expected) in [
            ("", 9, vec![]),
            ("-A-", 9, vec![]),
            ("aaabbb", 4, vec![0, 3, 1, 4]),
            ("AAaabb", 3, vec![4, 5, 2]),
            ("aaaaaaaaaaaab", 99, vec![0, 12, 1, 2, 3, 4, 5, 6, 7]),
            ("AAAAAAAAab", 99, vec![9]),
        ] {
            assert_eq!(next(&items(text), most), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_begun_stays_within_the_bounds_and_nothing_waits_without_reason(
            all in prop::collection::vec((0_u8..12, 0_u8..3), 0..300),
            most in 1_usize..100,
        ) {
            let all: Vec<(HostId, Stage)> = all
                .into_iter()
                .map(|(n, stage)| (host(n), [Stage::Waiting, Stage::UnderWay, Stage::Ended][usize::from(stage)]))
                .collect();
            let begun = next(&all, most);
            let count = |of: Stage, on: Option<HostId>| {
                all.iter().filter(|(host, stage)| *stage == of && on.is_none_or(|on| on == *host)).count()
            };
            let before = count(Stage::UnderWay, None);
            prop_assert!(begun.len() <= most && (begun.is_empty() || before + begun.len() <= UNDER_WAY_MAX));
            let mut seen = std::collections::BTreeSet::new();
            for place in &begun {
                prop_assert!(all[*place].1 == Stage::Waiting && seen.insert(*place), "{place} is begun twice");
            }
            for n in 0..12 {
                let own = begun.iter().filter(|place| all[**place].0 == host(n)).count();
                let total = own + count(Stage::UnderWay, Some(host(n)));
                prop_assert!(own == 0 || total <= UNDER_WAY_PER_HOST_MAX);
                let waits = count(Stage::Waiting, Some(host(n))) > own;
                let full = begun.len() == most || before + begun.len() >= UNDER_WAY_MAX;
                prop_assert!(!waits || full || total >= UNDER_WAY_PER_HOST_MAX, "host {n} waits without reason");
            }
        }
    }
}
