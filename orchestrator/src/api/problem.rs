//! Errors as the API answers them: `application/problem+json` (RFC 9457) that says what was wrong, where, and what to do.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use chom_protocol::api::Problem;
use tracing::error;

use crate::chain;
use crate::fleet::{ErrorKind, FleetError};
use crate::store::CommitError;

/// The media type of every error.
pub(super) const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The kinds of problems: the path that names it, its title, its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Malformed,
    Unauthorised,
    Forbidden,
    NotFound,
    Method,
    Timeout,
    Conflict,
    NoCapacity,
    OverQuota,
    Stale,
    Unconditional,
    PlanMoved,
    TooLarge,
    MediaType,
    Invalid,
    KeyReused,
    TooMany,
    Internal,
    Unavailable,
    Other(StatusCode),
}

impl Kind {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Unauthorised => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict | Self::NoCapacity | Self::OverQuota | Self::PlanMoved => StatusCode::CONFLICT,
            Self::Stale => StatusCode::PRECONDITION_FAILED,
            Self::Unconditional => StatusCode::PRECONDITION_REQUIRED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid | Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Other(status) => status,
        }
    }

    const fn name_and_title(self) -> (&'static str, &'static str) {
        match self {
            Self::Malformed => ("malformed", "The request cannot be read"),
            Self::Unauthorised => ("unauthorised", "The credentials are missing or not enough"),
            Self::Forbidden => ("forbidden", "The role may not do this"),
            Self::NotFound => ("not-found", "There is no such thing"),
            Self::Method => ("method-not-allowed", "This path does not know that method"),
            Self::Timeout => ("timeout", "The request did not arrive in time"),
            Self::Conflict => ("conflict", "The present state does not allow it"),
            Self::NoCapacity => ("no-capacity", "No host can take it"),
            Self::OverQuota => ("over-quota", "The tenant's quota does not allow it"),
            Self::Stale => ("stale", "The row has changed since it was read"),
            Self::Unconditional => ("unconditional", "The change must say which revision it is of"),
            Self::PlanMoved => ("plan-moved", "The plan is not true any more"),
            Self::TooLarge => ("body-too-large", "The body is too large"),
            Self::MediaType => ("media-type", "The body is not JSON"),
            Self::Invalid => ("invalid", "The request breaks a rule"),
            Self::KeyReused => ("key-reused", "The idempotency key was used for another request"),
            Self::TooMany => ("too-many", "Too much at once"),
            Self::Internal => ("internal", "The orchestrator failed"),
            Self::Unavailable => ("unavailable", "The orchestrator cannot do this now"),
            Self::Other(_) => ("other", "The request was refused"),
        }
    }
}

/// An error answer. Public only as far as extractors are, which is not out of this folder.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub(super) kind: Kind,
    detail: String,
    location: Option<String>,
}

impl ApiError {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), location: None }
    }

    /// Says which part of the request was wrong.
    #[must_use]
    pub(super) fn at(self, location: impl Into<String>) -> Self {
        Self { location: Some(location.into()), ..self }
    }

    pub(super) fn into_problem(self) -> Problem {
        let (name, title) = self.kind.name_and_title();
        Problem {
            kind: format!("/problems/{name}"),
            title: title.to_owned(),
            status: self.kind.status().as_u16(),
            detail: self.detail,
            location: self.location,
        }
    }
}

impl From<FleetError> for ApiError {
    fn from(error: FleetError) -> Self {
        let kind = match (error.kind(), &error) {
            (ErrorKind::NotFound, _) => Kind::NotFound,
            (ErrorKind::Invalid, _) => Kind::Invalid,
            (ErrorKind::Conflict, _) => Kind::Conflict,
            (ErrorKind::NoCapacity, _) => Kind::NoCapacity,
            (ErrorKind::OverQuota, _) => Kind::OverQuota,
            (ErrorKind::Forbidden, _) => Kind::Forbidden,
            (ErrorKind::Stale, _) => Kind::Stale,
            (ErrorKind::Unconditional, _) => Kind::Unconditional,
            (ErrorKind::PlanMoved, _) => Kind::PlanMoved,
            (ErrorKind::KeyReused, _) => Kind::KeyReused,
            (ErrorKind::Unauthorised, _) => Kind::Unauthorised,
            (
                ErrorKind::Internal,
                FleetError::Closed
                | FleetError::Store(
                    CommitError::Failed { .. }
                    | CommitError::Closed
                    | CommitError::Busy { .. }
                    | CommitError::Conflict { .. },
                ),
            ) => Kind::Unavailable,
            (ErrorKind::Internal, _) => Kind::Internal,
        };
        let detail = chain(&error);
        if kind.status().is_server_error() {
            error!(error = detail, "a request failed");
        }
        Self { kind, detail, location: error.location().map(str::to_owned) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let kind = self.kind;
        let body = serde_json::to_vec(&self.into_problem()).unwrap_or_default();
        let mut response = (kind.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, MEDIA_TYPE);
        match kind {
            // RFC 9110 section 11.6.1: a 401 says how to do better.
            Kind::Unauthorised => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"chom\""));
            }
            Kind::Unavailable | Kind::TooMany => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
            }
            _ => {}
        }
        response
    }
}

/// The answer where there is no route.
pub(super) async fn no_such_path(uri: Uri) -> ApiError {
    let path = shown(uri.path());
    ApiError::new(
        Kind::NotFound,
        format!("there is nothing at `{path}`; GET /api/openapi.json lists what there is"),
    )
}

/// A piece of the request as it may be repeated in an answer: its beginning.
pub(super) fn shown(text: &str) -> String {
    const SHOWN_CHARACTERS_MAX: usize = 100;
    match text.char_indices().nth(SHOWN_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
