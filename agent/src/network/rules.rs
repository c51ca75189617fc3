//! The rules for the cards of the guests, as one nftables table of the bridge family. Pure: the same ports, the same text.
//!
//! Each card has a counter and a chain for each direction, found by the name of the host's end. What a guest sends is
//! counted first, then guarded: only its own hardware, ARP, IPv4 and IPv6 addresses, no router's or DHCP server's part.
//! Kernels differ in what they can do for bridges (connection tracking, shaping, policing are often missing), so only
//! what every nftables has is used: answers are let in by TCP's flags and by a set of the UDP flows seen, rates are kept
//! by dropping what is beyond.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

use chom_protocol::VpsId;
use chom_protocol::network::{
    Direction, Firewall, FirewallAction, FirewallRule, TransportProtocol, link_local, port_name,
};
use chom_protocol::vps::NetworkInterface;
use ipnet::{IpNet, Ipv6Net};

/// The table; nothing else is in it.
pub(super) const TABLE: &str = "bridge chom";
/// The chain that everything from guests comes through.
pub(super) const FROM_GUESTS: &str = "from-guests";

/// UDP flows remembered for each card; what is beyond gets no answers through a firewall that is closed.
const FLOWS_MAX: usize = 4096;
/// A UDP answer comes within this time, as with conntrack's own default for a stream.
const FLOW_SECONDS: u32 = 120;
/// A burst is at least this long: segmentation offload hands over 64 KiB at once.
const BURST_BYTES_MIN: u64 = 256 * 1024;
/// And at most this long: nftables keeps it in 32 bits.
const BURST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A card to be guarded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Card<'a> {
    pub(super) interface: &'a NetworkInterface,
    /// Nothing goes in or out.
    pub(super) cut_off: bool,
    /// What the host's end of it is called beside CHOM's own name for it, which it has from its next start on.
    pub(super) name: Option<&'a str>,
}

/// What a card's objects in the table are called after their kind.
pub(super) fn suffix(vps: VpsId) -> String {
    port_name(vps).split_off(3)
}

/// The whole table.
pub(super) fn render(cards: &BTreeMap<VpsId, Card<'_>>) -> String {
    let mut text = format!("table {TABLE} {{\n");
    // Writing to a String cannot fail; so everywhere in this file.
    for (&vps, card) in cards {
        of_card(&mut text, &suffix(vps), *card);
    }
    // Before the kernel's bridge looks at a frame, and after it has decided where it goes.
    for (chain, hook, priority, key, to) in [
        (FROM_GUESTS, "prerouting", -300, "iifname", "from"),
        ("to-guests", "postrouting", 300, "oifname", "to"),
    ] {
        let _ =
            writeln!(text, "chain {chain} {{\ntype filter hook {hook} priority {priority}; policy accept;");
        if !cards.is_empty() {
            // A name twice would void the table: a name that one guest had may be another's by now.
            let mut ports = BTreeMap::new();
            for (vps, card) in cards {
                ports.extend(card.name.map(|name| (name.to_owned(), *vps)));
            }
            ports.extend(cards.keys().map(|vps| (port_name(*vps), *vps)));
            let jump = |(name, vps): (&String, &VpsId)| format!("\"{name}\" : jump {to}-{}", suffix(*vps));
            let jumps: Vec<String> = ports.iter().map(jump).collect();
            let _ = writeln!(text, "{key} vmap {{ {} }}", jumps.join(", "));
        }
        text.push_str("}\n");
    }
    text.push_str("}\n");
    text
}

fn of_card(text: &mut String, suffix: &str, card: Card<'_>) {
    let Card { interface, cut_off, name: _ } = card;
    for direction in ["in", "out"] {
        let _ = writeln!(text, "counter {direction}-{suffix} {{\n}}");
    }
    let firewall = &interface.firewall;
    for direction in [Direction::In, Direction::Out] {
        if default(firewall, direction) == FirewallAction::Drop {
            for (family, _) in FAMILIES {
                let set = answers_set(direction, family, suffix);
                let _ = writeln!(
                    text,
                    "set {set} {{\ntype ipv{family}_addr . inet_service . inet_service\nsize {FLOWS_MAX}\n\
                     flags dynamic,timeout\ntimeout {FLOW_SECONDS}s\n}}"
                );
            }
        }
    }
    let own = Own::of(interface);
    if interface.spoof_guard {
        neighbours(text, suffix, &own);
    }
    for direction in [Direction::In, Direction::Out] {
        if filters(firewall, direction) {
            let _ = writeln!(text, "chain {} {{", firewall_chain(direction, suffix));
            filter(text, suffix, firewall, direction);
            text.push_str("}\n");
        }
    }
    let _ = writeln!(text, "chain from-{suffix} {{\ncounter name \"out-{suffix}\"");
    if cut_off {
        text.push_str("drop\n");
    }
    if interface.spoof_guard {
        guard(text, suffix, interface, &own);
    }
    limit(text, interface, Direction::Out);
    pass(text, suffix, firewall, Direction::Out);
    let _ = writeln!(text, "}}\nchain to-{suffix} {{");
    if cut_off {
        text.push_str("drop\n");
    }
    pass(text, suffix, firewall, Direction::In);
    limit(text, interface, Direction::In);
    let _ = writeln!(text, "counter name \"in-{suffix}\"\n}}");
}

/// What a card may send from.
struct Own {
    /// Each address alone.
    addresses: Vec<IpAddr>,
    /// And what is routed to it.
    routed: Vec<IpNet>,
    link_local: Ipv6Addr,
}

impl Own {
    fn of(interface: &NetworkInterface) -> Self {
        Self {
            addresses: interface.addresses.iter().map(|own| own.address).collect(),
            routed: interface.routed.clone(),
            link_local: link_local(interface.mac),
        }
    }

    /// Nothing was assigned: an operator's DHCP server gives addresses that nobody here knows.
    fn is_unknown(&self) -> bool {
        self.addresses.is_empty() && self.routed.is_empty()
    }

    fn v4_addresses(&self) -> Vec<String> {
        self.addresses.iter().filter(|own| own.is_ipv4()).map(ToString::to_string).collect()
    }

    fn v4(&self) -> Vec<String> {
        let routed = self.routed.iter().filter(|net| net.addr().is_ipv4()).map(ToString::to_string);
        let covered = |own: &&IpAddr| !self.routed.iter().any(|net| net.contains(*own));
        let single =
            self.addresses.iter().filter(|own| own.is_ipv4()).filter(covered).map(ToString::to_string);
        single.chain(routed).collect()
    }

    /// IPv6 sources as prefixes, the link-local one first; none within another.
    fn v6(&self) -> Vec<Ipv6Net> {
        let routed = self.routed.iter().filter_map(|net| match net {
            IpNet::V6(net) => Some(*net),
            IpNet::V4(_) => None,
        });
        let covered = |own: &IpAddr| self.routed.iter().any(|net| net.contains(own));
        let single = self.addresses.iter().filter_map(|own| match own {
            IpAddr::V6(v6) if !covered(own) => Some(Ipv6Net::from(*v6)),
            IpAddr::V6(_) | IpAddr::V4(_) => None,
        });
        [Ipv6Net::from(self.link_local)].into_iter().chain(single).chain(routed).collect()
    }
}

/// Whose neighbour it may say it is: the target of a neighbour discovery message (RFC 4861) stands 8 bytes into it.
fn neighbours(text: &mut String, suffix: &str, own: &Own) {
    if own.is_unknown() {
        return;
    }
    let _ = writeln!(text, "chain neighbour-{suffix} {{");
    for net in own.v6() {
        let (address, mask) = (u128::from(net.network()), u128::from(net.netmask()));
        let _ = match net.prefix_len() {
            128 => writeln!(text, "@th,64,128 0x{address:032x} return"),
            _ => writeln!(text, "@th,64,128 & 0x{mask:032x} == 0x{address:032x} return"),
        };
    }
    text.push_str("drop\n}\n");
}

fn guard(text: &mut String, suffix: &str, interface: &NetworkInterface, own: &Own) {
    let mac = interface.mac.map(|byte| format!("{byte:02x}")).join(":");
    let _ = write!(
        text,
        "ether saddr != {mac} drop\nether type != {{ arp, ip, ip6 }} drop\n\
         arp htype != 1 drop\narp ptype != ip drop\narp hlen != 6 drop\narp plen != 4 drop\narp saddr ether != {mac} drop\n"
    );
    if !own.is_unknown() {
        let addresses = own.v4_addresses();
        match addresses.is_empty() {
            true => text.push_str("ether type arp drop\n"),
            false => {
                let list = addresses.join(", ");
                // Before it takes an address a guest asks, from nowhere, whether somebody has it (RFC 5227).
                let _ = write!(
                    text,
                    "arp saddr ip 0.0.0.0 arp daddr ip != {{ {list} }} drop\narp saddr ip != {{ 0.0.0.0, {list} }} drop\n"
                );
            }
        }
        match own.v4() {
            none if none.is_empty() => text.push_str("ether type ip drop\n"),
            some => {
                let _ = writeln!(text, "ip saddr != {{ {} }} drop", some.join(", "));
            }
        }
        let nets: Vec<String> = own.v6().iter().map(ToString::to_string).collect();
        let _ = write!(
            text,
            "ip6 saddr != {{ ::, {} }} drop\nip6 saddr :: meta l4proto != ipv6-icmp drop\n\
             ip6 saddr :: icmpv6 type != {{ nd-router-solicit, nd-neighbor-solicit, mld-listener-report, mld2-listener-report }} drop\n\
             ip6 saddr :: icmpv6 type nd-neighbor-solicit jump neighbour-{suffix}\n\
             icmpv6 type nd-neighbor-advert jump neighbour-{suffix}\n",
            nets.join(", ")
        );
    }
    text.push_str("icmpv6 type { nd-router-advert, nd-redirect } drop\nudp sport { 67, 547 } drop\n");
}

/// Drops what is beyond the rate.
fn limit(text: &mut String, interface: &NetworkInterface, direction: Direction) {
    let Some(bits) = interface.rate.of(direction) else { return };
    let bytes = (bits / 8).max(1);
    let burst = (bytes / 4).clamp(BURST_BYTES_MIN, BURST_BYTES_MAX);
    let _ = writeln!(text, "limit rate over {bytes} bytes/second burst {burst} bytes drop");
}

fn firewall_chain(direction: Direction, suffix: &str) -> String {
    match direction {
        Direction::In => format!("firewall-in-{suffix}"),
        Direction::Out => format!("firewall-out-{suffix}"),
    }
}

/// Whether anything is ever dropped in a direction.
fn filters(firewall: &Firewall, direction: Direction) -> bool {
    default(firewall, direction) == FirewallAction::Drop
        || firewall.rules.iter().any(|rule| rule.direction == direction)
}

/// Goes through the firewall, and notes UDP flows that passed, so that their answers pass the other way.
fn pass(text: &mut String, suffix: &str, firewall: &Firewall, direction: Direction) {
    if filters(firewall, direction) {
        let _ = writeln!(text, "jump {}", firewall_chain(direction, suffix));
    }
    let answers = match direction {
        Direction::In => Direction::Out,
        Direction::Out => Direction::In,
    };
    if default(firewall, answers) == FirewallAction::Accept {
        return;
    }
    for (family, ip) in FAMILIES {
        let set = answers_set(answers, family, suffix);
        let _ = writeln!(text, "update @{set} {{ {} }}", flow(ip, direction));
    }
}

const FAMILIES: [(char, &str); 2] = [('4', "ip"), ('6', "ip6")];

fn default(firewall: &Firewall, direction: Direction) -> FirewallAction {
    match direction {
        Direction::In => firewall.default_in,
        Direction::Out => firewall.default_out,
    }
}

/// The set of flows whose answers go in a direction.
fn answers_set(direction: Direction, family: char, suffix: &str) -> String {
    let word = match direction {
        Direction::In => "in",
        Direction::Out => "out",
    };
    format!("answers-{word}{family}-{suffix}")
}

/// The other end of a flow, its port, and the guest's, of a packet that goes in a direction.
fn flow(ip: &str, direction: Direction) -> String {
    match direction {
        Direction::In => format!("{ip} saddr . udp sport . udp dport"),
        Direction::Out => format!("{ip} daddr . udp dport . udp sport"),
    }
}

/// Returns what may pass, drops what may not.
fn filter(text: &mut String, suffix: &str, firewall: &Firewall, direction: Direction) {
    text.push_str(
        "ether type arp return\nicmp type { destination-unreachable, time-exceeded, parameter-problem } return\n\
         icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, mld-listener-query, \
         mld-listener-report, mld-listener-done, nd-router-solicit, nd-router-advert, nd-neighbor-solicit, \
         nd-neighbor-advert, mld2-listener-report } return\n",
    );
    for rule in firewall.rules.iter().filter(|rule| rule.direction == direction) {
        of_rule(text, rule);
    }
    if default(firewall, direction) == FirewallAction::Accept {
        return;
    }
    text.push_str(
        "tcp flags & (syn | ack) != syn return\nicmp type echo-reply return\nicmpv6 type echo-reply return\n",
    );
    for (family, ip) in FAMILIES {
        let _ = writeln!(text, "{} @{} return", flow(ip, direction), answers_set(direction, family, suffix));
    }
    text.push_str("drop\n");
}

fn of_rule(text: &mut String, rule: &FirewallRule) {
    let FirewallRule { direction, protocol, ports, peer, action } = rule;
    let side = match direction {
        Direction::In => "saddr",
        Direction::Out => "daddr",
    };
    let peer_is_v4 = peer.map(|peer| peer.addr().is_ipv4());
    let peer = peer.map_or_else(String::new, |peer| match peer {
        IpNet::V4(net) => format!("ip {side} {net} "),
        IpNet::V6(net) => format!("ip6 {side} {net} "),
    });
    let list: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let of = |name: &str| match list.is_empty() {
        true => format!("meta l4proto {name} "),
        false => format!("{name} dport {{ {} }} ", list.join(", ")),
    };
    let kinds = match (protocol, peer_is_v4) {
        (TransportProtocol::Any, _) => vec![String::new()],
        (TransportProtocol::Tcp, _) => vec![of("tcp")],
        (TransportProtocol::Udp, _) => vec![of("udp")],
        (TransportProtocol::Icmp, Some(true)) => vec![of("icmp")],
        (TransportProtocol::Icmp, Some(false)) => vec![of("ipv6-icmp")],
        (TransportProtocol::Icmp, None) => vec![of("icmp"), of("ipv6-icmp")],
    };
    let action = match action {
        FirewallAction::Accept => "return",
        FirewallAction::Drop => "drop",
    };
    for kind in kinds {
        let _ = writeln!(text, "{peer}{kind}{action}");
    }
}

#[cfg(test)]
mod tests;
