//! The orchestrator is away: hosts keep their VPSs as desired from their ledgers, also through a loss of power, and what
//! was measured meanwhile arrives afterwards with its own times.

use std::time::{Duration, Instant};

use chom_protocol::api::hosts::HostState;
use chom_protocol::vps::VpsState;
use chom_tests::api::{Api, Method};
use chom_tests::fleet::{Fleet, LATER, SOON};
use chom_tests::orchestrator::Options;
use chom_tests::wait::{pass, wait_for, wait_until};

/// For real, in every run.
const OUTAGE: Duration = Duration::from_secs(60);

#[test]
fn a_host_keeps_its_vps_through_a_minute_without_orchestrator_and_a_loss_of_power() {
    let mut fleet = Fleet::start(Options::default(), 1);
    let api = fleet.api().clone();
    let on = api.create("stays-on", None).unwrap_or_else(|failure| panic!("{failure}")).vps.id;
    let off = api.create("stays-off", None).unwrap_or_else(|failure| panic!("{failure}")).vps.id;
    let _ = api.act(off, "stop", None).unwrap_or_else(|failure| panic!("{failure}"));
    fleet.settled(SOON);
    let host = fleet.hosts[0].id;

    fleet.orchestrator.kill_9();
    let gone = Instant::now();
    pass(OUTAGE / 3);
    let agent = &mut fleet.hosts[0].agent;
    agent.kill_9();
    agent.power_fails();
    assert!(agent.guests().iter().all(|(_, guest)| guest.state != VpsState::Running));
    agent.run();
    wait_until("the VPS to be started from the ledger alone", SOON, || {
        agent.guests().iter().any(|(id, guest)| *id == on && guest.state == VpsState::Running)
    });
    let off_still = agent.guests().iter().any(|(id, guest)| *id == off && guest.state != VpsState::Running);
    assert!(off_still, "what is to be off was started");
    pass((OUTAGE - Duration::from_secs(2)).saturating_sub(gone.elapsed()));
    // Begun anew it dials at once, instead of after a pause of up to a minute.
    agent.restart();
    pass(OUTAGE.saturating_sub(gone.elapsed()));

    fleet.orchestrator.run();
    // Late by half a minute or more, by their own times: taken in the first half of the outage. One a second; the agent
    // itself was away for a moment.
    let (late, all) = wait_for("the samples of the outage", LATER, || {
        let (late, all) = (metric(&api, "samples_backfilled_total"), metric(&api, "samples_total"));
        if late >= 20.0 && all >= 45.0 { Ok((late, all)) } else { Err(format!("{late} late ones of {all}")) }
    });
    println!("{late} samples of the outage's first half arrived late, {all} in all");
    api.host_becomes(host, HostState::Connected, LATER);
    let views = fleet.settled(LATER);
    assert_eq!(views.len(), 2);
    wait_for("new samples after the old ones", SOON, || {
        let usage = api.host(host).map_err(|failure| failure.to_string())?.usage;
        if usage.load1.is_some() { Ok(()) } else { Err(format!("{usage:?}")) }
    });
}

/// One figure of `/metrics`.
fn metric(api: &Api, name: &str) -> f64 {
    let (status, text) = api.ask(Method::Get, "/metrics", None, &[]).unwrap();
    assert_eq!(status, 200);
    let text = String::from_utf8(text).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("chom_{name} ")));
    let line = line.unwrap_or_else(|| panic!("no chom_{name} in: {text}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}
