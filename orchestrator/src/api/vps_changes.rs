//! VPSs changed in what they are: paused, resized, rebuilt, renamed, suspended. Each change answers with the operation to
//! wait for.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::VpsId;
use chom_protocol::api::tenants::SetExternalId;
use chom_protocol::api::vps_servers::{
    RebuildVps, RenameVps, ResizeVps, SuspendVps, UnsuspendVps, VpsAccepted, VpsView,
};

use crate::api::problem::ApiError;
use crate::api::request::{Mutation, Order, RowId};
use crate::api::{App, answer};
use crate::fleet::Caller;
use crate::fleet::vps::Action;

/// Halts a VPS's processors; it keeps its memory.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/pause", tag = "VPSs", operation_id = "pause_vps",
    params(("vps" = VpsId, Path, description = "Its id.")),
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn pause(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.act(&caller, order.mark, vps, Action::Pause).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Lets a paused VPS go on.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/resume", tag = "VPSs", operation_id = "resume_vps",
    params(("vps" = VpsId, Path, description = "Its id.")),
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn resume(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.act(&caller, order.mark, vps, Action::Resume).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Gives a VPS another size; its disk only grows.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/resize", tag = "VPSs", operation_id = "resize_vps",
    params(("vps" = VpsId, Path, description = "Its id.")), request_body = ResizeVps,
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn resize(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    request: Mutation<ResizeVps>,
) -> Result<Response, ApiError> {
    let done = app.fleet.resize_vps(&caller, request.mark, vps, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Makes a VPS anew from an image, under the same id, name and addresses.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/rebuild", tag = "VPSs", operation_id = "rebuild_vps",
    params(("vps" = VpsId, Path, description = "Its id.")), request_body = RebuildVps,
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn rebuild(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    request: Mutation<RebuildVps>,
) -> Result<Response, ApiError> {
    let done = app.fleet.rebuild_vps(&caller, request.mark, vps, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Gives a VPS another name; the guest takes it at its next start.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/rename", tag = "VPSs", operation_id = "rename_vps",
    params(("vps" = VpsId, Path, description = "Its id.")), request_body = RenameVps,
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn rename(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    request: Mutation<RenameVps>,
) -> Result<Response, ApiError> {
    let done = app.fleet.rename_vps(&caller, request.mark, vps, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Suspends a VPS for a reason: off, or cut off from its network.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/suspend", tag = "VPSs", operation_id = "suspend_vps",
    params(("vps" = VpsId, Path, description = "Its id.")), request_body = SuspendVps,
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn suspend(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    request: Mutation<SuspendVps>,
) -> Result<Response, ApiError> {
    let done = app.fleet.suspend_vps(&caller, request.mark, vps, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Ends one reason for which a VPS is suspended.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/unsuspend", tag = "VPSs", operation_id = "unsuspend_vps",
    params(("vps" = VpsId, Path, description = "Its id.")), request_body = UnsuspendVps,
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn unsuspend(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    request: Mutation<UnsuspendVps>,
) -> Result<Response, ApiError> {
    let done = app.fleet.unsuspend_vps(&caller, request.mark, vps, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Says what another system, such as a billing system, calls a VPS; unique within its tenant.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/external-id", tag = "VPSs", operation_id = "set_vps_external_id",
    params(("vps" = VpsId, Path, description = "Its id.")), request_body = SetExternalId,
    responses((status = 200, description = "The VPS.", body = VpsView)))]
pub(super) async fn set_external_id(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    request: Mutation<SetExternalId>,
) -> Result<Response, ApiError> {
    let done = app.fleet.set_vps_external_id(&caller, request.mark, vps, request.body).await?;
    Ok(answer::done(StatusCode::OK, &done))
}
