//! One order on many VPSs: previewed, given, looked at, resumed. It is cancelled as every operation is.

use std::ops::Bound;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::OperationId;
use chom_protocol::api::bulk::{BulkItemView, BulkOrder, BulkPreview};
use chom_protocol::api::operations::OperationView;
use chom_protocol::api::{Page, PageQuery};

use crate::api::page::Paging;
use crate::api::problem::ApiError;
use crate::api::request::{Order, Plannable, RowId};
use crate::api::{App, answer};
use crate::fleet::rows::OperationRow;
use crate::fleet::{Caller, FleetError};

/// Orders something of many VPSs: those that a selector means now. They are begun with one after the other, so many at a time
/// and of each host; each is touched once, also over a restart. A tenant's caller means its tenant's VPSs alone.
#[utoipa::path(post, path = "/api/vps-servers/actions", tag = "VPSs", operation_id = "order_many", request_body = BulkOrder,
    params(("dry_run" = Option<bool>, Query, description = "Say how many VPSs it would be about, and do nothing.")),
    responses((status = 202, description = "The operation that they are parts of.", body = OperationView),
        (status = 200, description = "What it would be about (`dry_run`).", body = BulkPreview)))]
pub(super) async fn order(
    State(app): State<App>,
    caller: Caller,
    request: Plannable<BulkOrder>,
) -> Result<Response, ApiError> {
    if request.dry_run {
        return Ok(answer::row(&app.fleet.preview_bulk(&caller, &request.body)?));
    }
    let done = app.fleet.order_many(&caller, request.mark, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Lists the VPSs of an order on many, in order, each with what came of it.
#[utoipa::path(get, path = "/api/operations/{operation}/items", tag = "operations", operation_id = "list_bulk_items",
    params(("operation" = OperationId, Path, description = "Its id."), PageQuery),
    responses((status = 200, description = "A page of them; of every other operation there are none.", body = Page<BulkItemView>)))]
pub(super) async fn items(
    State(app): State<App>,
    caller: Caller,
    RowId(operation): RowId<OperationId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    state.get::<OperationRow>(&operation).ok_or_else(|| FleetError::not_found("operation", operation))?;
    paging.page(
        "bulk-items",
        |from: Bound<u32>| {
            let from = match from {
                Bound::Excluded(last) => last.saturating_add(1),
                Bound::Included(first) => first,
                Bound::Unbounded => 0,
            };
            app.fleet.bulk_items(&state, &caller, operation, from)
        },
        |item| item.place,
        |item| item,
    )
}

/// Goes on with an order on many that was cancelled or ran out of time: with those VPSs that were not begun with.
#[utoipa::path(post, path = "/api/operations/{operation}/resume", tag = "operations", operation_id = "resume_operation",
    params(("operation" = OperationId, Path, description = "Its id.")),
    responses((status = 202, description = "It goes on.", body = OperationView)))]
pub(super) async fn resume(
    State(app): State<App>,
    caller: Caller,
    RowId(operation): RowId<OperationId>,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.resume_operation(&caller, order.mark, operation).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}
