//! Tenants and their quotas as the API shows and takes them.

use serde::{Deserialize, Serialize};

use crate::id::Name;
use crate::units::Bytes;

/// Longest id that another system gives a tenant.
pub const EXTERNAL_ID_CHARACTERS_MAX: usize = 128;

/// How much a tenant may have; what is absent is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// VPSs, deleted ones that are still kept included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vps: Option<u64>,
    /// Virtual processors of VPSs that are not deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<u64>,
    /// Memory of VPSs that are not deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<Bytes>,
    /// Disk of all VPSs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<Bytes>,
    /// Addresses and routed prefixes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<u64>,
    /// Snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<u64>,
}

/// What a tenant has of what a quota limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QuotaUsed {
    /// VPSs, deleted ones that are still kept included.
    pub vps: u64,
    /// Virtual processors of VPSs that are not deleted.
    pub cores: u64,
    /// Memory of VPSs that are not deleted.
    pub memory_bytes: Bytes,
    /// Disk of all VPSs.
    pub disk_bytes: Bytes,
    /// Addresses and routed prefixes.
    pub addresses: u64,
    /// Snapshots.
    pub snapshots: u64,
}

/// Makes a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateTenant {
    /// Its name; one that was ever given is not given again.
    pub name: Name,
    /// How much it may have.
    #[serde(default)]
    pub quota: Quota,
    /// What another system, such as a billing system, calls it; unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
}

/// Sets how much a tenant may have, whole. What it has already stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetQuota {
    /// How much.
    pub quota: Quota,
}

/// Says what another system calls a tenant or a VPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetExternalId {
    /// What; nothing any more where absent or null.
    #[serde(default)]
    pub external_id: Option<String>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TenantView {
    /// Its name.
    pub name: Name,
    /// How much it may have.
    pub quota: Quota,
    /// What it has.
    pub used: QuotaUsed,
    /// What another system calls it.
    pub external_id: Option<String>,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Its revision, for `If-Match`.
    pub revision: u64,
}
