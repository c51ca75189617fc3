//! Rules, told as stories: what is seen, what time it is, and what the alerts then are.

use std::collections::BTreeMap;

use chom_protocol::VpsId;
use uuid::Uuid;

use super::*;
use crate::alerts::facts::VpsFacts;
use crate::history::{FileSystemLevel, Levels};

const FOR: u64 = 60;

fn settings() -> RuleSettings {
    RuleSettings {
        for_seconds: FOR,
        disk: Threshold { fire: 0.9, clear: 0.85 },
        inodes: Threshold { fire: 0.9, clear: 0.85 },
        memory: Threshold { fire: 0.95, clear: 0.9 },
        certificate_days: 7,
        fleet_share: 0.5,
    }
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn host_id(number: u128) -> HostId {
    HostId::new(Uuid::from_u128(number))
}

/// Facts that a test sets, and the alerts that follow.
#[derive(Default)]
struct World {
    facts: Facts<'static>,
    rows: BTreeMap<AlertId, AlertRow>,
    told: BTreeMap<Group, UnixMillis>,
    ids: u128,
}

impl World {
    fn of(hosts: u128) -> Self {
        let mut world = Self::default();
        for number in 1..=hosts {
            let host = HostFacts {
                name: leak(format!("h{number}").parse().unwrap()),
                region: leak("us-east".parse().unwrap()),
                quarantined: false,
                seen_at: Some(UnixMillis(0)),
                seen: true,
                certificate_not_after: None,
                levels: Some(leak(Levels::default())),
                destroys_waiting: Some(0),
                over_quota: BTreeMap::new(),
                vps: BTreeMap::new(),
            };
            world.facts.hosts.insert(host_id(number), host);
        }
        world
    }

    fn host(&mut self, number: u128) -> &mut HostFacts<'static> {
        self.facts.hosts.get_mut(&host_id(number)).unwrap()
    }

    fn gone(&mut self, number: u128, seen_at_seconds: u64) {
        let host = self.host(number);
        (host.seen, host.seen_at) = (false, Some(UnixMillis(seen_at_seconds * 1000)));
        (host.levels, host.destroys_waiting) = (None, None);
        host.vps.clear();
    }

    fn back(&mut self, number: u128) {
        let host = self.host(number);
        (host.seen, host.levels, host.destroys_waiting) = (true, Some(leak(Levels::default())), Some(0));
    }

    fn disk(&mut self, number: u128, ratio: Option<f64>) {
        let level = FileSystemLevel { disk_ratio: ratio, inodes_ratio: Some(0.1) };
        self.host(number).levels =
            Some(leak(Levels { memory_ratio: Some(0.5), file_systems: vec![("/".into(), level)] }));
    }

    fn vps(&mut self, number: u128, problem: Option<&str>) {
        let problem = problem.map(str::to_owned);
        let vps = VpsFacts { name: leak("web".parse().unwrap()), problem };
        self.host(number).vps = BTreeMap::from([(VpsId::new(Uuid::from_u128(7)), vps)]);
    }

    /// One pass at a second; gives what changed.
    fn at(&mut self, seconds: u64) -> String {
        let now = UnixMillis(seconds * 1000);
        let told = self.told.clone();
        let transitions =
            evaluate(&settings(), &self.facts, self.rows.values(), &|group| told.get(group).copied(), now);
        let mut lines = Vec::new();
        for transition in transitions {
            match transition {
                Transition::Open(draft) => {
                    self.ids += 1;
                    let id = AlertId::new(Uuid::from_u128(self.ids));
                    lines.push(format!(
                        "{} {}",
                        draft.subject.rule,
                        if draft.firing { "fires" } else { "pending" }
                    ));
                    self.rows.insert(id, draft.into_row(id));
                }
                Transition::Change(row) => {
                    let before = self.rows.insert(row.id, row.clone()).unwrap();
                    if before.state != row.state {
                        lines.push(format!("{} {:?}", row.subject.rule, row.state).to_lowercase());
                    }
                }
                Transition::Drop(id) => {
                    let row = self.rows.remove(&id).unwrap();
                    lines.push(format!("{} dropped", row.subject.rule));
                }
            }
        }
        lines.join(", ").to_lowercase()
    }

    /// Everything was told.
    fn tell(&mut self, seconds: u64) {
        for row in self.rows.values() {
            self.told.insert(row.group(), UnixMillis(seconds * 1000));
        }
    }
}

#[test]
fn a_host_that_is_gone_fires_after_for_and_resolves_when_it_is_back() {
    let mut world = World::of(2);
    world.gone(1, 100);
    assert_eq!(world.at(145), "hostunreachable pending");
    assert_eq!(world.at(204), "");
    assert_eq!(world.at(205), "hostunreachable firing");
    assert_eq!(world.at(5000), "");
    world.back(1);
    assert_eq!(world.at(5001), "hostunreachable resolved");
    assert_eq!(world.at(5002), "");
}

#[test]
fn a_short_absence_leaves_nothing_behind() {
    let mut world = World::of(1);
    world.gone(1, 100);
    assert_eq!(world.at(145), "hostunreachable pending");
    world.back(1);
    assert_eq!(world.at(160), "hostunreachable dropped");
    assert!(world.rows.is_empty());
}

#[test]
fn for_is_counted_from_the_stored_since_whoever_counts() {
    let mut world = World::of(1);
    world.gone(1, 100);
    world.at(145);
    // A restart: rows are all that is left; the grace is over.
    assert_eq!(world.at(210), "hostunreachable firing");
}

#[test]
fn a_host_that_never_connected_is_not_lost() {
    let mut world = World::of(1);
    world.gone(1, 0);
    world.host(1).seen_at = None;
    assert_eq!(world.at(1000), "");
}

#[test]
fn in_the_grace_nothing_fires_or_resolves_for_want_of_reconnected_hosts() {
    let mut world = World::of(4);
    world.gone(1, 100);
    world.at(145);
    world.at(205);
    for number in 1..=4 {
        world.gone(number, 100);
    }
    world.facts.in_grace = true;
    assert_eq!(world.at(1000), "", "neither the one that fires nor the others");
    world.back(1);
    assert_eq!(world.at(1001), "hostunreachable resolved", "a host that is seen is seen");
    for number in 1..=4 {
        world.back(number);
    }
    world.facts.in_grace = false;
    assert_eq!(world.at(1100), "");
}

#[test]
fn ten_minutes_without_orchestrator_are_no_news_but_of_who_stays_away() {
    let mut world = World::of(6);
    world.gone(1, 100);
    world.disk(2, Some(0.95));
    world.at(145);
    assert_eq!(world.at(205), "hostunreachable firing, disknearlyfull firing");
    // From 300 to 900 it is away. Its rows are what is left of it, and every host was last seen before.
    for number in 2..=6 {
        world.gone(number, 300);
    }
    world.facts.in_grace = true;
    for second in 900..990 {
        match second {
            910 => {
                world.back(2);
                world.disk(2, Some(0.95)); // as full as before: the same alert, not a second one
            }
            920 => world.back(3),
            930 => world.back(4),
            940 => world.back(5),
            _ => {}
        }
        assert_eq!(world.at(second), "", "at {second} s");
    }
    world.facts.in_grace = false;
    let changes: Vec<(u64, String)> =
        (990..1200).map(|second| (second, world.at(second))).filter(|(_, what)| !what.is_empty()).collect();
    let told = |second: u64, what: &str| (second, what.to_owned());
    assert_eq!(changes, [told(990, "hostunreachable pending"), told(1050, "hostunreachable firing")]);
    world.back(6);
    world.back(1);
    assert_eq!(world.at(1200), "hostunreachable resolved, hostunreachable resolved");
}

#[test]
fn what_an_unseen_host_had_stays_as_it_was() {
    let mut world = World::of(4);
    world.disk(1, Some(0.95));
    world.vps(1, Some("should run and is off"));
    world.host(1).destroys_waiting = Some(2);
    world.at(10);
    assert_eq!(world.at(70), "disknearlyfull firing, vpsnotasdesired firing, destroyswaiting firing");
    world.gone(1, 70);
    assert_eq!(world.at(120), "hostunreachable pending", "and nothing resolves");
    world.back(1);
    world.host(1).levels = None;
    assert_eq!(
        world.at(130),
        "hostunreachable dropped, vpsnotasdesired resolved, destroyswaiting resolved",
        "seen and well; of its disk no sample came yet"
    );
}

#[test]
fn levels_have_a_clear_level_of_their_own() {
    let mut world = World::of(1);
    for (seconds, ratio, expected) in [
        (0, 0.89, ""),
        (1, 0.90, "disknearlyfull pending"),
        (61, 0.88, ""),
        (62, 0.90, "disknearlyfull firing"),
        (63, 0.86, ""),
        (64, 0.90, ""),
        (65, 0.8499, "disknearlyfull resolved"),
        (66, 0.86, ""),
    ] {
        world.disk(1, Some(ratio));
        assert_eq!(world.at(seconds), expected, "at {seconds} with {ratio}");
    }
}

#[test]
fn a_file_system_that_is_gone_resolves_and_one_without_figures_does_not() {
    let mut world = World::of(1);
    world.disk(1, Some(0.95));
    world.at(0);
    world.at(60);
    world.disk(1, None);
    assert_eq!(world.at(61), "", "its figures are missing");
    world.host(1).levels = Some(leak(Levels::default()));
    assert_eq!(world.at(62), "disknearlyfull resolved", "it was unmounted");
}

#[test]
fn memory_and_inodes_fire_too() {
    let mut world = World::of(1);
    let level = FileSystemLevel { disk_ratio: Some(0.1), inodes_ratio: Some(0.99) };
    let levels = Levels { memory_ratio: Some(0.96), file_systems: vec![("/".into(), level)] };
    world.host(1).levels = Some(leak(levels));
    assert_eq!(world.at(0), "inodesnearlyfull pending, memorynearlyfull pending");
}

#[test]
fn a_vps_of_which_nothing_can_be_said_changes_nothing() {
    let mut world = World::of(1);
    world.vps(1, None);
    assert_eq!(world.at(0), "");
    world.vps(1, Some("should run and is off"));
    world.at(1);
    assert_eq!(world.at(61), "vpsnotasdesired firing");
    world.vps(1, None);
    assert_eq!(world.at(62), "");
    world.host(1).vps.clear();
    assert_eq!(world.at(63), "vpsnotasdesired resolved");
}

#[test]
fn half_the_fleet_gone_within_a_minute_is_one_alert() {
    let mut world = World::of(4);
    world.gone(1, 100);
    world.gone(2, 159);
    assert_eq!(world.at(205), "fleetunreachable pending, hostunreachable pending, hostunreachable pending");
    assert_eq!(world.at(265), "fleetunreachable firing", "the single ones wait");
    assert_eq!(world.at(400), "");
    world.back(1);
    assert_eq!(world.at(401), "fleetunreachable resolved, hostunreachable dropped");
    assert_eq!(world.at(460), "", "the one that is left may be on its way");
    assert_eq!(world.at(461), "hostunreachable firing", "it is an outage of its own");
}

#[test]
fn hosts_that_go_one_after_another_or_one_of_two_are_single_outages() {
    let mut world = World::of(4);
    world.gone(1, 100);
    world.gone(2, 161);
    assert_eq!(world.at(210), "hostunreachable pending, hostunreachable pending");
    let mut world = World::of(2);
    world.gone(1, 100);
    assert_eq!(world.at(145), "hostunreachable pending");
}

#[test]
fn a_host_out_of_the_fleet_takes_its_alerts_along() {
    let mut world = World::of(1);
    world.gone(1, 100);
    world.at(145);
    world.at(205);
    world.facts.hosts.clear();
    assert_eq!(world.at(206), "hostunreachable resolved");
}

#[test]
fn certificates_and_clones_fire_at_once_seen_or_not() {
    let mut world = World::of(1);
    world.gone(1, 0);
    world.host(1).seen_at = None;
    world.host(1).certificate_not_after = Some(UnixMillis(8 * DAY_MILLIS));
    world.facts.certificates =
        vec![WatchedCertificate { name: "certificate of the API".into(), not_after: UnixMillis(DAY_MILLIS) }];
    assert_eq!(world.at(0), "certificateexpiring fires");
    assert_eq!(world.at(2 * 24 * 3600), "certificateexpiring fires");
    world.host(1).certificate_not_after = Some(UnixMillis(40 * DAY_MILLIS));
    world.host(1).quarantined = true;
    assert_eq!(world.at(2 * 24 * 3600 + 1), "certificateexpiring resolved, hostquarantined fires");
}

#[test]
fn what_comes_back_before_anybody_heard_of_its_end_is_the_same_alert() {
    let mut world = World::of(1);
    world.disk(1, Some(0.95));
    world.at(0);
    world.at(60);
    world.tell(60);
    world.disk(1, Some(0.5));
    assert_eq!(world.at(70), "disknearlyfull resolved");
    world.disk(1, Some(0.95));
    assert_eq!(world.at(80), "disknearlyfull pending");
    assert_eq!(world.at(140), "disknearlyfull firing");
    let row = world.rows.values().next().unwrap();
    assert_eq!((world.rows.len(), row.firing_since), (1, Some(UnixMillis(60_000))));
    world.disk(1, Some(0.5));
    assert_eq!(world.at(150), "disknearlyfull resolved");
    world.tell(160);
    world.disk(1, Some(0.95));
    assert_eq!(world.at(170), "disknearlyfull pending");
    assert_eq!(world.rows.len(), 2, "they heard of its end: this is a new one");
}

#[test]
fn a_clock_that_stepped_back_does_not_make_news_old() {
    let mut world = World::of(1);
    world.disk(1, Some(0.95));
    world.at(1000);
    world.at(1060);
    world.tell(1060);
    world.disk(1, Some(0.5));
    world.at(50);
    let row = world.rows.values().next().unwrap();
    assert!(row.resolved_at.unwrap() > UnixMillis(1_060_000));
}
