//! The card of a VPS: the commands.

use std::net::IpAddr;
use std::path::PathBuf;

use chom_protocol::api::networks::{
    AddressFamily, ChangeAddresses, ChangeNetwork, RateLimits, TrafficQuota, VpsNetworkView,
};
use chom_protocol::api::vps_servers::VpsView;
use chom_protocol::network::Firewall;
use clap::Subcommand;
use ipnet::IpNet;

use super::order::{order, overwrite};
use super::{Target, by_id, path};
use crate::error::Failure;
use crate::output::{Details, View, joined, word, yes_no};
use crate::session::{Reference, Session, read_text};

/// Largest file with a firewall; 64 rules are about 20 KiB.
const FIREWALL_BYTES_MAX: usize = 64 * 1024;

/// The commands of `chomctl vps` that concern its card.
#[derive(Debug, Subcommand)]
pub(crate) enum VpsNetworkCommand {
    /// Shows a VPS's addresses, firewall, rates and traffic
    Network {
        /// Its name or id
        vps: Reference,
    },
    /// Changes a VPS's addresses
    #[command(subcommand)]
    Address(AddressCommand),
    /// Sets a VPS's firewall from a file
    Firewall {
        #[command(flatten)]
        target: Target,
        /// JSON: `default_in`, `default_out` and `rules`, as the API has them
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Sets how fast a VPS may send and receive, bits a second; as fast as it can where absent
    Rate {
        #[command(flatten)]
        target: Target,
        /// To the guest
        #[arg(long = "in", value_name = "BITS")]
        in_bits: Option<u64>,
        /// From the guest
        #[arg(long = "out", value_name = "BITS")]
        out_bits: Option<u64>,
    },
    /// Sets how much traffic a VPS may have in a month; no limit where absent
    Quota {
        #[command(flatten)]
        target: Target,
        /// From here on there is an alert
        #[arg(long, value_name = "BYTES")]
        soft: Option<u64>,
        /// From here on it is throttled until the month ends
        #[arg(long, value_name = "BYTES", requires = "throttle")]
        hard: Option<u64>,
        /// To so many bits a second
        #[arg(long, value_name = "BITS", requires = "hard")]
        throttle: Option<u64>,
    },
    /// Lets a VPS send only from its own addresses, or from any
    SpoofGuard {
        #[command(flatten)]
        target: Target,
        /// On or off
        #[arg(value_enum)]
        guard: Switch,
    },
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Switch {
    /// On
    On,
    /// Off
    Off,
}

/// `chomctl vps address`.
#[derive(Debug, Subcommand)]
pub(crate) enum AddressCommand {
    /// Gives a VPS another address
    Add {
        #[command(flatten)]
        target: Target,
        /// Which; the lowest free one where absent
        #[arg(long)]
        address: Option<IpAddr>,
        /// IPv6 instead of IPv4
        #[arg(long, conflicts_with = "address")]
        v6: bool,
    },
    /// Lets a VPS use a prefix that the network routes to it
    Route {
        #[command(flatten)]
        target: Target,
        /// Which
        prefix: IpNet,
    },
    /// Takes an address or a routed prefix away
    Remove {
        #[command(flatten)]
        target: Target,
        /// Which
        held: String,
    },
    /// Gives an address or a routed prefix to another VPS of the same network
    Move {
        #[command(flatten)]
        target: Target,
        /// Which
        held: String,
        /// To which VPS, by name or id
        #[arg(long)]
        to: Reference,
    },
}

/// Runs one of them.
pub(super) fn run(session: &Session, command: VpsNetworkCommand) -> Result<(), Failure> {
    let change = |target: Target, change| overwrite(session, &target, "network", &change);
    match command {
        VpsNetworkCommand::Network { vps } => {
            let client = session.client()?;
            let card: VpsNetworkView = client.get(&format!("{}/network", by_id(&client, &vps)?))?;
            session.screen.show(&card, |view| details(&card, view))
        }
        VpsNetworkCommand::Address(command) => address(session, command),
        VpsNetworkCommand::Firewall { target, file } => {
            let text = read_text("a firewall from", &file, FIREWALL_BYTES_MAX)?;
            let firewall: Firewall = serde_json::from_str(&text)
                .map_err(|error| Failure::Format { format: "JSON", reason: error.to_string() })?;
            change(target, ChangeNetwork { firewall: Some(firewall), ..ChangeNetwork::default() })
        }
        VpsNetworkCommand::Rate { target, in_bits, out_bits } => {
            let rate = Some(RateLimits { in_bits, out_bits });
            change(target, ChangeNetwork { rate, ..ChangeNetwork::default() })
        }
        VpsNetworkCommand::Quota { target, soft, hard, throttle } => {
            let quota = TrafficQuota { soft_bytes: soft, hard_bytes: hard, throttle_bits: throttle };
            change(target, ChangeNetwork { quota: Some(quota), ..ChangeNetwork::default() })
        }
        VpsNetworkCommand::SpoofGuard { target, guard } => {
            let spoof_guard = Some(guard == Switch::On);
            change(target, ChangeNetwork { spoof_guard, ..ChangeNetwork::default() })
        }
    }
}

fn address(session: &Session, command: AddressCommand) -> Result<(), Failure> {
    let (target, change) = match command {
        AddressCommand::Add { target, address, v6 } => {
            let family = if v6 { AddressFamily::V6 } else { AddressFamily::V4 };
            let family = address.is_none().then_some(family);
            (target, ChangeAddresses::Add { family, address })
        }
        AddressCommand::Route { target, prefix } => (target, ChangeAddresses::Route { prefix }),
        AddressCommand::Remove { target, held } => (target, ChangeAddresses::Remove { held }),
        AddressCommand::Move { target, held, to } => {
            let to: VpsView = session.client()?.get(&path(&to))?;
            (target, ChangeAddresses::Move { held, to: to.id })
        }
    };
    order(session, &target, "addresses", &change)
}

fn details(card: &VpsNetworkView, view: &View) -> String {
    let rate = |bits: Option<u64>| {
        bits.map_or_else(|| "as fast as it can".to_owned(), |bits| format!("{bits} bit/s"))
    };
    let bytes =
        |bytes: Option<u64>| bytes.map_or_else(|| "none".to_owned(), |bytes| format!("{bytes} bytes"));
    let mut details = Details::default();
    details.line("Network", &card.network);
    details.line("MAC", &card.mac);
    details.line("Port on its host", &card.port);
    details.line("Addresses", joined(&card.addresses));
    details.line("Routed to it", joined(&card.routed));
    details.line("IPv4 gateway", card.gateway_v4.map(|gateway| gateway.to_string()).unwrap_or_default());
    details.line("IPv6 gateway", card.gateway_v6.map(|gateway| gateway.to_string()).unwrap_or_default());
    details.line("Name servers", joined(&card.dns));
    details.line("Spoof guard", yes_no(card.spoof_guard));
    let firewall = &card.firewall;
    details.line(
        "Firewall",
        format!("in: {}, out: {}", word(&firewall.default_in), word(&firewall.default_out)),
    );
    let rules = firewall.rules.iter().map(|rule| {
        let ports =
            if rule.ports.is_empty() { String::new() } else { format!(" port {}", joined(&rule.ports)) };
        let peer = rule.peer.map_or_else(String::new, |peer| format!(" {peer}"));
        format!("{} {}{ports}{peer}: {}", word(&rule.direction), word(&rule.protocol), word(&rule.action))
    });
    details.lines("Rules", rules);
    details.line("Rate in", rate(card.rate.in_bits));
    details.line("Rate out", rate(card.rate.out_bits));
    details.line("Soft quota", bytes(card.quota.soft_bytes));
    details.line("Hard quota", bytes(card.quota.hard_bytes));
    details.line("Throttled to", card.throttle_bits.map(|bits| format!("{bits} bit/s")).unwrap_or_default());
    let months = card.months.iter().map(|month| {
        let traffic = month.traffic;
        format!(
            "{}-{:02}: {} bytes in, {} bytes out",
            month.year, month.month, traffic.in_bytes, traffic.out_bytes
        )
    });
    details.lines("Traffic", months);
    details.render(view)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::output::test_view;

    #[test]
    fn a_card_for_people() {
        let card: VpsNetworkView = serde_json::from_value(json!({
            "vps": "0190f6d2-8f3e-7cc0-9d4c-000000000001", "network": "lan", "mac": "52:00:00:00:00:01",
            "port": "ch-000000000001", "addresses": ["192.0.2.7/24"], "routed": ["2001:db8:7::/64"],
            "gateway_v4": "192.0.2.1", "gateway_v6": null, "dns": ["192.0.2.1"], "spoof_guard": true,
            "firewall": {"default_in": "drop", "default_out": "accept", "rules": [
                {"direction": "in", "protocol": "tcp", "ports": ["22", "8000-8080"], "peer": "10.0.0.0/8", "action": "accept"}]},
            "rate": {"in_bits": 100_000_000, "out_bits": null},
            "quota": {"soft_bytes": 1000, "hard_bytes": 2000, "throttle_bits": 64000}, "throttle_bits": 64000,
            "months": [{"year": 2026, "month": 11, "traffic": {"in_bytes": 1500, "out_bytes": 700}}], "revision": 7,
        }))
        .unwrap();
        expect![[r#"
            Network:           lan
            MAC:               52:00:00:00:00:01
            Port on its host:  ch-000000000001
            Addresses:         192.0.2.7/24
            Routed to it:      2001:db8:7::/64
            IPv4 gateway:      192.0.2.1
            Name servers:      192.0.2.1
            Spoof guard:       yes
            Firewall:          in: drop, out: accept
            Rules:             in tcp port 22, 8000-8080 10.0.0.0/8: accept
            Rate in:           100000000 bit/s
            Rate out:          as fast as it can
            Soft quota:        1000 bytes
            Hard quota:        2000 bytes
            Throttled to:      64000 bit/s
            Traffic:           2026-11: 1500 bytes in, 700 bytes out
        "#]]
        .assert_eq(&details(&card, &test_view(false)));
    }
}
