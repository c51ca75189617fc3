//! Alerts, and the mails that they led to.

use std::ops::Bound;

use axum::extract::State;
use axum::response::Response;
use chom_protocol::api::alerts::{AlertView, NotificationView};
use chom_protocol::api::{Page, PageQuery};
use chom_protocol::{AlertId, NotificationId};

use crate::alerts::AlertViews;
use crate::api::App;
use crate::api::page::Paging;
use crate::api::problem::ApiError;
use crate::fleet::Caller;
use crate::notify::notification_view;

/// Lists the alerts, oldest first; resolved ones are kept for a week.
#[utoipa::path(get, path = "/api/alerts", tag = "alerts", operation_id = "list_alerts", params(PageQuery),
    responses((status = 200, description = "A page of alerts.", body = Page<AlertView>)))]
pub(super) async fn list(State(app): State<App>, _: Caller, paging: Paging) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    let views = AlertViews::of(&state);
    paging.page(
        "alerts",
        |from: Bound<AlertId>| state.alerts.range((from, Bound::Unbounded)).map(|(_, stored)| &stored.row),
        |row| row.id,
        |row| views.view(row),
    )
}

/// Lists the notifications, oldest first, with how each recipient's mail went.
#[utoipa::path(get, path = "/api/notifications", tag = "alerts", operation_id = "list_notifications", params(PageQuery),
    responses((status = 200, description = "A page of notifications.", body = Page<NotificationView>)))]
pub(super) async fn notifications(
    State(app): State<App>,
    _: Caller,
    paging: Paging,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    paging.page(
        "notifications",
        |from: Bound<NotificationId>| {
            state.notifications.range((from, Bound::Unbounded)).map(|(_, stored)| &stored.row)
        },
        |row| row.id,
        |row| notification_view(row),
    )
}
