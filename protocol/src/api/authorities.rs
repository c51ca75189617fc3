//! The fleet's CAs as the API shows and takes them.

use serde::{Deserialize, Serialize};

use crate::id::Name;

/// Most hosts that are named in one list of a CA; their number is always whole.
pub const HOSTS_SHOWN_MAX: usize = 16;

/// What a CA does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AuthorityState {
    /// Agents are told to trust it; it signs once those that are connected do.
    Announced,
    /// It signs the hosts' certificates.
    Signing,
    /// It signs hosts' certificates no longer, and is trusted still.
    Trusted,
    /// It is trusted no longer.
    Retired,
}

/// A CA of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuthorityView {
    /// Counts up with each rotation.
    pub number: u64,
    /// What it does.
    pub state: AuthorityState,
    /// SHA-256 of its certificate.
    pub fingerprint: String,
    /// When it was announced, RFC 3339.
    pub announced_at: String,
    /// Since when it may sign, RFC 3339.
    pub signs_since: Option<String>,
    /// Connected hosts that do not trust it yet; some of them.
    pub waits_for: Vec<Name>,
    /// How many they are.
    pub waits_for_count: u32,
    /// Hosts that have shown no certificate of a newer CA yet; some of them.
    pub needed_by: Vec<Name>,
    /// How many they are.
    pub needed_by_count: u32,
    /// Its certificate, for whoever has to trust it.
    pub certificate_pem: String,
    /// Its revision, for `If-Match`.
    pub revision: u64,
}

/// Ends the trust in a CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RetireAuthority {
    /// Although hosts may need it still: they have to be enrolled anew.
    #[serde(default)]
    pub force: bool,
}
