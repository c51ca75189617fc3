//! A tenant's SSH keys: listed, added, removed.

use std::ops::Bound;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::Name;
use chom_protocol::api::ssh_keys::{AddSshKey, SshKeyView};
use chom_protocol::api::{Page, PageQuery};

use crate::api::page::{Paging, is_behind};
use crate::api::problem::ApiError;
use crate::api::request::{Mutation, Order, RowName};
use crate::api::{App, answer};
use crate::fleet::Caller;

/// Lists the tenant's SSH keys.
#[utoipa::path(get, path = "/api/ssh-keys", tag = "SSH keys", operation_id = "list_ssh_keys", params(PageQuery),
    responses((status = 200, description = "A page of keys, by name.", body = Page<SshKeyView>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    paging: Paging,
) -> Result<Response, ApiError> {
    let all = app.fleet.ssh_key_views(&caller);
    paging.page(
        "ssh-keys",
        |from: Bound<Name>| all.iter().filter(move |view| is_behind(&view.name, &from)),
        |view| view.name.clone(),
        |view| view.clone(),
    )
}

/// Adds an SSH key. VPSs that are made from now on let it in.
#[utoipa::path(post, path = "/api/ssh-keys", tag = "SSH keys", operation_id = "add_ssh_key", request_body = AddSshKey,
    responses((status = 201, description = "The key.", body = SshKeyView)))]
pub(super) async fn add(
    State(app): State<App>,
    caller: Caller,
    request: Mutation<AddSshKey>,
) -> Result<Response, ApiError> {
    let done = app.fleet.add_ssh_key(&caller, request.mark, request.body).await?;
    Ok(answer::done(StatusCode::CREATED, &done))
}

/// Removes an SSH key. VPSs that have it keep it.
#[utoipa::path(delete, path = "/api/ssh-keys/{key}", tag = "SSH keys", operation_id = "remove_ssh_key",
    params(("key" = String, Path, description = "Its name.")),
    responses((status = 200, description = "The key that was removed.", body = SshKeyView)))]
pub(super) async fn remove(
    State(app): State<App>,
    caller: Caller,
    RowName(name): RowName,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.remove_ssh_key(&caller, order.mark, name).await?;
    Ok(answer::done(StatusCode::OK, &done))
}
