//! Who asks, and whether they may: the bearer token of a request (RFC 6750), judged on the newest rows and by the table of
//! permissions, before any handler runs.

use std::collections::BTreeMap;

use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chom_protocol::UnixMillis;
use utoipa::openapi::OpenApi;

use crate::api::problem::{ApiError, Kind};
use crate::api::refused::{Attempt, Foreign, origin};
use crate::api::{App, document};
use crate::clock;
use crate::fleet::rows::{OperationRow, TokenRow, VpsRow};
use crate::fleet::state::State as FleetState;
use crate::fleet::tokens::{TOKEN_PREFIX, authenticate};
use crate::fleet::users::rows::UserRow;
use crate::fleet::{Caller, FleetError, tenants};
use crate::notify::webhook::rows::WebhookRow;
use crate::permission::{self, Needs, Permission};

/// Longest credentials that are looked at; a token has 52 characters.
const CREDENTIALS_BYTES_MAX: usize = 256;

/// What each route needs, by method and pattern.
#[derive(Default)]
pub(super) struct Rules(BTreeMap<(Method, String), Option<Needs>>);

impl Rules {
    /// The rules of a document's routes.
    pub(super) fn of(document: &OpenApi) -> Self {
        let mut rules = BTreeMap::new();
        for (path, item) in &document.paths.paths {
            for (method, operation) in document::operations(item) {
                let id = operation.operation_id.as_deref();
                rules.insert((method, path.clone()), id.and_then(permission::of_route));
            }
        }
        Self(rules)
    }
}

/// The one place where callers are let in: before any handler of a route runs, its row of the permission table is asked. What
/// is refused here or behind it is noted for the audit trail.
pub(super) async fn gate(State(app): State<App>, request: Request, next: Next) -> Response {
    let attempt = Attempt::of(&request);
    let response = judge(&app, request, next).await.into_response();
    attempt.note_refusal(&app, &response);
    response
}

async fn judge(app: &App, mut request: Request, next: Next) -> Result<Response, ApiError> {
    // The router answers HEAD by what GET would.
    let method = if request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let permission = match app.rules.0.get(&(method, path.to_owned())) {
        // No such route: the router says so. A handler without a rule finds no caller.
        None | Some(Some(Needs::Nothing)) => return Ok(next.run(request).await),
        Some(Some(Needs::PermissionOrTicket(_))) if has_ticket(request.uri()) => {
            return Ok(next.run(request).await);
        }
        Some(Some(needs)) => needs.permission(),
        Some(None) => return Err(no_rule()),
    };
    let mut caller = caller(request.headers(), app)?;
    caller.origin = origin(&request)?;
    app.limits.count_token(caller.token)?;
    app.fleet.note_token_use(caller.token, clock::now());
    if caller.tenant.is_some() {
        // Whose a row is goes before what may be done to it: what is not the caller's does not exist.
        let (mut parts, body) = request.into_parts();
        let named = RawPathParams::from_request_parts(&mut parts, app).await;
        let named = named.map_err(|_| ApiError::new(Kind::Malformed, "the path is no UTF-8 text"))?;
        let state = app.fleet.state();
        let hidden = |(kind, text)| Some((hidden(&state, &caller, kind, text)?, exists(&state, kind, text)));
        if let Some((error, is_foreign)) = named.iter().find_map(hidden) {
            let mut response = ApiError::from(error).into_response();
            if is_foreign {
                response.extensions_mut().insert(Foreign);
            }
            return Ok(response);
        }
        request = Request::from_parts(parts, body);
    }
    if let Some(permission) = permission {
        permit(&caller, permission)?;
    }
    let token = caller.token;
    request.extensions_mut().insert(caller);
    app.limits.answered(token, next.run(request).await)
}

/// Whether a caller's role, and what its token is for, let it do something.
fn permit(caller: &Caller, permission: Permission) -> Result<(), ApiError> {
    if caller.vps.is_some() && !permission::is_of_one_vps(permission) {
        let detail =
            format!("your token is for one VPS, and this needs the permission `{permission}` besides");
        return Err(ApiError::new(Kind::Forbidden, detail).at("Authorization"));
    }
    if !permission::may(caller.role, permission) {
        let roles: Vec<String> = permission::roles_with(permission).iter().map(ToString::to_string).collect();
        let detail = format!(
            "this needs the permission `{permission}`, which the role `{}` of your token does not have; use a token of role {}",
            caller.role,
            roles.join(", ")
        );
        return Err(ApiError::new(Kind::Forbidden, detail).at("Authorization"));
    }
    Ok(())
}

/// The error of a row in a path that is not there for a caller: the same as for one that is not there at all. Names of SSH
/// keys are looked up in the caller's tenant; what else a path can name is the fleet's.
fn hidden(state: &FleetState, caller: &Caller, kind: &str, text: &str) -> Option<FleetError> {
    let (is_seen, what) = match kind {
        "vps" => (state.get::<VpsRow>(&text.parse().ok()?).is_some_and(|row| caller.sees_vps(row)), "VPS"),
        "operation" => {
            let row = state.get::<OperationRow>(&text.parse().ok()?);
            (row.is_some_and(|row| caller.sees_operation(row)), "operation")
        }
        "token" => {
            let row = state.get::<TokenRow>(&text.parse().ok()?);
            (row.is_some_and(|row| caller.sees_token(row)), "token")
        }
        "webhook" => {
            let row = state.get::<WebhookRow>(&text.parse().ok()?);
            (row.is_some_and(|row| caller.sees_webhook(row)), "webhook")
        }
        "user" => {
            let row = state.get::<UserRow>(&text.parse().ok()?);
            (row.is_some_and(|row| caller.sees_user(row)), "user")
        }
        "tenant" => (caller.sees_tenant(&text.parse().ok()?), "tenant"),
        _ => return None,
    };
    (!is_seen).then(|| FleetError::not_found(what, text))
}

/// Whether a row that a path names is there at all.
fn exists(state: &FleetState, kind: &str, text: &str) -> bool {
    match kind {
        "vps" => text.parse().is_ok_and(|id| state.get::<VpsRow>(&id).is_some()),
        "operation" => text.parse().is_ok_and(|id| state.get::<OperationRow>(&id).is_some()),
        "token" => text.parse().is_ok_and(|id| state.get::<TokenRow>(&id).is_some()),
        "tenant" => text.parse().is_ok_and(|name| tenants::check(state, &name).is_ok()),
        _ => false,
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    /// Whom the gate let in.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(no_rule)
    }
}

fn has_ticket(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("ticket=")))
}

fn no_rule() -> ApiError {
    ApiError::new(Kind::Internal, "this route is missing from the table of permissions, so nobody may use it")
}

fn caller(headers: &HeaderMap, app: &App) -> Result<Caller, ApiError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(refused("send one header `Authorization: Bearer TOKEN` with an API token"));
    };
    let text = value.to_str().ok().filter(|text| text.len() <= CREDENTIALS_BYTES_MAX);
    let Some((scheme, token)) = text.and_then(|text| text.split_once(' ')) else {
        return Err(refused("these credentials cannot be read; send `Authorization: Bearer TOKEN`"));
    };
    // The scheme's case does not matter (RFC 9110 section 11.1).
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(refused("only bearer tokens are taken; send `Authorization: Bearer TOKEN`"));
    }
    let token = token.trim_start();
    if !token.starts_with(TOKEN_PREFIX) {
        return Err(refused(&format!("this is no API token; API tokens begin with `{TOKEN_PREFIX}`")));
    }
    authenticate(&app.fleet.state(), token, clock::now()).map_err(ApiError::from)
}

/// Whether a caller that was let in may stay: event streams outlive the judgement at their beginning.
pub(super) fn still_valid(state: &FleetState, caller: &Caller, now: UnixMillis) -> bool {
    let row = state.get::<TokenRow>(&caller.token);
    row.is_some_and(|row| row.expires_at.is_none_or(|end| end > now))
}

fn refused(detail: &str) -> ApiError {
    ApiError::new(Kind::Unauthorised, detail).at("Authorization")
}
