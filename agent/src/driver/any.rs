//! Any engine as one type: the agent is compiled once for all of them.

use std::path::Path;

use chom_protocol::VpsId;
use chom_protocol::host::EngineStatus;
use chom_protocol::link::tunnel::{Secret, TerminalSize};
use chom_protocol::sample::Point;
use chom_protocol::vps::{GuestFacts, Sha256, VpsSpec};

use tokio::sync::watch;

use super::fake::FakeDriver;
use super::incus::IncusDriver;
use super::libvirt::{LibvirtDriver, SharedNetwork};
use super::snapshot::SnapshotName;
use super::{Driver, DriverError, Observed, Pipe};

/// One of the engines.
#[derive(Debug)]
pub enum AnyDriver {
    /// VMs by libvirt and QEMU.
    Libvirt(Box<LibvirtDriver>),
    /// System containers by Incus.
    Incus(IncusDriver),
    /// Guests that exist only in a file.
    Fake(FakeDriver),
}

impl AnyDriver {
    /// The network that it shares with other engines, if it has one.
    #[must_use]
    pub fn network(&self) -> Option<SharedNetwork> {
        match self {
            Self::Libvirt(driver) => Some(driver.network()),
            Self::Incus(_) | Self::Fake(_) => None,
        }
    }
}

macro_rules! each {
    ($self:ident, $driver:ident => $call:expr) => {
        match $self {
            Self::Libvirt($driver) => $call,
            Self::Incus($driver) => $call,
            Self::Fake($driver) => $call,
        }
    };
}

impl Driver for AnyDriver {
    fn unasked(&self) -> EngineStatus {
        each!(self, driver => driver.unasked())
    }

    async fn observe(&self) -> Result<Observed, DriverError> {
        each!(self, driver => driver.observe().await)
    }

    async fn prepare(
        &self,
        spec: &VpsSpec,
        image: &Path,
        user_data: Option<&[u8]>,
    ) -> Result<(), DriverError> {
        each!(self, driver => driver.prepare(spec, image, user_data).await)
    }

    async fn adopt(&self, spec: &VpsSpec) -> Result<(), DriverError> {
        each!(self, driver => driver.adopt(spec).await)
    }

    async fn start(&self, vps: VpsId) -> Result<(), DriverError> {
        each!(self, driver => driver.start(vps).await)
    }

    async fn pause(&self, vps: VpsId) -> Result<(), DriverError> {
        each!(self, driver => driver.pause(vps).await)
    }

    async fn shutdown(&self, vps: VpsId) -> Result<(), DriverError> {
        each!(self, driver => driver.shutdown(vps).await)
    }

    async fn power_off(&self, vps: VpsId) -> Result<(), DriverError> {
        each!(self, driver => driver.power_off(vps).await)
    }

    async fn destroy(&self, vps: VpsId) -> Result<(), DriverError> {
        each!(self, driver => driver.destroy(vps).await)
    }

    async fn take_snapshot(&self, vps: VpsId, name: SnapshotName) -> Result<(), DriverError> {
        each!(self, driver => driver.take_snapshot(vps, name).await)
    }

    async fn restore_snapshot(&self, spec: &VpsSpec, name: SnapshotName) -> Result<(), DriverError> {
        each!(self, driver => driver.restore_snapshot(spec, name).await)
    }

    async fn delete_snapshot(&self, vps: VpsId, name: SnapshotName) -> Result<(), DriverError> {
        each!(self, driver => driver.delete_snapshot(vps, name).await)
    }

    async fn measure(&self) -> Result<Vec<Point>, DriverError> {
        each!(self, driver => driver.measure().await)
    }

    async fn console(
        &self,
        vps: VpsId,
        size: watch::Receiver<TerminalSize>,
    ) -> Result<Box<dyn Pipe>, DriverError> {
        each!(self, driver => driver.console(vps, size).await)
    }

    async fn screen(&self, vps: VpsId) -> Result<Box<dyn Pipe>, DriverError> {
        each!(self, driver => driver.screen(vps).await)
    }

    async fn facts(&self, vps: VpsId) -> Result<GuestFacts, DriverError> {
        each!(self, driver => driver.facts(vps).await)
    }

    async fn set_password(&self, vps: VpsId, user: &str, password: &Secret) -> Result<(), DriverError> {
        each!(self, driver => driver.set_password(vps, user, password).await)
    }

    fn definition(&self, spec: &VpsSpec) -> Option<Sha256> {
        each!(self, driver => driver.definition(spec))
    }
}
