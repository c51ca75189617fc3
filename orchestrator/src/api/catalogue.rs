//! Regions, sizes and images.

use std::ops::Bound;

use axum::extract::State;
use axum::response::Response;
use chom_protocol::Name;
use chom_protocol::api::catalogue::{ImageView, RegionView, SizeView};
use chom_protocol::api::hosts::HostState;
use chom_protocol::api::{Page, PageQuery};

use crate::api::App;
use crate::api::page::Paging;
use crate::api::problem::ApiError;
use crate::clock;
use crate::fleet::Caller;
use crate::health;

/// Lists the regions, with how many hosts each has.
#[utoipa::path(get, path = "/api/regions", tag = "catalogue", operation_id = "list_regions", params(PageQuery),
    responses((status = 200, description = "A page of regions, by name.", body = Page<RegionView>)))]
pub(super) async fn regions(State(app): State<App>, _: Caller, paging: Paging) -> Result<Response, ApiError> {
    let regions = &app.fleet.catalogue().regions;
    paging.page(
        "regions",
        |from: Bound<Name>| regions.iter().filter(move |name| is_behind(name, &from)),
        |name| (*name).clone(),
        |name| region(&app, name),
    )
}

fn is_behind(name: &Name, from: &Bound<Name>) -> bool {
    match from {
        Bound::Excluded(last) => name > last,
        Bound::Included(first) => name >= first,
        Bound::Unbounded => true,
    }
}

fn region(app: &App, name: &Name) -> RegionView {
    let (state, observations) = (app.fleet.state(), app.fleet.observations().snapshot());
    let (limit, now) = (app.fleet.catalogue().unreachable_after_seconds, clock::now());
    let epoch = state.meta.as_ref().map_or(0, |meta| meta.epoch);
    let mut view = RegionView { name: name.clone(), hosts: 0, hosts_schedulable: 0 };
    for row in state.hosts.values().map(|stored| stored.row.as_ref()).filter(|row| row.region == *name) {
        let observation = observations.get(&row.id).map(AsRef::as_ref);
        match health::host_state(row, epoch, observation, limit, now) {
            HostState::Forgotten | HostState::Revoked => continue,
            HostState::Connected if !row.cordoned => view.hosts_schedulable += 1,
            _ => {}
        }
        view.hosts += 1;
    }
    view
}

/// Lists the sizes that a VPS can have.
#[utoipa::path(get, path = "/api/sizes", tag = "catalogue", operation_id = "list_sizes", params(PageQuery),
    responses((status = 200, description = "A page of sizes, by name.", body = Page<SizeView>)))]
pub(super) async fn sizes(State(app): State<App>, _: Caller, paging: Paging) -> Result<Response, ApiError> {
    let sizes = &app.fleet.catalogue().sizes;
    paging.page(
        "sizes",
        |from: Bound<Name>| sizes.range((from, Bound::Unbounded)),
        |(name, _)| (*name).clone(),
        |(name, size)| SizeView {
            name: name.clone(),
            cores: size.cores,
            memory_bytes: size.memory,
            disk_bytes: size.disk,
        },
    )
}

/// Lists the images that a VPS can be made from.
#[utoipa::path(get, path = "/api/images", tag = "catalogue", operation_id = "list_images", params(PageQuery),
    responses((status = 200, description = "A page of images, by name.", body = Page<ImageView>)))]
pub(super) async fn images(State(app): State<App>, _: Caller, paging: Paging) -> Result<Response, ApiError> {
    let catalogue = app.fleet.catalogue();
    paging.page(
        "images",
        |from: Bound<Name>| catalogue.images.range((from, Bound::Unbounded)),
        |(name, _)| (*name).clone(),
        |(name, image)| ImageView {
            name: name.clone(),
            engine: image.engine,
            format: image.reference.format,
            sha256: image.reference.sha256,
            size_bytes: image.reference.size,
            minimum_disk_bytes: image.minimum_disk,
            default: catalogue.default_image.as_ref() == Some(name),
        },
    )
}
