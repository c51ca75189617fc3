//! The libvirt driver: a VPS's files by `disk`, its guest by the helper process. Decides nothing about what should be.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chom_protocol::helper::{GuestDefinition, HelperReply, HelperRequest, SnapshotChange};
use chom_protocol::host::EngineStatus;
use chom_protocol::link::tunnel::{Secret, TerminalSize};
use chom_protocol::sample::Point;
use chom_protocol::vps::{CloneSource, Engine, GuestFacts, Sha256, VpsSpec};
use chom_protocol::{Bytes, VpsId};
use nix::fcntl::OFlag;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::warn;

use super::acceleration::Verdict;
use super::disk::{DiskError, Disks, VpsFiles};
use super::helper::{Helper, HelperError};
use super::snapshot::{SnapshotName, Snapshots};
use super::{Driver, DriverError, Observed, Pipe};
use crate::image::ImageCache;
use adopted::Sizes;

mod adopted;

/// The package that has the helper.
const PACKAGE: &str = "chom-agent-libvirt";
/// libvirtd's first answer takes 8.5 s on a slow machine: it tries out what QEMU can do.
const OBSERVE_SECONDS_MAX: u64 = 60;
/// Figures that take longer are of no use to the next sample.
const MEASURE_SECONDS_MAX: u64 = 10;
/// libvirt reads one document.
const SOCKETS_SECONDS_MAX: u64 = 5;
/// Four questions, each under the helper's own deadline; this one ends only a helper that hangs.
const FACTS_SECONDS_MAX: u64 = 30;
/// The agent in the guest has some seconds, see the helper.
const PASSWORD_SECONDS_MAX: u64 = 20;
/// A start waits for QEMU to come up; a power-off gives QEMU up to 30 s to write its caches.
const ACTION_SECONDS_MAX: u64 = 90;
/// QEMU counts the references of the whole disk; of a large one on a slow disk that takes minutes. The guest's own reads
/// and writes wait meanwhile.
const SNAPSHOT_SECONDS_MAX: u64 = 540;

/// A guest's own disk among its devices.
const DISK: &str = "vda";
/// What QEMU rounds the sizes of disks up to.
const SECTOR_BYTES: u64 = 512;

/// VMs by libvirt and QEMU.
#[derive(Debug)]
pub struct LibvirtDriver {
    helper: Arc<Helper>,
    disks: Disks,
    images: ImageCache,
    verdict: Verdict,
    sizes: Sizes,
}

impl LibvirtDriver {
    /// A driver that runs the helper at `helper` when it is first asked, and keeps VPSs' files under `vps_folder`, an
    /// absolute path. `images` has what guests boot from beside their disk. `verdict` is
    /// [`super::acceleration::determine`]'s.
    #[must_use]
    pub fn new(helper: PathBuf, vps_folder: PathBuf, images: ImageCache, verdict: Verdict) -> Self {
        let helper = Arc::new(Helper::new(helper, PACKAGE));
        Self { helper, disks: Disks::new(vps_folder), images, verdict, sizes: Sizes::default() }
    }

    /// The network behind NAT, for engines that share it.
    #[must_use]
    pub fn network(&self) -> SharedNetwork {
        SharedNetwork(Arc::clone(&self.helper))
    }

    fn guest(&self, spec: &VpsSpec) -> GuestDefinition {
        let files = self.disks.files(spec);
        GuestDefinition {
            vps: spec.id,
            placement: spec.placement,
            build: spec.build,
            cores: spec.cores,
            memory: spec.memory,
            acceleration: self.verdict.acceleration,
            disk: files.disk,
            rescue: files.rescue,
            cdrom: spec.iso.as_ref().map(|medium| self.images.path(medium.image.sha256)),
            cdrom_first: spec.iso.as_ref().is_some_and(|medium| medium.boot_first),
            disk_size: spec.disk,
            seed: files.seed,
            console_log: files.console_log,
            mac: spec.interface.mac,
            attachment: spec.interface.attachment.clone(),
            connected: spec.is_connected(),
        }
    }

    /// Brings the disk to its size, of a guest that runs as well as of one that is off.
    async fn grow(&self, spec: &VpsSpec, files: &VpsFiles) -> Result<(), DriverError> {
        let has = self.disks.size(files).await?;
        let wanted = Bytes(spec.disk.0.next_multiple_of(SECTOR_BYTES));
        if has > wanted {
            return Err(DiskError::Shrinks { disk: has, wanted: spec.disk }.into());
        }
        if has == wanted {
            return Ok(());
        }
        self.grow_to(spec.id, DISK, &files.disk, "qcow2", wanted).await
    }

    async fn grow_to(
        &self,
        vps: VpsId,
        device: &str,
        disk: &Path,
        format: &str,
        size: Bytes,
    ) -> Result<(), DriverError> {
        let request = HelperRequest::GrowDisk { vps, device: device.to_owned(), size };
        match self.ask(&request, ACTION_SECONDS_MAX).await? {
            HelperReply::Done => Ok(()),
            HelperReply::Off => Ok(self.disks.grow(disk, format, size).await?),
            _ => Err(unexpected(&request)),
        }
    }

    /// Where console and screen of a guest that is on are.
    async fn sockets(&self, vps: VpsId) -> Result<(Option<PathBuf>, Option<PathBuf>), DriverError> {
        let request = HelperRequest::Sockets { vps };
        match self.ask(&request, SOCKETS_SECONDS_MAX).await? {
            HelperReply::Sockets { console, screen } => Ok((console, screen)),
            _ => Err(unexpected(&request)),
        }
    }

    async fn act(&self, request: HelperRequest) -> Result<(), DriverError> {
        match self.ask(&request, ACTION_SECONDS_MAX).await? {
            HelperReply::Done => Ok(()),
            _ => Err(unexpected(&request)),
        }
    }

    /// Changes a snapshot of a guest, whether it runs or not.
    async fn change_snapshot(
        &self,
        vps: VpsId,
        name: SnapshotName,
        change: SnapshotChange,
    ) -> Result<(), DriverError> {
        let wanted = matches!(change, SnapshotChange::Take);
        if self.disks.snapshots(vps)?.has(name) == wanted {
            return Ok(());
        }
        let disk = self.disks.disk(vps);
        let request = HelperRequest::Snapshot { vps, disk, name: name.to_string(), change };
        match self.ask(&request, SNAPSHOT_SECONDS_MAX).await? {
            HelperReply::Done => Ok(()),
            HelperReply::Off => match change {
                SnapshotChange::Take => Ok(self.disks.take_snapshot(vps, name).await?),
                SnapshotChange::Delete => Ok(self.disks.delete_snapshot(vps, name).await?),
            },
            _ => Err(unexpected(&request)),
        }
    }

    async fn look_at_snapshots(&self, ours: Vec<VpsId>) -> BTreeMap<VpsId, Snapshots> {
        let disks = self.disks.clone();
        let look = move || {
            let of = |vps: VpsId| match disks.snapshots(vps) {
                Ok(snapshots) => Some((vps, snapshots)),
                Err(error) => {
                    warn!(%vps, error = explain(&error), "cannot tell its snapshots");
                    None
                }
            };
            ours.into_iter().filter_map(of).collect()
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }

    async fn ask(&self, request: &HelperRequest, seconds_max: u64) -> Result<HelperReply, DriverError> {
        Ok(self.helper.request(request, Duration::from_secs(seconds_max)).await?)
    }
}

/// The network behind NAT. Where libvirt is, it is libvirt's, so that a host has one and not one of each engine.
#[derive(Debug, Clone)]
pub struct SharedNetwork(Arc<Helper>);

impl SharedNetwork {
    /// Brings it up unless it is.
    pub(super) async fn ensure(&self) -> Result<(), DriverError> {
        match self.0.request(&HelperRequest::Network, Duration::from_secs(ACTION_SECONDS_MAX)).await? {
            HelperReply::Done => Ok(()),
            _ => Err(unexpected(&HelperRequest::Network)),
        }
    }
}

impl Driver for LibvirtDriver {
    fn unasked(&self) -> EngineStatus {
        EngineStatus {
            engine: Engine::Libvirt,
            version: String::new(),
            acceleration: self.verdict.acceleration,
            problem: Some("libvirt was not asked yet".to_owned()),
        }
    }

    async fn observe(&self) -> Result<Observed, DriverError> {
        match self.ask(&HelperRequest::Observe, OBSERVE_SECONDS_MAX).await? {
            HelperReply::Observed { engine_version, mut guests } => {
                self.sizes.fill_in(&mut guests).await;
                Ok(Observed {
                    snapshots: self
                        .look_at_snapshots(guests.iter().filter_map(|guest| guest.vps).collect())
                        .await,
                    engine: EngineStatus { version: engine_version, problem: None, ..self.unasked() },
                    guests,
                })
            }
            _ => Err(unexpected(&HelperRequest::Observe)),
        }
    }

    async fn prepare(
        &self,
        spec: &VpsSpec,
        image: &Path,
        user_data: Option<&[u8]>,
    ) -> Result<(), DriverError> {
        if let Some(CloneSource { vps, snapshot: None }) = spec.source
            && !self.disks.has_disk(spec.id)?
        {
            self.change_snapshot(vps, SnapshotName::ForClone(spec.id), SnapshotChange::Take).await?;
        }
        let rescue = spec.rescue.as_ref().map(|image| self.images.path(image.sha256));
        let files = self.disks.prepare(spec, image, rescue.as_deref(), user_data).await?;
        self.grow(spec, &files).await?;
        self.act(HelperRequest::Define(Box::new(self.guest(spec)))).await?;
        self.disks.remove_old_files(&files)?;
        Ok(())
    }

    async fn adopt(&self, spec: &VpsSpec) -> Result<(), DriverError> {
        adopted::adopt(self, spec).await
    }

    async fn start(&self, vps: VpsId) -> Result<(), DriverError> {
        self.act(HelperRequest::Start { vps }).await
    }

    async fn pause(&self, vps: VpsId) -> Result<(), DriverError> {
        self.act(HelperRequest::Pause { vps }).await
    }

    async fn shutdown(&self, vps: VpsId) -> Result<(), DriverError> {
        self.act(HelperRequest::Shutdown { vps }).await
    }

    async fn power_off(&self, vps: VpsId) -> Result<(), DriverError> {
        if adopted::look(self, vps).await?.is_some_and(|look| look.is_foreign) {
            return Ok(());
        }
        self.act(HelperRequest::PowerOff { vps }).await
    }

    async fn destroy(&self, vps: VpsId) -> Result<(), DriverError> {
        let adopted = adopted::look(self, vps).await?;
        if adopted.as_ref().is_some_and(|look| look.is_foreign) {
            return Ok(self.disks.forget_adopted(vps)?);
        }
        // The definition first: a guest without files could still be started, files without a guest only take space.
        self.act(HelperRequest::Undefine { vps }).await?;
        let others = adopted.map(|look| look.others).unwrap_or_default();
        let disks = self.disks.clone();
        let removed = spawn_blocking(move || disks.destroy(vps, &others)).await;
        Ok(removed.map_err(|_| DriverError::passing("the agent is stopping"))??)
    }

    async fn take_snapshot(&self, vps: VpsId, name: SnapshotName) -> Result<(), DriverError> {
        self.change_snapshot(vps, name, SnapshotChange::Take).await
    }

    async fn restore_snapshot(&self, spec: &VpsSpec, name: SnapshotName) -> Result<(), DriverError> {
        if !self.disks.snapshots(spec.id)?.has(name) {
            return Err(DriverError::lasting(format!(
                "the disk has no snapshot `{name}`: it was removed by hand; nothing was changed"
            )));
        }
        Ok(self.disks.restore_snapshot(spec, name).await?)
    }

    async fn delete_snapshot(&self, vps: VpsId, name: SnapshotName) -> Result<(), DriverError> {
        self.change_snapshot(vps, name, SnapshotChange::Delete).await
    }

    async fn measure(&self) -> Result<Vec<Point>, DriverError> {
        match self.ask(&HelperRequest::Measure, MEASURE_SECONDS_MAX).await? {
            HelperReply::Measured { points } => Ok(points),
            _ => Err(unexpected(&HelperRequest::Measure)),
        }
    }

    async fn console(
        &self,
        vps: VpsId,
        _size: watch::Receiver<TerminalSize>,
    ) -> Result<Box<dyn Pipe>, DriverError> {
        let (console, _) = self.sockets(vps).await?;
        let console = console.ok_or_else(|| not_there(vps, "console"))?;
        open_terminal(&console).map_err(|error| unreachable(vps, "console", &error))
    }

    async fn screen(&self, vps: VpsId) -> Result<Box<dyn Pipe>, DriverError> {
        let (_, screen) = self.sockets(vps).await?;
        let screen = screen.ok_or_else(|| not_there(vps, "screen"))?;
        match UnixStream::connect(&screen).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(unreachable(vps, "screen", &error)),
        }
    }

    async fn facts(&self, vps: VpsId) -> Result<GuestFacts, DriverError> {
        let request = HelperRequest::Facts { vps };
        match self.ask(&request, FACTS_SECONDS_MAX).await? {
            HelperReply::Facts(facts) => Ok(*facts),
            _ => Err(unexpected(&request)),
        }
    }

    async fn set_password(&self, vps: VpsId, user: &str, password: &Secret) -> Result<(), DriverError> {
        let request = HelperRequest::SetPassword { vps, user: user.to_owned(), password: password.clone() };
        match self.ask(&request, PASSWORD_SECONDS_MAX).await? {
            HelperReply::Done => Ok(()),
            _ => Err(unexpected(&request)),
        }
    }

    fn definition(&self, spec: &VpsSpec) -> Option<Sha256> {
        if spec.adopted.is_some() {
            return adopted::definition(spec).digest().ok();
        }
        self.guest(spec).digest().ok()
    }
}

/// Opens the host's end of a serial console. QEMU looks once a second whether somebody has it open.
fn open_terminal(path: &Path) -> io::Result<Box<dyn Pipe>> {
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let terminal = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)?;
    let reads = pipe::Receiver::from_file_unchecked(terminal.try_clone()?)?;
    Ok(Box::new(tokio::io::join(reads, pipe::Sender::from_file_unchecked(terminal)?)))
}

fn not_there(vps: VpsId, what: &str) -> DriverError {
    DriverError::lasting(format!(
        "VPS {vps} was started by an older release, without a {what} to reach; restart it"
    ))
}

fn unreachable(vps: VpsId, what: &str, error: &io::Error) -> DriverError {
    DriverError::passing(format!("cannot reach the {what} of VPS {vps}: {error}"))
}

fn unexpected(request: &HelperRequest) -> DriverError {
    HelperError::Unexpected { request: super::helper::name(request) }.into()
}

impl From<HelperError> for DriverError {
    fn from(error: HelperError) -> Self {
        Self { problem: explain(&error), retryable: error.is_retryable() }
    }
}

impl From<DiskError> for DriverError {
    fn from(error: DiskError) -> Self {
        Self { problem: explain(&error), retryable: error.is_retryable() }
    }
}

/// An error and its causes in one line: what an admin reads far from this host's journal.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod real;

#[cfg(test)]
mod tests {
    use chom_protocol::host::Acceleration;
    use chom_protocol::vps::IsoMedium;

    use super::super::seed::tests::spec;
    use super::*;

    #[test]
    fn what_a_guest_boots_with_is_part_of_its_definition_and_its_power_is_not() {
        let verdict = Verdict { acceleration: Acceleration::Tcg, reason: String::new() };
        let images = ImageCache::new("/images".into());
        let driver = LibvirtDriver::new("/helper".into(), "/vps".into(), images, verdict);
        let of = |change: fn(&mut VpsSpec)| {
            let mut spec = spec();
            change(&mut spec);
            driver.definition(&spec).unwrap()
        };
        let same = of(|_| {});
        assert_eq!(same, of(|spec| spec.power = chom_protocol::vps::Power::Stopped));
        assert_eq!(same, of(|spec| spec.start_count += 1));
        for changed in [
            of(|spec| spec.cores += 1),
            of(|spec| spec.memory.0 += 1 << 20),
            of(|spec| spec.interface.mac[5] ^= 1),
            of(|spec| spec.ssh_keys.clear()),
            of(|spec| spec.placement += 1),
            of(|spec| spec.rescue = spec.image.clone()),
            of(|spec| spec.iso = Some(IsoMedium { image: spec.image.clone().unwrap(), boot_first: false })),
            of(|spec| spec.iso = Some(IsoMedium { image: spec.image.clone().unwrap(), boot_first: true })),
            of(|spec| spec.disk.0 += 1 << 20),
            of(|spec| spec.build += 1),
            of(|spec| spec.name = "other".parse().unwrap()),
            of(|spec| spec.suspension = Some(chom_protocol::vps::Suspension::Isolated)),
        ] {
            assert_ne!(same, changed);
        }
    }
}
