//! What the reconciler asks of an engine. A driver does; it decides nothing.
//!
//! Every action is idempotent: asked again after a crash it finishes what was begun, or finds it done. Callers set the
//! deadlines, so a future of a driver may be dropped at any time and the same action asked for again.

pub mod acceleration;
pub mod any;
pub(crate) mod command;
pub(crate) mod disk;
pub mod engines;
pub mod fake;
mod helper;
pub mod incus;
pub mod libvirt;
pub(crate) mod qcow2;
pub(crate) mod seed;
pub mod snapshot;

use std::collections::BTreeMap;
use std::path::Path;

use chom_protocol::VpsId;
use chom_protocol::helper::ObservedGuest;
use chom_protocol::host::EngineStatus;
use chom_protocol::link::tunnel::{Secret, TerminalSize};
use chom_protocol::sample::Point;
use chom_protocol::vps::{GuestFacts, Sha256, VpsSpec};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use snapshot::{SnapshotName, Snapshots};

/// What an engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The engine itself.
    pub engine: EngineStatus,
    /// Every guest of it, foreign ones included.
    pub guests: Vec<ObservedGuest>,
    /// The snapshots of our guests; one that is missing here is one whose snapshots cannot be told.
    pub snapshots: BTreeMap<VpsId, Snapshots>,
}

/// Why an engine did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct DriverError {
    /// What was wrong and what to do, in words for an admin.
    pub problem: String,
    /// Whether the same action may go through later without anybody's help.
    pub retryable: bool,
}

impl DriverError {
    /// It may go through later.
    #[must_use]
    pub fn passing(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), retryable: true }
    }

    /// It will not go through until somebody changes something.
    #[must_use]
    pub fn lasting(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), retryable: false }
    }
}

/// Raw bytes to and from a guest. Dropping it lets go of the guest.
pub trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for T {}

/// An engine on this host. Implementations write `async fn`; the futures must be `Send`.
pub trait Driver: Send + Sync + 'static {
    /// Which engine it is, and what to say of it before it was first asked. No I/O.
    fn unasked(&self) -> EngineStatus;

    /// What is there now.
    fn observe(&self) -> impl Future<Output = Result<Observed, DriverError>> + Send;

    /// Makes all that the guest needs to start: its disk over `image` (or copied from the spec's source) unless it has one of this build, its seed, its
    /// definition. A disk grows where more is wanted, and never shrinks. A running guest keeps going, and takes over at
    /// once what it can. The disk of an older build goes only when the new one is in its place; such a guest must be off.
    /// `image` and `user_data` are verified content.
    fn prepare(
        &self,
        spec: &VpsSpec,
        image: &Path,
        user_data: Option<&[u8]>,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Takes on the guest that the spec says it was adopted as, where it stands: it is not restarted, and of its definition
    /// only what the spec says of it is changed.
    fn adopt(&self, spec: &VpsSpec) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Switches a prepared guest on.
    fn start(&self, vps: VpsId) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Halts a running guest's processors; one that is off or paused is fine. `start` lets it go on.
    fn pause(&self, vps: VpsId) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Asks a guest to shut down and returns at once.
    fn shutdown(&self, vps: VpsId) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Takes a guest's power away; one that is off is fine.
    fn power_off(&self, vps: VpsId) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Removes a stopped guest and all its files; what is not there is fine.
    fn destroy(&self, vps: VpsId) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Takes a snapshot of a guest's disk, as after a power cut; a running guest keeps going. One that is there is fine.
    fn take_snapshot(
        &self,
        vps: VpsId,
        name: SnapshotName,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Makes the disk of a guest that is off what it was in a snapshot, at the size that the spec has now. May be asked
    /// for again until the guest is next switched on.
    fn restore_snapshot(
        &self,
        spec: &VpsSpec,
        name: SnapshotName,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Removes a snapshot, whether the guest is on or off; one that is not there is fine.
    fn delete_snapshot(
        &self,
        vps: VpsId,
        name: SnapshotName,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Measures the running guests that are VPSs.
    fn measure(&self) -> impl Future<Output = Result<Vec<Point>, DriverError>> + Send;

    /// Opens the console of a guest that is on: the serial line of a VM, a shell in a container, where `size` is the
    /// terminal's, now and later.
    fn console(
        &self,
        vps: VpsId,
        size: watch::Receiver<TerminalSize>,
    ) -> impl Future<Output = Result<Box<dyn Pipe>, DriverError>> + Send {
        let _ = (vps, size);
        let none = lacks(self.unasked(), "consoles");
        async { Err(none) }
    }

    /// Opens the screen of a guest that is on: the RFB protocol (RFC 6143).
    fn screen(&self, vps: VpsId) -> impl Future<Output = Result<Box<dyn Pipe>, DriverError>> + Send {
        let _ = vps;
        let none = lacks(self.unasked(), "screens");
        async { Err(none) }
    }

    /// What a guest that is on says of itself; an error when nobody inside answers. Bounds its own time.
    fn facts(&self, vps: VpsId) -> impl Future<Output = Result<GuestFacts, DriverError>> + Send {
        let _ = vps;
        let none = lacks(self.unasked(), "a way to ask guests");
        async { Err(none) }
    }

    /// Sets the password of a user inside a guest that is on. The password is kept and shown nowhere.
    fn set_password(
        &self,
        vps: VpsId,
        user: &str,
        password: &Secret,
    ) -> impl Future<Output = Result<(), DriverError>> + Send {
        let _ = (vps, user, password);
        let none = lacks(self.unasked(), "a way to set passwords; boot the VPS into rescue and set it there");
        async { Err(none) }
    }

    /// The digest that `observe` would give as a guest's `definition` once `prepare` was done with this spec. None:
    /// the driver cannot say, and no drift is seen. Cheap; no I/O.
    fn definition(&self, spec: &VpsSpec) -> Option<Sha256> {
        let _ = spec;
        None
    }
}

fn lacks(engine: EngineStatus, what: &str) -> DriverError {
    DriverError::lasting(format!("the engine {} does not have {what}", engine.engine))
}
