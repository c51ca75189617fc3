//! Whatever the scene, nothing is done that was not ordered.

use proptest::prelude::*;

use super::*;

prop_compose! {
    fn any_want()(number in 1..5_u128, hold in prop::bool::weighted(0.1), retained in prop::bool::weighted(0.2),
        restart: bool, count in 0..3_u64, placement in 1..3_u64,
        build in 0..2_u64, power in 0..3_usize, more in 0..4_usize) -> String {
        let power = ["on", "off", "pause"][power];
        let more = ["", "isolated", "suspended", "g0"][more];
        let word = |is: bool, word: &'static str| if is { word } else { "" };
        format!("{number} {power} {} {} {} s{count} p{placement} b{build} {more}",
            word(hold, "hold"), word(retained, "retained"), word(restart, "restart"))
    }
}

prop_compose! {
    fn any_have()(number in 1..7_u128, state in 0..6_usize, placement in 1..3_u64, drift: bool, build in 0..2_u64)
        -> (u128, String) {
        let states = ["running", "stopped", "byguest", "crashed", "paused", "unknown"];
        (number, format!("{number} {} p{placement} b{build} {}", states[state], if drift { "drift" } else { "" }))
    }
}

prop_compose! {
    fn any_memory()(ran in prop::option::of(1..3_u128), off: bool, stopping in prop::option::of(0..200_u64),
        started in prop::option::of(0..100_u64), start_count in 0..3_u64, placement in 0..3_u64) -> VpsMemory {
        VpsMemory {
            placement, start_count, running_in: ran.map(boot), off_by_guest: off && ran.is_none(),
            stopping: stopping.map(|s| Stopping { since: ago(s), asked_at: ago(s / 2) }),
            started_at: started.map(ago),
            rescue: None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whatever_the_scene_nothing_is_done_that_was_not_ordered(
        wants in prop::collection::vec(any_want(), 0..4),
        dead in prop::collection::btree_set(1..7_u128, 0..4),
        haves in prop::collection::btree_map(1..7_u128, any_have(), 0..6),
        memories in prop::collection::btree_map(1..7_u128, any_memory(), 0..6),
        cap in 0..3_u32, mode in 0..3_u8, may_have_moved: bool, restarted in prop::option::of(1..5_u128), answer in 0..9_u8,
    ) {
        let dead = dead.iter().map(|number| format!("dead {number}"));
        let jobs = restarted.map(|number| format!("job 7 {number}"));
        let want: Vec<String> = wants.into_iter().chain(dead).chain(jobs).collect();
        let have: BTreeMap<u128, String> = haves.into_values().collect();
        let mut scene = Scene::new(&want.join(","), &have.into_values().collect::<Vec<_>>().join(","));
        scene.memory.vps = memories.into_iter().map(|(number, memory)| (vps(number), memory)).collect();
        scene.terms.destroys_per_hour = cap;
        scene.terms.may_have_moved = may_have_moved;
        scene.terms.mode = match mode { 0 => Mode::Managed, 1 => Mode::ReportOnly, _ => Mode::Hold { since: Generation::default() } };
        let answer = match answer { 0 => Answer::Failed, 1 => Answer::Awaited, _ => Answer::Given };
        scene.looks.get_mut(&Engine::Fake).unwrap().answer = answer;
        scene.learn();
        let plan = scene.plan();
        prop_assert_eq!(&plan, &scene.plan());
        let guests = our_guests(Some(&scene.desired), &scene.looks);
        let mut touched = BTreeSet::new();
        let mut counted = 0;
        for action in &plan.actions {
            prop_assert!(scene.terms.mode != Mode::ReportOnly);
            if let Some(id) = action.vps() {
                prop_assert!(touched.insert(id), "two actions on one VPS");
                prop_assert!(answer == Answer::Given, "acted on what was not seen");
                let want = scene.desired.vps.get(&id);
                prop_assert!(!want.is_some_and(|want| want.hold), "touched what is held");
                match action {
                    Action::Destroy { counts, .. } => {
                        prop_assert!(want.is_none() && scene.desired.tombstones.contains_key(&id));
                        prop_assert!(scene.terms.mode == Mode::Managed);
                        counted += u32::from(*counts);
                    }
                    Action::Start { .. } => {
                        prop_assert!(want.is_some_and(|want| want.wanted_power() != Power::Stopped) && !may_have_moved);
                        prop_assert_eq!(guests[&id].placement, want.unwrap().placement);
                        prop_assert_eq!(guests[&id].build, want.unwrap().build);
                    }
                    // A disk is only ever taken from a guest that is off.
                    Action::Prepare { .. } if guests.get(&id).is_some_and(|guest| guest.build < want.unwrap().build) => {
                        prop_assert!(!verdict::is_on(guests[&id].state));
                    }
                    _ => prop_assert!(want.is_some() && scene.terms.mode == Mode::Managed),
                }
            }
        }
        prop_assert!(counted <= cap);
        let named: BTreeSet<VpsId> = scene.desired.vps.keys().chain(scene.desired.tombstones.keys()).copied().collect();
        if mode != 1 {
            prop_assert_eq!(plan.statuses.keys().copied().collect::<BTreeSet<_>>(), named);
        }
    }
}
