//! Errors as the API answers them: `application/problem+json` (RFC 9457) that says what was wrong, where, and what to do.

use std::time::Duration;

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

    /// Every kind that has a page.
    pub(super) const ALL: [Self; 19] = [
        Self::Malformed,
        Self::Unauthorised,
        Self::Forbidden,
        Self::NotFound,
        Self::Method,
        Self::Timeout,
        Self::Conflict,
        Self::NoCapacity,
        Self::OverQuota,
        Self::Stale,
        Self::Unconditional,
        Self::PlanMoved,
        Self::TooLarge,
        Self::MediaType,
        Self::Invalid,
        Self::KeyReused,
        Self::TooMany,
        Self::Internal,
        Self::Unavailable,
    ];

    /// The last part of its `type`.
    pub(super) const fn name(self) -> &'static str {
        self.words().0
    }

    pub(super) const fn title(self) -> &'static str {
        self.words().1
    }

    /// What it means, and what whoever meets it can do.
    pub(super) const fn meaning_and_advice(self) -> (&'static str, &'static str) {
        let (_, _, meaning, advice) = self.words();
        (meaning, advice)
    }

    /// Name, title, meaning, advice.
    const fn words(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Malformed => (
                "malformed",
                "The request cannot be read",
                "A parameter, a header or the body is not what this path takes, so that nothing was done.",
                "Correct the part that `location` names. The reference lists the parameters and bodies of every call.",
            ),
            Self::Unauthorised => (
                "unauthorised",
                "The credentials are missing or not enough",
                "The request has no token, or one that is unknown, expired or revoked.",
                "Send `Authorization: Bearer TOKEN` with a token that is good; make a new one with `chomctl token create`. Nobody has one any more: `chom-orchestrator admin reset` on the orchestrator's machine.",
            ),
            Self::Forbidden => (
                "forbidden",
                "The role may not do this",
                "The token is good, and its role does not include this call.",
                "Use a token of another role. The reference says for each call which roles may make it.",
            ),
            Self::NotFound => (
                "not-found",
                "There is no such thing",
                "Nothing has this id or name, or it is somebody else's, which is answered alike.",
                "List what there is, and take the id from there. What was purged is gone for good.",
            ),
            Self::Method => (
                "method-not-allowed",
                "This path does not know that method",
                "The path exists and takes other methods.",
                "Use one of those that the header `Allow` of the answer names.",
            ),
            Self::Timeout => (
                "timeout",
                "The request did not arrive in time",
                "The body was not there within the time that is given to it.",
                "Send it again, with the same `Idempotency-Key`; look at the network between if it happens often.",
            ),
            Self::Conflict => (
                "conflict",
                "The present state does not allow it",
                "What was asked for makes sense, and not in the state that the row is in now.",
                "Read the row, do what `detail` says must be done first, and ask again.",
            ),
            Self::NoCapacity => (
                "no-capacity",
                "No host can take it",
                "No host of the region has the room, the engine and the labels that it needs.",
                "Ask with `?dry_run=true`: the answer says of each host why it was not taken. Choose a smaller size or another region, or add a host.",
            ),
            Self::OverQuota => (
                "over-quota",
                "The tenant's quota does not allow it",
                "The tenant would have more than its quota gives it.",
                "Delete and purge what is not needed, or have an admin raise the quota.",
            ),
            Self::Stale => (
                "stale",
                "The row has changed since it was read",
                "`If-Match` names a revision that is not the row's newest any more: somebody else changed it.",
                "Read the row again, look whether the change is still wanted, and send it with the new `ETag`.",
            ),
            Self::Unconditional => (
                "unconditional",
                "The change must say which revision it is of",
                "This change overwrites what somebody else may have changed since it was read, and has no `If-Match`.",
                "Read the row, and send its `ETag` as `If-Match`; `*` where it does not matter which it is.",
            ),
            Self::PlanMoved => (
                "plan-moved",
                "The plan is not true any more",
                "What the plan was made from has changed since, or the plan is forgotten: plans live ten minutes, and not over a restart of the orchestrator.",
                "Look at what `detail` says has moved, plan again with `?dry_run=true`, and apply the new plan.",
            ),
            Self::TooLarge => (
                "body-too-large",
                "The body is too large",
                "The body has more bytes than any call takes.",
                "Send less. Images are uploaded, and user data belongs into the request that makes the VPS.",
            ),
            Self::MediaType => (
                "media-type",
                "The body is not JSON",
                "The request does not say that its body is JSON.",
                "Send JSON with `Content-Type: application/json`.",
            ),
            Self::Invalid => (
                "invalid",
                "The request breaks a rule",
                "The request was understood, and one of its values cannot be.",
                "Correct the field that `location` names (a JSON pointer into the body).",
            ),
            Self::KeyReused => (
                "key-reused",
                "The idempotency key was used for another request",
                "The same `Idempotency-Key` came within a day with another path or body.",
                "Use a new key for every new request, and the same key only for the very same request.",
            ),
            Self::TooMany => (
                "too-many",
                "Too much at once",
                "More at once, or more in a time, than one caller is given.",
                "Wait for as long as `Retry-After` says, and send less at once.",
            ),
            Self::Internal => (
                "internal",
                "The orchestrator failed",
                "This is a fault in CHOM. Whether the change was made is not certain.",
                "Repeat it with the same `Idempotency-Key`. The orchestrator's log says more: report it with the log.",
            ),
            Self::Unavailable => (
                "unavailable",
                "The orchestrator cannot do this now",
                "It is starting, going down, or cannot write its store.",
                "Wait for as long as `Retry-After` says and repeat it with the same `Idempotency-Key`. If it lasts, look at `/readyz` and at the disk of the orchestrator's machine.",
            ),
            Self::Other(_) => ("other", "The request was refused", "", ""),
        }
    }
}

/// An error answer. Public only as far as extractors are, which is not out of this folder.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub(super) kind: Kind,
    detail: String,
    location: Option<String>,
    /// Seconds after which to come again, where that is known.
    retry_after: Option<u64>,
}

/// Seconds after which to come again, where nobody knows.
const RETRY_AFTER_USUAL: u64 = 2;

impl ApiError {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), location: None, retry_after: None }
    }

    /// Says which part of the request was wrong.
    #[must_use]
    pub(super) fn at(self, location: impl Into<String>) -> Self {
        Self { location: Some(location.into()), ..self }
    }

    /// Says after how long to come again.
    #[must_use]
    pub(super) fn retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self { retry_after: Some(seconds.max(1)), ..self }
    }

    pub(super) fn into_problem(self) -> Problem {
        Problem {
            kind: format!("/problems/{}", self.kind.name()),
            title: self.kind.title().to_owned(),
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
        Self { kind, detail, location: error.location().map(str::to_owned), retry_after: None }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (kind, retry_after) = (self.kind, self.retry_after.unwrap_or(RETRY_AFTER_USUAL));
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
                headers.insert(RETRY_AFTER, HeaderValue::from(retry_after));
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
