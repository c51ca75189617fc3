//! Which order a VPS's state allows, and which can be taken back. Decides from rows alone. Orders on one VPS follow each
//! other: a newer one takes the place of one under way, unless that would leave half of it undone.

use chom_protocol::vps::SuspensionReason;

use super::{Action, out_of_fleet};
use crate::fleet::rows::{OperationRow, Undo, VpsRow};
use crate::fleet::{Decision, FleetError};

/// Refuses what the VPS's state does not allow. Says whether its host is out of the fleet.
pub(super) fn check(decision: &Decision, row: &VpsRow, action: Action) -> Result<bool, FleetError> {
    let name = &row.spec.name;
    let refuse = |why: String| Err(FleetError::conflict(format!("VPS `{name}` {why}")));
    if row.purging.is_some() {
        return refuse("is being purged; nothing else can be done to it".to_owned());
    }
    let out = out_of_fleet(decision, row.host)?;
    let harmless = matches!(action, Action::Delete | Action::Purge | Action::Hold | Action::Unhold);
    if out && !harmless {
        return Err(FleetError::conflict(format!(
            "the host of VPS `{name}` was put out of the fleet; enrol the host again, or delete the VPS"
        )));
    }
    if row.spec.hold && needs_hands(action) {
        return refuse(format!("is on hold; end it with `chomctl vps unhold {name}`"));
    }
    if row.retention.is_some() && (needs_hands(action) || action == Action::Delete) {
        return refuse(format!("is deleted; bring it back with `chomctl vps undelete {name}`"));
    }
    let wakes = matches!(action, Action::Start | Action::Restart | Action::Resume | Action::Rebuild);
    if wakes {
        refuse_suspended(row)?;
    }
    in_flight(decision, row, action)?;
    Ok(out)
}

/// Refuses what a tenant may not do to a VPS that is suspended.
pub(in crate::fleet) fn refuse_suspended(row: &VpsRow) -> Result<(), FleetError> {
    if row.suspensions.is_empty() {
        return Ok(());
    }
    let reasons: Vec<String> = row.suspensions.keys().map(SuspensionReason::to_string).collect();
    let (name, reasons) = (&row.spec.name, reasons.join(", "));
    Err(FleetError::conflict(format!(
        "VPS `{name}` is suspended ({reasons}); end that with `chomctl vps unsuspend {name}`"
    )))
}

/// Orders whose work a host does: they make no sense while nothing is changed, or on what was deleted.
fn needs_hands(action: Action) -> bool {
    match action {
        Action::Start
        | Action::Stop
        | Action::Restart
        | Action::Pause
        | Action::Resume
        | Action::Resize
        | Action::Rebuild
        | Action::Rename => true,
        Action::Suspend
        | Action::Unsuspend
        | Action::Delete
        | Action::Undelete
        | Action::Purge
        | Action::Hold
        | Action::Unhold => false,
    }
}

/// A rebuild is not mixed with what needs the guest that it replaces.
fn in_flight(decision: &Decision, row: &VpsRow, action: Action) -> Result<(), FleetError> {
    let open = decision.state.operation_of_vps.get(&row.spec.id);
    let Some(open) = open.and_then(|id| decision.state.get::<OperationRow>(id)) else { return Ok(()) };
    let needs_guest = matches!(action, Action::Restart | Action::Pause | Action::Resize);
    if open.kind == Action::Rebuild.name() && needs_guest {
        return Err(FleetError::conflict(format!(
            "operation {} (`{}`) is under way on VPS `{}`; wait for its end: chomctl operation wait {}",
            open.id, open.kind, row.spec.name, open.id
        )));
    }
    Ok(())
}

/// What the operation goes back to when it is cancelled; none where that is not safe.
pub(super) fn undo(before: &VpsRow, after: &VpsRow, action: Action) -> Option<Undo> {
    let safe = match action {
        Action::Start
        | Action::Stop
        | Action::Pause
        | Action::Resume
        | Action::Rename
        | Action::Hold
        | Action::Unhold => true,
        Action::Resize => before.spec.disk == after.spec.disk,
        Action::Restart
        | Action::Rebuild
        | Action::Suspend
        | Action::Unsuspend
        | Action::Delete
        | Action::Undelete
        | Action::Purge => false,
    };
    safe.then(|| Undo::to(before))
}
