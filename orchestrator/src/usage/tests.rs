//! Hours are closed once, whatever the clock and the kills do, and nothing that was held or sent is missing or there twice.

use std::collections::{BTreeMap, BTreeSet};

use chom_protocol::network::Traffic;
use chom_protocol::{HostId, UnixMillis, VpsId};
use proptest::prelude::*;
use uuid::Uuid;

use super::archive::{BLOCK_RECORDS, Wanted};
use super::rows::{ClosingRow, HeldRow, HourTraffic, THE_CLOSING};
use super::*;
use crate::clock;
use crate::fleet::rows::VpsRow;
use crate::fleet::tests::{World, name};
use crate::fleet::vps::Action;
use crate::store::Revision;

const HOUR: u64 = 3600 * 1000;
const SETTINGS: UsageSettings =
    UsageSettings { hour_seconds: 3600, close_after_seconds: 600, kept_seconds: 400 * 24 * 3600 };

fn accountant(world: &World) -> Accountant {
    let archive = Archive::open(&world.folder.path().join("usage")).unwrap();
    Accountant::new(world.fleet.clone(), archive, SETTINGS)
}

async fn all(
    accountant: &Accountant,
    wanted: Wanted,
    limit: usize,
) -> Vec<chom_protocol::api::usage::UsageRecord> {
    let (mut records, mut after) = (Vec::new(), None);
    loop {
        let question = Question { wanted: wanted.clone(), after, limit, ..Question::default() };
        let (page, next) = accountant.page(question).await.unwrap();
        assert!(page.len() <= limit);
        records.extend(page);
        match next {
            Some(_) => after = next,
            None => return records,
        }
    }
}

#[tokio::test]
async fn an_hour_is_closed_once_with_all_that_was_there_also_what_is_gone() {
    let world = World::new().await;
    let host = world.host("h1", "us-east", 100).await;
    let began = clock::now();
    accountant(&world).close_due(began).await.unwrap();
    let stays = world.create("stays", "us-east").await.unwrap().value.vps.id;
    let goes = world.create("goes", "us-east").await.unwrap().value.vps.id;
    world.converge(host).await;
    world.act(goes, Action::Delete).await.unwrap();
    world.converge(host).await;
    world.act(goes, Action::Purge).await.unwrap();
    world.converge(host).await;
    assert!(world.fleet.state().get::<VpsRow>(&goes).is_none(), "it is gone within the hour");
    let first = began.0 / HOUR;
    let accountant = accountant(&world);
    accountant.close_due(UnixMillis((first + 1) * HOUR)).await.unwrap();
    assert_eq!(
        all(&accountant, Wanted::default(), 10).await,
        [],
        "it is not closed before traffic was taken over"
    );
    let closed_at = UnixMillis((first + 1) * HOUR + 600_000);
    accountant.close_due(closed_at).await.unwrap();
    let records = all(&accountant, Wanted::default(), 1).await;
    let of: BTreeMap<VpsId, _> = records.iter().map(|record| (record.vps, record)).collect();
    assert_eq!((records.len(), of.len()), (2, 2), "{records:?}");
    assert_eq!(of[&goes].cores, 1, "while it was there: {:?}", of[&goes]);
    assert!(of[&goes].seconds <= of[&stays].seconds);
    assert_eq!(of[&stays].id, format!("{}/{stays}", of[&stays].hour));

    // Again, after a restart, and with the clock set back and forth: the same.
    for now in [closed_at, began, UnixMillis(closed_at.0 + 1)] {
        accountant.close_due(now).await.unwrap();
        assert_eq!(all(&accountant, Wanted::default(), 10).await, records);
    }
    assert!(world.fleet.state().held_vps.is_empty(), "what is in a file is noted no longer");
    accountant.close_due(UnixMillis(closed_at.0 + 3 * HOUR)).await.unwrap();
    let later = all(&accountant, Wanted { vps: Some(stays), ..Wanted::default() }, 2).await;
    assert_eq!(later.len(), 4);
    assert!(
        later[1..].iter().all(|record| record.seconds == 3600 && record.core_seconds == 3600),
        "{later:?}"
    );
    assert_eq!(all(&accountant, Wanted { tenant: Some(name("nobody")), ..Wanted::default() }, 2).await, []);
}

#[tokio::test]
async fn a_kill_between_the_steps_of_a_closing_makes_no_second_record_of_an_hour() {
    let world = World::new().await;
    world.host("h1", "us-east", 10).await;
    let began = clock::now();
    accountant(&world).close_due(began).await.unwrap();
    world.create("a", "us-east").await.unwrap();
    let first = began.0 / HOUR;
    // Killed after the hour was frozen; then after its file was written.
    for write in [false, true] {
        let hour = first + u64::from(write);
        let freeze = move |decision: &mut crate::fleet::Decision| {
            let row = note::closing(&decision.state).unwrap();
            decision.put(ClosingRow { frozen: hour, ..row })
        };
        world.fleet.decide("test".into(), freeze).await.unwrap();
        let archive = Archive::open(&world.folder.path().join("usage")).unwrap();
        if write {
            archive.write(hour, std::iter::empty()).unwrap();
        }
        world.create(if write { "c" } else { "b" }, "us-east").await.unwrap();
        accountant(&world).close_due(UnixMillis((first + 1) * HOUR)).await.unwrap();
        let closing = note::closing(&world.fleet.state()).unwrap();
        assert_eq!((closing.frozen, closing.closed), (hour, hour));
        let count = archive.read(hour, None, 100, 10, &Wanted::default()).unwrap().records.len();
        assert_eq!(count, if write { 0 } else { 2 }, "a file that is there stands");
    }
}

#[test]
fn a_file_gives_each_record_once_and_says_when_it_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::open(folder.path()).unwrap();
    let count = 3 * BLOCK_RECORDS + 7;
    let record = |number: usize| chom_protocol::api::usage::UsageRecord {
        id: number.to_string(),
        tenant: name(&format!("t{:05}", number / 100)),
        vps: VpsId::new(Uuid::from_u128(number as u128)),
        ..sample()
    };
    assert_eq!(archive.write(7, (0..count).map(record)).unwrap(), count as u64);
    for limit in [1, 100, BLOCK_RECORDS, count + 1] {
        let (mut seen, mut after) = (BTreeSet::new(), None);
        loop {
            let part = archive.read(7, after.as_ref(), limit, 1, &Wanted::default()).unwrap();
            assert!(part.blocks <= 1);
            part.records
                .iter()
                .for_each(|record| assert!(seen.insert(record.id.clone()), "{} twice", record.id));
            after = part.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), count, "pages of {limit}");
    }
    let wanted = Wanted { tenant: Some(name("t00009")), vps: None };
    let part = archive.read(7, None, 1000, 10, &wanted).unwrap();
    assert_eq!((part.records.len(), part.next), (100, None));
    let part = archive.read(7, None, 99, 10, &wanted).unwrap();
    assert_eq!(part.next.unwrap().0, name("t00009"), "a place names nothing of another tenant");
    assert!(part.blocks <= 2, "only its own blocks are unpacked");
    assert!(archive.read(8, None, 10, 10, &Wanted::default()).unwrap().records.is_empty());
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let good = std::fs::read(&path).unwrap();
    for at in [0, good.len() / 2, good.len() - 50, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, bad).unwrap();
        let error = archive.read(7, None, count, 10, &Wanted::default()).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{at}: {error}");
    }
    std::fs::write(&path, &good).unwrap();
    archive.forget_before(8).unwrap();
    assert!(!archive.has(7));
}

fn sample() -> chom_protocol::api::usage::UsageRecord {
    chom_protocol::api::usage::UsageRecord {
        id: String::new(),
        hour: String::new(),
        vps: VpsId::new(Uuid::nil()),
        name: name("a"),
        external_id: None,
        tenant: name("a"),
        tenant_external_id: None,
        region: name("a"),
        size: name("a"),
        cores: 1,
        memory_bytes: chom_protocol::Bytes(1),
        disk_bytes: chom_protocol::Bytes(1),
        addresses: 1,
        seconds: 3600,
        on_seconds: 1,
        off_seconds: 1,
        core_seconds: 1,
        memory_mib_seconds: 1,
        disk_mib_seconds: 1,
        address_seconds: 1,
        received_bytes: 1,
        sent_bytes: 1,
    }
}

/// What happens to the one VPS of a simulated life, after so many minutes that may be negative: the clock is set back.
#[derive(Debug, Clone)]
enum Step {
    Cores(u32),
    Traffic(u64),
    Remove,
    Close,
}

fn step() -> impl Strategy<Value = (i64, Step)> {
    let what = prop_oneof![
        3 => (1_u32..9).prop_map(Step::Cores),
        3 => (1_u64..1000).prop_map(Step::Traffic),
        1 => Just(Step::Remove),
        4 => Just(Step::Close),
    ];
    (-90_i64..150, what)
}

proptest! {
    /// However the clock jumps: no second is in two records, no traffic is lost or doubled, and no hour has two records.
    #[test]
    fn closing_hours_counts_all_time_and_traffic_once(steps in proptest::collection::vec(step(), 1..40)) {
        let (vps, start) = (VpsId::new(Uuid::from_u128(1)), 500_000 * HOUR);
        let mut world = Life::new(vps, start);
        let mut now = start;
        for (minutes, step) in steps {
            now = now.saturating_add_signed(minutes * 60_000).max(start - HOUR);
            match step {
                Step::Cores(cores) => world.cores(cores, now),
                Step::Traffic(bytes) => world.traffic(bytes, now),
                Step::Remove => world.remove(now),
                Step::Close => world.close(now),
            }
        }
        let end = now.max(world.latest) + 4 * HOUR;
        world.remove(end);
        world.close(end + 4 * HOUR);
        let records = &world.records;
        let hours: BTreeSet<&String> = records.iter().map(|record| &record.hour).collect();
        prop_assert_eq!(hours.len(), records.len());
        prop_assert!(records.iter().all(|record| record.seconds <= 3600));
        let seconds: u64 = records.iter().map(|record| u64::from(record.seconds)).sum();
        let cores: u64 = records.iter().map(|record| record.core_seconds).sum();
        let bytes: u64 = records.iter().map(|record| record.received_bytes).sum();
        prop_assert_eq!(bytes, world.sent);
        prop_assert_eq!(seconds, world.lived_seconds);
        prop_assert_eq!(cores, world.core_seconds);
    }
}

/// The rows of one VPS, changed as the decider and the traffic keeper do, and what they should add up to.
struct Life {
    state: crate::fleet::state::State,
    vps: VpsId,
    records: Vec<chom_protocol::api::usage::UsageRecord>,
    /// The latest moment that was written down.
    latest: u64,
    lived_seconds: u64,
    core_seconds: u64,
    sent: u64,
}

impl Life {
    fn new(vps: VpsId, start: u64) -> Self {
        let mut state = crate::fleet::state::State::default();
        let before = start / HOUR - 1;
        state.insert(ClosingRow { hour_seconds: 3600, frozen: before, closed: before }, Revision(1));
        state.insert(row(vps, start), Revision(1));
        Self { state, vps, records: Vec::new(), latest: start, lived_seconds: 0, core_seconds: 0, sent: 0 }
    }

    fn closing(&self) -> ClosingRow {
        *self.state.get(&THE_CLOSING).unwrap()
    }

    fn change(&mut self, now: u64, change: impl FnOnce(&mut crate::fleet::state::State, VpsId)) {
        let before = self.state.clone();
        let cores = before.get::<VpsRow>(&self.vps).map_or(0, |row| row.spec.cores);
        change(&mut self.state, self.vps);
        for held in note::changed(&before, &self.state, &BTreeSet::from([self.vps]), UnixMillis(now)) {
            // Time goes on from what was written down last.
            let seconds = (held.until.0 - self.latest) / 1000;
            self.lived_seconds += seconds;
            self.core_seconds += seconds * u64::from(cores);
            self.latest = held.until.0;
            self.state.insert::<HeldRow>(held, Revision(1));
        }
    }

    fn cores(&mut self, cores: u32, now: u64) {
        self.change(now, |state, vps| {
            if let Some(mut row) = state.get::<VpsRow>(&vps).cloned() {
                row.spec.cores = cores;
                state.insert(row, Revision(1));
            }
        });
    }

    fn traffic(&mut self, bytes: u64, now: u64) {
        use crate::fleet::network::rows::TrafficRow;
        if self.state.get::<VpsRow>(&self.vps).is_none() {
            return;
        }
        let host = HostId::new(Uuid::nil());
        let kept = self.state.get::<TrafficRow>(&self.vps).cloned();
        let added = Traffic { in_bytes: bytes, out_bytes: 0 };
        let at = UnixMillis(now);
        let hours: Vec<HourTraffic> = kept.map(|row| row.hours).unwrap_or_default();
        let hours = note::charged(self.closing(), hours, added, at, at);
        let row = TrafficRow {
            vps: self.vps,
            host,
            counted: Traffic::default(),
            counted_at: at,
            months: Vec::new(),
            hours,
            quota: Default::default(),
        };
        self.state.insert(row, Revision(1));
        self.sent += bytes;
    }

    fn remove(&mut self, now: u64) {
        self.change(now, |state, vps| {
            state.remove::<crate::fleet::network::rows::TrafficRow>(&vps);
            state.remove::<VpsRow>(&vps);
        });
    }

    /// All hours that are over by then, as the accountant closes them, rows taken away included.
    fn close(&mut self, now: u64) {
        while self.closing().begins(self.closing().closed + 2).0 + 600_000 <= now {
            let hour = self.closing().closed + 1;
            self.state.insert(ClosingRow { frozen: hour, ..self.closing() }, Revision(1));
            let candidates = hour::candidates(&self.state, self.closing(), hour);
            let record = |(_, vps)| hour::record(&self.state, self.closing(), hour, vps, |_| None);
            let records: Vec<_> = candidates.into_iter().filter_map(record).collect();
            self.records.extend(records);
            self.state.insert(ClosingRow { closed: hour, ..self.closing() }, Revision(1));
            for id in keep::closed_rows(&self.state) {
                self.state.remove::<HeldRow>(&id);
            }
        }
    }
}

fn row(vps: VpsId, created_at: u64) -> VpsRow {
    let golden = include_str!("../../golden/rows/vps.v1.json");
    let (key, value) = golden.trim_end().split_once('\n').unwrap();
    let mut row: VpsRow = crate::store::decode_value(&key.parse().unwrap(), value).unwrap().row;
    (row.spec.id, row.created_at, row.retention, row.purging) = (vps, UnixMillis(created_at), None, None);
    row
}

#[test]
fn what_a_vps_had_is_weighed_by_its_time_and_known_to_be_on_only_as_long_as_its_host_was_seen() {
    use crate::fleet::rows::ObservedVpsRow;
    let (vps, begins) = (VpsId::new(Uuid::from_u128(1)), 500_000 * HOUR);
    let mut life = Life::new(vps, begins - HOUR / 2);
    life.state.insert(ClosingRow { hour_seconds: 3600, frozen: 499_999, closed: 499_999 }, Revision(1));
    let cores = life.state.get::<VpsRow>(&vps).unwrap().spec.cores;
    // On for the first quarter, with one core more in the second, off from then on.
    let golden = include_str!("../../golden/rows/observed-vps.v1.json");
    let (key, value) = golden.trim_end().split_once('\n').unwrap();
    let mut seen: ObservedVpsRow = crate::store::decode_value(&key.parse().unwrap(), value).unwrap().row;
    seen.vps = vps;
    seen.status.state = chom_protocol::vps::VpsState::Running;
    life.state.insert(seen.clone(), Revision(1));
    life.cores(cores + 1, begins + HOUR / 4);
    seen.status.state = chom_protocol::vps::VpsState::Stopped;
    life.change(begins + HOUR / 2, |state, _| state.insert(seen, Revision(1)));
    let record = |seen_at: u64| {
        hour::record(&life.state, life.closing(), 500_000, vps, |_| Some(UnixMillis(seen_at))).unwrap()
    };
    let whole = record(begins + 2 * HOUR);
    assert_eq!((whole.seconds, whole.on_seconds, whole.off_seconds), (3600, 1800, 1800));
    assert_eq!(whole.cores, cores + 1, "the most that it had");
    assert_eq!(whole.core_seconds, u64::from(cores) * 900 + u64::from(cores + 1) * 2700);
    let away = record(begins + 3 * HOUR / 4);
    assert_eq!((away.seconds, away.on_seconds, away.off_seconds), (3600, 1800, 900), "the rest is unknown");
}
