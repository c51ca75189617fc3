//! Does what was planned, each action under a deadline. No choices left: what fails is for the next pass.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

use chom_protocol::VpsId;
use chom_protocol::vps::{Engine, Sha256, VpsSpec};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::plan::{Action, Change};
use crate::driver::{Driver, DriverError};
use crate::image::{ImageCache, ImageError, Wanted};
use crate::link::Blobs;

/// A disk overlay, a seed and a definition take a second; a host under load takes longer.
const PREPARE_SECONDS_MAX: u64 = 120;
/// Start, shutdown and power-off: the driver itself gives up after 90 s.
const SWITCH_SECONDS_MAX: u64 = 100;
/// Copying a disk; the driver gives up a minute before.
const COPY_SECONDS_MAX: u64 = 3600;
/// Counting the references of a large disk anew; the driver gives up a minute before.
const SNAPSHOT_SECONDS_MAX: u64 = 600;
/// Removing a large disk from a busy file system.
const DESTROY_SECONDS_MAX: u64 = 300;

/// What a task of the reconciler came to.
#[derive(Debug)]
pub(super) enum Finished {
    /// Work of an engine on a VPS.
    Engine(Engine, Done),
    /// A blob.
    Blob(Sha256, Result<(), ImageError>),
}

/// What engine work came to.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) action: Action,
    pub(super) vps: VpsId,
    pub(super) outcome: Result<(), DriverError>,
}

/// Does engine work.
pub(super) async fn engine<D: Driver>(
    driver: Arc<D>,
    images: ImageCache,
    spec: Option<VpsSpec>,
    action: Action,
    vps: VpsId,
) -> Done {
    let seconds = match action {
        Action::Prepare { .. } if spec.as_ref().is_some_and(|spec| spec.source.is_some()) => COPY_SECONDS_MAX,
        Action::Prepare { .. } => PREPARE_SECONDS_MAX,
        Action::Snapshot { .. } => SNAPSHOT_SECONDS_MAX,
        Action::Destroy { .. } => DESTROY_SECONDS_MAX,
        _ => SWITCH_SECONDS_MAX,
    };
    let work = async {
        match action {
            Action::Prepare { .. } => prepare(&*driver, &images, spec).await,
            Action::Start { .. } => driver.start(vps).await,
            Action::Pause { .. } => driver.pause(vps).await,
            Action::Shutdown { .. } => driver.shutdown(vps).await,
            Action::PowerOff { .. } => driver.power_off(vps).await,
            Action::Snapshot { change, name, .. } => match (change, spec) {
                (Change::Take, _) => driver.take_snapshot(vps, name).await,
                (Change::Delete, _) => driver.delete_snapshot(vps, name).await,
                (Change::Restore, Some(spec)) => driver.restore_snapshot(&spec, name).await,
                // Desired state changed under the plan, as above: not done, and not to be taken for done.
                (Change::Restore, None) => {
                    Err(DriverError::passing(format!("VPS {vps} is not wanted here any more")))
                }
            },
            Action::Destroy { .. } => {
                driver.power_off(vps).await?;
                driver.destroy(vps).await
            }
            // Marks and fetches are no engine work; `Action::vps` keeps them out.
            Action::Fetch { .. } | Action::BeginJob { .. } | Action::FinishJob { .. } => Ok(()),
        }
    };
    let outcome = match timeout(Duration::from_secs(seconds), work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(DriverError::passing(format!(
            "{} did not end within {seconds} s; look at the engine on this host, it is tried again",
            action.doing()
        ))),
    };
    Done { action, vps, outcome }
}

async fn prepare<D: Driver>(
    driver: &D,
    images: &ImageCache,
    spec: Option<VpsSpec>,
) -> Result<(), DriverError> {
    // Desired state changed under the plan: the next pass knows better.
    let Some(spec) = spec else { return Ok(()) };
    let user_data = match spec.user_data {
        None => None,
        Some(blob) => {
            let images = images.clone();
            let read = spawn_blocking(move || images.read_small(blob.sha256)).await;
            let read = read.map_err(std::io::Error::other).and_then(|read| read);
            Some(read.map_err(|error| DriverError::passing(format!("cannot read its user data: {error}")))?)
        }
    };
    match &spec.image {
        None => driver.adopt(&spec).await,
        Some(image) => driver.prepare(&spec, &images.path(image.sha256), user_data.as_deref()).await,
    }
}

/// Fetches a blob.
pub(super) async fn blob(
    images: ImageCache,
    blobs: Blobs,
    wanted: Wanted,
    percent: Arc<AtomicU8>,
) -> Finished {
    let outcome = images.fetch(&blobs, &wanted, &percent).await;
    Finished::Blob(wanted.sha256, outcome)
}
