//! Regions, sizes and images: what a VPS can be made of.

use serde::{Deserialize, Serialize};

use crate::id::{HostId, Name};
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

/// Where an image is from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// The orchestrator's configuration; fixed while it runs.
    #[default]
    Configuration,
    /// It was added, and can be removed.
    Added,
}

/// Describes an image that is added. Its bytes come beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct NewImage {
    /// Its name.
    #[cfg_attr(feature = "openapi", param(value_type = String))]
    pub name: Name,
    /// Which version of what is in it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The engine that runs it.
    pub engine: Engine,
    /// Its layout.
    pub format: ImageFormat,
    /// What its bytes must be; whatever comes is taken where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(value_type = Option<String>))]
    pub sha256: Option<Sha256>,
    /// Smallest disk that it fits on, where that is more than its header says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_disk_mib: Option<u64>,
    /// The user that cloud-init makes in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_user: Option<String>,
}

/// Describes an image that the orchestrator fetches by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FetchImage {
    /// Its name.
    pub name: Name,
    /// Which version of what is in it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The engine that runs it.
    pub engine: Engine,
    /// Its layout.
    pub format: ImageFormat,
    /// Where it is: `https://` or `http://`, without user and password. It is shown to admins and kept in the trail.
    pub url: String,
    /// What its bytes must be: only with it does it not matter who serves them.
    pub sha256: Sha256,
    /// Smallest disk that it fits on, where that is more than its header says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_disk_mib: Option<u64>,
    /// The user that cloud-init makes in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_user: Option<String>,
}

/// Says which hosts are to have an image before a VPS needs it, or are not any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PrefetchImage {
    /// These.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostId>,
    /// And those that the region has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<Name>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PrefetchChanged {
    /// Hosts that were named.
    pub hosts: u32,
    /// Of them, those for which it was something new.
    pub changed: u32,
}

/// How far a host is with an image that it is to have before a VPS needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PrefetchWord {
    /// It has not begun with it.
    Waiting,
    /// It is on its way.
    Fetching,
    /// It is there, verified.
    Ready,
    /// It did not come; it is tried again.
    Failed,
    /// Its host cannot be seen.
    Unknown,
}

/// A host that is to have an image before a VPS needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PrefetchView {
    /// Which.
    pub host: HostId,
    /// Its name.
    pub host_name: Option<Name>,
    /// How far it is.
    pub state: PrefetchWord,
    /// So much of it came, while it is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// Why it did not come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Since when it is to have it, RFC 3339.
    pub since: String,
}

/// Longest URL of an image, in bytes.
pub const IMAGE_URL_BYTES_MAX: usize = 2048;

/// Longest version and user name of an image, in characters.
pub const IMAGE_TEXT_CHARACTERS_MAX: usize = 64;

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageView {
    /// Its name.
    pub name: Name,
    /// Which version of what is in it.
    #[serde(default)]
    pub version: Option<String>,
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
    /// The user that cloud-init makes in it.
    #[serde(default)]
    pub default_user: Option<String>,
    /// Whether it is used when none is asked for.
    pub default: bool,
    /// Where it is from.
    #[serde(default)]
    pub source: ImageSource,
    /// VPSs that were made from it, deleted ones that are kept included.
    #[serde(default)]
    pub vps_count: u32,
    /// When it was added, RFC 3339.
    #[serde(default)]
    pub added_at: Option<String>,
    /// Its revision, for `If-Match`; 0 where it is the configuration's.
    #[serde(default)]
    pub revision: u64,
}
