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
mod tests;
