//! People who sign in: made, given roles and passwords, disabled, deleted. What one does for oneself is in `sign_in.rs`.

use std::ops::Bound;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::api::users::{CreateUser, SetUserPassword, SetUserRole, UserView};
use chom_protocol::api::{Page, PageQuery};
use chom_protocol::{UserId, UserName};

use crate::api::limits::Address;
use crate::api::page::{Filtered, Filters};
use crate::api::problem::{ApiError, Kind};
use crate::api::request::{Mutation, Order, RowId};
use crate::api::{App, answer};
use crate::fleet::users::NewUser;
use crate::fleet::users::rows::{UserRow, sign_in_id};
use crate::fleet::{Caller, FleetError};
use crate::password::{PasswordError, check_rules};

/// Which users.
pub(super) struct ByName;

impl Filters for ByName {
    const NAMES: &'static [&'static str] = &["name"];
}

impl From<PasswordError> for ApiError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::new(Kind::TooMany, error.to_string()),
            other => FleetError::from(other).into(),
        }
    }
}

/// Lists the users, oldest first.
#[utoipa::path(get, path = "/api/users", tag = "users", operation_id = "list_users",
    params(PageQuery, ("name" = Option<UserName>, Query, description = "Only those of this name, in whatever tenant.")),
    responses((status = 200, description = "A page of users.", body = Page<UserView>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Filtered(paging, filters, _): Filtered<ByName>,
) -> Result<Response, ApiError> {
    let name = filters.get("name").map(|text| text.parse::<UserName>()).transpose();
    let name = name.map_err(|error| ApiError::new(Kind::Malformed, error.to_string()).at("name"))?;
    let state = app.fleet.state();
    paging.page(
        "users",
        |from: Bound<UserId>| {
            let rows = state.users.range((from, Bound::Unbounded)).map(|(_, stored)| stored.row.as_ref());
            let rows = rows
                .filter(|row| caller.sees_user(row) && name.as_ref().is_none_or(|name| row.name == *name));
            // One that is deleted meanwhile is not shown.
            rows.filter_map(|row| app.fleet.user_view(row.id).ok())
        },
        |view| view.id,
        |view| view,
    )
}

/// Shows a user.
#[utoipa::path(get, path = "/api/users/{user}", tag = "users", operation_id = "show_user",
    params(("user" = UserId, Path, description = "Its id.")),
    responses((status = 200, description = "The user.", body = UserView)))]
pub(super) async fn show(
    State(app): State<App>,
    _: Caller,
    RowId(user): RowId<UserId>,
) -> Result<Response, ApiError> {
    Ok(answer::row(&app.fleet.user_view(user)?))
}

/// Makes a user, who can sign in at once.
#[utoipa::path(post, path = "/api/users", tag = "users", operation_id = "create_user", request_body = CreateUser,
    responses((status = 201, description = "The user.", body = UserView)))]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    request: Mutation<CreateUser>,
) -> Result<Response, ApiError> {
    let CreateUser { name, role, tenant, password } = request.body;
    check_rules("/password", &password, &name)?;
    let password = app.passwords.hash(password).await?;
    let new = NewUser { name, role, tenant, password };
    let done = app.fleet.create_user(&caller, request.mark, new).await?;
    Ok(answer::done(StatusCode::CREATED, &done))
}

/// Changes what a user may do, at once and in its open sessions too.
#[utoipa::path(post, path = "/api/users/{user}/role", tag = "users", operation_id = "set_user_role",
    params(("user" = UserId, Path, description = "Its id.")), request_body = SetUserRole,
    responses((status = 200, description = "The user.", body = UserView)))]
pub(super) async fn set_role(
    State(app): State<App>,
    caller: Caller,
    RowId(user): RowId<UserId>,
    request: Mutation<SetUserRole>,
) -> Result<Response, ApiError> {
    let done = app.fleet.set_user_role(&caller, request.mark, user, request.body.role).await?;
    Ok(answer::done(StatusCode::OK, &done))
}

/// Gives another user a password. Its sessions end, and a lock of its name is lifted.
#[utoipa::path(post, path = "/api/users/{user}/password", tag = "users", operation_id = "set_user_password",
    params(("user" = UserId, Path, description = "Its id.")), request_body = SetUserPassword,
    responses((status = 200, description = "The user.", body = UserView)))]
pub(super) async fn set_password(
    State(app): State<App>,
    caller: Caller,
    RowId(user): RowId<UserId>,
    request: Mutation<SetUserPassword>,
) -> Result<Response, ApiError> {
    let row = row(&app, user)?;
    check_rules("/password", &request.body.password, &row.name)?;
    let password = app.passwords.hash(request.body.password).await?;
    let done = app.fleet.set_user_password(&caller, request.mark, user, password).await?;
    unlock(&app, &row);
    Ok(answer::done(StatusCode::OK, &done))
}

/// Lets a user sign in no more; its sessions end.
#[utoipa::path(post, path = "/api/users/{user}/disable", tag = "users", operation_id = "disable_user",
    params(("user" = UserId, Path, description = "Its id.")),
    responses((status = 200, description = "The user.", body = UserView)))]
pub(super) async fn disable(
    State(app): State<App>,
    caller: Caller,
    RowId(user): RowId<UserId>,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.set_user_disabled(&caller, order.mark, user, true).await?;
    Ok(answer::done(StatusCode::OK, &done))
}

/// Lets a user sign in again, and lifts a lock of its name.
#[utoipa::path(post, path = "/api/users/{user}/enable", tag = "users", operation_id = "enable_user",
    params(("user" = UserId, Path, description = "Its id.")),
    responses((status = 200, description = "The user.", body = UserView)))]
pub(super) async fn enable(
    State(app): State<App>,
    caller: Caller,
    RowId(user): RowId<UserId>,
    order: Order,
) -> Result<Response, ApiError> {
    let row = row(&app, user)?;
    let done = app.fleet.set_user_disabled(&caller, order.mark, user, false).await?;
    unlock(&app, &row);
    Ok(answer::done(StatusCode::OK, &done))
}

/// Deletes a user; its sessions end. API tokens that it made stay.
#[utoipa::path(delete, path = "/api/users/{user}", tag = "users", operation_id = "delete_user",
    params(("user" = UserId, Path, description = "Its id.")),
    responses((status = 200, description = "The user as it was.", body = UserView)))]
pub(super) async fn delete(
    State(app): State<App>,
    caller: Caller,
    RowId(user): RowId<UserId>,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.delete_user(&caller, order.mark, user).await?;
    Ok(answer::done(StatusCode::OK, &done))
}

fn row(app: &App, user: UserId) -> Result<UserRow, ApiError> {
    let row = app.fleet.state().get::<UserRow>(&user).cloned();
    Ok(row.ok_or_else(|| FleetError::not_found("user", user))?)
}

/// What is remembered of wrong passwords beside the stored lock.
fn unlock(app: &App, row: &UserRow) {
    app.limits.forgive(&sign_in_id(row.tenant.as_ref(), &row.name), Address::NONE);
}
