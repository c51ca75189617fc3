//! What a domain's document says that its guest is made of; and the one card of an adopted guest that CHOM guards. Pure.

use chom_protocol::Bytes;
use chom_protocol::foreign::{DiskKind, GuestCard, GuestDisk};
use chom_protocol::network::Attachment;

use crate::xml::{self, attribute, parse_mac};

/// Virtual processors that the guest may have.
pub(crate) fn cores(document: &str) -> Option<u32> {
    content(document, "vcpu")?.1.trim().parse().ok()
}

/// Memory that it may have.
pub(crate) fn memory(document: &str) -> Option<Bytes> {
    let (tag, text) = content(document, "memory")?;
    let number: u64 = text.trim().parse().ok()?;
    // libvirt writes KiB, whatever it was given.
    let unit = match attribute(tag, "unit").unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "KiB" | "k" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit).map(Bytes)
}

/// What it writes to: not media, and not what it shares with others.
pub(crate) fn disks(document: &str) -> Vec<GuestDisk> {
    let own = |disk: &&str| {
        let device = attribute(disk, "device").unwrap_or("disk");
        matches!(device, "disk" | "lun") && !disk.contains("<readonly/>") && !disk.contains("<shareable/>")
    };
    elements(document, "disk").filter(own).map(disk).collect()
}

fn disk(disk: &str) -> GuestDisk {
    let of = |child_name: &str, name: &str| child(disk, child_name).and_then(|child| attribute(child, name));
    let format = of("driver", "type").unwrap_or("raw");
    let (kind, path) = match attribute(disk, "type") {
        Some("file") => {
            let kind = match format {
                "qcow2" => DiskKind::Qcow2,
                "raw" => DiskKind::Raw,
                _ => DiskKind::Other,
            };
            (kind, of("source", "file"))
        }
        Some("block") => (DiskKind::Block, of("source", "dev")),
        _ => (DiskKind::Other, of("source", "name").or_else(|| of("source", "volume"))),
    };
    GuestDisk {
        path: unescape(path.unwrap_or_default()),
        kind,
        size: None,
        device: unescape(of("target", "dev").unwrap_or_default()),
    }
}

/// Its cards. `bridge_of` says which bridge a network of libvirt has.
pub(crate) fn cards(document: &str, bridge_of: impl Fn(&str) -> Option<String>) -> Vec<GuestCard> {
    let card = |card: &str| {
        let of = |name: &str| child(card, "source").and_then(|source| attribute(source, name)).map(unescape);
        let kind = attribute(card, "type").unwrap_or_default();
        let bridge = match kind {
            "bridge" => of("bridge"),
            "network" => of("network").and_then(|network| match network == xml::NETWORK {
                true => Some(xml::BRIDGE.to_owned()),
                false => bridge_of(&network),
            }),
            _ => None,
        };
        let tag = child(card, "tag").and_then(|tag| attribute(tag, "id")?.parse::<u16>().ok());
        let attachment = bridge.as_ref().and_then(|bridge| match bridge.as_str() {
            xml::BRIDGE => Some(Attachment::Nat),
            name => Some(Attachment::Bridge {
                name: name.parse().ok()?,
                vlan: tag.map(TryInto::try_into).transpose().ok()?,
            }),
        });
        let named = bridge.or_else(|| of("network")).or_else(|| of("dev"));
        GuestCard { mac: mac(card)?, attachment, on: named.unwrap_or_else(|| kind.to_owned()) }.into()
    };
    elements(document, "interface").filter_map(card).collect()
}

/// A card of a document with another name of the host's end; none if it has that name, or there is no such card.
pub(crate) fn renamed_card(document: &str, of: [u8; 6], port: &str) -> Option<String> {
    let card = elements(document, "interface").find(|card| mac(card) == Some(of))?;
    if target(card).is_some_and(|target| target == port) {
        return None;
    }
    let without = match card.find("<target ").and_then(|from| Some((from, card[from..].find("/>")?))) {
        Some((from, length)) => format!("{}{}", &card[..from], &card[from + length + "/>".len()..]),
        None => card.to_owned(),
    };
    Some(format!("{}\n<target dev='{port}'/></interface>", without.trim_end()))
}

/// What the host's end of a card is called now, by the document of a domain that runs.
pub(crate) fn port(document: &str, of: [u8; 6]) -> Option<String> {
    elements(document, "interface").find(|card| mac(card) == Some(of)).and_then(target)
}

fn mac(card: &str) -> Option<[u8; 6]> {
    parse_mac(attribute(child(card, "mac")?, "address")?)
}

fn target(card: &str) -> Option<String> {
    child(card, "target").and_then(|target| attribute(target, "dev")).map(unescape)
}

/// The devices of a kind, each without its closing tag.
fn elements<'a>(document: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let mut rest = document.split_once("<devices>").map_or("", |(_, devices)| devices);
    let (open, close) = (format!("<{name} "), format!("</{name}>"));
    std::iter::from_fn(move || {
        let from = rest.find(&open)?;
        let length = rest[from..].find(&close)?;
        let element = &rest[from..from + length];
        rest = &rest[from + length..];
        Some(element)
    })
}

/// An element within one, from its tag on: the first, which libvirt writes before those nested deeper.
fn child<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    element.find(&format!("<{name} ")).map(|from| &element[from..])
}

/// Tag and text of the first element of a name in a document.
fn content<'a>(document: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let from =
        [format!("<{name} "), format!("<{name}>")].iter().filter_map(|tag| document.find(tag)).min()?;
    let (tag, rest) = document[from..].split_once('>')?;
    let text = rest.split_once(&format!("</{name}>"))?.0;
    Some((&document[from..=from + tag.len()], text))
}

/// What XML has escaped; libvirt escapes these five and no others.
fn unescape(text: &str) -> String {
    let mut text = text.to_owned();
    for (escaped, plain) in [("&lt;", "<"), ("&gt;", ">"), ("&apos;", "'"), ("&quot;", "\""), ("&amp;", "&")]
    {
        text = text.replace(escaped, plain);
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    /// As `virsh dumpxml --inactive` shows one, shortened.
    const DOCUMENT: &str = "<domain type='kvm'>
  <name>vm101</name>
  <metadata><x:disk xmlns:x='x' type='file'><source file='/etc/passwd'/></x:disk></metadata>
  <memory unit='KiB'>2097152</memory>
  <currentMemory unit='KiB'>1048576</currentMemory>
  <memoryBacking><nosharepages/></memoryBacking>
  <vcpu placement='static' current='1'>4</vcpu>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/srv/a &amp; b.qcow2'/>
      <backingStore type='file'><format type='raw'/><source file='/srv/base.img'/></backingStore>
      <target dev='sda' bus='scsi'/>
    </disk>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/vg0/vm101'/>
      <target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <source protocol='rbd' name='pool/vm101'/>
      <target dev='vdc' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sdb' bus='sata'/>
      <readonly/>
    </disk>
    <disk type='file' device='disk'>
      <source file='/srv/shared.img'/>
      <target dev='vdd' bus='virtio'/>
      <shareable/>
    </disk>
    <interface type='bridge'>
      <mac address='52:54:00:aa:bb:01'/>
      <source bridge='br-lan'/>
      <vlan>
        <tag id='100'/>
      </vlan>
      <target dev='vm101'/>
      <model type='virtio'/>
    </interface>
    <interface type='network'>
      <mac address='52:54:00:aa:bb:02'/>
      <source network='default'/>
      <model type='virtio'/>
    </interface>
    <interface type='network'>
      <mac address='52:54:00:aa:bb:03'/>
      <source network='chom'/>
    </interface>
    <interface type='direct'>
      <mac address='52:54:00:aa:bb:04'/>
      <source dev='eth0' mode='bridge'/>
    </interface>
  </devices>
</domain>";

    #[test]
    fn what_a_guest_is_made_of_is_read_from_its_document() {
        let bridge_of = |network: &str| (network == "default").then(|| "virbr0".to_owned());
        let mut shown = format!("{:?} {:?}\n", cores(DOCUMENT), memory(DOCUMENT));
        disks(DOCUMENT)
            .iter()
            .for_each(|disk| shown += &format!("{} {} {}\n", disk.device, disk.kind, disk.path));
        cards(DOCUMENT, bridge_of)
            .iter()
            .for_each(|card| shown += &format!("{:02x?} {} {:?}\n", card.mac[5], card.on, card.attachment));
        expect![[r#"
            Some(4) Some(Bytes(2147483648))
            sda qcow2 file /srv/a & b.qcow2
            vdb block device /dev/vg0/vm101
            vdc disk of another kind pool/vm101
            01 br-lan Some(Bridge { name: BridgeName("br-lan"), vlan: Some(VlanTag(100)) })
            02 virbr0 Some(Bridge { name: BridgeName("virbr0"), vlan: None })
            03 chom0 Some(Nat)
            04 eth0 None
        "#]]
        .assert_eq(&shown);
        assert!(disks("<domain/>").is_empty() && cores("<domain><vcpu>x</vcpu></domain>").is_none());
    }

    #[test]
    fn the_host_s_end_of_one_card_gets_another_name_once() {
        let of = |last| [0x52, 0x54, 0, 0xaa, 0xbb, last];
        let card = renamed_card(DOCUMENT, of(1), "ch-1").unwrap();
        assert!(card.contains("<target dev='ch-1'/>") && !card.contains("dev='vm101'"), "{card}");
        assert!(card.contains("<tag id='100'/>") && card.contains("<model type='virtio'/>"), "{card}");
        assert!(renamed_card(DOCUMENT, of(3), "ch-1").is_some());
        assert_eq!(renamed_card(DOCUMENT, of(1), "vm101"), None);
        assert_eq!(renamed_card(DOCUMENT, of(9), "ch-1"), None);
        assert_eq!((port(DOCUMENT, of(1)).as_deref(), port(DOCUMENT, of(2))), (Some("vm101"), None));
    }
}
