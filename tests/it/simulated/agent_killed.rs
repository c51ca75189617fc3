//! kill -9 of agents at random moments while their desired state changes: what is wanted is what there is afterwards, and
//! nothing is made or started more often than asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chom_protocol::VpsId;
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_protocol::vps::{Power, VpsState};
use chom_tests::fleet::{Fleet, LATER};
use chom_tests::orchestrator::Options;
use chom_tests::seed::{Chance, rounds};
use chom_tests::wait::pass;
use serde_json::json;

#[test]
fn desired_equals_observed_and_nothing_is_made_twice_when_agents_are_killed() {
    let mut chance = Chance::for_test("agent killed");
    let mut fleet = Fleet::start(Options::default(), 2);
    // How often each VPS may have been switched on at most.
    let mut starts_allowed: BTreeMap<VpsId, u64> = BTreeMap::new();
    for round in 0..rounds(50, 6) {
        for step in 0..3 {
            change(&fleet, &mut chance, &mut starts_allowed, &format!("v{round}-{step}"));
            pass(chance.between(Duration::ZERO, Duration::from_millis(300)));
        }
        let place = usize::try_from(chance.below(2)).unwrap();
        let host = &mut fleet.hosts[place];
        host.agent.kill_9();
        // Guests do not die with the agent.
        let before = running(&host.agent.guests());
        pass(chance.between(Duration::ZERO, Duration::from_millis(200)));
        assert_eq!(running(&host.agent.guests()), before);
        host.agent.run();
        pass(chance.between(Duration::ZERO, Duration::from_millis(800)));
    }
    let views = fleet.settled(LATER);
    let kept: BTreeSet<VpsId> = views.iter().map(|view| view.id).collect();
    for host in &mut fleet.hosts {
        host.agent.stop();
        let history = host.agent.history();
        let noted: BTreeSet<&(String, VpsId)> = history.iter().collect();
        assert_eq!(noted.len(), history.len(), "a disk was made or destroyed twice: {history:?}");
        let lost = history.iter().find(|(what, id)| what == "destroyed" && kept.contains(id));
        assert!(lost.is_none(), "a disk was destroyed whose VPS nobody purged: {lost:?}");
        let mine = views.iter().filter(|view| view.host == Some(host.id));
        let wanted: BTreeMap<VpsId, bool> = mine
            .filter(|view| view.observed.state != VpsState::Absent)
            .map(|view| (view.id, view.desired == Power::Running))
            .collect();
        let guests = host.agent.guests();
        assert_eq!(running(&guests), wanted, "what the engine has is not what is wanted");
        for (id, guest) in guests {
            let allowed = starts_allowed[&id];
            assert!(
                guest.starts <= allowed,
                "VPS {id} was started {} times, at most {allowed} asked for",
                guest.starts
            );
        }
    }
}

fn running(guests: &[(VpsId, chom_agent::driver::fake::FakeGuest)]) -> BTreeMap<VpsId, bool> {
    guests.iter().map(|(id, guest)| (*id, guest.state == VpsState::Running)).collect()
}

fn change(fleet: &Fleet, chance: &mut Chance, starts: &mut BTreeMap<VpsId, u64>, name: &str) {
    let api = fleet.api();
    let known: Vec<VpsId> = starts.keys().copied().collect();
    if known.len() < 3 || chance.percent(30) {
        let accepted = api.create(name, None).unwrap_or_else(|failure| panic!("create: {failure}"));
        starts.insert(accepted.vps.id, 1);
        return;
    }
    let vps = *chance.pick(&known);
    let Ok(view) = api.vps(vps) else { return };
    let actions: &[&str] = match (view.purging, view.deleted_at.is_some(), view.desired) {
        (true, ..) => return,
        (_, true, _) => &["undelete", "purge"],
        (_, false, Power::Running) => &["stop", "restart", "restart", "pause", "rebuild", "delete"],
        (_, false, Power::Paused) => &["resume", "stop"],
        (_, false, Power::Stopped) => &["start", "delete"],
    };
    let action = *chance.pick(actions);
    let path = format!("/api/vps-servers/{vps}/{action}");
    let ordered = match action {
        "rebuild" => api.post::<VpsAccepted>(&path, &json!({})),
        _ => api.act(vps, action, None),
    };
    match ordered {
        Ok(_) => {}
        // While a rebuild is under way.
        Err(failure) if failure.status() == 409 && ["restart", "pause"].contains(&action) => return,
        Err(failure) => panic!("{action}: {failure}"),
    }
    if ["start", "restart", "resume", "rebuild", "undelete"].contains(&action) {
        *starts.entry(vps).or_default() += 1;
    }
}
