//! Sessions: begun with the right password, ended by signing out. A session is an API token of the user's role and tenant
//! that ends soon. Whether the password was right is found out before, in `api/sign_in.rs`.

use std::sync::Arc;

use chom_protocol::api::tokens::TokenView;
use chom_protocol::api::users::SignedIn;
use chom_protocol::vps::Sha256;
use chom_protocol::{Name, TokenId, UnixMillis, UserId, UserName};

use crate::fleet::audit::{Actor, Origin};
use crate::fleet::rows::TokenRow;
use crate::fleet::state::State;
use crate::fleet::tokens;
use crate::fleet::users::rows::{SignInLockRow, UserRow};
use crate::fleet::users::sessions;
use crate::fleet::{Caller, Done, ErrorKind, Fleet, FleetError, RequestMark};
use crate::password::PasswordHash;

/// How long a session lasts: a day's work, so that a stolen laptop has none the next morning.
const SESSION_SECONDS: u64 = 12 * 60 * 60;
/// Sessions of one user; beyond, its oldest ends. Few enough that all can end in one commit.
const SESSIONS_PER_USER_MAX: usize = 20;
/// Names that are locked at once; beyond, a lock holds only as long as this process lives.
const LOCKS_MAX: usize = 10_000;
/// What stands in the audit trail where nobody was let in.
const NOBODY: &str = "nobody";

impl Fleet {
    /// Who has a name, in a tenant or in the fleet.
    #[must_use]
    pub fn user_named(&self, tenant: Option<&Name>, name: &UserName) -> Option<UserRow> {
        let state = self.state();
        let id = state.user_of_name.get(&(tenant.cloned(), name.clone()))?;
        state.get::<UserRow>(id).cloned()
    }

    /// Until when nobody can sign in with a name.
    #[must_use]
    pub fn locked_until(&self, name: &Sha256, now: UnixMillis) -> Option<UnixMillis> {
        self.state().get::<SignInLockRow>(name).map(|row| row.until).filter(|until| *until > now)
    }

    /// Begins a session of a user whose password was right.
    ///
    /// # Errors
    /// When the user was deleted or disabled, or its password was changed meanwhile.
    pub async fn begin_session(
        &self,
        user: UserId,
        checked: PasswordHash,
        (actor, origin): (Arc<str>, Origin),
    ) -> Result<SignedIn, FleetError> {
        let (made, _) = self
            .decide(Arc::clone(&actor), move |decision| {
                decision.actor = Actor::from(actor, origin);
                let row = decision.state.get::<UserRow>(&user).cloned();
                let row = row.filter(|row| row.disabled_at.is_none() && row.password == checked);
                let row = row.ok_or_else(refused)?;
                let open = sessions(&decision.state, user);
                for oldest in open.iter().take((open.len() + 1).saturating_sub(SESSIONS_PER_USER_MAX)) {
                    decision.delete::<TokenRow>(&oldest.id);
                }
                tokens::check_room(&decision.state)?;
                let id = TokenId::new(decision.new_id());
                let made = tokens::create(tokens::session_name(), row.role, id, decision.now);
                let (secret, token) =
                    made.map_err(|_| FleetError::internal("the system gives no random bytes for a token"))?;
                let token = TokenRow {
                    expires_at: Some(decision.now.plus_seconds(SESSION_SECONDS)),
                    tenant: row.tenant.clone(),
                    user: Some(user),
                    ..token
                };
                decision.audit("user.sign-in", user)?;
                decision.put(token.clone())?;
                decision.put(UserRow { signed_in_at: Some(decision.now), ..row })?;
                Ok(SignedIn { token: tokens::view(&decision.state, &token, None), secret })
            })
            .await?;
        Ok(made)
    }

    /// Notes that somebody tried to sign in and was refused; `locked_for` seconds, nobody can with this name.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn note_refused_sign_in(
        &self,
        name: Sha256,
        user: Option<UserId>,
        locked_for: Option<u64>,
        origin: Origin,
    ) -> Result<(), FleetError> {
        self.decide(NOBODY.into(), move |decision| {
            decision.actor = Actor::from(NOBODY.into(), origin);
            // What is no user's name may be a password typed into the wrong field: it is not kept.
            let target = user.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
            decision.audit("user.sign-in-refused", &target)?;
            let Some(seconds) = locked_for else { return Ok(()) };
            decision.audit("user.locked", &target)?;
            if decision.state.sign_in_locks.len() < LOCKS_MAX {
                decision.put(SignInLockRow { id: name, until: decision.now.plus_seconds(seconds) })?;
            }
            Ok(())
        })
        .await
        .map(|_| ())
    }

    /// Ends the caller's session.
    ///
    /// # Errors
    /// When the caller's token is no session.
    pub async fn end_session(
        &self,
        caller: &Caller,
        mark: RequestMark,
    ) -> Result<Done<TokenView>, FleetError> {
        let token = caller.token;
        self.mutate(caller, mark, move |decision, _| {
            let row = decision.state.get::<TokenRow>(&token).cloned();
            let row = row.ok_or_else(|| FleetError::not_found("token", token))?;
            let user = row.user.ok_or_else(|| {
                FleetError::conflict(format!(
                    "this is an API token and no session; to make it open nothing any more, revoke it: DELETE /api/tokens/{token}"
                ))
            })?;
            let shown = tokens::view(&decision.state, &row, None);
            decision.delete::<TokenRow>(&token);
            decision.audit("user.sign-out", user)?;
            Ok(shown)
        })
        .await
    }
}

/// The answer to whoever is not let in, whatever was wrong.
pub(crate) fn refused() -> FleetError {
    FleetError::Refused {
        kind: ErrorKind::Unauthorised,
        detail:
            "name, tenant or password is wrong, or the user is disabled; users of the fleet name no tenant"
                .to_owned(),
        location: None,
    }
}

/// The name that a session's actions have in the audit trail: its user's.
pub(in crate::fleet) fn actor(state: &State, row: &TokenRow) -> Option<Arc<str>> {
    match row.user {
        None => Some(Arc::from(row.name.as_str())),
        Some(user) => {
            let user = state.get::<UserRow>(&user).filter(|user| user.disabled_at.is_none())?;
            Some(Arc::from(user.name.as_str()))
        }
    }
}
