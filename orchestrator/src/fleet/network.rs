//! Networks and their pools: made, changed, removed, shown. Addresses and cards of VPSs are in `network/`.

mod address;
pub(super) mod adopt;
mod allocation;
mod card;
mod policy;
pub mod rows;
pub mod traffic;
pub mod view;

use std::net::IpAddr;

use chom_protocol::api::networks::{
    CreateNetwork, DNS_MAX, NetworkKind, NetworkView, POOLS_MAX, PutPool, RESERVED_MAX, RemovePool,
};
use chom_protocol::network::Attachment;
use chom_protocol::vps::NetworkInterface;
use chom_protocol::{Name, UnixMillis};
use ipnet::IpNet;

use crate::fleet::error::ErrorKind;
use crate::fleet::hosts::unknown;
use crate::fleet::state::{State, Table};
use crate::fleet::{Caller, Decision, Done, Fleet, FleetError, RequestMark, check_revision};
use allocation::overlap;
use rows::{NetworkRow, PoolRow};

pub(super) use address::{release_all, release_host, settle};
pub(super) use card::{Wanted, plug_in};

/// Largest prefix of a pool of IPv4: a /8 is all of 10.0.0.0.
const POOL_BITS_V4_MIN: u8 = 8;
/// Largest prefix of a pool of IPv6: what a registry gives a provider.
const POOL_BITS_V6_MIN: u8 = 29;
/// What each VPS gets of a pool that gives networks.
const GIVEN_NET_BITS: u8 = 64;

/// The network that is always there: each host's own, behind its NAT.
pub(super) const NAT: &str = "nat";
/// Its range, the same on every host; the agent's libvirt network has it.
const NAT_PREFIX: &str = "10.155.0.0/20";

/// The name of the network that is always there.
pub(super) fn nat_name() -> Name {
    // The constant is a name by RFC 1123; a test reads it.
    NAT.parse().unwrap_or_else(|_| Name::default_tenant())
}

/// The network that is always there.
fn nat(region: &Name) -> NetworkRow {
    NetworkRow {
        name: nat_name(),
        region: region.clone(),
        attachment: Attachment::Nat,
        default: false,
        created_at: UnixMillis(0),
    }
}

/// Its pool.
fn nat_pool() -> Option<PoolRow> {
    let prefix: IpNet = NAT_PREFIX.parse().ok()?;
    let gateway = prefix.hosts().next()?;
    // The first ones are for what the host's administrator puts beside the guests.
    let reserved = prefix
        .hosts()
        .take(9)
        .last()
        .map(|last| chom_protocol::api::networks::AddressRange { first: gateway, last });
    Some(PoolRow {
        network: nat_name(),
        prefix,
        gateway,
        dns: vec![gateway],
        reserved: reserved.into_iter().collect(),
        given_bits: 32,
    })
}

/// The pools of a network, in order.
pub(super) fn pools(state: &State, network: &Name) -> Vec<PoolRow> {
    if network.as_str() == NAT {
        return nat_pool().into_iter().collect();
    }
    let of = state.pools.iter().filter(|((of, _), _)| of == network);
    of.map(|(_, stored)| stored.row.as_ref().clone()).collect()
}

/// A network by its name, as a region has it.
fn network(state: &State, region: &Name, name: &Name) -> Option<NetworkRow> {
    if name.as_str() == NAT {
        return Some(nat(region));
    }
    state.get::<NetworkRow>(name).filter(|row| row.region == *region).cloned()
}

/// The network that a new VPS gets.
pub(super) fn choose(state: &State, region: &Name, name: Option<&Name>) -> Result<NetworkRow, FleetError> {
    let here =
        || state.networks.values().map(|stored| stored.row.as_ref()).filter(|row| row.region == *region);
    match name {
        Some(name) => network(state, region, name).ok_or_else(|| {
            let nat = nat_name();
            unknown("/network", "network in this region", name, here().map(|row| &row.name).chain([&nat]))
        }),
        None => Ok(here().find(|row| row.default).cloned().unwrap_or_else(|| nat(region))),
    }
}

/// The network that a card which only its host knows is on.
pub(super) fn of_card(state: &State, region: &Name, card: &NetworkInterface) -> Result<Name, FleetError> {
    let here = state.networks.values().map(|stored| stored.row.as_ref()).filter(|row| row.region == *region);
    match here.filter(|row| row.attachment == card.attachment).map(|row| row.name.clone()).next() {
        Some(name) => Ok(name),
        None if card.attachment == Attachment::Nat => Ok(nat_name()),
        None => Err(FleetError::conflict(format!(
            "the ledger has a VPS on {:?}, and no network of region `{region}` is there; make one first",
            card.attachment
        ))),
    }
}

impl Fleet {
    /// Makes a network. It gives nothing before it has a pool.
    ///
    /// # Errors
    /// When the request contradicts itself, or the name is taken.
    pub async fn create_network(
        &self,
        caller: &Caller,
        mark: RequestMark,
        request: CreateNetwork,
    ) -> Result<Done<NetworkView>, FleetError> {
        let attachment = attachment(&request)?;
        if !self.catalogue().regions.contains(&request.region) {
            return Err(unknown("/region", "region", &request.region, self.catalogue().regions.iter()));
        }
        self.mutate(caller, mark, move |decision, _| {
            let CreateNetwork { name, region, kind: _, bridge: _, vlan: _, default } = request;
            if name.as_str() == NAT || decision.state.networks.contains_key(&name) {
                return Err(taken(
                    "/name",
                    format!("a network named `{name}` exists already; choose another name"),
                ));
            }
            let mut here = decision.state.networks.values().map(|stored| stored.row.as_ref());
            if let Some(other) = here.find(|row| row.region == region && row.default && default) {
                return Err(taken(
                    "/default",
                    format!(
                        "network `{}` is the default of region `{region}` already; a region has one",
                        other.name
                    ),
                ));
            }
            let row = NetworkRow { name, region, attachment, default, created_at: decision.now };
            decision.audit("network.create", &row.name)?;
            decision.put(row.clone())?;
            Ok(view::network(&decision.state, &row))
        })
        .await
    }

    /// Removes a network without pools and VPSs.
    ///
    /// # Errors
    /// When there is no such network, or something of it is in use.
    pub async fn delete_network(
        &self,
        caller: &Caller,
        mark: RequestMark,
        name: Name,
    ) -> Result<Done<NetworkView>, FleetError> {
        self.mutate(caller, mark, move |decision, mark| {
            let row = stored(&decision.state, &name, mark)?;
            let shown = view::network(&decision.state, &row);
            if shown.vps_count > 0 || !shown.pools.is_empty() {
                return Err(FleetError::conflict(format!(
                    "network `{name}` has {} VPSs and {} pools; purge those and remove these first",
                    shown.vps_count,
                    shown.pools.len()
                )));
            }
            decision.delete::<NetworkRow>(&name);
            decision.audit("network.delete", &name)?;
            Ok(shown)
        })
        .await
    }

    /// Adds a pool, or changes the one with its prefix. What is held of it stays held.
    ///
    /// # Errors
    /// When the pool cannot be, or another one has some of its addresses.
    pub async fn put_pool(
        &self,
        caller: &Caller,
        mark: RequestMark,
        name: Name,
        request: PutPool,
    ) -> Result<Done<NetworkView>, FleetError> {
        let pool = check_pool(&name, request)?;
        self.mutate(caller, mark, move |decision, mark| {
            let row = stored(&decision.state, &name, mark)?;
            check_place(&decision.state, &row, &pool)?;
            decision.audit("network.pool", format!("{name} {}", pool.prefix))?;
            decision.put(pool)?;
            decision.put(row.clone())?; // its revision says that something of it changed
            Ok(view::network(&decision.state, &row))
        })
        .await
    }

    /// Removes a pool of which nothing is held.
    ///
    /// # Errors
    /// When there is no such pool, or something of it is held.
    pub async fn remove_pool(
        &self,
        caller: &Caller,
        mark: RequestMark,
        name: Name,
        request: RemovePool,
    ) -> Result<Done<NetworkView>, FleetError> {
        self.mutate(caller, mark, move |decision, mark| {
            let row = stored(&decision.state, &name, mark)?;
            let id = (name.clone(), request.prefix);
            let pool = decision.state.get::<PoolRow>(&id);
            let pool = pool.ok_or_else(|| FleetError::not_found("pool", request.prefix))?;
            let held = view::held_of(&decision.state, pool);
            if held > 0 {
                return Err(FleetError::conflict(format!(
                    "{held} addresses of pool {} are held; see `chomctl address list --network {name}`",
                    request.prefix
                )));
            }
            decision.delete::<PoolRow>(&id);
            decision.put(row.clone())?;
            decision.audit("network.pool-remove", format!("{name} {}", request.prefix))?;
            Ok(view::network(&decision.state, &row))
        })
        .await
    }
}

fn taken(location: &'static str, detail: String) -> FleetError {
    FleetError::Refused { kind: ErrorKind::Conflict, detail, location: Some(location) }
}

fn stored(state: &State, name: &Name, mark: &RequestMark) -> Result<NetworkRow, FleetError> {
    if name.as_str() == NAT {
        return Err(FleetError::conflict(format!(
            "network `{NAT}` is always there and the same on every host; make a network of your own"
        )));
    }
    let stored = state.networks.get(name).ok_or_else(|| FleetError::not_found("network", name))?;
    check_revision(mark, stored.revision)?;
    Ok(stored.row.as_ref().clone())
}

fn attachment(request: &CreateNetwork) -> Result<Attachment, FleetError> {
    match (request.kind, &request.bridge, request.vlan) {
        (NetworkKind::Bridge, Some(name), vlan) => Ok(Attachment::Bridge { name: name.clone(), vlan }),
        (NetworkKind::Bridge, None, _) => Err(FleetError::invalid(
            "/bridge",
            "a network of kind `bridge` names the bridge that each host of the region has, such as `br0`",
        )),
        (NetworkKind::Nat, None, None) => Ok(Attachment::Nat),
        (NetworkKind::Nat, Some(_), _) => Err(FleetError::invalid(
            "/bridge",
            "a network of kind `nat` is on the host's own bridge; leave it out",
        )),
        (NetworkKind::Nat, None, Some(_)) => Err(FleetError::invalid(
            "/vlan",
            "a network of kind `nat` has no VLAN; leave it out, or use kind `bridge`",
        )),
    }
}

/// What a pool alone shows to be wrong.
fn check_pool(network: &Name, request: PutPool) -> Result<PoolRow, FleetError> {
    let PutPool { prefix, gateway, dns, reserved, given_bits } = request;
    let invalid = |location, detail: String| Err(FleetError::invalid(location, detail));
    if prefix.trunc() != prefix {
        return invalid(
            "/prefix",
            format!("`{prefix}` has bits set beyond its length; write `{}`", prefix.trunc()),
        );
    }
    let least = if prefix.addr().is_ipv4() { POOL_BITS_V4_MIN } else { POOL_BITS_V6_MIN };
    if prefix.prefix_len() < least {
        return invalid("/prefix", format!("`{prefix}` is too large for a pool; the largest is a /{least}"));
    }
    let first = prefix.network();
    if first.is_multicast() || first.is_loopback() || first.is_unspecified() || is_link_local(first) {
        return invalid("/prefix", format!("`{prefix}` has no addresses that VPSs could have"));
    }
    let same_family = |address: &IpAddr| address.is_ipv4() == prefix.addr().is_ipv4();
    if !same_family(&gateway)
        || !(prefix.contains(&gateway) || is_link_local(gateway))
        || gateway.is_unspecified()
    {
        return invalid(
            "/gateway",
            format!(
                "the gateway {gateway} is not within `{prefix}`, and not a link-local address of its family either"
            ),
        );
    }
    if dns.len() > DNS_MAX || dns.iter().any(|server| server.is_unspecified() || server.is_multicast()) {
        return invalid("/dns", format!("name at most {DNS_MAX} name servers, each of one machine"));
    }
    if reserved.len() > RESERVED_MAX {
        return invalid(
            "/reserved",
            format!("{} ranges; at most {RESERVED_MAX} are allowed", reserved.len()),
        );
    }
    for range in &reserved {
        if range.first > range.last || !prefix.contains(&range.first) || !prefix.contains(&range.last) {
            let (first, last) = (range.first, range.last);
            return invalid(
                "/reserved",
                format!("{first} to {last} is no range within `{prefix}`, lower address first"),
            );
        }
    }
    let given_bits = given_bits.unwrap_or(prefix.max_prefix_len());
    let fits = given_bits == prefix.max_prefix_len()
        || (prefix.addr().is_ipv6() && given_bits == GIVEN_NET_BITS && prefix.prefix_len() <= GIVEN_NET_BITS);
    if !fits {
        return invalid(
            "/given_bits",
            format!(
                "a VPS cannot get a /{given_bits} of `{prefix}`; give {} for single addresses, or {GIVEN_NET_BITS} of an IPv6 prefix of /{GIVEN_NET_BITS} or larger",
                prefix.max_prefix_len()
            ),
        );
    }
    Ok(PoolRow { network: network.clone(), prefix, gateway, dns, reserved, given_bits })
}

/// What beside the other pools is wrong.
fn check_place(state: &State, network: &NetworkRow, pool: &PoolRow) -> Result<(), FleetError> {
    if network.attachment == Attachment::Nat {
        let own = nat_pool();
        let range = own.as_ref().map(|own| own.prefix);
        if !range.is_some_and(|range| range.contains(&pool.prefix))
            || own.is_none_or(|own| own.gateway != pool.gateway)
        {
            return Err(FleetError::invalid(
                "/prefix",
                format!(
                    "a network of kind `nat` is on each host's own bridge: its pools lie within {NAT_PREFIX} and have the gateway of that"
                ),
            ));
        }
    }
    let mut count = 0;
    for other in state.pools.values().map(|stored| stored.row.as_ref()) {
        if other.network == network.name {
            count += 1;
            if other.prefix == pool.prefix {
                if other.given_bits != pool.given_bits && view::held_of(state, other) > 0 {
                    return Err(FleetError::conflict(format!(
                        "what VPSs get of pool {} cannot change while some of it is held",
                        pool.prefix
                    )));
                }
                return Ok(()); // changed in place
            }
        }
        let there = state.get::<NetworkRow>(&other.network).map(|row| &row.region);
        // Private addresses mean other machines in another region; public ones never do.
        let apart = there != Some(&network.region) && is_private(pool.prefix);
        if overlap(other.prefix, pool.prefix) && !apart {
            return Err(taken(
                "/prefix",
                format!("`{}` overlaps pool {} of network `{}`", pool.prefix, other.prefix, other.network),
            ));
        }
    }
    if count >= POOLS_MAX {
        return Err(FleetError::conflict(format!(
            "network `{}` has {POOLS_MAX} pools, the most there can be",
            network.name
        )));
    }
    let routed = state.addresses.values().map(|stored| stored.row.as_ref());
    match routed
        .filter(|row| row.network == network.name)
        .find(|row| overlap(row.held, pool.prefix) && !pool.prefix.contains(&row.held))
    {
        Some(row) => Err(taken(
            "/prefix",
            format!("`{}` overlaps {}, which is routed to a VPS", pool.prefix, row.held),
        )),
        None => Ok(()),
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// RFC 1918, and unique local addresses (RFC 4193).
fn is_private(prefix: IpNet) -> bool {
    match prefix {
        IpNet::V4(net) => net.network().is_private() && net.broadcast().is_private(),
        IpNet::V6(net) => net.network().is_unique_local(),
    }
}

/// The rows of networks that the API lists: those that were made, and the one that is always there.
#[must_use]
pub fn all(state: &State) -> Vec<NetworkView> {
    let made = state.networks.values().map(|stored| view::network(state, stored.row.as_ref()));
    let mut all: Vec<NetworkView> = made.chain([view::nat(state)]).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

/// Writes a row unless it is as it should be.
fn put_if_new<R: Table + PartialEq>(decision: &mut Decision, row: R) -> Result<(), FleetError> {
    match decision.state.get::<R>(&row.id()) {
        Some(old) if *old == row => Ok(()),
        _ => decision.put(row),
    }
}

#[cfg(test)]
mod tests;
