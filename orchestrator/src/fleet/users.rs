//! People: made, given roles and passwords, disabled, deleted. Names are unique in a tenant, and in the fleet for its own
//! people, so that no tenant learns from a refused name who is in another. Passwords come here hashed.

use chom_protocol::api::tokens::Role;
use chom_protocol::api::users::UserView;
use chom_protocol::{Name, TokenId, UnixMillis, UserId, UserName};

use crate::clock::rfc3339;
use crate::fleet::rows::TokenRow;
use crate::fleet::state::State;
use crate::fleet::tokens::tenant_for;
use crate::fleet::{Caller, Decision, Done, ErrorKind, Fleet, FleetError, RequestMark, check_revision};
use crate::password::PasswordHash;

pub mod rows;
pub mod sign_in;

use rows::{SignInLockRow, UserRow, sign_in_id};

/// Most users; about 600 bytes each in memory.
const USERS_MAX: usize = 100_000;

/// A user to be made.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// What it signs in with.
    pub name: UserName,
    /// What it may do.
    pub role: Role,
    /// In which tenant, if it is said.
    pub tenant: Option<Name>,
    /// Its password's hash.
    pub password: PasswordHash,
}

impl Fleet {
    /// Makes a user.
    ///
    /// # Errors
    /// When its name is taken, the caller may not give that role, or there is no such tenant.
    pub async fn create_user(
        &self,
        caller: &Caller,
        mark: RequestMark,
        new: NewUser,
    ) -> Result<Done<UserView>, FleetError> {
        let maker = caller.clone();
        self.mutate(caller, mark, move |decision, _| {
            let NewUser { name, role, tenant, password } = new;
            let tenant = tenant_for(&decision.state, &maker, role, tenant.as_ref())?;
            if decision.state.user_of_name.contains_key(&(tenant.clone(), name.clone())) {
                return Err(FleetError::Refused {
                    kind: ErrorKind::Conflict,
                    detail: format!("there is a user `{name}` already; choose another name"),
                    location: Some("/name"),
                });
            }
            if decision.state.users.len() >= USERS_MAX {
                return Err(FleetError::conflict(format!("there are {USERS_MAX} users; delete some first")));
            }
            let (id, now) = (UserId::new(decision.new_id()), decision.now);
            decision.audit("user.create", id)?;
            decision.put(UserRow {
                id,
                name,
                role,
                tenant,
                password,
                created_at: now,
                changed_at: now,
                disabled_at: None,
                signed_in_at: None,
            })?;
            view(&decision.state, id)
        })
        .await
    }

    /// Changes what a user may do, in the sessions that it has open too.
    ///
    /// # Errors
    /// When there is no such user, the role is of the other kind, no admin would be left, or `If-Match` names another
    /// revision.
    pub async fn set_user_role(
        &self,
        caller: &Caller,
        mark: RequestMark,
        user: UserId,
        role: Role,
    ) -> Result<Done<UserView>, FleetError> {
        self.change_user(caller, mark, user, "user.role", move |decision, row| {
            if row.role.is_of_tenant() != role.is_of_tenant() {
                let (is, others) = match row.role.is_of_tenant() {
                    true => ("a tenant", "owner, member or viewer"),
                    false => ("the fleet", "admin, operator or auditor"),
                };
                let detail = format!(
                    "this is a user of {is}, who can be {others}; for another role make another user and delete this one"
                );
                return Err(FleetError::invalid("/role", detail));
            }
            for token in sessions(&decision.state, user) {
                decision.put(TokenRow { role, ..token })?;
            }
            Ok(UserRow { role, ..row })
        })
        .await
    }

    /// Gives a user a password, ends its sessions, and lifts a lock of its name.
    ///
    /// # Errors
    /// When there is no such user, it is the caller itself, or `If-Match` names another revision.
    pub async fn set_user_password(
        &self,
        caller: &Caller,
        mark: RequestMark,
        user: UserId,
        password: PasswordHash,
    ) -> Result<Done<UserView>, FleetError> {
        let is_own = self.session_user(caller.token) == Some(user);
        self.change_user(caller, mark, user, "user.password", move |decision, row| {
            if is_own {
                return Err(FleetError::conflict(
                    "this is your own password: change it with POST /api/whoami/password, which asks for the old one",
                ));
            }
            end_sessions(decision, user, None);
            unlock(decision, &row);
            Ok(UserRow { password, ..row })
        })
        .await
    }

    /// Changes the password of whoever is signed in, and ends its other sessions. `checked` is the hash that the old
    /// password was found to be of; without one, only an answer that is kept is given.
    ///
    /// # Errors
    /// When the caller is no user, or the password is no longer the one that was checked.
    pub async fn change_password(
        &self,
        caller: &Caller,
        mark: RequestMark,
        checked: Option<PasswordHash>,
        password: PasswordHash,
    ) -> Result<Done<UserView>, FleetError> {
        let session = caller.token;
        let user = self.session_user(session).ok_or_else(nobody)?;
        self.change_user(caller, mark, user, "user.password-own", move |decision, row| {
            if Some(&row.password) != checked.as_ref() {
                return Err(FleetError::conflict(
                    "the password was changed meanwhile; sign in with the new one",
                ));
            }
            end_sessions(decision, user, Some(session));
            Ok(UserRow { password, ..row })
        })
        .await
    }

    /// Lets a user sign in no more and ends its sessions, or lets it sign in again and lifts a lock of its name.
    ///
    /// # Errors
    /// When there is no such user, no admin would be left, or `If-Match` names another revision.
    pub async fn set_user_disabled(
        &self,
        caller: &Caller,
        mark: RequestMark,
        user: UserId,
        disabled: bool,
    ) -> Result<Done<UserView>, FleetError> {
        let action = if disabled { "user.disable" } else { "user.enable" };
        self.change_user(caller, mark, user, action, move |decision, row| {
            if disabled {
                end_sessions(decision, user, None);
            } else {
                unlock(decision, &row);
            }
            let since = row.disabled_at.unwrap_or(decision.now);
            Ok(UserRow { disabled_at: disabled.then_some(since), ..row })
        })
        .await
    }

    /// Deletes a user and ends its sessions. Tokens that it made stay: they are its tenant's or the fleet's.
    ///
    /// # Errors
    /// When there is no such user, no admin would be left, or `If-Match` names another revision.
    pub async fn delete_user(
        &self,
        caller: &Caller,
        mark: RequestMark,
        user: UserId,
    ) -> Result<Done<UserView>, FleetError> {
        self.mutate(caller, mark, move |decision, mark| {
            found(decision, mark, user)?;
            let shown = view(&decision.state, user)?;
            end_sessions(decision, user, None);
            decision.delete::<UserRow>(&user);
            check_admin_left(&decision.state)?;
            decision.audit("user.delete", user)?;
            Ok(shown)
        })
        .await
    }

    /// A user.
    ///
    /// # Errors
    /// When there is none with this id.
    pub fn user_view(&self, user: UserId) -> Result<UserView, FleetError> {
        view(&self.state(), user)
    }

    /// Whose session a token is.
    #[must_use]
    pub fn session_user(&self, token: TokenId) -> Option<UserId> {
        self.state().get::<TokenRow>(&token).and_then(|row| row.user)
    }

    async fn change_user(
        &self,
        caller: &Caller,
        mark: RequestMark,
        user: UserId,
        action: &'static str,
        change: impl FnOnce(&mut Decision, UserRow) -> Result<UserRow, FleetError> + Send + 'static,
    ) -> Result<Done<UserView>, FleetError> {
        self.mutate(caller, mark, move |decision, mark| {
            let row = found(decision, mark, user)?;
            let row = change(decision, row)?;
            decision.put(UserRow { changed_at: decision.now, ..row })?;
            check_admin_left(&decision.state)?;
            decision.audit(action, user)?;
            view(&decision.state, user)
        })
        .await
    }
}

/// The error of a request that only somebody who signed in can make.
pub(crate) fn nobody() -> FleetError {
    FleetError::conflict("your token is no session of a user, who alone has a password; sign in first")
}

fn found(decision: &Decision, mark: &RequestMark, user: UserId) -> Result<UserRow, FleetError> {
    let stored = decision.state.users.get(&user).ok_or_else(|| FleetError::not_found("user", user))?;
    check_revision(mark, stored.revision)?;
    Ok(stored.row.as_ref().clone())
}

/// The sessions of a user, oldest first.
fn sessions(state: &State, user: UserId) -> Vec<TokenRow> {
    let ids = state.sessions_of_user.get(&user).into_iter().flatten();
    ids.filter_map(|id| state.get::<TokenRow>(id).cloned()).collect()
}

/// Ends the sessions of a user, but for one that may go on.
fn end_sessions(decision: &mut Decision, user: UserId, but: Option<TokenId>) {
    for token in sessions(&decision.state, user) {
        if Some(token.id) != but {
            decision.delete::<TokenRow>(&token.id);
        }
    }
}

fn unlock(decision: &mut Decision, row: &UserRow) {
    decision.delete::<SignInLockRow>(&sign_in_id(row.tenant.as_ref(), &row.name));
}

/// Refuses what would leave the fleet without anybody who may do everything: an admin who can sign in, or an admin's token
/// without an end.
pub(super) fn check_admin_left(state: &State) -> Result<(), FleetError> {
    let mut users = state.users.values().map(|stored| &stored.row);
    if users.any(|row| row.role == Role::Admin && row.disabled_at.is_none()) {
        return Ok(());
    }
    let mut tokens = state.tokens.values().map(|stored| &stored.row);
    if tokens.any(|row| row.role == Role::Admin && row.user.is_none() && row.expires_at.is_none()) {
        return Ok(());
    }
    Err(FleetError::conflict(
        "no admin would be left: this is the last admin who can sign in, and there is no admin's token without an end; \
         make another one first (`chomctl user create NAME --role admin`)",
    ))
}

/// How a user is shown.
pub(super) fn view(state: &State, user: UserId) -> Result<UserView, FleetError> {
    let stored = state.users.get(&user).ok_or_else(|| FleetError::not_found("user", user))?;
    let UserRow { id, name, role, tenant, password: _, created_at, changed_at, disabled_at, signed_in_at } =
        stored.row.as_ref();
    let lock = state.get::<SignInLockRow>(&sign_in_id(tenant.as_ref(), name));
    Ok(UserView {
        id: *id,
        name: name.clone(),
        role: *role,
        tenant: tenant.clone(),
        created_at: rfc3339(*created_at),
        changed_at: rfc3339(*changed_at),
        disabled_at: disabled_at.map(rfc3339),
        locked_until: lock.map(|row| rfc3339(row.until)),
        signed_in_at: signed_in_at.map(rfc3339),
        sessions: state.sessions_of_user.get(&user).map_or(0, |ids| ids.len() as u64),
        revision: stored.revision.0,
    })
}

/// Gives a user a new password in a store that nobody else uses, for whoever has lost it: it can sign in again, and its
/// sessions end.
pub(super) fn reset(
    decision: &mut Decision,
    tenant: Option<&Name>,
    name: &UserName,
    password: PasswordHash,
) -> Result<(), FleetError> {
    let id = decision.state.user_of_name.get(&(tenant.cloned(), name.clone())).copied();
    let row = id.and_then(|id| decision.state.get::<UserRow>(&id).cloned());
    let row = row.ok_or_else(|| FleetError::not_found("user", name))?;
    end_sessions(decision, row.id, None);
    unlock(decision, &row);
    decision.audit("user.break-glass", row.id)?;
    let changed_at: UnixMillis = decision.now;
    decision.put(UserRow { password, disabled_at: None, changed_at, ..row })
}
