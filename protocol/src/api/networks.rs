//! Networks, their pools and addresses, and the card of a VPS, as the API shows and takes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::id::{HostId, Name, VpsId};
use crate::network::{BridgeName, Firewall, Traffic, VlanTag};

/// Most pools of a network.
pub const POOLS_MAX: usize = 64;
/// Most reserved ranges of a pool.
pub const RESERVED_MAX: usize = 64;
/// Most name servers of a pool; resolvers look at three (resolv.conf(5)).
pub const DNS_MAX: usize = 3;
/// Most addresses and routed prefixes of a VPS together.
pub const ADDRESSES_PER_VPS_MAX: usize = 32;

/// Which kind a network is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// Each host's own, behind its NAT.
    Nat,
    /// An existing bridge of each host.
    Bridge,
}

/// Asks for a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateNetwork {
    /// Its name, unique in the fleet.
    pub name: Name,
    /// Where.
    pub region: Name,
    /// Of which kind.
    pub kind: NetworkKind,
    /// The bridge on every host of the region; only for kind `bridge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<BridgeName>,
    /// The VLAN that its VPSs are in; only for kind `bridge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanTag>,
    /// Whether VPSs that name no network get this one.
    #[serde(default)]
    pub default: bool,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkView {
    /// Its name.
    pub name: Name,
    /// Where; none: in every region.
    pub region: Option<Name>,
    /// Of which kind.
    pub kind: NetworkKind,
    /// Its bridge.
    pub bridge: Option<BridgeName>,
    /// Its VLAN.
    pub vlan: Option<VlanTag>,
    /// Whether VPSs that name no network get this one.
    pub default: bool,
    /// Its pools.
    pub pools: Vec<PoolView>,
    /// VPSs on it.
    pub vps_count: u32,
    /// Its revision, for `If-Match`; 0 for the one that is always there.
    pub revision: u64,
}

/// Addresses from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AddressRange {
    /// The first.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub first: IpAddr,
    /// The last.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub last: IpAddr,
}

/// Adds a pool to a network, or changes the one with this prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PutPool {
    /// Such as `192.0.2.0/24` or `2001:db8::/64`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub prefix: IpNet,
    /// Where packets for elsewhere go; within the prefix, or link-local.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub gateway: IpAddr,
    /// Name servers.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub dns: Vec<IpAddr>,
    /// What is never given.
    #[serde(default)]
    pub reserved: Vec<AddressRange>,
    /// Length of what each VPS gets: 32 or 128 for one address (so where absent), 64 for an IPv6 network of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_bits: Option<u8>,
}

/// Removes a pool of which nothing is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RemovePool {
    /// Its prefix.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub prefix: IpNet,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PoolView {
    /// Its prefix.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub prefix: IpNet,
    /// Where packets for elsewhere go.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub gateway: IpAddr,
    /// Name servers.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub dns: Vec<IpAddr>,
    /// What is never given.
    pub reserved: Vec<AddressRange>,
    /// Length of what each VPS gets.
    pub given_bits: u8,
    /// How many of it are held.
    pub held: u64,
}

/// An address or prefix, and who holds or held it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AddressView {
    /// What is held: one address is a /32 or /128.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub held: IpNet,
    /// Of which network.
    pub network: Name,
    /// By which VPS.
    pub vps: VpsId,
    /// Its name; none once it is gone.
    pub vps_name: Option<Name>,
    /// On which host it was first held; tenants are not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// Since when, RFC 3339.
    pub since: String,
    /// Until when, RFC 3339; none: it is held now.
    pub until: Option<String>,
}

/// Query parameters of the list of addresses, besides those of every list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct AddressQuery {
    /// Only what covers this address.
    pub address: Option<String>,
    /// Only of this VPS, by id.
    pub vps: Option<String>,
    /// Only of this network.
    pub network: Option<String>,
    /// As it was at this time, RFC 3339; as it is now where absent.
    pub at: Option<String>,
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AddressFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Changes the addresses of a VPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum ChangeAddresses {
    /// Gives it the lowest free one of a family, or the one that is named.
    Add {
        /// Of which family; needed where no address is named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        family: Option<AddressFamily>,
        /// Which.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
        address: Option<IpAddr>,
    },
    /// Lets it use a prefix that the network routes to it.
    Route {
        /// Which; outside every pool.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        prefix: IpNet,
    },
    /// Takes an address or a routed prefix away; it is free at once.
    Remove {
        /// Which, as `held` in the list of addresses; a bare address is fine.
        held: String,
    },
    /// Gives an address or a routed prefix to another VPS of the same network.
    Move {
        /// Which.
        held: String,
        /// To whom.
        to: VpsId,
    },
}

/// How fast a VPS may send and receive, bits a second; none: as fast as it can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RateLimits {
    /// To the guest.
    #[serde(default)]
    pub in_bits: Option<u64>,
    /// From the guest.
    #[serde(default)]
    pub out_bits: Option<u64>,
}

/// How much traffic a VPS may have in a month (UTC), both ways together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TrafficQuota {
    /// From here on there is an alert.
    #[serde(default)]
    pub soft_bytes: Option<u64>,
    /// From here on it is throttled until the month ends.
    #[serde(default)]
    pub hard_bytes: Option<u64>,
    /// To so many bits a second; needed with `hard_bytes`.
    #[serde(default)]
    pub throttle_bits: Option<u64>,
}

/// Changes what a VPS may send and receive. What is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeNetwork {
    /// Whether it may send only from its own addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoof_guard: Option<bool>,
    /// Its firewall, whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firewall: Option<Firewall>,
    /// Its rates, both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateLimits>,
    /// Its quota, whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<TrafficQuota>,
}

/// Traffic of one month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MonthView {
    /// The year.
    pub year: i16,
    /// The month, 1 to 12, UTC.
    pub month: i8,
    /// What went over its card.
    pub traffic: Traffic,
}

/// The card of a VPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VpsNetworkView {
    /// Whose.
    pub vps: VpsId,
    /// On which network.
    pub network: Name,
    /// Its hardware address.
    pub mac: String,
    /// The host's end of it.
    pub port: String,
    /// Its addresses with the lengths of their networks' prefixes.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub addresses: Vec<IpNet>,
    /// Prefixes routed to it.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub routed: Vec<IpNet>,
    /// Where IPv4 packets for elsewhere go.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub gateway_v4: Option<Ipv4Addr>,
    /// Where IPv6 packets for elsewhere go.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub gateway_v6: Option<Ipv6Addr>,
    /// Name servers.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub dns: Vec<IpAddr>,
    /// Whether it may send only from its own addresses.
    pub spoof_guard: bool,
    /// Its firewall.
    pub firewall: Firewall,
    /// Its rates.
    pub rate: RateLimits,
    /// Its quota.
    pub quota: TrafficQuota,
    /// Whether it is throttled now, and to what.
    pub throttle_bits: Option<u64>,
    /// Traffic by month, the newest first. The present month is as last reported.
    pub months: Vec<MonthView>,
    /// Its revision, for `If-Match`.
    pub revision: u64,
}
