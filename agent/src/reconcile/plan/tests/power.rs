//! On, off, paused, suspended; what a guest or a person did to it by themselves.

use super::*;

#[test]
fn a_stop_is_graceful_first_and_forced_after_the_grace() {
    Scene::new("1 off", "1 running").check(&expect![[r#"
        do shutdown 1
        1 Running s0; shutting down
    "#]]);
    Scene::new("1 off", "1 running").remember(1, stopping_for(3)).check(&expect![[r#"
        1 Running s0; shutting down
        wake in 1 s
    "#]]);
    Scene::new("1 off", "1 running").remember(1, stopping_for(60)).check(&expect![[r#"
        do power off 1
        1 Running s0; powering off
    "#]]);
    let mut asked_long_ago = stopping_for(30);
    asked_long_ago.stopping = Some(Stopping { since: ago(30), asked_at: ago(10) });
    Scene::new("1 off", "1 running").remember(1, asked_long_ago).check(&expect![[r#"
        do shutdown 1
        1 Running s0; shutting down
    "#]]);
    Scene::new("1 off", "1 byguest").remember(1, stopping_for(3)).check(&expect![[r#"
        1 Stopped s0
    "#]]);
}

#[test]
fn a_stop_has_its_own_grace_or_none() {
    Scene::new("1 off g0, 2 off g5", "1 running, 2 running").check(&expect![[r#"
        do power off 1
        do shutdown 2
        1 Running s0; powering off
        2 Running s0; shutting down
    "#]]);
    Scene::new("1 off g5", "1 running").remember(1, stopping_for(6)).check(&expect![[r#"
        do power off 1
        1 Running s0; powering off
    "#]]);
    // An order to force it that comes while it shuts down holds at once.
    Scene::new("1 off g0", "1 running").remember(1, stopping_for(3)).check(&expect![[r#"
        do power off 1
        1 Running s0; powering off
    "#]]);
}

#[test]
fn a_pause_halts_what_runs_and_only_an_order_lets_it_go_on() {
    Scene::new("1 pause", "1 running").check(&expect![[r#"
        do pause 1
        1 Running s0; pausing
    "#]]);
    Scene::new("1 pause", "1 paused").check(&expect![[r#"
        1 Paused s0
    "#]]);
    // Paused by hand: said, not undone.
    let started = VpsMemory { start_count: 1, ..ran_in(1) };
    Scene::new("1 on s1", "1 paused").remember(1, started.clone()).check(&expect![[r#"
        1 Paused s1; it is paused, by hand or for lack of disk space; resume it once that is mended
    "#]]);
    Scene::new("1 on s2", "1 paused").remember(1, started.clone()).check(&expect![[r#"
        do start 1
        1 Paused s1; starting
    "#]]);
    // The order was begun, and the engine failed in it.
    let failed = VpsMemory { start_count: 2, started_at: Some(NOW), ..VpsMemory::default() };
    Scene::new("1 on s2", "1 paused").remember(1, failed).check(&expect![[r#"
        do start 1
        1 Paused s2; starting
    "#]]);
    // Paused before it was started: it comes up first.
    Scene::new("1 pause s2", "1 stopped").remember(1, started.clone()).check(&expect![[r#"
        do start 1
        1 StoppedByGuest s1; starting
    "#]]);
    // Its memory is lost once it is off: it is not brought back in another state than the one it was paused in.
    Scene::new("1 pause s1", "1 stopped").remember(1, started).check(&expect![[r#"
        1 StoppedByGuest s1; it was paused and has gone off since, with its memory: start it, or stop it to leave it off
    "#]]);
    Scene::new("1 off", "1 paused").check(&expect![[r#"
        do shutdown 1
        1 Paused s0; shutting down
    "#]]);
}

#[test]
fn a_suspended_vps_is_off_or_keeps_running_cut_off() {
    Scene::new("1 on suspended, 2 on suspended, 3 on isolated", "1 running, 2 stopped, 3 running").check(
        &expect![[r#"
            do shutdown 1
            1 Running s0; shutting down
            2 Stopped s0
            3 Running s0
        "#]],
    );
    // Also after a reboot of the host.
    let mut scene = Scene::new("1 on suspended, 2 on isolated", "1 stopped, 2 stopped")
        .remember(1, ran_in(1))
        .remember(2, ran_in(1));
    scene.terms.boot = boot(2);
    scene.check(&expect![[r#"
        do start 2
        1 Stopped s0
        2 Stopped s0; starting
    "#]]);
}

#[test]
fn a_held_vps_is_left_as_it_is() {
    Scene::new("1 on hold, 2 off hold, 3 on hold", "1 stopped drift, 2 running").check(&expect![[r#"
        1 Stopped s0; on hold: nothing is changed
        2 Running s0; on hold: nothing is changed
        3 Absent s0; on hold: nothing is changed
    "#]]);
}

#[test]
fn what_was_switched_off_by_hand_while_held_runs_again_afterwards() {
    let mut held = Scene::new("1 on hold", "1 byguest").remember(1, ran_in(1));
    held.learn();
    Scene::new("1 on", "1 byguest").remember(1, held.memory.vps[&vps(1)].clone()).check(&expect![[r#"
        do start 1
        1 Stopped s0; starting
    "#]]);
}

#[test]
fn a_guest_that_powered_itself_off_stays_off_until_an_admin_starts_it() {
    let mut scene = Scene::new("1 on", "1 byguest").remember(1, ran_in(1));
    scene.learn();
    let memory = scene.memory.vps[&vps(1)].clone();
    scene.check(&expect![[r#"
        1 StoppedByGuest s0
    "#]]);
    Scene::new("1 on s1", "1 byguest").remember(1, memory.clone()).check(&expect![[r#"
        do start 1
        1 StoppedByGuest s0; starting
    "#]]);
    Scene::new("1 on restart", "1 byguest").remember(1, memory.clone()).check(&expect![[r#"
        do start 1
        1 StoppedByGuest s0; starting
    "#]]);
    // Also after a reboot of the host.
    let mut scene = Scene::new("1 on", "1 stopped").remember(1, memory);
    scene.terms.boot = boot(2);
    scene.check(&expect![[r#"
        1 StoppedByGuest s0
    "#]]);
}

#[test]
fn a_guest_that_ran_before_the_host_rebooted_is_started_again() {
    let mut scene = Scene::new("1 on", "1 stopped").remember(1, ran_in(1));
    scene.terms.boot = boot(2);
    scene.check(&expect![[r#"
        do start 1
        1 Stopped s0; starting
    "#]]);
}

#[test]
fn after_a_boot_nothing_is_started_that_may_have_been_moved() {
    let mut scene = Scene::new("1 on, 2 off", "1 stopped, 2 running").remember(1, ran_in(1));
    scene.terms.boot = boot(2);
    scene.terms.may_have_moved = true;
    scene.check(&expect![[r#"
        do shutdown 2
        1 Stopped s0; waiting for word from the orchestrator that it was not moved elsewhere
        2 Running s0; shutting down
    "#]]);
}

#[test]
fn no_guest_is_started_while_its_card_cannot_be_guarded() {
    let mut scene = Scene::new("1 on, 2 off", "1 stopped, 2 running").remember(1, ran_in(2));
    scene.work.network = Some("nft(8) is missing".to_owned());
    scene.check(&expect![[r#"
        do shutdown 2
        1 Stopped s0; nft(8) is missing
        2 Running s0; shutting down
    "#]]);
}

#[test]
fn a_crashed_guest_is_started_again_but_not_all_the_time() {
    Scene::new("1 on", "1 crashed").remember(1, ran_in(1)).check(&expect![[r#"
        do start 1
        1 Crashed s0; starting
    "#]]);
    let again = VpsMemory { started_at: Some(ago(5)), ..ran_in(1) };
    Scene::new("1 on", "1 crashed").remember(1, again).check(&expect![[r#"
        1 Crashed s0; starting again after a pause
        wake in 25 s
    "#]]);
}

#[test]
fn a_start_that_comes_while_a_guest_shuts_down_waits_for_its_end() {
    Scene::new("1 on s1", "1 running").remember(1, stopping_for(3)).check(&expect![[r#"
        1 Running s0; shutting down
        wake in 1 s
    "#]]);
    Scene::new("1 on s1", "1 byguest").remember(1, stopping_for(3)).check(&expect![[r#"
        do start 1
        1 Stopped s0; starting
    "#]]);
}
