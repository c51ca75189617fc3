//! A VPS made anew from an image: same id, name and addresses, another disk. Its host keeps the old disk until the new one
//! is in use.

use chom_protocol::VpsId;
use chom_protocol::api::vps_servers::{RebuildVps, VpsAccepted};

use super::create::check_user_data;
use super::{Action, keep_blob, not_adopted, release_blob, wake};
use crate::fleet::rows::{Goal, VpsRow};
use crate::fleet::{Caller, Decision, Done, Fleet, FleetError, RequestMark, ssh_keys};

impl Fleet {
    /// Makes a VPS anew.
    ///
    /// # Errors
    /// When there is no such VPS, its state does not allow it, or the image, the keys or the user data break a rule.
    pub async fn rebuild_vps(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        request: RebuildVps,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        check(&request)?;
        self.order(caller, mark, vps, Action::Rebuild, move |fleet, decision, row| {
            rebuild(fleet, decision, row, request)
        })
        .await
    }
}

/// Refuses words that break a rule by themselves.
pub(super) fn check(request: &RebuildVps) -> Result<(), FleetError> {
    ssh_keys::check_all("/ssh_keys", request.ssh_keys.as_deref().unwrap_or_default())?;
    check_user_data(request.user_data.as_deref())
}

pub(super) fn rebuild(
    fleet: &Fleet,
    decision: &mut Decision,
    row: &mut VpsRow,
    request: RebuildVps,
) -> Result<Goal, FleetError> {
    let RebuildVps { image, ssh_keys, user_data } = request;
    not_adopted(row, "its disk is not CHOM's to replace; create a new VPS and delete this one")?;
    let snapshots = decision.state.snapshots_of(row.spec.id).count();
    if snapshots > 0 {
        return Err(FleetError::conflict(format!(
            "VPS `{}` has {snapshots} snapshots, which go with its disk; delete them first",
            row.spec.name
        )));
    }
    // From now on it is no copy of another one, and boots from its own disk.
    (row.spec.source, row.spec.rescue) = (None, None);
    if let Some(name) = image {
        let image = fleet.known_image(&decision.state, &name)?;
        if image.engine != row.spec.engine {
            return Err(FleetError::invalid(
                "/image",
                format!(
                    "image `{name}` is for {}; VPS `{}` is of {}",
                    image.engine, row.spec.name, row.spec.engine
                ),
            ));
        }
        if image.minimum_disk > row.spec.disk {
            return Err(FleetError::invalid(
                "/image",
                format!(
                    "image `{name}` needs a disk of {}; the VPS has {}: resize it first",
                    image.minimum_disk, row.spec.disk
                ),
            ));
        }
        row.spec.image = Some(image.reference);
    }
    if let Some(keys) = ssh_keys {
        row.spec.ssh_keys = keys;
    }
    if let Some(text) = user_data {
        let old = row.spec.user_data.replace(keep_blob(decision, &text)?);
        // The row as it is stored still names the old one: it is written first, so that only other VPSs count.
        decision.put(row.clone())?;
        release_blob(decision, old);
    }
    row.spec.build += 1;
    wake(row);
    let start_count = row.spec.wants_running().then(|| {
        row.spec.start_count += 1;
        row.spec.start_count
    });
    Ok(Goal::Rebuilt { build: row.spec.build, start_count })
}
