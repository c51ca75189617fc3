//! A host that was put out of the fleet and comes back may only report.

use std::collections::BTreeSet;
use std::time::Duration;

use chom_protocol::VpsId;
use chom_protocol::api::hosts::{ForgetHost, HostState, HostView};
use chom_protocol::vps::VpsState;
use chom_tests::export::Rows;
use chom_tests::fleet::{Fleet, LATER, SOON};
use chom_tests::orchestrator::Options;
use chom_tests::wait::{holds_for, wait_for};

#[test]
fn a_forgotten_host_that_returns_only_reports_and_its_guests_and_addresses_are_left_alone() {
    let mut fleet = Fleet::start(Options::default(), 1);
    let api = fleet.api().clone();
    let ids: BTreeSet<VpsId> =
        ["one", "two"].iter().map(|name| api.create(name, None).unwrap().vps.id).collect();
    fleet.settled(SOON);
    let host = fleet.hosts[0].id;
    fleet.hosts[0].agent.kill_9();
    let forgotten: HostView = api.post(&format!("/api/hosts/{host}/forget"), &ForgetHost::default()).unwrap();
    assert_eq!(forgotten.state, HostState::Forgotten);
    fleet.hosts[0].agent.run();
    let view = wait_for("the returned host's guests to be listed as orphans", LATER, || {
        let view = api.host(host).map_err(|failure| failure.to_string())?;
        let orphans: BTreeSet<VpsId> = view.orphans.iter().filter_map(|orphan| orphan.vps).collect();
        if orphans == ids { Ok(view) } else { Err(format!("{view:?}")) }
    });
    assert_eq!(view.state, HostState::Forgotten);

    // Orders for it are taken, and carried out nowhere.
    for id in &ids {
        for action in ["delete", "purge"] {
            let accepted = api.act(*id, action, None).unwrap_or_else(|failure| panic!("{action}: {failure}"));
            assert!(accepted.operation.state.is_final(), "{:?}", accepted.operation);
        }
    }
    let refused = api.create("three", None).unwrap_err();
    assert_eq!(refused.status(), 409, "a forgotten host was given a VPS: {refused}");
    let agent = &fleet.hosts[0].agent;
    holds_for("the guests to be left alone", Duration::from_secs(6), || {
        let running = agent.guests().iter().filter(|(_, guest)| guest.state == VpsState::Running).count();
        if running == ids.len() { Ok(()) } else { Err(format!("{:?}", agent.guests())) }
    });

    fleet.orchestrator.stop();
    let rows = Rows::read(&fleet.orchestrator.export());
    let held: BTreeSet<&str> = rows.of("address").filter_map(|row| row["vps"].as_str()).collect();
    let expected: BTreeSet<String> = ids.iter().map(ToString::to_string).collect();
    assert_eq!(held, expected.iter().map(String::as_str).collect(), "the addresses stay held");
}
