//! What each stream does.

use chom_protocol::job::{JobOutcome, JobResult};
use chom_protocol::link::{ToAgent, ToOrchestrator};
use chom_protocol::sample::{Metric, Point, Sample};
use chom_protocol::vps::Sha256;
use chom_protocol::{BootId, Generation, UnixMillis};
use uuid::Uuid;

use super::fixture::{IMAGE, World, caller, read_spec, say, status, until, within};
use crate::clock;
use crate::fleet::vps::Action;

#[tokio::test]
async fn desired_state_comes_when_it_changes_and_what_was_refused_is_not_sent_again() {
    let world = World::new().await;
    let (host, agent) = world.agent("a").await;
    agent.report(status()).await;
    let (mut send, mut receive) = within(agent.connection.open_bi()).await.unwrap();
    say(&mut send, &ToOrchestrator::Pull { have: Generation::default() }).await;
    let empty = read_spec(&mut receive).await;
    assert!(empty.vps.is_empty());
    say(&mut send, &ToOrchestrator::Accepted { generation: empty.generation }).await;
    say(&mut send, &ToOrchestrator::Pull { have: empty.generation }).await;
    let accepted = || world.running.fleet.observations().of(host.id).unwrap().accepted;
    until(|| accepted() == empty.generation).await;

    let vps = world.create("first").await;
    let one = read_spec(&mut receive).await;
    assert!(one.generation > empty.generation && one.vps.contains_key(&vps));
    say(
        &mut send,
        &ToOrchestrator::Refused { generation: one.generation, problem: "the disk is full".to_owned() },
    )
    .await;
    say(&mut send, &ToOrchestrator::Pull { have: empty.generation }).await;
    let refusal = || world.running.fleet.observations().of(host.id).unwrap().refusal.clone();
    until(|| refusal().is_some_and(|refusal| refusal.contains("the disk is full"))).await;

    // Only something newer comes next.
    let second = world.create("second").await;
    let two = read_spec(&mut receive).await;
    assert!(two.generation > one.generation && two.vps.contains_key(&second));
    say(&mut send, &ToOrchestrator::Accepted { generation: two.generation }).await;
    until(|| accepted() == two.generation).await;
}

#[tokio::test]
async fn an_agent_may_end_its_pull_and_begin_another() {
    let world = World::new().await;
    let (_host, agent) = world.agent("a").await;
    for _ in 0..20 {
        let (mut send, mut receive) = within(agent.connection.open_bi()).await.unwrap();
        say(&mut send, &ToOrchestrator::Pull { have: Generation::default() }).await;
        let spec = read_spec(&mut receive).await;
        say(&mut send, &ToOrchestrator::Accepted { generation: spec.generation }).await;
        send.finish().unwrap();
    }
}

#[tokio::test]
async fn a_status_is_seen_once_it_is_acknowledged() {
    let world = World::new().await;
    let (host, agent) = world.agent("a").await;
    agent.report(status()).await;
    let seen = world.running.fleet.observations().of(host.id).unwrap();
    assert_eq!(seen.status.as_ref().unwrap().inventory.hostname, "host");
}

#[tokio::test]
async fn a_result_is_durable_once_it_is_acknowledged() {
    let world = World::new().await;
    let (host, agent) = world.agent("a").await;
    agent.report(status()).await;
    let vps = world.create("a").await;
    let fleet = &world.running.fleet;
    fleet.act(&caller(), Default::default(), vps, Action::Restart).await.unwrap();
    let spec = fleet.spec(host.id).unwrap();
    let result = JobResult {
        job: *spec.jobs.keys().next().unwrap(),
        outcome: JobOutcome::Done,
        finished_at: UnixMillis(1),
        generation: spec.generation,
    };
    let results = ToOrchestrator::Results(vec![result]);
    assert_eq!(agent.request(&results).await, ToAgent::Acknowledged);
    assert!(fleet.spec(host.id).unwrap().jobs.is_empty(), "the job has ended in what is stored");
    assert_eq!(
        agent.request(&results).await,
        ToAgent::Acknowledged,
        "a repeat after a lost answer is taken too"
    );
}

#[tokio::test]
async fn samples_are_kept_once() {
    let world = World::new().await;
    let (host, agent) = world.agent("a").await;
    let load = Point { metric: Metric::Load1, vps: None, label: String::new(), value: 1.5 };
    let sample = Sample { boot: BootId::new(Uuid::nil()), sequence: 1, at: clock::now(), points: vec![load] };
    for _ in 0..2 {
        let answer = agent.request(&ToOrchestrator::Samples(vec![sample.clone()])).await;
        assert_eq!(answer, ToAgent::Acknowledged);
    }
    let history = &world.running.history;
    assert_eq!(history.series(host.id, None, Metric::Load1, ""), [(sample.at, 1.5)]);
    assert_eq!(history.usage(host.id, clock::now()).load1, Some(1.5));
}

#[tokio::test]
async fn an_image_comes_from_where_the_agent_has_it() {
    let world = World::new().await;
    let (_host, agent) = world.agent("a").await;
    let image = Sha256::of(IMAGE);
    let size = IMAGE.len() as u64;
    assert_eq!(agent.fetch(image, 0).await, Ok((size, IMAGE.to_vec())));
    assert_eq!(agent.fetch(image, size - 5).await, Ok((size, vec![7; 5])));
    assert_eq!(agent.fetch(image, size).await, Ok((size, Vec::new())));
    assert!(agent.fetch(image, size + 1).await.unwrap_err().contains("cannot be sent from byte"));
    assert!(agent.fetch(Sha256([0; 32]), 0).await.unwrap_err().contains("no image or document"));
}

#[tokio::test]
async fn a_document_of_a_vps_comes_the_same_way() {
    let world = World::new().await;
    let (host, agent) = world.agent("a").await;
    agent.report(status()).await;
    let vps = world.create("a").await;
    let document = world.running.fleet.spec(host.id).unwrap().vps[&vps].user_data.unwrap();
    assert_eq!(agent.fetch(document.sha256, 1).await, Ok((14, b"cloud-config\n".to_vec())));
    assert!(agent.fetch(document.sha256, 15).await.is_err());
}

#[tokio::test]
async fn an_image_that_was_changed_is_not_sent() {
    let world = World::new().await;
    let (_host, agent) = world.agent("a").await;
    std::fs::write(&world.config.images[0].file, b"something else").unwrap();
    let problem = agent.fetch(Sha256::of(IMAGE), 0).await.unwrap_err();
    assert!(problem.contains("changed after the orchestrator started"), "{problem}");
}
