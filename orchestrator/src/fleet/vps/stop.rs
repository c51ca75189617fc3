//! Switching a VPS off, with its own grace or none.

use chom_protocol::VpsId;
use chom_protocol::api::vps_servers::{STOP_GRACE_SECONDS_MAX, StopVps, VpsAccepted};
use chom_protocol::vps::Power;

use super::Action;
use crate::fleet::rows::{Goal, VpsRow};
use crate::fleet::{Caller, Done, Fleet, FleetError, RequestMark};

impl Fleet {
    /// Switches a VPS off: gracefully, and by force after the grace.
    ///
    /// # Errors
    /// When there is no such VPS, its state does not allow it, or the grace is too long.
    pub async fn stop_vps(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        request: StopVps,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        self.order(caller, mark, vps, Action::Stop, move |_, _, row| stop(row, request)).await
    }
}

/// The order to stop.
pub(super) fn stop(row: &mut VpsRow, request: StopVps) -> Result<Goal, FleetError> {
    let StopVps { force, grace_seconds } = request;
    let grace = match (force, grace_seconds) {
        (true, Some(1..)) => {
            return Err(FleetError::invalid(
                "/grace_seconds",
                "a forced stop has no grace; leave one of both away",
            ));
        }
        (true, _) => Some(0),
        (false, Some(seconds)) if seconds > STOP_GRACE_SECONDS_MAX => {
            return Err(FleetError::invalid(
                "/grace_seconds",
                format!("a grace of {seconds} s; at most {STOP_GRACE_SECONDS_MAX} s are allowed"),
            ));
        }
        (false, grace) => grace,
    };
    row.spec.power = Power::Stopped;
    row.spec.stop_grace_seconds = grace;
    Ok(Goal::Off)
}
