//! Taking on guests that CHOM did not make.

use serde::{Deserialize, Serialize};

use crate::foreign::GuestDisk;
use crate::id::Name;
use crate::units::Bytes;
use crate::vps::Engine;

use super::vps_servers::VpsView;

/// Most guests that are planned in one request; a body has room for them.
pub const ADOPTIONS_MAX: usize = 500;

/// Asks that a foreign guest becomes a VPS, where it stands and as it is. It is not restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AdoptVps {
    /// The host that it is on: its name or id.
    pub host: Name,
    /// Its name in its engine, which it keeps.
    pub guest: String,
    /// Its engine; needed only where two engines of the host have a guest of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// Its name as a VPS, unique within the tenant; its name in its engine where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Whose it is; the default tenant's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
    /// The network that its card is on; where absent, the one of the host's region that has the card's bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Name>,
    /// The addresses that it has, and prefixes that are routed to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The hardware address of its card; needed only where it has several and the first is not the one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Virtual processors that it counts with, where its engine does not limit them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// Memory that it counts with, where its engine does not limit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<Bytes>,
    /// Disk that it counts with, where its engine does not limit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<Bytes>,
    /// What another system calls it, such as the panel it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// Whether it may send only from its own hardware address and, where any are given, its own addresses.
    #[serde(default = "yes")]
    pub spoof_guard: bool,
}

fn yes() -> bool {
    true
}

/// Several guests to be planned together: what one takes is taken for the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PlanAdoptions {
    /// Which, in the order in which they would be adopted.
    pub guests: Vec<AdoptVps>,
}

/// What an adoption would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AdoptPlan {
    /// The host, as it was named.
    pub host: Name,
    /// The guest's name in its engine.
    pub guest: String,
    /// The VPS that it would be; none: it would not be adopted.
    pub vps: Option<VpsView>,
    /// Why not, and what to do.
    pub problem: Option<String>,
    /// What is to be known of it.
    pub notes: Vec<String>,
}

/// What each of several adoptions would do, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AdoptPlans {
    /// One for each guest.
    pub plans: Vec<AdoptPlan>,
}

/// The guest that a VPS was adopted as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AdoptedView {
    /// Its name in its engine.
    pub guest: String,
    /// Its disks as they were then; the first one is the VPS's.
    pub disks: Vec<GuestDisk>,
}
