//! Orders on many VPSs: begun one after the other, each once, whatever dies in between; a tenant means its own.

use chom_protocol::api::bulk::{BulkAction, BulkCounts, BulkItemState, BulkItemView, BulkOrder, VpsSelector};
use chom_protocol::api::operations::{OperationState, OperationView};
use chom_protocol::api::tenants::{CreateTenant, Quota};
use chom_protocol::api::vps_servers::RenameVps;
use serde_json::json;

use super::*;
use crate::fleet::ErrorKind;

fn order(action: BulkAction, selector: VpsSelector) -> BulkOrder {
    BulkOrder { action, parameters: None, selector, expected_count: None }
}

fn all() -> VpsSelector {
    VpsSelector { all: true, ..VpsSelector::default() }
}

async fn give(world: &World, caller: &Caller, request: BulkOrder) -> Result<OperationView, FleetError> {
    world.fleet.order_many(caller, RequestMark::default(), request).await.map(|done| done.value)
}

fn items(world: &World, id: OperationId) -> Vec<BulkItemView> {
    let state = world.fleet.state();
    world.fleet.bulk_items(&state, &caller(), id, 0).collect()
}

fn counts(world: &World, id: OperationId) -> BulkCounts {
    crate::fleet::bulk::counts(&world.fleet.state(), id)
}

/// The operations of a kind that each VPS ever had.
fn touched(world: &World, kind: &str) -> std::collections::BTreeMap<VpsId, usize> {
    let state = world.fleet.state();
    let mut touched = std::collections::BTreeMap::new();
    for row in state.operations.values().map(|stored| &stored.row).filter(|row| row.kind == kind) {
        *touched.entry(row.vps.unwrap()).or_default() += 1;
    }
    touched
}

async fn hosts(world: &World, count: u64, each: u64) -> Vec<HostId> {
    let mut hosts = Vec::new();
    for n in 0..count {
        hosts.push(world.host(&format!("h{n}"), "eu-west", each).await);
    }
    for n in 0..count * each {
        world.create(&format!("v{n}"), "eu-west").await.unwrap();
    }
    for host in &hosts {
        world.converge(*host).await;
    }
    hosts
}

#[tokio::test]
async fn each_of_many_is_touched_once_when_cancelled_resumed_and_restarted_half_way() {
    let world = World::new().await;
    let hosts = hosts(&world, 3, 20).await;
    let request = BulkOrder { expected_count: Some(60), ..order(BulkAction::Stop, all()) };
    let begun = give(&world, &caller(), request).await.unwrap();
    assert_eq!((begun.state, begun.bulk.unwrap().pending), (OperationState::Pending, 60));
    world.fleet.look_at_bulk().await.unwrap();
    let now = counts(&world, begun.id);
    assert_eq!((now.running, now.pending), (24, 36), "8 of each host at a time");
    world.fleet.look_at_bulk().await.unwrap();
    assert_eq!(counts(&world, begun.id), now, "nothing has ended");
    world.converge(hosts[0]).await;
    world.fleet.look_at_bulk().await.unwrap();
    assert_eq!(counts(&world, begun.id).succeeded, 8);
    let cancelled =
        world.fleet.cancel_operation(&caller(), RequestMark::default(), begun.id).await.unwrap().value;
    assert_eq!(cancelled.state, OperationState::Cancelled);
    for host in &hosts {
        world.converge(*host).await;
    }
    world.fleet.look_at_bulk().await.unwrap();
    let now = counts(&world, begun.id);
    assert_eq!(
        (now.succeeded, now.running, now.pending),
        (32, 0, 28),
        "what was begun with is done, and no more"
    );
    let resumed =
        world.fleet.resume_operation(&caller(), RequestMark::default(), begun.id).await.unwrap().value;
    assert_eq!(resumed.state, OperationState::Running);
    world.fleet.look_at_bulk().await.unwrap();
    let world = world.restart().await;
    for _ in 0..5 {
        for host in &hosts {
            world.converge(*host).await;
        }
        world.fleet.look_at_bulk().await.unwrap();
    }
    let row = world.operation(begun.id);
    assert_eq!((row.state, counts(&world, begun.id).succeeded), (OperationState::Succeeded, 60), "{row:?}");
    let touched = touched(&world, "stop");
    assert!(touched.len() == 60 && touched.values().all(|count| *count == 1), "{touched:?}");
    let again = world.fleet.resume_operation(&caller(), RequestMark::default(), begun.id).await.unwrap_err();
    assert!(again.to_string().contains("nothing of operation"), "{again}");
    world.end().await;
}

#[tokio::test]
async fn one_that_cannot_be_done_says_why_and_the_others_go_on() {
    let world = World::new().await;
    let hosts = hosts(&world, 1, 4).await;
    let ids: Vec<VpsId> = world.fleet.state().vps.keys().copied().collect();
    let begun = give(&world, &caller(), order(BulkAction::Restart, all())).await.unwrap();
    world.act(ids[1], Action::Stop).await.unwrap();
    world.act(ids[2], Action::Hold).await.unwrap();
    world.fleet.look_at_bulk().await.unwrap();
    // A newer order takes the place of one that is under way.
    let rename = RenameVps { name: name("other") };
    world.fleet.rename_vps(&caller(), RequestMark::default(), ids[3], rename).await.unwrap();
    let first = items(&world, begun.id)[0].operation.unwrap();
    let job = world.fleet.state().jobs.values().find(|job| job.row.operation == first).unwrap().row.id;
    let result = chom_protocol::job::JobResult {
        job,
        generation: Generation::default(),
        finished_at: UnixMillis(1),
        outcome: chom_protocol::job::JobOutcome::Done,
    };
    world.fleet.results(hosts[0], vec![result]).await.unwrap();
    world.fleet.look_at_bulk().await.unwrap();
    let said: Vec<String> = items(&world, begun.id)
        .iter()
        .map(|item| format!("{}: {:?} {}\n", item.name, item.state, item.problem.as_deref().unwrap_or("")))
        .collect();
    expect_test::expect![[r#"
        v0: Succeeded 
        v1: Failed VPS `v1` is to be off; start it with `chomctl vps start v1`
        v2: Failed VPS `v2` is on hold; end it with `chomctl vps unhold v2`
        v3: Failed a newer order on the VPS took its place
    "#]]
    .assert_eq(&said.concat());
    let row = world.operation(begun.id);
    assert_eq!(row.state, OperationState::Failed);
    assert!(row.problem.unwrap().starts_with("3 of 4 were not done"));
    world.end().await;
}

#[tokio::test]
async fn a_selector_means_what_it_says_and_of_a_tenant_its_own_alone() {
    let world = World::new().await;
    let host = world.host("h1", "eu-west", 20).await;
    let acme = CreateTenant { name: name("acme"), quota: Quota::default(), external_id: None };
    world.fleet.create_tenant(&caller(), RequestMark::default(), acme).await.unwrap();
    for (vps, tenant) in [("web-1", "default"), ("web-2", "acme"), ("db-1", "acme"), ("old", "acme")] {
        let wanted = CreateVps { tenant: Some(name(tenant)), ..request(vps, "eu-west") };
        world.fleet.create_vps(&caller(), RequestMark::default(), wanted).await.unwrap();
    }
    let id = |text: &str| {
        let state = world.fleet.state();
        state.vps.values().find(|stored| stored.row.spec.name.as_str() == text).unwrap().row.spec.id
    };
    world.converge(host).await;
    world.act(id("old"), Action::Delete).await.unwrap();
    world.act(id("db-1"), Action::Stop).await.unwrap();
    world.converge(host).await;
    let owner = Caller { role: Role::Owner, tenant: Some(name("acme")), ..caller() };
    let none = VpsSelector::default;
    let mut said = String::new();
    for (who, caller) in [("admin", caller()), ("owner", owner.clone())] {
        for (action, selector) in [
            (BulkAction::Stop, all()),
            (BulkAction::Stop, VpsSelector { state: Some(VpsState::Running), ..none() }),
            (BulkAction::Stop, VpsSelector { tenant: Some(name("acme")), ..none() }),
            (BulkAction::Stop, VpsSelector { tenant: Some(name("default")), ..none() }),
            (BulkAction::Stop, VpsSelector { name_prefix: Some("web-".to_owned()), ..none() }),
            (BulkAction::Stop, VpsSelector { ids: vec![id("web-1")], ..none() }),
            (BulkAction::Stop, VpsSelector { host: Some("h1".to_owned()), ..none() }),
            (BulkAction::Stop, VpsSelector { region: Some(name("us-east")), ..none() }),
            (BulkAction::Purge, all()),
            (BulkAction::Hold, all()),
            (BulkAction::Stop, none()),
        ] {
            let text = serde_json::to_string(&selector).unwrap().replace(&id("web-1").to_string(), "ID");
            let found = world.fleet.preview_bulk(&caller, &order(action, selector));
            let found = match found {
                Ok(preview) => preview.names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" "),
                Err(error) => format!("{:?}: {error}", error.kind()),
            };
            said += &format!("{who} {} {text}: {found}\n", action.name());
        }
    }
    expect_test::expect![[r#"
        admin stop {"all":true}: web-1 web-2 db-1
        admin stop {"state":"running"}: web-1 web-2
        admin stop {"tenant":"acme"}: web-2 db-1
        admin stop {"tenant":"default"}: web-1
        admin stop {"name_prefix":"web-"}: web-1 web-2
        admin stop {"ids":["ID"]}: web-1
        admin stop {"host":"h1"}: web-1 web-2 db-1
        admin stop {"region":"us-east"}: 
        admin purge {"all":true}: old
        admin hold {"all":true}: web-1 web-2 db-1
        admin stop {}: Invalid: say which VPSs: by `tenant`, `host`, `region`, `state`, `size`, `image`, `name_prefix`, `ids`, or `all`
        owner stop {"all":true}: web-2 db-1
        owner stop {"state":"running"}: web-2
        owner stop {"tenant":"acme"}: web-2 db-1
        owner stop {"tenant":"default"}: Invalid: there is no tenant `default`
        owner stop {"name_prefix":"web-"}: web-2
        owner stop {"ids":["ID"]}: 
        owner stop {"host":"h1"}: Forbidden: which hosts there are is not a tenant's to know; choose by region, state, size, image or name
        owner stop {"region":"us-east"}: 
        owner purge {"all":true}: old
        owner hold {"all":true}: Forbidden: `hold` needs the permission `vps-custody:change`, which the role `owner` of your token does not have
        owner stop {}: Invalid: say which VPSs: by `tenant`, `host`, `region`, `state`, `size`, `image`, `name_prefix`, `ids`, or `all`
    "#]].assert_eq(&said);
    for (request, kind) in [
        (BulkOrder { expected_count: Some(9), ..order(BulkAction::Stop, all()) }, ErrorKind::Conflict),
        (
            BulkOrder { parameters: Some(json!({"gently": true})), ..order(BulkAction::Stop, all()) },
            ErrorKind::Invalid,
        ),
        (order(BulkAction::Resize, all()), ErrorKind::Invalid),
        (
            order(BulkAction::Stop, VpsSelector { region: Some(name("us-east")), ..none() }),
            ErrorKind::Conflict,
        ),
    ] {
        // A resize without a size is each VPS's own failure; everything else is the order's.
        let outcome = give(&world, &caller(), request.clone()).await;
        match request.action {
            BulkAction::Resize => drop(outcome.unwrap()),
            _ => assert_eq!(outcome.unwrap_err().kind(), kind, "{request:?}"),
        }
    }
    // What a tenant ordered is its tenant's to see, and what the fleet ordered is not.
    let own = give(&world, &owner, order(BulkAction::Restart, all())).await.unwrap();
    let fleets = give(&world, &caller(), order(BulkAction::Start, all())).await.unwrap();
    let sees = |caller: &Caller, id| caller.sees_operation(&world.operation(id));
    assert!(sees(&owner, own.id) && !sees(&owner, fleets.id) && sees(&caller(), own.id));
    assert!(world.fleet.state().operations_of_tenant[&name("acme")].contains(&own.id));
    let other = Caller { tenant: Some(name("other")), ..owner.clone() };
    let of_one = Caller { vps: Some(id("web-2")), ..owner };
    assert!(!sees(&other, own.id) && !sees(&of_one, own.id));
    assert!(items(&world, own.id).iter().all(|item| item.state == BulkItemState::Pending));
    world.end().await;
}
