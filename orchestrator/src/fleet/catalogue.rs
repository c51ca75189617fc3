//! What VPSs are made of and where they may stand: regions, sizes, images; and the fleet's rules. From the configuration;
//! fixed while the orchestrator runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chom_protocol::host::AgentSettings;
use chom_protocol::vps::{Engine, ImageReference};
use chom_protocol::{Bytes, Name};

/// A size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Virtual processors.
    pub cores: u32,
    /// Memory.
    pub memory: Bytes,
    /// Disk.
    pub disk: Bytes,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// As agents get it.
    pub reference: ImageReference,
    /// The engine that runs it.
    pub engine: Engine,
    /// Smallest disk that it fits on.
    pub minimum_disk: Bytes,
    /// Where its file is.
    pub path: PathBuf,
}

/// How much of a host may be promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overcommit {
    /// Cores promised for each real one.
    pub cores_per_core: u32,
    /// Memory of each host that is not for VPSs.
    pub memory_reserved: Bytes,
    /// Disk of each host that is not for VPSs.
    pub disk_reserved: Bytes,
}

impl Default for Overcommit {
    fn default() -> Self {
        Self { cores_per_core: 8, memory_reserved: Bytes::mib(512), disk_reserved: Bytes::gib(2) }
    }
}

/// What there is to choose from, and the rules.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// The fleet's name, for the certificates of its CAs.
    pub fleet_name: Name,
    /// Regions, in order of name.
    pub regions: Vec<Name>,
    /// Sizes by name.
    pub sizes: BTreeMap<Name, Size>,
    /// Images by name.
    pub images: BTreeMap<Name, Image>,
    /// The images used when none is asked for, at most one of each engine, in the order in which they are tried.
    pub default_images: Vec<Name>,
    /// How much of a host may be promised.
    pub overcommit: Overcommit,
    /// How agents should behave.
    pub agent: AgentSettings,
    /// Seconds for which a deleted VPS is kept.
    pub retention_seconds: u64,
    /// Seconds without a sign of life after which a host counts as unreachable.
    pub unreachable_after_seconds: u64,
    /// Seconds an operation may take before it ends as failed.
    pub operation_seconds_max: u64,
    /// `host:port` of every orchestrator, as agents dial them.
    pub link_addresses: Vec<String>,
}
