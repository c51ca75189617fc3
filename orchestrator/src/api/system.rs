//! What machines ask of the orchestrator itself: is it alive, is it ready, its own metrics, its API's description.

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use crate::api::App;
use crate::api::problem::{ApiError, Kind};
use crate::chain;
use crate::fleet::Caller;
use crate::prometheus::{self, Snapshot};

/// Describes this API (OpenAPI 3.1). Needs no token: it is the same for everybody who runs this release.
#[utoipa::path(get, path = "/api/openapi.json", tag = "system", operation_id = "openapi", security(()),
    responses((status = 200, description = "This document.", content_type = "application/json")))]
pub(super) async fn openapi(State(app): State<App>) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], app.document).into_response()
}

/// Says that the process answers. Needs no token.
#[utoipa::path(get, path = "/healthz", tag = "system", operation_id = "healthz", security(()),
    responses((status = 200, description = "It answers.", content_type = "text/plain", body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Says whether changes can be taken: 503 when the store takes no commits, and while shutting down. Needs no token.
#[utoipa::path(get, path = "/readyz", tag = "system", operation_id = "readyz", security(()),
    responses((status = 200, description = "Changes can be taken.", content_type = "text/plain", body = String)))]
pub(super) async fn readyz(State(app): State<App>) -> Result<&'static str, ApiError> {
    if app.stop.is_cancelled() {
        return Err(ApiError::new(Kind::Unavailable, "the orchestrator is shutting down"));
    }
    app.store.ready().map(|()| "ready\n").map_err(|error| ApiError::new(Kind::Unavailable, chain(&error)))
}

/// The orchestrator's own metrics (OpenMetrics 1.0). Needs the token, as its numbers tell how large the fleet is.
#[utoipa::path(get, path = "/metrics", tag = "system", operation_id = "metrics",
    responses((status = 200, description = "Metrics.", content_type = "application/openmetrics-text", body = String)))]
pub(super) async fn metrics(State(app): State<App>, _: Caller) -> Result<Response, ApiError> {
    let snapshot = Snapshot::take(&app.fleet, &app.history, app.streams.count());
    let text = prometheus::render(&app.http, &snapshot)
        .map_err(|_| ApiError::new(Kind::Internal, "the metrics cannot be written"))?;
    let media_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(CONTENT_TYPE, media_type)], text).into_response())
}
