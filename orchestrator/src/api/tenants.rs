//! Tenants and their quotas.

use std::ops::Bound;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::Name;
use chom_protocol::api::tenants::{CreateTenant, SetQuota, TenantView};
use chom_protocol::api::{Page, PageQuery};

use crate::api::page::{Paging, is_behind};
use crate::api::problem::ApiError;
use crate::api::request::{Mutation, Order, RowName};
use crate::api::{App, answer};
use crate::fleet::{Caller, tenants};

/// Lists the tenants.
#[utoipa::path(get, path = "/api/tenants", tag = "tenants", operation_id = "list_tenants", params(PageQuery),
    responses((status = 200, description = "A page of tenants, by name.", body = Page<TenantView>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    paging: Paging,
) -> Result<Response, ApiError> {
    let all = tenants::all(&app.fleet.state());
    paging.page(
        "tenants",
        |from: Bound<Name>| {
            let shown = move |name: &Name| caller.sees_tenant(name) && is_behind(name, &from);
            // One that is deleted meanwhile is not shown.
            all.into_iter().filter(shown).filter_map(|name| app.fleet.tenant_view(&name).ok())
        },
        |view| view.name.clone(),
        |view| view,
    )
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

/// Deletes a tenant that has no VPSs, SSH keys and tokens left.
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
