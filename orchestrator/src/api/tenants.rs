//! Tenants and their quotas.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::Name;
use chom_protocol::api::tenants::{CreateTenant, SetExternalId, SetQuota, TenantView};
use chom_protocol::api::{Page, PageQuery};

use crate::api::list::{Chosen, Given, Key, List, Parameter, Place, Query};
use crate::api::problem::ApiError;
use crate::api::request::{Mutation, Order, RowName};
use crate::api::{App, answer};
use crate::fleet::rows::TenantRow;
use crate::fleet::{Caller, tenants};

/// Which tenants are asked for.
pub(super) struct TenantList {
    external_id: Option<String>,
    needle: Option<String>,
}

impl List for TenantList {
    const NAME: &'static str = "tenants";
    const FILTERS: &'static [Parameter] = &[
        Parameter { name: "external_id", about: "Only what another system calls by exactly this." },
        Parameter { name: "q", about: "Only with this text in their name or external id." },
    ];
    const SORTS: &'static [&'static str] = &["name", "created_at"];

    fn read(given: &Given) -> Result<Self, ApiError> {
        Ok(Self { external_id: given.text("external_id").map(str::to_owned), needle: given.needle("q") })
    }
}

/// Lists the tenants.
#[utoipa::path(get, path = "/api/tenants", tag = "tenants", operation_id = "list_tenants", params(PageQuery),
    responses((status = 200, description = "A page of tenants, by name.", body = Page<TenantView>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    query: Query<TenantList>,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    let TenantList { external_id, needle } = &query.list;
    let has = |row: &TenantRow, needle: &String| {
        row.name.as_str().contains(needle)
            || row.external_id.as_ref().is_some_and(|id| id.to_lowercase().contains(needle))
    };
    let rows = tenants::all(&state)
        .into_iter()
        .filter(|name| caller.sees_tenant(name))
        .filter_map(|name| tenants::get(&state, &name))
        .filter(|row| external_id.is_none() || row.external_id == *external_id)
        .filter(|row| needle.as_ref().is_none_or(|needle| has(row, needle)));
    let by_time = query.sort.by == "created_at";
    let place = |row: &TenantRow| Place {
        key: if by_time { Key::time(row.created_at) } else { Key::Nothing },
        id: row.name.clone(),
    };
    let chosen = query.part()?.select(rows, place);
    // One that is deleted meanwhile is not shown.
    let rows = chosen.rows.iter().filter_map(|row| app.fleet.tenant_view(&row.name).ok()).collect();
    Ok(query.answer(Chosen { rows, next: chosen.next }))
}

/// Shows a tenant, with what it has.
#[utoipa::path(get, path = "/api/tenants/{tenant}", tag = "tenants", operation_id = "show_tenant",
    params(("tenant" = Name, Path, description = "Its name.")),
    responses((status = 200, description = "The tenant.", body = TenantView)))]
pub(super) async fn show(
    State(app): State<App>,
    _: Caller,
    RowName(name): RowName,
) -> Result<Response, ApiError> {
    Ok(answer::row(&app.fleet.tenant_view(&name)?))
}

/// Makes a tenant.
#[utoipa::path(post, path = "/api/tenants", tag = "tenants", operation_id = "create_tenant", request_body = CreateTenant,
    responses((status = 201, description = "The tenant.", body = TenantView)))]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    request: Mutation<CreateTenant>,
) -> Result<Response, ApiError> {
    let done = app.fleet.create_tenant(&caller, request.mark, request.body).await?;
    Ok(answer::done(StatusCode::CREATED, &done))
}

/// Sets how much a tenant may have. What it has already stays.
#[utoipa::path(post, path = "/api/tenants/{tenant}/quota", tag = "tenants", operation_id = "set_quota",
    params(("tenant" = Name, Path, description = "Its name.")), request_body = SetQuota,
    responses((status = 200, description = "The tenant.", body = TenantView)))]
pub(super) async fn set_quota(
    State(app): State<App>,
    caller: Caller,
    RowName(name): RowName,
    request: Mutation<SetQuota>,
) -> Result<Response, ApiError> {
    let done = app.fleet.set_quota(&caller, request.mark, name, request.body).await?;
    Ok(answer::done(StatusCode::OK, &done))
}

/// Says what another system, such as a billing system, calls a tenant; unique among tenants.
#[utoipa::path(post, path = "/api/tenants/{tenant}/external-id", tag = "tenants",
    operation_id = "set_tenant_external_id",
    params(("tenant" = Name, Path, description = "Its name.")), request_body = SetExternalId,
    responses((status = 200, description = "The tenant.", body = TenantView)))]
pub(super) async fn set_external_id(
    State(app): State<App>,
    caller: Caller,
    RowName(name): RowName,
    request: Mutation<SetExternalId>,
) -> Result<Response, ApiError> {
    let done = app.fleet.set_tenant_external_id(&caller, request.mark, name, request.body).await?;
    Ok(answer::done(StatusCode::OK, &done))
}

/// Deletes a tenant that has no VPSs, SSH keys, tokens and webhooks left.
#[utoipa::path(delete, path = "/api/tenants/{tenant}", tag = "tenants", operation_id = "delete_tenant",
    params(("tenant" = Name, Path, description = "Its name.")),
    responses((status = 200, description = "The tenant as it was.", body = TenantView)))]
pub(super) async fn delete(
    State(app): State<App>,
    caller: Caller,
    RowName(name): RowName,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.delete_tenant(&caller, order.mark, name).await?;
    Ok(answer::done(StatusCode::OK, &done))
}
