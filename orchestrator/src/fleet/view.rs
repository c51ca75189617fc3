//! Rows and observations as the API shows them. Pure; nothing that is not seen is shown as known.

use chom_protocol::UnixMillis;
use chom_protocol::api::adoption::AdoptedView;
use chom_protocol::api::guest::{GuestFileSystemView, GuestView};
use chom_protocol::api::hosts::{CapacityView, EngineView, HostState, HostView, StrangerView, UsageView};
use chom_protocol::api::operations::{OperationStep, OperationView};
use chom_protocol::api::vps_servers::{ObservedVps, SuspensionView, VpsView};
use chom_protocol::helper::GuestDefinition;
use chom_protocol::host::HostStatus;
use chom_protocol::vps::{Engine, GuestFacts, GuestFileSystem, VpsState};

use crate::clock::rfc3339;
use crate::fleet::catalogue::Catalogue;
use crate::fleet::observed::Observation;
use crate::fleet::rows::{HostRow, HostStanding, OperationRow, VpsRow};
use crate::fleet::state::State;
use crate::health;

/// Whether an engine of a host answers.
#[must_use]
pub fn has_working_engine(status: &HostStatus, engine: Engine) -> bool {
    status.engines.iter().any(|of_host| of_host.engine == engine && of_host.problem.is_none())
}

/// A VPS.
#[must_use]
pub fn vps(
    state: &State,
    catalogue: &Catalogue,
    row: &VpsRow,
    observation: Option<&Observation>,
    now: UnixMillis,
) -> VpsView {
    let spec = &row.spec;
    VpsView {
        id: spec.id,
        name: spec.name.clone(),
        tenant: spec.tenant.clone(),
        region: row.region.clone(),
        size: row.size.clone(),
        image: spec.image.as_ref().map(|image| image.name.clone()),
        host: Some(row.host),
        engine: spec.engine,
        cores: spec.cores,
        memory_bytes: spec.memory,
        disk_bytes: spec.disk,
        network: row.network.clone(),
        addresses: spec.interface.addresses.iter().map(|prefix| prefix.address).collect(),
        desired: spec.wanted_power(),
        suspensions: row
            .suspensions
            .iter()
            .map(|(&reason, held)| SuspensionView { reason, mode: held.mode, since: rfc3339(held.since) })
            .collect(),
        observed: observed(catalogue, row, observation, now),
        guest_shutdown: spec.guest_shutdown,
        anti_affinity: row.anti_affinity.clone(),
        hold: spec.hold,
        rescue: spec.rescue.as_ref().map(|image| image.name.clone()),
        iso: spec.iso.as_ref().map(|medium| medium.image.name.clone()),
        deleted_at: row.retention.map(|kept| rfc3339(kept.deleted_at)),
        purge_at: row.retention.map(|kept| rfc3339(kept.purge_at)),
        purging: row.purging.is_some(),
        created_at: rfc3339(row.created_at),
        revision: state.vps.get(&spec.id).map_or(0, |stored| stored.revision.0),
        adopted: spec
            .adopted
            .as_deref()
            .map(|adopted| AdoptedView { guest: adopted.guest.clone(), disks: adopted.disks.clone() }),
        external_id: row.external_id.clone(),
    }
}

/// What a VPS does, as far as can be known.
#[must_use]
pub fn vps_state(
    catalogue: &Catalogue,
    row: &VpsRow,
    observation: Option<&Observation>,
    now: UnixMillis,
) -> VpsState {
    let seen = health::is_seen(observation, catalogue.unreachable_after_seconds, now);
    let status = observation.filter(|_| seen).and_then(|seen| seen.status.as_ref());
    status.and_then(|status| status.vps.get(&row.spec.id)).map_or(VpsState::Unknown, |vps| vps.state)
}

fn observed(
    catalogue: &Catalogue,
    row: &VpsRow,
    observation: Option<&Observation>,
    now: UnixMillis,
) -> ObservedVps {
    let seen = health::is_seen(observation, catalogue.unreachable_after_seconds, now);
    let status = observation.and_then(|seen| seen.status.as_ref());
    let vps = status.and_then(|status| status.vps.get(&row.spec.id));
    let seen_at = observation.filter(|seen| seen.seen_at.0 > 0).map(|seen| seen.seen_at);
    let last = vps.map_or(VpsState::Unknown, |vps| vps.state);
    ObservedVps {
        state: health::vps_state(last, seen),
        last_state: last,
        seen_at: seen_at.map(rfc3339),
        age_seconds: seen_at.map(|at| now.seconds_since(at)),
        problem: vps.and_then(|vps| vps.problem.clone()),
        progress: vps.and_then(|vps| vps.progress.clone()),
        restart_needed: vps.is_some_and(|vps| vps.restart_needed),
        guest: vps.filter(|_| seen).and_then(|vps| vps.guest.as_deref()).map(guest),
    }
}

fn guest(facts: &GuestFacts) -> GuestView {
    let GuestFacts { seen_at, hostname, os, kernel, addresses, file_systems } = facts;
    let file_system = |of: &GuestFileSystem| {
        let GuestFileSystem { mount, kind, size, used } = of;
        GuestFileSystemView { mount: mount.clone(), kind: kind.clone(), size_bytes: *size, used_bytes: *used }
    };
    GuestView {
        seen_at: rfc3339(*seen_at),
        hostname: hostname.clone(),
        os: os.clone(),
        kernel: kernel.clone(),
        addresses: addresses.clone(),
        file_systems: file_systems.as_ref().map(|all| all.iter().map(file_system).collect()),
    }
}

/// A host. Its usage is the caller's to fill in, from the history of samples.
#[must_use]
pub fn host(
    state: &State,
    catalogue: &Catalogue,
    row: &HostRow,
    observation: Option<&Observation>,
    now: UnixMillis,
) -> HostView {
    let epoch = state.meta.as_ref().map_or(0, |meta| meta.epoch);
    let status = observation.and_then(|seen| seen.status.as_deref());
    let inventory = status.map(|status| status.inventory.clone()).unwrap_or_default();
    let seen_at = observation.filter(|seen| seen.seen_at.0 > 0).map(|seen| seen.seen_at);
    let held = state.held.get(&row.id).copied().unwrap_or_default();
    let host_state = health::host_state(row, epoch, observation, catalogue.unreachable_after_seconds, now);
    let (cores_promisable, memory_promisable_bytes, disk_promisable_bytes) =
        catalogue.overcommit.promisable(&row.limits, &inventory);
    HostView {
        id: row.id,
        name: row.name.clone(),
        region: row.region.clone(),
        state: host_state,
        seen_at: seen_at.map(rfc3339),
        age_seconds: seen_at.map(|at| now.seconds_since(at)),
        cordoned: row.cordoned,
        labels: row.labels.clone(),
        limits: row.limits,
        hostname: inventory.hostname,
        agent_version: inventory.agent_version,
        os: match (inventory.os.as_str(), inventory.kernel.as_str()) {
            ("", "") => String::new(),
            (os, kernel) => format!("{os}, Linux {kernel}"),
        },
        engines: status.map(engines).unwrap_or_default(),
        capacity: CapacityView {
            cores: inventory.cores,
            cores_promisable,
            memory_promisable_bytes,
            disk_promisable_bytes,
            cores_used: held.cores,
            memory_bytes: inventory.memory,
            memory_used_bytes: held.memory,
            disk_bytes: inventory.disk,
            disk_used_bytes: held.disk,
        },
        usage: UsageView::default(),
        vps_count: held.count,
        foreign: status.map(foreign).unwrap_or_default(),
        orphans: status.map(|status| orphans(row, status)).unwrap_or_default(),
        problems: problems(status, observation, host_state),
        up_to_date: status
            .is_some_and(|status| status.reconciled.epoch == epoch && status.reconciled.number >= row.number),
        certificate_expires_at: row.certificate.as_ref().map(|certificate| rfc3339(certificate.not_after)),
        revision: state.hosts.get(&row.id).map_or(0, |stored| stored.revision.0),
    }
}

fn engines(status: &HostStatus) -> Vec<EngineView> {
    let view = |engine: &chom_protocol::host::EngineStatus| EngineView {
        engine: engine.engine,
        version: engine.version.clone(),
        acceleration: engine.acceleration,
        problem: engine.problem.clone(),
    };
    status.engines.iter().map(view).collect()
}

fn foreign(status: &HostStatus) -> Vec<StrangerView> {
    let view = |guest: &chom_protocol::vps::ForeignGuest| StrangerView {
        name: guest.name.clone(),
        vps: None,
        state: Some(guest.state),
        engine: Some(guest.engine),
        disks: guest.hardware.as_ref().map(|hardware| hardware.disks.clone()).unwrap_or_default(),
        obstacle: guest.hardware.as_ref().and_then(|hardware| hardware.obstacle.clone()),
    };
    status.foreign.iter().map(view).collect()
}

/// Guests that CHOM made and no desired state names; on a host out of the fleet that is every one of them.
fn orphans(row: &HostRow, status: &HostStatus) -> Vec<StrangerView> {
    let out = matches!(row.standing, HostStanding::Forgotten | HostStanding::Revoked);
    let named = status.vps.iter().filter(|(_, seen)| out && seen.state != VpsState::Absent);
    let named = named.map(|(id, seen)| (*id, Some(seen.state)));
    let unnamed = status.orphans.iter().map(|id| (*id, None));
    named
        .chain(unnamed)
        .map(|(id, state)| StrangerView {
            name: GuestDefinition::guest_name(id),
            vps: Some(id),
            state,
            engine: None,
            disks: Vec::new(),
            obstacle: None,
        })
        .collect()
}

fn problems(status: Option<&HostStatus>, observation: Option<&Observation>, state: HostState) -> Vec<String> {
    let mut problems = status.map(|status| status.problems.clone()).unwrap_or_default();
    problems.extend(observation.and_then(|seen| seen.refusal.clone()));
    if let Some(status) = status.filter(|status| !status.destroys_waiting.is_empty()) {
        let count = status.destroys_waiting.len();
        problems.push(format!(
            "{count} removals wait: the host's cap on destroys is reached; lift it for an hour with `chomctl host allow-destroys`"
        ));
    }
    if state == HostState::Held {
        problems.push(
            "the orchestrator was restored: compare with `chomctl host ledger` and say which is right"
                .to_owned(),
        );
    }
    problems
}

/// A VPS for whoever may not know of hosts.
#[must_use]
pub fn vps_for(sees_hosts: bool, shown: VpsView) -> VpsView {
    if sees_hosts { shown } else { VpsView { host: None, ..shown } }
}

/// An operation for whoever may not know of hosts.
#[must_use]
pub fn operation_for(sees_hosts: bool, shown: OperationView) -> OperationView {
    if sees_hosts { shown } else { OperationView { host: None, ..shown } }
}

/// An operation.
#[must_use]
pub fn operation(row: &OperationRow) -> OperationView {
    OperationView {
        id: row.id,
        kind: row.kind.clone(),
        tenant: row.tenant.clone(),
        vps: row.vps,
        host: row.host,
        state: row.state,
        steps: row
            .steps
            .iter()
            .map(|step| OperationStep { at: rfc3339(step.at), message: step.message.clone() })
            .collect(),
        problem: row.problem.clone(),
        created_at: rfc3339(row.created_at),
        deadline: rfc3339(row.deadline),
        finished_at: row.finished_at.map(rfc3339),
        bulk: None,
    }
}

/// An operation for whoever waits for it: one whose host cannot be seen says so. No text of it names a host, as tenants read
/// it too.
#[must_use]
pub fn operation_now(
    catalogue: &Catalogue,
    row: &OperationRow,
    observation: Option<&Observation>,
    now: UnixMillis,
) -> OperationView {
    let mut shown = operation(row);
    if row.host.is_none() {
        return shown;
    }
    let is_seen = health::is_seen(observation, catalogue.unreachable_after_seconds, now);
    if !shown.state.is_final() && shown.problem.is_none() && !is_seen {
        let since = observation.map_or_else(
            || "since the orchestrator was started".to_owned(),
            |seen| format!("for {} s", now.seconds_since(seen.seen_at)),
        );
        shown.problem = Some(format!(
            "its host has not been seen {since}; the order stands and is carried out when the host is back"
        ));
    }
    shown
}

#[cfg(test)]
mod tests {
    use chom_protocol::api::operations::OperationState;
    use chom_protocol::{HostId, OperationId, VpsId};
    use uuid::Uuid;

    use super::*;
    use crate::fleet::rows::Goal;

    fn waits_for(observation: Option<&Observation>, state: OperationState) -> Option<String> {
        let row = OperationRow {
            id: OperationId::new(Uuid::nil()),
            kind: "start".to_owned(),
            tenant: chom_protocol::Name::default_tenant(),
            vps: Some(VpsId::new(Uuid::nil())),
            host: Some(HostId::new(Uuid::nil())),
            number: 1,
            undo: None,
            goal: Goal::Accepted,
            state,
            steps: Vec::new(),
            problem: None,
            created_at: UnixMillis(0),
            deadline: UnixMillis(600_000),
            finished_at: None,
        };
        let catalogue = Catalogue { unreachable_after_seconds: 45, ..crate::fleet::tests::catalogue() };
        operation_now(&catalogue, &row, observation, UnixMillis(100_000)).problem
    }

    #[test]
    fn an_operation_whose_host_is_not_seen_says_what_it_waits_for_and_one_that_ended_does_not() {
        let at = |seen_at| Observation { seen_at: UnixMillis(seen_at), ..Observation::default() };
        let said = waits_for(Some(&at(40_000)), OperationState::Pending).unwrap();
        assert!(said.contains("not been seen for 60 s") && said.contains("when the host is back"), "{said}");
        assert!(waits_for(None, OperationState::Running).is_some());
        assert_eq!(waits_for(Some(&at(99_000)), OperationState::Pending), None);
        assert_eq!(waits_for(Some(&at(40_000)), OperationState::Succeeded), None);
    }
}
