//! Guests that CHOM did not make: what their host says they are made of, and what is kept of one that was adopted.

use serde::{Deserialize, Serialize};

use crate::id::VpsId;
use crate::network::Attachment;
use crate::units::Bytes;

/// Most disks of a guest that are told of; one with more is told of with an obstacle.
pub const GUEST_DISKS_MAX: usize = 8;
/// Most cards of a guest that are told of.
pub const GUEST_CARDS_MAX: usize = 8;

/// What a foreign guest is made of, as far as its engine says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// The engine's own id of it; also its id as a VPS once it is adopted.
    pub id: VpsId,
    /// Virtual processors; none: it is not limited.
    pub cores: Option<u32>,
    /// Memory; none: it is not limited.
    pub memory: Option<Bytes>,
    /// What it writes to, in the engine's order.
    pub disks: Vec<GuestDisk>,
    /// Its network cards, in the engine's order.
    pub cards: Vec<GuestCard>,
    /// Why it cannot be adopted as it is, and what to do.
    pub obstacle: Option<String>,
}

/// A disk of a guest that CHOM did not make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestDisk {
    /// The file or device on its host; of a container the storage pool that it is in.
    pub path: String,
    /// What that is.
    pub kind: DiskKind,
    /// Size that the guest sees; none where it cannot be told.
    pub size: Option<Bytes>,
    /// What it is called among the guest's devices, such as `vda`.
    pub device: String,
}

/// What the disk of a guest that CHOM did not make is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DiskKind {
    /// A qcow2 file.
    Qcow2,
    /// A raw file.
    Raw,
    /// A block device, such as an LVM volume.
    Block,
    /// In a storage pool of its engine, which also removes it.
    Pool,
    /// Anything else, such as a disk over the network.
    Other,
}

impl DiskKind {
    /// Whether it is a file, which CHOM grows and, when its VPS is purged, removes.
    #[must_use]
    pub const fn is_file(self) -> bool {
        matches!(self, Self::Qcow2 | Self::Raw)
    }
}

impl std::fmt::Display for DiskKind {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Qcow2 => "qcow2 file",
            Self::Raw => "raw file",
            Self::Block => "block device",
            Self::Pool => "storage pool",
            Self::Other => "disk of another kind",
        })
    }
}

/// A network card of a guest that CHOM did not make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestCard {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Where it is plugged in; none where that is no bridge.
    pub attachment: Option<Attachment>,
    /// What it is plugged into, as the engine calls it.
    pub on: String,
}

/// What is kept of a guest that was adopted. Its definition stays its own, but for what CHOM is asked to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// Its name in its engine, which it keeps.
    pub guest: String,
    /// Its disks as they were then; the first one is the VPS's.
    pub disks: Vec<GuestDisk>,
}

impl Adopted {
    /// The VPS's disk.
    #[must_use]
    pub fn disk(&self) -> Option<&GuestDisk> {
        self.disks.first()
    }

    /// About how much memory it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let disks =
            self.disks.iter().map(|disk| size_of::<GuestDisk>() + disk.path.len() + disk.device.len());
        size_of::<Self>() + self.guest.len() + disks.sum::<usize>()
    }
}
