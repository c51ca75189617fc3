//! API tokens and the roles that they have, as the API shows and takes them.

use serde::{Deserialize, Serialize};

/// What its holder may do; `docs/permissions.md` has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Admin,
    /// Runs the fleet: all but its mail server, CAs, tenants and tokens.
    Operator,
    /// Reads everything.
    Auditor,
    /// Everything of one tenant.
    Owner,
    /// What one tenant has, but not its tokens.
    Member,
    /// Reads what one tenant has.
    Viewer,
}

impl Role {
    /// All of them: those for the fleet, then those for a tenant.
    pub const ALL: [Self; 6] =
        [Self::Admin, Self::Operator, Self::Auditor, Self::Owner, Self::Member, Self::Viewer];

    /// Whether it is a role in one tenant; else it is one for the fleet.
    #[must_use]
    pub const fn is_of_tenant(self) -> bool {
        matches!(self, Self::Owner | Self::Member | Self::Viewer)
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Owner => "owner",
            Self::Member => "member",
            Self::Viewer => "viewer",
        })
    }
}
