//! The rules of the plan. A scene is a few lines of text; what is planned and said of it is rendered as text.
//!
//! Desired (`want`): `1 on` `1 off` `1 pause`, then any of `b2` (build), `g0` (grace to stop), `isolated`, `suspended`, `hold`, `retained`, `restart` (policy), `s3` (start count), `p2` (placement), `from2` (a copy of 2), `rescue`;
//! `dead 1` (tombstone; `young`, `p2`), `job 7 1` (restart VPS 1; `late`). Observed (`have`): `1 running|stopped|byguest|crashed|paused`,
//! `p2`, `drift`, `+9` (snapshot 9), `+c3` (one for a clone, 3), `unreadable` (disk); `foreign NAME`. All of it is of the
//! fake engine; `libvirt` at the end of a line says that it is of that one.
//! `take 7 1`, `restore 7 1`, `remove 7 1`: a job of that number with the snapshot of that number, of VPS 1.

use std::fmt::Write as _;

use chom_protocol::Generation;
use chom_protocol::foreign::Adopted;
use chom_protocol::host::{Acceleration, AgentSettings, EngineStatus};
use chom_protocol::job::Job;
use chom_protocol::units::Bytes as Size;
use chom_protocol::vps::{
    CloneSource, Engine, GuestShutdown, ImageFormat, ImageReference, NetworkInterface, Power, SnapshotStatus,
    Suspension, Tombstone, VpsSpec,
};
use chom_protocol::{HostId, Name, SnapshotId};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::driver::snapshot::Snapshots;
use crate::reconcile::memory::{JobMemory, Stopping, VpsMemory};

mod prefetch;
mod snapshots;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn vps(number: u128) -> VpsId {
    VpsId::new(Uuid::from_u128(number))
}

fn job(number: u128) -> JobId {
    JobId::new(Uuid::from_u128(number))
}

fn boot(number: u128) -> BootId {
    BootId::new(Uuid::from_u128(number))
}

fn ago(seconds: u64) -> UnixMillis {
    UnixMillis(NOW.0 - seconds * 1000)
}

struct Scene {
    desired: HostSpec,
    looks: Looks,
    memory: Memory,
    work: Work,
    terms: Terms,
}

fn spec(number: u128, power: Power) -> VpsSpec {
    let name: Name = format!("v{number}").parse().unwrap();
    VpsSpec {
        id: vps(number),
        tenant: Name::default_tenant(),
        name: name.clone(),
        placement: 1,
        engine: Engine::Fake,
        power,
        guest_shutdown: GuestShutdown::StayOff,
        hold: false,
        retained: false,
        start_count: 0,
        build: 0,
        suspension: None,
        stop_grace_seconds: None,
        cores: 1,
        memory: Size::gib(1),
        disk: Size::gib(1),
        image: Some(ImageReference {
            name: "tiny".parse().unwrap(),
            sha256: image(),
            size: Size::mib(1),
            format: ImageFormat::Qcow2,
        }),
        interface: NetworkInterface::bare([2, 0, 0, 0, 0, 1]),
        ssh_keys: vec![],
        user_data: None,
        source: None,
        rescue: None,
        iso: None,
        adopted: None,
    }
}

fn image() -> Sha256 {
    Sha256::of(b"image")
}

impl Scene {
    fn new(want: &str, have: &str) -> Self {
        let desired = HostSpec {
            prefetch: Default::default(),
            host: HostId::new(Uuid::from_u128(99)),
            generation: Generation { epoch: 1, number: 1 },
            settings: AgentSettings::default(),
            vps: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            jobs: BTreeMap::new(),
        };
        let terms = Terms {
            mode: Mode::Managed,
            may_have_moved: false,
            destroys_per_hour: 5,
            boot: boot(1),
            now: NOW,
        };
        let mut scene =
            Self { desired, looks: Looks::new(), memory: Memory::default(), work: Work::default(), terms };
        scene.engine(Engine::Fake, Answer::Given);
        scene.work.blobs.insert(image(), BlobState::Ready);
        want.split(',').map(str::trim).filter(|line| !line.is_empty()).for_each(|line| scene.want(line));
        have.split(',').map(str::trim).filter(|line| !line.is_empty()).for_each(|line| scene.have(line));
        scene
    }

    fn engine(&mut self, engine: Engine, answer: Answer) {
        let problem = (answer == Answer::Failed).then(|| format!("{engine} is gone"));
        let acceleration = Acceleration::None;
        let status = EngineStatus { engine, version: "1".to_owned(), acceleration, problem };
        self.looks
            .insert(engine, Look { engine: status, guests: vec![], snapshots: BTreeMap::new(), answer });
    }

    fn want(&mut self, line: &str) {
        let (line, engine) = engine_at_end(line);
        let words: Vec<&str> = line.split_whitespace().collect();
        let placement = words.iter().find_map(|word| word.strip_prefix('p')?.parse().ok()).unwrap_or(1);
        match words.as_slice() {
            ["dead", number, rest @ ..] => {
                let created_at = if rest.contains(&"young") { ago(60) } else { ago(86_400) };
                self.desired
                    .tombstones
                    .insert(vps(number.parse().unwrap()), Tombstone { placement, engine, created_at });
            }
            [what @ ("take" | "restore" | "remove"), number, target] => {
                let (vps, number) = (vps(target.parse().unwrap()), number.parse().unwrap());
                let snapshot = SnapshotId::new(Uuid::from_u128(number));
                let kind = match *what {
                    "take" => JobKind::TakeSnapshot { vps, snapshot },
                    "restore" => JobKind::RestoreSnapshot { vps, snapshot },
                    _ => JobKind::DeleteSnapshot { vps, snapshot },
                };
                self.desired.jobs.insert(job(number), Job { kind, deadline: NOW.plus_seconds(600) });
            }
            ["job", number, target, rest @ ..] => {
                let kind = JobKind::Restart { vps: vps(target.parse().unwrap()) };
                let deadline = if rest.contains(&"late") { ago(1) } else { NOW.plus_seconds(600) };
                self.desired.jobs.insert(job(number.parse().unwrap()), Job { kind, deadline });
            }
            [number, power, rest @ ..] => {
                let power = match *power {
                    "on" => Power::Running,
                    "pause" => Power::Paused,
                    _ => Power::Stopped,
                };
                let mut spec = spec(number.parse().unwrap(), power);
                (spec.placement, spec.engine) = (placement, engine);
                spec.hold = rest.contains(&"hold");
                spec.build = rest.iter().find_map(|word| word.strip_prefix('b')?.parse().ok()).unwrap_or(0);
                spec.stop_grace_seconds = rest.iter().find_map(|word| word.strip_prefix('g')?.parse().ok());
                spec.suspension = match () {
                    () if rest.contains(&"suspended") => Some(Suspension::Stopped),
                    () if rest.contains(&"isolated") => Some(Suspension::Isolated),
                    () => None,
                };
                spec.retained = rest.contains(&"retained");
                if rest.contains(&"restart") {
                    spec.guest_shutdown = GuestShutdown::Restart;
                }
                spec.start_count =
                    rest.iter().find_map(|word| word.strip_prefix('s')?.parse().ok()).unwrap_or(0);
                spec.source = rest.iter().find_map(|word| {
                    let number = word.strip_prefix("from")?.parse().ok()?;
                    Some(CloneSource { vps: vps(number), snapshot: None })
                });
                if rest.contains(&"rescue") {
                    spec.rescue = Some(ImageReference {
                        name: "rescue".parse().unwrap(),
                        ..spec.image.clone().unwrap()
                    });
                }
                self.work.definitions.insert(spec.id, Sha256::of(b"definition"));
                self.desired.vps.insert(spec.id, spec);
            }
            _ => panic!("{line}"),
        }
    }

    fn have(&mut self, line: &str) {
        let (line, engine) = engine_at_end(line);
        if !self.looks.contains_key(&engine) {
            self.engine(engine, Answer::Given);
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, state, rest) = match words.as_slice() {
            ["foreign", name] => (name, VpsState::Running, &[][..]),
            [number, state, rest @ ..] => (number, state_of(state), rest),
            _ => panic!("{line}"),
        };
        let number: Option<u128> = name.parse().ok();
        if let Some(number) = number.filter(|_| !rest.contains(&"unreadable")) {
            let mut snapshots = Snapshots::default();
            for word in rest {
                if let Some(clone) = word.strip_prefix("+c") {
                    snapshots.for_clones.push(vps(clone.parse().unwrap()));
                } else if let Some(id) = word.strip_prefix('+') {
                    let id = SnapshotId::new(Uuid::from_u128(id.parse().unwrap()));
                    snapshots.kept.push(SnapshotStatus { id, taken_at: NOW, disk: None });
                }
            }
            self.looks.get_mut(&engine).unwrap().snapshots.insert(vps(number), snapshots);
        }
        let placement = rest.iter().find_map(|word| word.strip_prefix('p')?.parse().ok()).unwrap_or(1);
        let definition: &[u8] = if rest.contains(&"drift") { b"old" } else { b"definition" };
        self.looks.get_mut(&engine).unwrap().guests.push(ObservedGuest {
            name: (*name).to_owned(),
            vps: number.map(vps),
            placement: if number.is_some() { placement } else { 0 },
            build: rest.iter().find_map(|word| word.strip_prefix('b')?.parse().ok()).unwrap_or(0),
            changed_by_hand: rest.contains(&"byhand"),
            restart_needed: rest.contains(&"waits"),
            definition: number.map(|_| Sha256::of(definition)),
            hardware: None,
            port: None,
            state,
        });
    }

    fn remember(mut self, number: u128, memory: VpsMemory) -> Self {
        self.memory.vps.insert(vps(number), memory);
        self
    }

    fn learn(&mut self) {
        let guests = our_guests(Some(&self.desired), &self.looks);
        self.memory.learn(Some(&self.desired), &guests, self.terms.boot, self.terms.now);
    }

    fn plan(&self) -> Plan {
        plan(&Input {
            desired: Some(&self.desired),
            looks: &self.looks,
            memory: &self.memory,
            work: &self.work,
            terms: self.terms,
        })
    }

    fn check(mut self, expected: &Expect) {
        self.learn();
        let plan = self.plan();
        assert_eq!(plan, self.plan(), "the same input, the same plan");
        expected.assert_eq(&render(&plan));
    }
}

fn engine_at_end(line: &str) -> (&str, Engine) {
    match line.strip_suffix(" libvirt") {
        Some(line) => (line, Engine::Libvirt),
        None => (line, Engine::Fake),
    }
}

fn state_of(word: &str) -> VpsState {
    match word {
        "running" => VpsState::Running,
        "stopped" => VpsState::Stopped,
        "byguest" => VpsState::StoppedByGuest,
        "crashed" => VpsState::Crashed,
        "paused" => VpsState::Paused,
        "unknown" => VpsState::Unknown,
        _ => panic!("{word}"),
    }
}

fn short(id: Uuid) -> u128 {
    id.as_u128()
}

fn render(plan: &Plan) -> String {
    let mut out = String::new();
    for action in &plan.actions {
        let text = match action {
            Action::Fetch { what, .. } => format!("fetch {what}"),
            Action::Prepare { vps, placement } => format!("prepare {} p{placement}", short(vps.uuid())),
            Action::Start { vps, job: None } => format!("start {}", short(vps.uuid())),
            Action::Start { vps, job: Some(job) } => {
                format!("start {} for job {}", short(vps.uuid()), short(job.uuid()))
            }
            Action::Pause { vps } => format!("pause {}", short(vps.uuid())),
            Action::Shutdown { vps } => format!("shutdown {}", short(vps.uuid())),
            Action::PowerOff { vps } => format!("power off {}", short(vps.uuid())),
            Action::Snapshot { vps, change, name, .. } => {
                let name = match name {
                    SnapshotName::Kept(id) => short(id.uuid()).to_string(),
                    SnapshotName::ForClone(clone) => format!("for clone {}", short(clone.uuid())),
                };
                format!("{} snapshot {name} of {}", format!("{change:?}").to_lowercase(), short(vps.uuid()))
            }
            Action::Destroy { vps, counts } => {
                format!("DESTROY {}{}", short(vps.uuid()), if *counts { "" } else { " uncounted" })
            }
            Action::BeginJob { job } => format!("begin job {}", short(job.uuid())),
            Action::FinishJob { job, outcome } => format!("finish job {}: {outcome:?}", short(job.uuid())),
        };
        let _ = writeln!(out, "do {text}");
    }
    for (id, status) in &plan.statuses {
        let _ = write!(out, "{} {:?} s{}", short(id.uuid()), status.state, status.start_count);
        if status.build > 0 {
            let _ = write!(out, " b{}", status.build);
        }
        if status.restart_needed {
            out.push_str(", waits for its next start");
        }
        for note in [&status.progress, &status.problem].into_iter().flatten() {
            let _ = write!(out, "; {note}");
        }
        out.push('\n');
    }
    for id in &plan.orphans {
        let _ = writeln!(out, "orphan {}", short(id.uuid()));
    }
    for guest in &plan.foreign {
        let _ = writeln!(out, "foreign {}", guest.name);
    }
    for id in &plan.destroys_waiting {
        let _ = writeln!(out, "waiting {}", short(id.uuid()));
    }
    if let Some(at) = plan.wake_at {
        let _ = writeln!(out, "wake in {} s", at.seconds_since(NOW));
    }
    out
}

fn ran_in(number: u128) -> VpsMemory {
    VpsMemory {
        placement: 1,
        running_in: Some(boot(number)),
        started_at: Some(ago(900)),
        ..VpsMemory::default()
    }
}

fn stopping_for(seconds: u64) -> VpsMemory {
    let stopping = Stopping { since: ago(seconds), asked_at: ago(seconds.min(3)) };
    VpsMemory { stopping: Some(stopping), ..ran_in(1) }
}

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
fn absence_never_destroys_and_foreign_guests_are_never_touched() {
    Scene::new("", "1 running, 2 stopped, foreign mine").remember(1, ran_in(1)).check(&expect![[r#"
        orphan 1
        orphan 2
        foreign mine
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
fn restarts_of_one_vps_follow_each_other() {
    Scene::new("1 on, job 7 1, job 8 1", "1 running").check(&expect![[r#"
        do begin job 7
        do shutdown 1
        1 Running s0; shutting down
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
