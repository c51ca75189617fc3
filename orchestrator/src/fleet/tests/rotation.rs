//! Rotation of the CA on a real store: announced, signing, retired; and what is kept of answers with secrets in them.

use chom_protocol::InstanceId;
use chom_protocol::api::authorities::{AuthorityState, RetireAuthority};

use super::*;

fn stages(world: &World) -> Vec<(u64, AuthorityState, u32, u32)> {
    let all = world.fleet.authority_views(clock::now());
    all.into_iter().map(|ca| (ca.number, ca.state, ca.waits_for_count, ca.needed_by_count)).collect()
}

async fn rotate(world: &World) -> Result<u64, FleetError> {
    let done = world.fleet.rotate_authority(&caller(), RequestMark::default()).await?;
    Ok(done.value.number)
}

async fn retire(world: &World, number: u64, force: bool) -> Result<(), FleetError> {
    let request = RetireAuthority { force };
    world.fleet.retire_authority(&caller(), RequestMark::default(), number, request).await.map(|_| ())
}

/// A host connects with the newest certificate that was signed for it.
fn connect(world: &World, host: HostId) {
    let certificate = world.fleet.state().get::<HostRow>(&host).unwrap().certificate.clone().unwrap();
    world.fleet.connected(host, InstanceId::new(Uuid::from_u128(1)), &certificate.serial);
}

/// A host says that it trusts what it was told last.
fn trusts_all(world: &World, host: HostId) {
    world.fleet.kept_bundle(host, world.fleet.authorities().digest());
}

/// A look of the keeper at a time when nothing is held up by the start.
async fn look(world: &World) {
    world.fleet.keep_authorities(clock::now().plus_seconds(60)).await.unwrap();
}

#[tokio::test]
async fn a_new_ca_signs_once_connected_hosts_trust_it_and_the_old_one_goes_once_nobody_needs_it() {
    let world = World::new().await;
    let (near, away) = (world.host("near", "eu-west", 1).await, world.host("away", "eu-west", 1).await);
    connect(&world, near);
    let first = world.fleet.authorities();
    assert_eq!(rotate(&world).await.unwrap(), 2);
    assert_eq!(world.fleet.authorities().bundle().certificates().len(), 2, "announced at once");
    look(&world).await;
    assert_eq!(stages(&world), [(1, AuthorityState::Signing, 0, 0), (2, AuthorityState::Announced, 1, 0)]);
    assert!(rotate(&world).await.unwrap_err().to_string().contains("announced already"));

    trusts_all(&world, near);
    look(&world).await;
    assert_eq!(stages(&world), [(1, AuthorityState::Trusted, 0, 2), (2, AuthorityState::Signing, 0, 0)]);
    let now = world.fleet.authorities();
    assert_ne!(now.signing().fingerprint(), first.signing().fingerprint());
    assert_eq!(
        now.serving().fingerprint(),
        first.serving().fingerprint(),
        "the host that is away knows only it"
    );
    let serial = world.fleet.observations().of(near).unwrap().shown.clone().unwrap();
    assert_eq!(world.fleet.renewal_wanted(near, &serial), Some(0));
    assert_eq!(world.fleet.renewal_wanted(away, &serial), None, "it has not said that it trusts the new CA");

    let refused = retire(&world, 1, false).await.unwrap_err().to_string();
    assert!(["away", "near", "--force"].iter().all(|word| refused.contains(word)), "{refused}");
    assert!(retire(&world, 2, true).await.unwrap_err().to_string().contains("signs"));
    assert_eq!(retire(&world, 9, true).await.unwrap_err().kind(), crate::fleet::ErrorKind::NotFound);
    retire(&world, 1, true).await.unwrap();
    assert_eq!(stages(&world), [(2, AuthorityState::Signing, 0, 0)]);
    assert_eq!(world.fleet.authorities().serving().fingerprint(), now.signing().fingerprint());
    let world = world.restart().await;
    assert_eq!(world.fleet.authorities().serving().fingerprint(), now.signing().fingerprint());
    world.end().await;
}

#[tokio::test]
async fn just_after_a_start_a_new_ca_waits_for_hosts_to_come_back() {
    let world = World::new().await;
    rotate(&world).await.unwrap();
    world.fleet.keep_authorities(clock::now()).await.unwrap();
    assert_eq!(stages(&world)[1].1, AuthorityState::Announced);
    look(&world).await;
    assert_eq!(stages(&world)[1].1, AuthorityState::Signing);
    world.end().await;
}

#[tokio::test]
async fn what_an_answer_showed_once_is_nowhere_in_the_store() {
    let world = World::new().await;
    let mark =
        RequestMark { idempotency: Some(("k".to_owned(), Sha256::of(b"r"))), ..RequestMark::default() };
    let ask = || AddHost { name: name("h"), region: name("eu-west"), host: None };
    let first = world.fleet.add_host(&caller(), mark.clone(), ask()).await.unwrap();
    let again = world.fleet.add_host(&caller(), mark, ask()).await.unwrap();
    assert!(again.replayed && again.value == first.value, "the same answer comes again");
    let token = first.value.join_code.rsplit('/').next().unwrap().to_owned();
    let holding = |value: &str| value.contains(&token) || value.contains(&first.value.join_code);
    let clear: Vec<_> = world.fleet.state().dump().into_iter().filter(|(_, _, row)| holding(row)).collect();
    assert_eq!(clear, []);
    world.end().await;
}
