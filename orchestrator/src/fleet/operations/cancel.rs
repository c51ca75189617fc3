//! Operations taken back: what was wanted before is wanted again. Only where that is safe: what a host may already have
//! done beyond recall is refused, with what to do instead.

use chom_protocol::OperationId;
use chom_protocol::api::operations::{OperationState, OperationView};
use chom_protocol::vps::Power;

use super::{end, tell};
use crate::fleet::rows::{Goal, ImageFetchRow, JobRow, OperationRow, Undo, VpsNameRow, VpsRow};
use crate::fleet::vps::{put_name, resize};
use crate::fleet::{Caller, Decision, Done, Fleet, FleetError, RequestMark, bulk, view};

impl Undo {
    /// What to go back to.
    pub(in crate::fleet) fn to(row: &VpsRow) -> Self {
        let spec = &row.spec;
        Self {
            power: spec.power,
            hold: spec.hold,
            name: spec.name.clone(),
            size: row.size.clone(),
            cores: spec.cores,
            memory: spec.memory,
        }
    }
}

impl Fleet {
    /// Takes an operation back.
    ///
    /// # Errors
    /// When there is no such operation, it has ended, or what it does cannot be taken back.
    pub async fn cancel_operation(
        &self,
        caller: &Caller,
        mark: RequestMark,
        operation: OperationId,
    ) -> Result<Done<OperationView>, FleetError> {
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, _| {
            let row = decision.state.get::<OperationRow>(&operation).cloned();
            let row = row.ok_or_else(|| FleetError::not_found("operation", operation))?;
            let row = cancel(&fleet, decision, row)?;
            decision.audit("operation.cancel", operation)?;
            Ok(view::operation_for(decision.sees_hosts, view::operation(&row)))
        })
        .await
    }
}

fn cancel(fleet: &Fleet, decision: &mut Decision, mut row: OperationRow) -> Result<OperationRow, FleetError> {
    let refuse = |why: String| {
        FleetError::conflict(format!("operation {} (`{}`) cannot be cancelled: {why}", row.id, row.kind))
    };
    if row.state.is_final() {
        return Err(refuse(format!("it has ended already ({:?})", row.state).to_lowercase()));
    }
    match (&row.undo, &row.goal, row.host) {
        (Some(undo), _, _) => restore(fleet, decision, &row, undo)?,
        (None, Goal::Job { job }, Some(host))
            if row.kind == "restart" && row.state == OperationState::Pending =>
        {
            decision.delete::<JobRow>(&(host, *job));
        }
        (None, Goal::Fetched { image }, _) => decision.delete::<ImageFetchRow>(image),
        // Those that were begun with go on.
        (None, Goal::Bulk { .. }, _) => {}
        (None, _, _) => return Err(refuse(instead(&row).to_owned())),
    }
    let by = match row.host {
        Some(host) => {
            decision.raise(host)?;
            format!("cancelled by {}; it is wanted as it was before", decision.actor())
        }
        None if matches!(row.goal, Goal::Bulk { .. }) => {
            let counts = bulk::counts(&decision.state, row.id);
            format!(
                "cancelled by {}: {} of {} VPSs are not begun with; `chomctl operation resume` goes on with them",
                decision.actor(),
                counts.pending,
                counts.count
            )
        }
        None => format!("cancelled by {}", decision.actor()),
    };
    end(&mut row, OperationState::Cancelled, decision.now, by);
    tell(decision, &row);
    decision.put(row.clone())?;
    Ok(row)
}

/// What to do where an order cannot be taken back.
fn instead(row: &OperationRow) -> &'static str {
    match row.kind.as_str() {
        "create" => "delete the VPS instead",
        "restart" => "its host has begun with it, and cutting it short would leave the VPS off",
        "rebuild" => "its host may have removed the old disk already; rebuild it from another image instead",
        "resize" => "its disk may have grown already, and disks never shrink; resize it again instead",
        "delete" => "undelete the VPS instead",
        "purge" => "its host may have removed it already",
        "suspend" => "unsuspend the VPS instead",
        "unsuspend" => "suspend the VPS again instead",
        _ => "what it does cannot be taken back; wait for its end",
    }
}

fn restore(
    fleet: &Fleet,
    decision: &mut Decision,
    row: &OperationRow,
    undo: &Undo,
) -> Result<(), FleetError> {
    let vps = row.vps.and_then(|vps| decision.state.get::<VpsRow>(&vps).cloned());
    let Some(mut vps) = vps else {
        return Err(FleetError::not_found("VPS of operation", row.id));
    };
    let Undo { power, hold, name, size, cores, memory } = undo.clone();
    resize::check_room(fleet, decision, &vps, (cores, memory, vps.spec.disk))?;
    if name != vps.spec.name {
        let old = (vps.spec.tenant.clone(), vps.spec.name.clone());
        put_name(decision, &vps, &name)?;
        decision.delete::<VpsNameRow>(&old);
    }
    if power == Power::Running && vps.spec.power != Power::Running {
        // It may be paused or off already.
        vps.spec.start_count += 1;
    }
    (vps.spec.power, vps.spec.hold, vps.spec.name) = (power, hold, name);
    (vps.size, vps.spec.cores, vps.spec.memory) = (size, cores, memory);
    decision.put(vps)
}
