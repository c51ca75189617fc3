//! Renaming a VPS: its name in the fleet at once, the guest's host name at its next start.

use chom_protocol::VpsId;
use chom_protocol::api::vps_servers::{RenameVps, VpsAccepted};

use super::{Action, put_name};
use crate::fleet::rows::{Goal, VpsNameRow};
use crate::fleet::{Caller, Done, Fleet, FleetError, RequestMark};

impl Fleet {
    /// Gives a VPS another name.
    ///
    /// # Errors
    /// When there is no such VPS, its state does not allow it, or the name is taken.
    pub async fn rename_vps(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        request: RenameVps,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        self.order(caller, mark, vps, Action::Rename, move |_, decision, row| {
            if row.spec.name != request.name {
                put_name(decision, row, &request.name)?;
                decision.delete::<VpsNameRow>(&(row.spec.tenant.clone(), row.spec.name.clone()));
                row.spec.name = request.name;
            }
            Ok(Goal::Settled)
        })
        .await
    }
}
