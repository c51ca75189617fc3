//! The rules of the plan: what is made, fetched, taken over and changed; each group of further rules in a file of its own.

use chom_protocol::Generation;
use chom_protocol::foreign::Adopted;
use chom_protocol::vps::{Engine, Power};
use expect_test::expect;

use super::*;
use crate::reconcile::memory::{JobMemory, Stopping, VpsMemory};

mod host;
mod never;
mod power;
mod prefetch;
mod removal;
mod restart;
mod scene;
mod snapshots;

use scene::*;

#[test]
fn a_vps_is_made_then_started() {
    Scene::new("1 on, 2 off", "").check(&expect![[r#"
        do prepare 1 p1
        do prepare 2 p1
        1 Preparing s0; preparing
        2 Preparing s0; preparing
    "#]]);
    Scene::new("1 on, 2 off", "1 stopped, 2 stopped").check(&expect![[r#"
        do start 1
        1 Stopped s0; starting
        2 Stopped s0
    "#]]);
    Scene::new("1 on, 2 off", "1 running, 2 stopped").check(&expect![[r#"
        1 Running s0
        2 Stopped s0
    "#]]);
}

#[test]
fn an_image_is_fetched_once_for_all_that_need_it_and_its_progress_is_shown() {
    let mut scene = Scene::new("1 on, 2 on", "");
    scene.work.blobs.clear();
    scene.check(&expect![[r#"
        do fetch image tiny
        1 Preparing s0; image tiny 0 %
        2 Preparing s0; image tiny 0 %
    "#]]);
    let mut scene = Scene::new("1 on", "");
    scene.work.blobs.insert(image(), BlobState::Fetching { percent: 40 });
    scene.check(&expect![[r#"
        1 Preparing s0; image tiny 40 %
        wake in 1 s
    "#]]);
    let mut scene = Scene::new("1 on", "");
    let failure = Failure {
        problem: "image tiny has the wrong content".to_owned(),
        count: 1,
        lasting: false,
        retry_at: NOW.plus_seconds(9),
    };
    scene.work.blobs.insert(image(), BlobState::Failed(failure));
    scene.check(&expect![[r#"
        1 Preparing s0; image tiny has the wrong content
        wake in 9 s
    "#]]);
}

#[test]
fn a_guest_is_taken_on_where_it_stands_without_an_image_and_what_is_then_as_wanted_is_left_alone() {
    let adopted = |have| {
        let mut scene = Scene::new("1 on", have);
        let want = scene.desired.vps.get_mut(&vps(1)).unwrap();
        want.image = None;
        want.adopted = Some(Box::new(Adopted { guest: "mine".to_owned(), disks: vec![] }));
        scene.work.blobs.clear();
        scene
    };
    adopted("foreign mine").check(&expect![[r#"
        do prepare 1 p1
        1 Preparing s0; adopting
        foreign mine
    "#]]);
    adopted("1 running").check(&expect![[r#"
        1 Running s0
    "#]]);
    adopted("1 running drift").check(&expect![[r#"
        do prepare 1 p1
        1 Running s0; preparing
    "#]]);
    adopted("1 stopped").remember(1, ran_in(1)).check(&expect![[r#"
        1 StoppedByGuest s0
    "#]]);
}

#[test]
fn a_rebuild_fetches_its_image_stops_the_guest_and_makes_its_disk_anew() {
    let mut scene = Scene::new("1 on b1", "1 running");
    scene.work.blobs.clear();
    scene.check(&expect![[r#"
        do fetch image tiny
        1 Running s0; image tiny 0 %
    "#]]);
    Scene::new("1 on b1", "1 running").check(&expect![[r#"
        do shutdown 1
        1 Running s0; shutting down
    "#]]);
    Scene::new("1 on b1", "1 stopped").remember(1, stopping_for(3)).check(&expect![[r#"
        do prepare 1 p1
        1 Stopped s0; rebuilding
    "#]]);
    Scene::new("1 on b1 s2", "1 stopped b1").check(&expect![[r#"
        do start 1
        1 Stopped s0 b1; starting
    "#]]);
    // An older build is never wanted back, and what is deleted is left as it is.
    Scene::new("1 on, 2 on b1 retained", "1 stopped b1, 2 stopped").check(&expect![[r#"
        1 Stopped s0 b1; build 1 of this VPS is here, an older one (0) is wanted; nothing is changed
        2 Stopped s0
    "#]]);
}

#[test]
fn what_was_changed_by_hand_is_put_right_and_what_waits_for_a_start_is_said() {
    Scene::new("1 on, 2 off", "1 running byhand, 2 stopped byhand").check(&expect![[r#"
        do prepare 1 p1
        do prepare 2 p1
        1 Running s0; its definition was changed by hand and is put right
        2 Stopped s0; its definition was changed by hand and is put right
    "#]]);
    Scene::new("1 on, 2 off", "1 running waits, 2 stopped waits").check(&expect![[r#"
        1 Running s0, waits for its next start
        2 Stopped s0
    "#]]);
}

#[test]
fn a_restart_takes_a_changed_definition_over_before_it_starts_again() {
    let mut scene = Scene::new("1 on, job 7 1", "1 stopped drift").remember(1, stopping_for(3));
    scene.memory.jobs.insert(job(7), JobMemory::Stopping { since: ago(3) });
    scene.check(&expect![[r#"
        do prepare 1 p1
        1 Stopped s0; preparing
    "#]]);
}

#[test]
fn a_changed_definition_is_taken_over() {
    Scene::new("1 on", "1 running drift").remember(1, ran_in(1)).check(&expect![[r#"
        do prepare 1 p1
        1 Running s0; preparing
    "#]]);
    Scene::new("1 on", "1 stopped drift").check(&expect![[r#"
        do prepare 1 p1
        1 Stopped s0; preparing
    "#]]);
}

#[test]
fn an_older_placement_never_runs_and_is_never_overwritten() {
    Scene::new("1 on p2", "1 running p1").check(&expect![[r#"
        do shutdown 1
        1 Running s0; shutting down; an older placement (1) of this VPS is here, placement 2 is wanted; it is kept off and its disk is kept: remove it by hand or move the VPS elsewhere
    "#]]);
    Scene::new("1 on p2", "1 stopped p1").check(&expect![[r#"
        1 Stopped s0; an older placement (1) of this VPS is here, placement 2 is wanted; it is kept off and its disk is kept: remove it by hand or move the VPS elsewhere
    "#]]);
    Scene::new("1 on p1", "1 running p2").check(&expect![[r#"
        1 Running s0; placement 2 of this VPS is here, an older one (1) is wanted; nothing is changed
    "#]]);
    let newer = VpsMemory { placement: 2, ..VpsMemory::default() };
    Scene::new("1 on p1", "").remember(1, newer).check(&expect![[r#"
        1 Preparing s0; placement 2 of this VPS is here, an older one (1) is wanted; nothing is changed
    "#]]);
}

#[test]
fn a_failed_action_is_tried_again_after_its_pause_and_shown() {
    let fails = |retry_at| {
        let mut scene = Scene::new("1 on", "1 stopped");
        let failure = Failure { problem: "no memory".to_owned(), count: 3, lasting: false, retry_at };
        scene.work.failures.insert(vps(1), failure);
        scene
    };
    fails(NOW.plus_seconds(8)).check(&expect![[r#"
        1 Stopped s0; no memory
        wake in 8 s
    "#]]);
    fails(NOW).check(&expect![[r#"
        do start 1
        1 Stopped s0; starting; no memory
    "#]]);
}

#[test]
fn a_busy_vps_is_left_to_its_action() {
    let mut scene = Scene::new("1 on, dead 2", "1 stopped, 2 stopped");
    scene.work.busy.insert(vps(1), "starting");
    scene.work.busy.insert(vps(2), "removing");
    scene.check(&expect![[r#"
        1 Stopped s0; starting
        2 Stopped s0; removing
    "#]]);
}
