//! The card of a VPS: its addresses, firewall, rates, traffic and quota.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::VpsId;
use chom_protocol::api::networks::{ChangeAddresses, ChangeNetwork, VpsNetworkView};
use chom_protocol::api::vps_servers::VpsAccepted;

use crate::api::problem::ApiError;
use crate::api::request::{Mutation, RowId};
use crate::api::{App, answer};
use crate::clock;
use crate::fleet::network::view;
use crate::fleet::rows::VpsRow;
use crate::fleet::{Caller, FleetError};

/// Shows the card of a VPS.
#[utoipa::path(get, path = "/api/vps-servers/{vps}/network", tag = "VPSs", operation_id = "show_vps_network",
    params(("vps" = VpsId, Path, description = "Its id.")),
    responses((status = 200, description = "Its card.", body = VpsNetworkView)))]
pub(super) async fn show(
    State(app): State<App>,
    _: Caller,
    RowId(vps): RowId<VpsId>,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    let row = state.get::<VpsRow>(&vps).ok_or_else(|| FleetError::not_found("VPS", vps))?;
    let observation = app.fleet.observations().of(row.host);
    let status = observation.as_ref().and_then(|seen| seen.status.as_ref()?.vps.get(&vps));
    Ok(answer::row(&view::card(&state, row, status, clock::now())))
}

/// Changes what a VPS may send and receive: its guard, firewall, rates and traffic quota.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/network", tag = "VPSs", operation_id = "change_vps_network",
    params(("vps" = VpsId, Path, description = "Its id.")), request_body = ChangeNetwork,
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn change(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    request: Mutation<ChangeNetwork>,
) -> Result<Response, ApiError> {
    let done = app.fleet.change_network(&caller, request.mark, vps, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Adds, removes or moves an address or routed prefix of a VPS.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/addresses", tag = "VPSs", operation_id = "change_vps_addresses",
    params(("vps" = VpsId, Path, description = "Its id.")), request_body = ChangeAddresses,
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn change_addresses(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    request: Mutation<ChangeAddresses>,
) -> Result<Response, ApiError> {
    let done = app.fleet.change_addresses(&caller, request.mark, vps, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}
