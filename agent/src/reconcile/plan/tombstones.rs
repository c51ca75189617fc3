//! Tombstones: the one thing that removes. Pure. What is desired is never destroyed, a newer placement neither, and no more
//! in an hour than the cap allows.

use std::collections::BTreeMap;

use chom_protocol::VpsId;
use chom_protocol::helper::ObservedGuest;
use chom_protocol::host::HostSpec;
use chom_protocol::vps::{Tombstone, VpsState, VpsStatus};

use super::{Action, Input, Plan, YOUNG_SECONDS, status_of, verdict};
use crate::reconcile::memory::{HOUR_SECONDS, Mode};

/// Removes what has a tombstone, as far as the cap on destroys lets it, and says how far each is.
pub(super) fn plan(
    input: &Input<'_>,
    desired: &HostSpec,
    guests: &BTreeMap<VpsId, ObservedGuest>,
    plan: &mut Plan,
) {
    let now = input.terms.now;
    let recent = input.memory.destroys.values().filter(|at| now.seconds_since(**at) < HOUR_SECONDS);
    let mut left = (input.terms.destroys_per_hour as usize).saturating_sub(recent.count());
    let lifted = desired.settings.destroys_allowed_until.is_some_and(|until| now < until);
    for (&id, tombstone) in &desired.tombstones {
        if desired.vps.contains_key(&id) {
            continue; // its status was said; what is desired is never destroyed
        }
        if let Some(unseen) = verdict::unseen(input, id, tombstone.engine) {
            let verdict::Verdict { state, problem, progress, .. } = unseen;
            let status = status_of(input, id, None, state);
            plan.statuses.insert(id, VpsStatus { problem, progress, ..status });
            continue;
        }
        let (guest, remembered) = (guests.get(&id), input.memory.vps.get(&id));
        let placement =
            guest.map_or(0, |guest| guest.placement).max(remembered.map_or(0, |memory| memory.placement));
        let mut status = status_of(input, id, guest, guest.map_or(VpsState::Absent, |guest| guest.state));
        let action = if guest.is_none() && remembered.is_none() {
            None
        } else if placement > tombstone.placement {
            status.problem = Some(format!(
                "placement {placement} is here, the order to remove is for placement {}; left alone",
                tombstone.placement
            ));
            None
        } else {
            remove(input, id, tombstone, lifted, &mut left, &mut status, plan)
        };
        plan.actions.extend(action);
        plan.statuses.insert(id, status);
    }
}

fn remove(
    input: &Input<'_>,
    id: VpsId,
    tombstone: &Tombstone,
    lifted: bool,
    left: &mut usize,
    status: &mut VpsStatus,
    plan: &mut Plan,
) -> Option<Action> {
    let now = input.terms.now;
    if let Some(doing) = input.work.busy.get(&id) {
        status.progress = Some((*doing).to_owned());
        return None;
    }
    if input.terms.mode != Mode::Managed {
        return None;
    }
    if let Some(failure) = input.work.failures.get(&id) {
        status.problem = Some(failure.problem.clone());
        if now < failure.retry_at {
            plan.wake(failure.retry_at);
            return None;
        }
    }
    let counted = input.memory.destroys.contains_key(&id);
    let counts = !lifted && !counted && now.seconds_since(tombstone.created_at) >= YOUNG_SECONDS;
    if counts && *left == 0 {
        status.problem = Some(format!(
            "its removal waits: this host removes at most {} VPSs an hour; allow more if this is meant",
            input.terms.destroys_per_hour
        ));
        plan.destroys_waiting.push(id);
        if let Some(oldest) = input.memory.destroys.values().min() {
            plan.wake(oldest.plus_seconds(HOUR_SECONDS));
        }
        return None;
    }
    if counts {
        *left -= 1;
    }
    status.progress = Some("removing".to_owned());
    Some(Action::Destroy { vps: id, counts })
}
