//! The network of a VPS: where its card is plugged in, what it may send and receive, what was counted. Pure data; who gives
//! addresses is the orchestrator's business, and who guards the card the agent's.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::id::VpsId;

/// Most rules of a VPS's firewall: what people still understand, and within a frame.
pub const FIREWALL_RULES_MAX: usize = 64;
/// Most ranges of ports in one rule.
pub const PORT_RANGES_MAX: usize = 16;
/// Longest name of a network interface (Linux: IFNAMSIZ with its closing zero is 16).
const INTERFACE_BYTES_MAX: usize = 15;
/// Slowest rate: less would not carry a full frame in a second.
pub const RATE_BITS_MIN: u64 = 64_000;
/// Fastest rate that is kept: above, nothing is.
pub const RATE_BITS_MAX: u64 = 400_000_000_000;

/// The host's end of a VPS's card, the same on every host and for ever, so that rules can stand before the guest starts.
/// Its last 12 digits are random bits of the id.
#[must_use]
pub fn port_name(vps: VpsId) -> String {
    let bytes = vps.uuid().into_bytes();
    format!("ch-{}", data_encoding::HEXLOWER.encode(&bytes[10..]))
}

/// Why a text is no name of a bridge, or a number no VLAN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachmentError {
    /// No name of an interface.
    #[error(
        "`{0}` is no name of a bridge: up to {INTERFACE_BYTES_MAX} letters, digits and `- _ .`, as `ip link` shows it"
    )]
    Bridge(String),
    /// No VLAN.
    #[error("{0} is no VLAN tag: they go from 1 to 4094 (IEEE 802.1Q)")]
    Vlan(u16),
}

/// The name of a bridge on a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
#[serde(try_from = "String", into = "String")]
pub struct BridgeName(String);

impl BridgeName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for BridgeName {
    type Error = AttachmentError;

    fn try_from(text: String) -> Result<Self, AttachmentError> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let long = text.is_empty() || text.len() > INTERFACE_BYTES_MAX;
        if long || !text.bytes().all(legal) || matches!(text.as_str(), "." | "..") {
            return Err(AttachmentError::Bridge(text.chars().take(40).collect()));
        }
        Ok(Self(text))
    }
}

impl From<BridgeName> for String {
    fn from(name: BridgeName) -> Self {
        name.0
    }
}

impl std::str::FromStr for BridgeName {
    type Err = AttachmentError;

    fn from_str(text: &str) -> Result<Self, AttachmentError> {
        Self::try_from(text.to_owned())
    }
}

impl std::fmt::Display for BridgeName {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

/// The tag of a VLAN (IEEE 802.1Q).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = u16))]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanTag(u16);

impl TryFrom<u16> for VlanTag {
    type Error = AttachmentError;

    fn try_from(tag: u16) -> Result<Self, AttachmentError> {
        match tag {
            1..=4094 => Ok(Self(tag)),
            _ => Err(AttachmentError::Vlan(tag)),
        }
    }
}

impl From<VlanTag> for u16 {
    fn from(tag: VlanTag) -> Self {
        tag.0
    }
}

impl std::fmt::Display for VlanTag {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(out)
    }
}

/// Where a card is plugged in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attachment {
    /// The host's own network behind NAT.
    #[default]
    Nat,
    /// A bridge that the host's administrator made.
    Bridge {
        /// Its name on the host.
        name: BridgeName,
        /// The VLAN that the guest is in; it sees no tags.
        vlan: Option<VlanTag>,
    },
}

/// Which way a packet goes, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the guest.
    In,
    /// From the guest.
    Out,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TransportProtocol {
    /// Anything.
    #[default]
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, and ICMPv6 over IPv6.
    Icmp,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FirewallAction {
    /// It passes.
    Accept,
    /// It is dropped without a word.
    Drop,
}

/// Ports from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is no range of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no port: write one such as `443`, or a range such as `6000-6100`, from 1 to 65535")]
pub struct PortRangeError(String);

impl PortRange {
    /// A range; none if it is empty or has port 0.
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || last < first { None } else { Some(Self { first, last }) }
    }

    /// First and last port.
    #[must_use]
    pub const fn ends(self) -> (u16, u16) {
        (self.first, self.last)
    }
}

impl std::str::FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = first.trim().parse().ok().zip(last.trim().parse().ok());
        range
            .and_then(|(first, last)| Self::new(first, last))
            .ok_or_else(|| PortRangeError(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for PortRange {
    type Error = PortRangeError;

    fn try_from(text: String) -> Result<Self, PortRangeError> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.first == self.last {
            true => write!(out, "{}", self.first),
            false => write!(out, "{}-{}", self.first, self.last),
        }
    }
}

/// One rule: the first that fits a packet decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FirewallRule {
    /// Which way.
    pub direction: Direction,
    /// Of which protocol.
    #[serde(default)]
    pub protocol: TransportProtocol,
    /// To which ports; all where empty. Only for TCP and UDP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub ports: Vec<PortRange>,
    /// The other end: where it comes from, or on its way out where it goes to; anywhere where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub peer: Option<IpNet>,
    /// What becomes of it.
    pub action: FirewallAction,
}

/// What a VPS may send and receive. Answers to what it began pass, whatever the default is; ARP, neighbour discovery and
/// what reports broken paths always pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Firewall {
    /// What no rule names, on its way in.
    pub default_in: FirewallAction,
    /// What no rule names, on its way out.
    pub default_out: FirewallAction,
    /// In order.
    #[serde(default)]
    pub rules: Vec<FirewallRule>,
}

impl Default for Firewall {
    /// Everything passes.
    fn default() -> Self {
        Self { default_in: FirewallAction::Accept, default_out: FirewallAction::Accept, rules: Vec::new() }
    }
}

/// Why a firewall cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FirewallError {
    /// Too many rules.
    #[error("{0} rules; a firewall has at most {FIREWALL_RULES_MAX}: join ports and prefixes")]
    Rules(usize),
    /// Too many ports in one rule.
    #[error("rule {rule} has {ranges} ranges of ports; at most {PORT_RANGES_MAX} are allowed: split it")]
    Ports {
        /// Which, counted from 1.
        rule: usize,
        /// How many.
        ranges: usize,
    },
    /// Ports without a protocol that has them.
    #[error("rule {0} names ports; only tcp and udp have ports: name one of them as its protocol")]
    NoPorts(usize),
    /// A prefix with bits beyond its length.
    #[error("rule {rule}: `{peer}` has bits set beyond its length; write `{meant}`")]
    Peer {
        /// Which, counted from 1.
        rule: usize,
        /// What was given.
        peer: IpNet,
        /// What it would be.
        meant: IpNet,
    },
}

impl Firewall {
    /// Whether it can be.
    ///
    /// # Errors
    /// Names the first rule that cannot.
    pub fn check(&self) -> Result<(), FirewallError> {
        if self.rules.len() > FIREWALL_RULES_MAX {
            return Err(FirewallError::Rules(self.rules.len()));
        }
        for (rule, of) in (1..).zip(&self.rules) {
            if of.ports.len() > PORT_RANGES_MAX {
                return Err(FirewallError::Ports { rule, ranges: of.ports.len() });
            }
            let has_ports = matches!(of.protocol, TransportProtocol::Tcp | TransportProtocol::Udp);
            if !of.ports.is_empty() && !has_ports {
                return Err(FirewallError::NoPorts(rule));
            }
            if let Some(peer) = of.peer.filter(|peer| peer.trunc() != *peer) {
                return Err(FirewallError::Peer { rule, peer, meant: peer.trunc() });
            }
        }
        Ok(())
    }
}

/// How fast a VPS may send and receive; what is beyond is dropped. None: as fast as it can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// To the guest, bits a second.
    pub in_bits: Option<u64>,
    /// From the guest, bits a second.
    pub out_bits: Option<u64>,
    /// Both ways, while its traffic quota is used up.
    pub throttle_bits: Option<u64>,
}

impl Rate {
    /// What holds in a direction now, bits a second.
    #[must_use]
    pub fn of(&self, direction: Direction) -> Option<u64> {
        let own = match direction {
            Direction::In => self.in_bits,
            Direction::Out => self.out_bits,
        };
        own.into_iter().chain(self.throttle_bits).min()
    }
}

/// Bytes that went over a VPS's card since it was first made on its host, frames' headers included, as `ip -s link`
/// counts them, but for what the host's own end of the card sends by itself. They only rise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Traffic {
    /// To the guest.
    pub in_bytes: u64,
    /// From the guest.
    pub out_bytes: u64,
}

impl Traffic {
    /// Both ways together.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.in_bytes.saturating_add(self.out_bytes)
    }

    /// What went since `earlier`. Where a counter stands lower it began anew, and all it shows is new.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        let since = |now: u64, then: u64| if now >= then { now - then } else { now };
        Self {
            in_bytes: since(self.in_bytes, earlier.in_bytes),
            out_bytes: since(self.out_bytes, earlier.out_bytes),
        }
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, more: Self) -> Self {
        Self {
            in_bytes: self.in_bytes.saturating_add(more.in_bytes),
            out_bytes: self.out_bytes.saturating_add(more.out_bytes),
        }
    }
}

/// The link-local address that follows from a card's hardware address (RFC 4291 appendix A): the only one that a guarded
/// guest may use.
#[must_use]
pub fn link_local(mac: [u8; 6]) -> std::net::Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    std::net::Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// An address as a prefix of its own.
#[must_use]
pub fn alone(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_named_after_the_random_end_of_the_id_and_fits() {
        let vps: VpsId = "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e".parse().unwrap();
        assert_eq!(port_name(vps), "ch-1f2a3b4c5d6e");
        assert_eq!(port_name(vps).len(), INTERFACE_BYTES_MAX);
    }

    #[test]
    fn bridges_vlans_and_ports_that_cannot_be_are_refused_with_what_to_write() {
        let bridge = |text: &str| BridgeName::try_from(text.to_owned()).map(|name| name.to_string());
        assert_eq!(bridge("br-lan.100"), Ok("br-lan.100".to_owned()));
        for bad in ["", "..", "a name", "br/0", "br0\"", "a-name-too-long0", "brü"] {
            assert!(bridge(bad).unwrap_err().to_string().contains("ip link"), "{bad}");
        }
        for (tag, good) in [(0, false), (1, true), (4094, true), (4095, false)] {
            assert_eq!(VlanTag::try_from(tag).is_ok(), good, "{tag}");
        }
        for (text, shown) in [("443", Some("443")), ("6000-6100", Some("6000-6100")), ("7-7", Some("7"))] {
            assert_eq!(text.parse::<PortRange>().ok().map(|range| range.to_string()).as_deref(), shown);
        }
        for bad in ["0", "", "9-8", "65536", "1-2-3", "http"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_firewall_names_the_rule_that_cannot_be() {
        let rule = FirewallRule {
            direction: Direction::In,
            protocol: TransportProtocol::Tcp,
            ports: vec![PortRange::new(22, 22).unwrap()],
            peer: Some("10.0.0.0/8".parse().unwrap()),
            action: FirewallAction::Accept,
        };
        let check = |rules: Vec<FirewallRule>| Firewall { rules, ..Firewall::default() }.check();
        assert_eq!(check(vec![rule.clone(); FIREWALL_RULES_MAX]), Ok(()));
        assert_eq!(check(vec![rule.clone(); 65]), Err(FirewallError::Rules(65)));
        let icmp = FirewallRule { protocol: TransportProtocol::Icmp, ..rule.clone() };
        assert_eq!(check(vec![rule.clone(), icmp]), Err(FirewallError::NoPorts(2)));
        let wide = FirewallRule { peer: Some("10.0.0.1/8".parse().unwrap()), ..rule.clone() };
        assert!(check(vec![wide]).unwrap_err().to_string().contains("`10.0.0.0/8`"));
        let many = FirewallRule { ports: vec![rule.ports[0]; 17], ..rule };
        assert_eq!(check(vec![many]), Err(FirewallError::Ports { rule: 1, ranges: 17 }));
    }

    #[test]
    fn a_counter_that_began_anew_counts_from_nothing() {
        let traffic = |in_bytes, out_bytes| Traffic { in_bytes, out_bytes };
        assert_eq!(traffic(70, 5).since(traffic(50, 9)), traffic(20, 5));
    }
}
