//! The mail server that alerts leave through. Its password goes in and never comes out.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::api::smtp::{ConfigureSmtp, SmtpTested, SmtpView, TestSmtp};

use crate::api::problem::{ApiError, Kind};
use crate::api::request::Mutation;
use crate::api::{App, answer};
use crate::fleet::Caller;

/// Sets the mail server.
#[utoipa::path(post, path = "/api/alertmanager/smtp/configure", tag = "alerts", operation_id = "configure_smtp",
    request_body = ConfigureSmtp, responses((status = 200, description = "The mail server.", body = SmtpView)))]
pub(super) async fn configure(
    State(app): State<App>,
    caller: Caller,
    request: Mutation<ConfigureSmtp>,
) -> Result<Response, ApiError> {
    let done = app.notifier.smtp_configure(&caller, request.mark, request.body).await?;
    Ok(answer::done(StatusCode::OK, &done))
}

/// Sends a test mail now, and says how each recipient's went.
#[utoipa::path(post, path = "/api/alertmanager/smtp/test", tag = "alerts", operation_id = "test_smtp",
    request_body = TestSmtp, responses((status = 200, description = "How it went.", body = SmtpTested)))]
pub(super) async fn test(
    State(app): State<App>,
    _: Caller,
    request: Mutation<TestSmtp>,
) -> Result<Response, ApiError> {
    Ok(answer::row(&app.notifier.smtp_test(request.body).await?))
}

/// Shows the mail server, without its secrets.
#[utoipa::path(get, path = "/api/alertmanager/smtp/config", tag = "alerts", operation_id = "show_smtp",
    responses((status = 200, description = "The mail server.", body = SmtpView)))]
pub(super) async fn show(State(app): State<App>, _: Caller) -> Result<Response, ApiError> {
    let view = app.notifier.smtp_view().ok_or_else(|| {
        ApiError::new(
            Kind::NotFound,
            "no mail server is configured; set one with `POST /api/alertmanager/smtp/configure`",
        )
    })?;
    Ok(answer::row(&view))
}
