//! What a guest says of itself, as the API shows it. What it does not say is `null`: unknown, never zero.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// What is known from inside a VPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestView {
    /// When it said so, by its host's clock, RFC 3339.
    pub seen_at: String,
    /// Its own host name.
    pub hostname: Option<String>,
    /// Its operating system.
    pub os: Option<String>,
    /// Its kernel's release.
    pub kernel: Option<String>,
    /// The addresses of its network cards.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<String>>))]
    pub addresses: Option<Vec<IpAddr>>,
    /// Its mounted file systems.
    pub file_systems: Option<Vec<GuestFileSystemView>>,
}

/// A file system mounted inside a VPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestFileSystemView {
    /// Where.
    pub mount: String,
    /// What kind, such as `ext4`.
    pub kind: String,
    /// Its size.
    pub size_bytes: Option<Bytes>,
    /// How much of it is in use.
    pub used_bytes: Option<Bytes>,
}
