//! VPSs: switched, deleted, brought back, purged, held. Each use case writes rows, names, addresses, the operation
//! and the audit trail in one commit, and raises the host's generation.

use chom_protocol::api::events::Event;
use chom_protocol::api::vps_servers::{StopVps, VpsAccepted};
use chom_protocol::job::{Job, JobKind};
use chom_protocol::vps::{BlobReference, Power, Sha256, VpsSpec};
use chom_protocol::{Bytes, HostId, JobId, Name, VpsId};

use crate::fleet::catalogue::Catalogue;
use crate::fleet::error::ErrorKind;
use crate::fleet::hosts::host_row;
use crate::fleet::operations;
use crate::fleet::rows::{
    BlobRow, Goal, HostRow, HostStanding, JobRow, OperationRow, Retention, SnapshotRow, Undo, VpsNameRow,
    VpsRow,
};
use crate::fleet::{
    Caller, Decision, Done, Fleet, FleetError, RequestMark, adopt, check_revision, network, room, view,
};
use crate::placement::{Candidate, place};

pub(super) mod create;
pub(in crate::fleet) mod orders;
mod permit;
mod rebuild;
mod rename;
pub(super) mod resize;
mod stop;
mod suspend;

pub(in crate::fleet) use permit::refuse_suspended;

/// What a caller may do to a VPS besides creating it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Switch it on.
    Start,
    /// Switch it off.
    Stop,
    /// Switch it off and on.
    Restart,
    /// Halt its processors.
    Pause,
    /// Let them go on.
    Resume,
    /// Give it another size.
    Resize,
    /// Make it anew from an image.
    Rebuild,
    /// Give it another name.
    Rename,
    /// Suspend it for a reason.
    Suspend,
    /// End a reason.
    Unsuspend,
    /// Delete it, kept for a while.
    Delete,
    /// Bring it back.
    Undelete,
    /// Remove it for good.
    Purge,
    /// Stop reconciling it.
    Hold,
    /// Resume reconciling it.
    Unhold,
}

impl Action {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Resize => "resize",
            Self::Rebuild => "rebuild",
            Self::Rename => "rename",
            Self::Suspend => "suspend",
            Self::Unsuspend => "unsuspend",
            Self::Delete => "delete",
            Self::Undelete => "undelete",
            Self::Purge => "purge",
            Self::Hold => "hold",
            Self::Unhold => "unhold",
        }
    }
}

impl Fleet {
    /// Does something to a VPS.
    ///
    /// # Errors
    /// When there is no such VPS, its state does not allow it, or `If-Match` names another revision.
    pub async fn act(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        action: Action,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        self.order(caller, mark, vps, action, move |fleet, decision, row| apply(fleet, decision, row, action))
            .await
    }

    /// An order on a VPS: `change` edits its row and says what the operation waits for, if the VPS's state allows it.
    async fn order<F>(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        action: Action,
        change: F,
    ) -> Result<Done<VpsAccepted>, FleetError>
    where
        F: FnOnce(&Fleet, &mut Decision, &mut VpsRow) -> Result<Goal, FleetError> + Send + 'static,
    {
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, mark| give(&fleet, decision, mark, vps, action, change))
            .await
    }
}

/// Gives an order to a VPS: `change` edits its row and says what the operation waits for.
fn give(
    fleet: &Fleet,
    decision: &mut Decision,
    mark: &RequestMark,
    vps: VpsId,
    action: Action,
    change: impl FnOnce(&Fleet, &mut Decision, &mut VpsRow) -> Result<Goal, FleetError>,
) -> Result<VpsAccepted, FleetError> {
    let stored = decision.state.vps.get(&vps).cloned().ok_or_else(|| FleetError::not_found("VPS", vps))?;
    check_revision(mark, stored.revision)?;
    let mut row = stored.row.as_ref().clone();
    let out = permit::check(decision, &row, action)?;
    let goal = change(fleet, decision, &mut row)?;
    let undo = permit::undo(&stored.row, &row, action);
    let waits = goal == Goal::Settled && resize::waits_for_start(&stored.row, &row);
    let mut operation = carry_out(fleet, decision, &row, action, goal, undo, out)?;
    if let Some(left) = (action == Action::Purge).then(|| left_behind(&row)).flatten() {
        operation = operations::note(decision, operation, &left)?;
    }
    if waits {
        operation = operations::note(decision, operation, resize::WAITS)?;
    }
    decision.audit(&format!("vps.{}", action.name()), vps)?;
    Ok(accepted(fleet, decision, stored.row.as_ref(), &operation))
}

/// Writes the rows of a new VPS that is to run; its card has been plugged in.
pub(super) fn enter(
    fleet: &Fleet,
    decision: &mut Decision,
    row: &VpsRow,
    kind: &str,
) -> Result<VpsAccepted, FleetError> {
    let goal = Goal::Running { start_count: row.spec.start_count };
    enter_for(fleet, decision, row, kind, goal)
}

/// Writes the rows of a new VPS, whatever its operation waits for.
pub(super) fn enter_for(
    fleet: &Fleet,
    decision: &mut Decision,
    row: &VpsRow,
    kind: &str,
    goal: Goal,
) -> Result<VpsAccepted, FleetError> {
    let VpsSpec { id, tenant, name, .. } = &row.spec;
    decision.put(VpsNameRow { tenant: tenant.clone(), name: name.clone(), vps: *id })?;
    decision.put(row.clone())?;
    tell(decision, row, kind);
    let operation = operations::begin(fleet.catalogue(), decision, row, kind, goal)?;
    decision.audit(&format!("vps.{kind}"), id)?;
    Ok(accepted(fleet, decision, row, &operation))
}

/// Refuses a name that another VPS has.
pub(super) fn check_name(decision: &Decision, tenant: &Name, name: &Name) -> Result<(), FleetError> {
    if decision.state.vps_names.contains_key(&(tenant.clone(), name.clone())) {
        return Err(FleetError::Refused {
            kind: ErrorKind::Conflict,
            detail: format!(
                "a VPS named `{name}` exists already (perhaps deleted and kept); choose another name"
            ),
            location: Some("/name"),
        });
    }
    Ok(())
}

fn keep_blob(decision: &mut Decision, text: &str) -> Result<BlobReference, FleetError> {
    let sha256 = Sha256::of(text.as_bytes());
    if decision.state.get::<BlobRow>(&sha256).is_none() {
        decision.put(BlobRow { sha256, base64: data_encoding::BASE64.encode(text.as_bytes()) })?;
    }
    Ok(BlobReference { sha256, size: Bytes(text.len() as u64) })
}

fn apply(
    fleet: &Fleet,
    decision: &mut Decision,
    row: &mut VpsRow,
    action: Action,
) -> Result<Goal, FleetError> {
    let name = row.spec.name.clone();
    Ok(match action {
        Action::Start | Action::Resume => switch_on(row),
        Action::Stop => stop::stop(row, StopVps::default())?,
        Action::Restart => restart(fleet.catalogue(), decision, row)?,
        Action::Pause => {
            if row.spec.power == Power::Stopped {
                return Err(FleetError::conflict(format!(
                    "VPS `{name}` is to be off; only one that runs can be paused"
                )));
            }
            row.spec.power = Power::Paused;
            Goal::Paused
        }
        Action::Delete => {
            let purge_at = decision.now.plus_seconds(fleet.catalogue().retention_seconds);
            row.retention = Some(Retention { deleted_at: decision.now, purge_at });
            row.spec.retained = true;
            Goal::Off
        }
        Action::Undelete => undelete(fleet, decision, row)?,
        Action::Purge => {
            if row.retention.is_none() {
                return Err(FleetError::conflict(format!(
                    "VPS `{name}` is not deleted; delete it first, then purge"
                )));
            }
            // What it sent last is billed too; nobody reports it any more once it is gone.
            let seen = fleet.observations().of(row.host);
            *row = network::traffic::settle_traffic(decision, row.clone(), seen.as_deref())?;
            row.purging = Some(decision.raise(row.host)?);
            Goal::Gone
        }
        Action::Hold | Action::Unhold => {
            row.spec.hold = action == Action::Hold;
            Goal::Accepted
        }
        // These say more than their name and have use cases of their own.
        Action::Resize | Action::Rebuild | Action::Rename | Action::Suspend | Action::Unsuspend => {
            return Err(FleetError::conflict(format!("`{}` needs to be told how", action.name())));
        }
    })
}

/// What a purge of a VPS that was adopted does not remove.
fn left_behind(row: &VpsRow) -> Option<String> {
    let disks = row.spec.adopted.as_ref()?.disks.iter().filter(|disk| adopt::stays(disk));
    let paths: Vec<&str> = disks.map(|disk| disk.path.as_str()).collect();
    (!paths.is_empty()).then(|| {
        format!(
            "{} stays on its host: CHOM removes files only; free it by hand (`lvremove` for a volume of LVM)",
            paths.join(", ")
        )
    })
}

/// Refuses what needs a guest that CHOM made.
pub(super) fn not_adopted(row: &VpsRow, what: &str) -> Result<(), FleetError> {
    match &row.spec.adopted {
        None => Ok(()),
        Some(adopted) => Err(FleetError::conflict(format!(
            "VPS `{}` was adopted (it is the guest `{}`): {what}",
            row.spec.name, adopted.guest
        ))),
    }
}

/// An order to run, whatever made it go off or halt.
fn switch_on(row: &mut VpsRow) -> Goal {
    row.spec.power = Power::Running;
    row.spec.stop_grace_seconds = None;
    row.spec.start_count += 1;
    Goal::Running { start_count: row.spec.start_count }
}

/// What was paused and goes off has lost its memory: it is to run once it may be on again. Whether it was paused.
pub(super) fn wake(row: &mut VpsRow) -> bool {
    let paused = row.spec.power == Power::Paused;
    if paused {
        row.spec.power = Power::Running;
    }
    paused
}

/// Writes what was decided, begins the operation, and ends it at once where no host will ever carry it out.
fn carry_out(
    fleet: &Fleet,
    decision: &mut Decision,
    row: &VpsRow,
    action: Action,
    goal: Goal,
    undo: Option<Undo>,
    out: bool,
) -> Result<OperationRow, FleetError> {
    decision.put(row.clone())?;
    tell(decision, row, action.name());
    let mut operation = operations::begin(fleet.catalogue(), decision, row, action.name(), goal)?;
    if !out {
        if undo.is_some() {
            operation.undo = undo;
            decision.put(operation.clone())?;
        }
        return Ok(operation);
    }
    if row.purging.is_some() {
        // Nobody will report it gone: its address stays held, everything else is free.
        remove(decision, row, false)?;
    }
    let note = "its host is out of the fleet: nothing was changed there, and its addresses stay held";
    operations::finish(decision, operation, note)
}

/// Refuses to change a VPS that is being purged or whose host is out of the fleet.
pub(super) fn changeable(decision: &Decision, row: &VpsRow) -> Result<(), FleetError> {
    let name = &row.spec.name;
    if row.purging.is_some() {
        return Err(FleetError::conflict(format!(
            "VPS `{name}` is being purged; nothing else can be done to it"
        )));
    }
    if out_of_fleet(decision, row.host)? {
        return Err(FleetError::conflict(format!(
            "the host of VPS `{name}` was put out of the fleet; enrol the host again, or delete the VPS"
        )));
    }
    Ok(())
}

fn out_of_fleet(decision: &Decision, host: HostId) -> Result<bool, FleetError> {
    let row = host_row(&decision.state, host)?;
    Ok(matches!(row.standing, HostStanding::Forgotten | HostStanding::Revoked))
}

fn restart(catalogue: &Catalogue, decision: &mut Decision, row: &mut VpsRow) -> Result<Goal, FleetError> {
    if row.spec.power != Power::Running {
        let name = &row.spec.name;
        let what = if row.spec.power == Power::Paused { "is paused" } else { "is to be off" };
        return Err(FleetError::conflict(format!(
            "VPS `{name}` {what}; start it with `chomctl vps start {name}`"
        )));
    }
    row.spec.stop_grace_seconds = None;
    let job = JobId::new(decision.new_id());
    let deadline = decision.now.plus_seconds(catalogue.operation_seconds_max);
    let work = Job { kind: JobKind::Restart { vps: row.spec.id }, deadline };
    let operation = operations::next_id(decision);
    decision.put(JobRow { id: job, host: row.host, job: work, operation })?;
    Ok(Goal::Job { job })
}

fn undelete(fleet: &Fleet, decision: &Decision, row: &mut VpsRow) -> Result<Goal, FleetError> {
    let name = &row.spec.name;
    if row.retention.is_none() {
        return Err(FleetError::conflict(format!("VPS `{name}` is not deleted")));
    }
    // Its disk was held all along.
    let wish = room::more(row, row.spec.cores, row.spec.memory, Bytes(0));
    let observation = fleet.observations().of(row.host);
    let held = decision.state.held.get(&row.host).copied();
    let own = decision
        .state
        .get::<HostRow>(&row.host)
        .and_then(|host| room::candidate(fleet, decision, &wish, host, observation.as_deref(), held));
    // A host that is cordoned or away takes its own VPS back; only room counts.
    place(&wish, own.map(|own| Candidate { closed: None, has_engine: true, ..own })).map_err(|none| {
        FleetError::Refused { kind: ErrorKind::NoCapacity, detail: none.to_string(), location: None }
    })?;
    row.retention = None;
    row.spec.retained = false;
    wake(row);
    if row.spec.wants_running() {
        row.spec.start_count += 1;
        return Ok(Goal::Running { start_count: row.spec.start_count });
    }
    Ok(Goal::Accepted)
}

/// Takes a VPS's rows away: it is gone, or nobody will ever say so.
pub(super) fn remove(
    decision: &mut Decision,
    row: &VpsRow,
    release_addresses: bool,
) -> Result<(), FleetError> {
    let VpsSpec { id, tenant, name, user_data, .. } = &row.spec;
    if release_addresses {
        network::release_all(decision, *id)?;
    }
    decision.delete::<network::rows::TrafficRow>(id);
    decision.delete::<VpsNameRow>(&(tenant.clone(), name.clone()));
    decision.delete::<crate::fleet::rows::ObservedVpsRow>(id);
    let snapshots: Vec<_> = decision.state.snapshots_of(*id).map(|snapshot| (*id, snapshot.id)).collect();
    snapshots.iter().for_each(|snapshot| decision.delete::<SnapshotRow>(snapshot));
    let jobs = decision.state.jobs_of(row.host).filter(|job| job.job.kind.vps() == *id);
    let jobs: Vec<_> = jobs.map(|job| (job.host, job.id)).collect();
    jobs.iter().for_each(|job| decision.delete::<JobRow>(job));
    decision.delete::<VpsRow>(id);
    release_blob(decision, *user_data);
    tell(decision, row, "gone");
    decision.raise(row.host).map(|_| ())
}

/// Takes a document away that no VPS names any more.
fn release_blob(decision: &mut Decision, blob: Option<BlobReference>) {
    let Some(BlobReference { sha256, .. }) = blob else { return };
    let names = |row: &VpsRow| row.spec.user_data.is_some_and(|named| named.sha256 == sha256);
    if !decision.state.vps.values().any(|stored| names(&stored.row)) {
        decision.delete::<BlobRow>(&sha256);
    }
}

/// Takes a name for a VPS.
pub(super) fn put_name(decision: &mut Decision, row: &VpsRow, name: &Name) -> Result<(), FleetError> {
    check_name(decision, &row.spec.tenant, name)?;
    decision.put(VpsNameRow { tenant: row.spec.tenant.clone(), name: name.clone(), vps: row.spec.id })
}

pub(super) fn tell(decision: &mut Decision, row: &VpsRow, message: &str) {
    let VpsSpec { id, name, tenant, .. } = &row.spec;
    decision.tell(Event::Vps {
        id: *id,
        name: name.clone(),
        tenant: tenant.clone(),
        message: message.to_owned(),
    });
}

/// The answer, from the rows as they are now; `row` stands in where they were removed.
pub(super) fn accepted(
    fleet: &Fleet,
    decision: &Decision,
    row: &VpsRow,
    operation: &OperationRow,
) -> VpsAccepted {
    let row = decision.state.get::<VpsRow>(&row.spec.id).unwrap_or(row);
    let observation = fleet.observations().of(row.host);
    let catalogue = fleet.catalogue();
    let shown = view::vps(&decision.state, catalogue, row, observation.as_deref(), decision.now);
    VpsAccepted {
        vps: view::vps_for(decision.sees_hosts, shown),
        operation: view::operation_for(decision.sees_hosts, view::operation(operation)),
    }
}

/// Whether a host may be given orders at all.
pub(super) fn is_managed(row: &HostRow, epoch: u64) -> bool {
    row.standing == HostStanding::Member && row.epoch == epoch
}
