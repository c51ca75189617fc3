//! The card of a VPS: what its spec says of its network, from pools and what is held of them. Pure, but for taking a new
//! VPS's first addresses.

use std::net::IpAddr;

use chom_protocol::network::alone;
use chom_protocol::vps::{AddressPrefix, NetworkInterface};
use chom_protocol::{HostId, VpsId};
use ipnet::IpNet;

use super::address::{exhausted, free_of, held_within, scope};
use super::allocation::{may_be_given, overlap};
use super::pools;
use super::rows::{AddressRow, NetworkRow, PoolRow, Scope};
use crate::fleet::{Decision, FleetError};

/// Name servers of a card; what resolvers look at (resolv.conf(5)).
const SERVERS_MAX: usize = 3;

/// Whose card is plugged in, and where.
pub(in crate::fleet) struct Wanted<'a> {
    /// Which VPS.
    pub(in crate::fleet) vps: VpsId,
    /// On which host.
    pub(in crate::fleet) host: HostId,
    /// On which network.
    pub(in crate::fleet) network: &'a NetworkRow,
}

/// Gives a new VPS its card, with the lowest free address of each family that the network has.
pub(in crate::fleet) fn plug_in(
    decision: &mut Decision,
    wanted: &Wanted<'_>,
) -> Result<NetworkInterface, FleetError> {
    let Wanted { vps, host, network } = *wanted;
    let scope = scope(&network.attachment, host, &network.name);
    let all = pools(&decision.state, &network.name);
    if all.is_empty() {
        return Err(FleetError::invalid(
            "/network",
            format!(
                "network `{}` in region `{}` has no pool yet; add one to it",
                network.name, network.region
            ),
        ));
    }
    let mut card = NetworkInterface::bare(mac(vps));
    card.attachment = network.attachment.clone();
    for is_v4 in [true, false] {
        let of: Vec<&PoolRow> = all.iter().filter(|pool| pool.prefix.addr().is_ipv4() == is_v4).collect();
        if of.is_empty() {
            continue;
        }
        let (pool, held) = match decision.pinned.as_ref() {
            Some(pinned) => planned(decision, &scope, &of, &pinned.addresses)?,
            None => {
                let free = of.iter().find_map(|pool| Some((*pool, free_of(&decision.state, &scope, pool)?)));
                free.ok_or_else(|| exhausted(network, &of))?
            }
        };
        add(&mut card, pool, held);
        let (scope, network, since) = (scope.clone(), network.name.clone(), decision.now);
        decision.put(AddressRow { scope, held, network, vps, host, since })?;
    }
    Ok(card)
}

/// The address of these pools that a plan named, if it is still free.
fn planned<'p>(
    decision: &Decision,
    scope: &Scope,
    pools: &[&'p PoolRow],
    addresses: &[IpAddr],
) -> Result<(&'p PoolRow, IpNet), FleetError> {
    let of = |address: &IpAddr| pools.iter().find(|pool| pool.prefix.contains(address)).copied();
    let named = addresses.iter().find_map(|address| Some((*address, of(address)?)));
    let (address, pool) =
        named.ok_or_else(|| FleetError::conflict("no pool has the planned address any more"))?;
    let held = IpNet::new(address, pool.given_bits).map_or(alone(address), |net| net.trunc());
    let taken = held_within(&decision.state, scope, pool.prefix).any(|other| overlap(other.held, held));
    if taken || !may_be_given(pool, held) {
        return Err(FleetError::conflict(format!("address {address} is not free any more")));
    }
    Ok((pool, held))
}

/// A card's hardware address follows from its VPS's id, so that it is the same for ever: the first byte marks it as
/// locally administered (IEEE 802), the rest are random bits of the id.
pub(super) fn mac(vps: VpsId) -> [u8; 6] {
    let [.., a, b, c, d, e] = vps.uuid().into_bytes();
    [0x52, a, b, c, d, e]
}

/// Puts what is held of a pool on a card.
pub(super) fn add(card: &mut NetworkInterface, pool: &PoolRow, held: IpNet) {
    let single = held.prefix_len() == held.max_prefix_len();
    if single {
        card.addresses.push(AddressPrefix { address: held.addr(), prefix: pool.prefix.prefix_len() });
    } else {
        // A network of its own: its first address is the VPS's, all others are its to use.
        let first = held.hosts().nth(1).unwrap_or(held.addr());
        card.addresses.push(AddressPrefix { address: first, prefix: held.prefix_len() });
        card.routed.push(held);
    }
    match pool.gateway {
        IpAddr::V4(gateway) => card.gateway_v4 = card.gateway_v4.or(Some(gateway)),
        IpAddr::V6(gateway) => card.gateway_v6 = card.gateway_v6.or(Some(gateway)),
    }
    for server in &pool.dns {
        if card.dns.len() < SERVERS_MAX && !card.dns.contains(server) {
            card.dns.push(*server);
        }
    }
}

/// Takes something off a card; a gateway stays only while an address of its family does.
pub(super) fn remove(card: &mut NetworkInterface, pools: &[PoolRow], held: IpNet) {
    card.addresses.retain(|own| !held.contains(&own.address));
    card.routed.retain(|net| *net != held);
    let left = card.addresses.clone();
    let gateway = |is_v4: bool| {
        let own = left.iter().filter(|own| own.address.is_ipv4() == is_v4);
        own.filter_map(|own| pools.iter().find(|pool| pool.prefix.contains(&own.address)))
            .map(|pool| pool.gateway)
            .next()
    };
    card.gateway_v4 = match gateway(true) {
        Some(IpAddr::V4(gateway)) => Some(gateway),
        Some(IpAddr::V6(_)) | None => None,
    };
    card.gateway_v6 = match gateway(false) {
        Some(IpAddr::V6(gateway)) => Some(gateway),
        Some(IpAddr::V4(_)) | None => None,
    };
}

/// What a card says that its VPS holds.
pub(super) fn holds(card: &NetworkInterface) -> Vec<IpNet> {
    let covered = |own: &&AddressPrefix| !card.routed.iter().any(|net| net.contains(&own.address));
    let single = card.addresses.iter().filter(covered).map(|own| alone(own.address));
    single.chain(card.routed.iter().copied()).collect()
}
