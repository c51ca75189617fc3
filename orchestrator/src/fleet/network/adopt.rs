//! The card of a guest that is adopted, and the addresses that it has already: checked against pools and against what others
//! hold. Pure.

use chom_protocol::api::networks::ADDRESSES_PER_VPS_MAX;
use chom_protocol::foreign::GuestCard;
use chom_protocol::network::{Attachment, alone};
use chom_protocol::vps::{AddressPrefix, NetworkInterface};
use chom_protocol::{Name, VpsId};
use ipnet::IpNet;

use super::address::{held_within, scope};
use super::allocation::{may_be_given, overlap};
use super::card::{add, mac};
use super::rows::{AddressRow, NetworkRow, PoolRow, Scope};
use super::{choose, is_link_local, nat, pools, taken};
use crate::fleet::rows::{HostRow, VpsRow};
use crate::fleet::state::State;
use crate::fleet::{Decision, FleetError};

/// What is asked for.
pub(in crate::fleet) struct Card<'a> {
    /// The VPS that the guest becomes.
    pub(in crate::fleet) vps: VpsId,
    /// Its host.
    pub(in crate::fleet) host: &'a HostRow,
    /// The cards that it has.
    pub(in crate::fleet) cards: &'a [GuestCard],
    /// The network that was named.
    pub(in crate::fleet) network: Option<&'a Name>,
    /// The card that was named.
    pub(in crate::fleet) mac: Option<&'a str>,
    /// The addresses that were named.
    pub(in crate::fleet) addresses: &'a [String],
    /// Whether it is guarded.
    pub(in crate::fleet) spoof_guard: bool,
}

/// What comes of it.
pub(in crate::fleet) struct Plugged {
    pub(in crate::fleet) network: Name,
    pub(in crate::fleet) interface: NetworkInterface,
    /// To be written.
    pub(in crate::fleet) held: Vec<AddressRow>,
    /// What is to be known.
    pub(in crate::fleet) notes: Vec<String>,
}

/// Judges a card; writes nothing.
pub(in crate::fleet) fn judge(decision: &Decision, wanted: &Card<'_>) -> Result<Plugged, FleetError> {
    let state = &decision.state;
    let Some(card) = card(wanted)? else {
        if !wanted.addresses.is_empty() {
            let what = "the guest has no network card, so it has no addresses";
            return Err(FleetError::invalid("/addresses", what));
        }
        let network = choose(state, &wanted.host.region, wanted.network)?;
        let mut interface = NetworkInterface::bare(mac(wanted.vps));
        interface.attachment = network.attachment;
        let notes = vec!["it has no network card".to_owned()];
        return Ok(Plugged { network: network.name, interface, held: Vec::new(), notes });
    };
    let network = network_of(state, wanted, card)?;
    let scope = scope(&network.attachment, wanted.host.id, &network.name);
    check_mac(state, wanted, card, &scope)?;
    let mut interface = NetworkInterface::bare(card.mac);
    interface.attachment = network.attachment.clone();
    interface.spoof_guard = wanted.spoof_guard;
    let mut notes = Vec::new();
    if wanted.cards.len() > 1 {
        let others = wanted.cards.iter().filter(|other| other.mac != card.mac).map(|card| spell(card.mac));
        let others: Vec<String> = others.collect();
        notes.push(format!("its other cards ({}) are neither guarded nor counted", others.join(", ")));
    }
    let held = addresses(decision, wanted, &network, &scope, &mut interface, &mut notes)?;
    notes.push(match (wanted.spoof_guard, wanted.addresses.is_empty()) {
        (false, _) => "its card is not guarded: it may send from any address".to_owned(),
        (true, true) => "it may send only from its own hardware address from now on".to_owned(),
        (true, false) => format!("it may send only from {} from now on", wanted.addresses.join(", ")),
    });
    Ok(Plugged { network: network.name, interface, held, notes })
}

/// The card that is meant; none: it has none.
fn card<'a>(wanted: &Card<'a>) -> Result<Option<&'a GuestCard>, FleetError> {
    let Some(text) = wanted.mac else { return Ok(wanted.cards.first()) };
    let found = wanted.cards.iter().find(|card| spell(card.mac).eq_ignore_ascii_case(text.trim()));
    found.map(Some).ok_or_else(|| {
        let has: Vec<String> = wanted.cards.iter().map(|card| spell(card.mac)).collect();
        let has = if has.is_empty() { "no card".to_owned() } else { has.join(", ") };
        let text: String = text.chars().take(40).collect();
        FleetError::invalid("/mac", format!("the guest has no card `{text}`; it has: {has}"))
    })
}

fn spell(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The network that has the card's bridge.
fn network_of(state: &State, wanted: &Card<'_>, card: &GuestCard) -> Result<NetworkRow, FleetError> {
    let region = &wanted.host.region;
    let Some(attachment) = &card.attachment else {
        return Err(FleetError::invalid(
            "/network",
            format!(
                "its card {} is on `{}`, which is no bridge; CHOM's networks are bridges: plug it into one, or name \
                 another card (`mac`)",
                spell(card.mac),
                card.on
            ),
        ));
    };
    if let Some(name) = wanted.network {
        let network = choose(state, region, Some(name))?;
        if network.attachment == *attachment {
            return Ok(network);
        }
        return Err(FleetError::invalid(
            "/network",
            format!("its card is on `{}`, and network `{name}` is {}", card.on, place(&network.attachment)),
        ));
    }
    let here = state.networks.values().map(|stored| stored.row.as_ref()).filter(|row| row.region == *region);
    let mut fit: Vec<&NetworkRow> = here.filter(|row| row.attachment == *attachment).collect();
    // The region's default goes before the others.
    fit.sort_by_key(|row| !row.default);
    match (fit.first(), attachment) {
        (Some(row), _) => Ok((*row).clone()),
        (None, Attachment::Nat) => Ok(nat(region)),
        (None, Attachment::Bridge { .. }) => Err(FleetError::invalid(
            "/network",
            format!(
                "its card is {}, and no network of region `{region}` is there: make one \
                 (`chomctl network create`), with pools or without",
                place(attachment)
            ),
        )),
    }
}

fn place(attachment: &Attachment) -> String {
    match attachment {
        Attachment::Nat => "behind the host's NAT".to_owned(),
        Attachment::Bridge { name, vlan: None } => format!("on bridge `{name}`"),
        Attachment::Bridge { name, vlan: Some(tag) } => format!("on bridge `{name}`, VLAN {tag}"),
    }
}

/// No two cards of a network have the same hardware address.
fn check_mac(state: &State, wanted: &Card<'_>, card: &GuestCard, here: &Scope) -> Result<(), FleetError> {
    let reach = |row: &VpsRow| scope(&row.spec.interface.attachment, row.host, &row.network);
    let rows = state.vps.values().map(|stored| stored.row.as_ref());
    let other = rows.filter(|row| row.spec.interface.mac == card.mac && row.spec.id != wanted.vps);
    match other.filter(|row| reach(row) == *here).map(|row| &row.spec.name).next() {
        Some(name) => Err(taken(
            "/mac",
            format!(
                "its card has the hardware address {} of VPS `{name}` on the same network: give one of them another",
                spell(card.mac)
            ),
        )),
        None => Ok(()),
    }
}

fn addresses(
    decision: &Decision,
    wanted: &Card<'_>,
    network: &NetworkRow,
    scope: &Scope,
    interface: &mut NetworkInterface,
    notes: &mut Vec<String>,
) -> Result<Vec<AddressRow>, FleetError> {
    if wanted.addresses.len() > ADDRESSES_PER_VPS_MAX {
        return Err(FleetError::invalid(
            "/addresses",
            format!("{} addresses; a VPS has at most {ADDRESSES_PER_VPS_MAX}", wanted.addresses.len()),
        ));
    }
    let all = pools(&decision.state, &network.name);
    let mut rows: Vec<AddressRow> = Vec::new();
    for text in wanted.addresses {
        let named = parse(text)?;
        let pool = all.iter().find(|pool| pool.prefix.contains(&named));
        let held = match pool {
            Some(pool) => of_pool(pool, named)?,
            None => outside(&all, named)?,
        };
        if rows.iter().any(|row| overlap(row.held, held)) {
            return Err(FleetError::invalid("/addresses", format!("`{text}` is named twice")));
        }
        if let Some(other) = holder(&decision.state, scope, held) {
            let name = decision.state.get::<VpsRow>(&other.vps).map(|row| row.spec.name.to_string());
            return Err(taken(
                "/addresses",
                format!(
                    "{} is held by VPS `{}`: one of them has it wrongly",
                    other.held,
                    name.unwrap_or_else(|| other.vps.to_string())
                ),
            ));
        }
        match pool {
            Some(pool) => add(interface, pool, held),
            None => {
                notes.push(format!("{held} is outside every pool of network `{}`", network.name));
                match held.prefix_len() == held.max_prefix_len() {
                    true => interface
                        .addresses
                        .push(AddressPrefix { address: held.addr(), prefix: held.prefix_len() }),
                    false => interface.routed.push(held),
                }
            }
        }
        rows.push(AddressRow {
            scope: scope.clone(),
            held,
            network: network.name.clone(),
            vps: wanted.vps,
            host: wanted.host.id,
            since: decision.now,
        });
    }
    Ok(rows)
}

fn parse(text: &str) -> Result<IpNet, FleetError> {
    let net: Result<IpNet, _> = text.trim().parse().or_else(|_| text.trim().parse().map(alone));
    let net = net.ok().filter(|net| net.trunc() == *net);
    let one = |net: &IpNet| {
        let first = net.network();
        !first.is_unspecified() && !first.is_multicast() && !first.is_loopback() && !is_link_local(first)
    };
    net.filter(one).ok_or_else(|| {
        let shown: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
        FleetError::invalid(
            "/addresses",
            format!("`{shown}` is no address of one machine, and no prefix without bits beyond its length"),
        )
    })
}

/// What is held of a pool for an address of it. What the pool reserves is kept from new VPSs, for guests such as this one.
fn of_pool(pool: &PoolRow, named: IpNet) -> Result<IpNet, FleetError> {
    let single = named.prefix_len() == named.max_prefix_len();
    let held = match single {
        true => IpNet::new(named.addr(), pool.given_bits).map(|net| net.trunc()).unwrap_or(named),
        false => named,
    };
    let unreserved = PoolRow { reserved: Vec::new(), ..pool.clone() };
    if may_be_given(&unreserved, held) {
        return Ok(held);
    }
    Err(FleetError::invalid(
        "/addresses",
        format!(
            "{named} of pool {} is the gateway, the network's own or its broadcast address, or not of the length that \
             the pool gives (/{})",
            pool.prefix, pool.given_bits
        ),
    ))
}

/// A prefix that is in no pool must not have one in it.
fn outside(pools: &[PoolRow], named: IpNet) -> Result<IpNet, FleetError> {
    match pools.iter().find(|pool| overlap(pool.prefix, named)) {
        Some(pool) => Err(FleetError::invalid(
            "/addresses",
            format!("{named} has pool {} in it: name what of it the guest has", pool.prefix),
        )),
        None => Ok(named),
    }
}

fn holder(state: &State, scope: &Scope, held: IpNet) -> Option<AddressRow> {
    let all = if held.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    // Both are prefixes.
    let all = all.parse().unwrap_or(held);
    held_within(state, scope, all).find(|other| overlap(other.held, held)).cloned()
}
