//! The documents that libvirt is given, rendered.

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
    let cards =
        [bridge(None), bridge(Some(100))].map(|attachment| card(&GuestDefinition { attachment, ..guest() }));
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
