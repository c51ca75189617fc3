//! What holds for the whole host: its mode, its engines.

use super::*;

#[test]
fn on_hold_all_stays_as_it_is_but_what_a_reboot_stopped() {
    let scene = |have: &str, memory: VpsMemory| {
        let mut scene = Scene::new("1 on, 2 off, dead 3, job 7 1", have).remember(1, memory);
        scene.terms.mode = Mode::Hold { since: Generation::default() };
        scene
    };
    scene("1 stopped, 2 running, 3 stopped", VpsMemory::default()).check(&expect![[r#"
        1 Stopped s0
        2 Running s0
        3 Stopped s0
    "#]]);
    let mut rebooted = scene("1 stopped", ran_in(1));
    rebooted.terms.boot = boot(2);
    rebooted.check(&expect![[r#"
        do start 1
        1 Stopped s0; starting
        2 Absent s0
        3 Absent s0
    "#]]);
}

#[test]
fn a_host_that_may_only_report_lists_orphans_and_does_nothing() {
    let mut scene = Scene::new("1 on, dead 2", "1 stopped, 2 stopped, foreign mine");
    scene.terms.mode = Mode::ReportOnly;
    scene.check(&expect![[r#"
        orphan 1
        orphan 2
        foreign mine
    "#]]);
}

#[test]
fn an_engine_that_is_not_here_is_named() {
    Scene::new("1 on libvirt", "").check(&expect![[r#"
        1 Preparing s0; this host has fake, the VPS wants libvirt; move it elsewhere
    "#]]);
    let mut scene = Scene::new("1 on", "");
    scene.looks.clear();
    scene.check(&expect![[r#"
        1 Preparing s0; this host has no engine, the VPS wants fake; move it elsewhere
    "#]]);
}

#[test]
fn a_silent_engine_makes_its_own_vps_unknown_and_the_others_go_on() {
    let mut scene = Scene::new("1 on, 2 on libvirt, dead 3 libvirt, dead 4", "1 stopped, 4 running")
        .remember(2, ran_in(1));
    scene.engine(Engine::Libvirt, Answer::Failed);
    scene.check(&expect![[r#"
        do start 1
        do DESTROY 4
        1 Stopped s0; starting
        2 Unknown s0; libvirt is gone
        3 Unknown s0; libvirt is gone
        4 Running s0; removing
    "#]]);
}

#[test]
fn a_slow_engine_has_its_vps_shown_as_before_and_nothing_is_done_with_them() {
    let mut scene = Scene::new("1 on, 2 on libvirt, 3 on libvirt, job 7 2", "1 stopped, 9 running libvirt");
    scene.looks.get_mut(&Engine::Libvirt).unwrap().answer = Answer::Awaited;
    scene.memory.shown.insert(vps(2), (VpsState::Running, ago(60)));
    scene.check(&expect![[r#"
        do start 1
        1 Stopped s0; starting
        2 Running s0; waiting for libvirt to say what it does
        3 Unknown s0; waiting for libvirt to say what it does
        orphan 9
    "#]]);
}

#[test]
fn a_guest_in_another_engine_than_its_vps_belongs_into_is_left_alone_and_listed() {
    Scene::new("1 on, dead 2", "1 stopped libvirt, 2 running libvirt").check(&expect![[r#"
        do prepare 1 p1
        1 Preparing s0; preparing
        2 Absent s0
        orphan 1
        orphan 2
    "#]]);
}
