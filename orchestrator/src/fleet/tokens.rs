//! API tokens: random, shown once, stored as a hash.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use chom_protocol::api::tokens::{CreateToken, Role, TokenMade, TokenView};
use chom_protocol::api::users::Password;
use chom_protocol::vps::Sha256;
use chom_protocol::{Name, TokenId, UnixMillis, UserName, VpsId};
use ring::rand::SecureRandom;

use crate::clock::{parse_rfc3339, rfc3339};
use crate::fleet::audit::Origin;
use crate::fleet::decider::{self, LoadError};
use crate::fleet::rows::{TokenRow, VpsRow};
use crate::fleet::state::State;
use crate::fleet::users::rows::UserRow;
use crate::fleet::users::{self, sign_in};
use crate::fleet::{Caller, Decision, Done, ErrorKind, Fleet, FleetError, RequestMark, tenants};
use crate::password::{PasswordError, PasswordHash};
use crate::store::{CommitError, Store};

/// What every API token begins with, so that leaked ones can be searched for.
pub const TOKEN_PREFIX: &str = "chom-api-";
const TOKEN_BYTES: usize = 32;

/// Makes a token and the row that knows it. The text is shown once and kept nowhere.
///
/// # Errors
/// When the system gives no randomness.
pub fn create(
    name: Name,
    role: Role,
    id: TokenId,
    now: UnixMillis,
) -> Result<(String, TokenRow), ring::error::Unspecified> {
    let mut bytes = [0; TOKEN_BYTES];
    ring::rand::SystemRandom::new().fill(&mut bytes)?;
    let text = format!("{TOKEN_PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&bytes));
    let hash = Sha256::of(text.as_bytes());
    let row = TokenRow {
        id,
        name,
        hash,
        created_at: now,
        expires_at: None,
        role,
        tenant: None,
        vps: None,
        last_used_at: None,
        user: None,
    };
    Ok((text, row))
}

/// What the token of every session is called; whose it is, its row says.
#[must_use]
#[expect(clippy::expect_used, reason = "a literal that a test signs in with")]
pub(super) fn session_name() -> Name {
    "session".parse().expect("a legal name")
}

/// Who holds a token. Found by its hash, so that no comparison tells by its time how much of a guess was right.
///
/// # Errors
/// When it is unknown or has expired.
pub fn authenticate(state: &State, token: &str, now: UnixMillis) -> Result<Caller, FleetError> {
    let refused = |detail: &str| FleetError::Refused {
        kind: ErrorKind::Unauthorised,
        detail: detail.to_owned(),
        location: Some("Authorization"),
    };
    let hash = Sha256::of(token.as_bytes());
    let Some(row) = state.token_of_hash.get(&hash).and_then(|id| state.get::<TokenRow>(id)) else {
        return Err(refused("this API token is unknown; use the one that `chom-orchestrator init` printed"));
    };
    // A tenant that is deleted has no tokens left; this is for one that was restored or written by hand.
    if row.role.is_of_tenant() != row.tenant.is_some() {
        return Err(refused("this API token has a role that fits no tenant; ask an admin for a new one"));
    }
    if row.expires_at.is_some_and(|end| end <= now) {
        return Err(refused("this API token has expired; ask an admin for a new one"));
    }
    let Some(name) = sign_in::actor(state, row) else {
        return Err(refused("the user of this session was disabled or deleted; sign in again as another"));
    };
    Ok(Caller {
        name,
        token: row.id,
        role: row.role,
        tenant: row.tenant.clone(),
        vps: row.vps,
        origin: Origin::default(),
    })
}

/// Random bytes of a password that this program makes.
const PASSWORD_BYTES: usize = 18;
/// Who did it, in the audit trail, where somebody stood at the machine.
const BREAK_GLASS: &str = "break-glass";

/// Most tokens; about 400 bytes each in memory.
const TOKENS_MAX: usize = 100_000;
/// Rows that one commit writes when it is stored which tokens were used; well within a commit's 128 changes.
const USES_PER_COMMIT_MAX: usize = 100;

/// When tokens were last used, as far as their rows do not say so yet.
#[derive(Default)]
pub(super) struct Uses(Mutex<BTreeMap<TokenId, UnixMillis>>);

impl Fleet {
    /// Makes a token. The answer shows its text, and nothing does again.
    ///
    /// # Errors
    /// When the caller may not give that role, or the request names a tenant or VPS that is not there.
    pub async fn create_token(
        &self,
        caller: &Caller,
        mark: RequestMark,
        request: CreateToken,
    ) -> Result<Done<TokenMade>, FleetError> {
        let expires_at = request.expires_at.as_deref().map(|text| {
            parse_rfc3339(text).ok_or_else(|| {
                FleetError::invalid(
                    "/expires_at",
                    "this is no time; write it as in RFC 3339, such as 2027-01-31T12:00:00Z",
                )
            })
        });
        let (expires_at, maker) = (expires_at.transpose()?, caller.clone());
        self.mutate(caller, mark, move |decision, _| {
            if request.vps.is_some() && !request.role.is_of_tenant() {
                let detail = "a token for one VPS has a role of a tenant: owner, member or viewer";
                return Err(FleetError::invalid("/role", detail));
            }
            let tenant = tenant_for(&decision.state, &maker, request.role, request.tenant.as_ref())?;
            check_vps(&decision.state, tenant.as_ref(), request.vps)?;
            if expires_at.is_some_and(|end| end <= decision.now) {
                return Err(FleetError::invalid("/expires_at", "this time is over; give one to come"));
            }
            check_room(&decision.state)?;
            let id = TokenId::new(decision.new_id());
            let made = create(request.name, request.role, id, decision.now);
            let (secret, row) =
                made.map_err(|_| FleetError::internal("the system gives no random bytes for a token"))?;
            let row = TokenRow { expires_at, tenant, vps: request.vps, ..row };
            decision.audit("token.create", id)?;
            decision.put(row.clone())?;
            Ok(TokenMade { token: view(&decision.state, &row, None), secret })
        })
        .await
    }

    /// Revokes a token: it opens nothing from now on.
    ///
    /// # Errors
    /// When there is no such token.
    pub async fn revoke_token(
        &self,
        caller: &Caller,
        mark: RequestMark,
        token: TokenId,
    ) -> Result<Done<TokenView>, FleetError> {
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, _| {
            let row = decision.state.get::<TokenRow>(&token).cloned();
            let row = row.ok_or_else(|| FleetError::not_found("token", token))?;
            decision.delete::<TokenRow>(&token);
            if row.role == Role::Admin {
                users::check_admin_left(&decision.state)?;
            }
            decision.audit("token.revoke", token)?;
            Ok(fleet.token_view(&row))
        })
        .await
    }

    /// A token, without what it says.
    #[must_use]
    pub fn token_view(&self, row: &TokenRow) -> TokenView {
        let uses = self.0.token_uses.0.lock().unwrap_or_else(PoisonError::into_inner);
        view(&self.state(), row, uses.get(&row.id).copied())
    }

    /// Notes that a token was used. That is stored every few minutes, not with each request.
    pub fn note_token_use(&self, token: TokenId, now: UnixMillis) {
        let mut uses = self.0.token_uses.0.lock().unwrap_or_else(PoisonError::into_inner);
        uses.insert(token, now);
    }

    /// Stores which tokens were used since it was last stored.
    pub(super) async fn store_token_uses(&self) -> Result<(), FleetError> {
        let uses = std::mem::take(&mut *self.0.token_uses.0.lock().unwrap_or_else(PoisonError::into_inner));
        let uses: Vec<(TokenId, UnixMillis)> = uses.into_iter().collect();
        for chunk in uses.chunks(USES_PER_COMMIT_MAX) {
            let chunk = chunk.to_vec();
            self.decide("chom".into(), move |decision| {
                for (token, at) in chunk {
                    // One that was revoked meanwhile is passed over.
                    if let Some(row) = decision.state.get::<TokenRow>(&token).cloned() {
                        decision.put(TokenRow { last_used_at: Some(at), ..row })?;
                    }
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

/// In which tenant a new token or user of a role acts; none: in the fleet. Nobody gives more than it has.
pub(super) fn tenant_for(
    state: &State,
    maker: &Caller,
    role: Role,
    tenant: Option<&Name>,
) -> Result<Option<Name>, FleetError> {
    if !role.is_of_tenant() {
        let detail = match (&maker.tenant, tenant) {
            (Some(_), _) => "the token of a tenant makes owners, members and viewers",
            (None, Some(_)) => "in a tenant there are owners, members and viewers",
            (None, None) => return Ok(None),
        };
        return Err(FleetError::invalid("/role", format!("`{role}` is a role for the fleet; {detail}")));
    }
    let tenant = match (tenant, &maker.tenant) {
        (Some(wanted), Some(own)) if wanted != own => return Err(tenants::unknown(wanted)),
        (Some(wanted), _) => wanted,
        (None, Some(own)) => own,
        (None, None) => {
            return Err(FleetError::invalid("/tenant", format!("say in which tenant it is `{role}`")));
        }
    };
    tenants::check(state, tenant)?;
    Ok(Some(tenant.clone()))
}

/// Refuses a token more than there may be.
pub(super) fn check_room(state: &State) -> Result<(), FleetError> {
    if state.tokens.len() >= TOKENS_MAX {
        return Err(FleetError::conflict(format!("there are {TOKENS_MAX} tokens; revoke some first")));
    }
    Ok(())
}

fn check_vps(state: &State, tenant: Option<&Name>, vps: Option<VpsId>) -> Result<(), FleetError> {
    let Some(vps) = vps else { return Ok(()) };
    let row = state.get::<VpsRow>(&vps).filter(|row| Some(&row.spec.tenant) == tenant);
    match row {
        Some(_) => Ok(()),
        None => Err(FleetError::invalid("/vps", format!("the tenant has no VPS `{vps}`"))),
    }
}

/// How a token is shown.
pub(super) fn view(state: &State, row: &TokenRow, used_at: Option<UnixMillis>) -> TokenView {
    TokenView {
        id: row.id,
        name: row.name.clone(),
        role: row.role,
        tenant: row.tenant.clone(),
        vps: row.vps,
        user: row.user.and_then(|id| state.get::<UserRow>(&id)).map(|user| user.name.clone()),
        created_at: rfc3339(row.created_at),
        expires_at: row.expires_at.map(rfc3339),
        last_used_at: used_at.max(row.last_used_at).map(rfc3339),
    }
}

/// Why whoever stands at the machine got neither a token nor a password.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// What is stored.
    #[error("cannot read the fleet")]
    Load(#[from] LoadError),
    /// Randomness.
    #[error("the system gives no random bytes")]
    Random,
    /// The password.
    #[error("cannot make a password")]
    Password(#[from] PasswordError),
    /// The rows.
    #[error("nothing was changed")]
    Fleet(#[from] FleetError),
    /// The commit.
    #[error("cannot store it")]
    Commit(#[from] CommitError),
}

/// Makes a new admin's token in a store that nobody else uses, for whoever has lost all of them. It is in the audit trail.
///
/// # Errors
/// When there is no fleet in the store, or it takes no commit.
pub async fn reset_admin(store: &dyn Store, now: UnixMillis) -> Result<String, ResetError> {
    let state = decider::load(store).await?;
    let mut decision = Decision::begin(&state, now, BREAK_GLASS.into());
    let id = TokenId::new(decision.new_id());
    let name = BREAK_GLASS.parse().map_err(|_| ResetError::Random)?;
    let (secret, row) = create(name, Role::Admin, id, now).map_err(|_| ResetError::Random)?;
    decision.audit("token.break-glass", id)?;
    decision.put(row)?;
    store.commit(decision.finish()?.commit).await?;
    Ok(secret)
}

/// Gives a user a new password in such a store, and lets it sign in again.
///
/// # Errors
/// When there is no such user, or the store takes no commit.
pub async fn reset_user(
    store: &dyn Store,
    tenant: Option<&Name>,
    user: &UserName,
    now: UnixMillis,
) -> Result<Password, ResetError> {
    let state = decider::load(store).await?;
    let mut decision = Decision::begin(&state, now, BREAK_GLASS.into());
    let mut bytes = [0; PASSWORD_BYTES];
    ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| ResetError::Random)?;
    let password = Password(data_encoding::BASE64URL_NOPAD.encode(&bytes));
    users::reset(&mut decision, tenant, user, PasswordHash::of(&password)?)?;
    store.commit(decision.finish()?.commit).await?;
    Ok(password)
}
