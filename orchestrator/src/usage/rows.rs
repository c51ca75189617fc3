//! What is stored of usage that is not in a file yet: how far hours are closed, and what VPSs had before they were changed.
//! Nothing here decides.

use chom_protocol::network::Traffic;
use chom_protocol::{Bytes, Name, UnixMillis, VpsId};
use serde::{Deserialize, Serialize};

/// The number of the one row of its kind.
pub(crate) const THE_CLOSING: u64 = 1;

/// How far hours are closed. Hours are counted from 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosingRow {
    /// Length of an hour. 3600, but where somebody tries billing out.
    pub hour_seconds: u64,
    /// To this hour and those before it nothing is added any more.
    pub frozen: u64,
    /// This hour and those before it are in files.
    pub closed: u64,
}

impl ClosingRow {
    /// The hour of a moment.
    #[must_use]
    pub fn hour(&self, at: UnixMillis) -> u64 {
        at.0 / (self.hour_seconds * 1000)
    }

    /// When an hour begins.
    #[must_use]
    pub fn begins(&self, hour: u64) -> UnixMillis {
        UnixMillis(hour.saturating_mul(self.hour_seconds * 1000))
    }

    /// When what is written down now happens: never in an hour that is frozen, however the clock was set.
    #[must_use]
    pub fn now(&self, now: UnixMillis) -> UnixMillis {
        now.max(self.begins(self.frozen + 1))
    }
}

/// Whether a VPS is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It runs, or is paused.
    On,
    /// It does not.
    Off,
    /// Nobody knows.
    Unknown,
}

/// What a VPS has, as far as it is billed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Whose it is.
    pub tenant: Name,
    /// Its name.
    pub name: Name,
    /// What another system calls it.
    pub external_id: Option<String>,
    /// Where.
    pub region: Name,
    /// The size it was made with.
    pub size: Name,
    /// Virtual processors; none while it is deleted and kept.
    pub cores: u32,
    /// Memory; none while it is deleted and kept.
    pub memory: Bytes,
    /// Disk.
    pub disk: Bytes,
    /// Addresses and routed prefixes.
    pub addresses: u32,
    /// Whether it is on.
    pub power: Power,
    /// When it was made.
    pub created_at: UnixMillis,
}

/// Traffic of one hour that is not closed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HourTraffic {
    /// Which.
    pub hour: u64,
    /// How much.
    pub traffic: Traffic,
}

/// What a VPS had until it was changed or went. It had it since the change before, or since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRow {
    /// Which.
    pub vps: VpsId,
    /// Until when.
    pub until: UnixMillis,
    /// What.
    pub holding: Holding,
    /// Of one that went: its traffic of hours that were not closed.
    pub gone: Option<Vec<HourTraffic>>,
}
