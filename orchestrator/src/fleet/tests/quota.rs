//! Tenants and their quotas.

use chom_protocol::api::snapshots::TakeSnapshot;
use chom_protocol::api::tenants::{CreateTenant, Quota, SetQuota};
use chom_protocol::api::vps_servers::ResizeVps;
use futures_util::future::join_all;

use super::*;
use crate::fleet::ErrorKind;

async fn tenant(world: &World, quota: Quota) {
    let request = CreateTenant { name: name("acme"), quota, external_id: Some("customer-7".to_owned()) };
    world.fleet.create_tenant(&caller(), RequestMark::default(), request).await.unwrap();
}

async fn create(world: &World, vps: &str) -> Result<VpsId, FleetError> {
    let request = CreateVps { tenant: Some(name("acme")), ..request(vps, "eu-west") };
    let made = world.fleet.create_vps(&caller(), RequestMark::default(), request).await;
    made.map(|done| done.value.vps.id)
}

async fn set(world: &World, quota: Quota) {
    let request = SetQuota { quota };
    world.fleet.set_quota(&caller(), RequestMark::default(), name("acme"), request).await.unwrap();
}

#[tokio::test]
async fn creates_at_the_same_time_cannot_exceed_a_quota_together() {
    let world = World::new().await;
    world.host("h", "eu-west", 100).await;
    tenant(&world, Quota { vps: Some(3), ..Quota::default() }).await;
    let names: Vec<String> = (0..20).map(|number| format!("v{number}")).collect();
    let outcomes = join_all(names.iter().map(|vps| create(&world, vps))).await;
    let (made, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), world.fleet.state().vps.len()), (3, 3));
    assert!(refused.iter().all(|outcome| outcome.as_ref().unwrap_err().kind() == ErrorKind::OverQuota));
    expect_test::expect!["the quota of tenant `acme` does not allow it: it would have 4 VPSs of 3; remove something, or ask for more"]
        .assert_eq(&refused[0].as_ref().unwrap_err().to_string());
    assert_eq!(world.create("free", "eu-west").await.map(|_| ()).map_err(|error| error.to_string()), Ok(()));
}

#[tokio::test]
async fn whatever_grows_is_held_to_the_quota_and_whatever_shrinks_is_not() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 100).await;
    tenant(&world, Quota { cores: Some(2), snapshots: Some(1), addresses: Some(2), ..Quota::default() })
        .await;
    let vps = create(&world, "a").await.unwrap();
    let other = create(&world, "b").await.unwrap();
    let refused = |error: FleetError| assert_eq!(error.kind(), ErrorKind::OverQuota, "{error}");
    refused(create(&world, "c").await.unwrap_err());
    world.converge(host).await;
    let resize = |cores| ResizeVps { cores: Some(cores), ..ResizeVps::default() };
    refused(world.fleet.resize_vps(&caller(), RequestMark::default(), vps, resize(2)).await.unwrap_err());
    let snapshot = |text: &str| TakeSnapshot { name: name(text) };
    world.fleet.take_snapshot(&caller(), RequestMark::default(), vps, snapshot("one")).await.unwrap();
    refused(
        world
            .fleet
            .take_snapshot(&caller(), RequestMark::default(), other, snapshot("two"))
            .await
            .unwrap_err(),
    );
    let copy = chom_protocol::api::snapshots::CloneVps { name: name("copy"), snapshot: None };
    refused(world.fleet.clone_vps(&caller(), RequestMark::default(), other, copy).await.unwrap_err());
    // A deleted one gives its cores back, and needs them to come back itself.
    world.act(other, Action::Delete).await.unwrap();
    world.converge(host).await;
    set(&world, Quota { cores: Some(1), ..Quota::default() }).await;
    refused(world.act(other, Action::Undelete).await.unwrap_err());
    // A quota below what there is takes nothing away and holds nothing up.
    set(&world, Quota { vps: Some(1), cores: Some(0), ..Quota::default() }).await;
    world.act(other, Action::Purge).await.unwrap();
    let used = world.fleet.tenant_view(&name("acme")).unwrap().used;
    assert_eq!((used.vps, used.cores, used.snapshots, used.addresses), (2, 1, 1, 2));
}

#[tokio::test]
async fn a_tenant_goes_once_it_has_nothing_and_its_name_and_external_id_are_its_own() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 100).await;
    tenant(&world, Quota::default()).await;
    let again = |tenant: &str, id: &str| CreateTenant {
        name: name(tenant),
        quota: Quota::default(),
        external_id: Some(id.to_owned()),
    };
    let make = async |request| world.fleet.create_tenant(&caller(), RequestMark::default(), request).await;
    for (tenant, id, location) in
        [("acme", "x", "/name"), ("default", "x", "/name"), ("other", "customer-7", "/external_id")]
    {
        assert_eq!(make(again(tenant, id)).await.unwrap_err().location(), Some(location));
    }
    let vps = create(&world, "a").await.unwrap();
    let delete = async || world.fleet.delete_tenant(&caller(), RequestMark::default(), name("acme")).await;
    let error = delete().await.unwrap_err();
    assert!(error.to_string().contains("still has 1 VPSs"), "{error}");
    world.act(vps, Action::Delete).await.unwrap();
    world.act(vps, Action::Purge).await.unwrap();
    world.converge(host).await;
    delete().await.unwrap();
    assert!(world.fleet.tenant_view(&name("acme")).is_err());
    assert!(create(&world, "b").await.unwrap_err().to_string().contains("no tenant `acme`"));
    assert!(make(again("acme", "y")).await.unwrap_err().to_string().contains("was deleted"));
}
