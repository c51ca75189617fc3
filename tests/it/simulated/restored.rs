//! The orchestrator is restored from an export that is three changes old: a new epoch, nothing stops, nothing old runs
//! again, and an admin's word decides.

use std::collections::BTreeMap;
use std::time::Duration;

use chom_protocol::api::hosts::{HostState, HostView, LedgerChoice, LedgerView, ResolveLedger};
use chom_protocol::vps::{Power, VpsState};
use chom_protocol::{HostId, VpsId};
use chom_tests::agent::Agent;
use chom_tests::api::Api;
use chom_tests::fleet::{Fleet, LATER, SOON};
use chom_tests::orchestrator::Options;
use chom_tests::wait::{holds_for, wait_for};

struct Restored {
    fleet: Fleet,
    host: HostId,
    /// Ran at the export, was stopped after it.
    stopped: VpsId,
    /// Ran at the export, was deleted after it.
    deleted: VpsId,
    /// Was made after it.
    made: VpsId,
}

fn running(agent: &Agent) -> BTreeMap<VpsId, bool> {
    agent.guests().into_iter().map(|(id, guest)| (id, guest.state == VpsState::Running)).collect()
}

fn created(api: &Api, name: &str) -> VpsId {
    api.create(name, None).unwrap_or_else(|failure| panic!("create {name}: {failure}")).vps.id
}

/// A fleet that was restored from an export three changes old, its host held, and nothing on it changed by that.
fn restored() -> Restored {
    let mut fleet = Fleet::start(Options::default(), 1);
    let (api, host) = (fleet.api().clone(), fleet.hosts[0].id);
    let (stopped, deleted) = (created(&api, "stopped-since"), created(&api, "deleted-since"));
    fleet.settled(SOON);
    fleet.orchestrator.stop();
    let export = fleet.orchestrator.export();
    fleet.orchestrator.run();
    chom_tests::fleet::usable(&api, host, LATER);
    let _ = api.act(stopped, "stop", None).unwrap();
    let _ = api.act(deleted, "delete", None).unwrap();
    let made = created(&api, "made-since");
    fleet.settled(LATER);
    let before = running(&fleet.hosts[0].agent);
    assert_eq!(before, BTreeMap::from([(stopped, false), (deleted, false), (made, true)]));

    fleet.orchestrator.stop();
    fleet.orchestrator.restore(&export);
    fleet.orchestrator.run();
    let view = wait_for("the host's ledger to be compared", LATER, || {
        let ledger: LedgerView =
            api.get(&format!("/api/hosts/{host}/ledger")).map_err(|failure| failure.to_string())?;
        if ledger.differences.len() == 3 { Ok(ledger) } else { Err(format!("{ledger:?}")) }
    });
    println!("{:#?}", view.differences);
    assert_eq!(api.host(host).unwrap().state, HostState::Held);
    let agent = &fleet.hosts[0].agent;
    holds_for("nothing to start or stop while the host is held", Duration::from_secs(6), || {
        let now = running(agent);
        if now == before { Ok(()) } else { Err(format!("{now:?}")) }
    });
    Restored { fleet, host, stopped, deleted, made }
}

fn resolve(restored: &Restored, choice: LedgerChoice) {
    let path = format!("/api/hosts/{}/ledger", restored.host);
    let view: HostView = restored.fleet.api().post(&path, &ResolveLedger { choice }).unwrap();
    assert_ne!(view.state, HostState::Held);
}

#[test]
fn after_a_restore_the_hosts_newer_state_can_be_taken_over() {
    let restored = restored();
    resolve(&restored, LedgerChoice::AdoptLedger);
    let views = restored.fleet.settled(LATER);
    let desired: BTreeMap<VpsId, (Power, bool)> =
        views.iter().map(|view| (view.id, (view.desired, view.deleted_at.is_some()))).collect();
    let expected = [
        (restored.stopped, (Power::Stopped, false)),
        (restored.deleted, (Power::Stopped, true)),
        (restored.made, (Power::Running, false)),
    ];
    assert_eq!(desired, BTreeMap::from(expected));
    let guests = running(&restored.fleet.hosts[0].agent);
    assert_eq!(
        guests,
        BTreeMap::from([(restored.stopped, false), (restored.deleted, false), (restored.made, true)])
    );
}

#[test]
fn after_a_restore_the_older_rows_can_be_kept_and_nothing_is_removed() {
    let restored = restored();
    resolve(&restored, LedgerChoice::KeepRows);
    let views = restored.fleet.settled(LATER);
    let desired: BTreeMap<VpsId, Power> = views.iter().map(|view| (view.id, view.desired)).collect();
    let expected = [(restored.stopped, Power::Running), (restored.deleted, Power::Running)];
    assert_eq!(desired, BTreeMap::from(expected));
    let api = restored.fleet.api();
    wait_for("what only the host knows to be an orphan", LATER, || {
        let view = api.host(restored.host).map_err(|failure| failure.to_string())?;
        let orphans: Vec<_> = view.orphans.iter().filter_map(|orphan| orphan.vps).collect();
        if orphans == [restored.made] { Ok(()) } else { Err(format!("{view:?}")) }
    });
    assert!(running(&restored.fleet.hosts[0].agent)[&restored.made], "the orphan runs on");
}
