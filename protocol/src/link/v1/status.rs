//! Observed state on the wire. FROZEN: see `v1`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::foreign::ForeignGuest;
use super::list::List;
use super::network::Traffic;
use super::spec::{Engine, snapshot_id, twin};
use super::value::{self, Address, Id, TEXT_BYTES_MAX, Within, bad, line};
use crate::host;
use crate::id::{BootId, VpsId};
use crate::link::SPEC_ITEMS_MAX;
use crate::link::codec::DecodeError;
use crate::units::{Bytes, UnixMillis};
use crate::vps::{self, GUEST_ADDRESSES_MAX, GUEST_FILE_SYSTEMS_MAX};

const ITEMS_MAX: usize = SPEC_ITEMS_MAX as usize;
/// More kinds of engine than there will be.
const ENGINES_MAX: usize = 16;
/// Problems of a host as a whole; whoever has this many reads no further.
const PROBLEMS_MAX: usize = 64;

/// Snapshots of one VPS; the orchestrator's quota is far below, so more were made by hand.
const SNAPSHOTS_MAX: usize = 64;

/// What a status lets each of its texts have, until the whole fits into a frame: it loses words before it loses facts.
pub(super) const TEXT_BYTES_TRIES: [usize; 3] = [TEXT_BYTES_MAX, 96, 0];

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HostStatus {
    boot: Id,
    observed_at: u64,
    accepted: value::Generation,
    reconciled: value::Generation,
    inventory: Inventory,
    engines: List<EngineStatus, ENGINES_MAX>,
    vps: List<(Id, VpsStatus), ITEMS_MAX>,
    foreign: List<ForeignGuest, ITEMS_MAX>,
    orphans: List<Id, ITEMS_MAX>,
    destroys_waiting: List<Id, ITEMS_MAX>,
    problems: List<String, PROBLEMS_MAX>,
    prefetch: List<(String, PrefetchState), ITEMS_MAX>,
}

impl HostStatus {
    /// The status with texts of at most so many bytes.
    pub(super) fn new(status: &host::HostStatus, text_bytes_max: usize) -> Self {
        let host::HostStatus {
            boot,
            observed_at,
            accepted,
            reconciled,
            inventory,
            engines,
            vps,
            foreign,
            orphans,
            destroys_waiting,
            problems,
            prefetch,
        } = status;
        let ids = |ids: &[VpsId]| ids.iter().map(|id| id.uuid().into_bytes()).collect();
        Self {
            boot: boot.uuid().into_bytes(),
            observed_at: observed_at.0,
            accepted: (*accepted).into(),
            reconciled: (*reconciled).into(),
            inventory: Inventory::from(inventory),
            engines: engines.iter().map(|engine| EngineStatus::new(engine, text_bytes_max)).collect(),
            vps: vps
                .iter()
                .map(|(id, vps)| (id.uuid().into_bytes(), VpsStatus::new(vps, text_bytes_max)))
                .collect(),
            foreign: foreign.iter().map(|guest| ForeignGuest::new(guest, text_bytes_max)).collect(),
            orphans: ids(orphans),
            destroys_waiting: ids(destroys_waiting),
            problems: problems
                .iter()
                .take(PROBLEMS_MAX)
                .map(|problem| line(problem, text_bytes_max))
                .collect(),
            prefetch: prefetch
                .iter()
                .map(|(name, state)| (name.to_string(), PrefetchState::new(state, text_bytes_max)))
                .collect(),
        }
    }
}

impl TryFrom<HostStatus> for host::HostStatus {
    type Error = DecodeError;

    fn try_from(status: HostStatus) -> Result<Self, DecodeError> {
        let HostStatus {
            boot,
            observed_at,
            accepted,
            reconciled,
            inventory,
            engines,
            vps,
            foreign,
            orphans,
            destroys_waiting,
            problems,
            prefetch,
        } = status;
        let announced = vps.0.len();
        let vps: vps::VpsStatuses =
            vps.0.into_iter().map(|(id, vps)| (VpsId::new(Uuid::from_bytes(id)), vps.into())).collect();
        if vps.len() != announced {
            return Err(bad("vps", format_args!("{} are told twice", announced - vps.len())));
        }
        let ids = |ids: Vec<Id>| ids.into_iter().map(|id| VpsId::new(Uuid::from_bytes(id))).collect();
        Ok(Self {
            boot: BootId::new(Uuid::from_bytes(boot)),
            observed_at: UnixMillis(observed_at),
            accepted: accepted.into(),
            reconciled: reconciled.into(),
            inventory: inventory.into(),
            engines: engines.0.into_iter().map(Into::into).collect(),
            vps,
            foreign: foreign.0.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            orphans: ids(orphans.0),
            destroys_waiting: ids(destroys_waiting.0),
            problems: problems.0.iter().map(|problem| line(problem, TEXT_BYTES_MAX)).collect(),
            prefetch: prefetch
                .0
                .into_iter()
                .map(|(name, state)| Ok((value::name("name", name)?, state.into())))
                .collect::<Result<_, DecodeError>>()
                .within("prefetch")?,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum PrefetchState {
    Waiting,
    Fetching { percent: u8 },
    Ready,
    Failed { problem: String },
}

impl PrefetchState {
    fn new(state: &host::PrefetchState, text_bytes_max: usize) -> Self {
        match state {
            host::PrefetchState::Waiting => Self::Waiting,
            host::PrefetchState::Fetching { percent } => Self::Fetching { percent: *percent },
            host::PrefetchState::Ready => Self::Ready,
            host::PrefetchState::Failed { problem } => {
                Self::Failed { problem: line(problem, text_bytes_max) }
            }
        }
    }
}

impl From<PrefetchState> for host::PrefetchState {
    fn from(state: PrefetchState) -> Self {
        match state {
            PrefetchState::Waiting => Self::Waiting,
            PrefetchState::Fetching { percent } => Self::Fetching { percent: percent.min(100) },
            PrefetchState::Ready => Self::Ready,
            PrefetchState::Failed { problem } => Self::Failed { problem: line(&problem, TEXT_BYTES_MAX) },
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Inventory {
    agent_version: String,
    hostname: String,
    kernel: String,
    os: String,
    cores: u32,
    memory: u64,
    disk: u64,
    disk_free: u64,
}

impl From<&host::Inventory> for Inventory {
    fn from(inventory: &host::Inventory) -> Self {
        let host::Inventory { agent_version, hostname, kernel, os, cores, memory, disk, disk_free } =
            inventory;
        Self {
            agent_version: line(agent_version, TEXT_BYTES_MAX),
            hostname: line(hostname, TEXT_BYTES_MAX),
            kernel: line(kernel, TEXT_BYTES_MAX),
            os: line(os, TEXT_BYTES_MAX),
            cores: *cores,
            memory: memory.0,
            disk: disk.0,
            disk_free: disk_free.0,
        }
    }
}

impl From<Inventory> for host::Inventory {
    fn from(inventory: Inventory) -> Self {
        let Inventory { agent_version, hostname, kernel, os, cores, memory, disk, disk_free } = inventory;
        Self {
            agent_version: line(&agent_version, TEXT_BYTES_MAX),
            hostname: line(&hostname, TEXT_BYTES_MAX),
            kernel: line(&kernel, TEXT_BYTES_MAX),
            os: line(&os, TEXT_BYTES_MAX),
            cores,
            memory: Bytes(memory),
            disk: Bytes(disk),
            disk_free: Bytes(disk_free),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct EngineStatus {
    engine: Engine,
    version: String,
    acceleration: Acceleration,
    problem: Option<String>,
}

impl EngineStatus {
    fn new(status: &host::EngineStatus, text_bytes_max: usize) -> Self {
        let host::EngineStatus { engine, version, acceleration, problem } = status;
        Self {
            engine: (*engine).into(),
            version: line(version, TEXT_BYTES_MAX),
            acceleration: (*acceleration).into(),
            problem: problem.as_ref().map(|problem| line(problem, text_bytes_max)),
        }
    }
}

impl From<EngineStatus> for host::EngineStatus {
    fn from(status: EngineStatus) -> Self {
        let EngineStatus { engine, version, acceleration, problem } = status;
        Self {
            engine: engine.into(),
            version: line(&version, TEXT_BYTES_MAX),
            acceleration: acceleration.into(),
            problem: problem.map(|problem| line(&problem, TEXT_BYTES_MAX)),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct VpsStatus {
    state: VpsState,
    placement: u64,
    start_count: u64,
    build: u64,
    restart_needed: bool,
    since: u64,
    problem: Option<String>,
    progress: Option<String>,
    traffic: Option<Traffic>,
    snapshots: Option<List<Snapshot, SNAPSHOTS_MAX>>,
    guest: Option<Box<GuestFacts>>,
}

impl VpsStatus {
    fn new(status: &vps::VpsStatus, text_bytes_max: usize) -> Self {
        let vps::VpsStatus {
            state,
            placement,
            start_count,
            build,
            restart_needed,
            since,
            problem,
            progress,
            traffic,
            snapshots,
            guest,
        } = status;
        Self {
            state: (*state).into(),
            placement: *placement,
            start_count: *start_count,
            build: *build,
            restart_needed: *restart_needed,
            since: since.0,
            problem: problem.as_ref().map(|problem| line(problem, text_bytes_max)),
            progress: progress.as_ref().map(|progress| line(progress, text_bytes_max)),
            traffic: traffic.map(Traffic::from),
            snapshots: snapshots
                .as_ref()
                .map(|snapshots| snapshots.iter().take(SNAPSHOTS_MAX).map(Snapshot::from).collect()),
            // The first that goes where not all fits.
            guest: guest
                .as_ref()
                .filter(|_| text_bytes_max == TEXT_BYTES_MAX)
                .map(|facts| Box::new(GuestFacts::from(facts.as_ref()))),
        }
    }
}

impl From<VpsStatus> for vps::VpsStatus {
    fn from(status: VpsStatus) -> Self {
        let VpsStatus {
            state,
            placement,
            start_count,
            build,
            restart_needed,
            since,
            problem,
            progress,
            traffic,
            snapshots,
            guest,
        } = status;
        Self {
            state: state.into(),
            placement,
            start_count,
            build,
            restart_needed,
            since: UnixMillis(since),
            problem: problem.map(|problem| line(&problem, TEXT_BYTES_MAX)),
            progress: progress.map(|progress| line(&progress, TEXT_BYTES_MAX)),
            traffic: traffic.map(Into::into),
            snapshots: snapshots.map(|List(snapshots)| snapshots.into_iter().map(Into::into).collect()),
            guest: guest.map(|facts| Box::new((*facts).into())),
        }
    }
}

/// Longest text that a guest says of itself; what it says is its tenant's to choose.
const GUEST_TEXT_BYTES_MAX: usize = 128;

#[derive(Debug, Serialize, Deserialize)]
struct GuestFacts {
    seen_at: u64,
    hostname: Option<String>,
    os: Option<String>,
    kernel: Option<String>,
    addresses: Option<List<Address, GUEST_ADDRESSES_MAX>>,
    file_systems: Option<List<GuestFileSystem, GUEST_FILE_SYSTEMS_MAX>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct GuestFileSystem {
    mount: String,
    kind: String,
    size: Option<u64>,
    used: Option<u64>,
}

fn guest_line(text: &str) -> String {
    line(text, GUEST_TEXT_BYTES_MAX)
}

impl From<&vps::GuestFacts> for GuestFacts {
    fn from(facts: &vps::GuestFacts) -> Self {
        let vps::GuestFacts { seen_at, hostname, os, kernel, addresses, file_systems } = facts;
        let file_system = |of: &vps::GuestFileSystem| {
            let vps::GuestFileSystem { mount, kind, size, used } = of;
            GuestFileSystem {
                mount: guest_line(mount),
                kind: guest_line(kind),
                size: size.map(|bytes| bytes.0),
                used: used.map(|bytes| bytes.0),
            }
        };
        Self {
            seen_at: seen_at.0,
            hostname: hostname.as_deref().map(guest_line),
            os: os.as_deref().map(guest_line),
            kernel: kernel.as_deref().map(guest_line),
            addresses: addresses
                .as_ref()
                .map(|all| all.iter().take(GUEST_ADDRESSES_MAX).map(|&address| address.into()).collect()),
            file_systems: file_systems
                .as_ref()
                .map(|all| all.iter().take(GUEST_FILE_SYSTEMS_MAX).map(file_system).collect()),
        }
    }
}

impl From<GuestFacts> for vps::GuestFacts {
    fn from(facts: GuestFacts) -> Self {
        let GuestFacts { seen_at, hostname, os, kernel, addresses, file_systems } = facts;
        let file_system = |of: GuestFileSystem| {
            let GuestFileSystem { mount, kind, size, used } = of;
            vps::GuestFileSystem {
                mount: guest_line(&mount),
                kind: guest_line(&kind),
                size: size.map(Bytes),
                used: used.map(Bytes),
            }
        };
        Self {
            seen_at: UnixMillis(seen_at),
            hostname: hostname.as_deref().map(guest_line),
            os: os.as_deref().map(guest_line),
            kernel: kernel.as_deref().map(guest_line),
            addresses: addresses.map(|all| all.0.into_iter().map(Into::into).collect()),
            file_systems: file_systems.map(|all| all.0.into_iter().map(file_system).collect()),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Snapshot {
    id: Id,
    taken_at: u64,
    disk: Option<u64>,
}

impl From<&vps::SnapshotStatus> for Snapshot {
    fn from(snapshot: &vps::SnapshotStatus) -> Self {
        let vps::SnapshotStatus { id, taken_at, disk } = snapshot;
        Self { id: id.uuid().into_bytes(), taken_at: taken_at.0, disk: disk.map(|disk| disk.0) }
    }
}

impl From<Snapshot> for vps::SnapshotStatus {
    fn from(snapshot: Snapshot) -> Self {
        let Snapshot { id, taken_at, disk } = snapshot;
        Self { id: snapshot_id(id), taken_at: UnixMillis(taken_at), disk: disk.map(Bytes) }
    }
}

// The order of the variants is their number on the wire: add at the end only.
twin! {
    Acceleration = host::Acceleration { Kvm, Tcg, None }
    VpsState = vps::VpsState { Preparing, Running, Paused, Stopped, StoppedByGuest, Crashed, Absent, Unknown }
}
