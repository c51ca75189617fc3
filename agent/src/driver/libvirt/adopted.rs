//! Machines that CHOM did not make: taken on where they stand, and the sizes of their disks, which libvirt does not say
//! without keeping whoever asks waiting.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chom_protocol::foreign::{Adopted, DiskKind, GuestDisk};
use chom_protocol::helper::{AdoptedDefinition, HelperReply, HelperRequest, ObservedGuest};
use chom_protocol::vps::VpsSpec;
use chom_protocol::{Bytes, VpsId};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{LibvirtDriver, OBSERVE_SECONDS_MAX, SECTOR_BYTES, unexpected};
use crate::driver::DriverError;
use crate::driver::disk::adopted_size;

/// Reading a header takes a microsecond; on a network file system whose server is gone it takes for ever.
const SIZES_PATIENCE: Duration = Duration::from_secs(2);

/// What CHOM says of an adopted guest.
pub(super) fn definition(spec: &VpsSpec) -> AdoptedDefinition {
    AdoptedDefinition {
        vps: spec.id,
        placement: spec.placement,
        cores: spec.cores,
        memory: spec.memory,
        disk_size: spec.disk,
        mac: spec.interface.mac,
        connected: spec.is_connected(),
    }
}

/// Takes a guest on, or makes of one that was taken on what the spec says now.
pub(super) async fn adopt(driver: &LibvirtDriver, spec: &VpsSpec) -> Result<(), DriverError> {
    let Some(adopted) = &spec.adopted else {
        return Err(DriverError::lasting(format!("VPS {} was not adopted", spec.id)));
    };
    driver.disks.note_adopted(spec.id, adopted)?;
    let wanted = definition(spec);
    if let Some((disk, has)) = disk_to_grow(adopted, spec.disk) {
        // Only what is marked is touched; that its disk is as wanted is marked once it is.
        driver.act(HelperRequest::Adopt(AdoptedDefinition { disk_size: has, ..wanted })).await?;
        let format = if disk.kind == DiskKind::Raw { "raw" } else { "qcow2" };
        let size = Bytes(spec.disk.0.next_multiple_of(SECTOR_BYTES));
        driver.grow_to(spec.id, &disk.device, Path::new(&disk.path), format, size).await?;
    }
    driver.act(HelperRequest::Adopt(wanted)).await
}

/// The disk of a guest, and its size, if it is a file and smaller than wanted. What is larger was so when it was adopted,
/// or grew by hand.
fn disk_to_grow(adopted: &Adopted, wanted: Bytes) -> Option<(&GuestDisk, Bytes)> {
    let disk = adopted.disk().filter(|disk| disk.kind.is_file())?;
    adopted_size(disk).filter(|has| *has < wanted).map(|has| (disk, has))
}

/// What an adopted VPS's removal must know of the guests that are not CHOM's.
pub(super) struct Look {
    /// Its own guest is one of them: it was never taken on.
    pub(super) is_foreign: bool,
    /// The disks of all of them.
    pub(super) others: Vec<PathBuf>,
}

/// Looks at them; none for a VPS that was not adopted.
pub(super) async fn look(driver: &LibvirtDriver, vps: VpsId) -> Result<Option<Look>, DriverError> {
    if driver.disks.adopted(vps)?.is_none() {
        return Ok(None);
    }
    let HelperReply::Observed { guests, .. } =
        driver.ask(&HelperRequest::Observe, OBSERVE_SECONDS_MAX).await?
    else {
        return Err(unexpected(&HelperRequest::Observe));
    };
    let mut look = Look { is_foreign: false, others: Vec::new() };
    for guest in guests.into_iter().filter(|guest| guest.vps.is_none()) {
        let hardware = guest.hardware.ok_or_else(|| {
            DriverError::passing(format!("cannot tell which disks the guest `{}` has", guest.name))
        })?;
        look.is_foreign |= hardware.id == vps;
        look.others.extend(hardware.disks.into_iter().map(|disk| PathBuf::from(disk.path)));
    }
    Ok(Some(look))
}

/// Reads the sizes of foreign guests' disks, one look at a time.
#[derive(Debug, Clone, Default)]
pub(super) struct Sizes {
    is_looking: Arc<AtomicBool>,
}

impl Sizes {
    /// Adds what can be told; nothing while an earlier look hangs.
    pub(super) async fn fill_in(&self, guests: &mut [ObservedGuest]) {
        let hardware = guests.iter().filter_map(|guest| guest.hardware.as_deref());
        let disks: Vec<GuestDisk> = hardware.flat_map(|hardware| hardware.disks.iter().cloned()).collect();
        if disks.is_empty() || self.is_looking.swap(true, Ordering::Relaxed) {
            return;
        }
        let is_looking = Arc::clone(&self.is_looking);
        let look = spawn_blocking(move || {
            let sizes: Vec<Option<Bytes>> = disks.iter().map(adopted_size).collect();
            is_looking.store(false, Ordering::Relaxed);
            sizes
        });
        let Ok(Ok(sizes)) = timeout(SIZES_PATIENCE, look).await else { return };
        let hardware = guests.iter_mut().filter_map(|guest| guest.hardware.as_deref_mut());
        for (disk, size) in hardware.flat_map(|hardware| &mut hardware.disks).zip(sizes) {
            disk.size = size;
        }
    }
}
