//! The driver contract between the agent and an engine's helper process. The helper's standard input is one end of a
//! socket pair; requests and replies are frames of `link::codec`'s form, one reply for each request, in order.
//!
//! Agent and helper are of one release: `Hello` names the exact version, and another one is refused. Every action is
//! idempotent: asked again after a crash it finishes what was begun, or finds it done.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::foreign::Hardware;
use crate::host::Acceleration;
use crate::id::VpsId;
use crate::link::codec::{EncodeError, to_bytes};
use crate::link::tunnel::Secret;
use crate::network::Attachment;
use crate::sample::Point;
use crate::units::Bytes;
use crate::vps::{GuestFacts, Sha256, VpsState};

/// What agent and helper must both be.
pub const HELPER_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Raised when helpers turn the same definition into another guest, so that guests are defined again after an upgrade.
pub const GUEST_LAYOUT: u32 = 2;

/// What the agent asks of a helper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum HelperRequest {
    /// First, and once.
    Hello {
        /// [`HELPER_VERSION`] of the agent.
        version: String,
    },
    /// What is there.
    Observe,
    /// Defines a guest (again) from files that are ready; does not start it. Another definition under the same id is
    /// replaced; the running guest keeps going and takes the change at its next start.
    Define(Box<GuestDefinition>),
    /// Takes on a guest that CHOM did not make, and makes of it what the definition says; everything else about it stays
    /// as it is. It is not restarted; what only a start takes up waits for its next one.
    Adopt(AdoptedDefinition),
    /// Switches a defined guest on.
    Start {
        /// Which.
        vps: VpsId,
    },
    /// Halts a running guest's processors.
    Pause {
        /// Which.
        vps: VpsId,
    },
    /// Lets a running guest see that its disk has grown; of one that is off nothing is asked.
    GrowDisk {
        /// Which.
        vps: VpsId,
        /// Which of its disks, as it is called among its devices.
        device: String,
        /// To so many bytes.
        size: Bytes,
    },
    /// Asks the guest to shut down (ACPI) and returns at once.
    Shutdown {
        /// Which.
        vps: VpsId,
    },
    /// Takes its power away.
    PowerOff {
        /// Which.
        vps: VpsId,
    },
    /// Forgets a stopped guest's definition; its files are the agent's.
    Undefine {
        /// Which.
        vps: VpsId,
    },
    /// Takes or removes a snapshot inside the qcow2 file of a guest that runs: nobody but its QEMU may write to it then.
    /// Answered by `Off` for a guest that does not run.
    Snapshot {
        /// Which.
        vps: VpsId,
        /// The file.
        disk: PathBuf,
        /// What the snapshot is called in it.
        name: String,
        /// What to do with it.
        change: SnapshotChange,
    },
    /// Where the console and the screen of a running guest can be reached.
    Sockets {
        /// Which.
        vps: VpsId,
    },
    /// What the agent in a running guest says of it.
    Facts {
        /// Whose guest.
        vps: VpsId,
    },
    /// Sets a user's password by the agent in the guest.
    SetPassword {
        /// Whose guest.
        vps: VpsId,
        /// Which user.
        user: String,
        /// To what.
        password: Secret,
    },
    /// Measures every running guest that CHOM made.
    Measure,
    /// Brings up the network behind NAT, which guests of other engines on the host share.
    Network,
}

/// What to do with a snapshot of a guest that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotChange {
    /// Take it. That it is not there yet is for the agent to look: QEMU refuses a name twice.
    Take,
    /// Remove it.
    Delete,
}

/// What a helper answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum HelperReply {
    /// Answer to `Hello`.
    Ready {
        /// The helper's own version.
        version: String,
    },
    /// Answer to `Observe`.
    Observed {
        /// Version of the engine.
        engine_version: String,
        /// Every guest of the engine.
        guests: Vec<ObservedGuest>,
    },
    /// It is so now.
    Done,
    /// The guest is off: its files are the agent's to change.
    Off,
    /// Answer to `Sockets`; none where the guest was started without.
    Sockets {
        /// The host's end of its serial console, a terminal.
        console: Option<PathBuf>,
        /// Of its screen, a unix socket.
        screen: Option<PathBuf>,
    },
    /// Answer to `Facts`.
    Facts(Box<GuestFacts>),
    /// Answer to `Measure`.
    Measured {
        /// Points of VPSs only.
        points: Vec<Point>,
    },
    /// It could not be done.
    Failed {
        /// What the engine said, and what to do.
        problem: String,
        /// Whether the same request may go through later.
        retryable: bool,
    },
}

/// A guest as the engine has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedGuest {
    /// Its name in the engine.
    pub name: String,
    /// Ours; none for a foreign guest.
    pub vps: Option<VpsId>,
    /// The placement it was defined with; 0 for a foreign guest.
    pub placement: u64,
    /// Which build its disk is of; 0 for a foreign guest.
    pub build: u64,
    /// Digest of the definition it was given, so that drift is seen without comparing documents.
    pub definition: Option<Sha256>,
    /// Somebody changed what the engine keeps of it since it was given that definition.
    pub changed_by_hand: bool,
    /// It runs with what it was started with, and its definition has changed since in what only a start takes up.
    pub restart_needed: bool,
    /// What it does.
    pub state: VpsState,
    /// What a foreign guest is made of; none of ours, and where the engine could not say.
    pub hardware: Option<Box<Hardware>>,
    /// The host's end of the card of one that was adopted and runs, as it is called now; of others it has CHOM's name.
    pub port: Option<String>,
}

/// What CHOM says of a guest that it did not make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedDefinition {
    /// Which VPS; also the guest's UUID.
    pub vps: VpsId,
    /// Which placement of it.
    pub placement: u64,
    /// Virtual processors.
    pub cores: u32,
    /// Memory.
    pub memory: Bytes,
    /// How large the guest sees its disk.
    pub disk_size: Bytes,
    /// Hardware address of the card that is guarded: from its next start on the host's end of it is called
    /// [`crate::network::port_name`].
    pub mac: [u8; 6],
    /// Whether the cables of its cards are in.
    pub connected: bool,
}

impl AdoptedDefinition {
    /// As [`GuestDefinition::digest`].
    ///
    /// # Errors
    /// None that is known: nothing in it depends on a path.
    pub fn digest(&self) -> Result<Sha256, EncodeError> {
        to_bytes(&(GUEST_LAYOUT, "adopted", self)).map(|bytes| Sha256::of(&bytes))
    }

    /// As [`GuestDefinition::boot_digest`].
    ///
    /// # Errors
    /// As [`Self::digest`].
    pub fn boot_digest(&self) -> Result<Sha256, EncodeError> {
        Self { placement: 0, disk_size: Bytes(0), connected: true, ..*self }.digest()
    }
}

/// All the engine needs to know to run a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestDefinition {
    /// Which VPS; also the guest's UUID.
    pub vps: VpsId,
    /// Which placement of it.
    pub placement: u64,
    /// Which build of it.
    pub build: u64,
    /// Virtual processors.
    pub cores: u32,
    /// Memory.
    pub memory: Bytes,
    /// How its processor is made.
    pub acceleration: Acceleration,
    /// Its disk, qcow2.
    pub disk: PathBuf,
    /// The disk that it boots from in rescue mode, qcow2; its own becomes the second one.
    pub rescue: Option<PathBuf>,
    /// What is in its CD-ROM drive, ISO 9660, read-only.
    pub cdrom: Option<PathBuf>,
    /// Whether it tries to boot from its CD-ROM drive first.
    pub cdrom_first: bool,
    /// How large the guest sees it.
    pub disk_size: Bytes,
    /// Its NoCloud seed, ISO 9660, read-only.
    pub seed: PathBuf,
    /// Where its serial console is written.
    pub console_log: PathBuf,
    /// Hardware address of its network card.
    pub mac: [u8; 6],
    /// Where the card is plugged in; the host's end is called [`crate::network::port_name`].
    pub attachment: Attachment,
    /// Whether the card's cable is in.
    pub connected: bool,
}

impl GuestDefinition {
    /// The guest's name in the engine.
    #[must_use]
    pub fn guest_name(vps: VpsId) -> String {
        format!("chom-{vps}")
    }

    /// What [`ObservedGuest::definition`] is for a guest that was defined from this. It differs between releases whose
    /// definitions differ; the guest is then defined again, which a running one takes up at its next start.
    ///
    /// # Errors
    /// A path that is not UTF-8 cannot be written.
    pub fn digest(&self) -> Result<Sha256, EncodeError> {
        to_bytes(&(GUEST_LAYOUT, self)).map(|bytes| Sha256::of(&bytes))
    }

    /// The digest of what only a start takes up: all but what reaches a running guest as well.
    ///
    /// # Errors
    /// A path that is not UTF-8 cannot be written.
    pub fn boot_digest(&self) -> Result<Sha256, EncodeError> {
        Self { placement: 0, disk_size: Bytes(0), connected: true, ..self.clone() }.digest()
    }
}
