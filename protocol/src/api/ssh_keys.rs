//! A tenant's SSH keys as the API shows and takes them.

use serde::{Deserialize, Serialize};

use crate::id::Name;

/// Adds a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AddSshKey {
    /// What it is called, unique within the tenant.
    pub name: Name,
    /// One line as in a `.pub` file of ssh-keygen(1).
    pub key: String,
}

/// A tenant's SSH key. VPSs that are made from now on let it in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SshKeyView {
    /// What it is called.
    pub name: Name,
    /// Whose it is.
    pub tenant: Name,
    /// The key.
    pub key: String,
    /// Its digest, as ssh-keygen(1) shows it.
    pub fingerprint: String,
    /// When it was added, RFC 3339.
    pub created_at: String,
    /// Its revision, for `If-Match`.
    pub revision: u64,
}
