//! Snapshots, copies and rescue mode.

use super::*;

fn begun(mut scene: Scene, number: u128, memory: JobMemory) -> Scene {
    scene.memory.jobs.insert(job(number), memory);
    scene
}

fn working(want: &str, have: &str) -> Scene {
    begun(Scene::new(want, have), 7, JobMemory::Working { since: ago(20) })
}

fn failing(mut scene: Scene, lasting: bool) -> Scene {
    let failure =
        Failure { problem: "no space left".to_owned(), count: 1, lasting, retry_at: NOW.plus_seconds(2) };
    scene.work.failures.insert(vps(1), failure);
    scene
}

#[test]
fn a_snapshot_is_taken_of_a_vps_on_or_off_and_done_once_the_engine_shows_it() {
    for (power, state) in [("on", "running"), ("off", "stopped")] {
        let mut scene = Scene::new(&format!("1 {power}, take 7 1"), &format!("1 {state}"));
        scene.learn();
        let planned = render(&scene.plan());
        assert!(planned.starts_with("do begin job 7\ndo take snapshot 7 of 1\n"), "{planned}");
        let shown = Scene::new(&format!("1 {power}, take 7 1"), &format!("1 {state} +7"));
        let planned = render(&begun(shown, 7, JobMemory::Working { since: ago(3) }).plan());
        assert!(planned.starts_with("do finish job 7: Done\n"), "{planned}");
    }
    working("1 on, take 7 1", "1 running").check(&expect![[r#"
        do take snapshot 7 of 1
        1 Running s0; taking a snapshot
    "#]]);
}

#[test]
fn what_was_removed_already_is_done_and_what_cannot_be_seen_is_waited_for() {
    Scene::new("1 on, remove 7 1", "1 running +7").check(&expect![[r#"
        do begin job 7
        do delete snapshot 7 of 1
        1 Running s0; removing a snapshot
    "#]]);
    working("1 on, remove 7 1", "1 running").check(&expect![[r#"
        do finish job 7: Done
        1 Running s0
    "#]]);
    working("1 on, remove 7 1", "1 running unreadable").check(&expect![[r#"
        1 Running s0; its disk cannot be read: see the agent's journal
        wake in 1 s
    "#]]);
}

#[test]
fn a_restore_takes_the_vps_off_sets_the_disk_back_and_starts_it_again() {
    Scene::new("1 on, restore 7 1", "1 running +7").check(&expect![[r#"
        do begin job 7
        do shutdown 1
        1 Running s0; shutting down to restore a snapshot
    "#]]);
    let off = "1 stopped +7";
    begun(Scene::new("1 on, restore 7 1", off), 7, JobMemory::Stopping { since: ago(5) }).check(&expect![[
        r#"
        do restore snapshot 7 of 1
        1 Stopped s0; restoring a snapshot
    "#
    ]]);
    // Killed in the middle of it: it is done again, and nothing else before.
    working("1 on, restore 7 1", off).check(&expect![[r#"
        do restore snapshot 7 of 1
        1 Stopped s0; restoring a snapshot
    "#]]);
    let restored =
        |want: &str, have: &str| begun(Scene::new(want, have), 7, JobMemory::Starting { since: ago(9) });
    restored("1 on, restore 7 1", off).check(&expect![[r#"
        do start 1 for job 7
        1 Stopped s0; starting
    "#]]);
    restored("1 on, restore 7 1", "1 running +7").check(&expect![[r#"
        do finish job 7: Done
        1 Running s0
    "#]]);
    restored("1 off, restore 7 1", off).check(&expect![[r#"
        do finish job 7: Done
        1 Stopped s0
    "#]]);
}

#[test]
fn a_restore_of_what_is_not_there_fails_before_anything_is_stopped() {
    Scene::new("1 on, restore 7 1", "1 running +8").check(&expect![[r#"
        do begin job 7
        do finish job 7: Failed { problem: "this host has no such snapshot of the VPS: it was removed by hand; nothing was changed" }
        1 Running s0
    "#]]);
}

#[test]
fn what_fails_is_tried_again_until_its_time_is_over_or_at_once_given_up_when_that_is_of_no_use() {
    failing(working("1 on, take 7 1", "1 running"), false).check(&expect![[r#"
        1 Running s0; no space left
        wake in 2 s
    "#]]);
    failing(working("1 on, take 7 1", "1 running"), true).check(&expect![[r#"
        do finish job 7: Failed { problem: "no space left" }
        1 Running s0
    "#]]);
    let late = begun(Scene::new("1 on, take 7 1", "1 running"), 7, JobMemory::Working { since: ago(1600) });
    failing(late, false).check(&expect![[r#"
        do finish job 7: Failed { problem: "no space left" }
        1 Running s0
    "#]]);
    // What failed before the job began says nothing of the job.
    let mut old = failing(Scene::new("1 on, take 7 1", "1 running"), true);
    old.work.failures.get_mut(&vps(1)).unwrap().retry_at = NOW;
    old.check(&expect![[r#"
        do begin job 7
        do take snapshot 7 of 1
        1 Running s0; taking a snapshot; no space left
    "#]]);
}

#[test]
fn jobs_with_snapshots_go_one_after_the_other_and_not_while_somebody_repairs_by_hand() {
    Scene::new("1 on, take 7 1, remove 8 1", "1 running +8").check(&expect![[r#"
        do begin job 7
        do take snapshot 7 of 1
        1 Running s0; taking a snapshot
    "#]]);
    Scene::new("1 on hold, restore 7 1", "1 running +7").check(&expect![[r#"
        do finish job 7: Failed { problem: "the VPS is on hold; take it off hold and ask again" }
        1 Running s0; on hold: nothing is changed
    "#]]);
}

#[test]
fn what_was_taken_for_a_copy_goes_once_the_copy_is_made_or_wanted_no_more() {
    Scene::new("1 on, 2 on from1", "1 running +c2 +7").check(&expect![[r#"
        do prepare 2 p1
        1 Running s0
        2 Preparing s0; preparing
    "#]]);
    let made = |want: &str| Scene::new(want, "1 running +c2 +7, 2 running");
    made("1 on, 2 on from1").check(&expect![[r#"
        do delete snapshot for clone 2 of 1
        1 Running s0
        2 Running s0
    "#]]);
    made("1 on hold, 2 on from1").check(&expect![[r#"
        1 Running s0; on hold: nothing is changed
        2 Running s0
    "#]]);
    Scene::new("1 on, dead 2", "1 running +c2").check(&expect![[r#"
        do delete snapshot for clone 2 of 1
        1 Running s0
        2 Absent s0
    "#]]);
    let mut still_at_it = made("1 on, 2 on from1");
    still_at_it.work.busy.insert(vps(2), "preparing");
    still_at_it.check(&expect![[r#"
        1 Running s0
        2 Running s0; preparing
    "#]]);
}

#[test]
fn rescue_mode_is_made_ready_then_the_vps_is_stopped_and_started_and_back_again_the_same_way() {
    let ran_rescue = VpsMemory { rescue: Some(image()), ..ran_in(1) };
    Scene::new("1 on rescue", "1 running drift").remember(1, ran_in(1)).check(&expect![[r#"
        do prepare 1 p1
        1 Running s0; preparing
    "#]]);
    Scene::new("1 on rescue", "1 running").remember(1, ran_in(1)).check(&expect![[r#"
        do shutdown 1
        1 Running s0; shutting down to boot the rescue image
    "#]]);
    let stopping = VpsMemory { stopping: stopping_for(3).stopping, ..ran_in(1) };
    Scene::new("1 on rescue", "1 stopped").remember(1, stopping).check(&expect![[r#"
        do start 1
        1 Stopped s0; starting
    "#]]);
    Scene::new("1 on rescue", "1 running").remember(1, ran_rescue.clone()).check(&expect![[r#"
        1 Running s0
    "#]]);
    Scene::new("1 on", "1 running").remember(1, ran_rescue.clone()).check(&expect![[r#"
        do shutdown 1
        1 Running s0; shutting down to boot from its own disk again
    "#]]);
    Scene::new("1 off rescue", "1 stopped").remember(1, ran_rescue).check(&expect![[r#"
        1 Stopped s0
    "#]]);
}
