//! People who sign in with a password, and what they get for it: a session, which is an API token that ends soon.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::api::tokens::{Role, TokenView};
use crate::id::{Name, TokenId, UserId, VpsId};
use crate::user_name::UserName;

/// Fewest characters of a password. What it is made of is not asked: length is what counts (NIST SP 800-63B).
pub const PASSWORD_CHARACTERS_MIN: usize = 12;
/// Longest password; passphrases fit.
pub const PASSWORD_BYTES_MAX: usize = 512;

/// A password on its way. It is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String, format = "password"))]
#[serde(transparent)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Password(…)")
    }
}

/// Makes a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// What it signs in with: a name or a mail address.
    pub name: UserName,
    /// What it may do.
    pub role: Role,
    /// In which tenant, with a role of a tenant; the caller's own where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
    /// Its password: 12 characters or more.
    pub password: Password,
}

/// Changes what a user may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetUserRole {
    /// The new role, of the fleet or of a tenant as the old one.
    pub role: Role,
}

/// Gives another user a password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetUserPassword {
    /// The new one: 12 characters or more.
    pub password: Password,
}

/// Changes one's own password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangePassword {
    /// The one until now.
    pub old: Password,
    /// The new one: 12 characters or more.
    pub new: Password,
}

/// A user, without its password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UserView {
    /// Its id.
    pub id: UserId,
    /// What it signs in with.
    pub name: UserName,
    /// What it may do.
    pub role: Role,
    /// In which tenant; none: in the fleet.
    pub tenant: Option<Name>,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// When it was last changed, RFC 3339.
    pub changed_at: String,
    /// Since when it cannot sign in, RFC 3339.
    pub disabled_at: Option<String>,
    /// Until when nobody can sign in with its name, after too many wrong passwords, RFC 3339.
    pub locked_until: Option<String>,
    /// When it last signed in, RFC 3339.
    pub signed_in_at: Option<String>,
    /// Sessions that are open.
    pub sessions: u64,
    /// Its revision, for `If-Match`.
    pub revision: u64,
}

/// Signs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// The user's name.
    pub name: UserName,
    /// Its tenant; none for a user of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
    /// Its password.
    pub password: Password,
}

/// A session that has just begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignedIn {
    /// What is kept of its token.
    pub token: TokenView,
    /// The token itself, shown this once.
    pub secret: String,
}

/// Whom a token stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WhoAmI {
    /// What is written into the audit trail: a user's name, or the token's.
    pub name: String,
    /// Who signed in; none for an API token.
    pub user: Option<UserId>,
    /// The token.
    pub token: TokenId,
    /// What it may do, in short.
    pub role: Role,
    /// In which tenant; none: in the fleet.
    pub tenant: Option<Name>,
    /// With which VPS alone.
    pub vps: Option<VpsId>,
    /// What it may do, as in the document's `x-permission`; `change` includes `read`.
    pub permissions: Vec<String>,
    /// When it ends, RFC 3339.
    pub expires_at: Option<String>,
}
