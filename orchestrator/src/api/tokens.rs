//! API tokens: made, listed, revoked. What a token says is shown once.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::api::tokens::{CreateToken, Role, TokenMade, TokenView};
use chom_protocol::api::{Page, PageQuery};
use chom_protocol::{Name, TokenId, VpsId};

use crate::api::list::{Given, Key, List, Parameter, Place, Query, is_among};
use crate::api::problem::ApiError;
use crate::api::request::{Mutation, Order, RowId};
use crate::api::{App, answer};
use crate::fleet::Caller;
use crate::fleet::rows::TokenRow;

/// Which tokens are asked for.
pub(super) struct TokenList {
    roles: Vec<Role>,
    tenant: Option<Name>,
    vps: Option<VpsId>,
    needle: Option<String>,
}

impl List for TokenList {
    const NAME: &'static str = "tokens";
    const FILTERS: &'static [Parameter] = &[
        Parameter { name: "role", about: "Only of one of these roles: `admin`, or `owner,member`." },
        Parameter { name: "tenant", about: "Only of this tenant." },
        Parameter { name: "vps", about: "Only those for this VPS, by id." },
        Parameter { name: "q", about: "Only with this text in their name." },
    ];
    const SORTS: &'static [&'static str] = &["created_at", "name"];

    fn read(given: &Given) -> Result<Self, ApiError> {
        Ok(Self {
            roles: given.words("role")?,
            tenant: given.one("tenant")?,
            vps: given.one("vps")?,
            needle: given.needle("q"),
        })
    }
}

/// Lists the tokens, oldest first.
#[utoipa::path(get, path = "/api/tokens", tag = "tokens", operation_id = "list_tokens", params(PageQuery),
    responses((status = 200, description = "A page of tokens.", body = Page<TokenView>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    query: Query<TokenList>,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    let TokenList { roles, tenant, vps, needle } = &query.list;
    let rows = state
        .tokens
        .values()
        .map(|stored| stored.row.as_ref())
        .filter(|row| caller.sees_token(row) && is_among(roles, || row.role))
        .filter(|row| tenant.is_none() || row.tenant == *tenant)
        .filter(|row| vps.is_none() || row.vps == *vps)
        .filter(|row| needle.as_ref().is_none_or(|needle| row.name.as_str().contains(needle)));
    let chosen = query.part()?.select(rows, place(query.sort.by == "name"));
    Ok(query.answer(chosen.map(|row| app.fleet.token_view(row))))
}

fn place<'a>(by_name: bool) -> impl Fn(&&'a TokenRow) -> Place<'a, TokenId> {
    move |row| Place {
        key: if by_name { Key::text(&row.name) } else { Key::time(row.created_at) },
        id: row.id,
    }
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
