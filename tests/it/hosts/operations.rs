//! Every operation on a VPS, on both engines, for real and through the HTTPS API, checked with the engine's own tools:
//! first each by itself, then with the agent or the engine's daemon killed in the middle of it. What only machines have (rescue mode, CD-ROMs) is
//! in `snapshots`; consoles and passwords are in `console`.

mod walk;

use std::time::Duration;

use chom_protocol::api::operations::{OperationState, OperationView};
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_protocol::network::port_name;
use chom_protocol::vps::{Engine, Power, VpsState};
use chom_tests::fleet::{SOON, is_as_desired, usable};
use chom_tests::hosts::BOOT;
use chom_tests::seed::{Chance, rounds};
use chom_tests::wait::{pass, wait_for, wait_until};
use serde_json::{Value, json};

use walk::{Does, MIB, Walk};

/// Actions take between a hundredth of a second and three.
const KILL_AFTER: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(2500));

/// A row of the table: its name and what it does.
type Row = (&'static str, fn(&Walk));

/// Each goes on where the one before it left the VPS: running, and owing nothing.
const TABLE: [Row; 10] = [
    ("pause, resume", paused_and_resumed),
    ("resize, rename", resized_and_renamed),
    ("snapshot, restore, clone", taken_restored_and_cloned),
    ("suspend, unsuspend", suspended),
    ("stop, start, restart", stopped_and_started),
    ("drift", repaired_when_changed_by_hand),
    ("hold, cancel", held_and_taken_back),
    ("rebuild", rebuilt),
    ("delete, undelete", deleted_and_undeleted),
    ("purge", purged),
];

fn every_operation(engine: Engine, host: &str) {
    let walk = Walk::start(engine, host);
    for (name, row) in TABLE {
        println!("== {engine}: {name}");
        row(&walk);
    }
}

#[test]
fn every_operation_on_a_machine_does_what_it_says() {
    every_operation(Engine::Libvirt, "walk");
}

#[test]
fn every_operation_on_a_container_does_what_it_says() {
    every_operation(Engine::Incus, "stroll");
}

fn paused_and_resumed(walk: &Walk) {
    walk.done("pause", &json!({}));
    walk.is(Does::Paused);
    assert_eq!(walk.shown().desired, Power::Paused);
    walk.done("resume", &json!({}));
    walk.is(Does::Running);

    // Paused by hand it is said, and only an order lets it go on.
    walk.pause_by_hand();
    let shown = walk.site.becomes(walk.vps, VpsState::Paused);
    assert_eq!(shown.desired, Power::Running);
    walk.done("start", &json!({}));
    walk.is(Does::Running);
}

fn resized_and_renamed(walk: &Walk) {
    let before = walk.process();
    walk.refused("resize", &json!({"disk_bytes": 100 * MIB}), 422, "never shrink");
    walk.refused("resize", &json!({"memory_bytes": 1_u64 << 45}), 409, "memory");
    walk.done("resize", &json!({"disk_bytes": 300 * MIB}));
    assert_eq!(walk.disk_bytes(), 300 * MIB);
    assert_eq!(walk.process(), before, "it grew while it ran");

    walk.done("rename", &json!({"name": "renamed"}));
    walk.done("resize", &json!({"cores": 2, "memory_bytes": 224 * MIB, "restart": true}));
    if walk.engine == Engine::Incus {
        assert_eq!(walk.process(), before, "a container's limits hold at once");
        walk.done("restart", &json!({}));
    }
    let greeting = walk.boots();
    assert!(greeting.contains("hello from renamed "), "{greeting}");
    assert_eq!((walk.cores(), walk.memory()), (2, 224 * MIB));
    assert_ne!(walk.process(), before);
    walk.api().vps_becomes(walk.vps, "without need of a restart", SOON, |row| !row.observed.restart_needed);
}

fn taken_restored_and_cloned(walk: &Walk) {
    let boot = walk.boot();
    walk.done("snapshot", &json!({"name": "before"}));
    assert_eq!(walk.snapshots_there(), 1);
    let taken = walk.snapshots().remove(0);
    for _ in 0..2 {
        walk.done("restart", &json!({}));
        walk.boots();
    }
    walk.done("restore snapshot", &json!({"id": taken.id}));
    // Its disk counts its boots: the two since the snapshot never were.
    walk.boots_as(boot + 1);
    walk.api().vps_becomes(walk.vps, "as desired", BOOT, is_as_desired);

    let cloned: VpsAccepted = walk.done("clone", &json!({"name": "copy"}));
    let copy = &cloned.vps;
    let greeting = walk.greets(copy.id, boot + 2);
    assert!(greeting.contains("hello from copy "), "{greeting}");
    assert_ne!(copy.addresses, walk.shown().addresses);
    wait_until("what was taken for the copy to go", SOON, || walk.snapshots_there() == 1);
    walk.site.act(copy.id, "delete");
    walk.site.act(copy.id, "purge");
    assert_eq!(walk.does(copy.id), Does::Gone);

    walk.refused("rebuild", &json!({}), 409, "snapshots");
    walk.done("delete snapshot", &json!({"id": taken.id}));
    assert_eq!((walk.snapshots_there(), walk.snapshots().len()), (0, 0));
}

fn suspended(walk: &Walk) {
    assert!(walk.answers());
    walk.done("suspend", &json!({"reason": "abuse", "mode": "isolated"}));
    walk.is(Does::Running);
    assert!(!walk.answers(), "it is cut off");
    walk.done("suspend", &json!({"reason": "billing", "mode": "stopped"}));
    walk.is(Does::Off);
    for verb in ["start", "restart", "rebuild"] {
        walk.refused(verb, &json!({}), 409, "suspended (billing, abuse)");
    }
    walk.host().sh("systemctl restart chom-agent");
    usable(walk.api(), walk.host().id, SOON);
    walk.is(Does::Off); // held across a restart of the agent
    walk.done("unsuspend", &json!({"reason": "billing"}));
    walk.boots();
    assert!(!walk.answers(), "still for abuse");
    walk.done("unsuspend", &json!({"reason": "abuse"}));
    wait_until("it to answer again", SOON, || walk.answers());
}

fn stopped_and_started(walk: &Walk) {
    walk.done("stop", &json!({"force": true}));
    walk.is(Does::Off);
    if walk.engine == Engine::Incus {
        // What an Incus that was killed leaves behind: the host's end of the card.
        let port = port_name(walk.vps);
        walk.host().sh(&format!("ip link add {port} type veth peer name left-behind"));
    }
    walk.done("start", &json!({}));
    walk.boots();
    walk.done("stop", &json!({}));
    walk.is(Does::Off);
    walk.done("start", &json!({}));
    walk.boots();
    walk.done("restart", &json!({}));
    walk.boots();
}

fn repaired_when_changed_by_hand(walk: &Walk) {
    let before = walk.process();
    walk.set_cores_by_hand(2, 1);
    wait_for("the change by hand to be taken back", SOON, || match walk.cores() {
        2 => Ok(()),
        other => Err(format!("{other} cores")),
    });
    assert_eq!(walk.process(), before);
}

fn held_and_taken_back(walk: &Walk) {
    walk.done("hold", &json!({"hold": true}));
    walk.refused("stop", &json!({}), 409, "on hold");
    walk.done("hold", &json!({"hold": false}));
    // While its host cannot be reached an order waits, and can be taken back.
    walk.host().cut();
    let stop = walk.order("stop", &json!({"grace_seconds": 600}));
    let cancelled: OperationView = walk
        .api()
        .post(&format!("/api/operations/{}/cancel", stop.operation.id), &json!({}))
        .unwrap_or_else(|failure| panic!("{failure}"));
    walk.host().heal();
    assert_eq!(cancelled.state, OperationState::Cancelled);
    walk.api().vps_becomes(walk.vps, "as desired", BOOT, is_as_desired);
    walk.is(Does::Running);
}

fn rebuilt(walk: &Walk) {
    let before = walk.shown();
    walk.done("rebuild", &json!({}));
    let greeting = walk.boots_as(1);
    assert!(greeting.contains("hello from renamed "), "{greeting}");
    assert_eq!(walk.disks().len(), 1, "the old disk is gone");
    let after = walk.shown();
    assert_eq!((after.addresses, after.id, after.name), (before.addresses, before.id, before.name));
    assert_eq!(walk.disk_bytes(), 300 * MIB);
}

fn deleted_and_undeleted(walk: &Walk) {
    walk.done("delete", &json!({}));
    walk.is(Does::Off);
    walk.refused("resize", &json!({"cores": 1}), 409, "undelete");
    walk.done("undelete", &json!({}));
    walk.boots();
}

fn purged(walk: &Walk) {
    walk.done("delete", &json!({}));
    walk.done("purge", &json!({}));
    walk.is(Does::Gone);
    walk.refused("start", &json!({}), 404, "no VPS");
}

/// What may be ordered of a VPS as it stands; nothing here waits for a guest that has not booted yet.
fn orders(walk: &Walk, round: usize, disk: u64) -> Vec<(&'static str, Value)> {
    let (shown, nothing) = (walk.shown(), json!({}));
    if shown.deleted_at.is_some() {
        return vec![("undelete", nothing)];
    }
    let snapshots = walk.snapshots();
    let mut all = vec![
        ("stop", json!({"force": true})),
        ("suspend", json!({"reason": "admin", "mode": "isolated"})),
        ("delete", nothing.clone()),
        ("snapshot", json!({"name": format!("round-{round}")})),
        ("rename", json!({"name": format!("round-{round}")})),
        ("resize", json!({"disk_bytes": disk + MIB})),
    ];
    if !shown.suspensions.is_empty() {
        return vec![("unsuspend", json!({"reason": "admin"}))];
    }
    match snapshots.first() {
        Some(first) => {
            all.push(("restore snapshot", json!({"id": first.id})));
            all.push(("delete snapshot", json!({"id": first.id})));
        }
        None => all.push(("rebuild", nothing.clone())),
    }
    match shown.desired {
        Power::Running => all.extend([("pause", nothing.clone()), ("restart", nothing)]),
        Power::Paused => all.extend([("resume", nothing)]),
        Power::Stopped => all.extend([("start", nothing)]),
    }
    all
}

fn kill_agent(walk: &Walk) {
    let pid = walk.host().agent_pid();
    walk.host().sh(&format!("kill -9 {pid}"));
    wait_until("systemd to start the agent anew", SOON, || {
        let again = walk.host().unit("MainPID");
        again != "0" && again != pid.to_string()
    });
}

fn torn(engine: Engine, host: &str) {
    let mut chance = Chance::for_test(&format!("operations-{engine}"));
    let walk = Walk::start(engine, host);
    let mut disk = 256 * MIB;
    // Five times each of fourteen orders; every run a part of that, drawn.
    for round in 0..rounds(70, 7) {
        let (verb, body) = chance.pick(&orders(&walk, round, disk)).clone();
        println!("{round}: {verb} {body}");
        let accepted = walk.order(verb, &body);
        pass(chance.between(KILL_AFTER.0, KILL_AFTER.1));
        match chance.pick(&["agent", "agent", "engine"]) {
            &"engine" => {
                println!("the engine's daemon is killed");
                walk.kill_engine();
            }
            _ => kill_agent(&walk),
        }
        let ended = walk.api().ended(accepted.operation.id, BOOT);
        let log = || walk.host().agent_log();
        assert_eq!(ended.state, OperationState::Succeeded, "{verb}: {ended:?}\n{}", log());
        walk.api().vps_becomes(walk.vps, "as desired", BOOT, is_as_desired);
        wait_until("the engine to answer", BOOT, || walk.engine_answers());
        if verb == "resize" {
            disk += MIB;
        }
        assert_eq!(walk.disks().len(), 1, "one disk, and it is whole");
        assert_eq!(walk.disk_bytes(), disk);
        assert_eq!(walk.snapshots_there(), walk.snapshots().len(), "{verb}");
        let does = match walk.shown().desired {
            Power::Running => Does::Running,
            Power::Paused => Does::Paused,
            Power::Stopped => Does::Off,
        };
        assert_eq!(walk.does(walk.vps), does, "{verb}");
    }
}

#[test]
fn an_operation_on_a_machine_ends_as_asked_when_the_agent_or_the_engine_is_killed_in_it() {
    torn(Engine::Libvirt, "torn");
}

#[test]
fn an_operation_on_a_container_ends_as_asked_when_the_agent_or_the_engine_is_killed_in_it() {
    torn(Engine::Incus, "ripped");
}
