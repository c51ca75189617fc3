//! Which host takes a new VPS. Pure: the same candidates and the same wish give the same host, and every host that was not
//! taken says why.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;

use chom_protocol::api::hosts::Labels;
use chom_protocol::vps::Engine;
use chom_protocol::{Bytes, HostId, Name};

mod explain;

pub use explain::{Explanation, HOSTS_EXPLAINED_MAX, explain};

/// A host as placement sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub host: HostId,
    /// Why it takes nothing at all now, such as `cordoned`.
    pub closed: Option<&'static str>,
    /// Whether the wished engine answers on it.
    pub has_engine: bool,
    /// Whether it has the labels that are wanted.
    pub has_labels: bool,
    /// Whether it has a VPS of the group that must not stand together.
    pub has_group: bool,
    /// Cores that may still be promised.
    pub cores_free: u32,
    /// Memory that may still be promised.
    pub memory_free: Bytes,
    /// Memory that may be promised in all.
    pub memory: Bytes,
    /// Disk that may still be promised.
    pub disk_free: Bytes,
    /// VPSs on it.
    pub count: u32,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Where.
    pub region: Name,
    /// What runs it.
    pub engine: Engine,
    /// Labels that the host must have.
    pub labels: Labels,
    /// Whose group it is in, and which: no host takes two of it.
    pub group: Option<(Name, Name)>,
    /// Virtual processors.
    pub cores: u32,
    /// Memory.
    pub memory: Bytes,
    /// Disk.
    pub disk: Bytes,
}

/// Why no host takes it: how many hosts were not taken for each reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no host in region `{region}` can take it: {}", list(.reasons))]
pub struct NoHost {
    /// Where.
    pub region: Name,
    /// Hosts by reason.
    pub reasons: BTreeMap<String, u32>,
}

fn list(reasons: &BTreeMap<String, u32>) -> String {
    if reasons.is_empty() {
        return "the region has no host; add one with `chomctl host add`".to_owned();
    }
    let reasons: Vec<String> = reasons.iter().map(|(reason, hosts)| format!("{hosts} {reason}")).collect();
    reasons.join(", ")
}

/// How well a host takes a VPS; greater is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    /// Free memory afterwards, per mille: fine enough to spread by, and coarse enough that the count decides near ties.
    share: u64,
    count: Reverse<u32>,
    host: Reverse<HostId>,
}

fn score(wish: &Wish, candidate: &Candidate) -> Result<Score, Refusal> {
    match refusal(wish, candidate) {
        Some(reason) => Err(reason),
        None => {
            let left = candidate.memory_free.0 - wish.memory.0;
            let share = left.saturating_mul(1000) / candidate.memory.0.max(1);
            Ok(Score { share, count: Reverse(candidate.count), host: Reverse(candidate.host) })
        }
    }
}

/// Takes, of the hosts of the wished region, the one with the largest share of free memory, then the fewest VPSs, then the
/// lowest id: spread.
///
/// # Errors
/// When no host can take it.
pub fn place(wish: &Wish, candidates: impl IntoIterator<Item = Candidate>) -> Result<HostId, NoHost> {
    Ranking::make(wish, candidates).map(|(host, _)| host)
}

/// The hosts that can take a wish, best first, so that not each of many creates looks at thousands. As long as no host gains
/// room, it gives the same host as a look at all of them: what it knows of a host is the most that host can be worth, so
/// whoever is still worth that is the best.
#[derive(Debug, Clone)]
pub struct Ranking(BinaryHeap<Score>);

impl Ranking {
    /// Looks at all hosts of the wished region: the one to take, and the ranking for those that follow.
    ///
    /// # Errors
    /// When no host can take it.
    pub fn make(
        wish: &Wish,
        candidates: impl IntoIterator<Item = Candidate>,
    ) -> Result<(HostId, Self), NoHost> {
        let (mut scores, mut reasons) = (Vec::new(), BTreeMap::new());
        for candidate in candidates {
            match score(wish, &candidate) {
                Ok(score) => scores.push(score),
                Err(reason) => *reasons.entry(reason.kind()).or_default() += 1,
            }
        }
        let ranking = Self(scores.into());
        match ranking.0.peek() {
            Some(best) => Ok((best.host.0, ranking)),
            None => {
                let reasons =
                    reasons.into_iter().map(|(reason, hosts): (&str, u32)| (reason.to_owned(), hosts));
                Err(NoHost { region: wish.region.clone(), reasons: reasons.collect() })
            }
        }
    }

    /// The best host as hosts are now; none when none of those it knows can take it any more.
    pub fn best(&mut self, wish: &Wish, candidate: impl Fn(HostId) -> Option<Candidate>) -> Option<HostId> {
        while let Some(mut first) = self.0.peek_mut() {
            let host = first.host.0;
            match candidate(host).and_then(|candidate| score(wish, &candidate).ok()) {
                Some(now) if now >= *first => return Some(host),
                // Worth less than it was: it takes its new place, and the next one is looked at.
                Some(now) => *first = now,
                None => drop(PeekMut::pop(first)),
            }
        }
        None
    }
}

/// Why a host does not take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Closed(&'static str),
    Engine,
    Labels,
    Group,
    Cores { left: u32, wanted: u32 },
    Memory { left: Bytes, wanted: Bytes },
    Disk { left: Bytes, wanted: Bytes },
}

impl Refusal {
    /// The reason without figures, to count hosts by.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Closed(reason) => reason,
            Self::Engine => "without a working engine for it",
            Self::Labels => "without the wanted labels",
            Self::Group => "with a VPS of the same anti-affinity group",
            Self::Cores { .. } => "with too few cores left",
            Self::Memory { .. } => "with too little memory left",
            Self::Disk { .. } => "with too little disk left",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.kind())?;
        match self {
            Self::Closed(_) | Self::Engine | Self::Labels | Self::Group => Ok(()),
            Self::Cores { left, wanted } => write!(out, ": {left}, wanted {wanted}"),
            Self::Memory { left, wanted } | Self::Disk { left, wanted } => {
                write!(out, ": {left}, wanted {wanted}")
            }
        }
    }
}

fn refusal(wish: &Wish, candidate: &Candidate) -> Option<Refusal> {
    if let Some(reason) = candidate.closed {
        return Some(Refusal::Closed(reason));
    }
    if !candidate.has_engine {
        return Some(Refusal::Engine);
    }
    if !candidate.has_labels {
        return Some(Refusal::Labels);
    }
    if candidate.has_group {
        return Some(Refusal::Group);
    }
    if candidate.cores_free < wish.cores {
        return Some(Refusal::Cores { left: candidate.cores_free, wanted: wish.cores });
    }
    if candidate.memory_free < wish.memory {
        return Some(Refusal::Memory { left: candidate.memory_free, wanted: wish.memory });
    }
    (candidate.disk_free < wish.disk)
        .then_some(Refusal::Disk { left: candidate.disk_free, wanted: wish.disk })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn host(n: u128) -> HostId {
        HostId::new(Uuid::from_u128(n))
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    pub(super) fn candidate(n: u128) -> Candidate {
        Candidate {
            host: host(n),
            closed: None,
            has_engine: true,
            has_labels: true,
            has_group: false,
            cores_free: 8,
            memory_free: Bytes::gib(8),
            memory: Bytes::gib(16),
            disk_free: Bytes::gib(100),
            count: 3,
        }
    }

    pub(super) fn wish() -> Wish {
        Wish {
            region: name("eu"),
            engine: Engine::Libvirt,
            labels: Labels::new(),
            group: None,
            cores: 2,
            memory: Bytes::gib(1),
            disk: Bytes::gib(10),
        }
    }

    #[test]
    fn the_emptiest_host_is_taken_then_the_one_with_fewest_then_the_lowest_id() {
        let fuller = Candidate { memory_free: Bytes::gib(4), ..candidate(1) };
        assert_eq!(place(&wish(), [fuller, candidate(2)]), Ok(host(2)));
        let crowded = Candidate { count: 9, ..candidate(1) };
        assert_eq!(place(&wish(), [crowded, candidate(2)]), Ok(host(2)));
        assert_eq!(place(&wish(), [candidate(2), candidate(1)]), Ok(host(1)));
    }

    #[test]
    fn every_host_that_is_not_taken_says_why() {
        let all = [
            Candidate { closed: Some("cordoned"), ..candidate(1) },
            Candidate { has_engine: false, ..candidate(2) },
            Candidate { cores_free: 1, ..candidate(3) },
            Candidate { memory_free: Bytes::mib(1), ..candidate(4) },
            Candidate { disk_free: Bytes::gib(9), ..candidate(5) },
            Candidate { disk_free: Bytes::gib(9), ..candidate(6) },
        ];
        let error = place(&wish(), all).unwrap_err();
        expect_test::expect!["no host in region `eu` can take it: 1 cordoned, 1 with too few cores left, 2 with too little disk left, 1 with too little memory left, 1 without a working engine for it"].assert_eq(&error.to_string());
        let error = place(&wish(), []).unwrap_err();
        expect_test::expect![
            "no host in region `eu` can take it: the region has no host; add one with `chomctl host add`"
        ]
        .assert_eq(&error.to_string());
    }

    proptest! {
        #[test]
        fn creates_by_a_ranking_go_where_a_look_at_all_hosts_would_send_them(
            memories in prop::collection::vec(1_u64..24, 1..400),
            creates in 1_usize..300,
            cordons in prop::collection::vec(0_usize..300, 0..4),
        ) {
            let mut hosts: BTreeMap<HostId, Candidate> = memories
                .iter()
                .zip(1..)
                .map(|(gib, n)| (host(n), Candidate { memory_free: Bytes::gib(*gib), memory: Bytes::gib(24), ..candidate(n) }))
                .collect();
            let Ok((_, mut ranking)) = Ranking::make(&wish(), hosts.values().copied()) else { return Ok(()) };
            for number in 0..creates {
                let all = place(&wish(), hosts.values().copied());
                let ranked = ranking.best(&wish(), |id| hosts.get(&id).copied());
                prop_assert_eq!(ranked, all.clone().ok());
                let Ok(all) = all else { break };
                let taken = hosts.get_mut(&all).unwrap();
                taken.memory_free.0 -= wish().memory.0;
                taken.count += 1;
                if cordons.contains(&number) {
                    taken.closed = Some("cordoned");
                }
            }
        }

        #[test]
        fn a_host_is_never_taken_beyond_what_it_has(free in 0_u64..4000, cores in 0_u32..4, disk in 0_u64..20) {
            let small = Candidate { memory_free: Bytes::mib(free), cores_free: cores, disk_free: Bytes::gib(disk), ..candidate(1) };
            let fits = free >= 1024 && cores >= 2 && disk >= 10;
            prop_assert_eq!(place(&wish(), [small]).is_ok(), fits);
        }
    }
}
