//! What a guest reads about itself at its first boot: cloud-init's NoCloud documents. Pure.
//!
//! Everything that came from outside goes through `quoted`, so no key or name can become YAML of its own.

use std::fmt::Write as _;
use std::net::IpAddr;

use chom_protocol::vps::{AddressPrefix, NetworkInterface, Sha256, VpsSpec};
use ipnet::IpNet;

/// The documents of a seed, but for the user data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seed {
    pub(crate) meta_data: String,
    pub(crate) network_config: String,
    /// What user data the guest gets when nobody wrote any.
    pub(crate) default_user_data: String,
    digest: Sha256,
}

impl Seed {
    /// The seed of a VPS.
    pub(crate) fn of(spec: &VpsSpec) -> Self {
        let meta_data = meta_data(spec);
        let network_config = network_config(&spec.interface);
        let default_user_data = default_user_data(&spec.ssh_keys);
        let user_data = spec
            .user_data
            .as_ref()
            .map_or_else(|| Sha256::of(default_user_data.as_bytes()), |blob| blob.sha256);
        let all = format!("{meta_data}\0{network_config}\0{user_data}");
        Self { meta_data, network_config, default_user_data, digest: Sha256::of(all.as_bytes()) }
    }

    /// The name of its file, another one for another content: so a changed seed is a changed definition of the guest.
    pub(crate) fn file_name(&self) -> String {
        let digest = self.digest.to_string();
        format!("{SEED_PREFIX}{}{SEED_SUFFIX}", &digest[..16])
    }
}

/// How the names of seeds begin.
pub(crate) const SEED_PREFIX: &str = "seed-";
/// How they end.
pub(crate) const SEED_SUFFIX: &str = ".iso";

/// cloud-init runs its once-per-instance work again when the instance id changes: it is the VPS's, for ever.
fn meta_data(spec: &VpsSpec) -> String {
    let mut yaml = String::new();
    // Writing to a String cannot fail; so everywhere in this file.
    let _ = writeln!(yaml, "instance-id: {}", quoted(&spec.id.to_string()));
    let _ = writeln!(yaml, "local-hostname: {}", quoted(spec.name.as_str()));
    list(&mut yaml, "", "public-keys", spec.ssh_keys.iter().map(String::as_str));
    yaml
}

fn default_user_data(ssh_keys: &[String]) -> String {
    let mut yaml = "#cloud-config\n".to_owned();
    list(&mut yaml, "", "ssh_authorized_keys", ssh_keys.iter().map(String::as_str));
    yaml
}

/// cloud-init's network configuration version 2. The card is found by its address and named `eth0`: some renderers take
/// the name of the section for the card's.
fn network_config(interface: &NetworkInterface) -> String {
    let mac = interface.mac.map(|byte| format!("{byte:02x}")).join(":");
    let mut yaml = String::new();
    let _ = write!(
        yaml,
        "version: 2\nethernets:\n  eth0:\n    match:\n      macaddress: {}\n    set-name: \"eth0\"\n",
        quoted(&mac)
    );
    if interface.addresses.is_empty() {
        // Nothing was assigned: the network may have a DHCP server of the operator's.
        yaml.push_str("    dhcp4: true\n");
    } else {
        let addresses: Vec<String> =
            interface.addresses.iter().map(|a| format!("{}/{}", a.address, a.prefix)).collect();
        list(&mut yaml, "    ", "addresses", addresses.iter().map(String::as_str));
    }
    let gateways = [
        interface.gateway_v4.map(|gateway| ("0.0.0.0/0", IpAddr::V4(gateway))),
        interface.gateway_v6.map(|gateway| ("::/0", IpAddr::V6(gateway))),
    ];
    for (place, (everywhere, gateway)) in gateways.into_iter().flatten().enumerate() {
        if place == 0 {
            yaml.push_str("    routes:\n");
        }
        let (everywhere, via) = (quoted(everywhere), quoted(&gateway.to_string()));
        let _ = write!(yaml, "      - to: {everywhere}\n        via: {via}\n");
        if !is_on_link(interface, gateway) {
            // Outside all its prefixes (each VPS has a /64 of its own, or a single address): reached over the wire all the same.
            yaml.push_str("        on-link: true\n");
        }
    }
    if !interface.dns.is_empty() {
        yaml.push_str("    nameservers:\n");
        let servers: Vec<String> = interface.dns.iter().map(ToString::to_string).collect();
        list(&mut yaml, "      ", "addresses", servers.iter().map(String::as_str));
    }
    yaml
}

/// Whether a guest knows by its own addresses that the gateway is on its wire.
fn is_on_link(interface: &NetworkInterface, gateway: IpAddr) -> bool {
    let is_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let within = |own: &AddressPrefix| {
        IpNet::new(own.address, own.prefix).is_ok_and(|network| network.contains(&gateway))
    };
    is_local || interface.addresses.iter().any(within)
}

/// A list of texts under a key; nothing at all if it is empty.
fn list<'a>(yaml: &mut String, indent: &str, key: &str, items: impl Iterator<Item = &'a str>) {
    let mut items = items.peekable();
    if items.peek().is_none() {
        return;
    }
    let _ = writeln!(yaml, "{indent}{key}:");
    for item in items {
        let _ = writeln!(yaml, "{indent}  - {}", quoted(item));
    }
}

/// A double-quoted YAML scalar (YAML 1.2 section 5.7) of printable ASCII, whatever the text is.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            _ => {
                let code = u32::from(c);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use chom_protocol::Bytes;
    use chom_protocol::vps::{
        AddressPrefix, BlobReference, Engine, GuestShutdown, ImageFormat, ImageReference, Power,
    };
    use expect_test::expect;

    use super::*;

    /// A VPS as tests of the driver have it.
    pub(crate) fn spec() -> VpsSpec {
        VpsSpec {
            id: "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e".parse().unwrap(),
            tenant: chom_protocol::Name::default_tenant(),
            name: "test-vps".parse().unwrap(),
            placement: 1,
            engine: Engine::Libvirt,
            power: Power::Running,
            guest_shutdown: GuestShutdown::StayOff,
            hold: false,
            retained: false,
            start_count: 0,
            build: 0,
            suspension: None,
            stop_grace_seconds: None,
            cores: 1,
            memory: Bytes::mib(192),
            disk: Bytes::gib(1),
            image: Some(ImageReference {
                name: "hello".parse().unwrap(),
                sha256: Sha256::of(b""),
                size: Bytes(0),
                format: ImageFormat::Qcow2,
            }),
            interface: NetworkInterface {
                addresses: vec![
                    AddressPrefix { address: "10.155.0.7".parse().unwrap(), prefix: 20 },
                    AddressPrefix { address: "2001:db8::7".parse().unwrap(), prefix: 64 },
                ],
                gateway_v4: Some("10.155.0.1".parse().unwrap()),
                gateway_v6: Some("fe80::1".parse().unwrap()),
                dns: vec!["10.155.0.1".parse().unwrap(), "2001:db8::53".parse().unwrap()],
                ..NetworkInterface::bare([0x52, 0x54, 0, 0xab, 1, 0xff])
            },
            ssh_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 admin@example.org".to_owned()],
            user_data: None,
            source: None,
            rescue: None,
            iso: None,
            adopted: None,
        }
    }

    #[test]
    fn a_guest_learns_its_name_keys_and_addresses() {
        let seed = Seed::of(&spec());
        let all = format!("{}---\n{}---\n{}", seed.meta_data, seed.network_config, seed.default_user_data);
        expect![[r#"
            instance-id: "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e"
            local-hostname: "test-vps"
            public-keys:
              - "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 admin@example.org"
            ---
            version: 2
            ethernets:
              eth0:
                match:
                  macaddress: "52:54:00:ab:01:ff"
                set-name: "eth0"
                addresses:
                  - "10.155.0.7/20"
                  - "2001:db8::7/64"
                routes:
                  - to: "0.0.0.0/0"
                    via: "10.155.0.1"
                  - to: "::/0"
                    via: "fe80::1"
                nameservers:
                  addresses:
                    - "10.155.0.1"
                    - "2001:db8::53"
            ---
            #cloud-config
            ssh_authorized_keys:
              - "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 admin@example.org"
        "#]]
        .assert_eq(&all);
    }

    #[test]
    fn a_guest_without_addresses_asks_dhcp_and_one_without_keys_has_no_list() {
        let mut bare = spec();
        bare.interface = NetworkInterface::bare(bare.interface.mac);
        bare.ssh_keys.clear();
        let seed = Seed::of(&bare);
        let all = format!("{}---\n{}---\n{}", seed.meta_data, seed.network_config, seed.default_user_data);
        expect![[r#"
            instance-id: "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e"
            local-hostname: "test-vps"
            ---
            version: 2
            ethernets:
              eth0:
                match:
                  macaddress: "52:54:00:ab:01:ff"
                set-name: "eth0"
                dhcp4: true
            ---
            #cloud-config
        "#]]
        .assert_eq(&all);
    }

    #[test]
    fn a_gateway_outside_the_guests_own_prefix_is_reached_over_the_wire() {
        let address = |text: &str, prefix| AddressPrefix { address: text.parse().unwrap(), prefix };
        let on_link = |gateway: &str| {
            let interface = NetworkInterface {
                addresses: vec![address("192.0.2.7", 32), address("2001:db8:0:7::1", 64)],
                gateway_v4: Some("192.0.2.1".parse().unwrap()),
                gateway_v6: Some(gateway.parse().unwrap()),
                ..NetworkInterface::bare([2; 6])
            };
            network_config(&interface).matches("on-link: true").count()
        };
        assert_eq!([on_link("2001:db8::1"), on_link("2001:db8:0:7::ff"), on_link("fe80::1")], [2, 1, 1]);
    }

    #[test]
    fn a_hostile_key_stays_one_text() {
        let hostile = "ssh-rsa A\"]\nruncmd: [reboot]\u{85}\u{2028}\\x22 # 😀\u{7f}";
        expect![[r#""ssh-rsa A\"]\x0aruncmd: [reboot]\x85\u2028\\x22 # \U0001f600\x7f""#]]
            .assert_eq(&quoted(hostile));
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_quoted_is_one_printable_line_that_only_its_last_quote_ends(text in ".*") {
            let line = quoted(&text);
            proptest::prop_assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)));
            let inner = &line[1..line.len() - 1];
            let mut escaped = false;
            for c in inner.chars() {
                proptest::prop_assert!(escaped || c != '"');
                escaped = !escaped && c == '\\';
            }
            proptest::prop_assert!(!escaped);
        }
    }

    #[test]
    fn another_content_is_another_file_and_the_same_content_the_same() {
        let name = |change: fn(&mut VpsSpec)| {
            let mut spec = spec();
            change(&mut spec);
            Seed::of(&spec).file_name()
        };
        let same = name(|_| {});
        assert_eq!(same, name(|spec| spec.cores = 7));
        for changed in [
            name(|spec| spec.ssh_keys.clear()),
            name(|spec| spec.interface.gateway_v6 = None),
            name(|spec| spec.user_data = Some(BlobReference { sha256: Sha256::of(b"x"), size: Bytes(1) })),
        ] {
            assert_ne!(same, changed);
        }
    }
}
