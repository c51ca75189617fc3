//! A list that is watched while the orchestrator is killed and comes back: the watcher has every row in the end.

use chom_protocol::api::vps_servers::VpsView;
use chom_protocol::api::watch::Change;
use chom_protocol::vps::VpsState;
use chom_tests::fleet::{Fleet, LATER, SOON};
use chom_tests::orchestrator::Options;
use chom_tests::wait::wait_until;

#[test]
fn a_watch_goes_on_over_a_kill_of_the_orchestrator_and_misses_no_row() {
    let mut fleet = Fleet::start(Options::default(), 1);
    let api = fleet.api().clone();
    api.create("before", None).unwrap();
    fleet.settled(SOON);
    let log = fleet.orchestrator.folder().join("watch.log");
    let words = ["vps", "list", "--watch", "--state", "running", "-o", "json"];
    let _watch = fleet.orchestrator.chomctl_that_stays(&words, &log);
    let told = || -> Vec<Change<VpsView>> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        // What goes to people, such as that the connection broke, stands between.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let has = |name: &str, state: VpsState| {
        told().iter().any(|change| match change {
            Change::Row { row } | Change::Changed { row } => {
                row.name.as_str() == name && row.observed.state == state
            }
            _ => false,
        })
    };
    wait_until("the list to be whole", SOON, || told().contains(&Change::Synced));
    assert!(has("before", VpsState::Running), "{:?}", told());
    fleet.orchestrator.kill_9();
    fleet.orchestrator.run();
    api.create("after", None).unwrap();
    wait_until("the watch to begin anew", LATER, || told().contains(&Change::Reset));
    wait_until("the new VPS to be told of", LATER, || has("after", VpsState::Running));
    let before = told().iter().find_map(|change| match change {
        Change::Row { row } if row.name.as_str() == "before" => Some(row.id),
        _ => None,
    });
    api.act(before.unwrap(), "stop", None).unwrap();
    let gone = Change::Gone { id: before.unwrap().to_string() };
    wait_until("the VPS that is off to leave the list", LATER, || told().contains(&gone));
}
