//! Operations: how far changes are.

use std::ops::Bound;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::OperationId;
use chom_protocol::api::operations::OperationView;
use chom_protocol::api::{Page, PageQuery};

use crate::api::page::Paging;
use crate::api::problem::ApiError;
use crate::api::request::{Order, RowId};
use crate::api::{App, answer};
use crate::clock;
use crate::fleet::rows::OperationRow;
use crate::fleet::{Caller, FleetError, view};

/// Lists the operations, oldest first.
#[utoipa::path(get, path = "/api/operations", tag = "operations", operation_id = "list_operations", params(PageQuery),
    responses((status = 200, description = "A page of operations.", body = Page<OperationView>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    paging: Paging,
) -> Result<Response, ApiError> {
    let (state, observations) = (app.fleet.state(), app.fleet.observations().snapshot());
    let (catalogue, now) = (app.fleet.catalogue(), clock::now());
    paging.page(
        "operations",
        |from: Bound<OperationId>| {
            let rows = state.operations.range((from, Bound::Unbounded)).map(|(_, stored)| &stored.row);
            rows.filter(|row| caller.sees_operation(row))
        },
        |row| row.id,
        |row| {
            let observation = row.host.and_then(|host| observations.get(&host)).map(AsRef::as_ref);
            view::operation_for(caller.sees_hosts(), view::operation_now(catalogue, row, observation, now))
        },
    )
}

/// Shows an operation.
#[utoipa::path(get, path = "/api/operations/{operation}", tag = "operations", operation_id = "show_operation",
    params(("operation" = OperationId, Path, description = "Its id.")),
    responses((status = 200, description = "The operation.", body = OperationView)))]
pub(super) async fn show(
    State(app): State<App>,
    caller: Caller,
    RowId(id): RowId<OperationId>,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    let row = state.get::<OperationRow>(&id).ok_or_else(|| FleetError::not_found("operation", id))?;
    let observation = row.host.and_then(|host| app.fleet.observations().of(host));
    let (catalogue, now) = (app.fleet.catalogue(), clock::now());
    let shown = view::operation_now(catalogue, row, observation.as_deref(), now);
    Ok(answer::row(&view::operation_for(caller.sees_hosts(), shown)))
}

/// Takes an operation back where that is safe: the VPS is wanted as it was before.
#[utoipa::path(post, path = "/api/operations/{operation}/cancel", tag = "operations", operation_id = "cancel_operation",
    params(("operation" = OperationId, Path, description = "Its id.")),
    responses((status = 200, description = "It was taken back.", body = OperationView)))]
pub(super) async fn cancel(
    State(app): State<App>,
    caller: Caller,
    RowId(operation): RowId<OperationId>,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.cancel_operation(&caller, order.mark, operation).await?;
    Ok(answer::done(StatusCode::OK, &done))
}
