//! Guests that exist only here: simulation and tests. Holds a world that outlives the agent (shared in memory, or a file
//! for agents that are killed), injects faults and latency, and counts what was done. Touches no engine.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chom_protocol::foreign::Hardware;
use chom_protocol::helper::{GuestDefinition, ObservedGuest};
use chom_protocol::host::{Acceleration, EngineStatus};
use chom_protocol::link::tunnel::{Secret, TerminalSize};
use chom_protocol::sample::{Metric, Point};
use chom_protocol::vps::{CloneSource, Engine, GuestFacts, Sha256, SnapshotStatus, VpsSpec, VpsState};
use chom_protocol::{Bytes, UnixMillis, VpsId};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use super::snapshot::{SnapshotName, Snapshots};
use super::{Driver, DriverError, Observed, Pipe};
use crate::clock;
use crate::durable::{SealedError, read_sealed, write_sealed};

const FORMAT: &str = "chom-fake-guests 1";

/// What can be asked of the fake, to name where faults go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// `observe`.
    Observe,
    /// `prepare`.
    Prepare,
    /// `adopt`.
    Adopt,
    /// `start`.
    Start,
    /// `pause`.
    Pause,
    /// `shutdown`.
    Shutdown,
    /// `power_off`.
    PowerOff,
    /// `destroy`.
    Destroy,
    /// `take_snapshot`.
    TakeSnapshot,
    /// `restore_snapshot`.
    RestoreSnapshot,
    /// `delete_snapshot`.
    DeleteSnapshot,
    /// `measure`.
    Measure,
    /// `console` and `screen`.
    Console,
    /// `set_password`.
    SetPassword,
}

/// What goes wrong with a call, until it is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It fails.
    Fails(DriverError),
    /// It never returns.
    Hangs,
    /// It is done, and then said to have failed.
    Breaks,
}

/// One guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FakeGuest {
    /// Which placement.
    pub placement: u64,
    /// What it was made from.
    pub definition: Sha256,
    /// What it does.
    pub state: VpsState,
    /// It pays no heed to `shutdown`.
    pub deaf: bool,
    /// How often it was switched on.
    pub starts: u64,
    /// How often its disk was made; more than once for a build would be a lost disk.
    pub disks: u64,
    /// Which build its disk is of.
    pub build: u64,
    /// Size of its disk.
    pub disk: Bytes,
    /// Whether it can reach its network.
    pub connected: bool,
    /// What only a start takes up: as it is defined, and as it was switched on with.
    pub boot: (Sha256, Option<Sha256>),
    /// Somebody changed it by hand.
    pub changed_by_hand: bool,
    /// What is on its disk, for tests to write and to find again.
    #[serde(default)]
    pub content: String,
    /// What was on it, and when.
    #[serde(default)]
    pub snapshots: BTreeMap<SnapshotName, (UnixMillis, String)>,
}

impl FakeGuest {
    fn snapshots(&self) -> Snapshots {
        let mut snapshots = Snapshots::default();
        for (name, (taken_at, _)) in &self.snapshots {
            match *name {
                SnapshotName::Kept(id) => {
                    snapshots.kept.push(SnapshotStatus { id, taken_at: *taken_at, disk: None });
                }
                SnapshotName::ForClone(vps) => snapshots.for_clones.push(vps),
            }
        }
        snapshots
    }
}

/// The guests of one host.
#[derive(Debug, Default)]
pub struct World {
    /// Ours.
    pub guests: BTreeMap<VpsId, FakeGuest>,
    /// Somebody else's, by name: what each does, and what it is made of.
    pub foreign: BTreeMap<String, (VpsState, Hardware)>,
    /// What goes wrong with which call; of one VPS, or of all.
    pub faults: BTreeMap<(Call, Option<VpsId>), Fault>,
    /// How long every call takes.
    pub latency: Duration,
    /// Every call that changed something, in order.
    pub journal: Vec<(Call, VpsId)>,
    /// What guests say of themselves.
    pub facts: BTreeMap<VpsId, GuestFacts>,
    /// What passwords were set, by a digest: of which VPS and user.
    pub passwords: BTreeMap<(VpsId, String), Sha256>,
    file: Option<PathBuf>,
}

/// Of the file beside a world's own that says, a line each, which disks were made and destroyed over its whole life.
pub const HISTORY_EXTENSION: &str = "history";
/// Of the file beside a world's own that says, a line each, what goes wrong in an agent that is a process: `start fails`,
/// `start hangs`, or `start breaks`: it is done, and said to have failed.
pub const FAULTS_EXTENSION: &str = "faults";
/// What an echo holds before somebody reads it.
const ECHO_BYTES_MAX: usize = 64 * 1024;
/// Most entries of the journal, so that a long simulation does not grow.
const JOURNAL_ENTRIES_MAX: usize = 10_000;

impl World {
    fn save(&mut self, call: Call, vps: VpsId) -> Result<(), DriverError> {
        if self.journal.len() < JOURNAL_ENTRIES_MAX {
            self.journal.push((call, vps));
        }
        if let Some(file) = &self.file {
            write_sealed(file, FORMAT, &self.guests).map_err(|error| {
                DriverError::passing(format!("cannot write `{}`: {error}", file.display()))
            })?;
        }
        match self.fault(call, Some(vps)) {
            Some(Fault::Breaks) => Err(DriverError::passing("the fake engine ended half-way")),
            Some(Fault::Fails(_) | Fault::Hangs) | None => Ok(()),
        }
    }

    fn fault(&self, call: Call, vps: Option<VpsId>) -> Option<Fault> {
        let fault = self.faults.get(&(call, vps)).or_else(|| self.faults.get(&(call, None)));
        fault.cloned().or_else(|| self.ordered_fault(call))
    }

    /// What the file of faults says of a call.
    fn ordered_fault(&self, call: Call) -> Option<Fault> {
        let text = std::fs::read_to_string(self.file.as_ref()?.with_extension(FAULTS_EXTENSION)).ok()?;
        let name = format!("{call:?}").to_lowercase();
        let said = text.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(' '))?;
        Some(match said {
            "hangs" => Fault::Hangs,
            "breaks" => Fault::Breaks,
            _ => Fault::Fails(DriverError::passing("the fake engine was told to fail")),
        })
    }

    /// Notes, behind the world's file, what a kill of the agent must not make happen twice. After the world itself: a kill
    /// in between leaves a note out and never makes one up.
    fn note(&self, what: &str, vps: VpsId) -> Result<(), DriverError> {
        let Some(file) = &self.file else { return Ok(()) };
        let path = file.with_extension(HISTORY_EXTENSION);
        let noted = OpenOptions::new().create(true).append(true).open(&path);
        let noted = noted.and_then(|mut history| writeln!(history, "{what} {vps}"));
        noted.map_err(|error| DriverError::passing(format!("cannot write `{}`: {error}", path.display())))
    }

    /// The content that a copy of a guest's disk begins with. As with the real ones, a snapshot is taken for it first.
    fn copied(&mut self, clone: VpsId, source: CloneSource) -> Result<String, DriverError> {
        let guest = self.guest(source.vps)?;
        let name = source.snapshot.map_or(SnapshotName::ForClone(clone), SnapshotName::Kept);
        if source.snapshot.is_none() {
            guest.snapshots.insert(name, (clock::now(), guest.content.clone()));
        }
        let snapshot = guest.snapshots.get(&name);
        snapshot
            .map(|(_, content)| content.clone())
            .ok_or_else(|| DriverError::passing(format!("VPS {} has no snapshot `{name}`", source.vps)))
    }

    /// What a reboot of the host does: every guest is off, and none by its own doing.
    pub fn reboot(&mut self) {
        for guest in self.guests.values_mut() {
            guest.state = VpsState::Stopped;
        }
    }

    fn running(&self, vps: VpsId) -> Result<(), DriverError> {
        match self.guests.get(&vps) {
            Some(guest) if guest.state == VpsState::Running => Ok(()),
            _ => Err(DriverError::lasting(format!("VPS {vps} is off: start it first"))),
        }
    }

    fn guest(&mut self, vps: VpsId) -> Result<&mut FakeGuest, DriverError> {
        self.guests
            .get_mut(&vps)
            .ok_or_else(|| DriverError::passing(format!("there is no guest of VPS {vps}")))
    }
}

/// The driver. Clones share one world.
#[derive(Debug, Clone)]
pub struct FakeDriver {
    world: Arc<Mutex<World>>,
    engine: Engine,
}

impl Default for FakeDriver {
    fn default() -> Self {
        Self { world: Arc::default(), engine: Engine::Fake }
    }
}

impl FakeDriver {
    /// A world that lives as long as somebody holds it.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// A world in a file: its guests survive a kill -9 of the agent.
    ///
    /// # Errors
    /// When the file is there but cannot be understood.
    pub fn in_file(file: PathBuf) -> Result<Self, SealedError> {
        let guests = read_sealed(&file, FORMAT)?.unwrap_or_default();
        let world = World { guests, file: Some(file), ..World::default() };
        Ok(Self { world: Arc::new(Mutex::new(world)), ..Self::default() })
    }

    /// The same world under the name of another engine: for tests of hosts that have several.
    #[must_use]
    pub fn posing_as(self, engine: Engine) -> Self {
        Self { engine, ..self }
    }

    /// The world, to look at it or to change it behind the agent's back.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something first, then whatever it hears.
    async fn echo(&self, vps: VpsId, first: &str) -> Result<Box<dyn Pipe>, DriverError> {
        self.world().running(vps)?;
        let (read, mut write) = tokio::io::simplex(ECHO_BYTES_MAX);
        let said = write.write_all(first.as_bytes()).await;
        said.map_err(|error| DriverError::passing(error.to_string()))?;
        Ok(Box::new(tokio::io::join(read, write)))
    }

    async fn enter(&self, call: Call, vps: Option<VpsId>) -> Result<(), DriverError> {
        let (latency, fault) = {
            let world = self.world();
            (world.latency, world.fault(call, vps))
        };
        if latency > Duration::ZERO {
            tokio::time::sleep(latency).await;
        }
        match fault {
            None | Some(Fault::Breaks) => Ok(()),
            Some(Fault::Fails(error)) => Err(error),
            Some(Fault::Hangs) => std::future::pending().await,
        }
    }
}

fn digest(spec: &VpsSpec) -> Sha256 {
    let media: Vec<String> = spec.images().map(|image| image.sha256.to_string()).collect();
    let text = format!(
        "{} {} {} {} {}",
        spec.placement,
        spec.disk.0,
        spec.is_connected(),
        boot_digest(spec),
        media.join(" ")
    );
    Sha256::of(text.as_bytes())
}

/// Of what only a start takes up.
fn boot_digest(spec: &VpsSpec) -> Sha256 {
    let image = spec.image.as_ref().map_or(Sha256([0; 32]), |image| image.sha256);
    let text = format!("{} {} {} {} {image}", spec.name, spec.build, spec.cores, spec.memory.0);
    Sha256::of(text.as_bytes())
}

fn is_on(state: VpsState) -> bool {
    matches!(state, VpsState::Running | VpsState::Paused)
}

impl Driver for FakeDriver {
    fn unasked(&self) -> EngineStatus {
        EngineStatus {
            engine: self.engine,
            version: String::new(),
            acceleration: Acceleration::None,
            problem: Some("the fake engine was not asked yet".to_owned()),
        }
    }

    async fn observe(&self) -> Result<Observed, DriverError> {
        self.enter(Call::Observe, None).await?;
        let world = self.world();
        let ours = world.guests.iter().map(|(&vps, guest)| ObservedGuest {
            name: GuestDefinition::guest_name(vps),
            vps: Some(vps),
            placement: guest.placement,
            build: guest.build,
            definition: Some(guest.definition),
            changed_by_hand: guest.changed_by_hand,
            restart_needed: is_on(guest.state) && guest.boot.1 != Some(guest.boot.0),
            state: guest.state,
            hardware: None,
            port: None,
        });
        let foreign = world.foreign.iter().map(|(name, (state, hardware))| ObservedGuest {
            name: name.clone(),
            vps: None,
            placement: 0,
            build: 0,
            definition: None,
            changed_by_hand: false,
            restart_needed: false,
            state: *state,
            hardware: Some(Box::new(hardware.clone())),
            port: None,
        });
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let engine = EngineStatus { version, problem: None, ..self.unasked() };
        let guests = ours.chain(foreign).collect();
        let snapshots = world.guests.iter().map(|(&vps, guest)| (vps, guest.snapshots())).collect();
        Ok(Observed { engine, guests, snapshots })
    }

    async fn prepare(
        &self,
        spec: &VpsSpec,
        _image: &Path,
        _user_data: Option<&[u8]>,
    ) -> Result<(), DriverError> {
        self.enter(Call::Prepare, Some(spec.id)).await?;
        let mut world = self.world();
        let fresh = !world.guests.contains_key(&spec.id);
        let content = match spec.source {
            Some(source) if fresh => world.copied(spec.id, source)?,
            _ => String::new(),
        };
        let guest = world.guests.entry(spec.id).or_insert(FakeGuest {
            placement: spec.placement,
            definition: digest(spec),
            state: VpsState::Stopped,
            deaf: false,
            starts: 0,
            disks: 1,
            content,
            snapshots: BTreeMap::new(),
            build: spec.build,
            disk: spec.disk,
            connected: spec.is_connected(),
            boot: (boot_digest(spec), None),
            changed_by_hand: false,
        });
        let rebuilt = guest.build < spec.build;
        if rebuilt && is_on(guest.state) {
            return Err(DriverError::passing(format!("VPS {} is on: its disk is in use", spec.id)));
        }
        if rebuilt {
            (guest.build, guest.disks, guest.disk) = (spec.build, guest.disks + 1, spec.disk);
        }
        if spec.disk < guest.disk {
            return Err(DriverError::lasting(format!("the disk has {}: disks never shrink", guest.disk)));
        }
        (guest.placement, guest.definition) = (spec.placement, digest(spec));
        (guest.disk, guest.connected, guest.changed_by_hand) = (spec.disk, spec.is_connected(), false);
        guest.boot.0 = boot_digest(spec);
        world.save(Call::Prepare, spec.id)?;
        match (fresh, rebuilt) {
            (true, _) => world.note("made", spec.id),
            (false, true) => world.note(&format!("rebuilt-{}", spec.build), spec.id),
            (false, false) => Ok(()),
        }
    }

    async fn adopt(&self, spec: &VpsSpec) -> Result<(), DriverError> {
        self.enter(Call::Adopt, Some(spec.id)).await?;
        let mut world = self.world();
        let found = world.foreign.iter().find(|(_, (_, hardware))| hardware.id == spec.id);
        if let Some((name, state)) = found.map(|(name, (state, _))| (name.clone(), *state)) {
            world.foreign.remove(&name);
            let boot = boot_digest(spec);
            let guest = FakeGuest {
                placement: spec.placement,
                definition: digest(spec),
                state,
                deaf: false,
                starts: 0,
                disks: 1,
                content: String::new(),
                snapshots: BTreeMap::new(),
                build: spec.build,
                disk: spec.disk,
                connected: spec.is_connected(),
                boot: (boot, Some(boot)),
                changed_by_hand: false,
            };
            world.guests.insert(spec.id, guest);
        }
        let missing = || {
            DriverError::passing(format!("there is no guest here that VPS {} could be adopted as", spec.id))
        };
        let guest = world.guests.get_mut(&spec.id).ok_or_else(missing)?;
        (guest.placement, guest.definition, guest.boot.0) = (spec.placement, digest(spec), boot_digest(spec));
        (guest.disk, guest.connected) = (guest.disk.max(spec.disk), spec.is_connected());
        world.save(Call::Adopt, spec.id)
    }

    async fn start(&self, vps: VpsId) -> Result<(), DriverError> {
        self.enter(Call::Start, Some(vps)).await?;
        let mut world = self.world();
        let guest = world.guest(vps)?;
        match guest.state {
            VpsState::Running => return Ok(()),
            VpsState::Paused => {}
            _ => {
                guest.boot.1 = Some(guest.boot.0);
                guest.starts += 1;
            }
        }
        guest.state = VpsState::Running;
        world.save(Call::Start, vps)
    }

    async fn pause(&self, vps: VpsId) -> Result<(), DriverError> {
        self.enter(Call::Pause, Some(vps)).await?;
        let mut world = self.world();
        let guest = world.guest(vps)?;
        if guest.state == VpsState::Running {
            guest.state = VpsState::Paused;
        }
        world.save(Call::Pause, vps)
    }

    async fn shutdown(&self, vps: VpsId) -> Result<(), DriverError> {
        self.enter(Call::Shutdown, Some(vps)).await?;
        let mut world = self.world();
        let guest = world.guest(vps)?;
        if !guest.deaf && guest.state == VpsState::Running {
            // As libvirt says it: the guest itself ended, whoever asked it to.
            guest.state = VpsState::StoppedByGuest;
        }
        world.save(Call::Shutdown, vps)
    }

    async fn power_off(&self, vps: VpsId) -> Result<(), DriverError> {
        self.enter(Call::PowerOff, Some(vps)).await?;
        let mut world = self.world();
        if let Some(guest) = world.guests.get_mut(&vps) {
            guest.state = VpsState::Stopped;
        }
        world.save(Call::PowerOff, vps)
    }

    async fn destroy(&self, vps: VpsId) -> Result<(), DriverError> {
        self.enter(Call::Destroy, Some(vps)).await?;
        let mut world = self.world();
        if world.guests.get(&vps).is_some_and(|guest| is_on(guest.state)) {
            return Err(DriverError::passing(format!("VPS {vps} is running")));
        }
        let was_there = world.guests.remove(&vps).is_some();
        world.save(Call::Destroy, vps)?;
        if was_there { world.note("destroyed", vps) } else { Ok(()) }
    }

    async fn take_snapshot(&self, vps: VpsId, name: SnapshotName) -> Result<(), DriverError> {
        self.enter(Call::TakeSnapshot, Some(vps)).await?;
        let mut world = self.world();
        let guest = world.guest(vps)?;
        if guest.snapshots.contains_key(&name) {
            return Ok(());
        }
        guest.snapshots.insert(name, (clock::now(), guest.content.clone()));
        world.save(Call::TakeSnapshot, vps)?;
        world.note(&format!("took {name} of"), vps)
    }

    async fn restore_snapshot(&self, spec: &VpsSpec, name: SnapshotName) -> Result<(), DriverError> {
        self.enter(Call::RestoreSnapshot, Some(spec.id)).await?;
        let mut world = self.world();
        let guest = world.guest(spec.id)?;
        if guest.state == VpsState::Running {
            return Err(DriverError::passing(format!("VPS {} is running", spec.id)));
        }
        let Some((_, content)) = guest.snapshots.get(&name) else {
            return Err(DriverError::lasting(format!("there is no snapshot `{name}`")));
        };
        guest.content = content.clone();
        world.save(Call::RestoreSnapshot, spec.id)
    }

    async fn delete_snapshot(&self, vps: VpsId, name: SnapshotName) -> Result<(), DriverError> {
        self.enter(Call::DeleteSnapshot, Some(vps)).await?;
        let mut world = self.world();
        world.guest(vps)?.snapshots.remove(&name);
        world.save(Call::DeleteSnapshot, vps)
    }

    async fn measure(&self) -> Result<Vec<Point>, DriverError> {
        self.enter(Call::Measure, None).await?;
        let world = self.world();
        let running = world.guests.iter().filter(|(_, guest)| guest.state == VpsState::Running);
        let point = |metric, vps, value| Point { metric, vps: Some(vps), label: String::new(), value };
        Ok(running
            .flat_map(|(&vps, guest)| {
                [point(Metric::VpsCpuSeconds, vps, guest.starts as f64), point(Metric::VpsMemory, vps, 128e6)]
            })
            .collect())
    }

    async fn console(
        &self,
        vps: VpsId,
        size: watch::Receiver<TerminalSize>,
    ) -> Result<Box<dyn Pipe>, DriverError> {
        self.enter(Call::Console, Some(vps)).await?;
        let TerminalSize { columns, rows } = *size.borrow();
        self.echo(vps, &format!("fake console of {vps}, {columns}x{rows}\r\n")).await
    }

    async fn screen(&self, vps: VpsId) -> Result<Box<dyn Pipe>, DriverError> {
        self.enter(Call::Console, Some(vps)).await?;
        self.echo(vps, "RFB 003.008\n").await
    }

    async fn facts(&self, vps: VpsId) -> Result<GuestFacts, DriverError> {
        let world = self.world();
        let silent = || DriverError::passing(format!("nobody inside VPS {vps} answers"));
        world.facts.get(&vps).cloned().ok_or_else(silent)
    }

    async fn set_password(&self, vps: VpsId, user: &str, password: &Secret) -> Result<(), DriverError> {
        self.enter(Call::SetPassword, Some(vps)).await?;
        let mut world = self.world();
        world.running(vps)?;
        let digest = Sha256::of(password.reveal().as_bytes());
        world.passwords.insert((vps, user.to_owned()), digest);
        Ok(())
    }

    fn definition(&self, spec: &VpsSpec) -> Option<Sha256> {
        Some(digest(spec))
    }
}
