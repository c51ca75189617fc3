//! For every operation: an id that nobody has, the wrong state, bad words, an order that is in its way; and an engine that
//! fails, hangs or ends half-way. After each: a clear error or a finished operation, and nothing lost.

use chom_protocol::api::operations::{OperationState, OperationView};
use chom_protocol::api::snapshots::{SnapshotAccepted, SnapshotView};
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_protocol::vps::VpsState;
use chom_protocol::{OperationId, VpsId};
use chom_tests::api::{Api, Failure, Method};
use chom_tests::fleet::{Fleet, LATER, SOON, is_as_desired};
use chom_tests::orchestrator::Options;
use chom_tests::wait::wait_for;
use serde_json::{Value, json};

const NOBODY: &str = "0190f6d2-8f3e-7cc0-9d4c-00000000dead";

/// Every operation, with words that are right.
fn every() -> Vec<(&'static str, Value)> {
    let nothing = json!({});
    vec![
        ("start", nothing.clone()),
        ("stop", json!({"grace_seconds": 5})),
        ("restart", nothing.clone()),
        ("pause", nothing.clone()),
        ("resume", nothing.clone()),
        ("resize", json!({"cores": 2})),
        ("rebuild", nothing.clone()),
        ("rename", json!({"name": "other"})),
        ("suspend", json!({"reason": "billing", "mode": "stopped"})),
        ("unsuspend", json!({"reason": "billing"})),
        ("hold", json!({"hold": true})),
        ("undelete", nothing.clone()),
        ("purge", nothing),
    ]
}

fn order(api: &Api, vps: &str, verb: &str, body: &Value) -> Result<VpsAccepted, Failure> {
    api.post(&format!("/api/vps-servers/{vps}/{verb}"), body)
}

fn refused(api: &Api, vps: &str, verb: &str, body: &Value, statuses: &[u16], text: &str) {
    match order(api, vps, verb, body) {
        Ok(accepted) => panic!("{verb} {body} was taken: {accepted:?}"),
        Err(failure) => {
            println!("{verb} {body}: {failure}");
            assert!(statuses.contains(&failure.status()), "{verb} {body}: {failure}");
            assert!(failure.to_string().contains(text), "{verb} {body}: `{text}` is missing in: {failure}");
        }
    }
}

fn succeeds(api: &Api, accepted: &VpsAccepted) {
    let ended = api.ended(accepted.operation.id, LATER);
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
}

#[test]
fn an_order_that_cannot_be_is_refused_with_what_is_wrong_and_changes_nothing() {
    let fleet = Fleet::start(Options::default(), 1);
    let api = fleet.api();
    let made = api.create("mine", None).unwrap();
    succeeds(api, &made);
    let vps = made.vps.id.to_string();
    // Unknown, of another kind of row, and no id at all.
    for (verb, body) in every() {
        for id in [NOBODY, &fleet.hosts[0].id.to_string(), "mine"] {
            refused(api, id, verb, &body, &[404], "");
        }
    }
    for (verb, body, statuses, text) in [
        ("stop", json!({"force": true, "grace_seconds": 9}), &[422][..], "grace"),
        ("stop", json!({"grace_seconds": 100_000}), &[422], "3600"),
        ("stop", json!({"grace_seconds": -1}), &[400, 422], "grace_seconds"),
        ("stop", json!({"gently": true}), &[400, 422], "gently"),
        ("resize", json!({}), &[422], "name a size"),
        ("resize", json!({"size": "vast"}), &[422], "small"),
        ("resize", json!({"cores": 0}), &[422], "cores"),
        ("resize", json!({"cores": 289}), &[422], "288"),
        ("resize", json!({"disk_bytes": 1}), &[422], "never shrink"),
        ("resize", json!({"memory_bytes": 1_u64 << 50}), &[409], "host `host-0` has"),
        ("rebuild", json!({"image": "win-95"}), &[422], "hello"),
        ("rebuild", json!({"ssh_keys": ["nonsense"]}), &[422], "key"),
        ("rebuild", json!({"user_data": "nonsense"}), &[422], "#cloud-config"),
        ("rename", json!({"name": "Not_A_Name"}), &[400, 422], "Not_A_Name"),
        ("rename", json!({}), &[400, 422], "name"),
        ("suspend", json!({"reason": "spite", "mode": "stopped"}), &[400, 422], "spite"),
        ("suspend", json!({"reason": "abuse"}), &[400, 422], "mode"),
        ("unsuspend", json!({"reason": "abuse"}), &[409], "not suspended for abuse"),
        ("undelete", json!({}), &[409], "not deleted"),
        ("purge", json!({}), &[409], "delete it first"),
    ] {
        refused(api, &vps, verb, &body, statuses, text);
    }
    let before = api.vps(made.vps.id).unwrap();
    assert_eq!((before.revision, before.name.as_str()), (made.vps.revision, "mine"), "nothing was changed");

    // Another one has the name; and each state that an order does not fit.
    let _ = api.create("taken", None).unwrap();
    refused(api, &vps, "rename", &json!({"name": "taken"}), &[409], "taken");
    succeeds(api, &order(api, &vps, "stop", &json!({})).unwrap());
    refused(api, &vps, "restart", &json!({}), &[409], "to be off");
    refused(api, &vps, "pause", &json!({}), &[409], "to be off");
    succeeds(api, &order(api, &vps, "hold", &json!({"hold": true})).unwrap());
    for (verb, body) in every().into_iter().take(8) {
        refused(api, &vps, verb, &body, &[409], "on hold");
    }
    succeeds(api, &order(api, &vps, "hold", &json!({"hold": false})).unwrap());
    succeeds(api, &api.act(made.vps.id, "delete", None).unwrap());
    for (verb, body) in every().into_iter().take(8) {
        refused(api, &vps, verb, &body, &[409], "undelete");
    }
    assert_eq!(fleet.hosts[0].agent.guests().len(), 2);
}

#[test]
fn a_rebuild_under_way_keeps_away_what_needs_the_old_guest_and_names_itself() {
    let fleet = Fleet::start(Options::default(), 1);
    let api = fleet.api();
    let made = api.create("mine", None).unwrap();
    succeeds(api, &made);
    let vps = made.vps.id.to_string();
    fleet.hosts[0].agent.engine_goes_wrong(Some("prepare fails"));
    let rebuild = order(api, &vps, "rebuild", &json!({})).unwrap();
    for verb in ["restart", "pause"] {
        refused(api, &vps, verb, &json!({}), &[409], &rebuild.operation.id.to_string());
    }
    let cancel = format!("/api/operations/{}/cancel", rebuild.operation.id);
    let said = api.post::<OperationView>(&cancel, &json!({})).unwrap_err();
    assert!(said.status() == 409 && said.to_string().contains("rebuild it from another image"), "{said}");
    // What does not need it takes its place, and both are done.
    let renamed = order(api, &vps, "rename", &json!({"name": "other"})).unwrap();
    assert_eq!(api.operation(rebuild.operation.id).unwrap().state, OperationState::Superseded);
    fleet.hosts[0].agent.engine_goes_wrong(None);
    succeeds(api, &renamed);
    let guests = fleet.hosts[0].agent.guests();
    assert_eq!((guests[0].1.build, guests[0].1.disks), (1, 2));
}

/// What an operation asks of the engine, and the order that undoes it.
fn faults() -> Vec<(&'static str, &'static str, Value)> {
    let nothing = json!({});
    vec![
        ("shutdown", "stop", json!({"grace_seconds": 600})),
        ("start", "start", nothing.clone()),
        ("pause", "pause", nothing.clone()),
        ("start", "resume", nothing.clone()),
        ("prepare", "resize", json!({"cores": 2})),
        ("prepare", "rename", json!({"name": "other"})),
        ("prepare", "suspend", json!({"reason": "abuse", "mode": "isolated"})),
        ("prepare", "unsuspend", json!({"reason": "abuse"})),
        ("prepare", "rebuild", nothing.clone()),
        ("start", "restart", nothing.clone()),
        ("poweroff", "stop", json!({"force": true})),
        ("start", "start", nothing),
    ]
}

#[test]
fn an_engine_that_fails_or_ends_half_way_is_told_of_and_the_order_is_carried_out_once_it_works() {
    let fleet = Fleet::start(Options::default(), 1);
    let (api, agent) = (fleet.api(), &fleet.hosts[0].agent);
    let made = api.create("mine", None).unwrap();
    let beside = api.create("beside", None).unwrap();
    succeeds(api, &made);
    succeeds(api, &beside);
    let vps = made.vps.id.to_string();
    for how in ["fails", "breaks"] {
        for (call, verb, body) in faults() {
            let body = if verb == "resize" && how == "breaks" { json!({"cores": 3}) } else { body };
            let body = if verb == "rename" { json!({"name": format!("other-{how}")}) } else { body };
            println!("{call} {how}: {verb} {body}");
            agent.engine_goes_wrong(Some(&format!("{call} {how}")));
            let accepted =
                order(api, &vps, verb, &body).unwrap_or_else(|failure| panic!("{verb}: {failure}"));
            wait_for("the engine's word to be told", SOON, || {
                let row = api.operation(accepted.operation.id).map_err(|failure| failure.to_string())?;
                let told = row.steps.iter().any(|step| step.message.contains("the fake engine"));
                // What was done half-way may be seen to be done before it is tried again.
                if told || (how == "breaks" && row.state.is_final()) {
                    Ok(())
                } else {
                    Err(format!("{row:?}"))
                }
            });
            agent.engine_goes_wrong(None);
            succeeds(api, &accepted);
        }
    }
    let guests = agent.guests();
    let mine = guests.iter().find(|(id, _)| *id == made.vps.id).unwrap();
    assert_eq!((mine.1.build, mine.1.disks), (2, 3), "each rebuild made its disk once");
    let other = guests.iter().find(|(id, _)| *id == beside.vps.id).unwrap();
    assert_eq!((other.1.starts, other.1.state), (1, VpsState::Running), "the VPS beside was not touched");
    let _ = fleet.settled(SOON);
}

#[test]
fn an_engine_that_hangs_keeps_no_other_vps_waiting_and_a_killed_agent_goes_on() {
    let mut fleet = Fleet::start(Options::default(), 1);
    let api = fleet.api().clone();
    let made = api.create("mine", None).unwrap();
    succeeds(&api, &made);
    let vps: VpsId = made.vps.id;
    for (call, verb, body) in faults() {
        let host = &mut fleet.hosts[0];
        host.agent.engine_goes_wrong(Some(&format!("{call} hangs")));
        let accepted = order(&api, &vps.to_string(), verb, &body).unwrap();
        wait_for("the host to be at it", SOON, || {
            let shown = api.vps(vps).map_err(|failure| failure.to_string())?;
            if shown.observed.progress.is_some() { Ok(()) } else { Err(format!("{shown:?}")) }
        });
        assert!(!api.operation(accepted.operation.id).unwrap().state.is_final(), "{verb}");
        host.agent.engine_goes_wrong(None);
        host.agent.kill_9();
        host.agent.run();
        succeeds(&api, &accepted);
        let _ = api.vps_becomes(vps, "as desired", LATER, is_as_desired);
    }
    assert_eq!(fleet.hosts[0].agent.guests()[0].1.disks, 2);
}

/// Orders it while the engine goes wrong at it, and sees it carried out once the engine works again.
fn survives(fleet: &mut Fleet, vps: VpsId, fault: (&str, &str), order: &dyn Fn(&Api) -> OperationId) {
    let (call, how) = fault;
    let api = fleet.api().clone();
    println!("{call} {how}");
    fleet.hosts[0].agent.engine_goes_wrong(Some(&format!("{call} {how}")));
    let operation = order(&api);
    wait_for("the host to be at it", SOON, || {
        let row = api.operation(operation).map_err(|failure| failure.to_string())?;
        // What was done half-way may be seen to be done before it is tried again; what was purged is gone then.
        if how == "breaks" && row.state.is_final() {
            return Ok(());
        }
        let shown = api.vps(row.vps.unwrap_or(vps)).map_err(|failure| failure.to_string())?;
        let at_it = shown.observed.progress.is_some() || shown.observed.problem.is_some();
        if at_it { Ok(()) } else { Err(format!("{row:?} {shown:?}")) }
    });
    if how != "breaks" {
        assert!(!api.operation(operation).unwrap().state.is_final(), "{call} {how}");
    }
    fleet.hosts[0].agent.engine_goes_wrong(None);
    if how == "hangs" {
        fleet.hosts[0].agent.restart();
    }
    let ended = api.ended(operation, LATER);
    assert_eq!(ended.state, OperationState::Succeeded, "{call} {how}: {ended:?}");
}

#[test]
fn snapshots_copies_and_the_end_of_a_life_survive_an_engine_that_fails_hangs_or_ends_half_way() {
    let mut fleet = Fleet::start(Options::default(), 1);
    for how in ["fails", "breaks", "hangs"] {
        let made = fleet.api().create(&format!("mine-{how}"), None).unwrap();
        succeeds(fleet.api(), &made);
        let vps = made.vps.id;
        let path = format!("/api/vps-servers/{vps}");
        let snapshots = |api: &Api| -> Vec<SnapshotView> { api.list(&format!("{path}/snapshots")).unwrap() };
        survives(&mut fleet, vps, ("takesnapshot", how), &|api| {
            let taken: SnapshotAccepted =
                api.post(&format!("{path}/snapshots"), &json!({"name": "first"})).unwrap();
            taken.operation.id
        });
        let first = snapshots(fleet.api())[0].id;
        survives(&mut fleet, vps, ("restoresnapshot", how), &|api| {
            let restored: VpsAccepted =
                api.post(&format!("{path}/snapshots/{first}/restore"), &json!({})).unwrap();
            restored.operation.id
        });
        survives(&mut fleet, vps, ("prepare", how), &|api| {
            let name = format!("copy-{how}");
            let cloned: VpsAccepted = api.post(&format!("{path}/clone"), &json!({ "name": name })).unwrap();
            cloned.operation.id
        });
        survives(&mut fleet, vps, ("deletesnapshot", how), &|api| {
            let path = format!("{path}/snapshots/{first}");
            let deleted: VpsAccepted = api.call(Method::Delete, &path, None, None).unwrap();
            deleted.operation.id
        });
        assert!(snapshots(fleet.api()).is_empty());
        survives(&mut fleet, vps, ("shutdown", how), &|api| {
            api.act(vps, "delete", None).unwrap().operation.id
        });
        survives(&mut fleet, vps, ("start", how), &|api| {
            api.act(vps, "undelete", None).unwrap().operation.id
        });
        succeeds(fleet.api(), &fleet.api().act(vps, "delete", None).unwrap());
        survives(&mut fleet, vps, ("destroy", how), &|api| api.act(vps, "purge", None).unwrap().operation.id);
        assert!(fleet.hosts[0].agent.guests().iter().all(|(id, _)| *id != vps), "nothing is left of it");
    }
}
