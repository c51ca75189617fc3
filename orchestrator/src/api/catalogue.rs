//! Regions and sizes.

use std::collections::BTreeMap;
use std::ops::Bound;

use axum::extract::State;
use axum::response::Response;
use chom_protocol::Name;
use chom_protocol::api::catalogue::{RegionView, SizeView};
use chom_protocol::api::hosts::HostState;
use chom_protocol::api::{Page, PageQuery};

use crate::api::App;
use crate::api::page::{Paging, is_behind};
use crate::api::problem::ApiError;
use crate::clock;
use crate::fleet::Caller;
use crate::fleet::room::at;
use crate::health;

/// Lists the regions, with how many hosts each has.
#[utoipa::path(get, path = "/api/regions", tag = "catalogue", operation_id = "list_regions", params(PageQuery),
    responses((status = 200, description = "A page of regions, by name.", body = Page<RegionView>)))]
pub(super) async fn regions(State(app): State<App>, _: Caller, paging: Paging) -> Result<Response, ApiError> {
    let regions = &app.fleet.catalogue().regions;
    let counts = count_hosts(&app);
    paging.page(
        "regions",
        |from: Bound<Name>| regions.iter().filter(move |name| is_behind(*name, &from)),
        |name| (*name).clone(),
        |name| {
            let Count { hosts, hosts_schedulable } = counts.get(name.as_str()).copied().unwrap_or_default();
            RegionView { name: name.clone(), hosts, hosts_schedulable }
        },
    )
}

/// Hosts of a region.
#[derive(Clone, Copy, Default)]
struct Count {
    hosts: u32,
    hosts_schedulable: u32,
}

fn count_hosts(app: &App) -> BTreeMap<String, Count> {
    let (state, observations) = (app.fleet.state(), app.fleet.observations().snapshot());
    let (limit, now) = (app.fleet.catalogue().unreachable_after_seconds, clock::now());
    let epoch = state.meta.as_ref().map_or(0, |meta| meta.epoch);
    let mut counts = BTreeMap::<String, Count>::new();
    let mut seen = observations.iter().peekable();
    for row in state.hosts.values().map(|stored| stored.row.as_ref()) {
        let observation = at(&mut seen, &row.id).map(AsRef::as_ref);
        let is_schedulable = match health::host_state(row, epoch, observation, limit, now) {
            HostState::Forgotten | HostState::Revoked => continue,
            state => state == HostState::Connected && !row.cordoned,
        };
        if !counts.contains_key(row.region.as_str()) {
            counts.insert(row.region.to_string(), Count::default());
        }
        if let Some(count) = counts.get_mut(row.region.as_str()) {
            count.hosts += 1;
            count.hosts_schedulable += u32::from(is_schedulable);
        }
    }
    counts
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
