//! Snapshots and clones of VPSs, rescue mode and CD-ROM media, as the API shows and takes them.

use serde::{Deserialize, Serialize};

use crate::api::operations::OperationView;
use crate::id::{Name, SnapshotId, VpsId};
use crate::units::Bytes;

/// Most snapshots of one VPS. Each one slows the disk's next writes, and all their rows go in one commit with the VPS's.
pub const SNAPSHOTS_PER_VPS_MAX: usize = 8;

/// How a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    /// It is being taken.
    Taking,
    /// It is there, as far as its host was seen.
    Ready,
    /// It is being removed.
    Deleting,
    /// It should be there, and its host says it is not: somebody removed it by hand.
    Missing,
    /// Its host has it, and nobody asked CHOM for it (any more).
    Unknown,
}

/// A snapshot of a VPS's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SnapshotView {
    /// Its id.
    pub id: SnapshotId,
    /// Its name, unique among those of its VPS; none of one that CHOM does not know.
    pub name: Option<Name>,
    /// Of which VPS.
    pub vps: VpsId,
    /// How it is.
    pub state: SnapshotState,
    /// When it was asked for, RFC 3339.
    pub created_at: Option<String>,
    /// When it was taken, by the host's clock, RFC 3339; none until the host told of it.
    pub taken_at: Option<String>,
    /// Size that the disk had then; none where not known.
    pub disk_bytes: Option<Bytes>,
}

/// Asks for a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TakeSnapshot {
    /// What to call it; unique among the VPS's snapshots.
    pub name: Name,
}

/// Answer to a change of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SnapshotAccepted {
    /// The snapshot as it is wanted now.
    pub snapshot: SnapshotView,
    /// The operation to wait for.
    pub operation: OperationView,
}

/// Asks for a copy of a VPS: a new VPS with its size, keys and user data, and with its disk's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CloneVps {
    /// The name of the new one.
    pub name: Name,
    /// The disk as it was in this snapshot; as it is now where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
}

/// Boots a VPS from a rescue image, its own disk attached as the second one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Rescue {
    /// Which image of the catalogue; a fresh copy of the VPS's own image where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
}

/// Puts a medium into a VM's CD-ROM drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AttachIso {
    /// Which image of the catalogue, of format `iso`.
    pub image: Name,
    /// Whether to boot from it before the disk, at the next start.
    #[serde(default)]
    pub boot_first: bool,
}
