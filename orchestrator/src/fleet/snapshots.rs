//! Snapshots of VPSs: taken, restored, removed, each as a job of the VPS's host. A job with a snapshot is never taken back
//! once it was given: half of it is worse than none. Its result decides what becomes of the row.

use chom_protocol::api::snapshots::{
    SNAPSHOTS_PER_VPS_MAX, SnapshotAccepted, SnapshotState, SnapshotView, TakeSnapshot,
};
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_protocol::foreign::DiskKind;
use chom_protocol::job::{Job, JobKind, JobOutcome};
use chom_protocol::vps::{Engine, SnapshotStatus};
use chom_protocol::{Generation, JobId, SnapshotId, VpsId};

use crate::clock::rfc3339;
use crate::fleet::error::ErrorKind;
use crate::fleet::hosts::host_row;
use crate::fleet::observed::Observation;
use crate::fleet::rows::{Goal, JobRow, OperationRow, SnapshotRow, SnapshotStage, VpsRow};
use crate::fleet::state::State;
use crate::fleet::{
    Caller, Decision, Done, Fleet, FleetError, RequestMark, check_revision, operations, view, vps,
};

/// Refuses a snapshot of a disk that can have none.
fn check_disk(row: &VpsRow) -> Result<(), FleetError> {
    let disk = row.spec.adopted.as_ref().and_then(|adopted| adopted.disk());
    match disk.filter(|_| row.spec.engine == Engine::Libvirt) {
        Some(disk) if disk.kind != DiskKind::Qcow2 => Err(FleetError::conflict(format!(
            "the disk of VPS `{}` is a {} ({}); only qcow2 files have snapshots",
            row.spec.name, disk.kind, disk.path
        ))),
        Some(_) | None => Ok(()),
    }
}

impl Fleet {
    /// Takes a snapshot of a VPS's disk; it keeps running.
    ///
    /// # Errors
    /// When there is no such VPS, its state does not allow it, the name is taken, or it has as many as it may have.
    pub async fn take_snapshot(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        request: TakeSnapshot,
    ) -> Result<Done<SnapshotAccepted>, FleetError> {
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, mark| {
            let row = usable(decision, mark, vps)?;
            check_disk(&row)?;
            let count = decision.state.snapshots_of(vps).count();
            if count >= SNAPSHOTS_PER_VPS_MAX {
                return Err(FleetError::conflict(format!(
                    "VPS `{}` has {count} snapshots, which is as many as it may have; delete one first",
                    row.spec.name
                )));
            }
            if decision.state.snapshots_of(vps).any(|other| other.name == request.name) {
                return Err(FleetError::Refused {
                    kind: ErrorKind::Conflict,
                    detail: format!("the VPS has a snapshot `{}` already; choose another name", request.name),
                    location: Some("/name"),
                });
            }
            let id = SnapshotId::new(decision.new_id());
            let snapshot = SnapshotRow {
                id,
                name: request.name,
                vps,
                stage: SnapshotStage::Taking,
                size: row.spec.disk,
                number: 0,
                created_at: decision.now,
            };
            decision.put(snapshot)?;
            let kind = JobKind::TakeSnapshot { vps, snapshot: id };
            let operation = order(&fleet, decision, &row, "take snapshot", kind)?;
            decision.audit("snapshot.take", id)?;
            accepted(&fleet, decision, &row, id, &operation)
        })
        .await
    }

    /// Makes a VPS's disk what it was in a snapshot.
    ///
    /// # Errors
    /// When there is no such VPS or snapshot, or its state does not allow it.
    pub async fn restore_snapshot(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        snapshot: SnapshotId,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, mark| {
            let mut row = usable(decision, mark, vps)?;
            let found = ready(decision, vps, snapshot)?;
            if vps::wake(&mut row) {
                decision.put(row.clone())?;
            }
            let operation = order(
                &fleet,
                decision,
                &row,
                "restore snapshot",
                JobKind::RestoreSnapshot { vps, snapshot },
            )?;
            let mut steps = vec![
                "the VPS is shut down for it, gracefully at first, and started again if it should run"
                    .to_owned(),
            ];
            if found.size < row.spec.disk {
                steps.push(format!(
                    "its disk had {} then and keeps its {}: what was added is empty again",
                    found.size, row.spec.disk
                ));
            }
            let operation =
                steps.iter().try_fold(operation, |row, step| operations::note(decision, row, step))?;
            decision.audit("snapshot.restore", snapshot)?;
            Ok(vps::accepted(&fleet, decision, &row, &operation))
        })
        .await
    }

    /// Removes a snapshot, also one that only the host knows.
    ///
    /// # Errors
    /// When there is no such VPS or snapshot, or its state does not allow it.
    pub async fn delete_snapshot(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        snapshot: SnapshotId,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, mark| {
            let row = usable(decision, mark, vps)?;
            let observation = fleet.observations().of(row.host);
            let known = decision.state.get::<SnapshotRow>(&(vps, snapshot)).cloned();
            let seen = seen_of(observation.as_deref(), vps).and_then(|(_, seen)| find(seen, snapshot));
            if known.is_none() && seen.is_none() {
                return Err(FleetError::not_found("snapshot", snapshot));
            }
            refuse_if_copied(decision, vps, snapshot)?;
            let operation =
                order(&fleet, decision, &row, "delete snapshot", JobKind::DeleteSnapshot { vps, snapshot })?;
            if let Some(known) = known {
                decision.put(SnapshotRow { stage: SnapshotStage::Deleting, ..known })?;
            }
            decision.audit("snapshot.delete", snapshot)?;
            Ok(vps::accepted(&fleet, decision, &row, &operation))
        })
        .await
    }

    /// The snapshots of a VPS, oldest first, and those that only its host knows.
    ///
    /// # Errors
    /// When there is no such VPS.
    pub fn snapshots(&self, vps: VpsId) -> Result<Vec<SnapshotView>, FleetError> {
        let state = self.state();
        let row = state.get::<VpsRow>(&vps).ok_or_else(|| FleetError::not_found("VPS", vps))?;
        let observation = self.observations().of(row.host);
        let mut all: Vec<SnapshotView> =
            state.snapshots_of(vps).map(|row| shown(&state, row, observation.as_deref())).collect();
        // One that was just removed is still in what the host said before it took the newest desired state.
        let newest = host_row(&state, row.host)?;
        let newest = Generation { epoch: newest.epoch, number: newest.number };
        let seen = seen_of(observation.as_deref(), vps).filter(|(reconciled, _)| *reconciled >= newest);
        let seen = seen.map(|(_, seen)| seen).unwrap_or_default();
        let strange = seen.iter().filter(|seen| state.get::<SnapshotRow>(&(vps, seen.id)).is_none());
        all.extend(strange.map(|seen| SnapshotView {
            id: seen.id,
            name: None,
            vps,
            state: SnapshotState::Unknown,
            created_at: None,
            taken_at: Some(rfc3339(seen.taken_at)),
            disk_bytes: seen.disk,
        }));
        Ok(all)
    }
}

/// A VPS whose disk may be worked on now.
///
/// # Errors
/// When there is none, or its state does not allow it.
pub(super) fn usable(decision: &Decision, mark: &RequestMark, vps: VpsId) -> Result<VpsRow, FleetError> {
    let stored = decision.state.vps.get(&vps).ok_or_else(|| FleetError::not_found("VPS", vps))?;
    check_revision(mark, stored.revision)?;
    let row = stored.row.as_ref().clone();
    let name = &row.spec.name;
    vps::changeable(decision, &row)?;
    if row.spec.hold {
        return Err(FleetError::conflict(format!(
            "VPS `{name}` is on hold; end it with `chomctl vps unhold {name}`"
        )));
    }
    if row.retention.is_some() {
        return Err(FleetError::conflict(format!(
            "VPS `{name}` is deleted; bring it back with `chomctl vps undelete {name}`"
        )));
    }
    Ok(row)
}

/// A snapshot that is there, as far as is known.
pub(super) fn ready(
    decision: &Decision,
    vps: VpsId,
    snapshot: SnapshotId,
) -> Result<SnapshotRow, FleetError> {
    let row = decision.state.get::<SnapshotRow>(&(vps, snapshot));
    let row = row.ok_or_else(|| FleetError::not_found("snapshot", snapshot))?;
    let why = match row.stage {
        SnapshotStage::Ready => return Ok(row.clone()),
        SnapshotStage::Taking => "is not taken yet; wait for it",
        SnapshotStage::Deleting => "is being removed",
    };
    Err(FleetError::conflict(format!("snapshot `{}` {why}", row.name)))
}

/// A snapshot that a copy is being made from must stay until that is done.
fn refuse_if_copied(decision: &Decision, vps: VpsId, snapshot: SnapshotId) -> Result<(), FleetError> {
    let from_it = decision.state.vps.values().map(|stored| stored.row.as_ref()).find(|row| {
        let copies = row.spec.source.is_some_and(|s| s.vps == vps && s.snapshot == Some(snapshot));
        copies && decision.state.operation_of_vps.contains_key(&row.spec.id)
    });
    match from_it {
        Some(row) => Err(FleetError::conflict(format!(
            "VPS `{}` is being made from this snapshot; wait until it runs",
            row.spec.name
        ))),
        None => Ok(()),
    }
}

fn order(
    fleet: &Fleet,
    decision: &mut Decision,
    row: &VpsRow,
    what: &str,
    kind: JobKind,
) -> Result<OperationRow, FleetError> {
    let job = JobId::new(decision.new_id());
    let deadline = decision.now.plus_seconds(fleet.catalogue().operation_seconds_max);
    let operation = operations::begin(fleet.catalogue(), decision, row, what, Goal::Job { job })?;
    decision.put(JobRow { id: job, host: row.host, job: Job { kind, deadline }, operation: operation.id })?;
    vps::tell(decision, row, what);
    Ok(operation)
}

/// What a job's result means for the snapshot that it was about.
pub(super) fn settle(
    decision: &mut Decision,
    job: &JobRow,
    number: u64,
    outcome: &JobOutcome,
) -> Result<(), FleetError> {
    let key = match job.job.kind {
        JobKind::TakeSnapshot { vps, snapshot } | JobKind::DeleteSnapshot { vps, snapshot } => {
            (vps, snapshot)
        }
        JobKind::Restart { .. } | JobKind::RestoreSnapshot { .. } => return Ok(()),
    };
    let Some(row) = decision.state.get::<SnapshotRow>(&key).cloned() else { return Ok(()) };
    let taken = matches!(job.job.kind, JobKind::TakeSnapshot { .. });
    if taken == (*outcome == JobOutcome::Done) {
        return decision.put(SnapshotRow { stage: SnapshotStage::Ready, number, ..row });
    }
    decision.delete::<SnapshotRow>(&key);
    Ok(())
}

fn accepted(
    fleet: &Fleet,
    decision: &Decision,
    row: &VpsRow,
    snapshot: SnapshotId,
    operation: &OperationRow,
) -> Result<SnapshotAccepted, FleetError> {
    let found = decision.state.get::<SnapshotRow>(&(row.spec.id, snapshot));
    let found = found.ok_or_else(|| FleetError::not_found("snapshot", snapshot))?;
    let observation = fleet.observations().of(row.host);
    let snapshot = shown(&decision.state, found, observation.as_deref());
    Ok(SnapshotAccepted {
        snapshot,
        operation: view::operation_for(decision.sees_hosts, view::operation(operation)),
    })
}

/// What a VPS's host said last of its snapshots, and of which desired state that was.
fn seen_of(observation: Option<&Observation>, vps: VpsId) -> Option<(Generation, &[SnapshotStatus])> {
    let status = observation?.status.as_deref()?;
    Some((status.reconciled, status.vps.get(&vps)?.snapshots.as_deref()?))
}

fn find(seen: &[SnapshotStatus], snapshot: SnapshotId) -> Option<&SnapshotStatus> {
    seen.iter().find(|seen| seen.id == snapshot)
}

/// A snapshot beside what its host says of it.
fn shown(state: &State, row: &SnapshotRow, observation: Option<&Observation>) -> SnapshotView {
    let epoch = state.meta.as_ref().map_or(0, |meta| meta.epoch);
    let believed = Generation { epoch, number: row.number };
    let seen = seen_of(observation, row.vps);
    let found = seen.and_then(|(_, seen)| find(seen, row.id));
    let told = seen.is_some_and(|(reconciled, _)| reconciled >= believed);
    SnapshotView {
        id: row.id,
        name: Some(row.name.clone()),
        vps: row.vps,
        state: match row.stage {
            SnapshotStage::Taking => SnapshotState::Taking,
            SnapshotStage::Deleting => SnapshotState::Deleting,
            SnapshotStage::Ready if told && found.is_none() => SnapshotState::Missing,
            SnapshotStage::Ready => SnapshotState::Ready,
        },
        created_at: Some(rfc3339(row.created_at)),
        taken_at: found.map(|seen| rfc3339(seen.taken_at)),
        disk_bytes: Some(found.and_then(|seen| seen.disk).unwrap_or(row.size)),
    }
}
