//! libvirt's documents: a guest, CHOM's mark on it, the network that guests are on. Pure.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use chom_protocol::helper::GuestDefinition;
use chom_protocol::host::Acceleration;
use chom_protocol::network::{Attachment, port_name};
use chom_protocol::vps::Sha256;

/// XML namespace of CHOM's mark in a domain's metadata: a domain without it is foreign.
pub(crate) const NAMESPACE: &str = "urn:chom:guest:1";
/// libvirt's name of the network that guests are on.
pub(crate) const NETWORK: &str = "chom";
/// The bridge of it.
pub(crate) const BRIDGE: &str = "chom0";
/// Seconds between the guest's own reports on its memory.
const BALLOON_PERIOD_SECONDS: u32 = 10;

/// What CHOM wrote on a domain when it was defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) placement: u64,
    pub(crate) build: u64,
    pub(crate) definition: Sha256,
    /// Of what only a start takes up; none on a guest that an older release defined.
    pub(crate) boot: Option<Sha256>,
    /// Of the document that libvirt made of it, this mark apart; none until it has.
    pub(crate) kept: Option<Sha256>,
    /// It was adopted: the hardware address of the card that is guarded.
    pub(crate) adopted: Option<[u8; 6]>,
}

impl Mark {
    /// The mark as an element of the domain's metadata.
    pub(crate) fn element(&self, prefix: &str) -> String {
        let Self { placement, build, definition, boot, kept, adopted } = self;
        let (space, tag) = match prefix {
            "" => (format!("xmlns='{NAMESPACE}'"), "guest".to_owned()),
            prefix => (format!("xmlns:{prefix}='{NAMESPACE}'"), format!("{prefix}:guest")),
        };
        let mut element =
            format!("<{tag} {space} placement='{placement}' build='{build}' definition='{definition}'");
        for (name, digest) in [("boot", boot), ("kept", kept)] {
            if let Some(digest) = digest {
                // Writing to a String cannot fail.
                let _ = write!(element, " {name}='{digest}'");
            }
        }
        if let Some(mac) = adopted {
            let _ = write!(element, " adopted='{}'", spell_mac(*mac));
        }
        element + "/>"
    }
}

/// What a stored document says of the guest, as a digest: all but the metadata, where the mark itself is.
pub(crate) fn kept(document: &str) -> Sha256 {
    let without = match (document.find("<metadata>"), document.find("</metadata>")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &document[..from], &document[to..]),
        _ => document.to_owned(),
    };
    Sha256::of(without.as_bytes())
}

/// The cards of a running domain whose cable is not as wanted, as they should be: everything else about them is as the
/// document has it.
pub(crate) fn cards_to_switch(document: &str, connected: bool) -> Vec<String> {
    let mut cards = Vec::new();
    let mut rest = document;
    while let Some(from) = rest.find("<interface ") {
        let Some(length) = rest[from..].find("</interface>") else { break };
        let inside = &rest[from..from + length];
        rest = &rest[from + length..];
        let is_down =
            ["<link state='down'/>", "<link state=\"down\"/>"].iter().any(|link| inside.contains(link));
        if is_down != connected {
            continue;
        }
        let mut card = inside.to_owned();
        for quote in ['\'', '"'] {
            for state in ["up", "down"] {
                card = card.replace(&format!("<link state={quote}{state}{quote}/>"), "");
            }
        }
        let state = if connected { "up" } else { "down" };
        cards.push(format!("{}<link state='{state}'/></interface>", card.trim_end()));
    }
    cards
}

/// The network: behind NAT, the host is 10.155.0.1. Addresses are the orchestrator's to give (the seed has them), so
/// there is no DHCP; libvirt's dnsmasq answers names there as the host does.
pub(crate) fn network() -> String {
    format!(
        "<network>\n  <name>{NETWORK}</name>\n  <forward mode='nat'/>\n  <bridge name='{BRIDGE}' stp='off' delay='0'/>\n  \
         <ip address='10.155.0.1' netmask='255.255.240.0'/>\n</network>\n"
    )
}

/// The network where its bridge is somebody else's.
pub(crate) fn network_on_bridge() -> String {
    format!(
        "<network>\n  <name>{NETWORK}</name>\n  <forward mode='bridge'/>\n  <bridge name='{BRIDGE}'/>\n</network>\n"
    )
}

/// The domain of a guest.
///
/// Machine q35 with virtio devices, the seed too: cloud kernels have no SATA driver. Only the CD-ROM drive, which is for
/// installers of any system, is on SATA; it is always there, so that a medium can come and go while the guest runs.
/// Caching on the host is off, so that what the guest flushed is on disk and host memory is not spent twice. The console
/// is a terminal that the agent opens (so does `virsh console`), and whose output virtlogd also writes to the log, and
/// rotates. The screen is a socket where libvirt keeps its own.
pub(crate) fn domain(guest: &GuestDefinition, mark: &Mark) -> Result<String, String> {
    let seed = path(&guest.seed)?;
    let disks = guest.rescue.iter().chain([&guest.disk]);
    let disks: Vec<String> = disks.map(|disk| path(disk)).collect::<Result<_, _>>()?;
    let seed_letter = if guest.rescue.is_some() { 'c' } else { 'b' };
    let disks: String = ('a'..).zip(disks).map(|(letter, disk)| own_disk(letter, &disk)).collect();
    let cdrom = cdrom(guest.cdrom.as_deref())?;
    let first = if guest.cdrom_first { "<boot dev='cdrom'/>\n    " } else { "" };
    let console = path(&guest.console_log)?;
    let name = GuestDefinition::guest_name(guest.vps);
    let (kind, cpu, clock) = match guest.acceleration {
        Acceleration::Kvm => (
            "kvm",
            "<cpu mode='host-passthrough' check='none' migratable='on'/>",
            "<clock offset='utc'>\n    <timer name='rtc' tickpolicy='catchup'/>\n    \
             <timer name='pit' tickpolicy='delay'/>\n    <timer name='hpet' present='no'/>\n  </clock>",
        ),
        Acceleration::Tcg | Acceleration::None => ("qemu", "<cpu mode='maximum'/>", "<clock offset='utc'/>"),
    };
    let mut xml = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        xml,
        "<domain type='{kind}'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <metadata>
    {mark}
  </metadata>
  <memory unit='b'>{memory}</memory>
  <vcpu placement='static'>{cores}</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    {first}<boot dev='hd'/>
    <bios useserial='yes'/>
  </os>
  <features><acpi/><apic/></features>
  {cpu}
  {clock}
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
{disks}    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='{seed}'/>
      <target dev='vd{seed_letter}' bus='virtio'/>
      <readonly/>
    </disk>
{cdrom}{card}
    <serial type='pty'>
      <log file='{console}' append='on'/>
      <target port='0'/>
    </serial>
    <console type='pty'>
      <target type='serial' port='0'/>
    </console>
    <graphics type='vnc'>
      <listen type='socket'/>
    </graphics>
    <video>
      <model type='vga' vram='16384' heads='1'/>
    </video>
    <channel type='unix'>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
    </rng>
    <memballoon model='virtio'>
      <stats period='{BALLOON_PERIOD_SECONDS}'/>
    </memballoon>
    <panic model='isa'/>
  </devices>
</domain>
",
        card = card(guest),
        uuid = guest.vps,
        mark = mark.element("chom"),
        memory = guest.memory.0,
        cores = guest.cores,
    );
    Ok(xml)
}

/// The network card. The host's end has a name of its own, so that the agent's rules for it stand before the guest starts.
fn card(guest: &GuestDefinition) -> String {
    let mac = spell_mac(guest.mac);
    let port = port_name(guest.vps);
    let cable = if guest.connected { "" } else { "\n      <link state='down'/>" };
    // Names of bridges are letters, digits and `-_.`: nothing in them is escaped.
    let (kind, source) = match &guest.attachment {
        Attachment::Nat => ("network", format!("<source network='{NETWORK}'/>")),
        Attachment::Bridge { name, vlan: None } => ("bridge", format!("<source bridge='{name}'/>")),
        Attachment::Bridge { name, vlan: Some(tag) } => (
            "bridge",
            format!("<source bridge='{name}'/>\n      <vlan>\n        <tag id='{tag}'/>\n      </vlan>"),
        ),
    };
    format!(
        "    <interface type='{kind}'>\n      <mac address='{mac}'/>\n      {source}\n      <target dev='{port}'/>\n      \
         <model type='virtio'/>{cable}\n    </interface>"
    )
}

/// A disk that the guest writes to.
fn own_disk(letter: char, file: &str) -> String {
    format!(
        "    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap' detect_zeroes='unmap'/>
      <source file='{file}'/>
      <target dev='vd{letter}' bus='virtio'/>
    </disk>\n"
    )
}

/// The CD-ROM drive, with a medium or empty.
pub(crate) fn cdrom(medium: Option<&Path>) -> Result<String, String> {
    let source = match medium {
        Some(medium) => format!("      <source file='{}'/>\n", path(medium)?),
        None => String::new(),
    };
    Ok(format!(
        "    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/>
{source}      <target dev='sda' bus='sata'/>
      <readonly/>
    </disk>\n"
    ))
}

/// The file in the CD-ROM drive of a document, escaped as it stands there; empty if the drive is, none without a drive.
pub(crate) fn medium(document: &str) -> Option<&str> {
    let (_, drive) = document.split_once("device='cdrom'")?;
    let (drive, _) = drive.split_once("</disk>")?;
    let file = drive.split_once("<source ").and_then(|(_, source)| attribute(source, "file"));
    Some(file.unwrap_or_default())
}

/// The mark in a domain's metadata element, as `virDomainGetMetadata` gives it; none if it is not one of ours.
pub(crate) fn mark(metadata: &str) -> Option<Mark> {
    Some(Mark {
        placement: attribute(metadata, "placement")?.parse().ok()?,
        build: attribute(metadata, "build").map_or(Some(0), |build| build.parse().ok())?,
        definition: digest(metadata, "definition")?,
        boot: digest(metadata, "boot"),
        kept: digest(metadata, "kept"),
        adopted: attribute(metadata, "adopted").and_then(parse_mac),
    })
}

fn digest(element: &str, name: &str) -> Option<Sha256> {
    Sha256::try_from(attribute(element, name)?.to_owned()).ok()
}

/// A hardware address as people write it.
pub(crate) fn spell_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A hardware address as libvirt writes it.
pub(crate) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut parts = text.split(':').map(|part| u8::from_str_radix(part, 16).ok());
    let mut mac = [0; 6];
    for byte in &mut mac {
        *byte = parts.next()??;
    }
    parts.next().is_none().then_some(mac)
}

/// An attribute of the first element, escaped as it stands there.
pub(crate) fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let (tag, _) = element.split_once('>')?;
    let mut rest = tag;
    while let Some((before, after)) = rest.split_once('=') {
        let quote = after.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let (value, next) = after[1..].split_once(quote)?;
        if before.split_whitespace().next_back() == Some(name) {
            return Some(value);
        }
        rest = next;
    }
    None
}

/// The terminal of a running guest's console and the socket of its screen, in its live document.
pub(crate) fn sockets(live: &str) -> (Option<PathBuf>, Option<PathBuf>) {
    let inside = |begin: &str, end: &str| live.split_once(begin)?.1.split_once(end).map(|(inside, _)| inside);
    let of = |element: Option<&str>, tag: &str, name: &str| {
        let at = element?.find(tag)?;
        attribute(&element?[at..], name).map(unescape)
    };
    let serial = inside("<serial type='pty'", "</serial>");
    let graphics = inside("<graphics ", "</graphics>");
    (of(serial, "<source ", "path"), of(graphics, "<listen type='socket'", "socket"))
}

/// A path as libvirt wrote it into an attribute.
fn unescape(text: &str) -> PathBuf {
    let mut text = text.to_owned();
    for (escaped, plain) in [("&lt;", "<"), ("&gt;", ">"), ("&apos;", "'"), ("&quot;", "\""), ("&amp;", "&")]
    {
        text = text.replace(escaped, plain);
    }
    text.into()
}

/// A path as text of an attribute.
fn path(path: &Path) -> Result<String, String> {
    let text = path.to_str().ok_or_else(|| format!("the path `{}` is not UTF-8", path.display()))?;
    if !path.is_absolute() {
        return Err(format!("the path `{text}` is not absolute"));
    }
    escape(text)
}

/// Escapes what XML gives a meaning; refuses what it cannot carry (XML 1.0 section 2.2).
fn escape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                return Err(format!("the path `{}` has a control character", text.escape_debug()));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use chom_protocol::Bytes;
    use expect_test::expect;

    use super::*;

    fn guest() -> GuestDefinition {
        let folder = PathBuf::from("/var/lib/chom/vps/0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e");
        GuestDefinition {
            vps: "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e".parse().unwrap(),
            placement: 3,
            build: 0,
            cores: 2,
            memory: Bytes::mib(256),
            acceleration: Acceleration::Tcg,
            disk: folder.join("disk.qcow2"),
            rescue: None,
            cdrom: None,
            cdrom_first: false,
            disk_size: Bytes::gib(1),
            seed: folder.join("seed.iso"),
            console_log: folder.join("console.log"),
            mac: [0x52, 0x54, 0, 0xab, 1, 0xff],
            attachment: Attachment::Nat,
            connected: true,
        }
    }

    fn blank() -> Mark {
        Mark { placement: 3, build: 0, definition: Sha256::of(b""), boot: None, kept: None, adopted: None }
    }

    fn render(guest: &GuestDefinition) -> String {
        domain(guest, &blank()).unwrap()
    }

    #[test]
    fn a_guest_under_the_translator() {
        expect![[r#"
            <domain type='qemu'>
              <name>chom-0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e</name>
              <uuid>0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e</uuid>
              <metadata>
                <chom:guest xmlns:chom='urn:chom:guest:1' placement='3' build='0' definition='e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'/>
              </metadata>
              <memory unit='b'>268435456</memory>
              <vcpu placement='static'>2</vcpu>
              <os>
                <type arch='x86_64' machine='q35'>hvm</type>
                <boot dev='hd'/>
                <bios useserial='yes'/>
              </os>
              <features><acpi/><apic/></features>
              <cpu mode='maximum'/>
              <clock offset='utc'/>
              <on_poweroff>destroy</on_poweroff>
              <on_reboot>restart</on_reboot>
              <on_crash>destroy</on_crash>
              <devices>
                <disk type='file' device='disk'>
                  <driver name='qemu' type='qcow2' cache='none' discard='unmap' detect_zeroes='unmap'/>
                  <source file='/var/lib/chom/vps/0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e/disk.qcow2'/>
                  <target dev='vda' bus='virtio'/>
                </disk>
                <disk type='file' device='disk'>
                  <driver name='qemu' type='raw' cache='none'/>
                  <source file='/var/lib/chom/vps/0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e/seed.iso'/>
                  <target dev='vdb' bus='virtio'/>
                  <readonly/>
                </disk>
                <disk type='file' device='cdrom'>
                  <driver name='qemu' type='raw'/>
                  <target dev='sda' bus='sata'/>
                  <readonly/>
                </disk>
                <interface type='network'>
                  <mac address='52:54:00:ab:01:ff'/>
                  <source network='chom'/>
                  <target dev='ch-1f2a3b4c5d6e'/>
                  <model type='virtio'/>
                </interface>
                <serial type='pty'>
                  <log file='/var/lib/chom/vps/0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e/console.log' append='on'/>
                  <target port='0'/>
                </serial>
                <console type='pty'>
                  <target type='serial' port='0'/>
                </console>
                <graphics type='vnc'>
                  <listen type='socket'/>
                </graphics>
                <video>
                  <model type='vga' vram='16384' heads='1'/>
                </video>
                <channel type='unix'>
                  <target type='virtio' name='org.qemu.guest_agent.0'/>
                </channel>
                <rng model='virtio'>
                  <backend model='random'>/dev/urandom</backend>
                </rng>
                <memballoon model='virtio'>
                  <stats period='10'/>
                </memballoon>
                <panic model='isa'/>
              </devices>
            </domain>
        "#]].assert_eq(&render(&guest()));
    }

    #[test]
    fn a_card_on_a_bridge_is_in_its_vlan() {
        let bridge = |vlan: Option<u16>| Attachment::Bridge {
            name: "br-lan".parse().unwrap(),
            vlan: vlan.map(|tag| tag.try_into().unwrap()),
        };
        let cards = [bridge(None), bridge(Some(100))]
            .map(|attachment| card(&GuestDefinition { attachment, ..guest() }));
        expect![[r#"
            <interface type='bridge'>
            <mac address='52:54:00:ab:01:ff'/>
            <source bridge='br-lan'/>
            <target dev='ch-1f2a3b4c5d6e'/>
            <model type='virtio'/>
            </interface>
            <interface type='bridge'>
            <mac address='52:54:00:ab:01:ff'/>
            <source bridge='br-lan'/>
            <vlan>
              <tag id='100'/>
            </vlan>
            <target dev='ch-1f2a3b4c5d6e'/>
            <model type='virtio'/>
            </interface>
        "#]]
        .assert_eq(&(cards.join("\n").replace("    <", "<").replace("\n  ", "\n") + "\n"));
    }

    #[test]
    fn acceleration_changes_only_processor_and_clock() {
        let kvm = render(&GuestDefinition { acceleration: Acceleration::Kvm, ..guest() });
        let tcg = render(&guest());
        expect![[r#"
            <domain type='kvm'>
              <cpu mode='host-passthrough' check='none' migratable='on'/>
              <clock offset='utc'>
                <timer name='rtc' tickpolicy='catchup'/>
                <timer name='pit' tickpolicy='delay'/>
                <timer name='hpet' present='no'/>
              </clock>
        "#]]
        .assert_eq(&only(&kvm, &tcg));
    }

    fn only(a: &str, b: &str) -> String {
        let only = a.lines().filter(|line| !b.lines().any(|other| other == *line));
        only.map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn a_rescue_disk_comes_first_and_a_medium_is_booted_from_first_when_asked_to() {
        let rescue = GuestDefinition {
            rescue: Some("/v/rescue-1.qcow2".into()),
            cdrom: Some("/images/ab&".into()),
            cdrom_first: true,
            ..guest()
        };
        let (rescue, plain) = (render(&rescue), render(&guest()));
        let added: Vec<String> = only(&rescue, &plain).lines().map(|line| line.trim().to_owned()).collect();
        assert_eq!(
            added,
            [
                "<boot dev='cdrom'/>",
                "<source file='/v/rescue-1.qcow2'/>",
                "<target dev='vdc' bus='virtio'/>",
                "<source file='/images/ab&amp;'/>"
            ]
        );
        let place = |needle: &str| rescue.find(needle).unwrap();
        assert!(place("rescue-1.qcow2") < place("disk.qcow2"));
        assert_eq!(
            (medium(&rescue), medium(&plain), medium("<domain/>")),
            (Some("/images/ab&amp;"), Some(""), None)
        );
    }

    #[test]
    fn the_network_has_nat_and_no_dhcp() {
        expect![[r#"
            <network>
              <name>chom</name>
              <forward mode='nat'/>
              <bridge name='chom0' stp='off' delay='0'/>
              <ip address='10.155.0.1' netmask='255.255.240.0'/>
            </network>
        "#]]
        .assert_eq(&network());
    }

    #[test]
    fn only_the_cable_of_a_running_guests_card_is_switched() {
        let card = |link: &str| {
            format!(
                "<domain><devices><interface type='network'>\n  <mac address='52:54:00:00:00:01'/>\n  \
                 <target dev='vnet3'/>{link}\n</interface></devices></domain>"
            )
        };
        let (up, down) = (card(""), card("<link state='down'/>"));
        assert_eq!((cards_to_switch(&up, true), cards_to_switch(&down, false)), (vec![], vec![]));
        expect![[r#"
            <interface type='network'>
              <mac address='52:54:00:00:00:01'/>
              <target dev='vnet3'/><link state='down'/></interface>
            <interface type='network'>
              <mac address='52:54:00:00:00:01'/>
              <target dev='vnet3'/><link state='up'/></interface>
        "#]]
        .assert_eq(&format!("{}\n{}\n", cards_to_switch(&up, false)[0], cards_to_switch(&down, true)[0]));
        let isolated = render(&GuestDefinition { connected: false, ..guest() });
        assert!(isolated.contains("<link state='down'/>") && cards_to_switch(&isolated, false).is_empty());
    }

    #[test]
    fn what_libvirt_keeps_is_told_apart_by_all_but_the_mark() {
        let document = |memory: u32, mark: &str| {
            format!("<domain><metadata>{mark}</metadata><memory>{memory}</memory></domain>")
        };
        assert_eq!(kept(&document(1, "a")), kept(&document(1, "b")));
        assert_ne!(kept(&document(1, "a")), kept(&document(2, "a")));
    }

    #[test]
    fn paths_are_escaped_or_refused() {
        let hostile = GuestDefinition { disk: "/a'/><x y=\"&".into(), ..guest() };
        assert!(render(&hostile).contains("file='/a&apos;/&gt;&lt;x y=&quot;&amp;'"));
        for bad in ["/a\nb", "relative", "/a\0"] {
            let guest = GuestDefinition { seed: bad.into(), ..guest() };
            assert!(domain(&guest, &blank()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sockets_are_found_in_a_live_document_and_only_there() {
        let live = "<domain><devices><channel type='unix'>\n<source mode='bind' path='/run/agent'/>\n</channel>\
            <serial type='pty'>\n<source path='/dev/pts/3'/>\n<log file='/l'/></serial>\
            <console type='pty' tty='/dev/pts/4'><source path='/dev/pts/4'/></console>\
            <graphics type='vnc' socket='/q/a&amp;b.sock'>\n<listen type='socket' socket='/q/a&amp;b.sock'/>\n</graphics>";
        assert_eq!(sockets(live), (Some("/dev/pts/3".into()), Some("/q/a&b.sock".into())));
        let older = "<serial type='file'><source path='/log'/></serial><graphics type='spice'/>";
        assert_eq!(sockets(older), (None, None));
    }

    #[test]
    fn a_mark_is_read_back_however_libvirt_writes_it() {
        let digest = Sha256::of(b"x");
        let want = Some(Mark { placement: 7, definition: digest, ..blank() });
        let full = Mark {
            placement: 7,
            build: 2,
            definition: digest,
            boot: Some(digest),
            kept: Some(digest),
            adopted: Some([0x52, 0x54, 0, 0xab, 1, 0xff]),
        };
        assert_eq!(mark(&full.element("chom")), Some(full));
        assert_eq!(mark(&full.element("")), Some(full));
        for text in [
            format!("<guest placement=\"7\" definition=\"{digest}\"/>"),
            format!("<chom:guest xmlns:chom='{NAMESPACE}' definition='{digest}' placement='7'></chom:guest>"),
        ] {
            assert_eq!(mark(&text), want, "{text}");
        }
        for foreign in ["", "<guest/>", "<guest placement='7'/>", "<guest placement='-1' definition='00'/>"] {
            assert_eq!(mark(foreign), None, "{foreign}");
        }
    }
}
