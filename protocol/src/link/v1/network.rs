//! The network of a VPS on the wire. FROZEN: see `v1`.

use serde::{Deserialize, Serialize};

use super::list::List;
use super::value::{Address, bad, unicast};
use crate::link::codec::DecodeError;
use crate::vps;

// Bounds of memory, not of the product: far above what any VPS has.
const ADDRESSES_MAX: usize = 256;
const NAME_SERVERS_MAX: usize = 32;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Interface {
    mac: [u8; 6],
    addresses: List<AddressPrefix, ADDRESSES_MAX>,
    gateway: Option<Address>,
    dns: List<Address, NAME_SERVERS_MAX>,
}

#[derive(Debug, Serialize, Deserialize)]
struct AddressPrefix {
    address: Address,
    prefix: u8,
}

impl From<&vps::NetworkInterface> for Interface {
    fn from(interface: &vps::NetworkInterface) -> Self {
        let vps::NetworkInterface { mac, addresses, gateway, dns } = interface;
        Self {
            mac: *mac,
            addresses: addresses.iter().map(AddressPrefix::from).collect(),
            gateway: gateway.map(Address::from),
            dns: dns.iter().copied().map(Address::from).collect(),
        }
    }
}

impl TryFrom<Interface> for vps::NetworkInterface {
    type Error = DecodeError;

    fn try_from(interface: Interface) -> Result<Self, DecodeError> {
        let Interface { mac, addresses, gateway, dns } = interface;
        let [first, ..] = mac;
        // IEEE 802: the lowest bit of the first byte marks a group, which no card is.
        if first & 1 == 1 || mac == [0; 6] {
            return Err(bad("mac", format_args!("{mac:02x?} is not the address of one card")));
        }
        Ok(Self {
            mac,
            addresses: addresses.0.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            gateway: gateway.map(|gateway| unicast("gateway", gateway)).transpose()?,
            dns: dns.0.into_iter().map(|server| unicast("dns", server)).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&vps::AddressPrefix> for AddressPrefix {
    fn from(prefixed: &vps::AddressPrefix) -> Self {
        let vps::AddressPrefix { address, prefix } = prefixed;
        Self { address: (*address).into(), prefix: *prefix }
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
