//! Hosts: shown with their newest readings, invited, cordoned, forgotten, revoked; and their ledgers after a restore.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chom_protocol::HostId;
use chom_protocol::api::hosts::{
    AddHost, ChangeLabels, ForgetHost, HostAdded, HostLimits, HostView, LedgerView, ResolveLedger, SetCordon,
};
use chom_protocol::api::{Page, PageQuery};

use crate::api::host_list::HostList;
use crate::api::list::Query;
use crate::api::problem::ApiError;
use crate::api::request::{Mutation, Order, RowId, RowKey};
use crate::api::{App, answer, watch};
use crate::clock;
use crate::fleet::rows::HostRow;
use crate::fleet::state::State as FleetState;
use crate::fleet::{Caller, Done, FleetError, view};

/// Lists the hosts, oldest first.
#[utoipa::path(get, path = "/api/hosts", tag = "hosts", operation_id = "list_hosts", params(PageQuery),
    responses((status = 200, description = "A page of hosts.", body = Page<HostView>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    query: Query<HostList>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    watch::answer(app, caller, query, &headers)
}

/// The host of a path, by its id or its name in the fleet.
pub(super) fn named<'a>(state: &'a FleetState, key: &RowKey<HostId>) -> Result<&'a HostRow, FleetError> {
    match key {
        RowKey::Id(id) => state.get::<HostRow>(id).ok_or_else(|| FleetError::not_found("host", id)),
        RowKey::Name(name) => state.host_named(name).ok_or_else(|| FleetError::not_found("host", name)),
    }
}

/// Shows a host.
#[utoipa::path(get, path = "/api/hosts/{host}", tag = "hosts", operation_id = "show_host",
    params(("host" = String, Path, description = "Its id, or its name in the fleet.")),
    responses((status = 200, description = "The host.", body = HostView)))]
pub(super) async fn show(
    State(app): State<App>,
    _: Caller,
    key: RowKey<HostId>,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    let row = named(&state, &key)?;
    let (observation, now) = (app.fleet.observations().of(row.id), clock::now());
    let shown = view::host(&state, app.fleet.catalogue(), row, observation.as_deref(), now);
    Ok(answer::row(&HostView { usage: app.history.usage(row.id, now), ..shown }))
}

/// Asks for an enrolment token: the line to paste on the new host. It is shown once.
#[utoipa::path(post, path = "/api/hosts", tag = "hosts", operation_id = "add_host", request_body = AddHost,
    responses((status = 201, description = "The token.", body = HostAdded)))]
pub(super) async fn add(
    State(app): State<App>,
    caller: Caller,
    request: Mutation<AddHost>,
) -> Result<Response, ApiError> {
    let done = app.fleet.add_host(&caller, request.mark, request.body).await?;
    Ok(answer::done(StatusCode::CREATED, &done))
}

/// Sets or clears a host's cordon.
#[utoipa::path(post, path = "/api/hosts/{host}/cordon", tag = "hosts", operation_id = "cordon_host",
    params(("host" = HostId, Path, description = "Its id.")), request_body = SetCordon,
    responses((status = 200, description = "The host.", body = HostView)))]
pub(super) async fn cordon(
    State(app): State<App>,
    caller: Caller,
    RowId(host): RowId<HostId>,
    request: Mutation<SetCordon>,
) -> Result<Response, ApiError> {
    let done = app.fleet.cordon(&caller, request.mark, host, request.body).await?;
    Ok(changed(&app, done))
}

/// Changes a host's labels.
#[utoipa::path(post, path = "/api/hosts/{host}/labels", tag = "hosts", operation_id = "label_host",
    params(("host" = HostId, Path, description = "Its id.")), request_body = ChangeLabels,
    responses((status = 200, description = "The host.", body = HostView)))]
pub(super) async fn label(
    State(app): State<App>,
    caller: Caller,
    RowId(host): RowId<HostId>,
    request: Mutation<ChangeLabels>,
) -> Result<Response, ApiError> {
    let done = app.fleet.label_host(&caller, request.mark, host, request.body).await?;
    Ok(changed(&app, done))
}

/// Sets how much of a host may be promised to VPSs; what is left out is as for the fleet.
#[utoipa::path(post, path = "/api/hosts/{host}/limits", tag = "hosts", operation_id = "limit_host",
    params(("host" = HostId, Path, description = "Its id.")), request_body = HostLimits,
    responses((status = 200, description = "The host.", body = HostView)))]
pub(super) async fn limit(
    State(app): State<App>,
    caller: Caller,
    RowId(host): RowId<HostId>,
    request: Mutation<HostLimits>,
) -> Result<Response, ApiError> {
    let done = app.fleet.limit_host(&caller, request.mark, host, request.body).await?;
    Ok(changed(&app, done))
}

/// Puts a host out of the fleet. If it returns it may only report; its VPSs are listed as orphans and left alone.
#[utoipa::path(post, path = "/api/hosts/{host}/forget", tag = "hosts", operation_id = "forget_host",
    params(("host" = HostId, Path, description = "Its id.")), request_body = ForgetHost,
    responses((status = 200, description = "The host.", body = HostView)))]
pub(super) async fn forget(
    State(app): State<App>,
    caller: Caller,
    RowId(host): RowId<HostId>,
    request: Mutation<ForgetHost>,
) -> Result<Response, ApiError> {
    let done = app.fleet.forget_host(&caller, request.mark, host, request.body).await?;
    Ok(changed(&app, done))
}

/// Makes a host's certificate open nothing any more; its connection ends at once.
#[utoipa::path(post, path = "/api/hosts/{host}/revoke", tag = "hosts", operation_id = "revoke_host",
    params(("host" = HostId, Path, description = "Its id.")),
    responses((status = 200, description = "The host.", body = HostView)))]
pub(super) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    RowId(host): RowId<HostId>,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.revoke_host(&caller, order.mark, host).await?;
    Ok(changed(&app, done))
}

/// Shows a held host's ledger beside the restored rows.
#[utoipa::path(get, path = "/api/hosts/{host}/ledger", tag = "hosts", operation_id = "show_ledger",
    params(("host" = HostId, Path, description = "Its id.")),
    responses((status = 200, description = "What differs.", body = LedgerView)))]
pub(super) async fn ledger(
    State(app): State<App>,
    _: Caller,
    RowId(host): RowId<HostId>,
) -> Result<Response, ApiError> {
    Ok(answer::row(&app.fleet.ledger_view(host)?))
}

/// Says which is right: a held host's ledger or the restored rows.
#[utoipa::path(post, path = "/api/hosts/{host}/ledger", tag = "hosts", operation_id = "resolve_ledger",
    params(("host" = HostId, Path, description = "Its id.")), request_body = ResolveLedger,
    responses((status = 200, description = "The host.", body = HostView)))]
pub(super) async fn resolve_ledger(
    State(app): State<App>,
    caller: Caller,
    RowId(host): RowId<HostId>,
    request: Mutation<ResolveLedger>,
) -> Result<Response, ApiError> {
    let done = app.fleet.resolve_ledger(&caller, request.mark, host, request.body).await?;
    Ok(changed(&app, done))
}

/// Lifts a host's cap on destroys for an hour.
#[utoipa::path(post, path = "/api/hosts/{host}/allow-destroys", tag = "hosts", operation_id = "allow_destroys",
    params(("host" = HostId, Path, description = "Its id.")),
    responses((status = 200, description = "The host.", body = HostView)))]
pub(super) async fn allow_destroys(
    State(app): State<App>,
    caller: Caller,
    RowId(host): RowId<HostId>,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.allow_destroys(&caller, order.mark, host).await?;
    Ok(changed(&app, done))
}

/// The answer to a change of a host, with its readings of now.
fn changed(app: &App, done: Done<HostView>) -> Response {
    let Done { value, replayed, plan } = done;
    let usage = app.history.usage(value.id, clock::now());
    answer::done(StatusCode::OK, &Done { value: HostView { usage, ..value }, replayed, plan })
}
