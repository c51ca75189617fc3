//! What is stored of people: their names and hashed passwords, and which names are locked. Nothing here decides.

use chom_protocol::api::tokens::Role;
use chom_protocol::vps::Sha256;
use chom_protocol::{Name, UnixMillis, UserId, UserName};
use serde::{Deserialize, Serialize};

use crate::fleet::state::{Deadline, State, index_deadline};
use crate::password::PasswordHash;

/// A person who signs in with a password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRow {
    /// Its id.
    pub id: UserId,
    /// What it signs in with; unique in its tenant, or in the fleet.
    pub name: UserName,
    /// What it may do.
    pub role: Role,
    /// In which tenant; none: in the fleet.
    pub tenant: Option<Name>,
    /// Its password's hash.
    pub password: PasswordHash,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it was last changed; to sign in is no change.
    pub changed_at: UnixMillis,
    /// Since when it cannot sign in.
    pub disabled_at: Option<UnixMillis>,
    /// When it last signed in.
    pub signed_in_at: Option<UnixMillis>,
}

/// That nobody can sign in with a name for a while. It says nothing of whether somebody has that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignInLockRow {
    /// Of tenant and name: [`sign_in_id`].
    pub id: Sha256,
    /// Until when.
    pub until: UnixMillis,
}

/// What stands for a name in a tenant or in the fleet, whether there is such a user or not.
#[must_use]
pub fn sign_in_id(tenant: Option<&Name>, name: &UserName) -> Sha256 {
    // No name of a tenant has a slash.
    Sha256::of(format!("{}/{name}", tenant.map_or("", Name::as_str)).as_bytes())
}

pub(in crate::fleet) fn index_user(state: &mut State, old: Option<&UserRow>, new: Option<&UserRow>) {
    let key = |row: &UserRow| (row.tenant.clone(), row.name.clone());
    if let Some(row) = old {
        state.user_of_name.remove(&key(row));
    }
    if let Some(row) = new {
        state.user_of_name.insert(key(row), row.id);
    }
}

pub(in crate::fleet) fn index_lock(
    state: &mut State,
    old: Option<&SignInLockRow>,
    new: Option<&SignInLockRow>,
) {
    index_deadline(state, old, new, |row| Some((row.until, Deadline::SignInLock(row.id))));
}
