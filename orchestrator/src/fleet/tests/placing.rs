//! Where VPSs go: labels, limits and groups of hosts, and what a dry run says.

use chom_protocol::api::hosts::{ChangeLabels, HostLimits, Labels};
use chom_protocol::api::plans::VpsPlan;

use super::*;
use crate::fleet::Planning;
use crate::fleet::rows::VpsRow;

fn labels(text: &str) -> Labels {
    let pair = |word: &str| word.split_once('=').map(|(key, value)| (name(key), name(value))).unwrap();
    text.split_ascii_whitespace().map(pair).collect()
}

async fn label(world: &World, host: HostId, set: &str) {
    let change = ChangeLabels { set: labels(set), remove: vec![] };
    world.fleet.label_host(&caller(), RequestMark::default(), host, change).await.unwrap();
}

async fn limit(world: &World, host: HostId, limits: HostLimits) -> Result<(), FleetError> {
    world.fleet.limit_host(&caller(), RequestMark::default(), host, limits).await.map(|_| ())
}

async fn create(world: &World, wanted: CreateVps) -> Result<HostId, FleetError> {
    let done = world.fleet.create_vps(&caller(), RequestMark::default(), wanted).await?;
    Ok(done.value.vps.host.unwrap())
}

fn rendered(plan: &VpsPlan) -> String {
    let host = plan.host_name.as_ref().map_or("nobody", |name| name.as_str());
    let mut text = format!("{host}: {}\n", plan.why);
    for other in &plan.not_taken {
        text += &format!("  not {}: {}\n", other.name, other.reason);
    }
    text
}

#[tokio::test]
async fn a_vps_goes_to_a_host_with_the_wanted_labels_and_no_other() {
    let world = World::new().await;
    let (plain, fast) = (world.host("plain", "eu-west", 9).await, world.host("fast", "eu-west", 3).await);
    label(&world, fast, "disk=nvme rack=a1").await;
    let wanted = |vps: &str, host_labels: &str| CreateVps {
        host_labels: labels(host_labels),
        ..request(vps, "eu-west")
    };
    assert_eq!(create(&world, wanted("a", "")).await.unwrap(), plain);
    assert_eq!(create(&world, wanted("b", "disk=nvme")).await.unwrap(), fast);
    let refused = create(&world, wanted("c", "disk=hdd")).await.unwrap_err().to_string();
    assert!(refused.contains("2 without the wanted labels"), "{refused}");
    let change = ChangeLabels { set: Labels::new(), remove: vec![name("disk")] };
    let view = world.fleet.label_host(&caller(), RequestMark::default(), fast, change).await.unwrap().value;
    assert_eq!(view.labels, labels("rack=a1"));
    world.end().await;
}

#[tokio::test]
async fn no_two_of_a_group_stand_on_one_host_until_one_is_gone_for_good() {
    let world = World::new().await;
    let (first, second) = (world.host("one", "eu-west", 9).await, world.host("two", "eu-west", 9).await);
    let wanted = |vps: &str| CreateVps { anti_affinity: Some(name("web")), ..request(vps, "eu-west") };
    let taken = [create(&world, wanted("a")).await.unwrap(), create(&world, wanted("b")).await.unwrap()];
    assert!(taken.contains(&first) && taken.contains(&second), "{taken:?}");
    let refused = create(&world, wanted("c")).await.unwrap_err().to_string();
    assert!(refused.contains("2 with a VPS of the same anti-affinity group"), "{refused}");
    create(&world, request("alone", "eu-west")).await.unwrap();
    // Deleted and kept it could come back: its place stays taken until it is purged.
    let state = world.fleet.state();
    let vps =
        state.vps.values().find(|stored| stored.row.host == first && stored.row.anti_affinity.is_some());
    let vps = vps.unwrap().row.spec.id;
    world.act(vps, Action::Delete).await.unwrap();
    assert!(create(&world, wanted("c")).await.is_err());
    let world = world.restart().await;
    assert_eq!(world.fleet.state().group_members.len(), 2, "the index comes with the rows");
    for host in [first, second] {
        world.fleet.observe(host, world.status_of(host)).await.unwrap();
    }
    world.act(vps, Action::Purge).await.unwrap();
    world.converge(first).await;
    assert_eq!(world.fleet.state().get::<VpsRow>(&vps), None);
    assert_eq!(create(&world, wanted("c")).await.unwrap(), first);
    world.end().await;
}

#[tokio::test]
async fn a_hosts_own_limits_bound_what_it_takes() {
    let world = World::new().await;
    let host = world.host("one", "eu-west", 2).await;
    let reserve = HostLimits { memory_reserved_bytes: Some(Bytes::mib(256)), ..HostLimits::default() };
    limit(&world, host, reserve).await.unwrap();
    create(&world, request("a", "eu-west")).await.unwrap();
    assert!(create(&world, request("b", "eu-west")).await.is_err());
    limit(&world, host, HostLimits { memory_percent: Some(200), ..reserve }).await.unwrap();
    create(&world, request("b", "eu-west")).await.unwrap();
    let nothing = limit(&world, host, HostLimits { cores_per_core: Some(0), ..reserve }).await.unwrap_err();
    assert_eq!(nothing.location(), Some("/cores_per_core"));
    world.end().await;
}

#[tokio::test]
async fn a_dry_run_says_where_and_why_and_changes_nothing() {
    let world = World::new().await;
    let big = world.host("big", "eu-west", 9).await;
    let _small = world.host("small", "eu-west", 3).await;
    let before = world.fleet.state().revision;
    let mark =
        || RequestMark { planning: Planning::DryRun { request: Sha256::of(b"") }, ..RequestMark::default() };
    let plan = world.fleet.plan_create(&caller(), mark(), request("a", "eu-west")).await.unwrap();
    assert_eq!((plan.host, plan.addresses.len(), plan.steps.len()), (Some(big), 1, 3));
    let wanted = CreateVps { host_labels: labels("disk=nvme"), ..request("a", "eu-west") };
    let nowhere = world.fleet.plan_create(&caller(), mark(), wanted).await.unwrap();
    expect_test::expect![[r#"
        big: VPSs are spread: then it has 88 % of its memory free and 1 VPSs, the next best 66 % of its memory free and 1 VPSs
          not small: could take it; then it had 66 % of its memory free and 1 VPSs
        nobody: no host in region `eu-west` can take it: 2 without the wanted labels
          not big: without the wanted labels
          not small: without the wanted labels
    "#]].assert_eq(&(rendered(&plan) + &rendered(&nowhere)));
    assert_eq!(world.fleet.state().revision, before);
    assert_eq!(create(&world, request("a", "eu-west")).await.unwrap(), big, "as planned");
    let taken = world.fleet.plan_create(&caller(), mark(), request("a", "eu-west")).await.unwrap_err();
    assert_eq!(taken.location(), Some("/name"));
    world.end().await;
}
