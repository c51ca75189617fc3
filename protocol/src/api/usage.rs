//! Usage records: what each VPS had in each hour, for billing systems.

use serde::{Deserialize, Serialize};

use crate::id::{Name, VpsId};
use crate::units::Bytes;

/// What one VPS had in one hour (UTC). A record is made once and never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageRecord {
    /// `HOUR/VPS`: the same whenever and however it is read.
    pub id: String,
    /// When the hour begins, RFC 3339.
    pub hour: String,
    /// Which VPS.
    pub vps: VpsId,
    /// Its name at the end of the hour.
    pub name: Name,
    /// What another system calls it.
    pub external_id: Option<String>,
    /// Whose.
    pub tenant: Name,
    /// What another system calls the tenant.
    pub tenant_external_id: Option<String>,
    /// Where.
    pub region: Name,
    /// The size it was made with.
    pub size: Name,
    /// The most virtual processors that it had in the hour; none while it is deleted and kept.
    pub cores: u32,
    /// The most memory; none while it is deleted and kept.
    pub memory_bytes: Bytes,
    /// The most disk.
    pub disk_bytes: Bytes,
    /// The most addresses and routed prefixes.
    pub addresses: u32,
    /// For how long it was there; 3600 is the whole hour.
    pub seconds: u32,
    /// For how much of that it was known to be on.
    pub on_seconds: u32,
    /// For how much of that it was known to be off. The rest is unknown.
    pub off_seconds: u32,
    /// Virtual processors times seconds.
    pub core_seconds: u64,
    /// MiB of memory times seconds.
    pub memory_mib_seconds: u64,
    /// MiB of disk times seconds.
    pub disk_mib_seconds: u64,
    /// Addresses times seconds.
    pub address_seconds: u64,
    /// Traffic to it that was counted in the hour. What its host could not report in time is in a later hour.
    pub received_bytes: u64,
    /// Traffic from it.
    pub sent_bytes: u64,
}

/// Query parameters of the list of usage records besides those of every list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct UsageQuery {
    /// Hours that begin then or later, RFC 3339; all that are kept where absent.
    #[serde(default)]
    pub from: Option<String>,
    /// Hours that begin before then, RFC 3339; all that are closed where absent.
    #[serde(default)]
    pub until: Option<String>,
    /// Of one tenant.
    #[serde(default)]
    pub tenant: Option<Name>,
    /// Of one VPS.
    #[serde(default)]
    pub vps: Option<VpsId>,
}
