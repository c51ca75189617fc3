//! The network of a VPS on the wire. FROZEN: see `v1`.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::list::List;
use super::spec::twin;
use super::value::{Address, Within, bad, unicast};
use crate::link::codec::DecodeError;
use crate::{network, vps};

// Bounds of memory, not of the product: far above what any VPS has.
const ADDRESSES_MAX: usize = 256;
const NAME_SERVERS_MAX: usize = 32;
const RULES_MAX: usize = 256;
const PORTS_MAX: usize = 64;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Interface {
    mac: [u8; 6],
    attachment: Attachment,
    addresses: List<AddressPrefix, ADDRESSES_MAX>,
    routed: List<AddressPrefix, ADDRESSES_MAX>,
    gateway_v4: Option<[u8; 4]>,
    gateway_v6: Option<[u8; 16]>,
    dns: List<Address, NAME_SERVERS_MAX>,
    spoof_guard: bool,
    firewall: Firewall,
    rate: Rate,
}

#[derive(Debug, Serialize, Deserialize)]
struct AddressPrefix {
    address: Address,
    prefix: u8,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Attachment {
    Nat,
    Bridge { name: String, vlan: Option<u16> },
}

#[derive(Debug, Serialize, Deserialize)]
struct Firewall {
    default_in: FirewallAction,
    default_out: FirewallAction,
    rules: List<FirewallRule, RULES_MAX>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FirewallRule {
    direction: Direction,
    protocol: TransportProtocol,
    ports: List<(u16, u16), PORTS_MAX>,
    peer: Option<AddressPrefix>,
    action: FirewallAction,
}

#[derive(Debug, Serialize, Deserialize)]
struct Rate {
    in_bits: Option<u64>,
    out_bits: Option<u64>,
    throttle_bits: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Traffic {
    in_bytes: u64,
    out_bytes: u64,
}

impl From<&vps::NetworkInterface> for Interface {
    fn from(interface: &vps::NetworkInterface) -> Self {
        let vps::NetworkInterface {
            mac,
            attachment,
            addresses,
            routed,
            gateway_v4,
            gateway_v6,
            dns,
            spoof_guard,
            firewall,
            rate,
        } = interface;
        Self {
            mac: *mac,
            attachment: attachment.into(),
            addresses: addresses.iter().map(AddressPrefix::from).collect(),
            routed: routed.iter().map(AddressPrefix::from).collect(),
            gateway_v4: gateway_v4.map(|gateway| gateway.octets()),
            gateway_v6: gateway_v6.map(|gateway| gateway.octets()),
            dns: dns.iter().copied().map(Address::from).collect(),
            spoof_guard: *spoof_guard,
            firewall: firewall.into(),
            rate: rate.into(),
        }
    }
}

impl TryFrom<Interface> for vps::NetworkInterface {
    type Error = DecodeError;

    fn try_from(interface: Interface) -> Result<Self, DecodeError> {
        let Interface {
            mac,
            attachment,
            addresses,
            routed,
            gateway_v4,
            gateway_v6,
            dns,
            spoof_guard,
            firewall,
            rate,
        } = interface;
        let [first, ..] = mac;
        // IEEE 802: the lowest bit of the first byte marks a group, which no card is.
        if first & 1 == 1 || mac == [0; 6] {
            return Err(bad("mac", format_args!("{mac:02x?} is not the address of one card")));
        }
        let (gateway_v4, gateway_v6) = (gateway_v4.map(Address::V4), gateway_v6.map(Address::V6));
        for gateway in [gateway_v4, gateway_v6].into_iter().flatten() {
            unicast("gateway", gateway)?;
        }
        Ok(Self {
            mac,
            attachment: attachment.try_into()?,
            addresses: addresses.0.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            routed: routed.0.into_iter().map(|prefix| network("routed", prefix)).collect::<Result<_, _>>()?,
            gateway_v4: gateway_v4.and_then(|gateway| match gateway {
                Address::V4(octets) => Some(Ipv4Addr::from(octets)),
                Address::V6(_) => None,
            }),
            gateway_v6: gateway_v6.and_then(|gateway| match gateway {
                Address::V6(octets) => Some(Ipv6Addr::from(octets)),
                Address::V4(_) => None,
            }),
            dns: dns.0.into_iter().map(|server| unicast("dns", server)).collect::<Result<_, _>>()?,
            spoof_guard,
            firewall: network::Firewall::try_from(firewall).within("firewall")?,
            rate: rate.into(),
        })
    }
}

impl From<&vps::AddressPrefix> for AddressPrefix {
    fn from(prefixed: &vps::AddressPrefix) -> Self {
        let vps::AddressPrefix { address, prefix } = prefixed;
        Self { address: (*address).into(), prefix: *prefix }
    }
}

impl From<&IpNet> for AddressPrefix {
    fn from(network: &IpNet) -> Self {
        Self { address: network.addr().into(), prefix: network.prefix_len() }
    }
}

impl TryFrom<AddressPrefix> for vps::AddressPrefix {
    type Error = DecodeError;

    fn try_from(prefixed: AddressPrefix) -> Result<Self, DecodeError> {
        let AddressPrefix { address, prefix } = prefixed;
        let address = unicast("addresses", address)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if prefix > bits {
            return Err(bad(
                "addresses",
                format_args!("{address}/{prefix} has a prefix of more than {bits} bits"),
            ));
        }
        Ok(Self { address, prefix })
    }
}

/// A prefix: no bits beyond its length.
fn network(field: &str, prefixed: AddressPrefix) -> Result<IpNet, DecodeError> {
    let AddressPrefix { address, prefix } = prefixed;
    let network = IpNet::new(address.into(), prefix).map_err(|error| bad(field, error))?;
    if network.trunc() != network {
        return Err(bad(field, format_args!("{network} has bits set beyond its length")));
    }
    Ok(network)
}

impl From<&network::Attachment> for Attachment {
    fn from(attachment: &network::Attachment) -> Self {
        match attachment {
            network::Attachment::Nat => Self::Nat,
            network::Attachment::Bridge { name, vlan } => {
                Self::Bridge { name: name.as_str().to_owned(), vlan: vlan.map(Into::into) }
            }
        }
    }
}

impl TryFrom<Attachment> for network::Attachment {
    type Error = DecodeError;

    fn try_from(attachment: Attachment) -> Result<Self, DecodeError> {
        let wrong = |error: network::AttachmentError| bad("attachment", error);
        Ok(match attachment {
            Attachment::Nat => Self::Nat,
            Attachment::Bridge { name, vlan } => Self::Bridge {
                name: name.try_into().map_err(wrong)?,
                vlan: vlan.map(network::VlanTag::try_from).transpose().map_err(wrong)?,
            },
        })
    }
}

impl From<&network::Firewall> for Firewall {
    fn from(firewall: &network::Firewall) -> Self {
        let network::Firewall { default_in, default_out, rules } = firewall;
        Self {
            default_in: (*default_in).into(),
            default_out: (*default_out).into(),
            rules: rules.iter().map(FirewallRule::from).collect(),
        }
    }
}

impl TryFrom<Firewall> for network::Firewall {
    type Error = DecodeError;

    fn try_from(firewall: Firewall) -> Result<Self, DecodeError> {
        let Firewall { default_in, default_out, rules } = firewall;
        let rules = rules.0.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        let firewall = Self { default_in: default_in.into(), default_out: default_out.into(), rules };
        firewall.check().map_err(|error| bad("rules", error))?;
        Ok(firewall)
    }
}

impl From<&network::FirewallRule> for FirewallRule {
    fn from(rule: &network::FirewallRule) -> Self {
        let network::FirewallRule { direction, protocol, ports, peer, action } = rule;
        Self {
            direction: (*direction).into(),
            protocol: (*protocol).into(),
            ports: ports.iter().map(|range| range.ends()).collect(),
            peer: peer.as_ref().map(AddressPrefix::from),
            action: (*action).into(),
        }
    }
}

impl TryFrom<FirewallRule> for network::FirewallRule {
    type Error = DecodeError;

    fn try_from(rule: FirewallRule) -> Result<Self, DecodeError> {
        let FirewallRule { direction, protocol, ports, peer, action } = rule;
        let port = |(first, last)| {
            network::PortRange::new(first, last)
                .ok_or_else(|| bad("ports", format_args!("{first}-{last} is no range of ports")))
        };
        Ok(Self {
            direction: direction.into(),
            protocol: protocol.into(),
            ports: ports.0.into_iter().map(port).collect::<Result<_, _>>()?,
            peer: peer.map(|peer| network("peer", peer)).transpose()?,
            action: action.into(),
        })
    }
}

impl From<&network::Rate> for Rate {
    fn from(rate: &network::Rate) -> Self {
        let network::Rate { in_bits, out_bits, throttle_bits } = rate;
        Self { in_bits: *in_bits, out_bits: *out_bits, throttle_bits: *throttle_bits }
    }
}

impl From<Rate> for network::Rate {
    fn from(rate: Rate) -> Self {
        let Rate { in_bits, out_bits, throttle_bits } = rate;
        Self { in_bits, out_bits, throttle_bits }
    }
}

impl From<network::Traffic> for Traffic {
    fn from(traffic: network::Traffic) -> Self {
        let network::Traffic { in_bytes, out_bytes } = traffic;
        Self { in_bytes, out_bytes }
    }
}

impl From<Traffic> for network::Traffic {
    fn from(traffic: Traffic) -> Self {
        let Traffic { in_bytes, out_bytes } = traffic;
        Self { in_bytes, out_bytes }
    }
}

// The order of the variants is their number on the wire: add at the end only.
twin! {
    Direction = network::Direction { In, Out }
    TransportProtocol = network::TransportProtocol { Any, Tcp, Udp, Icmp }
    FirewallAction = network::FirewallAction { Accept, Drop }
}
