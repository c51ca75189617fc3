//! Networks, pools and addresses: the commands.

use std::net::IpAddr;

use chom_protocol::Name;
use chom_protocol::api::networks::{
    AddressRange, AddressView, CreateNetwork, NetworkKind, NetworkView, PutPool, RemovePool,
};
use chom_protocol::network::{BridgeName, VlanTag};
use clap::Subcommand;
use ipnet::IpNet;

use crate::error::Failure;
use crate::output::{Cell, Details, Table, View, age, joined, yes_no};
use crate::session::{ListOptions, Session};

/// Where networks are in the API.
const PATH: &str = "/api/networks";

/// `chomctl network`.
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Lists networks
    List {
        #[command(flatten)]
        list: ListOptions,
    },
    /// Shows a network and its pools
    Show {
        /// Its name
        network: Name,
    },
    /// Makes a network; it gives addresses once it has a pool
    Create {
        /// Its name
        name: Name,
        /// Where
        #[arg(long)]
        region: Name,
        /// The bridge that every host of the region has; each host's own NAT where absent
        #[arg(long)]
        bridge: Option<BridgeName>,
        /// The VLAN of its VPSs
        #[arg(long, requires = "bridge", value_parser = vlan)]
        vlan: Option<VlanTag>,
        /// VPSs that name no network get this one
        #[arg(long)]
        default: bool,
    },
    /// Removes a network without pools and VPSs
    Delete {
        /// Its name
        network: Name,
    },
    /// Adds a pool to a network, or changes the one with its prefix
    PutPool {
        /// The network's name
        network: Name,
        /// Such as 192.0.2.0/24 or 2001:db8::/64
        prefix: IpNet,
        /// Where packets for elsewhere go
        #[arg(long)]
        gateway: IpAddr,
        /// A name server; may be given several times
        #[arg(long)]
        dns: Vec<IpAddr>,
        /// What is never given, such as 192.0.2.2-192.0.2.9; may be given several times
        #[arg(long, value_name = "FIRST-LAST", value_parser = range)]
        reserve: Vec<AddressRange>,
        /// 64: each VPS gets an IPv6 network of its own instead of one address
        #[arg(long, value_name = "LENGTH")]
        given_bits: Option<u8>,
    },
    /// Removes a pool of which nothing is held
    RemovePool {
        /// The network's name
        network: Name,
        /// Its prefix
        prefix: IpNet,
    },
}

/// `chomctl address`.
#[derive(Debug, Subcommand)]
pub(crate) enum AddressCommand {
    /// Lists who holds which address, or held it at a time
    List {
        /// Only what covers this address
        #[arg(long)]
        address: Option<IpAddr>,
        /// Only of this network
        #[arg(long)]
        network: Option<Name>,
        /// As it was then, such as 2026-11-23T04:00:00Z
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
        #[command(flatten)]
        list: ListOptions,
    },
}

fn vlan(text: &str) -> Result<VlanTag, String> {
    let tag: u16 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    VlanTag::try_from(tag).map_err(|error| error.to_string())
}

fn range(text: &str) -> Result<AddressRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) => Ok(AddressRange { first, last }),
        _ => Err(format!("`{text}` is no range of addresses, such as 192.0.2.2-192.0.2.9")),
    }
}

/// Runs `chomctl network`.
pub(crate) fn run(session: &Session, command: NetworkCommand) -> Result<(), Failure> {
    let client = session.client()?;
    let changed: NetworkView = match command {
        NetworkCommand::List { list } => {
            let networks: Vec<NetworkView> = client.list(PATH, list.limit)?;
            return session.screen.show(&networks, |view| table(&networks, view));
        }
        NetworkCommand::Show { network } => client.get(&format!("{PATH}/{network}"))?,
        NetworkCommand::Create { name, region, bridge, vlan, default } => {
            let kind = if bridge.is_some() { NetworkKind::Bridge } else { NetworkKind::Nat };
            client.post(PATH, &CreateNetwork { name, region, kind, bridge, vlan, default })?
        }
        NetworkCommand::Delete { network } => client.delete(&format!("{PATH}/{network}"))?,
        NetworkCommand::PutPool { network, prefix, gateway, dns, reserve: reserved, given_bits } => {
            let pool = PutPool { prefix, gateway, dns, reserved, given_bits };
            client.post(&format!("{PATH}/{network}/pools"), &pool)?
        }
        NetworkCommand::RemovePool { network, prefix } => {
            client.post(&format!("{PATH}/{network}/pools/remove"), &RemovePool { prefix })?
        }
    };
    session.screen.show(&changed, |view| details(&changed, view))
}

/// Runs `chomctl address`.
pub(crate) fn addresses(session: &Session, command: AddressCommand) -> Result<(), Failure> {
    let AddressCommand::List { address, network, at, list } = command;
    let filters = [
        ("address", address.map(|address| address.to_string())),
        ("network", network.map(|network| network.to_string())),
        ("at", at),
    ];
    let filters: Vec<(&str, String)> =
        filters.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))).collect();
    let rows: Vec<AddressView> = session.client()?.list_where("/api/addresses", &filters, list.limit)?;
    session.screen.show(&rows, |view| address_table(&rows, view))
}

fn place(network: &NetworkView) -> String {
    match (&network.bridge, network.vlan) {
        (Some(bridge), Some(vlan)) => format!("bridge {bridge}, VLAN {vlan}"),
        (Some(bridge), None) => format!("bridge {bridge}"),
        (None, _) => "NAT of each host".to_owned(),
    }
}

fn region(network: &NetworkView) -> String {
    network.region.as_ref().map_or_else(|| "every one".to_owned(), ToString::to_string)
}

fn table(networks: &[NetworkView], view: &View) -> String {
    let mut table = Table::new(&["NAME", "REGION", "ON", "DEFAULT", "POOLS", "VPSS"]);
    for network in networks {
        let pools: Vec<IpNet> = network.pools.iter().map(|pool| pool.prefix).collect();
        table.row(vec![
            Cell::from(&network.name),
            Cell::from(region(network)),
            Cell::from(place(network)),
            Cell::from(yes_no(network.default)),
            Cell::from(joined(&pools)),
            Cell::from(network.vps_count),
        ]);
    }
    table.render(view, "no networks")
}

fn details(network: &NetworkView, view: &View) -> String {
    let mut details = Details::default();
    details.line("Name", &network.name);
    details.line("Region", region(network));
    details.line("On", place(network));
    details.line("Default", yes_no(network.default));
    details.line("VPSs", network.vps_count);
    let pools = network.pools.iter().map(|pool| {
        let reserved: Vec<String> =
            pool.reserved.iter().map(|range| format!("{} to {}", range.first, range.last)).collect();
        let reserved = if reserved.is_empty() { "nothing".to_owned() } else { reserved.join(", ") };
        format!(
            "{} gateway {}, gives /{}, {} held, reserved: {reserved}",
            pool.prefix, pool.gateway, pool.given_bits, pool.held
        )
    });
    details.lines("Pools", pools);
    details.line("Revision", network.revision);
    details.render(view)
}

fn address_table(rows: &[AddressView], view: &View) -> String {
    let mut table = Table::new(&["HELD", "NETWORK", "VPS", "VPS ID", "SINCE", "UNTIL"]);
    for row in rows {
        table.row(vec![
            Cell::from(row.held),
            Cell::from(&row.network),
            Cell::from(row.vps_name.as_ref().map_or_else(|| "(gone)".to_owned(), ToString::to_string)),
            Cell::from(row.vps),
            Cell::from(format!("{} ({} ago)", row.since, age(&row.since, view.now))),
            Cell::from(row.until.as_deref().unwrap_or_default()),
        ]);
    }
    table.render(view, "nobody")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::output::test_view;

    #[test]
    fn networks_and_addresses_for_people() {
        let network: NetworkView = serde_json::from_value(json!({
            "name": "lan", "region": "us-east", "kind": "bridge", "bridge": "br0", "vlan": 100, "default": true,
            "pools": [{"prefix": "192.0.2.0/24", "gateway": "192.0.2.1", "dns": [], "given_bits": 32, "held": 7,
                       "reserved": [{"first": "192.0.2.2", "last": "192.0.2.9"}]}],
            "vps_count": 7, "revision": 12,
        }))
        .unwrap();
        let held: AddressView = serde_json::from_value(json!({
            "held": "192.0.2.10/32", "network": "lan", "vps": "0190f6d2-8f3e-7cc0-9d4c-000000000001",
            "vps_name": null, "host": "0190f6d2-8f3e-7cc0-9d4c-0000000000aa",
            "since": "2026-11-23T11:56:48Z", "until": "2026-11-23T11:58:00Z",
        }))
        .unwrap();
        let view = test_view(false);
        let all = [
            table(std::slice::from_ref(&network), &view),
            details(&network, &view),
            address_table(&[held], &view),
        ];
        expect![[r#"
            NAME  REGION   ON                    DEFAULT  POOLS         VPSS
            lan   us-east  bridge br0, VLAN 100  yes      192.0.2.0/24  7

            Name:      lan
            Region:    us-east
            On:        bridge br0, VLAN 100
            Default:   yes
            VPSs:      7
            Pools:     192.0.2.0/24 gateway 192.0.2.1, gives /32, 7 held, reserved: 192.0.2.2 to 192.0.2.9
            Revision:  12

            HELD           NETWORK  VPS     VPS ID                                SINCE                             UNTIL
            192.0.2.10/32  lan      (gone)  0190f6d2-8f3e-7cc0-9d4c-000000000001  2026-11-23T11:56:48Z (3m12s ago)  2026-11-23T11:58:00Z
        "#]].assert_eq(&all.join("\n"));
    }
}
