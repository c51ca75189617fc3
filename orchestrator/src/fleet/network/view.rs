//! Networks, addresses and cards as the API shows them. Pure.

use chom_protocol::api::networks::{
    AddressView, MonthView, NetworkKind, NetworkView, PoolView, RateLimits, VpsNetworkView,
};
use chom_protocol::network::{Attachment, port_name};
use chom_protocol::vps::VpsStatus;
use chom_protocol::{Name, UnixMillis};

use super::address::{held_within, on_link};
use super::rows::{AddressRow, FormerAddressRow, NetworkRow, PoolRow, Scope, TrafficRow};
use super::{nat_name, nat_pool, pools, traffic};
use crate::clock::rfc3339;
use crate::fleet::rows::VpsRow;
use crate::fleet::state::State;

/// A network.
#[must_use]
pub fn network(state: &State, row: &NetworkRow) -> NetworkView {
    let (kind, bridge, vlan) = match &row.attachment {
        Attachment::Nat => (NetworkKind::Nat, None, None),
        Attachment::Bridge { name, vlan } => (NetworkKind::Bridge, Some(name.clone()), *vlan),
    };
    NetworkView {
        name: row.name.clone(),
        region: Some(row.region.clone()),
        kind,
        bridge,
        vlan,
        default: row.default,
        pools: pools(state, &row.name).iter().map(|row| pool(state, row)).collect(),
        vps_count: vps_count(state, &row.name),
        revision: state.networks.get(&row.name).map_or(0, |stored| stored.revision.0),
    }
}

/// The network that is always there.
pub(super) fn nat(state: &State) -> NetworkView {
    let name = nat_name();
    NetworkView {
        region: None,
        kind: NetworkKind::Nat,
        bridge: None,
        vlan: None,
        default: false,
        pools: nat_pool().iter().map(|row| pool(state, row)).collect(),
        vps_count: vps_count(state, &name),
        revision: 0,
        name,
    }
}

/// A network by its name.
#[must_use]
pub fn named(state: &State, name: &Name) -> Option<NetworkView> {
    if *name == nat_name() {
        return Some(nat(state));
    }
    state.get::<NetworkRow>(name).map(|row| network(state, row))
}

fn vps_count(state: &State, name: &Name) -> u32 {
    let on = state.vps.values().filter(|stored| stored.row.network == *name).count();
    u32::try_from(on).unwrap_or(u32::MAX)
}

fn pool(state: &State, row: &PoolRow) -> PoolView {
    PoolView {
        prefix: row.prefix,
        gateway: row.gateway,
        dns: row.dns.clone(),
        reserved: row.reserved.clone(),
        given_bits: row.given_bits,
        held: held_of(state, row),
    }
}

/// How many addresses or networks of a pool are held.
pub(super) fn held_of(state: &State, pool: &PoolRow) -> u64 {
    let is_nat = state.get::<NetworkRow>(&pool.network).is_none_or(|row| row.attachment == Attachment::Nat);
    let count = if is_nat {
        let rows = state.addresses.values().map(|stored| stored.row.as_ref());
        rows.filter(|row| row.network == pool.network && pool.prefix.contains(&row.held)).count()
    } else {
        held_within(state, &Scope::Network(pool.network.clone()), pool.prefix).count()
    };
    count as u64
}

/// What is held now.
#[must_use]
pub fn address(state: &State, row: &AddressRow) -> AddressView {
    AddressView {
        held: row.held,
        network: row.network.clone(),
        vps: row.vps,
        vps_name: state.get::<VpsRow>(&row.vps).map(|vps| vps.spec.name.clone()),
        host: Some(row.host),
        since: rfc3339(row.since),
        until: None,
    }
}

/// What was held.
#[must_use]
pub fn former(state: &State, former: &FormerAddressRow) -> AddressView {
    AddressView { until: Some(rfc3339(former.until)), ..address(state, &former.row) }
}

/// The card of a VPS.
#[must_use]
pub fn card(state: &State, row: &VpsRow, status: Option<&VpsStatus>, now: UnixMillis) -> VpsNetworkView {
    let interface = &row.spec.interface;
    let counted = state.get::<TrafficRow>(&row.spec.id);
    let mut months: Vec<MonthView> = traffic::months(counted, row, status, now)
        .into_iter()
        .map(|row| MonthView { year: row.month.year, month: row.month.month, traffic: row.traffic })
        .collect();
    months.reverse();
    VpsNetworkView {
        vps: row.spec.id,
        network: row.network.clone(),
        mac: interface.mac.map(|byte| format!("{byte:02x}")).join(":"),
        port: port_name(row.spec.id),
        addresses: on_link(interface),
        routed: interface.routed.clone(),
        gateway_v4: interface.gateway_v4,
        gateway_v6: interface.gateway_v6,
        dns: interface.dns.clone(),
        spoof_guard: interface.spoof_guard,
        firewall: interface.firewall.clone(),
        rate: RateLimits { in_bits: interface.rate.in_bits, out_bits: interface.rate.out_bits },
        quota: counted.map(|row| row.quota).unwrap_or_default(),
        throttle_bits: interface.rate.throttle_bits,
        months,
        revision: state.vps.get(&row.spec.id).map_or(0, |stored| stored.revision.0),
    }
}
