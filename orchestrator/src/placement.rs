//! Which host takes a new VPS. Pure: the same candidates and the same wish give the same host, and every host that was not
//! taken says why.

use std::collections::BTreeMap;

use chom_protocol::vps::Engine;
use chom_protocol::{Bytes, HostId, Name};

/// A host as placement sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub host: HostId,
    /// Why it takes nothing at all now, such as `cordoned`.
    pub closed: Option<&'static str>,
    /// Whether the wished engine answers on it.
    pub has_engine: bool,
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

/// Takes, of the hosts of the wished region, the one with the largest share of free memory, then the fewest VPSs, then the
/// lowest id: spread.
///
/// # Errors
/// When no host can take it.
pub fn place(wish: &Wish, candidates: impl IntoIterator<Item = Candidate>) -> Result<HostId, NoHost> {
    let mut best: Option<(u64, std::cmp::Reverse<u32>, std::cmp::Reverse<HostId>)> = None;
    let mut reasons = BTreeMap::new();
    for candidate in candidates {
        match refusal(wish, &candidate) {
            Some(reason) => *reasons.entry(reason.to_owned()).or_default() += 1,
            None => {
                let left = candidate.memory_free.0 - wish.memory.0;
                // Per mille is fine enough to spread by, and coarse enough that the count of VPSs decides near ties.
                let share = left.saturating_mul(1000) / candidate.memory.0.max(1);
                let score = (share, std::cmp::Reverse(candidate.count), std::cmp::Reverse(candidate.host));
                best = best.max(Some(score));
            }
        }
    }
    match best {
        Some((_, _, std::cmp::Reverse(host))) => Ok(host),
        None => Err(NoHost { region: wish.region.clone(), reasons }),
    }
}

fn refusal(wish: &Wish, candidate: &Candidate) -> Option<&'static str> {
    if let Some(reason) = candidate.closed {
        return Some(reason);
    }
    if !candidate.has_engine {
        return Some("without a working engine for it");
    }
    if candidate.cores_free < wish.cores {
        return Some("with too few cores left");
    }
    if candidate.memory_free < wish.memory {
        return Some("with too little memory left");
    }
    (candidate.disk_free < wish.disk).then_some("with too little disk left")
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

    fn candidate(n: u128) -> Candidate {
        Candidate {
            host: host(n),
            closed: None,
            has_engine: true,
            cores_free: 8,
            memory_free: Bytes::gib(8),
            memory: Bytes::gib(16),
            disk_free: Bytes::gib(100),
            count: 3,
        }
    }

    fn wish() -> Wish {
        Wish {
            region: name("eu"),
            engine: Engine::Libvirt,
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
        fn a_host_is_never_taken_beyond_what_it_has(free in 0_u64..4000, cores in 0_u32..4, disk in 0_u64..20) {
            let small = Candidate { memory_free: Bytes::mib(free), cores_free: cores, disk_free: Bytes::gib(disk), ..candidate(1) };
            let fits = free >= 1024 && cores >= 2 && disk >= 10;
            prop_assert_eq!(place(&wish(), [small]).is_ok(), fits);
        }
    }
}
