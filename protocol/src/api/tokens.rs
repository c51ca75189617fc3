//! API tokens and the roles that they have, as the API shows and takes them.

use serde::{Deserialize, Serialize};

use crate::id::{Name, TokenId, VpsId};
use crate::user_name::UserName;

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

/// Makes an API token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// What it is called in lists and in the audit trail.
    pub name: Name,
    /// What its holder may do.
    pub role: Role,
    /// In which tenant, with a role of a tenant; the caller's own where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
    /// With which VPS alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vps: Option<VpsId>,
    /// When it ends, RFC 3339; never where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// An API token, without what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenView {
    /// Its id.
    pub id: TokenId,
    /// What it is called.
    pub name: Name,
    /// What its holder may do.
    pub role: Role,
    /// In which tenant; none: in the fleet.
    pub tenant: Option<Name>,
    /// With which VPS alone.
    pub vps: Option<VpsId>,
    /// Whose session it is; none: it was made for no user.
    #[serde(default)]
    pub user: Option<UserName>,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// When it ends, RFC 3339.
    pub expires_at: Option<String>,
    /// When it was last used, RFC 3339; after a kill of the orchestrator up to five minutes too early.
    pub last_used_at: Option<String>,
}

/// A token that was just made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenMade {
    /// What is kept of it.
    pub token: TokenView,
    /// The token itself, shown this once.
    pub secret: String,
}
