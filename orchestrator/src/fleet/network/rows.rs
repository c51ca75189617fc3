//! What is stored of networks, pools, addresses and traffic. Nothing here decides.

use std::net::IpAddr;

use chom_protocol::api::networks::{AddressRange, TrafficQuota};
use chom_protocol::network::{Attachment, Traffic};
use chom_protocol::{HostId, Name, UnixMillis, VpsId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::usage::rows::HourTraffic;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRow {
    /// Its name.
    pub name: Name,
    /// Where.
    pub region: Name,
    /// How its VPSs are plugged in.
    pub attachment: Attachment,
    /// Whether VPSs that name no network get this one.
    pub default: bool,
    /// When it was made.
    pub created_at: UnixMillis,
}

/// A pool of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRow {
    /// Of which network.
    pub network: Name,
    /// Its prefix.
    pub prefix: IpNet,
    /// Where packets for elsewhere go.
    pub gateway: IpAddr,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// What is never given.
    pub reserved: Vec<AddressRange>,
    /// Length of what each VPS gets.
    pub given_bits: u8,
}

/// Where an address means one machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// On a host: NAT networks are the host's own.
    Host(HostId),
    /// On a network.
    Network(Name),
}

/// That an address, or a prefix, is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRow {
    /// Where.
    pub scope: Scope,
    /// What.
    pub held: IpNet,
    /// Of which network.
    pub network: Name,
    /// By which VPS.
    pub vps: VpsId,
    /// On which host the VPS then was.
    pub host: HostId,
    /// Since when.
    pub since: UnixMillis,
}

/// That an address, or a prefix, was held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerAddressRow {
    /// As it was held.
    pub row: AddressRow,
    /// Until when.
    pub until: UnixMillis,
}

/// What went over a VPS's card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficRow {
    /// Whose.
    pub vps: VpsId,
    /// The host whose count it was.
    pub host: HostId,
    /// The host's count when it was last taken over.
    pub counted: Traffic,
    /// When it was.
    pub counted_at: UnixMillis,
    /// By month, oldest first.
    pub months: Vec<MonthRow>,
    /// By hour, of hours that are not closed (see `usage`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hours: Vec<HourTraffic>,
    /// How much it may have.
    pub quota: TrafficQuota,
}

/// Traffic of one month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthRow {
    /// Which.
    pub month: Month,
    /// How much.
    pub traffic: Traffic,
}

/// A month, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Month {
    /// The year.
    pub year: i16,
    /// 1 to 12.
    pub month: i8,
}
