//! Traffic of VPSs by month, and what follows from their quotas. Hosts report totals that only rise; what was added since
//! the last time is taken over into rows every few minutes, at once where it decides something. Nothing is lost between:
//! the host's total has it all along.

use std::sync::Arc;

use chom_protocol::api::networks::TrafficQuota;
use chom_protocol::host::HostStatus;
use chom_protocol::network::Traffic;
use chom_protocol::vps::VpsStatus;
use chom_protocol::{HostId, UnixMillis, VpsId};

use super::rows::{Month, MonthRow, TrafficRow};
use crate::clock::date_utc;
use crate::fleet::observed::{Observation, Snapshot};
use crate::fleet::rows::VpsRow;
use crate::fleet::state::State;
use crate::fleet::{Decision, Fleet, FleetError};
use crate::usage::note;

/// Seconds between takings-over of one VPS's traffic: also the most that is charged to the wrong side of a month's turn.
const STORED_EVERY_SECONDS: u64 = 300;
/// Months that are kept: two years, and the present one.
const MONTHS_MAX: usize = 25;
/// VPSs that one commit takes: each changes its traffic, itself and its host.
const VPS_PER_COMMIT_MAX: usize = 32;
/// Commits of one pass; the rest waits for the next.
const COMMITS_PER_PASS_MAX: usize = 16;

/// The month of a moment.
pub(super) fn month(at: UnixMillis) -> Month {
    let (year, month) = date_utc(at);
    Month { year, month }
}

/// The month that what went between two moments is charged to. Right after the turn nearly all of it is of the old one.
fn charged(from: UnixMillis, to: UnixMillis) -> Month {
    let grace = UnixMillis(to.0.saturating_sub(STORED_EVERY_SECONDS * 1000));
    if from <= to { month(to).min(month(grace).max(month(from))) } else { month(to) }
}

/// What was not taken over yet.
fn added(row: Option<&TrafficRow>, host: HostId, total: Traffic) -> Traffic {
    match row {
        // Another host counts anew.
        Some(row) if row.host == host => total.since(row.counted),
        Some(_) | None => total,
    }
}

/// A row with everything that a host reports of it.
fn take(row: Option<&TrafficRow>, vps: VpsId, host: HostId, total: Traffic, now: UnixMillis) -> TrafficRow {
    let added = added(row, host, total);
    let mut new = row.cloned().unwrap_or_else(|| blank(vps, host, now));
    let month = charged(new.counted_at, now);
    if added != Traffic::default() {
        match new.months.iter_mut().find(|row| row.month == month) {
            Some(row) => row.traffic = row.traffic.plus(added),
            None => new.months.push(MonthRow { month, traffic: added }),
        }
        new.months.sort_by_key(|row| row.month);
        let over = new.months.len().saturating_sub(MONTHS_MAX);
        new.months.drain(..over);
    }
    TrafficRow { host, counted: total, counted_at: now, ..new }
}

pub(super) fn blank(vps: VpsId, host: HostId, now: UnixMillis) -> TrafficRow {
    TrafficRow {
        vps,
        host,
        counted: Traffic::default(),
        counted_at: now,
        months: Vec::new(),
        hours: Vec::new(),
        quota: Default::default(),
    }
}

/// What went over a card by month, the newest report included.
pub(super) fn months(
    row: Option<&TrafficRow>,
    vps: &VpsRow,
    status: Option<&VpsStatus>,
    now: UnixMillis,
) -> Vec<MonthRow> {
    let total = status.and_then(|status| status.traffic);
    match total {
        Some(total) => take(row, vps.spec.id, vps.host, total, now).months,
        None => row.map(|row| row.months.clone()).unwrap_or_default(),
    }
}

fn used(row: &TrafficRow, now: UnixMillis) -> u64 {
    let month = month(now);
    row.months.iter().filter(|row| row.month == month).map(|row| row.traffic.total()).sum()
}

/// What [`used`] will be once what its host reports is taken over.
fn will_use(row: Option<&TrafficRow>, host: HostId, total: Option<Traffic>, now: UnixMillis) -> u64 {
    let stored = row.map_or(0, |row| used(row, now));
    let counted_at = row.map_or(now, |row| row.counted_at);
    let total = total.filter(|_| charged(counted_at, now) == month(now));
    stored.saturating_add(total.map_or(0, |total| added(row, host, total).total()))
}

/// What a VPS that used so much this month is to be throttled to.
fn throttle(quota: &TrafficQuota, used: u64) -> Option<u64> {
    let is_over = quota.hard_bytes.is_some_and(|hard| used >= hard);
    quota.throttle_bits.filter(|_| is_over)
}

/// What is to be told of a VPS that used up its soft quota, or its hard one.
#[must_use]
pub fn over_quota(state: &State, vps: VpsId, now: UnixMillis) -> Option<String> {
    let row = state.get::<TrafficRow>(&vps)?;
    let used = used(row, now);
    let hard = row.quota.hard_bytes.filter(|hard| used >= *hard);
    let soft = row.quota.soft_bytes.filter(|soft| used >= *soft);
    let gigabytes = |bytes: u64| format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10);
    match (hard, soft) {
        (Some(hard), _) => Some(format!(
            "used {} this month, more than its hard quota of {}: it is throttled until the month ends",
            gigabytes(used),
            gigabytes(hard)
        )),
        (None, Some(soft)) => Some(format!(
            "used {} this month, more than its soft quota of {}",
            gigabytes(used),
            gigabytes(soft)
        )),
        (None, None) => None,
    }
}

/// Whether something of a VPS's traffic must be written now. Asked of every VPS in each pass of the keeper: copies nothing.
fn is_due(row: Option<&TrafficRow>, vps: &VpsRow, total: Option<Traffic>, now: UnixMillis) -> bool {
    if row.is_none() && total.is_none() {
        return false;
    }
    let quota = row.map(|row| row.quota).unwrap_or_default();
    let will_use = will_use(row, vps.host, total, now);
    if throttle(&quota, will_use) != vps.spec.interface.rate.throttle_bits {
        return true;
    }
    let Some(row) = row else { return total.is_some_and(|total| total != Traffic::default()) };
    let crossed = quota.soft_bytes.is_some_and(|soft| used(row, now) < soft && will_use >= soft);
    let waited =
        now.seconds_since(row.counted_at) >= STORED_EVERY_SECONDS || month(row.counted_at) != month(now);
    crossed || (waited && total.is_some_and(|total| total != row.counted))
}

/// Writes what follows from a VPS's newest total, or from a new quota.
pub(super) fn settle(
    decision: &mut Decision,
    mut vps: VpsRow,
    total: Option<Traffic>,
) -> Result<VpsRow, FleetError> {
    let (id, host, now) = (vps.spec.id, vps.host, decision.now);
    let row = decision.state.get::<TrafficRow>(&id);
    let next = match (row, total) {
        (row, Some(total)) => {
            let (since, kept) = row.map_or((now, Vec::new()), |row| (row.counted_at, row.hours.clone()));
            let hours = match note::closing(&decision.state) {
                Some(closing) => {
                    let grace = UnixMillis(now.0.saturating_sub(STORED_EVERY_SECONDS * 1000)).max(since);
                    note::charged(closing, kept, added(row, host, total), grace, now)
                }
                None => kept,
            };
            TrafficRow { hours, ..take(row, id, host, total, now) }
        }
        (Some(row), None) => row.clone(),
        (None, None) => return Ok(vps),
    };
    let throttle = throttle(&next.quota, used(&next, now));
    super::put_if_new(decision, next)?;
    if vps.spec.interface.rate.throttle_bits != throttle {
        vps.spec.interface.rate.throttle_bits = throttle;
        decision.raise(host)?;
        decision.put(vps.clone())?;
        decision.audit(if throttle.is_some() { "vps.throttle" } else { "vps.unthrottle" }, id)?;
    }
    Ok(vps)
}

/// The same with what was seen of its host.
pub(in crate::fleet) fn settle_traffic(
    decision: &mut Decision,
    vps: VpsRow,
    seen: Option<&Observation>,
) -> Result<VpsRow, FleetError> {
    let total = total(seen.and_then(|seen| seen.status.as_deref()), vps.spec.id);
    settle(decision, vps, total)
}

pub(super) fn total(status: Option<&HostStatus>, vps: VpsId) -> Option<Traffic> {
    status.and_then(|status| status.vps.get(&vps)).and_then(|vps| vps.traffic)
}

impl Fleet {
    /// Takes over what hosts counted.
    pub(in crate::fleet) async fn keep_traffic(&self, now: UnixMillis) -> Result<(), FleetError> {
        let (state, observations) = (self.state(), Arc::new(self.observations().snapshot()));
        let due: Vec<VpsId> = due(&state, &observations, now);
        for chunk in due.chunks(VPS_PER_COMMIT_MAX).take(COMMITS_PER_PASS_MAX) {
            let (chunk, observations) = (chunk.to_vec(), Arc::clone(&observations));
            self.decide("chom".into(), move |decision| {
                for id in chunk {
                    let Some(vps) = decision.state.get::<VpsRow>(&id).cloned() else { continue };
                    let status = observations.get(&vps.host).and_then(|seen| seen.status.as_deref());
                    let total = total(status, id);
                    settle(decision, vps, total)?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

fn due(state: &State, observations: &Snapshot, now: UnixMillis) -> Vec<VpsId> {
    let mut due = Vec::new();
    for (host, ids) in &state.vps_of_host {
        let status = observations.get(host).and_then(|seen| seen.status.as_deref());
        for id in ids {
            let Some(vps) = state.get::<VpsRow>(id).filter(|vps| vps.purging.is_none()) else { continue };
            if is_due(state.get::<TrafficRow>(id), vps, total(status, *id), now) {
                due.push(*id);
            }
        }
    }
    due
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;
    /// 2026-11-30T23:59:00Z.
    const EVE: UnixMillis = UnixMillis(1_796_083_140_000);

    fn at(seconds: u64) -> UnixMillis {
        UnixMillis(EVE.0 + seconds * 1000)
    }

    fn host(number: u128) -> HostId {
        HostId::new(Uuid::from_u128(number))
    }

    fn both(in_bytes: u64) -> Traffic {
        Traffic { in_bytes, out_bytes: 0 }
    }

    fn shown(row: &TrafficRow) -> String {
        let month =
            |row: &MonthRow| format!("{}-{:02}: {}", row.month.year, row.month.month, row.traffic.total());
        row.months.iter().map(month).collect::<Vec<_>>().join(", ")
    }

    fn run(steps: &[(u64, u128, u64)]) -> TrafficRow {
        let vps = VpsId::new(Uuid::nil());
        let step = |row: Option<TrafficRow>, &(seconds, of, total): &(u64, u128, u64)| {
            Some(take(row.as_ref(), vps, host(of), both(total), at(seconds)))
        };
        steps.iter().fold(None, step).unwrap()
    }

    #[test]
    fn each_byte_is_charged_once_to_its_month() {
        for (steps, expected) in [
            (&[(0, 1, 100), (10, 1, 150), (10, 1, 150)][..], "2026-11: 150"),
            // Taken over 30 s after the turn: of the old month, what comes later of the new one.
            (&[(0, 1, 100), (90, 1, 130), (400, 1, 150)], "2026-11: 130, 2026-12: 20"),
            // The host was away over the turn for long.
            (&[(0, 1, 100), (9000, 1, 150)], "2026-11: 100, 2026-12: 50"),
            // The agent lost its count: it began anew.
            (&[(0, 1, 100), (10, 1, 30)], "2026-11: 130"),
            // It was moved.
            (&[(0, 1, 100), (10, 2, 30), (20, 2, 31)], "2026-11: 131"),
            (&[(0, 1, 0)], ""),
        ] {
            assert_eq!(shown(&run(steps)), expected, "{steps:?}");
        }
    }

    #[test]
    fn a_hard_quota_throttles_until_the_month_ends() {
        let mut row = run(&[(0, 1, 100)]);
        row.quota.hard_bytes = Some(100);
        row.quota.throttle_bits = Some(64_000);
        let throttled = |row: &TrafficRow, now| throttle(&row.quota, used(row, now));
        assert_eq!(throttled(&row, at(30)), Some(64_000));
        assert_eq!(throttled(&row, at(61)), None);
        row.quota.hard_bytes = Some(101);
        assert_eq!(throttled(&row, at(30)), None);
    }

    proptest::proptest! {
        /// What decides before a report is taken over is what decides after.
        #[test]
        fn what_will_be_used_is_what_is_used_once_it_is_taken_over(
            steps in proptest::collection::vec((0_u64..4000, 1_u128..3, 0_u64..1000), 1..12),
        ) {
            let (vps, mut now, mut row) = (VpsId::new(Uuid::nil()), 0, None);
            for (seconds, of, total) in steps {
                now += seconds;
                let taken = take(row.as_ref(), vps, host(of), both(total), at(now));
                let expected = will_use(row.as_ref(), host(of), Some(both(total)), at(now));
                proptest::prop_assert_eq!(used(&taken, at(now)), expected);
                row = Some(taken);
            }
        }
    }

    #[test]
    fn only_two_years_are_kept() {
        let vps = VpsId::new(Uuid::nil());
        let mut row = None;
        for month in 0..40_u64 {
            let now = UnixMillis(EVE.0 + month * 31 * DAY);
            row = Some(take(row.as_ref(), vps, host(1), both(month + 1), now));
        }
        assert_eq!(row.unwrap().months.len(), MONTHS_MAX);
    }
}
