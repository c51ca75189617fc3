//! Webhooks and their deliveries. A secret is shown when it is made and never again.

use std::ops::Bound;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::api::webhooks::{
    CreateWebhook, ReplayWebhook, UpdateWebhook, WebhookDeliveryView, WebhookMade, WebhookReplayed,
    WebhookTested, WebhookView,
};
use chom_protocol::api::{Page, PageQuery};
use chom_protocol::{DeliveryId, WebhookId};

use crate::api::page::Paging;
use crate::api::problem::{ApiError, Kind};
use crate::api::request::{Mutation, Order, RowId};
use crate::api::{App, answer};
use crate::clock;
use crate::fleet::{Caller, FleetError, webhooks};
use crate::notify::webhook::queue::Verdict;
use crate::notify::webhook::rows::WebhookRow;

/// Lists webhooks.
#[utoipa::path(get, path = "/api/webhooks", tag = "webhooks", operation_id = "list_webhooks", params(PageQuery),
    responses((status = 200, description = "A page of webhooks, oldest first.", body = Page<WebhookView>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    paging: Paging,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    paging.page(
        "webhooks",
        |from: Bound<WebhookId>| {
            let rows = state.webhooks.range((from, Bound::Unbounded)).map(|(_, stored)| stored.row.as_ref());
            rows.filter(|row| caller.sees_webhook(row))
        },
        |row| row.id,
        |row| webhooks::view(&state, row),
    )
}

/// Shows a webhook: what waits for it, and what is in its way.
#[utoipa::path(get, path = "/api/webhooks/{webhook}", tag = "webhooks", operation_id = "show_webhook",
    params(("webhook" = WebhookId, Path, description = "Its id.")),
    responses((status = 200, description = "The webhook.", body = WebhookView)))]
pub(super) async fn show(
    State(app): State<App>,
    _: Caller,
    RowId(id): RowId<WebhookId>,
) -> Result<Response, ApiError> {
    Ok(answer::row(&app.fleet.webhook_view(id)?))
}

/// Makes a webhook. Its deliveries follow the Standard Webhooks specification.
#[utoipa::path(post, path = "/api/webhooks", tag = "webhooks", operation_id = "create_webhook",
    request_body = CreateWebhook,
    responses((status = 201, description = "The webhook, and its secret.", body = WebhookMade)))]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    request: Mutation<CreateWebhook>,
) -> Result<Response, ApiError> {
    let done = app.fleet.create_webhook(&caller, request.mark, request.body).await?;
    Ok(answer::done(StatusCode::CREATED, &done))
}

/// Changes a webhook; what is absent stays.
#[utoipa::path(post, path = "/api/webhooks/{webhook}", tag = "webhooks", operation_id = "update_webhook",
    params(("webhook" = WebhookId, Path, description = "Its id.")), request_body = UpdateWebhook,
    responses((status = 200, description = "The webhook, and its new secret where one was asked for.", body = WebhookMade)))]
pub(super) async fn update(
    State(app): State<App>,
    caller: Caller,
    RowId(id): RowId<WebhookId>,
    request: Mutation<UpdateWebhook>,
) -> Result<Response, ApiError> {
    let done = app.fleet.update_webhook(&caller, request.mark, id, request.body).await?;
    Ok(answer::done(StatusCode::OK, &done))
}

/// Deletes a webhook, with what waits for it.
#[utoipa::path(delete, path = "/api/webhooks/{webhook}", tag = "webhooks", operation_id = "delete_webhook",
    params(("webhook" = WebhookId, Path, description = "Its id.")),
    responses((status = 200, description = "The webhook as it was.", body = WebhookView)))]
pub(super) async fn delete(
    State(app): State<App>,
    caller: Caller,
    RowId(id): RowId<WebhookId>,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.delete_webhook(&caller, order.mark, id).await?;
    Ok(answer::done(StatusCode::OK, &done))
}

/// Sends a webhook an event `webhook.test` now, past its queue, and says how it went.
#[utoipa::path(post, path = "/api/webhooks/{webhook}/test", tag = "webhooks", operation_id = "test_webhook",
    params(("webhook" = WebhookId, Path, description = "Its id.")),
    responses((status = 200, description = "How it went.", body = WebhookTested)))]
pub(super) async fn test(
    State(app): State<App>,
    _: Caller,
    RowId(id): RowId<WebhookId>,
    _: Order,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    let row = state.get::<WebhookRow>(&id).ok_or_else(|| FleetError::not_found("webhook", id))?;
    let test = DeliveryId::new(uuid::Uuid::new_v4());
    let outcome = app.courier.test(row, test).await;
    let outcome = outcome.map_err(|problem| ApiError::new(Kind::Internal, problem))?;
    let delivered = outcome.verdict == Verdict::Taken;
    Ok(answer::row(&WebhookTested { id: test, delivered, attempt: webhooks::attempt_view(&outcome.attempt) }))
}

/// Lists what is kept of a webhook's deliveries: those that wait, and the newest that are done.
#[utoipa::path(get, path = "/api/webhooks/{webhook}/deliveries", tag = "webhooks", operation_id = "list_deliveries",
    params(("webhook" = WebhookId, Path, description = "Its id."), PageQuery),
    responses((status = 200, description = "A page of deliveries, newest first.", body = Page<WebhookDeliveryView>)))]
pub(super) async fn deliveries(
    State(app): State<App>,
    _: Caller,
    RowId(id): RowId<WebhookId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    app.fleet.webhook_view(id)?;
    let (state, now) = (app.fleet.state(), clock::now());
    paging.page(
        "deliveries",
        |from: Bound<u64>| {
            // Newest first: what comes behind one is older.
            let is_behind = move |sequence| match from {
                Bound::Excluded(last) | Bound::Included(last) => sequence < last,
                Bound::Unbounded => true,
            };
            state.queue_of(id).rev().filter(move |row| is_behind(row.sequence))
        },
        |row| row.sequence,
        |row| webhooks::delivery_view(row, now),
    )
}

/// Sends again what is kept of a webhook's deliveries, under the same ids.
#[utoipa::path(post, path = "/api/webhooks/{webhook}/replay", tag = "webhooks", operation_id = "replay_webhook",
    params(("webhook" = WebhookId, Path, description = "Its id.")), request_body = ReplayWebhook,
    responses((status = 200, description = "What will be sent again.", body = WebhookReplayed)))]
pub(super) async fn replay(
    State(app): State<App>,
    caller: Caller,
    RowId(id): RowId<WebhookId>,
    request: Mutation<ReplayWebhook>,
) -> Result<Response, ApiError> {
    let done = app.fleet.replay_webhook(&caller, request.mark, id, request.body).await?;
    Ok(answer::done(StatusCode::OK, &done))
}
