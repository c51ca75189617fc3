//! Who may be connected, as what, and for how long.

use chom_certs::{CaBundle, HostKey};
use chom_protocol::UnixMillis;
use chom_protocol::link::{Close, Standing, ToAgent, ToOrchestrator};

use super::fixture::{Host, World, caller, close_of, read, say, until, within};
use crate::clock;
use crate::fleet::RequestMark;
use crate::fleet::rows::{HostCertificate, HostRow, HostStanding};

#[tokio::test]
async fn an_agent_without_a_certificate_is_refused_before_any_stream() {
    let world = World::new().await;
    let code = world.invite("a").await;
    // The handshake itself ends well: TLS does not know yet what for.
    let connection = world.dial_nameless(&code).await.unwrap();
    assert_eq!(close_of(&within(connection.closed()).await), Some(Close::Identity));
}

#[tokio::test]
async fn an_agent_that_says_it_is_another_host_is_refused() {
    let world = World::new().await;
    let (mine, other) = (world.host("a").await, world.host("b").await);
    let refused = world.greet(&mine, other.id, 1).await.err().unwrap();
    assert_eq!(close_of(&refused), Some(Close::Identity), "{refused}");
}

#[tokio::test]
async fn a_revoked_host_is_cut_off_and_stays_out() {
    let world = World::new().await;
    let (host, agent) = world.agent("a").await;
    world.running.fleet.revoke_host(&caller(), RequestMark::default(), host.id).await.unwrap();
    assert_eq!(agent.closed().await, Some(Close::Revoked));
    let refused = world.connect(&host, 1).await.err().unwrap();
    assert_eq!(close_of(&refused), Some(Close::Revoked), "{refused}");
    until(|| !world.running.link.sessions().is_connected(host.id)).await;
}

#[tokio::test]
async fn a_host_that_is_forgotten_hears_it_and_may_only_report() {
    let world = World::new().await;
    let (host, agent) = world.agent("a").await;
    assert_eq!(agent.standing, Standing::Managed);
    world
        .running
        .fleet
        .forget_host(&caller(), RequestMark::default(), host.id, Default::default())
        .await
        .unwrap();
    assert_eq!(agent.closed().await, Some(Close::Standing));
    let agent = world.connect(&host, 1).await.unwrap();
    assert_eq!(agent.standing, Standing::ReportOnly);
    agent.report(super::fixture::status()).await;
    let image = world.running.fleet.catalogue().images.values().next().unwrap().reference.sha256;
    assert!(agent.fetch(image, 0).await.unwrap_err().contains("may only report"));
}

#[tokio::test]
async fn the_newest_session_of_a_host_wins() {
    let world = World::new().await;
    let (host, first) = world.agent("a").await;
    let second = world.connect(&host, 1).await.unwrap();
    assert_eq!(first.closed().await, Some(Close::Replaced));
    second.report(super::fixture::status()).await;
    assert!(world.running.link.sessions().is_connected(host.id));
    assert_eq!(world.running.link.sessions().connected(), 1);
}

#[tokio::test]
async fn an_agent_that_was_killed_reconnects_at_once() {
    let world = World::new().await;
    let (host, first) = world.agent("a").await;
    // Its connection still stands on our side, as after a kill -9.
    for run in 2..6 {
        let next = world.connect(&host, run).await.unwrap();
        assert_eq!(next.standing, Standing::Managed, "run {run}");
    }
    assert_eq!(first.closed().await, Some(Close::Replaced));
}

#[tokio::test]
async fn two_machines_with_one_key_are_quarantined() {
    let world = World::new().await;
    let (host, _first) = world.agent("a").await;
    let second = world.connect(&host, 2).await.unwrap();
    // The first machine, which was put out by the second, comes back.
    let refused = world.connect(&host, 1).await.err().unwrap();
    assert_eq!(close_of(&refused), Some(Close::Cloned), "{refused}");
    assert_eq!(second.closed().await, Some(Close::Cloned));
    let row = world.running.fleet.state().hosts[&host.id].row.clone();
    assert_eq!(row.standing, HostStanding::Quarantined);
    assert_eq!(world.connect(&host, 2).await.unwrap().standing, Standing::ReportOnly);
}

#[tokio::test]
async fn a_host_that_enrolled_anew_is_not_its_own_clone() {
    let world = World::new().await;
    let (mut host, _agent) = world.agent("a").await;
    world.connect(&host, 2).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let key = HostKey::load_or_create(folder.path()).unwrap();
    sign(&world, &mut host, key, clock::now()).await;
    assert_eq!(world.connect(&host, 1).await.unwrap().standing, Standing::Managed);
}

/// Gives a host a certificate of that moment, as if it had enrolled then.
async fn sign(world: &World, host: &mut Host, key: HostKey, at: UnixMillis) {
    let fleet = &world.running.fleet;
    let signed = fleet.authorities().signing().sign_host(&key.csr_der().unwrap(), host.id, at).unwrap();
    let bundle: CaBundle = host.identity.bundle().clone();
    host.identity = key.install(&signed.der, bundle).unwrap();
    let id = host.id;
    let change = move |decision: &mut crate::fleet::Decision| {
        let row = decision.state.get::<HostRow>(&id).unwrap().clone();
        let certificate = HostCertificate {
            authority: 1,
            serial: signed.serial,
            key: signed.key_fingerprint,
            not_after: signed.not_after,
        };
        decision.put(HostRow { certificate: Some(certificate), ..row })
    };
    fleet.decide("test".into(), change).await.unwrap();
}

#[tokio::test]
async fn an_expired_host_may_renew_and_nothing_else() {
    const THIRTY_DAYS: u64 = 30 * 24 * 60 * 60;
    let world = World::new().await;
    let mut host = world.host("a").await;
    let folder = tempfile::tempdir().unwrap();
    let key = HostKey::load_or_create(folder.path()).unwrap();
    // It ended half an hour ago, when the CA was valid already.
    let at = UnixMillis(clock::now().0 - (THIRTY_DAYS + 1800) * 1000);
    sign(&world, &mut host, key, at).await;
    let mut agent = world.connect(&host, 1).await.unwrap();
    assert_eq!(agent.standing, Standing::RenewOnly);
    say(&mut agent.control.0, &ToOrchestrator::Renew { csr: host.identity.csr_der().unwrap() }).await;
    let Some(ToAgent::Renewed { certificate }) = within(read(&mut agent.control.1)).await else { panic!() };
    let (mut send, _receive) = within(agent.connection.open_bi()).await.unwrap();
    say(&mut send, &ToOrchestrator::Results(Vec::new())).await;
    assert_eq!(agent.closed().await, Some(Close::Protocol));
    host.identity.replace_certificate(&certificate).unwrap();
    assert_eq!(world.connect(&host, 1).await.unwrap().standing, Standing::Managed);
}

#[tokio::test]
async fn a_live_host_renews_with_its_key_and_with_no_other() {
    let world = World::new().await;
    let (mut host, mut agent) = world.agent("a").await;
    let folder = tempfile::tempdir().unwrap();
    let foreign = HostKey::load_or_create(folder.path()).unwrap().csr_der().unwrap();
    say(&mut agent.control.0, &ToOrchestrator::Renew { csr: foreign }).await;
    let refused = within(read(&mut agent.control.1)).await;
    assert!(
        matches!(&refused, Some(ToAgent::Problem { problem }) if problem.contains("same key") || problem.contains("the key")),
        "{refused:?}"
    );
    say(&mut agent.control.0, &ToOrchestrator::Renew { csr: host.identity.csr_der().unwrap() }).await;
    let Some(ToAgent::Renewed { certificate }) = within(read(&mut agent.control.1)).await else { panic!() };
    host.identity.replace_certificate(&certificate).unwrap();
    agent.report(super::fixture::status()).await;
    assert_eq!(world.connect(&host, 1).await.unwrap().standing, Standing::Managed);
}

#[tokio::test]
async fn an_agent_that_is_gone_is_shown_as_gone() {
    let world = World::new().await;
    let (host, agent) = world.agent("a").await;
    let connected = || world.running.fleet.observations().of(host.id).unwrap().instance.is_some();
    until(connected).await;
    agent.connection.close(0_u8.into(), b"");
    until(|| !connected()).await;
    assert!(!world.running.link.sessions().is_connected(host.id));
}

#[tokio::test]
async fn agents_hear_that_the_orchestrator_goes_down() {
    let world = World::new().await;
    let (_host, agent) = world.agent("a").await;
    within(world.running.stop()).await.unwrap();
    assert_eq!(agent.closed().await, Some(Close::Shutdown));
}
