//! A scene of the plan's rules as a few lines of text, and what is planned and said of it as text.
//!
//! Desired (`want`): `1 on` `1 off` `1 pause`, then any of `b2` (build), `g0` (grace to stop), `isolated`, `suspended`, `hold`, `retained`, `restart` (policy), `s3` (start count), `p2` (placement), `from2` (a copy of 2), `rescue`;
//! `dead 1` (tombstone; `young`, `p2`), `job 7 1` (restart VPS 1; `late`). Observed (`have`): `1 running|stopped|byguest|crashed|paused`,
//! `p2`, `drift`, `+9` (snapshot 9), `+c3` (one for a clone, 3), `unreadable` (disk); `foreign NAME`. All of it is of the
//! fake engine; `libvirt` at the end of a line says that it is of that one.
//! `take 7 1`, `restore 7 1`, `remove 7 1`: a job of that number with the snapshot of that number, of VPS 1.

use std::fmt::Write as _;

use chom_protocol::Generation;
use chom_protocol::host::{Acceleration, AgentSettings, EngineStatus};
use chom_protocol::job::Job;
use chom_protocol::units::Bytes as Size;
use chom_protocol::vps::{
    CloneSource, Engine, GuestShutdown, ImageFormat, ImageReference, NetworkInterface, Power, SnapshotStatus,
    Suspension, Tombstone, VpsSpec,
};
use chom_protocol::{HostId, Name, SnapshotId};
use expect_test::Expect;
use uuid::Uuid;

use super::super::*;
use crate::driver::snapshot::Snapshots;
use crate::reconcile::memory::{Stopping, VpsMemory};

pub(super) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

pub(super) fn vps(number: u128) -> VpsId {
    VpsId::new(Uuid::from_u128(number))
}

pub(super) fn job(number: u128) -> JobId {
    JobId::new(Uuid::from_u128(number))
}

pub(super) fn boot(number: u128) -> BootId {
    BootId::new(Uuid::from_u128(number))
}

pub(super) fn ago(seconds: u64) -> UnixMillis {
    UnixMillis(NOW.0 - seconds * 1000)
}

pub(super) struct Scene {
    pub(super) desired: HostSpec,
    pub(super) looks: Looks,
    pub(super) memory: Memory,
    pub(super) work: Work,
    pub(super) terms: Terms,
}

pub(super) fn spec(number: u128, power: Power) -> VpsSpec {
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

pub(super) fn image() -> Sha256 {
    Sha256::of(b"image")
}

impl Scene {
    pub(super) fn new(want: &str, have: &str) -> Self {
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

    pub(super) fn engine(&mut self, engine: Engine, answer: Answer) {
        let problem = (answer == Answer::Failed).then(|| format!("{engine} is gone"));
        let acceleration = Acceleration::None;
        let status = EngineStatus { engine, version: "1".to_owned(), acceleration, problem };
        self.looks
            .insert(engine, Look { engine: status, guests: vec![], snapshots: BTreeMap::new(), answer });
    }

    pub(super) fn want(&mut self, line: &str) {
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

    pub(super) fn have(&mut self, line: &str) {
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

    pub(super) fn remember(mut self, number: u128, memory: VpsMemory) -> Self {
        self.memory.vps.insert(vps(number), memory);
        self
    }

    pub(super) fn learn(&mut self) {
        let guests = our_guests(Some(&self.desired), &self.looks);
        self.memory.learn(Some(&self.desired), &guests, self.terms.boot, self.terms.now);
    }

    pub(super) fn plan(&self) -> Plan {
        plan(&Input {
            desired: Some(&self.desired),
            looks: &self.looks,
            memory: &self.memory,
            work: &self.work,
            terms: self.terms,
        })
    }

    pub(super) fn check(mut self, expected: &Expect) {
        self.learn();
        let plan = self.plan();
        assert_eq!(plan, self.plan(), "the same input, the same plan");
        expected.assert_eq(&render(&plan));
    }
}

pub(super) fn engine_at_end(line: &str) -> (&str, Engine) {
    match line.strip_suffix(" libvirt") {
        Some(line) => (line, Engine::Libvirt),
        None => (line, Engine::Fake),
    }
}

pub(super) fn state_of(word: &str) -> VpsState {
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

pub(super) fn short(id: Uuid) -> u128 {
    id.as_u128()
}

pub(super) fn render(plan: &Plan) -> String {
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

pub(super) fn ran_in(number: u128) -> VpsMemory {
    VpsMemory {
        placement: 1,
        running_in: Some(boot(number)),
        started_at: Some(ago(900)),
        ..VpsMemory::default()
    }
}

pub(super) fn stopping_for(seconds: u64) -> VpsMemory {
    let stopping = Stopping { since: ago(seconds), asked_at: ago(seconds.min(3)) };
    VpsMemory { stopping: Some(stopping), ..ran_in(1) }
}
