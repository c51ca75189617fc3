//! Plans: what a change of a VPS would do (`?dry_run=true`), to be applied just so (`?plan=ID`) or not at all.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::api::tenants::{Quota, QuotaUsed};
use crate::id::{HostId, Name, PlanId, VpsId};

/// Seconds for which a plan can be applied: long enough to read it and ask somebody, short enough that it is still true.
pub const PLAN_SECONDS: u64 = 600;

/// A host that was not taken, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostNotTaken {
    /// Which.
    pub host: HostId,
    /// Its name.
    pub name: Name,
    /// Why.
    pub reason: String,
}

/// A row that a plan was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PlannedFrom {
    /// What kind of row, such as `VPS` or `host`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its revision when the plan was made.
    pub revision: u64,
}

/// What the tenant would have, and may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QuotaAfter {
    /// Whose.
    pub tenant: Name,
    /// What it would have.
    pub used: QuotaUsed,
    /// What it may have.
    pub quota: Quota,
}

/// What a change would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VpsPlan {
    /// Apply it with `?plan=` and this, on the same path with the same body; none: it cannot be done now.
    #[serde(default)]
    pub id: Option<PlanId>,
    /// What would be done, such as `create` or `resize`.
    pub action: String,
    /// To which VPS; none: to one that is made by it.
    #[serde(default)]
    pub vps: Option<VpsId>,
    /// The host that would do it; none can where absent. Tenants are not told.
    pub host: Option<HostId>,
    /// Its name.
    pub host_name: Option<Name>,
    /// Why this host, or why none.
    pub why: String,
    /// The addresses that it would have then.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub addresses: Vec<IpAddr>,
    /// What would be done.
    pub steps: Vec<String>,
    /// How long something that runs would be down.
    pub downtime: String,
    /// What its tenant would have then.
    #[serde(default)]
    pub quota_after: Option<QuotaAfter>,
    /// What it was made from. When something of it moved so that the plan is not true any more, applying is refused.
    #[serde(default)]
    pub depends_on: Vec<PlannedFrom>,
    /// Until when it can be applied, RFC 3339. A restart of the orchestrator forgets it earlier.
    #[serde(default)]
    pub expires_at: Option<String>,
    /// Of a create: the other hosts of the region; those that could take it first, then by id. At most a hundred.
    pub not_taken: Vec<HostNotTaken>,
    /// Of a create: how many other hosts the region has.
    pub not_taken_count: u32,
}
