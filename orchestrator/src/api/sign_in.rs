//! Signing in with a password, signing out, and what one may know and change of oneself. Whoever guesses is slowed down and
//! then locked out (`limits/throttle.rs`), and learns neither from the answer nor from its time whether there is such a user.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::UserId;
use chom_protocol::api::tokens::TokenView;
use chom_protocol::api::users::{ChangePassword, Password, SignIn, SignedIn, UserView, WhoAmI};
use chom_protocol::vps::Sha256;

use crate::api::limits::{Address, refused_sign_in};
use crate::api::problem::ApiError;
use crate::api::request::{Mutation, Order};
use crate::api::{App, answer};
use crate::clock::{self, rfc3339};
use crate::fleet::audit::Origin;
use crate::fleet::rows::TokenRow;
use crate::fleet::users::rows::{UserRow, sign_in_id};
use crate::fleet::users::{nobody, sign_in};
use crate::fleet::{Caller, FleetError};
use crate::password::check_rules;
use crate::permission;

/// Begins a session: with name and password, without a token. The answer shows its token, and nothing does again; after twelve
/// hours it ends. Too many wrong passwords lock the name for a while (429).
#[utoipa::path(post, path = "/api/sign-in", tag = "session", operation_id = "sign_in", security(()), request_body = SignIn,
    responses((status = 201, description = "The session.", body = SignedIn)))]
pub(super) async fn begin(
    State(app): State<App>,
    from: Address,
    origin: Origin,
    request: Mutation<SignIn>,
) -> Result<Response, ApiError> {
    let SignIn { name, tenant, password } = request.body;
    let id = sign_in_id(tenant.as_ref(), &name);
    let user = app.fleet.user_named(tenant.as_ref(), &name);
    let can = user.as_ref().filter(|row| row.disabled_at.is_none());
    let Some(row) = tried(&app, &id, (from, origin.clone()), password, user.as_ref(), can).await? else {
        return Err(sign_in::refused().into());
    };
    let made =
        app.fleet.begin_session(row.id, row.password.clone(), (Arc::from(row.name.as_str()), origin)).await?;
    Ok(answer::made(&made))
}

/// Tries a password for a name, as often as that may be; none when it is wrong or whoever has it `can` not be let in.
async fn tried<'a>(
    app: &App,
    id: &Sha256,
    (from, origin): (Address, Origin),
    password: Password,
    user: Option<&UserRow>,
    can: Option<&'a UserRow>,
) -> Result<Option<&'a UserRow>, ApiError> {
    let now = clock::now();
    if let Some(until) = app.fleet.locked_until(id, now) {
        return Err(refused_sign_in(std::time::Duration::from_millis(until.0.saturating_sub(now.0))));
    }
    app.limits.enter(id, from)?;
    let is_right = app.passwords.check(password, user.map(|row| row.password.clone())).await;
    let is_right = is_right.inspect_err(|_| app.limits.untried(id, from))?;
    if let Some(row) = can.filter(|_| is_right) {
        app.limits.forgive(id, from);
        return Ok(Some(row));
    }
    let user: Option<UserId> = user.map(|row| row.id);
    app.fleet.note_refused_sign_in(*id, user, app.limits.locks(id), origin).await?;
    Ok(None)
}

/// Ends the session whose token this is.
#[utoipa::path(post, path = "/api/sign-out", tag = "session", operation_id = "sign_out",
    responses((status = 200, description = "The session as it was.", body = TokenView)))]
pub(super) async fn end(State(app): State<App>, caller: Caller, order: Order) -> Result<Response, ApiError> {
    let done = app.fleet.end_session(&caller, order.mark).await?;
    Ok(answer::done(StatusCode::OK, &done))
}

/// Says whom this token stands for and what it may do.
#[utoipa::path(get, path = "/api/whoami", tag = "session", operation_id = "who_am_i",
    responses((status = 200, description = "Who it is.", body = WhoAmI)))]
pub(super) async fn who(State(app): State<App>, caller: Caller) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    let token = state.get::<TokenRow>(&caller.token);
    Ok(answer::row(&WhoAmI {
        name: caller.name.to_string(),
        user: token.and_then(|row| row.user),
        token: caller.token,
        role: caller.role,
        permissions: permission::of_role(caller.role, caller.vps.is_some()),
        tenant: caller.tenant,
        vps: caller.vps,
        expires_at: token.and_then(|row| row.expires_at).map(rfc3339),
    }))
}

/// Changes one's own password. The old one is asked for, so that whoever finds a session open cannot take it for good; other
/// sessions end.
#[utoipa::path(post, path = "/api/whoami/password", tag = "session", operation_id = "change_password",
    request_body = ChangePassword, responses((status = 200, description = "The user.", body = UserView)))]
pub(super) async fn change_password(
    State(app): State<App>,
    caller: Caller,
    from: Address,
    request: Mutation<ChangePassword>,
) -> Result<Response, ApiError> {
    let ChangePassword { old, new } = request.body;
    let state = app.fleet.state();
    let user = app.fleet.session_user(caller.token).and_then(|id| state.get::<UserRow>(&id));
    let user = user.ok_or_else(nobody)?;
    check_rules("/new", &new, &user.name)?;
    let id = sign_in_id(user.tenant.as_ref(), &user.name);
    // A request that was carried out, and comes again because its answer was lost, has the old password in it.
    let mut checked = None;
    if !app.fleet.is_answered(&caller, &request.mark, clock::now()) {
        let right = tried(&app, &id, (from, caller.origin.clone()), old, Some(user), Some(user)).await?;
        let wrong = || FleetError::invalid("/old", "this is not the password that you have now");
        checked = Some(right.ok_or_else(wrong)?.password.clone());
    }
    let new = app.passwords.hash(new).await?;
    let done = app.fleet.change_password(&caller, request.mark, checked, new).await?;
    Ok(answer::done(StatusCode::OK, &done))
}
