//! Which host has room: shows the hosts to placement as they are now, and keeps its rankings, so that not each of many
//! creates looks at every host. Decides nothing itself.

use std::iter::Peekable;
use std::sync::{Mutex, PoisonError};

use chom_protocol::api::hosts::Labels;
use chom_protocol::{Bytes, HostId, UnixMillis};

use crate::fleet::observed::{Observation, Snapshot};
use crate::fleet::rows::{HostRow, HostStanding, VpsRow};
use crate::fleet::state::Held;
use crate::fleet::{Decision, Fleet, view};
use crate::health;
use crate::placement::{Candidate, Explanation, NoHost, Ranking, Wish, explain, place};

/// A host that gained room meanwhile is not looked at for so long at most: spread suffers, nothing else.
const RANKING_MILLIS_MAX: u64 = 1000;
/// Rankings kept at once, some 32 bytes for each host and ranking: sizes that are asked for within one second.
const RANKINGS_MAX: usize = 16;

/// The rankings of the last moment, by what was wished for.
#[derive(Debug, Default)]
pub(super) struct Rankings(Mutex<Vec<Kept>>);

#[derive(Debug)]
struct Kept {
    made_at: UnixMillis,
    wish: Wish,
    ranking: Ranking,
}

impl Rankings {
    /// The best host by the ranking that is kept for a wish, if there is one.
    fn best(
        &self,
        wish: &Wish,
        now: UnixMillis,
        candidate: impl Fn(HostId) -> Option<Candidate>,
    ) -> Option<HostId> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|kept| now.millis_since(kept.made_at) < RANKING_MILLIS_MAX && kept.made_at <= now);
        kept.iter_mut().find(|kept| kept.wish == *wish).and_then(|kept| kept.ranking.best(wish, candidate))
    }

    fn keep(&self, wish: &Wish, ranking: Ranking, now: UnixMillis) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|kept| kept.wish != *wish);
        if kept.len() >= RANKINGS_MAX {
            kept.remove(0);
        }
        kept.push(Kept { made_at: now, wish: wish.clone(), ranking });
    }
}

/// The host that takes a new VPS.
pub(super) fn find_host(fleet: &Fleet, decision: &Decision, wish: &Wish) -> Result<HostId, NoHost> {
    let observations = fleet.observations().snapshot();
    let now_worth = |host: HostId| {
        let row = decision.state.get::<HostRow>(&host)?;
        let observation = observations.get(&host).map(AsRef::as_ref);
        candidate(fleet, decision, wish, row, observation, decision.state.held.get(&host).copied())
    };
    if let Some(pinned) = &decision.pinned {
        return place(wish, now_worth(pinned.host));
    }
    let rankings = &fleet.0.rankings;
    if let Some(host) = rankings.best(wish, decision.now, now_worth) {
        return Ok(host);
    }
    let (host, ranking) = look_at_all(fleet, decision, wish, &observations)?;
    rankings.keep(wish, ranking, decision.now);
    Ok(host)
}

/// Asks nothing of a host but what it has left.
pub(super) fn nothing(region: &chom_protocol::Name) -> Wish {
    let (labels, engine) = (Labels::new(), chom_protocol::vps::Engine::Fake);
    Wish { region: region.clone(), engine, labels, group: None, cores: 0, memory: Bytes(0), disk: Bytes(0) }
}

/// What a VPS asks of its own host beyond what it holds there. It stands where it stood: nothing new comes together.
pub(super) fn more(row: &VpsRow, cores: u32, memory: Bytes, disk: Bytes) -> Wish {
    let (region, engine) = (row.region.clone(), row.spec.engine);
    Wish { region, engine, labels: Labels::new(), group: None, cores, memory, disk }
}

fn look_at_all(
    fleet: &Fleet,
    decision: &Decision,
    wish: &Wish,
    observations: &Snapshot,
) -> Result<(HostId, Ranking), NoHost> {
    Ranking::make(wish, all(fleet, decision, wish, observations))
}

/// Where a wish would go, in words.
pub(super) fn explained(fleet: &Fleet, decision: &Decision, wish: &Wish) -> Explanation {
    let observations = fleet.observations().snapshot();
    let candidates: Vec<Candidate> = all(fleet, decision, wish, &observations).collect();
    explain(wish, &candidates)
}

/// All hosts of the wished region.
fn all(
    fleet: &Fleet,
    decision: &Decision,
    wish: &Wish,
    observations: &Snapshot,
) -> impl Iterator<Item = Candidate> {
    // All three are in order of host and are walked together, which is quicker than a search in each for each host.
    let (mut seen, mut held) = (observations.iter().peekable(), decision.state.held.iter().peekable());
    let rows = decision.state.hosts.values().map(|stored| stored.row.as_ref());
    rows.filter(|row| row.region == wish.region).filter_map(move |row| {
        let observation = at(&mut seen, &row.id).map(AsRef::as_ref);
        candidate(fleet, decision, wish, row, observation, at(&mut held, &row.id).copied())
    })
}

/// What a walk through a map in order of its keys finds for a key; keys are asked for in that order.
pub(crate) fn at<'a, K: Ord + 'a, V>(
    walk: &mut Peekable<impl Iterator<Item = (&'a K, &'a V)>>,
    key: &K,
) -> Option<&'a V> {
    while walk.next_if(|(next, _)| *next < key).is_some() {}
    walk.next_if(|(next, _)| *next == key).map(|(_, value)| value)
}

/// A host as placement sees it; none when it is out of the fleet.
pub(super) fn candidate(
    fleet: &Fleet,
    decision: &Decision,
    wish: &Wish,
    row: &HostRow,
    observation: Option<&Observation>,
    held: Option<Held>,
) -> Option<Candidate> {
    let (catalogue, held) = (fleet.catalogue(), held.unwrap_or_default());
    if matches!(row.standing, HostStanding::Forgotten | HostStanding::Revoked) {
        return None;
    }
    let seen = health::is_seen(observation, catalogue.unreachable_after_seconds, decision.now);
    let status = observation.and_then(|seen| seen.status.as_deref());
    let closed = match (row.standing, status) {
        (HostStanding::Invited, _) => Some("not enrolled yet"),
        (HostStanding::Quarantined, _) => Some("quarantined"),
        _ if row.epoch != decision.epoch() => Some("held after a restore"),
        _ if row.cordoned => Some("cordoned"),
        _ if !seen => Some("not seen lately"),
        (_, None) => Some("without a report yet"),
        (_, Some(_)) => None,
    };
    let (cores, memory, disk) = status.map_or((0, Bytes(0), Bytes(0)), |status| {
        catalogue.overcommit.promisable(&row.limits, &status.inventory)
    });
    let has_group = wish.group.as_ref().is_some_and(|(tenant, group)| {
        decision.state.group_members.contains_key(&(tenant.clone(), group.clone(), row.id))
    });
    Some(Candidate {
        host: row.id,
        closed,
        has_engine: status.is_some_and(|status| view::has_working_engine(status, wish.engine)),
        has_labels: wish.labels.iter().all(|(key, value)| row.labels.get(key) == Some(value)),
        has_group,
        cores_free: cores.saturating_sub(held.cores),
        memory_free: Bytes(memory.0.saturating_sub(held.memory.0)),
        memory,
        disk_free: Bytes(disk.0.saturating_sub(held.disk.0)),
        count: held.count,
    })
}
