//! What rules judge: facts of one moment, taken from rows, observations and history. Pure. What cannot be seen is absent
//! here, never guessed.

use std::collections::BTreeMap;
use std::sync::Arc;

use chom_protocol::host::HostStatus;
use chom_protocol::vps::{GuestShutdown, Power, VpsState};
use chom_protocol::{HostId, Name, UnixMillis, VpsId};

use crate::fleet::network::traffic;
use crate::fleet::observed::{Observation, Snapshot};
use crate::fleet::rows::{HostRow, HostStanding, VpsRow};
use crate::fleet::state::State;
use crate::health;
use crate::history::Levels;

/// Fresh readings of each host; a host without any is not in it.
pub(crate) type AllLevels = BTreeMap<HostId, Levels>;

/// A certificate that is watched besides those of hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedCertificate {
    /// What it is called in the alert, such as `certificate of the API`.
    pub name: String,
    /// When it ends.
    pub not_after: UnixMillis,
}

/// Everything that rules may know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts<'a> {
    /// Hosts of the fleet, quarantined ones included.
    pub(crate) hosts: BTreeMap<HostId, HostFacts<'a>>,
    /// Certificates besides those of hosts.
    pub(crate) certificates: Vec<WatchedCertificate>,
    /// Still within the grace after a start: who did not reconnect yet says nothing.
    pub(crate) in_grace: bool,
}

/// What is known of a host.
#[derive(Debug, Clone)]
pub(crate) struct HostFacts<'a> {
    pub(crate) name: &'a Name,
    pub(crate) region: &'a Name,
    pub(crate) quarantined: bool,
    /// When it last gave a sign of life; none: never.
    pub(crate) seen_at: Option<UnixMillis>,
    /// Whether it is seen, and was since this orchestrator started.
    pub(crate) seen: bool,
    pub(crate) certificate_not_after: Option<UnixMillis>,
    /// Fresh readings; none unless it is seen.
    pub(crate) levels: Option<&'a Levels>,
    /// Removals that wait; none unless it is seen.
    pub(crate) destroys_waiting: Option<usize>,
    /// Its VPSs that used up a traffic quota, and what is to be said of it.
    pub(crate) over_quota: BTreeMap<VpsId, String>,
    /// Its VPSs of which something is wrong or unknown. One that is not here is as it should be.
    pub(crate) vps: BTreeMap<VpsId, VpsFacts<'a>>,
}

/// What is known of a VPS that is not plainly as it should be.
#[derive(Debug, Clone)]
pub(crate) struct VpsFacts<'a> {
    pub(crate) name: &'a Name,
    /// What is wrong; none: it cannot be said.
    pub(crate) problem: Option<String>,
}

/// From where facts come.
pub(crate) struct Sources<'a> {
    pub(crate) state: &'a State,
    pub(crate) observations: &'a Snapshot,
    pub(crate) levels: &'a AllLevels,
    pub(crate) certificates: Vec<WatchedCertificate>,
    pub(crate) unreachable_after_seconds: u64,
    pub(crate) started_at: UnixMillis,
    pub(crate) grace_seconds: u64,
}

impl<'a> Facts<'a> {
    /// The facts of one moment.
    pub(crate) fn gather(sources: Sources<'a>, now: UnixMillis) -> Self {
        let hosts = sources.state.hosts.iter();
        let in_fleet = hosts
            .map(|(id, stored)| (*id, stored.row.as_ref()))
            .filter(|(_, row)| matches!(row.standing, HostStanding::Member | HostStanding::Quarantined));
        let hosts = in_fleet.map(|(id, row)| (id, host(&sources, row, now))).collect();
        let in_grace = now.millis_since(sources.started_at) < sources.grace_seconds * 1000;
        Self { hosts, certificates: sources.certificates, in_grace }
    }
}

fn host<'a>(sources: &Sources<'a>, row: &'a HostRow, now: UnixMillis) -> HostFacts<'a> {
    let observation = sources.observations.get(&row.id).map(Arc::as_ref);
    let seen_at = observation.map(|seen| seen.seen_at).filter(|at| at.0 > 0);
    let seen = seen_at.is_some_and(|at| at >= sources.started_at)
        && health::is_seen(observation, sources.unreachable_after_seconds, now);
    let status = observation.and_then(|seen: &Observation| seen.status.as_deref()).filter(|_| seen);
    HostFacts {
        name: &row.name,
        region: &row.region,
        quarantined: row.standing == HostStanding::Quarantined,
        seen_at,
        seen,
        certificate_not_after: row.certificate.as_ref().map(|certificate| certificate.not_after),
        levels: sources.levels.get(&row.id).filter(|_| seen),
        destroys_waiting: status.map(|status| status.destroys_waiting.len()),
        over_quota: over_quota(sources.state, row.id, now),
        vps: vps_of(sources.state, row, status),
    }
}

/// What is counted stands in rows: it is known also of a host that is not seen.
fn over_quota(state: &State, host: HostId, now: UnixMillis) -> BTreeMap<VpsId, String> {
    let told = state.vps_on(host).filter_map(|row| {
        let what = traffic::over_quota(state, row.spec.id, now)?;
        Some((
            row.spec.id,
            format!("VPS {} {what}; see `chomctl vps network {}`", row.spec.name, row.spec.name),
        ))
    });
    told.collect()
}

fn vps_of<'a>(
    state: &'a State,
    host: &HostRow,
    status: Option<&HostStatus>,
) -> BTreeMap<VpsId, VpsFacts<'a>> {
    // Rules leave the VPSs of a host that is not seen alone.
    let Some(status) = status else { return BTreeMap::new() };
    let epoch = state.meta.as_ref().map_or(0, |meta| meta.epoch);
    let managed = host.standing == HostStanding::Member && host.epoch == epoch;
    let judged = state.vps_on(host.id).filter(|row| is_judged(row));
    let facts = judged.filter_map(|row| {
        let seen = status.vps.get(&row.spec.id).filter(|_| managed);
        let problem = match seen {
            None => None,
            // The operation has a deadline and an outcome of its own.
            Some(_) if state.operation_of_vps.contains_key(&row.spec.id) => None,
            Some(seen) if seen.placement != row.spec.placement => None,
            Some(seen) => match difference(row, seen.state) {
                Difference::None => return None,
                Difference::Unknown => None,
                Difference::Is(what) => Some(match &seen.problem {
                    Some(problem) => format!("{what}: {problem}"),
                    None => what,
                }),
            },
        };
        Some((row.spec.id, VpsFacts { name: &row.spec.name, problem }))
    });
    facts.collect()
}

/// Whether anything is to be said of a VPS: not of one that was deleted or is repaired by hand.
fn is_judged(row: &VpsRow) -> bool {
    !(row.retention.is_some() || row.purging.is_some() || row.spec.hold || row.spec.retained)
}

enum Difference {
    None,
    Unknown,
    Is(String),
}

fn difference(row: &VpsRow, state: VpsState) -> Difference {
    let found = match state {
        VpsState::Unknown => return Difference::Unknown,
        VpsState::Preparing => "is still being prepared",
        VpsState::Running => "runs",
        VpsState::Paused => "is paused",
        VpsState::Stopped | VpsState::StoppedByGuest => "is off",
        VpsState::Crashed => "has crashed",
        VpsState::Absent => "is not on its host",
    };
    let wanted = row.spec.wanted_power();
    let as_desired = match (wanted, state) {
        (Power::Running, VpsState::Running) | (Power::Paused, VpsState::Paused) => true,
        // The guest's own choice, unless its policy says otherwise.
        (Power::Running | Power::Paused, VpsState::StoppedByGuest) => {
            row.spec.guest_shutdown == GuestShutdown::StayOff
        }
        (Power::Running | Power::Paused, _) => false,
        (Power::Stopped, VpsState::Stopped | VpsState::StoppedByGuest | VpsState::Crashed) => true,
        (Power::Stopped, _) => false,
    };
    if as_desired {
        return Difference::None;
    }
    let wanted = match wanted {
        Power::Running => "run",
        Power::Paused => "be paused",
        Power::Stopped => "be off",
    };
    Difference::Is(format!("should {wanted} and {found}"))
}
