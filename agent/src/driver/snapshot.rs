//! What snapshots are called in an engine, so that they carry the id of what they were made for. Pure.

use std::fmt;

use chom_protocol::vps::SnapshotStatus;
use chom_protocol::{SnapshotId, VpsId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const KEPT: &str = "chom-";
const FOR_CLONE: &str = "chom-clone-";

/// What a snapshot in an engine is called, and so what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SnapshotName {
    /// A snapshot that somebody asked for.
    Kept(SnapshotId),
    /// Taken so that a VPS could be copied from it, and of no use once that one is made.
    ForClone(VpsId),
}

impl SnapshotName {
    /// The name's meaning; none of a snapshot that CHOM did not make.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name.strip_prefix(FOR_CLONE) {
            Some(id) => id.parse::<Uuid>().ok().map(|id| Self::ForClone(VpsId::new(id))),
            None => name.strip_prefix(KEPT)?.parse::<Uuid>().ok().map(|id| Self::Kept(SnapshotId::new(id))),
        }
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(id) => write!(out, "{KEPT}{id}"),
            Self::ForClone(id) => write!(out, "{FOR_CLONE}{id}"),
        }
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name).ok_or_else(|| format!("`{name}` is no snapshot of CHOM's"))
    }
}

/// CHOM's snapshots of one VPS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshots {
    /// Those that somebody asked for, in order of id.
    pub kept: Vec<SnapshotStatus>,
    /// The VPSs that others were taken for.
    pub for_clones: Vec<VpsId>,
}

impl Snapshots {
    /// Whether one is there.
    #[must_use]
    pub fn has(&self, name: SnapshotName) -> bool {
        match name {
            SnapshotName::Kept(id) => self.kept.iter().any(|snapshot| snapshot.id == id),
            SnapshotName::ForClone(vps) => self.for_clones.contains(&vps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_names_of_others_are_not_taken_for_ours() {
        let id = Uuid::from_u128(0x0190_f6d2_8f3e_7cc0_9d4c_1f2a_3b4c_5d6e);
        for name in [SnapshotName::Kept(SnapshotId::new(id)), SnapshotName::ForClone(VpsId::new(id))] {
            assert_eq!(SnapshotName::parse(&name.to_string()), Some(name));
        }
        for foreign in ["", "chom-", "chom-clone-", "before the upgrade", "chom-clone-1", "chom-x"] {
            assert_eq!(SnapshotName::parse(foreign), None, "{foreign}");
        }
    }
}
