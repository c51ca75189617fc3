//! The libvirt driver: a VPS's files by `disk`, its guest by the helper process. Decides nothing about what should be.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chom_protocol::VpsId;
use chom_protocol::helper::{GuestDefinition, HelperReply, HelperRequest};
use chom_protocol::host::EngineStatus;
use chom_protocol::sample::Point;
use chom_protocol::vps::{Engine, Sha256, VpsSpec};

use super::acceleration::Verdict;
use super::disk::{DiskError, Disks};
use super::helper::{Helper, HelperError};
use super::{Driver, DriverError, Observed};

/// The package that has the helper.
const PACKAGE: &str = "chom-agent-libvirt";
/// libvirtd's first answer takes 8.5 s on a slow machine: it tries out what QEMU can do.
const OBSERVE_SECONDS_MAX: u64 = 60;
/// Figures that take longer are of no use to the next sample.
const MEASURE_SECONDS_MAX: u64 = 10;
/// A start waits for QEMU to come up; a power-off gives QEMU up to 30 s to write its caches.
const ACTION_SECONDS_MAX: u64 = 90;

/// VMs by libvirt and QEMU.
#[derive(Debug)]
pub struct LibvirtDriver {
    helper: Helper,
    disks: Disks,
    verdict: Verdict,
}

impl LibvirtDriver {
    /// A driver that runs the helper at `helper` when it is first asked, and keeps VPSs' files under `vps_folder`, an
    /// absolute path. `verdict` is [`super::acceleration::determine`]'s.
    #[must_use]
    pub fn new(helper: PathBuf, vps_folder: PathBuf, verdict: Verdict) -> Self {
        Self { helper: Helper::new(helper, PACKAGE), disks: Disks::new(vps_folder), verdict }
    }

    fn guest(&self, spec: &VpsSpec) -> GuestDefinition {
        let files = self.disks.files(spec);
        GuestDefinition {
            vps: spec.id,
            placement: spec.placement,
            cores: spec.cores,
            memory: spec.memory,
            acceleration: self.verdict.acceleration,
            disk: files.disk,
            seed: files.seed,
            console_log: files.console_log,
            mac: spec.interface.mac,
            attachment: spec.interface.attachment.clone(),
        }
    }

    async fn act(&self, request: HelperRequest) -> Result<(), DriverError> {
        match self.ask(&request, ACTION_SECONDS_MAX).await? {
            HelperReply::Done => Ok(()),
            _ => Err(unexpected(&request)),
        }
    }

    async fn ask(&self, request: &HelperRequest, seconds_max: u64) -> Result<HelperReply, DriverError> {
        Ok(self.helper.request(request, Duration::from_secs(seconds_max)).await?)
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
            HelperReply::Observed { engine_version, guests } => Ok(Observed {
                engine: EngineStatus { version: engine_version, problem: None, ..self.unasked() },
                guests,
            }),
            _ => Err(unexpected(&HelperRequest::Observe)),
        }
    }

    async fn prepare(
        &self,
        spec: &VpsSpec,
        image: &Path,
        user_data: Option<&[u8]>,
    ) -> Result<(), DriverError> {
        let files = self.disks.prepare(spec, image, user_data).await?;
        self.act(HelperRequest::Define(Box::new(self.guest(spec)))).await?;
        self.disks.remove_old_seeds(&files)?;
        Ok(())
    }

    async fn start(&self, vps: VpsId) -> Result<(), DriverError> {
        self.act(HelperRequest::Start { vps }).await
    }

    async fn shutdown(&self, vps: VpsId) -> Result<(), DriverError> {
        self.act(HelperRequest::Shutdown { vps }).await
    }

    async fn power_off(&self, vps: VpsId) -> Result<(), DriverError> {
        self.act(HelperRequest::PowerOff { vps }).await
    }

    async fn destroy(&self, vps: VpsId) -> Result<(), DriverError> {
        // The definition first: a guest without files could still be started, files without a guest only take space.
        self.act(HelperRequest::Undefine { vps }).await?;
        Ok(self.disks.destroy(vps)?)
    }

    async fn measure(&self) -> Result<Vec<Point>, DriverError> {
        match self.ask(&HelperRequest::Measure, MEASURE_SECONDS_MAX).await? {
            HelperReply::Measured { points } => Ok(points),
            _ => Err(unexpected(&HelperRequest::Measure)),
        }
    }

    fn definition(&self, spec: &VpsSpec) -> Option<Sha256> {
        self.guest(spec).digest().ok()
    }
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

    use super::super::seed::tests::spec;
    use super::*;

    #[test]
    fn what_a_guest_boots_with_is_part_of_its_definition_and_its_power_is_not() {
        let verdict = Verdict { acceleration: Acceleration::Tcg, reason: String::new() };
        let driver = LibvirtDriver::new("/helper".into(), "/vps".into(), verdict);
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
        ] {
            assert_ne!(same, changed);
        }
    }
}
