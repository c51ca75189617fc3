//! Which foreign guests become VPSs, what is kept of them, and what stands against it.

use chom_protocol::api::adoption::AdoptVps;
use chom_protocol::api::networks::{AddressRange, CreateNetwork, NetworkKind, PutPool};
use chom_protocol::api::snapshots::{CloneVps, TakeSnapshot};
use chom_protocol::api::tenants::{CreateTenant, Quota};
use chom_protocol::api::vps_servers::{RebuildVps, ResizeVps};
use chom_protocol::foreign::{DiskKind, GuestCard, GuestDisk, Hardware};
use chom_protocol::network::Attachment;
use chom_protocol::vps::{Engine, ForeignGuest, Power, VpsState};
use chom_protocol::{Bytes, HostId, UnixMillis, VpsId};
use expect_test::expect;
use uuid::Uuid;

use super::{World, caller, name};
use crate::fleet::RequestMark;
use crate::fleet::network::rows::AddressRow;
use crate::fleet::rows::{OperationRow, VpsRow};
use crate::fleet::vps::Action;
use chom_protocol::api::operations::OperationState;

fn id(number: u128) -> VpsId {
    VpsId::new(Uuid::from_u128(0x1000 + number))
}

/// A running machine with a qcow2 disk and a card on `br-lan`.
fn guest(number: u8, named: &str) -> ForeignGuest {
    let hardware = Hardware {
        id: id(number.into()),
        cores: Some(2),
        memory: Some(Bytes::mib(512)),
        disks: vec![GuestDisk {
            path: format!("/srv/{named}.qcow2"),
            kind: DiskKind::Qcow2,
            size: Some(Bytes::gib(10)),
            device: "vda".to_owned(),
        }],
        cards: vec![GuestCard {
            mac: [0x52, 0x54, 0, 0, 0, number],
            attachment: Some(Attachment::Bridge { name: "br-lan".parse().unwrap(), vlan: None }),
            on: "br-lan".to_owned(),
        }],
        obstacle: None,
    };
    ForeignGuest {
        engine: Engine::Libvirt,
        name: named.to_owned(),
        state: VpsState::Running,
        hardware: Some(Box::new(hardware)),
    }
}

fn changed(mut guest: ForeignGuest, change: impl FnOnce(&mut Hardware)) -> ForeignGuest {
    change(guest.hardware.as_mut().unwrap());
    guest
}

fn wants(guest: &str) -> AdoptVps {
    AdoptVps {
        host: name("a"),
        guest: guest.to_owned(),
        engine: None,
        name: None,
        tenant: None,
        network: None,
        addresses: vec![],
        mac: None,
        cores: None,
        memory_bytes: None,
        disk_bytes: None,
        external_id: None,
        spoof_guard: true,
    }
}

async fn world(guests: Vec<ForeignGuest>) -> (World, HostId) {
    let world = World::new().await;
    let host = world.host("a", "eu-west", 8).await;
    let network = CreateNetwork {
        name: name("lan"),
        region: name("eu-west"),
        kind: NetworkKind::Bridge,
        bridge: Some("br-lan".parse().unwrap()),
        vlan: None,
        default: false,
    };
    world.fleet.create_network(&caller(), RequestMark::default(), network).await.unwrap();
    let pool = PutPool {
        prefix: "192.0.2.0/24".parse().unwrap(),
        gateway: "192.0.2.1".parse().unwrap(),
        dns: vec![],
        reserved: vec![AddressRange {
            first: "192.0.2.50".parse().unwrap(),
            last: "192.0.2.99".parse().unwrap(),
        }],
        given_bits: None,
    };
    world.fleet.put_pool(&caller(), RequestMark::default(), name("lan"), pool).await.unwrap();
    lists(&world, host, guests).await;
    (world, host)
}

async fn lists(world: &World, host: HostId, guests: Vec<ForeignGuest>) {
    let mut status = world.status_of(host);
    status.foreign = guests;
    world.fleet.observe(host, status).await.unwrap();
}

async fn adopt(world: &World, request: AdoptVps) -> Result<VpsRow, String> {
    let done = world.fleet.adopt_vps(&caller(), RequestMark::default(), request).await;
    let done = done.map_err(|error| error.to_string())?;
    Ok(world.fleet.state().get::<VpsRow>(&done.value.vps.id).unwrap().clone())
}

#[tokio::test]
async fn what_its_host_said_of_it_and_what_was_asked_is_kept_and_its_host_gets_it() {
    let (world, host) = world(vec![guest(1, "vm101")]).await;
    let request = AdoptVps {
        name: Some(name("web")),
        tenant: Some(name("acme")),
        addresses: vec!["192.0.2.60".to_owned(), "198.51.100.7".to_owned(), "203.0.113.0/28".to_owned()],
        external_id: Some("panel-7".to_owned()),
        ..wants("vm101")
    };
    let error = adopt(&world, request.clone()).await.unwrap_err();
    assert!(error.contains("there is no tenant `acme`"), "{error}");
    let acme = CreateTenant { name: name("acme"), quota: Quota::default(), external_id: None };
    world.fleet.create_tenant(&caller(), RequestMark::default(), acme).await.unwrap();
    let row = adopt(&world, request).await.unwrap();
    let spec = &row.spec;
    assert_eq!((spec.id, spec.tenant.as_str(), spec.power), (id(1), "acme", Power::Running));
    assert_eq!((spec.cores, spec.memory, spec.disk), (2, Bytes::mib(512), Bytes::gib(10)));
    assert_eq!(
        (row.external_id.as_deref(), row.network.as_str(), row.size.as_str()),
        (Some("panel-7"), "lan", "custom")
    );
    assert_eq!((spec.interface.mac, &spec.image), ([0x52, 0x54, 0, 0, 0, 1], &None));
    assert_eq!(spec.adopted.as_ref().unwrap().disk().unwrap().path, "/srv/vm101.qcow2");
    let state = world.fleet.state();
    let held: Vec<String> = state
        .addresses
        .values()
        .filter(|stored| stored.row.vps == id(1))
        .map(|stored| AddressRow::clone(&stored.row).held.to_string())
        .collect();
    assert_eq!(held, ["192.0.2.60/32", "198.51.100.7/32", "203.0.113.0/28"]);
    assert_eq!(spec.interface.routed.len(), 1);
    assert_eq!(world.fleet.spec(host).unwrap().vps[&id(1)], row.spec);
    let operation = *state.operation_of_vps.get(&id(1)).unwrap();
    world.converge(host).await;
    let ended = world.fleet.state().get::<OperationRow>(&operation).unwrap().state;
    assert_eq!(ended, OperationState::Succeeded);

    // It is old, whenever it was adopted: the agent's cap counts its removal.
    world.act(id(1), Action::Delete).await.unwrap();
    world.act(id(1), Action::Purge).await.unwrap();
    assert_eq!(world.fleet.spec(host).unwrap().tombstones[&id(1)].created_at, UnixMillis(0));
    world.end().await;
}

#[tokio::test]
async fn what_stands_against_an_adoption_is_said() {
    let stopped = ForeignGuest { state: VpsState::Unknown, ..guest(5, "unsure") };
    let (world, host) = world(vec![
        guest(1, "vm101"),
        changed(guest(1, "same-id"), |_| {}),
        changed(guest(2, "same-mac"), |hardware| hardware.cards[0].mac[5] = 1),
        changed(guest(3, "unlimited"), |hardware| hardware.memory = None),
        changed(guest(4, "transient"), |hardware| hardware.obstacle = Some("it is transient".to_owned())),
        stopped,
        ForeignGuest { hardware: None, ..guest(6, "unsaid") },
        changed(guest(7, "macvtap"), |hardware| {
            hardware.cards[0].attachment = None;
            hardware.cards[0].on = "eth0".to_owned();
        }),
        changed(guest(8, "elsewhere"), |hardware| {
            let vlan = Some(7.try_into().unwrap());
            hardware.cards[0].attachment = Some(Attachment::Bridge { name: "br-x".parse().unwrap(), vlan });
        }),
        changed(guest(9, "no-card"), |hardware| hardware.cards.clear()),
        guest(10, "Under_score"),
        guest(11, "twice"),
        ForeignGuest { engine: Engine::Incus, ..guest(12, "twice") },
        guest(13, "other"),
    ])
    .await;
    let first = AdoptVps {
        addresses: vec!["192.0.2.60".to_owned()],
        external_id: Some("7".to_owned()),
        ..wants("vm101")
    };
    adopt(&world, first).await.unwrap();
    let address = |address: &str| AdoptVps { addresses: vec![address.to_owned()], ..wants("other") };
    let mut said = String::new();
    for request in [
        wants("vm101"),
        wants("same-id"),
        wants("same-mac"),
        wants("unlimited"),
        AdoptVps { cores: Some(9), ..wants("other") },
        wants("transient"),
        wants("unsure"),
        wants("unsaid"),
        wants("macvtap"),
        wants("elsewhere"),
        AdoptVps { addresses: vec!["192.0.2.61".to_owned()], ..wants("no-card") },
        wants("Under_score"),
        wants("twice"),
        AdoptVps { engine: Some(Engine::Fake), ..wants("twice") },
        AdoptVps { host: name("b"), ..wants("other") },
        AdoptVps { name: Some(name("vm101")), ..wants("other") },
        AdoptVps { external_id: Some("7".to_owned()), ..wants("other") },
        AdoptVps { external_id: Some("a\nb".to_owned()), ..wants("other") },
        AdoptVps { network: Some(name("nat")), ..wants("other") },
        AdoptVps { mac: Some("52:54:00:00:00:99".to_owned()), ..wants("other") },
        address("192.0.2.60"),
        address("192.0.2.1"),
        address("192.0.2.255"),
        address("192.0.0.0/16"),
        address("192.0.2.61/24"),
        address("ff02::1"),
        address("localhost"),
        AdoptVps { addresses: vec!["192.0.2.61".to_owned(), "192.0.2.61".to_owned()], ..wants("other") },
    ] {
        said += &adopt(&world, request).await.expect_err("it was adopted");
        said += "\n";
    }
    expect![[r#"
        the guest `vm101` is VPS `vm101` of tenant `default` already
        the guest `same-id` has the id 00000000-0000-0000-0000-000000001001 of VPS `vm101` of tenant `default`: it is a copy of it; give the copy an id of its own
        its card has the hardware address 52:54:00:00:00:01 of VPS `vm101` on the same network: give one of them another
        its engine sets no limit here, or cannot tell it: say with how much it counts (`memory_bytes`)
        its engine says 2, not 9: leave `cores` out; it can be resized once it is adopted
        the guest `transient`: it is transient
        it cannot be told whether the guest `unsure` is on; ask again in a moment
        host `a` could not say what the guest `unsaid` is made of; look at libvirt there
        its card 52:54:00:00:00:07 is on `eth0`, which is no bridge; CHOM's networks are bridges: plug it into one, or name another card (`mac`)
        its card is on bridge `br-x`, VLAN 7, and no network of region `eu-west` is there: make one (`chomctl network create`), with pools or without
        the guest has no network card, so it has no addresses
        the name `Under_score` has `U` in it; use lower-case letters, digits and hyphens (RFC 1123); give it a name as a VPS (`name`)
        host `a` has a guest `twice` in libvirt and in incus: name its engine
        host `a` has no foreign guest `twice`; it has: vm101, same-id, same-mac, unlimited, transient, unsure, unsaid, macvtap, …
        there is no host `b`; see `chomctl host list`
        a VPS named `vm101` exists already (perhaps deleted and kept); choose another name
        VPS `vm101` has this external id already (perhaps deleted and kept)
        an external id has 1 to 128 characters, none of them a control character
        its card is on `br-lan`, and network `nat` is behind the host's NAT
        the guest has no card `52:54:00:00:00:99`; it has: 52:54:00:00:00:0d
        192.0.2.60/32 is held by VPS `vm101`: one of them has it wrongly
        192.0.2.1/32 of pool 192.0.2.0/24 is the gateway, the network's own or its broadcast address, or not of the length that the pool gives (/32)
        192.0.2.255/32 of pool 192.0.2.0/24 is the gateway, the network's own or its broadcast address, or not of the length that the pool gives (/32)
        192.0.0.0/16 has pool 192.0.2.0/24 in it: name what of it the guest has
        `192.0.2.61/24` is no address of one machine, and no prefix without bits beyond its length
        `ff02::1` is no address of one machine, and no prefix without bits beyond its length
        `localhost` is no address of one machine, and no prefix without bits beyond its length
        `192.0.2.61` is named twice
    "#]].assert_eq(&said);
    assert_eq!(world.fleet.state().vps.len(), 1, "a refusal left something behind");

    // What may be is: without a card, by name of the engine, under another name.
    for request in [
        wants("no-card"),
        AdoptVps { engine: Some(Engine::Incus), ..wants("twice") },
        AdoptVps { name: Some(name("other-name")), ..wants("Under_score") },
        AdoptVps { memory_bytes: Some(Bytes::gib(1)), ..wants("unlimited") },
    ] {
        adopt(&world, request).await.unwrap();
    }
    // A host that says nothing has no guests that anybody could know of.
    let mut status = world.status_of(host);
    status.engines[0].problem = Some("it is silent".to_owned());
    status.foreign.clear();
    world.fleet.observe(host, status).await.unwrap();
    let silent = adopt(&world, wants("other")).await.unwrap_err();
    assert!(silent.contains("does not answer now"), "{silent}");
    world.end().await;
}

#[tokio::test]
async fn a_plan_of_many_sees_what_the_ones_before_take_and_changes_nothing() {
    let (world, _) = world(vec![guest(1, "one"), guest(2, "two")]).await;
    let before = world.fleet.state();
    let with = |guest: &str, address: &str| AdoptVps { addresses: vec![address.to_owned()], ..wants(guest) };
    let requests =
        vec![with("one", "192.0.2.60"), with("two", "192.0.2.60"), with("two", "192.0.2.61"), wants("one")];
    let plans = world.fleet.plan_adoptions(&caller(), requests).unwrap();
    let said: Vec<String> =
        plans.iter().map(|plan| plan.problem.clone().unwrap_or_else(|| plan.notes.join("; "))).collect();
    expect![[r#"
        it may send only from 192.0.2.60 from now on
        192.0.2.60/32 is held by VPS `one`: one of them has it wrongly
        it may send only from 192.0.2.61 from now on
        the guest `one` is VPS `one` of tenant `default` already"#]]
    .assert_eq(&said.join("\n"));
    assert_eq!(world.fleet.state().revision, before.revision);
    let many = vec![wants("one"); chom_protocol::api::adoption::ADOPTIONS_MAX + 1];
    assert!(world.fleet.plan_adoptions(&caller(), many).is_err());
    world.end().await;
}

#[tokio::test]
async fn what_needs_a_guest_that_chom_made_is_refused_and_a_purge_says_what_it_leaves() {
    let on_volume = changed(guest(1, "on-lvm"), |hardware| {
        hardware.disks[0].kind = DiskKind::Block;
        hardware.disks[0].path = "/dev/vg0/vm101".to_owned();
    });
    let (world, host) = world(vec![on_volume, guest(2, "on-file")]).await;
    adopt(&world, wants("on-lvm")).await.unwrap();
    adopt(&world, wants("on-file")).await.unwrap();
    world.converge(host).await;
    let (fleet, mark) = (&world.fleet, RequestMark::default);
    let take = TakeSnapshot { name: name("s") };
    let grow = ResizeVps { disk_bytes: Some(Bytes::gib(20)), ..ResizeVps::default() };
    let copy = CloneVps { name: name("copy"), snapshot: None };
    let mut said = vec![
        fleet.take_snapshot(&caller(), mark(), id(1), take.clone()).await.unwrap_err().to_string(),
        fleet.resize_vps(&caller(), mark(), id(1), grow.clone()).await.unwrap_err().to_string(),
        fleet.rebuild_vps(&caller(), mark(), id(2), RebuildVps::default()).await.unwrap_err().to_string(),
        fleet.clone_vps(&caller(), mark(), id(2), copy).await.unwrap_err().to_string(),
    ];
    fleet.resize_vps(&caller(), mark(), id(2), grow).await.unwrap();
    fleet.take_snapshot(&caller(), mark(), id(2), take).await.unwrap();
    world.act(id(1), Action::Delete).await.unwrap();
    let purged = world.act(id(1), Action::Purge).await.unwrap();
    said.push(world.operation(purged.operation.id).steps.last().unwrap().message.clone());
    expect![[r#"
        the disk of VPS `on-lvm` is a block device (/dev/vg0/vm101); only qcow2 files have snapshots
        the disk of VPS `on-lvm` is a block device (/dev/vg0/vm101), which CHOM does not grow: grow it by hand (`lvextend`, then `virsh blockresize`)
        VPS `on-file` was adopted (it is the guest `on-file`): its disk is not CHOM's to replace; create a new VPS and delete this one
        VPS `on-file` was adopted (it is the guest `on-file`): copies are made of disks that CHOM made
        /dev/vg0/vm101 stays on its host: CHOM removes files only; free it by hand (`lvremove` for a volume of LVM)"#]].assert_eq(&said.join("\n"));
    world.end().await;
}
