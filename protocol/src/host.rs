//! A host as the orchestrator wants it, whole, under one generation; and as its agent last saw it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{BootId, HostId, JobId, Name, VpsId};
use crate::job::Job;
use crate::units::{Bytes, Generation, UnixMillis};
use crate::vps::{Engine, ForeignGuest, ImageReference, Tombstone, VpsSpec, VpsStatuses};

/// Everything a host should have. Taken whole or not at all; the ledger keeps it on the host's disk.
///
/// Absence never destroys: a VPS that is missing here is left alone. Only a tombstone removes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpec {
    /// Which host.
    pub host: HostId,
    /// How new this is; the same generation always has the same content.
    pub generation: Generation,
    /// How the agent should behave.
    pub settings: AgentSettings,
    /// The VPSs that belong here.
    pub vps: BTreeMap<VpsId, VpsSpec>,
    /// VPSs to remove for good.
    pub tombstones: BTreeMap<VpsId, Tombstone>,
    /// One-shot tasks; each leaves again once its result was acknowledged.
    pub jobs: BTreeMap<JobId, Job>,
    /// Images to have here before a VPS needs them, and to keep for as long as they are named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prefetch: BTreeMap<Name, ImageReference>,
}

impl HostSpec {
    /// The engine that a VPS named here belongs into; none for one that is not named.
    #[must_use]
    pub fn engine_of(&self, vps: VpsId) -> Option<Engine> {
        let wanted = self.vps.get(&vps).map(|vps| vps.engine);
        wanted.or_else(|| self.tombstones.get(&vps).map(|tombstone| tombstone.engine))
    }
}

/// How an agent should behave; part of desired state, so it holds without the orchestrator too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSettings {
    /// Seconds between samples and between status reports without change.
    pub report_interval_seconds: u32,
    /// Seconds between full passes of the reconciler.
    pub reconcile_interval_seconds: u32,
    /// Seconds a guest is given to shut down before it is forced.
    pub stop_grace_seconds: u32,
    /// An admin's order that lifts the cap on destroys until then.
    pub destroys_allowed_until: Option<UnixMillis>,
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self {
            report_interval_seconds: 15,
            reconcile_interval_seconds: 30,
            stop_grace_seconds: 60,
            destroys_allowed_until: None,
        }
    }
}

/// A host as its agent last saw it. Latest wins; it is never queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// The boot of the host.
    pub boot: BootId,
    /// When this was seen, by the host's clock.
    pub observed_at: UnixMillis,
    /// The desired state that is on the host's disk.
    pub accepted: Generation,
    /// The desired state that the last full pass of the reconciler worked on.
    pub reconciled: Generation,
    /// What the host is and has.
    pub inventory: Inventory,
    /// Its engines; empty is a host that can run nothing.
    pub engines: Vec<EngineStatus>,
    /// Every VPS of the accepted desired state, tombstones included: one that is gone is `Absent`.
    pub vps: VpsStatuses,
    /// Guests that CHOM did not make.
    pub foreign: Vec<ForeignGuest>,
    /// Guests made by CHOM that the desired state does not name: left alone.
    pub orphans: Vec<VpsId>,
    /// Removals that wait because the local cap on destroys is reached.
    pub destroys_waiting: Vec<VpsId>,
    /// What is wrong with the host as a whole, in words for an admin.
    pub problems: Vec<String>,
    /// The images to be had before a VPS needs them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prefetch: BTreeMap<Name, PrefetchState>,
}

/// How far a host is with an image that it is to have before a VPS needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum PrefetchState {
    /// It has not begun with it, as far as is known.
    Waiting,
    /// It is on its way.
    Fetching {
        /// So much of it, in percent.
        percent: u8,
    },
    /// It is there, verified.
    Ready,
    /// It did not come; it is tried again.
    Failed {
        /// Why.
        problem: String,
    },
}

/// What a host is and has; changes slowly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Version of the agent.
    pub agent_version: String,
    /// Host name.
    pub hostname: String,
    /// Kernel release (uname(2)).
    pub kernel: String,
    /// Operating system, from os-release(5).
    pub os: String,
    /// Processors online.
    pub cores: u32,
    /// Memory in all.
    pub memory: Bytes,
    /// Size of the file system that holds the VPSs' disks.
    pub disk: Bytes,
    /// Free on it for the agent.
    pub disk_free: Bytes,
}

/// How a VM's processor is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Acceleration {
    /// Hardware virtualisation, proven by booting under it.
    Kvm,
    /// QEMU's translator: everywhere, and slow.
    Tcg,
    /// The engine has no use for it.
    None,
}

/// One engine on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Which.
    pub engine: Engine,
    /// Its version; empty while it does not answer.
    pub version: String,
    /// How fast its guests run.
    pub acceleration: Acceleration,
    /// Why it cannot be used now.
    pub problem: Option<String>,
}
