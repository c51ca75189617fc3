//! What VPSs are made of and where they may stand: regions, sizes, images; and the fleet's rules. From the configuration;
//! fixed while the orchestrator runs.

use std::collections::BTreeMap;

use chom_protocol::api::hosts::HostLimits;
use chom_protocol::host::{AgentSettings, Inventory};
use chom_protocol::vps::{Engine, ImageReference};
use chom_protocol::{Bytes, Name};
use ipnet::IpNet;

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
}

/// How much of a host may be promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overcommit {
    /// Cores promised for each real one.
    pub cores_per_core: u32,
    /// Memory promised for 100 bytes of real memory.
    pub memory_percent: u32,
    /// Real cores of each host that are not for VPSs.
    pub cores_reserved: u32,
    /// Memory of each host that is not for VPSs.
    pub memory_reserved: Bytes,
    /// Disk of each host that is not for VPSs.
    pub disk_reserved: Bytes,
}

impl Overcommit {
    /// What may be promised of a host that has this and these limits of its own: cores, memory, disk.
    #[must_use]
    pub fn promisable(&self, limits: &HostLimits, inventory: &Inventory) -> (u32, Bytes, Bytes) {
        let cores = inventory.cores.saturating_sub(limits.cores_reserved.unwrap_or(self.cores_reserved));
        let cores = cores.saturating_mul(limits.cores_per_core.unwrap_or(self.cores_per_core));
        let reserved = limits.memory_reserved_bytes.unwrap_or(self.memory_reserved);
        let memory = u128::from(inventory.memory.0.saturating_sub(reserved.0));
        let memory = memory * u128::from(limits.memory_percent.unwrap_or(self.memory_percent)) / 100;
        let reserved = limits.disk_reserved_bytes.unwrap_or(self.disk_reserved);
        let disk = inventory.disk.0.saturating_sub(reserved.0);
        (cores, Bytes(u64::try_from(memory).unwrap_or(u64::MAX)), Bytes(disk))
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
    /// Networks beside the public Internet that images may be fetched from.
    pub image_networks: Vec<IpNet>,
    /// Networks beside the public Internet that webhooks of tenants may be posted to.
    pub webhook_networks: Vec<IpNet>,
    /// `host:port` of every orchestrator, as agents dial them.
    pub link_addresses: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_own_limits_count_before_the_fleets() {
        let fleet = Overcommit {
            cores_per_core: 8,
            memory_percent: 100,
            cores_reserved: 0,
            memory_reserved: Bytes::gib(1),
            disk_reserved: Bytes::gib(10),
        };
        let inventory =
            Inventory { cores: 4, memory: Bytes::gib(17), disk: Bytes::gib(110), ..Inventory::default() };
        let own = HostLimits {
            cores_per_core: Some(2),
            memory_percent: Some(150),
            cores_reserved: Some(1),
            memory_reserved_bytes: Some(Bytes::gib(3)),
            disk_reserved_bytes: Some(Bytes::gib(200)),
        };
        let table = [
            (HostLimits::default(), (32, Bytes::gib(16), Bytes::gib(100))),
            (own, (6, Bytes::gib(21), Bytes(0))),
            (
                HostLimits { cores_reserved: Some(9), ..HostLimits::default() },
                (0, Bytes::gib(16), Bytes::gib(100)),
            ),
        ];
        for (limits, promisable) in table {
            assert_eq!(fleet.promisable(&limits, &inventory), promisable, "{limits:?}");
        }
    }
}
