//! ◆ Notes what VPSs had when a decision changes it, in the same commit: every way of changing a VPS is seen here.

use std::collections::BTreeSet;

use chom_protocol::network::Traffic;
use chom_protocol::vps::VpsState;
use chom_protocol::{UnixMillis, VpsId};

use super::rows::{ClosingRow, HeldRow, Holding, HourTraffic, Power, THE_CLOSING};
use crate::fleet::network::rows::TrafficRow;
use crate::fleet::rows::{ObservedVpsRow, VpsRow};
use crate::fleet::state::{State, promised};

/// What a VPS has.
pub(crate) fn holding(state: &State, vps: VpsId) -> Option<Holding> {
    let row = state.get::<VpsRow>(&vps)?;
    let (cores, memory) = promised(row);
    let power = match state.get::<ObservedVpsRow>(&vps).map(|row| row.status.state) {
        Some(VpsState::Running | VpsState::Paused) => Power::On,
        Some(VpsState::Stopped | VpsState::StoppedByGuest | VpsState::Crashed | VpsState::Absent) => {
            Power::Off
        }
        Some(VpsState::Preparing | VpsState::Unknown) | None => Power::Unknown,
    };
    let interface = &row.spec.interface;
    let addresses = interface.addresses.len() + interface.routed.len();
    Some(Holding {
        tenant: row.spec.tenant.clone(),
        name: row.spec.name.clone(),
        external_id: row.external_id.clone(),
        region: row.region.clone(),
        size: row.size.clone(),
        cores,
        memory,
        disk: row.spec.disk,
        addresses: u32::try_from(addresses).unwrap_or(u32::MAX),
        power,
        created_at: row.created_at,
    })
}

/// The rows that say what these VPSs had before, where that is something else now.
pub(crate) fn changed(before: &State, after: &State, vps: &BTreeSet<VpsId>, now: UnixMillis) -> Vec<HeldRow> {
    let Some(closing) = closing(after) else { return Vec::new() };
    let note = |vps: &VpsId| {
        let held = holding(before, *vps)?;
        let now_held = holding(after, *vps);
        if now_held.as_ref() == Some(&held) {
            return None;
        }
        let last = after.held_before(*vps).next_back().map(|row| row.until);
        let since = last.unwrap_or(held.created_at);
        // Never before what was noted last, however the clock was set.
        let until = closing.now(now).max(since);
        let gone = now_held.is_none().then(|| left(before.get::<TrafficRow>(vps), closing));
        // What it had for no time is nothing, unless it is all that is left of it: that has a row of its own.
        let until = if gone.is_some() { until.max(UnixMillis(since.0 + 1)) } else { until };
        (until > since).then_some(HeldRow { vps: *vps, until, holding: held, gone })
    };
    vps.iter().filter_map(note).collect()
}

/// How far hours are closed; none before the first look at them.
pub(crate) fn closing(state: &State) -> Option<ClosingRow> {
    state.get::<ClosingRow>(&THE_CLOSING).copied()
}

/// Traffic that no closed hour has.
fn left(row: Option<&TrafficRow>, closing: ClosingRow) -> Vec<HourTraffic> {
    let hours = row.map(|row| row.hours.as_slice()).unwrap_or_default();
    hours.iter().filter(|of| of.hour > closing.closed).copied().collect()
}

/// Traffic by hour once some more was counted that went between two moments: it is charged to the hour of the first as long as
/// that is open. Hours that are closed are left out; nothing is charged to one that is frozen.
pub(crate) fn charged(
    closing: ClosingRow,
    mut hours: Vec<HourTraffic>,
    added: Traffic,
    from: UnixMillis,
    to: UnixMillis,
) -> Vec<HourTraffic> {
    hours.retain(|of| of.hour > closing.closed);
    if added != Traffic::default() {
        let hour = closing.hour(from.min(to)).max(closing.frozen + 1);
        match hours.iter_mut().find(|of| of.hour == hour) {
            Some(of) => of.traffic = of.traffic.plus(added),
            None => hours.push(HourTraffic { hour, traffic: added }),
        }
    }
    hours
}
