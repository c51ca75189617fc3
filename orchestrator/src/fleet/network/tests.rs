//! Networks, addresses and traffic on a real store: nothing is given twice, kept back is kept back, who held what is known.

use std::collections::BTreeSet;

use chom_protocol::api::networks::{
    AddressFamily, AddressRange, ChangeAddresses, ChangeNetwork, TrafficQuota,
};
use chom_protocol::api::vps_servers::VpsView;
use chom_protocol::network::Traffic;
use chom_protocol::vps::VpsState;
use chom_protocol::{HostId, VpsId};
use expect_test::expect;
use futures_util::future::join_all;
use proptest::prelude::*;

use super::rows::{AddressRow, FormerAddressRow, TrafficRow};
use super::*;
use crate::fleet::rows::VpsRow;
use crate::fleet::tests::{World, caller, name, request};
use crate::fleet::vps::Action;

fn mark() -> RequestMark {
    RequestMark::default()
}

fn bridge(network: &str, bridge: &str) -> CreateNetwork {
    CreateNetwork {
        name: name(network),
        region: name("eu-west"),
        kind: NetworkKind::Bridge,
        bridge: Some(bridge.parse().unwrap()),
        vlan: None,
        default: false,
    }
}

fn pool(prefix: &str, gateway: &str) -> PutPool {
    PutPool {
        prefix: prefix.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
        dns: vec![],
        reserved: vec![],
        given_bits: None,
    }
}

fn range(first: &str, last: &str) -> AddressRange {
    AddressRange { first: first.parse().unwrap(), last: last.parse().unwrap() }
}

/// A world with a host, and a network `lan` that is the region's default.
async fn world(pools: Vec<PutPool>) -> (World, HostId) {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 100).await;
    let lan = CreateNetwork { default: true, ..bridge("lan", "br0") };
    world.fleet.create_network(&caller(), mark(), lan).await.unwrap();
    for pool in pools {
        world.fleet.put_pool(&caller(), mark(), name("lan"), pool).await.unwrap();
    }
    (world, host)
}

async fn create(world: &World, vps: &str) -> VpsView {
    world.create(vps, "eu-west").await.unwrap().value.vps
}

fn addresses(view: &VpsView) -> String {
    view.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

async fn change(world: &World, vps: VpsId, change: ChangeAddresses) -> Result<VpsView, FleetError> {
    world.fleet.change_addresses(&caller(), mark(), vps, change).await.map(|done| done.value.vps)
}

fn held(world: &World, vps: VpsId) -> String {
    let state = world.fleet.state();
    let rows = address::held_by(&state, vps);
    rows.iter().map(|row| row.held.to_string()).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_vps_gets_one_address_of_each_family_of_its_regions_default_network() {
    let v4 = PutPool { reserved: vec![range("192.0.2.2", "192.0.2.9")], ..pool("192.0.2.0/24", "192.0.2.1") };
    let v6 = PutPool { given_bits: Some(64), ..pool("2001:db8::/48", "fe80::1") };
    let (world, _) = world(vec![v4, v6]).await;
    let vps = create(&world, "a").await;
    assert_eq!((vps.network.as_str(), addresses(&vps).as_str()), ("lan", "192.0.2.10 2001:db8::1"));
    assert_eq!(held(&world, vps.id), "192.0.2.10/32 2001:db8::/64");
    let state = world.fleet.state();
    let card = &state.get::<VpsRow>(&vps.id).unwrap().spec.interface;
    assert_eq!(card.gateway_v4, "192.0.2.1".parse().ok());
    assert_eq!(card.gateway_v6, "fe80::1".parse().ok());
    assert_eq!(card.routed, ["2001:db8::/64".parse().unwrap()]);
    assert!(card.spoof_guard && card.mac[0] & 3 == 2, "{card:?}");
    // Another network is there for those who name it, also the one behind NAT.
    let mut wanted = request("b", "eu-west");
    wanted.network = Some(name("nat"));
    let nat = world.fleet.create_vps(&caller(), mark(), wanted).await.unwrap().value.vps;
    assert_eq!((nat.network.as_str(), addresses(&nat).as_str()), ("nat", "10.155.0.10"));
}

#[tokio::test]
async fn creates_at_once_take_no_address_twice_and_an_empty_pool_says_so() {
    let (world, _) = world(vec![pool("192.0.2.0/27", "192.0.2.1")]).await;
    let names: Vec<String> = (0..40).map(|n| format!("v{n}")).collect();
    let outcomes = join_all(names.iter().map(|name| world.create(name, "eu-west"))).await;
    let given: BTreeSet<String> = outcomes
        .iter()
        .filter_map(|outcome| outcome.as_ref().ok())
        .map(|done| addresses(&done.value.vps))
        .collect();
    assert_eq!(given.len(), 29);
    let refused: Vec<&FleetError> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert_eq!((refused.len(), refused[0].kind()), (11, ErrorKind::NoCapacity));
    expect!["pool 192.0.2.0/27 of network `lan` in region `eu-west` has no free address left; add a pool, or purge VPSs"]
        .assert_eq(&refused[0].to_string());
    assert_eq!(world.fleet.state().addresses.len(), 29);
}

#[tokio::test]
async fn an_address_follows_its_vps_until_it_is_gone_and_who_held_it_stays_known() {
    let (world, host) = world(vec![pool("192.0.2.0/30", "192.0.2.1")]).await;
    let vps = create(&world, "a").await;
    world.converge(host).await;
    world.act(vps.id, Action::Delete).await.unwrap();
    world.converge(host).await;
    assert!(world.create("b", "eu-west").await.is_err(), "it is held while its VPS is kept");
    world.act(vps.id, Action::Undelete).await.unwrap();
    assert_eq!(held(&world, vps.id), "192.0.2.2/32");
    world.act(vps.id, Action::Delete).await.unwrap();
    world.converge(host).await;
    world.act(vps.id, Action::Purge).await.unwrap();
    assert!(
        world.create("b", "eu-west").await.is_err(),
        "it is held until the host says that its VPS is gone"
    );
    for _ in 0..2 {
        world.converge(host).await;
    }
    let other = create(&world, "b").await;
    assert_eq!(addresses(&other), "192.0.2.2");
    let state = world.fleet.state();
    let former: Vec<&FormerAddressRow> =
        state.former_addresses.values().map(|stored| stored.row.as_ref()).collect();
    let now: Vec<&AddressRow> = state.addresses.values().map(|stored| stored.row.as_ref()).collect();
    assert_eq!((former.len(), former[0].row.vps, now.len(), now[0].vps), (1, vps.id, 1, other.id));
    assert!(former[0].row.since <= former[0].until && former[0].until <= now[0].since);
}

#[tokio::test]
async fn addresses_are_added_routed_moved_and_removed() {
    let (world, _) =
        world(vec![pool("192.0.2.0/24", "192.0.2.1"), pool("2001:db8::/64", "2001:db8::1")]).await;
    let (one, two) = (create(&world, "a").await.id, create(&world, "b").await.id);
    let add = |family, address: Option<&str>| ChangeAddresses::Add {
        family,
        address: address.map(|address| address.parse().unwrap()),
    };
    change(&world, one, add(Some(AddressFamily::V4), None)).await.unwrap();
    change(&world, one, add(None, Some("2001:db8::77"))).await.unwrap();
    change(&world, one, ChangeAddresses::Route { prefix: "198.51.100.0/28".parse().unwrap() }).await.unwrap();
    assert_eq!(
        held(&world, one),
        "192.0.2.2/32 192.0.2.4/32 198.51.100.0/28 2001:db8::2/128 2001:db8::77/128"
    );
    for what in ["198.51.100.0/28", "192.0.2.2"] {
        change(&world, one, ChangeAddresses::Move { held: what.to_owned(), to: two }).await.unwrap();
    }
    change(&world, one, ChangeAddresses::Remove { held: "2001:db8::77".to_owned() }).await.unwrap();
    assert_eq!(held(&world, one), "192.0.2.4/32 2001:db8::2/128");
    assert_eq!(held(&world, two), "192.0.2.2/32 192.0.2.3/32 198.51.100.0/28 2001:db8::3/128");
    let state = world.fleet.state();
    assert_eq!(state.get::<VpsRow>(&two).unwrap().spec.interface.routed.len(), 1);
    assert_eq!(state.former_addresses.len(), 3);
    assert_eq!(state.operation_of_vps.len(), 2, "both are told");
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_what_to_do() {
    let full =
        PutPool { reserved: vec![range("192.0.2.9", "192.0.2.9")], ..pool("192.0.2.0/24", "192.0.2.1") };
    let (world, _) = world(vec![full]).await;
    let (one, two) = (create(&world, "a").await.id, create(&world, "b").await.id);
    let fleet = &world.fleet;
    let mut said = Vec::new();
    for (network, wanted) in [
        ("lan", pool("192.0.2.7/24", "192.0.2.1")),
        ("lan", pool("10.0.0.0/7", "10.0.0.1")),
        ("lan", pool("224.0.0.0/24", "224.0.0.1")),
        ("lan", pool("198.51.100.0/24", "192.0.2.1")),
        ("lan", pool("198.51.100.0/24", "2001:db8::1")),
        (
            "lan",
            PutPool {
                reserved: vec![range("198.51.100.9", "198.51.100.2")],
                ..pool("198.51.100.0/24", "198.51.100.1")
            },
        ),
        ("lan", PutPool { given_bits: Some(30), ..pool("198.51.100.0/24", "198.51.100.1") }),
        ("lan", PutPool { given_bits: Some(64), ..pool("2001:db8::/72", "fe80::1") }),
        ("lan", PutPool { dns: vec!["0.0.0.0".parse().unwrap()], ..pool("198.51.100.0/24", "198.51.100.1") }),
        ("lan", pool("192.0.2.128/25", "192.0.2.129")),
        ("nat", pool("10.155.0.0/24", "10.155.0.1")),
        ("wan", pool("198.51.100.0/24", "198.51.100.1")),
    ] {
        let error = fleet.put_pool(&caller(), mark(), name(network), wanted).await.unwrap_err();
        said.push(format!("{} {error}", error.location().unwrap_or("-")));
    }
    for wanted in [
        bridge("lan", "br1"),
        bridge("nat", "br1"),
        CreateNetwork { region: name("mars"), ..bridge("x", "br1") },
        CreateNetwork { default: true, ..bridge("x", "br1") },
        CreateNetwork { bridge: None, ..bridge("x", "br1") },
        CreateNetwork { kind: NetworkKind::Nat, ..bridge("x", "br1") },
        CreateNetwork {
            kind: NetworkKind::Nat,
            bridge: None,
            vlan: Some(7.try_into().unwrap()),
            ..bridge("x", "br1")
        },
    ] {
        let error = fleet.create_network(&caller(), mark(), wanted).await.unwrap_err();
        said.push(format!("{} {error}", error.location().unwrap_or("-")));
    }
    let held = |text: &str| text.to_owned();
    for wanted in [
        ChangeAddresses::Add { family: None, address: None },
        ChangeAddresses::Add { family: Some(AddressFamily::V6), address: None },
        ChangeAddresses::Add { family: None, address: "192.0.2.3".parse().ok() },
        ChangeAddresses::Add { family: None, address: "192.0.2.9".parse().ok() },
        ChangeAddresses::Add { family: None, address: "192.0.2.1".parse().ok() },
        ChangeAddresses::Add { family: None, address: "192.0.2.255".parse().ok() },
        ChangeAddresses::Add { family: None, address: "203.0.113.1".parse().ok() },
        ChangeAddresses::Route { prefix: "192.0.2.64/28".parse().unwrap() },
        ChangeAddresses::Route { prefix: "203.0.113.1/24".parse().unwrap() },
        ChangeAddresses::Remove { held: held("192.0.2.3") },
        ChangeAddresses::Remove { held: held("192.0.2.2") },
        ChangeAddresses::Remove { held: held("everything") },
        ChangeAddresses::Move { held: held("192.0.2.2"), to: one },
        ChangeAddresses::Move { held: held("192.0.2.2"), to: two },
    ] {
        let error = change(&world, one, wanted).await.unwrap_err();
        said.push(format!("{} {error}", error.location().unwrap_or("-")));
    }
    let error = fleet.delete_network(&caller(), mark(), name("lan")).await.unwrap_err();
    said.push(error.to_string());
    let remove = RemovePool { prefix: "192.0.2.0/24".parse().unwrap() };
    let error = fleet.remove_pool(&caller(), mark(), name("lan"), remove).await.unwrap_err();
    said.push(error.to_string());
    let said = said.join("\n").replace(&two.to_string(), "B");
    expect![[r#"
        /prefix `192.0.2.7/24` has bits set beyond its length; write `192.0.2.0/24`
        /prefix `10.0.0.0/7` is too large for a pool; the largest is a /8
        /prefix `224.0.0.0/24` has no addresses that VPSs could have
        /gateway the gateway 192.0.2.1 is not within `198.51.100.0/24`, and not a link-local address of its family either
        /gateway the gateway 2001:db8::1 is not within `198.51.100.0/24`, and not a link-local address of its family either
        /reserved 198.51.100.9 to 198.51.100.2 is no range within `198.51.100.0/24`, lower address first
        /given_bits a VPS cannot get a /30 of `198.51.100.0/24`; give 32 for single addresses, or 64 of an IPv6 prefix of /64 or larger
        /given_bits a VPS cannot get a /64 of `2001:db8::/72`; give 128 for single addresses, or 64 of an IPv6 prefix of /64 or larger
        /dns name at most 3 name servers, each of one machine
        /prefix `192.0.2.128/25` overlaps pool 192.0.2.0/24 of network `lan`
        - network `nat` is always there and the same on every host; make a network of your own
        - there is no network `wan`; list what there is and check the name or id
        /name a network named `lan` exists already; choose another name
        /name a network named `nat` exists already; choose another name
        /region there is no region `mars`; there are: eu-west, us-east
        /default network `lan` is the default of region `eu-west` already; a region has one
        /bridge a network of kind `bridge` names the bridge that each host of the region has, such as `br0`
        /bridge a network of kind `nat` is on the host's own bridge; leave it out
        /vlan a network of kind `nat` has no VLAN; leave it out, or use kind `bridge`
        /family name an address, or the family of which to give a free one
        /family network `lan` in region `eu-west` has no pool of that family; add one to it
        /address 192.0.2.3/32 is held by VPS B; choose another one, or move it
        /address 192.0.2.9/32 of pool 192.0.2.0/24 is reserved, the gateway, or the network's own address; choose another one
        /address 192.0.2.1/32 of pool 192.0.2.0/24 is reserved, the gateway, or the network's own address; choose another one
        /address 192.0.2.255/32 of pool 192.0.2.0/24 is reserved, the gateway, or the network's own address; choose another one
        /address 203.0.113.1 is in no pool of network `lan`; it has: 192.0.2.0/24
        /prefix `192.0.2.64/28` overlaps pool 192.0.2.0/24; add an address of it instead
        /prefix `203.0.113.1/24` cannot be routed to a VPS: a prefix of /16 or smaller without bits beyond its length can
        /held VPS `a` does not hold 192.0.2.3/32
        - 192.0.2.2/32 is the last address of VPS `a`; add another one first
        /held `everything` is no address and no prefix
        /to VPS `a` is not another VPS where 192.0.2.2/32 would reach it: on network `lan`, or behind the same host's NAT
        - 192.0.2.2/32 is the last address of VPS `a`; add another one first
        network `lan` has 2 VPSs and 1 pools; purge those and remove these first
        2 addresses of pool 192.0.2.0/24 are held; see `chomctl address list --network lan`"#]].assert_eq(&said);
    assert_eq!(
        (self::held(&world, one).as_str(), self::held(&world, two).as_str()),
        ("192.0.2.2/32", "192.0.2.3/32")
    );
}

#[tokio::test]
async fn the_same_private_range_may_be_in_two_regions() {
    let (world, _) = world(vec![pool("10.0.0.0/24", "10.0.0.1")]).await;
    let there = CreateNetwork { region: name("us-east"), ..bridge("there", "br0") };
    world.fleet.create_network(&caller(), mark(), there).await.unwrap();
    for own in [pool("10.0.0.0/24", "10.0.0.1"), pool("198.51.100.0/24", "198.51.100.1")] {
        world.fleet.put_pool(&caller(), mark(), name("there"), own).await.unwrap();
    }
    let again =
        world.fleet.put_pool(&caller(), mark(), name("lan"), pool("198.51.100.0/25", "198.51.100.1")).await;
    assert!(again.unwrap_err().to_string().contains("overlaps pool 198.51.100.0/24"));
}

#[tokio::test]
async fn a_hard_quota_throttles_and_a_larger_one_frees() {
    let (world, host) = world(vec![pool("192.0.2.0/24", "192.0.2.1")]).await;
    let vps = create(&world, "a").await.id;
    let quota = |hard| ChangeNetwork {
        quota: Some(TrafficQuota {
            soft_bytes: Some(500),
            hard_bytes: Some(hard),
            throttle_bits: Some(64_000),
        }),
        ..ChangeNetwork::default()
    };
    let throttled = || world.fleet.state().get::<VpsRow>(&vps).unwrap().spec.interface.rate.throttle_bits;
    world.fleet.change_network(&caller(), mark(), vps, quota(1000)).await.unwrap();
    world.converge(host).await;
    let report = async |bytes: u64| {
        let mut status = world.status_of(host);
        let seen = status.vps.get_mut(&vps).unwrap();
        assert_eq!(seen.state, VpsState::Running);
        seen.traffic = Some(Traffic { in_bytes: bytes, out_bytes: 0 });
        world.fleet.observe(host, status).await.unwrap();
        world.fleet.keep_traffic(crate::clock::now()).await.unwrap();
    };
    report(400).await;
    let over = || traffic::over_quota(&world.fleet.state(), vps, crate::clock::now());
    assert_eq!((throttled(), over()), (None, None));
    report(600).await;
    assert!(throttled().is_none() && over().unwrap().contains("soft quota"));
    let before = world.fleet.spec(host).unwrap().generation;
    report(1000).await;
    assert!(throttled() == Some(64_000) && over().unwrap().contains("throttled"));
    assert!(world.fleet.spec(host).unwrap().generation > before, "its host is told");
    world.fleet.change_network(&caller(), mark(), vps, quota(5000)).await.unwrap();
    assert_eq!(throttled(), None);
    let state = world.fleet.state();
    let shown = view::card(&state, state.get::<VpsRow>(&vps).unwrap(), None, crate::clock::now());
    assert_eq!((shown.months.len(), shown.months[0].traffic.total()), (1, 1000));
    assert_eq!(state.get::<TrafficRow>(&vps).unwrap().counted.in_bytes, 1000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Whatever is added, named, moved and removed, and in whatever order: one holder each, none of what is kept back, and
    /// every card says what its VPS holds.
    #[test]
    fn no_address_is_ever_held_twice(steps in prop::collection::vec((0_usize..3, 0_u8..4, 0_u8..16, 0_usize..3), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let kept = PutPool { reserved: vec![range("192.0.2.5", "192.0.2.6")], ..pool("192.0.2.0/28", "192.0.2.1") };
            let (world, _) = world(vec![kept]).await;
            let mut all = Vec::new();
            for name in ["a", "b", "c"] {
                all.push(create(&world, name).await.id);
            }
            for (vps, kind, last, to) in steps {
                let address = format!("192.0.2.{last}");
                let wanted = match kind {
                    0 => ChangeAddresses::Add { family: Some(AddressFamily::V4), address: None },
                    1 => ChangeAddresses::Add { family: None, address: address.parse().ok() },
                    2 => ChangeAddresses::Remove { held: address },
                    _ => ChangeAddresses::Move { held: address, to: all[to] },
                };
                let _ = change(&world, all[vps], wanted).await;
                let state = world.fleet.state();
                let mut seen = BTreeSet::new();
                for id in &all {
                    let row = state.get::<VpsRow>(id).unwrap();
                    let card: BTreeSet<IpNet> = card::holds(&row.spec.interface).into_iter().collect();
                    let rows: BTreeSet<IpNet> = address::held_by(&state, *id).iter().map(|row| row.held).collect();
                    assert_eq!(card, rows);
                    for held in card {
                        assert!(seen.insert(held), "{held} is held twice");
                    }
                }
                for never in ["192.0.2.0", "192.0.2.1", "192.0.2.5", "192.0.2.6", "192.0.2.15"] {
                    assert!(!seen.contains(&chom_protocol::network::alone(never.parse().unwrap())), "{never}");
                }
            }
            world.end().await;
        });
    }
}
