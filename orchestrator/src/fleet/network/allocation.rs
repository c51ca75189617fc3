//! Which address is free. Pure. An address is a number of 128 bits here, IPv4's below 2^32; the two families never meet,
//! because a pool and what is held of it are of one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::rows::PoolRow;

/// First and last number of a prefix.
pub(super) fn span(net: IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

/// An address as a number.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// Whether two prefixes share an address.
pub(super) fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// The prefix of `bits` that begins at a number, in the family of `like`.
fn block(like: IpNet, start: u128, bits: u8) -> Option<IpNet> {
    match like {
        IpNet::V4(_) => {
            let address = Ipv4Addr::from(u32::try_from(start).ok()?);
            Ipv4Net::new(address, bits).ok().map(IpNet::V4)
        }
        IpNet::V6(_) => Ipv6Net::new(Ipv6Addr::from(start), bits).ok().map(IpNet::V6),
    }
}

/// What of a pool is never given, in order.
fn kept(pool: &PoolRow) -> Vec<(u128, u128)> {
    let (first, last) = span(pool.prefix);
    let mut kept: Vec<(u128, u128)> =
        pool.reserved.iter().map(|range| (number(range.first), number(range.last))).collect();
    if pool.prefix.contains(&pool.gateway) {
        kept.push((number(pool.gateway), number(pool.gateway)));
    }
    // The network's own address; IPv4's broadcast. A prefix of two addresses or one has neither (RFC 3021).
    if pool.prefix.max_prefix_len() - pool.prefix.prefix_len() > 1 {
        kept.push((first, first));
        if pool.prefix.addr().is_ipv4() {
            kept.push((last, last));
        }
    }
    kept.sort_unstable();
    kept
}

/// The lowest block of a pool that is neither held nor reserved. `held` is what is held of the pool, in order.
pub(super) fn lowest_free(pool: &PoolRow, held: impl Iterator<Item = IpNet>) -> Option<IpNet> {
    let (first, last) = span(pool.prefix);
    let size = 1_u128.checked_shl(u32::from(pool.prefix.max_prefix_len() - pool.given_bits))?;
    let kept = kept(pool);
    // A network of its own for each VPS: the pool's first is like any other, but for what of it is reserved.
    let kept = kept.into_iter().filter(|range| size == 1 || *range != (first, first));
    let (mut kept, mut held) = (kept.peekable(), held.map(span).peekable());
    let mut next = first;
    loop {
        let end = next.checked_add(size - 1).filter(|end| *end <= last)?;
        // The farthest end of whatever begins within the block or before it.
        let mut busy = None;
        while let Some(range) = kept.next_if(|range| range.0 <= end) {
            busy = busy.max(Some(range.1));
        }
        while let Some(range) = held.next_if(|range| range.0 <= end) {
            busy = busy.max(Some(range.1));
        }
        let Some(busy) = busy.filter(|busy| *busy >= next) else {
            return block(pool.prefix, next, pool.given_bits);
        };
        let past = busy.checked_add(1)? - first;
        next = first.checked_add(past.div_ceil(size).checked_mul(size)?)?;
    }
}

/// Whether a block of a pool may be given at all.
pub(super) fn may_be_given(pool: &PoolRow, block: IpNet) -> bool {
    let (start, end) = span(block);
    let single = block.prefix_len() == block.max_prefix_len();
    pool.prefix.contains(&block)
        && block.prefix_len() == pool.given_bits
        && kept(pool).iter().all(|range| {
            (!single && *range == (span(pool.prefix).0, span(pool.prefix).0))
                || range.1 < start
                || range.0 > end
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chom_protocol::api::networks::AddressRange;
    use proptest::prelude::*;

    use super::*;

    fn pool(prefix: &str, gateway: &str, given_bits: u8, reserved: &[(&str, &str)]) -> PoolRow {
        let range = |&(first, last): &(&str, &str)| AddressRange {
            first: first.parse().unwrap(),
            last: last.parse().unwrap(),
        };
        PoolRow {
            network: "lan".parse().unwrap(),
            prefix: prefix.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            dns: vec![],
            reserved: reserved.iter().map(range).collect(),
            given_bits,
        }
    }

    /// All that a pool gives, one after the other.
    fn all(pool: &PoolRow, limit: usize) -> Vec<String> {
        let mut held = BTreeSet::new();
        while held.len() < limit
            && let Some(block) = lowest_free(pool, held.iter().copied())
        {
            assert!(may_be_given(pool, block), "{block}");
            assert!(held.insert(block), "{block} was given twice");
        }
        held.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pool_gives_each_address_once_and_never_what_is_kept() {
        for (pool, expected) in [
            (pool("192.0.2.0/29", "192.0.2.1", 32, &[]), "2 3 4 5 6"),
            (pool("192.0.2.0/29", "192.0.2.6", 32, &[("192.0.2.2", "192.0.2.3")]), "1 4 5"),
            (pool("192.0.2.0/29", "192.0.2.1", 32, &[("192.0.2.0", "192.0.2.7")]), ""),
            (pool("192.0.2.0/31", "192.0.2.0", 32, &[]), "1"),
            (pool("192.0.2.4/32", "192.0.2.1", 32, &[]), "4"),
        ] {
            let shown: Vec<String> = all(&pool, 100)
                .iter()
                .map(|net| net.trim_start_matches("192.0.2.").trim_end_matches("/32").to_owned())
                .collect();
            assert_eq!(shown.join(" "), expected, "{}", pool.prefix);
        }
    }

    #[test]
    fn ipv6_pools_give_addresses_or_networks() {
        let single = pool("2001:db8::/64", "2001:db8::1", 128, &[]);
        assert_eq!(all(&single, 3), ["2001:db8::2/128", "2001:db8::3/128", "2001:db8::4/128"]);
        let nets = pool("2001:db8::/62", "fe80::1", 64, &[("2001:db8:0:1::", "2001:db8:0:1::ff")]);
        assert_eq!(all(&nets, 9), ["2001:db8::/64", "2001:db8:0:2::/64", "2001:db8:0:3::/64"]);
        let own_gateway = pool("2001:db8::/62", "2001:db8::1", 64, &[]);
        assert_eq!(all(&own_gateway, 9), ["2001:db8:0:1::/64", "2001:db8:0:2::/64", "2001:db8:0:3::/64"]);
        let last = pool("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126", "fe80::1", 128, &[]);
        assert_eq!(all(&last, 9).len(), 3);
    }

    proptest! {
        /// Whatever is held and reserved, what is given is free, and none is kept back.
        #[test]
        fn the_lowest_free_address_is_given(
            held in prop::collection::btree_set(0_u8..64, 0..40),
            reserved in prop::collection::vec((0_u8..64, 0_u8..8), 0..4),
            gateway in 0_u8..64,
        ) {
            let address = |last: u8| format!("192.0.2.{last}");
            let ranges: Vec<(String, String)> =
                reserved.iter().map(|(first, length)| (address(*first), address(first.saturating_add(*length).min(63)))).collect();
            let ranges: Vec<(&str, &str)> = ranges.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            let pool = pool("192.0.2.0/26", &address(gateway), 32, &ranges);
            let held: BTreeSet<IpNet> = held.iter().map(|last| format!("192.0.2.{last}/32").parse().unwrap()).collect();
            let expected = (0_u8..64)
                .map(|last| -> IpNet { format!("192.0.2.{last}/32").parse().unwrap() })
                .find(|net| !held.contains(net) && may_be_given(&pool, *net));
            prop_assert_eq!(lowest_free(&pool, held.iter().copied()), expected);
        }
    }
}
