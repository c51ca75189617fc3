//! ◆ The records of one hour, from the rows: what each VPS had in it, for how long.

use std::collections::BTreeSet;

use chom_protocol::api::usage::UsageRecord;
use chom_protocol::network::Traffic;
use chom_protocol::{Name, UnixMillis, VpsId};

use super::note::holding;
use super::rows::{ClosingRow, Holding, HourTraffic, Power};
use crate::clock::rfc3339;
use crate::fleet::network::rows::TrafficRow;
use crate::fleet::rows::{TenantRow, VpsRow};
use crate::fleet::state::State;

const MIB: u64 = 1024 * 1024;

/// The VPSs that have a record of an hour, perhaps: by tenant.
pub(crate) fn candidates(state: &State, closing: ClosingRow, hour: u64) -> BTreeSet<(Name, VpsId)> {
    let (begins, ends) = (closing.begins(hour), closing.begins(hour + 1));
    let present = state.vps.values().map(|stored| stored.row.as_ref());
    let present = present.filter(|row| row.created_at < ends);
    let present = present.map(|row| (row.spec.tenant.clone(), row.spec.id));
    let past = state.held_vps.values().map(|stored| stored.row.as_ref());
    let past = past.filter(|row| row.until > begins || traffic_of(row.gone.as_deref(), hour).is_some());
    present.chain(past.map(|row| (row.holding.tenant.clone(), row.vps))).collect()
}

/// The record of one VPS; none where it was not there.
pub(crate) fn record(
    state: &State,
    closing: ClosingRow,
    hour: u64,
    vps: VpsId,
    seen_at: impl Fn(&VpsRow) -> Option<UnixMillis>,
) -> Option<UsageRecord> {
    let (begins, ends) = (closing.begins(hour), closing.begins(hour + 1));
    let mut sums = Sums::default();
    let mut last: Option<Holding> = None;
    // Rows whose hours are closed are taken away: before the first that is left there is nothing that this hour has.
    let mut since: Option<UnixMillis> = None;
    let mut traffic = Traffic::default();
    for row in state.held_before(vps) {
        let from = since.unwrap_or(row.holding.created_at).max(begins);
        let until = row.until.min(ends);
        if from < until {
            sums.add(&row.holding, from, until, ends);
            last = Some(row.holding.clone());
        }
        since = Some(row.until);
        if let Some(left) = traffic_of(row.gone.as_deref(), hour) {
            traffic = traffic.plus(left);
            last.get_or_insert_with(|| row.holding.clone());
        }
    }
    if let (Some(row), Some(held)) = (state.get::<VpsRow>(&vps), holding(state, vps)) {
        let from = since.unwrap_or(held.created_at).max(begins);
        if from < ends {
            let known_until = seen_at(row).unwrap_or(UnixMillis(0));
            sums.add(&held, from, ends, known_until);
            last = Some(held);
        }
        let hours = state.get::<TrafficRow>(&vps).map(|row| row.hours.as_slice());
        traffic = traffic.plus(traffic_of(hours, hour).unwrap_or_default());
    }
    let held = last.filter(|_| sums.millis > 0 || traffic != Traffic::default())?;
    let hour = rfc3339(begins);
    let of_tenant = state.get::<TenantRow>(&held.tenant);
    Some(UsageRecord {
        id: format!("{hour}/{vps}"),
        hour,
        vps,
        name: held.name,
        external_id: held.external_id,
        tenant_external_id: of_tenant.and_then(|row| row.external_id.clone()),
        tenant: held.tenant,
        region: held.region,
        size: held.size,
        cores: sums.cores,
        memory_bytes: chom_protocol::Bytes(sums.memory),
        disk_bytes: chom_protocol::Bytes(sums.disk),
        addresses: sums.addresses,
        seconds: seconds(sums.millis),
        on_seconds: seconds(sums.on_millis),
        off_seconds: seconds(sums.off_millis),
        core_seconds: whole(sums.core_millis),
        memory_mib_seconds: whole(sums.memory_mib_millis),
        disk_mib_seconds: whole(sums.disk_mib_millis),
        address_seconds: whole(sums.address_millis),
        received_bytes: traffic.in_bytes,
        sent_bytes: traffic.out_bytes,
    })
}

/// The traffic of an hour that is noted; none where none is.
fn traffic_of(hours: Option<&[HourTraffic]>, hour: u64) -> Option<Traffic> {
    hours?.iter().find(|of| of.hour == hour).map(|of| of.traffic)
}

#[derive(Default)]
struct Sums {
    millis: u64,
    on_millis: u64,
    off_millis: u64,
    cores: u32,
    memory: u64,
    disk: u64,
    addresses: u32,
    core_millis: u128,
    memory_mib_millis: u128,
    disk_mib_millis: u128,
    address_millis: u128,
}

impl Sums {
    /// What was held from then until then; whether it was on is known up to `known_until`.
    fn add(&mut self, held: &Holding, from: UnixMillis, until: UnixMillis, known_until: UnixMillis) {
        let millis = until.0 - from.0;
        self.millis += millis;
        let known = known_until.min(until).0.saturating_sub(from.0);
        match held.power {
            Power::On => self.on_millis += known,
            Power::Off => self.off_millis += known,
            Power::Unknown => {}
        }
        self.cores = self.cores.max(held.cores);
        self.memory = self.memory.max(held.memory.0);
        self.disk = self.disk.max(held.disk.0);
        self.addresses = self.addresses.max(held.addresses);
        let times = |amount: u64| u128::from(amount) * u128::from(millis);
        self.core_millis += times(held.cores.into());
        self.memory_mib_millis += times(held.memory.0 / MIB);
        self.disk_mib_millis += times(held.disk.0 / MIB);
        self.address_millis += times(held.addresses.into());
    }
}

/// Rounded to whole seconds.
fn whole(millis: u128) -> u64 {
    u64::try_from((millis + 500) / 1000).unwrap_or(u64::MAX)
}

fn seconds(millis: u64) -> u32 {
    u32::try_from(whole(millis.into())).unwrap_or(u32::MAX)
}
