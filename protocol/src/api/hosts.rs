//! Hosts as the API shows and takes them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::foreign::GuestDisk;
use crate::host::Acceleration;
use crate::id::{EnrolmentId, HostId, Name, VpsId};
use crate::units::{Bytes, Generation};
use crate::vps::{Engine, VpsState};

/// What hosts are told apart by, such as `disk=nvme`.
pub type Labels = BTreeMap<Name, Name>;

/// Most labels of a host, or of a request.
pub const LABELS_MAX: usize = 32;

/// How much of a host may be promised to VPSs; what is absent is as in the fleet's configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HostLimits {
    /// Cores promised for each real one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores_per_core: Option<u32>,
    /// Memory promised for 100 bytes of real memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_percent: Option<u32>,
    /// Real cores that are not for VPSs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores_reserved: Option<u32>,
    /// Memory that is not for VPSs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reserved_bytes: Option<Bytes>,
    /// Disk that is not for VPSs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_reserved_bytes: Option<Bytes>,
}

/// Changes a host's labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeLabels {
    /// To set, or to set to another value.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub set: Labels,
    /// To take away.
    #[serde(default)]
    pub remove: Vec<Name>,
}

/// Asks for an enrolment token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AddHost {
    /// Its name in the fleet.
    pub name: Name,
    /// Where it stands.
    pub region: Name,
    /// Gives an existing host a new key (its old one was lost) instead of adding one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
}

/// An enrolment token, shown once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostAdded {
    /// The host that the token is for.
    pub host: HostId,
    /// The token's row.
    pub enrolment: EnrolmentId,
    /// The line to paste on the host, as root.
    pub command: String,
    /// The join code alone.
    pub join_code: String,
    /// When it expires, RFC 3339.
    pub expires_at: String,
}

/// Whether a host can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// Added; its agent has not enrolled yet.
    Invited,
    /// Connected and reporting.
    Connected,
    /// Not seen for a while.
    Unreachable,
    /// Two machines use its key: neither is managed until one is revoked.
    Quarantined,
    /// The orchestrator was restored: the host waits for an admin's word on what is newer there.
    Held,
    /// Out of the fleet; if it returns it may only report.
    Forgotten,
    /// Its certificate opens nothing any more.
    Revoked,
}

/// One engine of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EngineView {
    /// Which.
    pub engine: Engine,
    /// Its version.
    pub version: String,
    /// How fast its guests run.
    pub acceleration: Acceleration,
    /// Why it cannot be used now.
    pub problem: Option<String>,
}

/// What a host has, and what is promised to VPSs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CapacityView {
    /// Processors.
    pub cores: u32,
    /// Cores that may be promised.
    #[serde(default)]
    pub cores_promisable: u32,
    /// Memory that may be promised.
    #[serde(default)]
    pub memory_promisable_bytes: Bytes,
    /// Disk that may be promised.
    #[serde(default)]
    pub disk_promisable_bytes: Bytes,
    /// Cores promised.
    pub cores_used: u32,
    /// Memory.
    pub memory_bytes: Bytes,
    /// Memory promised.
    pub memory_used_bytes: Bytes,
    /// Disk for VPSs.
    pub disk_bytes: Bytes,
    /// Disk promised.
    pub disk_used_bytes: Bytes,
}

/// The newest readings of a host; none where nothing was read in time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageView {
    /// When they were taken, RFC 3339.
    pub at: Option<String>,
    /// Share of processor time in use, 0 to 1.
    pub cpu_ratio: Option<f64>,
    /// Mean run queue over a minute.
    pub load1: Option<f64>,
    /// Share of memory in use, 0 to 1.
    pub memory_ratio: Option<f64>,
    /// Share of swap in use, 0 to 1.
    pub swap_ratio: Option<f64>,
    /// The fullest file system's share in use, 0 to 1.
    pub disk_ratio: Option<f64>,
    /// The share of inodes in use of the file system that has fewest left, 0 to 1.
    pub inodes_ratio: Option<f64>,
}

/// A guest on a host that desired state does not name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StrangerView {
    /// Its name in the engine.
    pub name: String,
    /// The VPS it was, if CHOM made it.
    pub vps: Option<VpsId>,
    /// What it does, if the engine said so.
    pub state: Option<VpsState>,
    /// Its engine, of one that CHOM did not make.
    #[serde(default)]
    pub engine: Option<Engine>,
    /// Its disks, of one that CHOM did not make, as far as its engine says.
    #[serde(default)]
    pub disks: Vec<GuestDisk>,
    /// Why it cannot be adopted as it is, and what to do.
    #[serde(default)]
    pub obstacle: Option<String>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostView {
    /// Its id.
    pub id: HostId,
    /// Its name in the fleet.
    pub name: Name,
    /// Where it stands.
    pub region: Name,
    /// Whether it can be seen.
    pub state: HostState,
    /// When it was last seen, RFC 3339.
    pub seen_at: Option<String>,
    /// Seconds since then.
    pub age_seconds: Option<u64>,
    /// Whether it takes no new VPSs.
    pub cordoned: bool,
    /// Its labels.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub labels: Labels,
    /// How much of it may be promised, where that is not as for the fleet.
    #[serde(default)]
    pub limits: HostLimits,
    /// Its own name for itself.
    pub hostname: String,
    /// Version of its agent.
    pub agent_version: String,
    /// Operating system and kernel.
    pub os: String,
    /// Its engines.
    pub engines: Vec<EngineView>,
    /// What it has and what is promised.
    pub capacity: CapacityView,
    /// Its newest readings.
    pub usage: UsageView,
    /// How many VPSs are placed on it, retained ones included.
    pub vps_count: u32,
    /// Guests that CHOM did not make.
    pub foreign: Vec<StrangerView>,
    /// Guests that CHOM made and desired state no longer names.
    pub orphans: Vec<StrangerView>,
    /// What is wrong with it, in words.
    pub problems: Vec<String>,
    /// Whether the last pass worked on the newest desired state.
    pub up_to_date: bool,
    /// When its certificate expires, RFC 3339.
    pub certificate_expires_at: Option<String>,
    /// Its revision, for `If-Match`.
    pub revision: u64,
}

/// Sets or clears the cordon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetCordon {
    /// Whether it takes no new VPSs.
    pub cordoned: bool,
}

/// Puts a host out of the fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ForgetHost {
    /// Frees the addresses of its VPSs too. Do this only when the machine is certainly off.
    #[serde(default)]
    pub release_addresses: bool,
}

/// What a host knows that the restored orchestrator does not, or the other way round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LedgerDifference {
    /// Which VPS.
    pub vps: VpsId,
    /// Its name.
    pub name: Name,
    /// What differs, in words.
    pub difference: String,
}

/// A host's ledger beside the orchestrator's rows, after a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LedgerView {
    /// Which host.
    pub host: HostId,
    /// What its ledger has.
    pub ledger: Generation,
    /// What differs.
    pub differences: Vec<LedgerDifference>,
}

/// What becomes of the differences between a host's ledger and the restored rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum LedgerChoice {
    /// Take what the host has.
    AdoptLedger,
    /// Keep the restored rows. What only the host knows is left alone there as an orphan; nothing is removed.
    KeepRows,
}

/// An admin's word on a host's ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ResolveLedger {
    /// What to do.
    pub choice: LedgerChoice,
}
