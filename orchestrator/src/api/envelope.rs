//! What every answer has, whatever made it: security headers, a problem document for every error, a deadline, a count. A
//! handler that panics is an error like others.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use crate::api::problem::{ApiError, Kind, MEDIA_TYPE, shown};
use crate::api::{App, images};

/// An answer that is not there by then is given up; usually it takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(30);
/// A test mail waits for the mail server, for as long as RFC 5321 (section 4.5.3.2) lets it take.
const MAIL_DEADLINE: Duration = Duration::from_secs(320);
/// An upload of the largest image over 100 Mbit/s takes an hour and a half; one that stops on its way ends long before.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(3 * 60 * 60);
const MAIL_PATH: &str = "/api/alertmanager/smtp/test";

/// The design's security headers.
pub(super) const SECURITY_HEADERS: [(HeaderName, &str); 5] = [
    (STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
    (X_FRAME_OPTIONS, "SAMEORIGIN"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // Nothing but the style of the pages for people.
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'sha256-Uaz4Sh7IcgHQW0p7kJ38MZKo3yFq/uB6K4if5niI7TM='; frame-ancestors 'self'",
    ),
    (REFERRER_POLICY, "no-referrer"),
];

/// Puts everything in its envelope.
pub(super) fn around(router: Router<App>, app: App) -> Router {
    router.layer(middleware::from_fn_with_state(app.clone(), envelope)).with_state(app)
}

async fn envelope(State(app): State<App>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let path = shown(request.uri().path());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let is_api = path.starts_with("/api");
    let deadline = match path.as_str() {
        MAIL_PATH => MAIL_DEADLINE,
        images::PATH if method == Method::POST => UPLOAD_DEADLINE,
        _ => DEADLINE,
    };

    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    let response = match tokio::time::timeout(deadline, answer).await {
        Ok(Ok(response)) => as_problem(response, &method, &path),
        // The panic itself is in the log: its text is not for callers.
        Ok(Err(_)) => ApiError::new(Kind::Internal, "this is a fault in the orchestrator; its log says more")
            .into_response(),
        Err(_) => {
            let detail = format!(
                "no answer within {} s; a change may still be made: repeat it with the same Idempotency-Key, or look",
                deadline.as_secs()
            );
            ApiError::new(Kind::Unavailable, detail).into_response()
        }
    };
    let response = with_headers(response, is_api);
    app.http.note(&method, route.as_ref().map(MatchedPath::as_str), response.status(), begun.elapsed());
    response
}

/// Errors that no handler of ours made, as problems.
fn as_problem(response: Response, method: &Method, path: &str) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || response.headers().get(CONTENT_TYPE) == Some(&MEDIA_TYPE) {
        return response;
    }
    let error = match status {
        // The router adds `Allow` to this answer.
        StatusCode::METHOD_NOT_ALLOWED => {
            let method = shown(method.as_str());
            ApiError::new(
                Kind::Method,
                format!("`{path}` does not know {method}; the header Allow says what it knows"),
            )
        }
        StatusCode::BAD_REQUEST => ApiError::new(Kind::Malformed, "the request cannot be read"),
        StatusCode::INTERNAL_SERVER_ERROR => {
            ApiError::new(Kind::Internal, "the orchestrator's log says more")
        }
        other => ApiError::new(Kind::Other(other), other.canonical_reason().unwrap_or("refused")),
    };
    error.into_response()
}

fn with_headers(mut response: Response, is_api: bool) -> Response {
    let headers = response.headers_mut();
    for (name, value) in SECURITY_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if is_api {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}
