//! From where images may be fetched. Pure. Who may call the API must not be able to look about in the orchestrator's own
//! network through it: only public addresses are spoken to, and those networks that the configuration names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use chom_protocol::api::catalogue::IMAGE_URL_BYTES_MAX;
use ipnet::IpNet;
use url::Url;

use crate::dial::Reach;

/// Reads a URL that may be fetched from, as far as the URL says.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(text: &str) -> Result<Url, String> {
    if text.len() > IMAGE_URL_BYTES_MAX {
        return Err(format!("the URL has {} bytes; at most {IMAGE_URL_BYTES_MAX} are allowed", text.len()));
    }
    let mut url = Url::parse(text)
        .map_err(|error| format!("`{text}` is no URL ({error}); give `https://host/path`"))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(format!(
            "images are fetched by `https://` and `http://` only, not by `{}:`",
            url.scheme()
        ));
    }
    if url.host().is_none() {
        return Err(format!("`{text}` names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Not repeated: it is a secret.
        return Err("the URL has a user or password in it, which would be shown to every admin; serve the image without"
            .to_owned());
    }
    url.set_fragment(None);
    Ok(url)
}

/// A URL as it is shown: without its query, which may hold a signature.
#[must_use]
pub fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.to_string()
}

/// To whom images may be asked for.
#[must_use]
pub fn allowed(networks: Vec<IpNet>) -> Reach {
    Reach { networks: Some(networks), public: true, setting: "image_fetch_networks" }
}

/// Whether an address may be spoken to: a public one, or one of these networks.
#[must_use]
pub fn is_reachable(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
        || match address {
            IpAddr::V4(v4) => is_public_v4(v4),
            IpAddr::V6(v6) => is_public_v6(v6),
        }
}

/// IANA's IPv4 special-purpose registry, all that is not globally reachable.
const fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let shared = a == 100 && b & 0xc0 == 64;
    let protocols = a == 192 && b == 0 && c == 0;
    let benchmarks = a == 198 && b & 0xfe == 18;
    !(v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_documentation()
        || v4.is_multicast()
        || shared
        || protocols
        || benchmarks
        || a == 0
        || a >= 240)
}

/// Global unicast (2000::/3), but for what stands for something else: Teredo and protocols, 6to4, documentation.
const fn is_public_v6(v6: Ipv6Addr) -> bool {
    let [first, second, ..] = v6.segments();
    let protocols = first == 0x2001 && second < 0x200;
    let documentation = (first == 0x2001 && second == 0xdb8) || (first == 0x3fff && second < 0x1000);
    first & 0xe000 == 0x2000 && !protocols && !documentation && first != 0x2002
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_and_the_networks_of_the_configuration_are_spoken_to() {
        let own: [IpNet; 1] = ["10.1.0.0/16".parse().unwrap()];
        for (address, expected) in [
            ("93.184.215.14", true),
            ("2606:2800:21f:cb07::1", true),
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.2.2.3", false),
            ("127.0.0.1", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("169.254.169.254", false),
            ("192.168.1.1", false),
            ("172.31.0.1", false),
            ("100.64.0.1", false),
            ("192.0.0.8", false),
            ("198.19.0.1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("192.0.2.1", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("64:ff9b::7f00:1", false),
            ("2002:7f00:1::1", false),
            ("2001::1", false),
            ("2001:db8::1", false),
            ("ff02::1", false),
            ("::", false),
        ] {
            assert_eq!(is_reachable(address.parse().unwrap(), &own), expected, "{address}");
        }
    }

    #[test]
    fn urls_that_cannot_be_fetched_from_are_refused_and_say_why() {
        let long = format!("https://a/{}", "x".repeat(IMAGE_URL_BYTES_MAX));
        for (url, says) in [
            ("file:///etc/passwd", "`file:`"),
            ("ftp://a/b", "`ftp:`"),
            ("data:,x", "`data:`"),
            ("/etc/passwd", "is no URL"),
            ("https://", "is no URL"),
            ("https://me:secret@a/b", "a user or password"),
            (&long, "bytes"),
        ] {
            let said = check_url(url).unwrap_err();
            assert!(said.contains(says) && !said.contains("secret"), "{url}: {said}");
        }
        let url = check_url("https://Example.org/a/../b.qcow2?signature=s#part").unwrap();
        assert_eq!(
            (url.as_str(), shown(&url).as_str()),
            ("https://example.org/b.qcow2?signature=s", "https://example.org/b.qcow2")
        );
        // The ways to write an address that inet_aton(3) knows are read as what they are.
        for url in ["http://127.1/", "http://0x7f000001/", "http://2130706433/", "http://[::ffff:7f00:1]/"] {
            assert!(allowed(Vec::new()).check(&check_url(url).unwrap()).is_err(), "{url}");
        }
    }
}
