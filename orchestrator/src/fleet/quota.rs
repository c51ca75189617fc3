//! Quotas: what a tenant has, counted from the rows, and whether a change takes it past what it may have. Judged in the
//! decider's turn on the state that would be committed, so that parallel changes cannot exceed it together. Pure.

use chom_protocol::Name;
use chom_protocol::api::tenants::{Quota, QuotaUsed};

use crate::fleet::rows::VpsRow;
use crate::fleet::state::{State, promised};
use crate::fleet::{ErrorKind, FleetError, tenants};

/// What a tenant has.
#[must_use]
pub fn used(state: &State, tenant: &Name) -> QuotaUsed {
    let mut used = QuotaUsed::default();
    for id in state.vps_of_tenant.get(tenant).into_iter().flatten() {
        let Some(row) = state.get::<VpsRow>(id) else { continue };
        let (cores, memory) = promised(row);
        used.vps += 1;
        used.cores += u64::from(cores);
        used.memory_bytes.0 += memory.0;
        used.disk_bytes.0 += row.spec.disk.0;
        used.addresses += state.addresses_of(*id).count() as u64;
        used.snapshots += state.snapshots_of(*id).count() as u64;
    }
    used
}

/// Refuses a change that takes a tenant further past its quota. One that is past it already may shrink and stay.
///
/// # Errors
/// When something grew that is more than the quota allows; says what, and by how much.
pub(super) fn check(before: &State, after: &State, tenant: &Name) -> Result<(), FleetError> {
    let Some(quota) = tenants::get(after, tenant).map(|row| row.quota) else { return Ok(()) };
    if quota == Quota::default() {
        return Ok(());
    }
    let (had, has) = (used(before, tenant), used(after, tenant));
    let bytes = |limit: Option<chom_protocol::Bytes>| limit.map(|bytes| bytes.0);
    let all = [
        ("VPSs", quota.vps, had.vps, has.vps),
        ("cores", quota.cores, had.cores, has.cores),
        ("bytes of memory", bytes(quota.memory_bytes), had.memory_bytes.0, has.memory_bytes.0),
        ("bytes of disk", bytes(quota.disk_bytes), had.disk_bytes.0, has.disk_bytes.0),
        ("addresses", quota.addresses, had.addresses, has.addresses),
        ("snapshots", quota.snapshots, had.snapshots, has.snapshots),
    ];
    let over: Vec<String> = all
        .into_iter()
        .filter_map(|(what, limit, had, has)| {
            let limit = limit.filter(|limit| has > *limit && has > had)?;
            Some(format!("{has} {what} of {limit}"))
        })
        .collect();
    if over.is_empty() {
        return Ok(());
    }
    Err(FleetError::Refused {
        kind: ErrorKind::OverQuota,
        detail: format!(
            "the quota of tenant `{tenant}` does not allow it: it would have {}; remove something, or ask for more",
            over.join(", ")
        ),
        location: None,
    })
}
