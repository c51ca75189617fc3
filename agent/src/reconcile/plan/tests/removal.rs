//! What is removed: by tombstone alone, below the cap.

use super::*;

#[test]
fn absence_never_destroys_and_foreign_guests_are_never_touched() {
    Scene::new("", "1 running, 2 stopped, foreign mine").remember(1, ran_in(1)).check(&expect![[r#"
        orphan 1
        orphan 2
        foreign mine
    "#]]);
}

#[test]
fn before_anything_was_accepted_all_guests_are_orphans() {
    let scene = Scene::new("", "1 running");
    let input = Input {
        desired: None,
        looks: &scene.looks,
        memory: &scene.memory,
        work: &scene.work,
        terms: scene.terms,
    };
    expect![[r#"
        orphan 1
    "#]]
    .assert_eq(&render(&plan(&input)));
}

#[test]
fn a_tombstone_removes_and_what_is_gone_is_absent() {
    Scene::new("dead 1", "1 running").check(&expect![[r#"
        do DESTROY 1
        1 Running s0; removing
    "#]]);
    Scene::new("dead 1", "").check(&expect![[r#"
        1 Absent s0
    "#]]);
    // Its disk may be there though its guest is not: it was being made.
    Scene::new("dead 1", "").remember(1, VpsMemory { placement: 1, ..VpsMemory::default() }).check(&expect![
        [r#"
            do DESTROY 1
            1 Absent s0; removing
        "#]
    ]);
}

#[test]
fn a_tombstone_of_an_older_placement_and_of_a_desired_vps_removes_nothing() {
    Scene::new("dead 1 p1", "1 running p2").check(&expect![[r#"
        1 Running s0; placement 2 is here, the order to remove is for placement 1; left alone
    "#]]);
    Scene::new("dead 1 p1, 1 on", "1 running").check(&expect![[r#"
        1 Running s0
    "#]]);
}

#[test]
fn above_the_cap_removals_wait_and_say_so() {
    let mut scene =
        Scene::new("dead 1, dead 2, dead 3 young, dead 4", "1 stopped, 2 stopped, 3 stopped, 4 stopped");
    scene.terms.destroys_per_hour = 2;
    scene.memory.destroys.insert(vps(50), ago(600));
    scene.check(&expect![[r#"
        do DESTROY 1
        do DESTROY 3 uncounted
        1 Stopped s0; removing
        2 Stopped s0; its removal waits: this host removes at most 2 VPSs an hour; allow more if this is meant
        3 Stopped s0; removing
        4 Stopped s0; its removal waits: this host removes at most 2 VPSs an hour; allow more if this is meant
        waiting 2
        waiting 4
        wake in 3000 s
    "#]]);
}

#[test]
fn an_order_lifts_the_cap_until_its_time_and_a_begun_removal_goes_on() {
    let mut scene = Scene::new("dead 1, dead 2", "1 stopped, 2 stopped");
    scene.terms.destroys_per_hour = 0;
    scene.memory.destroys.insert(vps(2), ago(60));
    scene.desired.settings.destroys_allowed_until = Some(NOW);
    scene.check(&expect![[r#"
        do DESTROY 2 uncounted
        1 Stopped s0; its removal waits: this host removes at most 0 VPSs an hour; allow more if this is meant
        2 Stopped s0; removing
        waiting 1
        wake in 3540 s
    "#]]);
    let mut scene = Scene::new("dead 1", "1 stopped");
    scene.terms.destroys_per_hour = 0;
    scene.desired.settings.destroys_allowed_until = Some(NOW.plus_seconds(1));
    scene.check(&expect![[r#"
        do DESTROY 1 uncounted
        1 Stopped s0; removing
    "#]]);
}

#[test]
fn a_retained_vps_is_stopped_and_nothing_else() {
    Scene::new("1 on retained", "1 running").check(&expect![[r#"
        do shutdown 1
        1 Running s0; shutting down
    "#]]);
    Scene::new("1 on retained, 2 on retained", "1 stopped drift").check(&expect![[r#"
        1 Stopped s0
        2 Absent s0
    "#]]);
}
