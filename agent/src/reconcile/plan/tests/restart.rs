//! Restarts, as jobs.

use super::*;

#[test]
fn a_restart_is_marked_then_stops_then_starts_then_reports() {
    Scene::new("1 on, job 7 1", "1 running").check(&expect![[r#"
        do begin job 7
        do shutdown 1
        1 Running s0; shutting down
    "#]]);
    let begun = |phase: JobMemory, have: &str, memory: VpsMemory| {
        let mut scene = Scene::new("1 on, job 7 1", have).remember(1, memory);
        scene.memory.jobs.insert(job(7), phase);
        scene
    };
    let (stopping, starting) = (JobMemory::Stopping { since: ago(3) }, JobMemory::Starting { since: ago(4) });
    begun(stopping.clone(), "1 running", stopping_for(3)).check(&expect![[r#"
        1 Running s0; shutting down
        wake in 1 s
    "#]]);
    begun(stopping, "1 byguest", stopping_for(3)).check(&expect![[r#"
        do start 1 for job 7
        1 Stopped s0; starting
    "#]]);
    begun(starting.clone(), "1 stopped", VpsMemory::default()).check(&expect![[r#"
        do start 1 for job 7
        1 Stopped s0; starting
    "#]]);
    begun(starting, "1 running", ran_in(1)).check(&expect![[r#"
        do finish job 7: Done
        1 Running s0
    "#]]);
    begun(JobMemory::Finished { at: ago(1) }, "1 running", ran_in(1)).check(&expect![[r#"
        1 Running s0
    "#]]);
    begun(JobMemory::Starting { since: ago(700) }, "1 stopped", VpsMemory::default()).check(&expect![[r#"
        do finish job 7: Failed { problem: "it did not end in time; look at the VPS's state" }
        1 Stopped s0
    "#]]);
}

#[test]
fn a_restart_that_cannot_be_is_refused_with_a_reason() {
    Scene::new("1 on, job 7 1 late", "1 running").check(&expect![[r#"
        do finish job 7: Failed { problem: "it could not be begun before its deadline; ask again" }
        1 Running s0
    "#]]);
    Scene::new("1 off, job 7 1", "1 stopped").check(&expect![[r#"
        do finish job 7: Failed { problem: "the VPS is to be stopped; start it instead" }
        1 Stopped s0
    "#]]);
    Scene::new("1 on hold, job 7 1", "1 running").check(&expect![[r#"
        do finish job 7: Failed { problem: "the VPS is on hold; take it off hold and ask again" }
        1 Running s0; on hold: nothing is changed
    "#]]);
    Scene::new("job 7 1", "1 running").check(&expect![[r#"
        do finish job 7: Failed { problem: "VPS 00000000-0000-0000-0000-000000000001 is not on this host" }
        orphan 1
    "#]]);
    Scene::new("1 on, job 7 1", "").check(&expect![[r#"
        do finish job 7: Failed { problem: "the VPS is not made yet; wait until it runs and ask again" }
        do prepare 1 p1
        1 Preparing s0; preparing
    "#]]);
}

#[test]
fn a_restart_ends_when_a_pause_is_ordered_in_it() {
    let mut scene = Scene::new("1 pause, job 7 1", "1 byguest").remember(1, stopping_for(3));
    scene.memory.jobs.insert(job(7), JobMemory::Stopping { since: ago(3) });
    scene.check(&expect![[r#"
        do finish job 7: Failed { problem: "the VPS is to be paused; resume it first" }
        1 Stopped s0; it was paused and has gone off since, with its memory: start it, or stop it to leave it off
    "#]]);
    let mut scene = Scene::new("1 pause, job 7 1", "1 running").remember(1, ran_in(1));
    scene.memory.jobs.insert(job(7), JobMemory::Starting { since: ago(4) });
    scene.check(&expect![[r#"
        do finish job 7: Failed { problem: "the VPS is to be paused; resume it first" }
        do pause 1
        1 Running s0; pausing
    "#]]);
}

#[test]
fn restarts_of_one_vps_follow_each_other() {
    Scene::new("1 on, job 7 1, job 8 1", "1 running").check(&expect![[r#"
        do begin job 7
        do shutdown 1
        1 Running s0; shutting down
    "#]]);
}
