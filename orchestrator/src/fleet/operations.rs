//! Operations: begun with a mutation, moved on by what hosts report, ended by success, failure, a newer operation or their
//! deadline. They never hang: each has a deadline, and what was ordered stands even after it.

use chom_protocol::api::events::Event;
use chom_protocol::api::operations::OperationState;
use chom_protocol::host::HostStatus;
use chom_protocol::job::JobOutcome;
use chom_protocol::vps::VpsState;
use chom_protocol::{Generation, Name, OperationId, UnixMillis};

use crate::fleet::catalogue::Catalogue;
use crate::fleet::rows::{Goal, ImageFetchRow, JobRow, OperationRow, Step, VpsRow};
use crate::fleet::state::State;
use crate::fleet::{Decision, FleetError};
use crate::notify::webhook::event::Telling;

/// Lines of a trail that are kept: the first and the newest.
const STEPS_MAX: usize = 32;

/// What does not wait for a snapshot that is under way: it must go through also when the host is dead. The host sees the
/// snapshot through all the same.
const GOES_THROUGH: [&str; 4] = ["delete", "purge", "hold", "unhold"];

mod cancel;

/// The id that [`begin`] will use in this decision, for rows that refer to it.
pub(super) fn next_id(decision: &mut Decision) -> OperationId {
    let id = decision.operation.unwrap_or_else(|| OperationId::new(decision.new_id()));
    decision.operation = Some(id);
    id
}

/// Begins an operation on a VPS, in place of one that is under way, and raises the host's generation.
pub(super) fn begin(
    catalogue: &Catalogue,
    decision: &mut Decision,
    row: &VpsRow,
    kind: &str,
    goal: Goal,
) -> Result<OperationRow, FleetError> {
    let id = next_id(decision);
    supersede(decision, row, kind)?;
    let number = decision.raise(row.host)?;
    let operation = OperationRow {
        id,
        kind: kind.to_owned(),
        tenant: row.spec.tenant.clone(),
        vps: Some(row.spec.id),
        host: Some(row.host),
        state: OperationState::Pending,
        goal,
        number,
        undo: None,
        steps: vec![Step {
            at: decision.now,
            message: "desired state written; waiting for the host to take it".to_owned(),
        }],
        problem: None,
        created_at: decision.now,
        deadline: decision.now.plus_seconds(catalogue.operation_seconds_max),
        finished_at: None,
    };
    tell(decision, &operation);
    decision.put(operation.clone())?;
    Ok(operation)
}

/// Begins an operation of the orchestrator itself, about no VPS and on no host.
pub(super) fn begin_own(
    decision: &mut Decision,
    kind: &str,
    goal: Goal,
    seconds_max: u64,
    first: String,
) -> Result<OperationRow, FleetError> {
    let operation = OperationRow {
        id: next_id(decision),
        kind: kind.to_owned(),
        tenant: Name::default_tenant(),
        vps: None,
        host: None,
        state: OperationState::Pending,
        goal,
        number: 0,
        undo: None,
        steps: vec![Step { at: decision.now, message: first }],
        problem: None,
        created_at: decision.now,
        deadline: decision.now.plus_seconds(seconds_max),
        finished_at: None,
    };
    tell(decision, &operation);
    decision.put(operation.clone())?;
    Ok(operation)
}

/// Says how far an operation of the orchestrator itself is, and what is in its way.
pub(super) fn go_on(
    decision: &mut Decision,
    mut operation: OperationRow,
    message: String,
    problem: Option<String>,
) -> Result<(), FleetError> {
    operation.state = OperationState::Running;
    operation.problem = problem;
    push(&mut operation, decision.now, message);
    tell(decision, &operation);
    decision.put(operation)
}

/// Ends an operation as failed.
pub(super) fn fail(
    decision: &mut Decision,
    mut operation: OperationRow,
    problem: String,
) -> Result<(), FleetError> {
    operation.problem = Some(problem.clone());
    end(&mut operation, OperationState::Failed, decision.now, problem);
    tell(decision, &operation);
    decision.put(operation)
}

/// The job that an operation waits for.
fn job_of(state: &State, operation: &OperationRow) -> Option<JobRow> {
    match operation.goal {
        Goal::Job { job } => state.get::<JobRow>(&(operation.host?, job)).cloned(),
        _ => None,
    }
}

/// Adds a line to the trail of an operation that was just begun.
pub(super) fn note(
    decision: &mut Decision,
    mut operation: OperationRow,
    message: &str,
) -> Result<OperationRow, FleetError> {
    push(&mut operation, decision.now, message.to_owned());
    decision.put(operation.clone())?;
    Ok(operation)
}

fn supersede(decision: &mut Decision, row: &VpsRow, kind: &str) -> Result<(), FleetError> {
    let Some(old) = decision.state.operation_of_vps.get(&row.spec.id).copied() else { return Ok(()) };
    let Some(mut old) = decision.state.get::<OperationRow>(&old).cloned() else { return Ok(()) };
    if let Some(job) = job_of(&decision.state, &old) {
        if !job.job.kind.is_snapshot() {
            decision.delete::<JobRow>(&(job.host, job.id));
        } else if !GOES_THROUGH.contains(&kind) {
            return Err(FleetError::conflict(format!(
                "`{}` of VPS `{}` is under way (operation {}); wait for it with `chomctl operation wait {}`",
                old.kind, row.spec.name, old.id, old.id
            )));
        }
    }
    let by = next_id(decision);
    let message =
        format!("operation {by} (`{kind}`) took its place; what it does not contradict still holds");
    end(&mut old, OperationState::Superseded, decision.now, message);
    tell(decision, &old);
    decision.put(old)
}

/// Ends an operation as done.
pub(super) fn finish(
    decision: &mut Decision,
    mut operation: OperationRow,
    note: &str,
) -> Result<OperationRow, FleetError> {
    end(&mut operation, OperationState::Succeeded, decision.now, note.to_owned());
    tell(decision, &operation);
    decision.put(operation.clone())?;
    Ok(operation)
}

/// Ends an operation by a job's outcome.
pub(super) fn finish_job(
    decision: &mut Decision,
    mut operation: OperationRow,
    outcome: &JobOutcome,
) -> Result<(), FleetError> {
    match outcome {
        JobOutcome::Done => end(&mut operation, OperationState::Succeeded, decision.now, "done".to_owned()),
        JobOutcome::Failed { problem } => return fail(decision, operation, problem.clone()),
    }
    tell(decision, &operation);
    decision.put(operation)
}

/// The open operations of a host as they are after its newest report; only those that changed.
pub(super) fn progress(
    state: &State,
    status: &HostStatus,
    host: chom_protocol::HostId,
    now: UnixMillis,
) -> Vec<OperationRow> {
    let epoch = state.meta.as_ref().map_or(0, |meta| meta.epoch);
    let first = (host, OperationId::new(uuid::Uuid::nil()));
    let last = (host, OperationId::new(uuid::Uuid::max()));
    let open = state.open_operations.range(first..=last);
    open.filter_map(|(_, id)| state.get::<OperationRow>(id))
        .filter_map(|row| advance(row, status, epoch, now))
        .collect()
}

/// One operation after a report; none when nothing changed. Pure.
fn advance(row: &OperationRow, status: &HostStatus, epoch: u64, now: UnixMillis) -> Option<OperationRow> {
    let carries = Generation { epoch, number: row.number };
    if status.accepted < carries {
        return None;
    }
    let mut new = row.clone();
    if new.state == OperationState::Pending {
        new.state = OperationState::Running;
        push(&mut new, now, "the host took the desired state".to_owned());
    }
    let seen = row.vps.and_then(|vps| status.vps.get(&vps));
    if let Some(note) = (status.reconciled >= carries).then(|| reached(&row.goal, seen)).flatten() {
        end(&mut new, OperationState::Succeeded, now, note.to_owned());
    } else {
        let problem = seen.and_then(|seen| seen.problem.clone());
        if let Some(problem) = problem.as_ref().filter(|problem| Some(*problem) != new.problem.as_ref()) {
            push(&mut new, now, problem.clone());
        }
        new.problem = problem;
    }
    (new != *row).then_some(new)
}

/// Whether a goal is reached, and how that is said.
fn reached(goal: &Goal, seen: Option<&chom_protocol::vps::VpsStatus>) -> Option<&'static str> {
    match (goal, seen) {
        (Goal::Accepted, _) => Some("done"),
        (Goal::Running { start_count }, Some(seen)) if seen.start_count >= *start_count => match seen.state {
            VpsState::Running => Some("running"),
            VpsState::StoppedByGuest => Some("started; the guest has powered itself off since"),
            _ => None,
        },
        (Goal::Off, None) => Some("off"),
        (Goal::Off, Some(seen)) => match seen.state {
            VpsState::Stopped | VpsState::StoppedByGuest | VpsState::Crashed | VpsState::Absent => {
                Some("off")
            }
            VpsState::Preparing | VpsState::Running | VpsState::Paused | VpsState::Unknown => None,
        },
        (Goal::Gone, Some(seen)) if seen.state == VpsState::Absent => Some("gone"),
        (Goal::Paused, Some(seen)) if seen.state == VpsState::Paused => Some("paused"),
        (Goal::Settled, Some(seen)) if is_settled(seen) => match seen.restart_needed {
            true => Some("taken over; a part of it waits for its next start"),
            false => Some("done"),
        },
        (Goal::Rebuilt { build, start_count }, Some(seen)) if seen.build >= *build => match start_count {
            None => reached(&Goal::Off, Some(seen)).map(|_| "rebuilt"),
            Some(start_count) => {
                reached(&Goal::Running { start_count: *start_count }, Some(seen)).map(|_| "rebuilt")
            }
        },
        (
            Goal::Running { .. }
            | Goal::Gone
            | Goal::Paused
            | Goal::Settled
            | Goal::Rebuilt { .. }
            | Goal::Job { .. }
            | Goal::Fetched { .. }
            | Goal::Bulk { .. },
            _,
        ) => None,
    }
}

/// Whether the host does nothing about a VPS and sees nothing in its way.
fn is_settled(seen: &chom_protocol::vps::VpsStatus) -> bool {
    seen.progress.is_none() && seen.problem.is_none() && seen.state != VpsState::Unknown
}

/// What becomes of an operation at its deadline: it ends, and what was ordered stands.
pub(super) fn expire(decision: &mut Decision, row: &OperationRow) -> Result<(), FleetError> {
    let mut row = row.clone();
    let job = job_of(&decision.state, &row);
    let withdrawn = job.filter(|job| !job.job.kind.is_snapshot());
    if let Some(job) = &withdrawn {
        decision.delete::<JobRow>(&(job.host, job.id));
        decision.raise(job.host)?;
    }
    if let Goal::Fetched { image } = &row.goal {
        decision.delete::<ImageFetchRow>(image);
        let problem = row.problem.clone().unwrap_or_else(|| "it did not come".to_owned());
        return fail(decision, row, format!("not done in time: {problem}; fetch it again"));
    }
    if let Goal::Bulk { .. } = row.goal {
        return fail(
            decision,
            row,
            "not done in time; go on with what is left: chomctl operation resume".to_owned(),
        );
    }
    let why = match (&row.problem, row.state) {
        (Some(problem), _) => problem.clone(),
        (None, OperationState::Pending) => {
            "its host has not taken the desired state; is it reachable?".to_owned()
        }
        (None, _) => "its host has not reached the desired state".to_owned(),
    };
    let problem = match row.goal {
        Goal::Job { .. } if withdrawn.is_some() => format!("not done in time: {why}"),
        _ => format!("not done in time: {why} The order stands and is carried out as soon as the host can"),
    };
    row.problem = Some(problem.clone());
    end(&mut row, OperationState::Failed, decision.now, problem);
    tell(decision, &row);
    decision.put(row)
}

fn end(row: &mut OperationRow, state: OperationState, now: UnixMillis, message: String) {
    row.state = state;
    row.finished_at = Some(now);
    row.undo = None;
    if state == OperationState::Succeeded {
        row.problem = None;
    }
    push(row, now, message);
}

/// Adds a line to a trail.
pub(super) fn push(row: &mut OperationRow, at: UnixMillis, message: String) {
    if row.steps.len() >= STEPS_MAX {
        row.steps.remove(1);
    }
    row.steps.push(Step { at, message });
}

/// Tells the event stream how far an operation is, before its row is written, and webhooks when that is another state.
pub(super) fn tell(decision: &mut Decision, row: &OperationRow) {
    if decision.state.get::<OperationRow>(&row.id).is_none_or(|before| before.state != row.state) {
        let telling = Telling::operation(&decision.state, row);
        decision.tell_webhooks(telling);
    }
    let last = row.steps.last().map_or("", |step| step.message.as_str());
    let message = format!("{} {:?}: {last}", row.kind, row.state).to_lowercase();
    decision.tell(Event::Operation { id: row.id, tenant: row.tenant.clone(), message });
}
