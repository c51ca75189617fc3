//! What other systems call tenants and VPSs: each once, and found again.

use chom_protocol::api::tenants::{CreateTenant, SetExternalId};

use super::*;
use crate::fleet::ErrorKind;
use crate::fleet::rows::VpsRow;

async fn tenant(world: &World, title: &str, external_id: Option<&str>) -> Result<(), FleetError> {
    let external_id = external_id.map(str::to_owned);
    let request = CreateTenant { name: name(title), quota: Default::default(), external_id };
    world.fleet.create_tenant(&caller(), RequestMark::default(), request).await.map(|_| ())
}

async fn called(world: &World, vps: VpsId, id: Option<&str>) -> Result<Option<String>, FleetError> {
    let request = SetExternalId { external_id: id.map(str::to_owned) };
    let done = world.fleet.set_vps_external_id(&caller(), RequestMark::default(), vps, request).await?;
    Ok(done.value.external_id)
}

#[tokio::test]
async fn an_external_id_is_one_tenants_and_one_vpss_of_a_tenant() {
    let world = World::new().await;
    let host = world.host("h1", "us-east", 10).await;
    tenant(&world, "acme", Some("c-1")).await.unwrap();
    tenant(&world, "other", None).await.unwrap();
    let taken = tenant(&world, "third", Some("c-1")).await.unwrap_err();
    assert!(taken.to_string().contains("`acme`") && taken.location() == Some("/external_id"), "{taken}");
    let set = |id: Option<&str>| {
        let request = SetExternalId { external_id: id.map(str::to_owned) };
        let fleet = world.fleet.clone();
        async move {
            fleet.set_tenant_external_id(&caller(), RequestMark::default(), name("other"), request).await
        }
    };
    assert!(set(Some("c-1")).await.is_err());
    assert_eq!(set(Some("c-2")).await.unwrap().value.external_id.as_deref(), Some("c-2"));
    assert_eq!(
        set(Some("c-2")).await.unwrap().value.external_id.as_deref(),
        Some("c-2"),
        "its own is no other's"
    );
    assert_eq!(set(None).await.unwrap().value.external_id, None);

    let wanted = |vps: &str, of: &str, id: &str| CreateVps {
        tenant: Some(name(of)),
        external_id: Some(id.to_owned()),
        ..request(vps, "us-east")
    };
    let caller = caller();
    let mark = RequestMark::default;
    let first =
        world.fleet.create_vps(&caller, mark(), wanted("a", "acme", "s-1")).await.unwrap().value.vps.id;
    let again = world.fleet.create_vps(&caller, mark(), wanted("b", "acme", "s-1")).await.unwrap_err();
    assert!(again.to_string().contains("VPS `a`") && again.kind() == ErrorKind::Conflict, "{again}");
    world.fleet.create_vps(&caller, mark(), wanted("a", "other", "s-1")).await.unwrap();
    let second =
        world.fleet.create_vps(&caller, mark(), wanted("b", "acme", "s-2")).await.unwrap().value.vps.id;
    assert!(called(&world, second, Some("s-1")).await.is_err());
    for bad in ["", "a\nb", &"x".repeat(129)] {
        assert_eq!(called(&world, second, Some(bad)).await.unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
    }
    // One that is deleted and kept may come back: its id is not free before it is purged.
    world.converge(host).await;
    world.act(first, Action::Delete).await.unwrap();
    assert!(called(&world, second, Some("s-1")).await.is_err());
    assert_eq!(called(&world, first, None).await.unwrap(), None);
    assert_eq!(called(&world, second, Some("s-1")).await.unwrap().as_deref(), Some("s-1"));
    let world = world.restart().await;
    assert_eq!(world.fleet.state().get::<VpsRow>(&second).unwrap().external_id.as_deref(), Some("s-1"));
}
