//! Snapshots of VPSs, copies, rescue mode and the CD-ROM drive. Every change answers with the operation to wait for.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::api::snapshots::{
    AttachIso, CloneVps, Rescue, SnapshotAccepted, SnapshotState, SnapshotView, TakeSnapshot,
};
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_protocol::api::{Page, PageQuery};
use chom_protocol::{SnapshotId, VpsId};

use crate::api::list::{Given, Key, List, Parameter, Place, Query, is_among};
use crate::api::problem::ApiError;
use crate::api::request::{Mutation, Order, RowId, RowIds, RowKey};
use crate::api::{App, answer, vps_servers};
use crate::fleet::Caller;

/// Which snapshots of a VPS are asked for.
pub(super) struct SnapshotList {
    states: Vec<SnapshotState>,
    needle: Option<String>,
}

impl List for SnapshotList {
    const NAME: &'static str = "snapshots";
    const FILTERS: &'static [Parameter] = &[
        Parameter { name: "state", about: "Only in one of these states: `ready`, or `missing,unknown`." },
        Parameter { name: "q", about: "Only with this text in their name." },
    ];
    const SORTS: &'static [&'static str] = &["id", "name"];

    fn read(given: &Given) -> Result<Self, ApiError> {
        Ok(Self { states: given.words("state")?, needle: given.needle("q") })
    }
}

/// Lists the snapshots of a VPS, oldest first, and those that only its host knows.
#[utoipa::path(get, path = "/api/vps-servers/{vps}/snapshots", tag = "Snapshots", operation_id = "list_snapshots",
    params(("vps" = String, Path, description = "The VPS's id, or its name."), PageQuery),
    responses((status = 200, description = "A page of snapshots.", body = Page<SnapshotView>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    key: RowKey<VpsId>,
    query: Query<SnapshotList>,
) -> Result<Response, ApiError> {
    let vps = vps_servers::named(&app.fleet.state(), &caller, &key)?.spec.id;
    let SnapshotList { states, needle } = &query.list;
    let is_called = |view: &SnapshotView, needle: &String| {
        view.name.as_ref().is_some_and(|name| name.as_str().contains(needle))
    };
    let mut views = app.fleet.snapshots(vps)?;
    views.retain(|view| {
        is_among(states, || view.state) && needle.as_ref().is_none_or(|needle| is_called(view, needle))
    });
    let by_name = query.sort.by == "name";
    let place = |view: &SnapshotView| Place {
        key: match &view.name {
            Some(name) if by_name => Key::Text(name.to_string().into()),
            _ => Key::Nothing,
        },
        id: view.id,
    };
    Ok(query.answer(query.part()?.select(views.into_iter(), place)))
}

/// Takes a snapshot of a VPS's disk, as after a power cut; the VPS keeps running.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/snapshots", tag = "Snapshots", operation_id = "take_snapshot",
    params(("vps" = VpsId, Path, description = "The VPS's id.")), request_body = TakeSnapshot,
    responses((status = 202, description = "It will be taken.", body = SnapshotAccepted)))]
pub(super) async fn take(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    request: Mutation<TakeSnapshot>,
) -> Result<Response, ApiError> {
    let done = app.fleet.take_snapshot(&caller, request.mark, vps, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Removes a snapshot.
#[utoipa::path(delete, path = "/api/vps-servers/{vps}/snapshots/{snapshot}", tag = "Snapshots",
    operation_id = "delete_snapshot",
    params(("vps" = VpsId, Path, description = "The VPS's id."), ("snapshot" = SnapshotId, Path, description = "Its id.")),
    responses((status = 202, description = "It will be removed.", body = VpsAccepted)))]
pub(super) async fn delete(
    State(app): State<App>,
    caller: Caller,
    RowIds(vps, snapshot): RowIds<VpsId, SnapshotId>,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.delete_snapshot(&caller, order.mark, vps, snapshot).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Makes a VPS's disk what it was in a snapshot. The VPS is shut down for it, and started again if it should run.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/snapshots/{snapshot}/restore", tag = "Snapshots",
    operation_id = "restore_snapshot",
    params(("vps" = VpsId, Path, description = "The VPS's id."), ("snapshot" = SnapshotId, Path, description = "Its id.")),
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn restore(
    State(app): State<App>,
    caller: Caller,
    RowIds(vps, snapshot): RowIds<VpsId, SnapshotId>,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.restore_snapshot(&caller, order.mark, vps, snapshot).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Makes a new VPS, on the same host, from a VPS's disk as it is or as it was in a snapshot.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/clone", tag = "Snapshots", operation_id = "clone_vps",
    params(("vps" = VpsId, Path, description = "The id of the VPS to copy.")), request_body = CloneVps,
    responses((status = 202, description = "It will be made.", body = VpsAccepted)))]
pub(super) async fn clone(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    request: Mutation<CloneVps>,
) -> Result<Response, ApiError> {
    let done = app.fleet.clone_vps(&caller, request.mark, vps, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Boots a VPS from a rescue image, its own disk attached as the second one; what is written to the first one is lost.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/rescue", tag = "VPSs", operation_id = "rescue_vps",
    params(("vps" = VpsId, Path, description = "Its id.")), request_body = Rescue,
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn rescue(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    request: Mutation<Rescue>,
) -> Result<Response, ApiError> {
    let done = app.fleet.rescue(&caller, request.mark, vps, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Boots a VPS from its own disk again.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/unrescue", tag = "VPSs", operation_id = "unrescue_vps",
    params(("vps" = VpsId, Path, description = "Its id.")),
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn unrescue(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.unrescue(&caller, order.mark, vps).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Puts a medium into a VM's CD-ROM drive; one that runs sees it at once.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/iso", tag = "VPSs", operation_id = "attach_iso",
    params(("vps" = VpsId, Path, description = "Its id.")), request_body = AttachIso,
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn attach_iso(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    request: Mutation<AttachIso>,
) -> Result<Response, ApiError> {
    let done = app.fleet.attach_iso(&caller, request.mark, vps, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Takes the medium out of a VM's CD-ROM drive.
#[utoipa::path(delete, path = "/api/vps-servers/{vps}/iso", tag = "VPSs", operation_id = "detach_iso",
    params(("vps" = VpsId, Path, description = "Its id.")),
    responses((status = 202, description = "It will be done.", body = VpsAccepted)))]
pub(super) async fn detach_iso(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.detach_iso(&caller, order.mark, vps).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}
