//! API tokens: made, listed, revoked. What a token says is shown once.

use std::ops::Bound;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::TokenId;
use chom_protocol::api::tokens::{CreateToken, TokenMade, TokenView};
use chom_protocol::api::{Page, PageQuery};

use crate::api::page::Paging;
use crate::api::problem::ApiError;
use crate::api::request::{Mutation, Order, RowId};
use crate::api::{App, answer};
use crate::fleet::Caller;

/// Lists the tokens, oldest first.
#[utoipa::path(get, path = "/api/tokens", tag = "tokens", operation_id = "list_tokens", params(PageQuery),
    responses((status = 200, description = "A page of tokens.", body = Page<TokenView>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    paging: Paging,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    paging.page(
        "tokens",
        |from: Bound<TokenId>| {
            let rows = state.tokens.range((from, Bound::Unbounded)).map(|(_, stored)| stored.row.as_ref());
            rows.filter(|row| caller.sees_token(row))
        },
        |row| row.id,
        |row| app.fleet.token_view(row),
    )
}

/// Makes a token. The answer shows it, and nothing does again.
#[utoipa::path(post, path = "/api/tokens", tag = "tokens", operation_id = "create_token", request_body = CreateToken,
    responses((status = 201, description = "The token.", body = TokenMade)))]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    request: Mutation<CreateToken>,
) -> Result<Response, ApiError> {
    let done = app.fleet.create_token(&caller, request.mark, request.body).await?;
    Ok(answer::done(StatusCode::CREATED, &done))
}

/// Revokes a token: it opens nothing from now on, and event streams that it opened end.
#[utoipa::path(delete, path = "/api/tokens/{token}", tag = "tokens", operation_id = "revoke_token",
    params(("token" = TokenId, Path, description = "Its id.")),
    responses((status = 200, description = "The token as it was.", body = TokenView)))]
pub(super) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    RowId(token): RowId<TokenId>,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.revoke_token(&caller, order.mark, token).await?;
    Ok(answer::done(StatusCode::OK, &done))
}
