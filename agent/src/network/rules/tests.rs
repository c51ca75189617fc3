//! The rules as text.

use chom_protocol::network::{PortRange, Rate};
use chom_protocol::vps::AddressPrefix;
use expect_test::{Expect, expect};

use super::*;

const VPS: &str = "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e";

fn interface() -> NetworkInterface {
    let address = |text: &str, prefix| AddressPrefix { address: text.parse().unwrap(), prefix };
    NetworkInterface {
        addresses: vec![address("10.155.0.7", 20), address("2001:db8::7", 64)],
        ..NetworkInterface::bare([0x52, 0x54, 0, 0xab, 1, 0xff])
    }
}

fn check(interface: &NetworkInterface, expected: &Expect) {
    check_card(Card { interface, cut_off: false, name: None }, expected);
}

fn check_card(card: Card<'_>, expected: &Expect) {
    expected.assert_eq(&render(&[(VPS.parse().unwrap(), card)].into()));
}

#[test]
fn a_host_without_cards_has_only_the_ways_in_and_out() {
    expect![[r"
        table bridge chom {
        chain from-guests {
        type filter hook prerouting priority -300; policy accept;
        }
        chain to-guests {
        type filter hook postrouting priority 300; policy accept;
        }
        }
    "]]
    .assert_eq(&render(&BTreeMap::new()));
}

#[test]
fn a_card_sends_only_from_its_own_addresses_and_is_counted() {
    check(
        &interface(),
        &expect![[r#"
            table bridge chom {
            counter in-1f2a3b4c5d6e {
            }
            counter out-1f2a3b4c5d6e {
            }
            chain neighbour-1f2a3b4c5d6e {
            @th,64,128 0xfe80000000000000505400fffeab01ff return
            @th,64,128 0x20010db8000000000000000000000007 return
            drop
            }
            chain from-1f2a3b4c5d6e {
            counter name "out-1f2a3b4c5d6e"
            ether saddr != 52:54:00:ab:01:ff drop
            ether type != { arp, ip, ip6 } drop
            arp htype != 1 drop
            arp ptype != ip drop
            arp hlen != 6 drop
            arp plen != 4 drop
            arp saddr ether != 52:54:00:ab:01:ff drop
            arp saddr ip 0.0.0.0 arp daddr ip != { 10.155.0.7 } drop
            arp saddr ip != { 0.0.0.0, 10.155.0.7 } drop
            ip saddr != { 10.155.0.7 } drop
            ip6 saddr != { ::, fe80::5054:ff:feab:1ff/128, 2001:db8::7/128 } drop
            ip6 saddr :: meta l4proto != ipv6-icmp drop
            ip6 saddr :: icmpv6 type != { nd-router-solicit, nd-neighbor-solicit, mld-listener-report, mld2-listener-report } drop
            ip6 saddr :: icmpv6 type nd-neighbor-solicit jump neighbour-1f2a3b4c5d6e
            icmpv6 type nd-neighbor-advert jump neighbour-1f2a3b4c5d6e
            icmpv6 type { nd-router-advert, nd-redirect } drop
            udp sport { 67, 547 } drop
            }
            chain to-1f2a3b4c5d6e {
            counter name "in-1f2a3b4c5d6e"
            }
            chain from-guests {
            type filter hook prerouting priority -300; policy accept;
            iifname vmap { "ch-1f2a3b4c5d6e" : jump from-1f2a3b4c5d6e }
            }
            chain to-guests {
            type filter hook postrouting priority 300; policy accept;
            oifname vmap { "ch-1f2a3b4c5d6e" : jump to-1f2a3b4c5d6e }
            }
            }
        "#]],
    );
}

#[test]
fn prefixes_routed_to_a_card_are_its_own_and_cover_its_addresses() {
    let routed = ["192.0.2.16/28", "2001:db8::/64", "2001:db8:7::/60"].map(|net| net.parse().unwrap()).into();
    check(
        &NetworkInterface { routed, ..interface() },
        &expect![[r#"
            table bridge chom {
            counter in-1f2a3b4c5d6e {
            }
            counter out-1f2a3b4c5d6e {
            }
            chain neighbour-1f2a3b4c5d6e {
            @th,64,128 0xfe80000000000000505400fffeab01ff return
            @th,64,128 & 0xffffffffffffffff0000000000000000 == 0x20010db8000000000000000000000000 return
            @th,64,128 & 0xfffffffffffffff00000000000000000 == 0x20010db8000700000000000000000000 return
            drop
            }
            chain from-1f2a3b4c5d6e {
            counter name "out-1f2a3b4c5d6e"
            ether saddr != 52:54:00:ab:01:ff drop
            ether type != { arp, ip, ip6 } drop
            arp htype != 1 drop
            arp ptype != ip drop
            arp hlen != 6 drop
            arp plen != 4 drop
            arp saddr ether != 52:54:00:ab:01:ff drop
            arp saddr ip 0.0.0.0 arp daddr ip != { 10.155.0.7 } drop
            arp saddr ip != { 0.0.0.0, 10.155.0.7 } drop
            ip saddr != { 10.155.0.7, 192.0.2.16/28 } drop
            ip6 saddr != { ::, fe80::5054:ff:feab:1ff/128, 2001:db8::/64, 2001:db8:7::/60 } drop
            ip6 saddr :: meta l4proto != ipv6-icmp drop
            ip6 saddr :: icmpv6 type != { nd-router-solicit, nd-neighbor-solicit, mld-listener-report, mld2-listener-report } drop
            ip6 saddr :: icmpv6 type nd-neighbor-solicit jump neighbour-1f2a3b4c5d6e
            icmpv6 type nd-neighbor-advert jump neighbour-1f2a3b4c5d6e
            icmpv6 type { nd-router-advert, nd-redirect } drop
            udp sport { 67, 547 } drop
            }
            chain to-1f2a3b4c5d6e {
            counter name "in-1f2a3b4c5d6e"
            }
            chain from-guests {
            type filter hook prerouting priority -300; policy accept;
            iifname vmap { "ch-1f2a3b4c5d6e" : jump from-1f2a3b4c5d6e }
            }
            chain to-guests {
            type filter hook postrouting priority 300; policy accept;
            oifname vmap { "ch-1f2a3b4c5d6e" : jump to-1f2a3b4c5d6e }
            }
            }
        "#]],
    );
}

#[test]
fn a_card_without_any_address_is_held_to_its_hardware_address() {
    check(
        &NetworkInterface::bare([2; 6]),
        &expect![[r#"
            table bridge chom {
            counter in-1f2a3b4c5d6e {
            }
            counter out-1f2a3b4c5d6e {
            }
            chain from-1f2a3b4c5d6e {
            counter name "out-1f2a3b4c5d6e"
            ether saddr != 02:02:02:02:02:02 drop
            ether type != { arp, ip, ip6 } drop
            arp htype != 1 drop
            arp ptype != ip drop
            arp hlen != 6 drop
            arp plen != 4 drop
            arp saddr ether != 02:02:02:02:02:02 drop
            icmpv6 type { nd-router-advert, nd-redirect } drop
            udp sport { 67, 547 } drop
            }
            chain to-1f2a3b4c5d6e {
            counter name "in-1f2a3b4c5d6e"
            }
            chain from-guests {
            type filter hook prerouting priority -300; policy accept;
            iifname vmap { "ch-1f2a3b4c5d6e" : jump from-1f2a3b4c5d6e }
            }
            chain to-guests {
            type filter hook postrouting priority 300; policy accept;
            oifname vmap { "ch-1f2a3b4c5d6e" : jump to-1f2a3b4c5d6e }
            }
            }
        "#]],
    );
}

#[test]
fn a_firewall_lets_answers_in_and_a_rate_drops_what_is_beyond() {
    let rule = |direction, protocol, ports: &[u16], peer: Option<&str>, action| FirewallRule {
        direction,
        protocol,
        ports: ports.iter().map(|&port| PortRange::new(port, port + 1).unwrap()).collect(),
        peer: peer.map(|peer| peer.parse().unwrap()),
        action,
    };
    let firewall = Firewall {
        default_in: FirewallAction::Drop,
        default_out: FirewallAction::Accept,
        rules: vec![
            rule(Direction::In, TransportProtocol::Tcp, &[22, 80], None, FirewallAction::Accept),
            rule(Direction::In, TransportProtocol::Any, &[], Some("192.0.2.0/24"), FirewallAction::Drop),
            rule(Direction::In, TransportProtocol::Icmp, &[], None, FirewallAction::Accept),
            rule(Direction::In, TransportProtocol::Udp, &[53], Some("2001:db8::/32"), FirewallAction::Accept),
            rule(Direction::Out, TransportProtocol::Tcp, &[25], None, FirewallAction::Drop),
        ],
    };
    let rate = Rate { in_bits: Some(100_000_000), out_bits: None, throttle_bits: Some(1_000_000) };
    check(
        &NetworkInterface { firewall, rate, spoof_guard: false, ..interface() },
        &expect![[r#"
        table bridge chom {
        counter in-1f2a3b4c5d6e {
        }
        counter out-1f2a3b4c5d6e {
        }
        set answers-in4-1f2a3b4c5d6e {
        type ipv4_addr . inet_service . inet_service
        size 4096
        flags dynamic,timeout
        timeout 120s
        }
        set answers-in6-1f2a3b4c5d6e {
        type ipv6_addr . inet_service . inet_service
        size 4096
        flags dynamic,timeout
        timeout 120s
        }
        chain firewall-in-1f2a3b4c5d6e {
        ether type arp return
        icmp type { destination-unreachable, time-exceeded, parameter-problem } return
        icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, mld-listener-query, mld-listener-report, mld-listener-done, nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } return
        tcp dport { 22-23, 80-81 } return
        ip saddr 192.0.2.0/24 drop
        meta l4proto icmp return
        meta l4proto ipv6-icmp return
        ip6 saddr 2001:db8::/32 udp dport { 53-54 } return
        tcp flags & (syn | ack) != syn return
        icmp type echo-reply return
        icmpv6 type echo-reply return
        ip saddr . udp sport . udp dport @answers-in4-1f2a3b4c5d6e return
        ip6 saddr . udp sport . udp dport @answers-in6-1f2a3b4c5d6e return
        drop
        }
        chain firewall-out-1f2a3b4c5d6e {
        ether type arp return
        icmp type { destination-unreachable, time-exceeded, parameter-problem } return
        icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, mld-listener-query, mld-listener-report, mld-listener-done, nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } return
        tcp dport { 25-26 } drop
        }
        chain from-1f2a3b4c5d6e {
        counter name "out-1f2a3b4c5d6e"
        limit rate over 125000 bytes/second burst 262144 bytes drop
        jump firewall-out-1f2a3b4c5d6e
        update @answers-in4-1f2a3b4c5d6e { ip daddr . udp dport . udp sport }
        update @answers-in6-1f2a3b4c5d6e { ip6 daddr . udp dport . udp sport }
        }
        chain to-1f2a3b4c5d6e {
        jump firewall-in-1f2a3b4c5d6e
        limit rate over 125000 bytes/second burst 262144 bytes drop
        counter name "in-1f2a3b4c5d6e"
        }
        chain from-guests {
        type filter hook prerouting priority -300; policy accept;
        iifname vmap { "ch-1f2a3b4c5d6e" : jump from-1f2a3b4c5d6e }
        }
        chain to-guests {
        type filter hook postrouting priority 300; policy accept;
        oifname vmap { "ch-1f2a3b4c5d6e" : jump to-1f2a3b4c5d6e }
        }
        }
    "#]],
    );
}

#[test]
fn the_card_of_an_adopted_guest_is_guarded_under_the_name_it_has_and_the_one_it_will_have() {
    let interface = interface();
    let card = |name| Card { interface: &interface, cut_off: false, name };
    let other = "0190f6d2-8f3e-7cc0-9d4c-00000000000b".parse().unwrap();
    // A name that two guests are said to have is in the table once: one of them has it no more.
    let cards = [(VPS.parse().unwrap(), card(Some("vnet3"))), (other, card(Some("vnet3")))].into();
    let text = render(&cards);
    let jumps: Vec<&str> = text.lines().filter(|line| line.starts_with("iifname")).collect();
    expect![[r#"iifname vmap { "ch-00000000000b" : jump from-00000000000b, "ch-1f2a3b4c5d6e" : jump from-1f2a3b4c5d6e, "vnet3" : jump from-1f2a3b4c5d6e }"#]].assert_eq(&jumps.join("\n"));
}

#[test]
fn a_card_that_is_cut_off_gets_nothing_through() {
    let interface = NetworkInterface { spoof_guard: false, ..interface() };
    check_card(
        Card { interface: &interface, cut_off: true, name: None },
        &expect![[r#"
            table bridge chom {
            counter in-1f2a3b4c5d6e {
            }
            counter out-1f2a3b4c5d6e {
            }
            chain from-1f2a3b4c5d6e {
            counter name "out-1f2a3b4c5d6e"
            drop
            }
            chain to-1f2a3b4c5d6e {
            drop
            counter name "in-1f2a3b4c5d6e"
            }
            chain from-guests {
            type filter hook prerouting priority -300; policy accept;
            iifname vmap { "ch-1f2a3b4c5d6e" : jump from-1f2a3b4c5d6e }
            }
            chain to-guests {
            type filter hook postrouting priority 300; policy accept;
            oifname vmap { "ch-1f2a3b4c5d6e" : jump to-1f2a3b4c5d6e }
            }
            }
        "#]],
    );
}

#[test]
fn every_card_is_found_by_its_own_name() {
    let interface = interface();
    let card = Card { interface: &interface, cut_off: false, name: None };
    let cards = [VPS, "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6f"].map(|vps| (vps.parse().unwrap(), card)).into();
    let text = render(&cards);
    let maps: Vec<&str> = text.lines().filter(|line| line.contains("vmap")).collect();
    expect![[r#"
        iifname vmap { "ch-1f2a3b4c5d6e" : jump from-1f2a3b4c5d6e, "ch-1f2a3b4c5d6f" : jump from-1f2a3b4c5d6f }
        oifname vmap { "ch-1f2a3b4c5d6e" : jump to-1f2a3b4c5d6e, "ch-1f2a3b4c5d6f" : jump to-1f2a3b4c5d6f }"#]].assert_eq(&maps.join("\n"));
}
