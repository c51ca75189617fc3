//! Addresses of VPSs. At first each host has a NAT network of its own, the same range everywhere. Pure.

use std::net::{IpAddr, Ipv4Addr};

use chom_protocol::vps::{AddressPrefix, NetworkInterface};
use chom_protocol::{HostId, VpsId};

use crate::fleet::state::State;

/// The gateway of every host's NAT network, on the host's own bridge.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 155, 0, 1);
/// Length of its prefix.
pub(super) const PREFIX_BITS: u8 = 20;
const FIRST: u32 = u32::from_be_bytes([10, 155, 0, 10]);
const LAST: u32 = u32::from_be_bytes([10, 155, 15, 254]);

/// The lowest address that nothing holds on a host.
#[must_use]
pub(super) fn free_on(state: &State, host: HostId) -> Option<Ipv4Addr> {
    let mut next = FIRST;
    for ((_, address), _) in
        state.addresses.range((host, Ipv4Addr::from(FIRST))..=(host, Ipv4Addr::from(LAST)))
    {
        if u32::from(*address) != next {
            break;
        }
        next += 1;
    }
    (next <= LAST).then(|| Ipv4Addr::from(next))
}

/// A VPS's card: its hardware address follows from its id, so that it is the same for ever.
#[must_use]
pub(super) fn interface(vps: VpsId, address: Ipv4Addr) -> NetworkInterface {
    let bytes = vps.uuid().into_bytes();
    NetworkInterface {
        // 52:54:00 is QEMU's own prefix, locally administered; the rest are random bits of the id.
        mac: [0x52, 0x54, 0x00, bytes[13], bytes[14], bytes[15]],
        addresses: vec![AddressPrefix { address: IpAddr::V4(address), prefix: PREFIX_BITS }],
        gateway: Some(IpAddr::V4(GATEWAY)),
        dns: vec![IpAddr::V4(GATEWAY)],
    }
}
