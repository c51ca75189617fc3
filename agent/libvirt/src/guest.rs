//! What the agent inside a guest (qemu-guest-agent) says, as facts. Pure. A guest says what it likes: everything is bounded,
//! and what is not said is unknown, never zero.

use std::net::IpAddr;

use chom_protocol::vps::{GUEST_ADDRESSES_MAX, GUEST_FILE_SYSTEMS_MAX, GuestFacts, GuestFileSystem};
use chom_protocol::{Bytes, UnixMillis};
use virt::error::{Error, ErrorNumber};
use virt::sys;

use crate::stats::{Numbers, Texts};

/// What is asked, each by itself: an old agent knows less.
pub(crate) const KINDS: [sys::virDomainGuestInfoTypes; 4] = [
    sys::VIR_DOMAIN_GUEST_INFO_HOSTNAME,
    sys::VIR_DOMAIN_GUEST_INFO_OS,
    sys::VIR_DOMAIN_GUEST_INFO_INTERFACES,
    sys::VIR_DOMAIN_GUEST_INFO_FILESYSTEM,
];
/// Cards and their addresses that are looked at.
const LOOKED_AT_MAX: u64 = 64;

/// Whether nobody inside answers, so that there is no use in asking on.
pub(crate) fn is_silent(error: &Error) -> bool {
    matches!(
        error.code().known(),
        Some(
            ErrorNumber::AgentUnresponsive
                | ErrorNumber::AgentUnsynced
                | ErrorNumber::AgentCommandTimeout
                | ErrorNumber::ArgumentUnsupported
        )
    )
}

/// The facts in what libvirt made of the agent's answers (virDomainGetGuestInfo has the names).
pub(crate) fn facts(numbers: &Numbers, texts: &Texts) -> GuestFacts {
    let text = |name: &str| texts.get(name).filter(|text| !text.is_empty()).cloned();
    GuestFacts {
        seen_at: UnixMillis(0), // the agent of the host has a clock
        hostname: text("hostname"),
        os: text("os.pretty-name").or_else(|| text("os.name")),
        kernel: text("os.kernel-release"),
        addresses: addresses(numbers, texts),
        file_systems: file_systems(numbers, texts),
    }
}

fn addresses(numbers: &Numbers, texts: &Texts) -> Option<Vec<IpAddr>> {
    let cards = *numbers.get("if.count")?;
    let mut found = Vec::new();
    for card in 0..cards.min(LOOKED_AT_MAX) {
        let count = numbers.get(&format!("if.{card}.addr.count")).copied().unwrap_or(0);
        for at in 0..count.min(LOOKED_AT_MAX) {
            let text = texts.get(&format!("if.{card}.addr.{at}.addr"));
            let address = text.and_then(|text| text.parse::<IpAddr>().ok());
            found.extend(address.filter(|address| !address.is_loopback() && !found.contains(address)));
        }
    }
    found.truncate(GUEST_ADDRESSES_MAX);
    Some(found)
}

fn file_systems(numbers: &Numbers, texts: &Texts) -> Option<Vec<GuestFileSystem>> {
    let count = *numbers.get("fs.count")?;
    let one = |at: u64| {
        let text = |name: &str| texts.get(&format!("fs.{at}.{name}")).cloned();
        let bytes = |name: &str| numbers.get(&format!("fs.{at}.{name}")).copied().map(Bytes);
        Some(GuestFileSystem {
            mount: text("mountpoint")?,
            kind: text("fstype").unwrap_or_default(),
            size: bytes("total-bytes"),
            used: bytes("used-bytes"),
        })
    };
    let mut found: Vec<_> = (0..count.min(LOOKED_AT_MAX)).filter_map(one).collect();
    found.sort_by(|a, b| a.mount.cmp(&b.mount));
    found.truncate(GUEST_FILE_SYSTEMS_MAX);
    Some(found)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn of(numbers: &[(&str, u64)], texts: &[(&str, &str)]) -> GuestFacts {
        let numbers = numbers.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let texts = texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        facts(&numbers, &texts)
    }

    #[test]
    fn what_is_not_said_is_unknown_and_not_zero() {
        expect![[r#"
            GuestFacts {
                seen_at: UnixMillis(
                    0,
                ),
                hostname: None,
                os: None,
                kernel: None,
                addresses: None,
                file_systems: None,
            }
        "#]]
        .assert_debug_eq(&of(&[], &[]));
        let half =
            of(&[("fs.count", 2), ("fs.0.used-bytes", 7)], &[("fs.0.mountpoint", "/"), ("os.name", "")]);
        assert_eq!(half.os, None);
        let systems = half.file_systems.unwrap();
        assert_eq!((systems.len(), systems[0].size, systems[0].used), (1, None, Some(Bytes(7))));
    }

    #[test]
    fn addresses_are_those_that_others_can_see_each_once() {
        let said = of(
            &[("if.count", 2), ("if.0.addr.count", 1), ("if.1.addr.count", 4)],
            &[
                ("if.0.addr.0.addr", "127.0.0.1"),
                ("if.1.addr.0.addr", "10.0.0.7"),
                ("if.1.addr.1.addr", "10.0.0.7"),
                ("if.1.addr.2.addr", "<script>"),
                ("if.1.addr.3.addr", "fe80::1"),
            ],
        );
        let found: Vec<IpAddr> = said.addresses.unwrap();
        assert_eq!(found, ["10.0.0.7".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
    }

    #[test]
    fn a_guest_that_says_too_much_is_cut_short() {
        let texts: Vec<(String, String)> =
            (0..1000).map(|at| (format!("fs.{at}.mountpoint"), format!("/{at:04}"))).collect();
        let texts: Vec<(&str, &str)> = texts.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let said = of(&[("fs.count", u64::MAX)], &texts);
        assert_eq!(said.file_systems.unwrap().len(), GUEST_FILE_SYSTEMS_MAX);
    }
}
