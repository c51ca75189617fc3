//! Enrolment with good, used, expired and foreign tokens, against the right and a wrong CA.

use chom_certs::{EnrolmentToken, Fingerprint, JoinCode, enrol_client_config};
use chom_protocol::link::{Close, ToAgent, ToOrchestrator};

use super::fixture::{World, close_of, within};
use crate::fleet::rows::{EnrolmentRow, HostStanding};

fn problem(answer: ToAgent) -> String {
    match answer {
        ToAgent::Problem { problem } => problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_good_token_makes_a_host_and_tells_it_of_the_fleet() {
    let world = World::new().await;
    let (host, agent) = world.agent("a").await;
    let state = world.running.fleet.state();
    assert_eq!(state.hosts[&host.id].row.standing, HostStanding::Member);
    assert_eq!(agent.fleet.orchestrators, ["localhost:8440"]);
    assert_eq!(agent.fleet.ca_bundle.len(), 1);
}

#[tokio::test]
async fn a_used_token_is_refused_but_its_own_key_may_ask_again() {
    let world = World::new().await;
    let code = world.invite("a").await;
    let (mine, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(matches!(world.enrol(&code, mine.path()).await, ToAgent::Enrolled { .. }));
    assert!(problem(world.enrol(&code, others.path()).await).contains("already used"));
    assert!(matches!(world.enrol(&code, mine.path()).await, ToAgent::Enrolled { .. }), "its answer was lost");
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let world = World::new().await;
    let code = world.invite("a").await;
    let expire = |decision: &mut crate::fleet::Decision| {
        let row = decision.state.enrolments.values().next().unwrap().row.as_ref().clone();
        decision.put(EnrolmentRow { expires_at: decision.now, ..row })
    };
    world.running.fleet.decide("test".into(), expire).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let refused = problem(world.enrol(&code, folder.path()).await);
    assert!(refused.contains("expired"), "{refused}");
}

#[tokio::test]
async fn a_token_nobody_gave_out_is_refused() {
    let world = World::new().await;
    let code = world.invite("a").await;
    let guessed =
        JoinCode::new(code.addresses().to_vec(), *code.fingerprint(), EnrolmentToken::generate().unwrap());
    let folder = tempfile::tempdir().unwrap();
    assert!(problem(world.enrol(&guessed.unwrap(), folder.path()).await).contains("unknown here"));
}

#[tokio::test]
async fn a_host_does_not_show_its_token_to_another_fleet() {
    let world = World::new().await;
    let error = world.dial(enrol_client_config(Fingerprint::of(b"another CA")).unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("not the one of the enrolment code"), "{error}");
}

#[tokio::test]
async fn a_connection_for_enrolment_can_do_nothing_else() {
    let world = World::new().await;
    let code = world.invite("a").await;
    let connection = world.dial(enrol_client_config(*code.fingerprint()).unwrap()).await.unwrap();
    let (mut send, _receive) = within(connection.open_bi()).await.unwrap();
    super::fixture::say(&mut send, &ToOrchestrator::Samples(Vec::new())).await;
    assert_eq!(close_of(&within(connection.closed()).await), Some(Close::Protocol));
}

#[tokio::test]
async fn a_host_that_lost_its_key_keeps_its_id_and_its_old_key_is_out() {
    let world = World::new().await;
    let (old, agent) = world.agent("a").await;
    let request = chom_protocol::api::hosts::AddHost {
        name: super::fixture::name("a"),
        region: super::fixture::name("us-east"),
        host: Some(old.id),
    };
    let added =
        world.running.fleet.add_host(&super::fixture::caller(), Default::default(), request).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let answer = world.enrol(&added.value.join_code.parse().unwrap(), folder.path()).await;
    assert!(matches!(answer, ToAgent::Enrolled { host, .. } if host == old.id), "{answer:?}");
    assert_eq!(agent.closed().await, Some(Close::Identity));
    let refused = world.connect(&old, 1).await.err().unwrap();
    assert_eq!(close_of(&refused), Some(Close::Identity), "{refused}");
}
