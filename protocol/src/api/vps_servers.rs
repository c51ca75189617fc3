//! VPSs as the API shows and takes them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::api::operations::OperationView;
use crate::id::{HostId, Name, VpsId};
use crate::units::Bytes;
use crate::vps::{Engine, GuestShutdown, Power, VpsState};

/// Longest user data, as clouds with a metadata service have it.
pub const USER_DATA_BYTES_MAX: usize = 64 * 1024;
/// Most SSH keys of a VPS.
pub const SSH_KEYS_MAX: usize = 64;

/// Asks for a VPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateVps {
    /// Its name, unique within the tenant; also the guest's host name.
    pub name: Name,
    /// Where.
    pub region: Name,
    /// How large.
    pub size: Name,
    /// From what; the catalogue's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
    /// Public keys for the default user, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// cloud-init user data: a `#cloud-config` document or a script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// What to do when the guest powers itself off.
    #[serde(default)]
    pub guest_shutdown: GuestShutdown,
}

/// What a VPS is doing, as far as can be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ObservedVps {
    /// What it does; `unknown` when its host cannot be seen.
    pub state: VpsState,
    /// What it did when its host was last seen.
    pub last_state: VpsState,
    /// When its host last reported it, RFC 3339; none: never.
    pub seen_at: Option<String>,
    /// Seconds since then.
    pub age_seconds: Option<u64>,
    /// What keeps it from its desired state, and what to do.
    pub problem: Option<String>,
    /// How far current work on it is.
    pub progress: Option<String>,
}

/// A VPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VpsView {
    /// Its id.
    pub id: VpsId,
    /// Its name.
    pub name: Name,
    /// Whose it is.
    pub tenant: Name,
    /// Where.
    pub region: Name,
    /// Its size.
    pub size: Name,
    /// Its image.
    pub image: Name,
    /// Its host.
    pub host: HostId,
    /// Its engine.
    pub engine: Engine,
    /// Virtual processors.
    pub cores: u32,
    /// Memory.
    pub memory_bytes: Bytes,
    /// Disk.
    pub disk_bytes: Bytes,
    /// Its addresses.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub addresses: Vec<IpAddr>,
    /// On or off, as wanted.
    pub desired: Power,
    /// What it does.
    pub observed: ObservedVps,
    /// What to do when the guest powers itself off.
    pub guest_shutdown: GuestShutdown,
    /// Whether reconciling it is stopped.
    pub hold: bool,
    /// When it was deleted, RFC 3339; it is kept until `purge_at`.
    pub deleted_at: Option<String>,
    /// When it will be removed for good, RFC 3339.
    pub purge_at: Option<String>,
    /// Whether it is being removed for good now.
    pub purging: bool,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Its revision, for `If-Match`.
    pub revision: u64,
}

/// Answer to a mutation of a VPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VpsAccepted {
    /// The VPS as it is wanted now.
    pub vps: VpsView,
    /// The operation to wait for.
    pub operation: OperationView,
}

/// Sets or clears the hold on a VPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetHold {
    /// Whether to stop reconciling it.
    pub hold: bool,
}
