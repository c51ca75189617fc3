//! Who holds which address: taken with the VPS, changed on demand, freed when the VPS is gone, remembered afterwards. All
//! in the decider's turn, so no two decisions see the same address free.

use std::net::IpAddr;

use chom_protocol::api::networks::{ADDRESSES_PER_VPS_MAX, AddressFamily, ChangeAddresses};
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_protocol::network::{Attachment, alone};
use chom_protocol::vps::{AddressPrefix, NetworkInterface};
use chom_protocol::{HostId, Name, VpsId};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::allocation::{lowest_free, may_be_given, overlap};
use super::rows::{AddressRow, FormerAddressRow, NetworkRow, PoolRow, Scope};
use super::{card, is_link_local, network, pools, put_if_new, taken};
use crate::fleet::error::ErrorKind;
use crate::fleet::rows::{Goal, VpsRow};
use crate::fleet::state::State;
use crate::fleet::vps::{accepted, changeable};
use crate::fleet::{Caller, Decision, Done, Fleet, FleetError, RequestMark, check_revision, operations};

/// Addresses that one commit frees: each is two of its 128 changes.
const RELEASED_PER_COMMIT_MAX: usize = 60;

/// Where addresses of a VPS mean one machine.
pub(super) fn scope(attachment: &Attachment, host: HostId, network: &Name) -> Scope {
    match attachment {
        Attachment::Nat => Scope::Host(host),
        Attachment::Bridge { .. } => Scope::Network(network.clone()),
    }
}

/// What is held in a scope, of a prefix's family and within it, in order.
pub(super) fn held_within<'a>(
    state: &'a State,
    scope: &Scope,
    prefix: IpNet,
) -> impl Iterator<Item = &'a AddressRow> + use<'a> {
    let (first, last) = match prefix {
        IpNet::V4(net) => {
            (Ipv4Net::new(net.network(), 0).map(IpNet::V4), Ipv4Net::new(net.broadcast(), 32).map(IpNet::V4))
        }
        IpNet::V6(net) => {
            (Ipv6Net::new(net.network(), 0).map(IpNet::V6), Ipv6Net::new(net.broadcast(), 128).map(IpNet::V6))
        }
    };
    // Lengths of 0, 32 and 128 are legal ones.
    let range = (scope.clone(), first.unwrap_or(prefix))..=(scope.clone(), last.unwrap_or(prefix));
    state.addresses.range(range).map(|(_, stored)| stored.row.as_ref())
}

/// The lowest free block of a pool.
pub(super) fn free_of(state: &State, scope: &Scope, pool: &PoolRow) -> Option<IpNet> {
    lowest_free(pool, held_within(state, scope, pool.prefix).map(|row| row.held))
}

/// The error of a family without a free address.
pub(super) fn exhausted(network: &NetworkRow, pools: &[&PoolRow]) -> FleetError {
    if pools.is_empty() {
        return FleetError::invalid(
            "/family",
            format!(
                "network `{}` in region `{}` has no pool of that family; add one to it",
                network.name, network.region
            ),
        );
    }
    let names: Vec<String> = pools.iter().map(|pool| pool.prefix.to_string()).collect();
    let place = match network.attachment {
        Attachment::Nat => " on the host with room",
        Attachment::Bridge { .. } => "",
    };
    FleetError::Refused {
        kind: ErrorKind::NoCapacity,
        detail: format!(
            "pool {} of network `{}` in region `{}` has no free address left{place}; add a pool, or purge VPSs",
            names.join(", "),
            network.name,
            network.region
        ),
        location: Some("/network"),
    }
}

/// Everything that a VPS holds.
pub(super) fn held_by(state: &State, vps: VpsId) -> Vec<AddressRow> {
    state.addresses_of(vps).cloned().collect()
}

/// Frees something, and remembers who had it.
pub(super) fn release(decision: &mut Decision, row: AddressRow) -> Result<(), FleetError> {
    decision.delete::<AddressRow>(&(row.scope.clone(), row.held));
    decision.put(FormerAddressRow { row, until: decision.now })
}

/// Frees everything that a VPS holds.
pub(in crate::fleet) fn release_all(decision: &mut Decision, vps: VpsId) -> Result<(), FleetError> {
    held_by(&decision.state, vps).into_iter().try_for_each(|row| release(decision, row))
}

/// Frees everything that VPSs held on a host, those that are gone included.
pub(in crate::fleet) fn release_host(decision: &mut Decision, host: HostId) -> Result<(), FleetError> {
    let on_host =
        |row: &&AddressRow| decision.state.get::<VpsRow>(&row.vps).map_or(row.host, |vps| vps.host) == host;
    let rows = decision.state.addresses.values().map(|stored| stored.row.as_ref());
    let held: Vec<AddressRow> = rows.filter(on_host).take(RELEASED_PER_COMMIT_MAX + 1).cloned().collect();
    if held.len() > RELEASED_PER_COMMIT_MAX {
        return Err(FleetError::conflict(format!(
            "more than {RELEASED_PER_COMMIT_MAX} addresses are held on this host; purge some of its VPSs first"
        )));
    }
    held.into_iter().try_for_each(|row| release(decision, row))
}

/// Makes what a VPS holds what its card has: after its row was taken from a host's ledger.
pub(in crate::fleet) fn settle(decision: &mut Decision, row: &VpsRow) -> Result<(), FleetError> {
    let (interface, vps) = (&row.spec.interface, row.spec.id);
    let scope = scope(&interface.attachment, row.host, &row.network);
    let wanted: Vec<IpNet> = card::holds(interface);
    for old in held_by(&decision.state, vps) {
        if old.scope != scope || !wanted.contains(&old.held) {
            release(decision, old)?;
        }
    }
    for held in wanted {
        let id = (scope.clone(), held);
        match decision.state.get::<AddressRow>(&id) {
            Some(other) if other.vps != vps => {
                return Err(FleetError::conflict(format!(
                    "VPS `{}` has {held} on its host, and VPS {} holds it here; remove it from that one first",
                    row.spec.name, other.vps
                )));
            }
            Some(_) => {}
            None => hold(decision, row, held)?,
        }
    }
    Ok(())
}

fn hold(decision: &mut Decision, row: &VpsRow, held: IpNet) -> Result<(), FleetError> {
    let scope = scope(&row.spec.interface.attachment, row.host, &row.network);
    let (network, vps, host, since) = (row.network.clone(), row.spec.id, row.host, decision.now);
    put_if_new(decision, AddressRow { scope, held, network, vps, host, since })
}

impl Fleet {
    /// Adds, removes or moves an address or routed prefix of a VPS.
    ///
    /// # Errors
    /// When there is no such VPS or address, it is held by another one, reserved, or outside every pool.
    pub async fn change_addresses(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        change: ChangeAddresses,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, mark| {
            let stored = decision.state.vps.get(&vps).ok_or_else(|| FleetError::not_found("VPS", vps))?;
            check_revision(mark, stored.revision)?;
            let mut row = stored.row.as_ref().clone();
            changeable(decision, &row)?;
            match change {
                ChangeAddresses::Add { family, address } => add(decision, &mut row, family, address)?,
                ChangeAddresses::Route { prefix } => route(decision, &mut row, prefix)?,
                ChangeAddresses::Remove { held } => {
                    let held = parse(&held)?;
                    let found = take_away(decision, &mut row, held)?;
                    release(decision, found)?;
                }
                ChangeAddresses::Move { held, to } => give(&fleet, decision, &mut row, parse(&held)?, to)?,
            }
            decision.put(row.clone())?;
            decision.audit("vps.addresses", vps)?;
            let operation =
                operations::begin(fleet.catalogue(), decision, &row, "addresses", Goal::Accepted)?;
            Ok(accepted(&fleet, decision, &row, &operation))
        })
        .await
    }
}

fn parse(text: &str) -> Result<IpNet, FleetError> {
    let net = text.parse().or_else(|_| text.parse().map(alone));
    net.map_err(|_| {
        let shown: String = text.chars().take(60).collect();
        FleetError::invalid("/held", format!("`{shown}` is no address and no prefix"))
    })
}

fn not_too_many(row: &VpsRow) -> Result<(), FleetError> {
    let count = card::holds(&row.spec.interface).len();
    if count < ADDRESSES_PER_VPS_MAX {
        return Ok(());
    }
    Err(FleetError::conflict(format!(
        "VPS `{}` has {count} addresses and prefixes, the most there can be; remove one first",
        row.spec.name
    )))
}

fn own_network(state: &State, row: &VpsRow) -> Result<NetworkRow, FleetError> {
    network(state, &row.region, &row.network).ok_or_else(|| FleetError::not_found("network", &row.network))
}

fn add(
    decision: &mut Decision,
    row: &mut VpsRow,
    family: Option<AddressFamily>,
    address: Option<IpAddr>,
) -> Result<(), FleetError> {
    not_too_many(row)?;
    let network = own_network(&decision.state, row)?;
    let scope = scope(&network.attachment, row.host, &network.name);
    let all = pools(&decision.state, &network.name);
    let (pool, held) = match (address, family) {
        (Some(address), _) => named(&decision.state, &network, &scope, &all, address)?,
        (None, Some(family)) => {
            let of = |pool: &&PoolRow| pool.prefix.addr().is_ipv4() == (family == AddressFamily::V4);
            let of: Vec<&PoolRow> = all.iter().filter(of).collect();
            let free = of.iter().find_map(|pool| Some((*pool, free_of(&decision.state, &scope, pool)?)));
            free.ok_or_else(|| exhausted(&network, &of))?
        }
        (None, None) => {
            return Err(FleetError::invalid(
                "/family",
                "name an address, or the family of which to give a free one",
            ));
        }
    };
    card::add(&mut row.spec.interface, pool, held);
    hold(decision, row, held)
}

/// An address that was named: it must be of a pool, not reserved, and free.
fn named<'p>(
    state: &State,
    network: &NetworkRow,
    scope: &Scope,
    pools: &'p [PoolRow],
    address: IpAddr,
) -> Result<(&'p PoolRow, IpNet), FleetError> {
    let invalid = |detail: String| FleetError::invalid("/address", detail);
    let Some(pool) = pools.iter().find(|pool| pool.prefix.contains(&address)) else {
        let names: Vec<String> = pools.iter().map(|pool| pool.prefix.to_string()).collect();
        return Err(invalid(format!(
            "{address} is in no pool of network `{}`; it has: {}",
            network.name,
            names.join(", ")
        )));
    };
    let held = IpNet::new(address, pool.given_bits).map(|net| net.trunc()).unwrap_or(alone(address));
    if !may_be_given(pool, held) {
        return Err(invalid(format!(
            "{held} of pool {} is reserved, the gateway, or the network's own address; choose another one",
            pool.prefix
        )));
    }
    if let Some(other) = held_within(state, scope, pool.prefix).find(|other| overlap(other.held, held)) {
        return Err(taken(
            "/address",
            format!("{held} is held by VPS {}; choose another one, or move it", other.vps),
        ));
    }
    Ok((pool, held))
}

fn route(decision: &mut Decision, row: &mut VpsRow, prefix: IpNet) -> Result<(), FleetError> {
    not_too_many(row)?;
    let network = own_network(&decision.state, row)?;
    let invalid = |detail: String| FleetError::invalid("/prefix", detail);
    if network.attachment == Attachment::Nat {
        return Err(invalid(format!(
            "network `{}` is behind each host's NAT, which routes nothing to VPSs; use a network of kind `bridge`",
            network.name
        )));
    }
    let least = if prefix.addr().is_ipv4() { 16 } else { 32 };
    let first = prefix.network();
    if prefix.trunc() != prefix || prefix.prefix_len() < least || first.is_multicast() || is_link_local(first)
    {
        return Err(invalid(format!(
            "`{prefix}` cannot be routed to a VPS: a prefix of /{least} or smaller without bits beyond its length can"
        )));
    }
    if let Some(pool) = pools(&decision.state, &network.name).iter().find(|pool| overlap(pool.prefix, prefix))
    {
        return Err(taken(
            "/prefix",
            format!("`{prefix}` overlaps pool {}; add an address of it instead", pool.prefix),
        ));
    }
    let here = decision.state.addresses.values().map(|stored| stored.row.as_ref());
    if let Some(other) =
        here.filter(|other| other.network == network.name).find(|other| overlap(other.held, prefix))
    {
        return Err(taken(
            "/prefix",
            format!("`{prefix}` overlaps {}, which VPS {} holds", other.held, other.vps),
        ));
    }
    row.spec.interface.routed.push(prefix);
    hold(decision, row, prefix)
}

/// Takes something off a VPS's card; gives the row that is not true any more.
fn take_away(decision: &Decision, row: &mut VpsRow, held: IpNet) -> Result<AddressRow, FleetError> {
    let scope = scope(&row.spec.interface.attachment, row.host, &row.network);
    let found = held_by(&decision.state, row.spec.id).into_iter();
    // A VPS with a network of its own may be asked for one of its addresses.
    let found = found.filter(|found| found.scope == scope).find(|found| found.held.contains(&held));
    let found = found.ok_or_else(|| {
        FleetError::invalid("/held", format!("VPS `{}` does not hold {held}", row.spec.name))
    })?;
    let all = pools(&decision.state, &row.network);
    card::remove(&mut row.spec.interface, &all, found.held);
    if row.spec.interface.addresses.is_empty() {
        return Err(FleetError::conflict(format!(
            "{held} is the last address of VPS `{}`; add another one first",
            row.spec.name
        )));
    }
    Ok(found)
}

fn give(
    fleet: &Fleet,
    decision: &mut Decision,
    row: &mut VpsRow,
    held: IpNet,
    to: VpsId,
) -> Result<(), FleetError> {
    let mut receiver =
        decision.state.get::<VpsRow>(&to).cloned().ok_or_else(|| FleetError::not_found("VPS", to))?;
    changeable(decision, &receiver)?;
    not_too_many(&receiver)?;
    let reach = |row: &VpsRow| scope(&row.spec.interface.attachment, row.host, &row.network);
    if to == row.spec.id || reach(row) != reach(&receiver) || row.network != receiver.network {
        return Err(FleetError::invalid(
            "/to",
            format!(
                "VPS `{}` is not another VPS where {held} would reach it: on network `{}`, or behind the same host's NAT",
                receiver.spec.name, row.network
            ),
        ));
    }
    let found = take_away(decision, row, held)?;
    let held = found.held;
    release(decision, found)?;
    let all = pools(&decision.state, &row.network);
    match all.iter().find(|pool| pool.prefix.contains(&held)) {
        Some(pool) => card::add(&mut receiver.spec.interface, pool, held),
        None => receiver.spec.interface.routed.push(held),
    }
    hold(decision, &receiver, held)?;
    decision.put(receiver.clone())?;
    decision.audit("vps.addresses", to)?;
    // The operation that is answered is the giver's; the receiver has one of its own.
    let answered = decision.operation.take();
    operations::begin(fleet.catalogue(), decision, &receiver, "addresses", Goal::Accepted)?;
    decision.operation = answered;
    Ok(())
}

/// The addresses of a card as prefixes of their networks.
pub(super) fn on_link(interface: &NetworkInterface) -> Vec<IpNet> {
    let net = |own: &AddressPrefix| IpNet::new(own.address, own.prefix).unwrap_or(alone(own.address));
    interface.addresses.iter().map(net).collect()
}
