//! The reconciler with real tasks and files: what hangs, fails, restarts and reboots.

use std::time::Duration;

use chom_agent::agent::Agent;
use chom_agent::boot;
use chom_agent::driver::DriverError;
use chom_agent::driver::fake::{Call, FakeDriver, Fault};
use chom_protocol::vps::{Engine, Power, Tombstone, VpsSpec, VpsState};
use chom_protocol::{UnixMillis, VpsId};

use crate::host::{Host, status, stop, vps};
use crate::orchestrator::{Orchestrator, wait};

fn set(host: &Host, id: VpsId, state: VpsState) {
    host.driver.world().guests.get_mut(&id).unwrap().state = state;
}

#[tokio::test]
async fn an_action_that_hangs_keeps_no_other_vps_and_no_report_waiting() {
    let orchestrator = Orchestrator::start();
    let mut host = Host::new(&orchestrator);
    host.driver.world().faults.insert((Call::Start, Some(vps(1).id)), Fault::Hangs);
    orchestrator.want(host.spec((1..=6).map(vps)));
    let agent = host.start();
    wait("the others", || (2..=6).all(|number| host.runs(vps(number).id))).await;
    let told = status(&agent, "the others shown", |status| {
        status.vps.values().filter(|vps| vps.state == VpsState::Running).count() == 5
    })
    .await;
    assert_eq!(told.vps[&vps(1).id].progress.as_deref(), Some("starting"));
    orchestrator.want(host.spec((1..=6).map(|number| VpsSpec { power: Power::Stopped, ..vps(number) })));
    wait("the others to stop", || (2..=6).all(|number| !host.runs(vps(number).id))).await;
    stop(agent).await;
}

#[tokio::test]
async fn what_fails_is_shown_and_tried_again() {
    let orchestrator = Orchestrator::start();
    let mut host = Host::new(&orchestrator);
    let fault = Fault::Fails(DriverError::passing("no memory left on this host"));
    host.driver.world().faults.insert((Call::Start, None), fault);
    orchestrator.want(host.spec([vps(1)]));
    let agent = host.start();
    let problem = |vps: &chom_protocol::vps::VpsStatus| vps.problem.clone().unwrap_or_default();
    status(&agent, "the problem", |status| {
        status.vps.values().any(|vps| problem(vps).contains("no memory left"))
    })
    .await;
    host.driver.world().faults.clear();
    status(&agent, "success", |status| {
        status.vps.values().all(|vps| vps.state == VpsState::Running && vps.problem.is_none())
    })
    .await;
    stop(agent).await;
}

#[tokio::test]
async fn an_engine_that_does_not_answer_makes_vpss_unknown_never_off() {
    let orchestrator = Orchestrator::start();
    let mut host = Host::new(&orchestrator);
    orchestrator.want(host.spec([vps(1)]));
    let agent = host.start();
    wait("the VPS to run", || host.runs(vps(1).id)).await;
    let fault = Fault::Fails(DriverError::passing("libvirtd is gone"));
    host.driver.world().faults.insert((Call::Observe, None), fault);
    let told =
        status(&agent, "unknown", |status| status.vps.values().all(|vps| vps.state == VpsState::Unknown))
            .await;
    assert_eq!(told.engines[0].problem.as_deref(), Some("libvirtd is gone"));
    host.driver.world().faults.clear();
    let told =
        status(&agent, "running", |status| status.vps.values().all(|vps| vps.state == VpsState::Running))
            .await;
    assert_eq!(told.engines[0].problem, None);
    assert_eq!(host.starts(vps(1).id), Some(1));
    stop(agent).await;
}

/// A host with a second engine that has VPS 2; VPS 1 is in the first. Both run.
async fn two_engines(orchestrator: &Orchestrator) -> (Host, Agent) {
    let mut host = Host::new(orchestrator);
    host.others = vec![FakeDriver::in_memory().posing_as(Engine::Libvirt)];
    orchestrator.want(host.spec([vps(1), VpsSpec { engine: Engine::Libvirt, ..vps(2) }]));
    let agent = host.start();
    status(&agent, "both to run", |status| {
        status.vps.len() == 2 && status.vps.values().all(|vps| vps.state == VpsState::Running)
    })
    .await;
    assert_eq!(host.driver.world().guests.len(), 1);
    assert_eq!(host.others[0].world().guests.len(), 1);
    (host, agent)
}

#[tokio::test]
async fn an_engine_that_fails_or_hangs_leaves_the_vpss_of_the_others_managed() {
    let orchestrator = Orchestrator::start();
    let (mut host, agent) = two_engines(&orchestrator).await;
    let fault = Fault::Fails(DriverError::passing("libvirtd is gone"));
    host.others[0].world().faults.insert((Call::Observe, None), fault);
    let told = status(&agent, "unknown", |status| status.vps[&vps(2).id].state == VpsState::Unknown).await;
    assert_eq!(told.vps[&vps(2).id].problem.as_deref(), Some("libvirtd is gone"));
    let engines: Vec<_> =
        told.engines.iter().map(|engine| (engine.engine, engine.problem.is_some())).collect();
    assert_eq!(engines, [(Engine::Libvirt, true), (Engine::Fake, false)]);
    let off = |number| VpsSpec { power: Power::Stopped, ..vps(number) };
    orchestrator.want(host.spec([off(1), VpsSpec { engine: Engine::Libvirt, ..vps(2) }]));
    wait("the first to stop", || !host.runs(vps(1).id)).await;

    host.others[0].world().faults.clear();
    status(&agent, "running again", |status| status.vps[&vps(2).id].state == VpsState::Running).await;
    host.others[0].world().faults.insert((Call::Observe, None), Fault::Hangs);
    status(&agent, "that it is slow", |status| {
        let vps = &status.vps[&vps(2).id];
        vps.state == VpsState::Running && vps.progress.as_deref().is_some_and(|text| text.contains("waiting"))
    })
    .await;
    orchestrator.want(host.spec([vps(1), VpsSpec { engine: Engine::Libvirt, ..off(2) }]));
    wait("the first to start", || host.runs(vps(1).id)).await;
    assert!(host.others[0].world().guests.values().all(|guest| guest.state == VpsState::Running));
    stop(agent).await;
}

#[tokio::test]
async fn actions_that_hang_in_one_engine_keep_no_vps_of_another_waiting() {
    let orchestrator = Orchestrator::start();
    let (mut host, agent) = two_engines(&orchestrator).await;
    host.others[0].world().faults.insert((Call::Prepare, None), Fault::Hangs);
    let there = (2..=12).map(|number| VpsSpec { engine: Engine::Libvirt, ..vps(number) });
    orchestrator.want(host.spec(there.chain([vps(1)]).chain((20..26).map(vps))));
    wait("all of the other engine", || (20..26).all(|number| host.runs(vps(number).id))).await;
    stop(agent).await;
}

#[tokio::test]
async fn alone_after_a_reboot_the_agent_starts_what_ran_once_the_grace_is_over() {
    let orchestrator = Orchestrator::start();
    let mut host = Host::new(&orchestrator);
    orchestrator.want(host.spec([vps(1), vps(2)]));
    let agent = host.start();
    wait("both to run", || host.runs(vps(1).id) && host.runs(vps(2).id)).await;
    set(&host, vps(2).id, VpsState::StoppedByGuest);
    status(&agent, "one off by itself", |status| status.vps[&vps(2).id].state == VpsState::StoppedByGuest)
        .await;
    stop(agent).await;
    orchestrator.vanish().await;
    host.driver.world().reboot();
    host.boot = boot::simulated();
    host.moved_grace = Duration::from_secs(3600);
    let agent = host.start();
    status(&agent, "it waits", |status| {
        status.vps[&vps(1).id].progress.as_deref().is_some_and(|progress| progress.contains("moved"))
    })
    .await;
    assert!(!host.runs(vps(1).id));
    stop(agent).await;
    host.moved_grace = Duration::ZERO;
    let agent = host.start();
    wait("what ran to run again", || host.runs(vps(1).id)).await;
    status(&agent, "the other to stay off", |status| {
        status.vps[&vps(2).id].state == VpsState::StoppedByGuest
    })
    .await;
    assert_eq!(host.starts(vps(2).id), Some(1));
    stop(agent).await;
}

#[tokio::test]
async fn after_a_reboot_a_word_of_the_orchestrator_is_enough() {
    let orchestrator = Orchestrator::start();
    let mut host = Host::new(&orchestrator);
    orchestrator.want(host.spec([vps(1), vps(2)]));
    let agent = host.start();
    wait("both to run", || host.runs(vps(1).id) && host.runs(vps(2).id)).await;
    stop(agent).await;
    host.driver.world().reboot();
    host.boot = boot::simulated();
    // Meanwhile the second was moved elsewhere.
    orchestrator.want(host.spec([vps(1)]));
    let agent = host.start();
    wait("the first to run", || host.runs(vps(1).id)).await;
    assert_eq!(host.starts(vps(2).id), Some(1), "what was moved is not started");
    status(&agent, "an orphan", |status| status.orphans == [vps(2).id]).await;
    stop(agent).await;
}

#[tokio::test]
async fn only_tombstones_remove_and_only_up_to_the_cap() {
    let orchestrator = Orchestrator::start();
    let mut host = Host::new(&orchestrator);
    host.destroys_per_hour = 1;
    orchestrator.want(host.spec((1..=4).map(vps)));
    let agent = host.start();
    wait("all to run", || (1..=4).all(|number| host.runs(vps(number).id))).await;
    let mut spec = host.spec([]);
    for number in 1..=2 {
        let tombstone = Tombstone { placement: 1, engine: Engine::Fake, created_at: UnixMillis(0) };
        spec.tombstones.insert(vps(number).id, tombstone);
    }
    orchestrator.want(spec.clone());
    let told = status(&agent, "one gone, one waiting", |status| {
        status.vps.values().filter(|vps| vps.state == VpsState::Absent).count() == 1
            && status.destroys_waiting.len() == 1
    })
    .await;
    assert_eq!(told.orphans, [vps(3).id, vps(4).id]);
    assert!(host.runs(vps(3).id) && host.runs(vps(4).id), "absence never stops or destroys");
    stop(agent).await;
    let agent = host.start();
    status(&agent, "still waiting after a restart", |status| status.destroys_waiting.len() == 1).await;
    spec.generation.number += 100;
    spec.settings.destroys_allowed_until = Some(chom_agent::clock::now().plus_seconds(3600));
    orchestrator.want(spec);
    wait("the order to lift the cap", || host.driver.world().guests.len() == 2).await;
    stop(agent).await;
}

#[tokio::test]
async fn an_agent_dropped_at_any_moment_finds_its_way_and_makes_nothing_twice() {
    let orchestrator = Orchestrator::start();
    let mut host = Host::new(&orchestrator);
    host.driver.world().latency = Duration::from_millis(7);
    orchestrator.want(host.spec((1..=3).map(vps)));
    for round in 0..30_u64 {
        let agent = host.start();
        tokio::time::sleep(Duration::from_millis(5 + round * 11 % 120)).await;
        let power = if round % 3 == 0 { Power::Stopped } else { Power::Running };
        let change = |number| VpsSpec { power, start_count: round, ..vps(number) };
        orchestrator.want(host.spec((1..=3).map(change)));
        // Everything under way is dropped where it stands, as by a kill.
        stop(agent).await;
    }
    let last = |number| VpsSpec { start_count: 99, ..vps(number) };
    orchestrator.want(host.spec((1..=3).map(last)));
    let agent = host.start();
    status(&agent, "desired equals observed", |status| {
        status.vps.len() == 3
            && status.vps.values().all(|vps| vps.state == VpsState::Running && vps.start_count == 99)
    })
    .await;
    assert!(host.driver.world().guests.values().all(|guest| guest.disks == 1));
    assert_eq!(host.driver.world().guests.len(), 3);
    stop(agent).await;
}

#[tokio::test]
async fn a_thousand_agents_share_a_process() {
    // A few dozen here; the bench runs thousands the same way.
    let orchestrator = Orchestrator::start();
    let mut agents = Vec::new();
    for _ in 0..30 {
        let host = Host::new(&orchestrator);
        agents.push((host.start(), host));
    }
    wait("all greetings", || orchestrator.told().hellos.len() >= 30).await;
    for (agent, _host) in agents {
        stop(agent).await;
    }
}
