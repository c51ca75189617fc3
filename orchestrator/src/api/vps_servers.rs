//! VPSs: created, shown, switched, deleted, brought back, purged, held. Every change answers with the operation to wait for.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chom_protocol::VpsId;
use chom_protocol::api::vps_servers::{CreateVps, SetHold, StopVps, VpsAccepted, VpsView};
use chom_protocol::api::{Page, PageQuery};

use crate::api::list::Query;
use crate::api::problem::ApiError;
use crate::api::request::{Mutation, Order, RowId, RowKey, Words};
use crate::api::vps_list::VpsList;
use crate::api::{App, answer, watch};
use crate::clock;
use crate::fleet::rows::{VpsNameRow, VpsRow};
use crate::fleet::state::State as FleetState;
use crate::fleet::vps::Action;
use crate::fleet::{Caller, FleetError, Planning, RequestMark, view};

/// Lists the VPSs, those by oldest id first, deleted ones that are still kept included.
#[utoipa::path(get, path = "/api/vps-servers", tag = "VPSs", operation_id = "list_vps", params(PageQuery),
    responses((status = 200, description = "A page of VPSs.", body = Page<VpsView>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    query: Query<VpsList>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    watch::answer(app, caller, query, &headers)
}

/// The VPS of a path, by its id or its name in the caller's tenant. The gate has judged ids.
pub(super) fn named<'a>(
    state: &'a FleetState,
    caller: &Caller,
    key: &RowKey<VpsId>,
) -> Result<&'a VpsRow, FleetError> {
    match key {
        RowKey::Id(id) => state.get::<VpsRow>(id).ok_or_else(|| FleetError::not_found("VPS", id)),
        RowKey::Name(name) => {
            let named = state.get::<VpsNameRow>(&(caller.home(), name.clone()));
            let row = named.and_then(|named| state.get::<VpsRow>(&named.vps));
            row.filter(|row| caller.sees_vps(row)).ok_or_else(|| FleetError::not_found("VPS", name))
        }
    }
}

/// Shows a VPS.
#[utoipa::path(get, path = "/api/vps-servers/{vps}", tag = "VPSs", operation_id = "show_vps",
    params(("vps" = String, Path, description = "Its id, or its name.")),
    responses((status = 200, description = "The VPS.", body = VpsView)))]
pub(super) async fn show(
    State(app): State<App>,
    caller: Caller,
    key: RowKey<VpsId>,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    let row = named(&state, &caller, &key)?;
    let observation = app.fleet.observations().of(row.host);
    let shown = view::vps(&state, app.fleet.catalogue(), row, observation.as_deref(), clock::now());
    Ok(answer::row(&view::vps_for(caller.sees_hosts(), shown)))
}

/// Creates a VPS: finds a host and an address for it, and lets the host's agent make it.
#[utoipa::path(post, path = "/api/vps-servers", tag = "VPSs", operation_id = "create_vps", request_body = CreateVps,
    responses((status = 202, description = "It will be made.", body = VpsAccepted)))]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    request: Mutation<CreateVps>,
) -> Result<Response, ApiError> {
    if let Planning::DryRun { .. } = request.mark.planning {
        return Ok(answer::row(&app.fleet.plan_create(&caller, request.mark, request.body).await?));
    }
    let done = app.fleet.create_vps(&caller, request.mark, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Switches a VPS on.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/start", tag = "VPSs", operation_id = "start_vps",
    params(("vps" = VpsId, Path, description = "Its id.")),
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn start(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    order: Order,
) -> Result<Response, ApiError> {
    act(app, caller, order.mark, vps, Action::Start).await
}

/// Switches a VPS off: gracefully, then by force.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/stop", tag = "VPSs", operation_id = "stop_vps",
    params(("vps" = VpsId, Path, description = "Its id.")), request_body = Option<StopVps>,
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn stop(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    request: Words<StopVps>,
) -> Result<Response, ApiError> {
    let done = app.fleet.stop_vps(&caller, request.mark, vps, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Switches a VPS off and on.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/restart", tag = "VPSs", operation_id = "restart_vps",
    params(("vps" = VpsId, Path, description = "Its id.")),
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn restart(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    order: Order,
) -> Result<Response, ApiError> {
    act(app, caller, order.mark, vps, Action::Restart).await
}

/// Deletes a VPS: it is stopped, and kept until `purge_at`.
#[utoipa::path(delete, path = "/api/vps-servers/{vps}", tag = "VPSs", operation_id = "delete_vps",
    params(("vps" = VpsId, Path, description = "Its id.")),
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn delete(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    order: Order,
) -> Result<Response, ApiError> {
    act(app, caller, order.mark, vps, Action::Delete).await
}

/// Brings a deleted VPS back.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/undelete", tag = "VPSs", operation_id = "undelete_vps",
    params(("vps" = VpsId, Path, description = "Its id.")),
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn undelete(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    order: Order,
) -> Result<Response, ApiError> {
    act(app, caller, order.mark, vps, Action::Undelete).await
}

/// Removes a deleted VPS for good, with its disk.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/purge", tag = "VPSs", operation_id = "purge_vps",
    params(("vps" = VpsId, Path, description = "Its id.")),
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn purge(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    order: Order,
) -> Result<Response, ApiError> {
    act(app, caller, order.mark, vps, Action::Purge).await
}

/// Stops or resumes reconciling a VPS, while somebody repairs it by hand.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/hold", tag = "VPSs", operation_id = "hold_vps",
    params(("vps" = VpsId, Path, description = "Its id.")), request_body = SetHold,
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn hold(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    request: Mutation<SetHold>,
) -> Result<Response, ApiError> {
    let SetHold { hold } = request.body;
    act(app, caller, request.mark, vps, if hold { Action::Hold } else { Action::Unhold }).await
}

async fn act(
    app: App,
    caller: Caller,
    mark: RequestMark,
    vps: VpsId,
    action: Action,
) -> Result<Response, ApiError> {
    let done = app.fleet.act(&caller, mark, vps, action).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}
