//! Regions, sizes and images: what a VPS can be made of.

use serde::{Deserialize, Serialize};

use crate::id::Name;
use crate::units::Bytes;
use crate::vps::{Engine, ImageFormat, Sha256};

/// A region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegionView {
    /// Its name.
    pub name: Name,
    /// Hosts in it.
    pub hosts: u32,
    /// Hosts that could take a VPS now.
    pub hosts_schedulable: u32,
}

/// A size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SizeView {
    /// Its name.
    pub name: Name,
    /// Virtual processors.
    pub cores: u32,
    /// Memory.
    pub memory_bytes: Bytes,
    /// Disk.
    pub disk_bytes: Bytes,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageView {
    /// Its name.
    pub name: Name,
    /// The engine that runs it.
    pub engine: Engine,
    /// Its layout.
    pub format: ImageFormat,
    /// Its content.
    pub sha256: Sha256,
    /// Size of the file.
    pub size_bytes: Bytes,
    /// Smallest disk that it fits on.
    pub minimum_disk_bytes: Bytes,
    /// Whether it is used when none is asked for.
    pub default: bool,
}
