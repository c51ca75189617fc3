//! The fleet's CAs: listed, rotated, retired.

use std::ops::Bound;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::api::authorities::{AuthorityView, RetireAuthority};
use chom_protocol::api::{Page, PageQuery};

use crate::api::page::{Paging, is_behind};
use crate::api::problem::ApiError;
use crate::api::request::{Mutation, Order, RowKey};
use crate::api::{App, answer};
use crate::clock;
use crate::fleet::{Caller, FleetError};

/// Lists the CAs that are trusted, oldest first.
#[utoipa::path(get, path = "/api/authorities", tag = "authorities", operation_id = "list_authorities", params(PageQuery),
    responses((status = 200, description = "A page of CAs.", body = Page<AuthorityView>)))]
pub(super) async fn list(State(app): State<App>, _: Caller, paging: Paging) -> Result<Response, ApiError> {
    let all = app.fleet.authority_views(clock::now());
    paging.page(
        "authorities",
        |from: Bound<u64>| all.iter().filter(move |view| is_behind(&view.number, &from)),
        |view| view.number,
        |view| view.clone(),
    )
}

/// Makes a new CA. Agents are told to trust it; it signs once those that are connected do.
#[utoipa::path(post, path = "/api/authorities", tag = "authorities", operation_id = "rotate_authority",
    responses((status = 201, description = "The new CA.", body = AuthorityView)))]
pub(super) async fn rotate(
    State(app): State<App>,
    caller: Caller,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.rotate_authority(&caller, order.mark).await?;
    Ok(answer::done(StatusCode::CREATED, &done))
}

/// Trusts a CA no longer. Refused while hosts may need it, unless insisted on.
#[utoipa::path(post, path = "/api/authorities/{number}/retire", tag = "authorities", operation_id = "retire_authority",
    params(("number" = u64, Path, description = "Its number.")), request_body = RetireAuthority,
    responses((status = 200, description = "The CA.", body = AuthorityView)))]
pub(super) async fn retire(
    State(app): State<App>,
    caller: Caller,
    key: RowKey<u64>,
    request: Mutation<RetireAuthority>,
) -> Result<Response, ApiError> {
    let number = match key {
        RowKey::Id(number) => number,
        RowKey::Name(name) => return Err(FleetError::not_found("CA", name).into()),
    };
    let done = app.fleet.retire_authority(&caller, request.mark, number, request.body).await?;
    Ok(answer::done(StatusCode::OK, &done))
}
