//! How often and how much one caller may ask: token buckets for requests, and the throttle of sign-ins. Pure: time comes in
//! as milliseconds of any clock that does not go back, and nothing here knows HTTP or the fleet.

use std::net::{IpAddr, Ipv6Addr};

pub mod bucket;
mod recent;
pub mod throttle;

/// Bits of an IPv6 address that one customer of a provider has: what differs behind them is one caller all the same.
const IPV6_NETWORK_BITS: u32 = 64;

/// Whom an address stands for; none: this machine itself, which holds whoever has a proxy in front, and is not counted.
#[must_use]
pub fn party(address: IpAddr) -> Option<IpAddr> {
    let address = address.to_canonical();
    if address.is_loopback() {
        return None;
    }
    Some(match address {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> (128 - IPV6_NETWORK_BITS) << (128 - IPV6_NETWORK_BITS);
            Ipv6Addr::from(network).into()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_party_is_an_ipv4_address_or_an_ipv6_network_and_never_this_machine() {
        let party = |text: &str| party(text.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(party("192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(party("::ffff:192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(party("2001:db8:1:2:3::4").as_deref(), Some("2001:db8:1:2::"));
        for own in ["127.0.0.1", "127.200.3.4", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(party(own), None, "{own}");
        }
    }
}
