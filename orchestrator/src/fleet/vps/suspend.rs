//! Suspending a VPS for reasons that overlap and end apart. The strictest holds; disk, name and addresses are kept.

use chom_protocol::VpsId;
use chom_protocol::api::vps_servers::{SuspendVps, UnsuspendVps, VpsAccepted};
use chom_protocol::vps::Suspension;

use super::{Action, wake};
use crate::fleet::rows::{Goal, Suspended, VpsRow};
use crate::fleet::{Caller, Decision, Done, Fleet, FleetError, RequestMark};

impl Fleet {
    /// Suspends a VPS for a reason.
    ///
    /// # Errors
    /// When there is no such VPS, or its state does not allow it.
    pub async fn suspend_vps(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        request: SuspendVps,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        self.order(caller, mark, vps, Action::Suspend, move |_, decision, row| {
            Ok(suspend(decision, row, request))
        })
        .await
    }

    /// Ends one reason for which a VPS is suspended.
    ///
    /// # Errors
    /// When there is no such VPS, its state does not allow it, or it is not suspended for that reason.
    pub async fn unsuspend_vps(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        request: UnsuspendVps,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        self.order(caller, mark, vps, Action::Unsuspend, move |_, _, row| unsuspend(row, request)).await
    }
}

pub(super) fn suspend(decision: &Decision, row: &mut VpsRow, request: SuspendVps) -> Goal {
    let SuspendVps { reason, mode } = request;
    let since = row.suspensions.get(&reason).map_or(decision.now, |held| held.since);
    row.suspensions.insert(reason, Suspended { mode, since });
    take_effect(row)
}

pub(super) fn unsuspend(row: &mut VpsRow, request: UnsuspendVps) -> Result<Goal, FleetError> {
    let UnsuspendVps { reason } = request;
    if row.suspensions.remove(&reason).is_none() {
        let held: Vec<String> = row.suspensions.keys().map(ToString::to_string).collect();
        let held = if held.is_empty() { "nothing".to_owned() } else { held.join(", ") };
        return Err(FleetError::conflict(format!(
            "VPS `{}` is not suspended for {reason}, but for {held}",
            row.spec.name
        )));
    }
    Ok(take_effect(row))
}

/// What follows from the reasons that are left.
fn take_effect(row: &mut VpsRow) -> Goal {
    let was_off = row.spec.suspension == Some(Suspension::Stopped);
    row.spec.suspension = row.suspensions.values().map(|held| held.mode).max();
    if row.spec.hold || row.retention.is_some() {
        return Goal::Accepted;
    }
    match row.spec.suspension {
        Some(Suspension::Stopped) => {
            wake(row);
            Goal::Off
        }
        Some(Suspension::Isolated) | None if was_off && row.spec.wants_running() => {
            row.spec.start_count += 1;
            Goal::Running { start_count: row.spec.start_count }
        }
        Some(Suspension::Isolated) | None => Goal::Settled,
    }
}
