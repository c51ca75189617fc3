//! Who asks: the bearer token of a request (RFC 6750), judged on the newest rows.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use chom_protocol::UnixMillis;

use crate::api::App;
use crate::api::problem::{ApiError, Kind};
use crate::clock;
use crate::fleet::state::State;
use crate::fleet::tokens::{TOKEN_PREFIX, authenticate};
use crate::fleet::{Caller, rows::TokenRow};

/// Longest credentials that are looked at; a token has 52 characters.
const CREDENTIALS_BYTES_MAX: usize = 256;

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let mut values = parts.headers.get_all(AUTHORIZATION).iter();
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
}

/// Whether a caller that was let in may stay: event streams outlive the judgement at their beginning.
pub(super) fn still_valid(state: &State, caller: &Caller, now: UnixMillis) -> bool {
    let row = state.get::<TokenRow>(&caller.token);
    row.is_some_and(|row| row.expires_at.is_none_or(|end| end > now))
}

fn refused(detail: &str) -> ApiError {
    ApiError::new(Kind::Unauthorised, detail).at("Authorization")
}
