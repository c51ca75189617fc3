//! Networks, their pools, addresses and who holds or held them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Bound;
use std::str::FromStr;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::api::networks::{
    AddressQuery, AddressView, CreateNetwork, NetworkView, PutPool, RemovePool,
};
use chom_protocol::api::{Page, PageQuery};
use chom_protocol::{Name, UnixMillis, VpsId};
use ipnet::IpNet;

use crate::api::page::{Filtered, Paging};
use crate::api::problem::{ApiError, Kind, shown};
use crate::api::request::{Mutation, Order, RowName};
use crate::api::{App, answer};
use crate::clock::parse_rfc3339;
use crate::fleet::network::rows::{AddressRow, FormerAddressRow, Scope};
use crate::fleet::network::{self, view};
use crate::fleet::rows::VpsRow;
use crate::fleet::{Caller, FleetError, state};

/// Lists the networks.
#[utoipa::path(get, path = "/api/networks", tag = "networks", operation_id = "list_networks", params(PageQuery),
    responses((status = 200, description = "A page of networks, by name.", body = Page<NetworkView>)))]
pub(super) async fn list(State(app): State<App>, _: Caller, paging: Paging) -> Result<Response, ApiError> {
    let all = network::all(&app.fleet.state());
    paging.page(
        "networks",
        |from: Bound<Name>| {
            all.into_iter().filter(move |row| {
                std::ops::RangeBounds::contains(&(from.clone(), Bound::Unbounded), &row.name)
            })
        },
        |row| row.name.clone(),
        |row| row,
    )
}

/// Shows a network.
#[utoipa::path(get, path = "/api/networks/{network}", tag = "networks", operation_id = "show_network",
    params(("network" = Name, Path, description = "Its name.")),
    responses((status = 200, description = "The network.", body = NetworkView)))]
pub(super) async fn show(
    State(app): State<App>,
    _: Caller,
    RowName(name): RowName,
) -> Result<Response, ApiError> {
    let shown = view::named(&app.fleet.state(), &name);
    Ok(answer::row(&shown.ok_or_else(|| FleetError::not_found("network", name))?))
}

/// Makes a network; it gives addresses once it has a pool.
#[utoipa::path(post, path = "/api/networks", tag = "networks", operation_id = "create_network", request_body = CreateNetwork,
    responses((status = 201, description = "The network.", body = NetworkView)))]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    request: Mutation<CreateNetwork>,
) -> Result<Response, ApiError> {
    let done = app.fleet.create_network(&caller, request.mark, request.body).await?;
    Ok(answer::done(StatusCode::CREATED, &done))
}

/// Removes a network without pools and VPSs.
#[utoipa::path(delete, path = "/api/networks/{network}", tag = "networks", operation_id = "delete_network",
    params(("network" = Name, Path, description = "Its name.")),
    responses((status = 200, description = "The network as it was.", body = NetworkView)))]
pub(super) async fn delete(
    State(app): State<App>,
    caller: Caller,
    RowName(name): RowName,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.delete_network(&caller, order.mark, name).await?;
    Ok(answer::done(StatusCode::OK, &done))
}

/// Adds a pool to a network, or changes the one with its prefix.
#[utoipa::path(post, path = "/api/networks/{network}/pools", tag = "networks", operation_id = "put_pool",
    params(("network" = Name, Path, description = "The network's name.")), request_body = PutPool,
    responses((status = 200, description = "The network.", body = NetworkView)))]
pub(super) async fn put_pool(
    State(app): State<App>,
    caller: Caller,
    RowName(name): RowName,
    request: Mutation<PutPool>,
) -> Result<Response, ApiError> {
    let done = app.fleet.put_pool(&caller, request.mark, name, request.body).await?;
    Ok(answer::done(StatusCode::OK, &done))
}

/// Removes a pool of which nothing is held.
#[utoipa::path(post, path = "/api/networks/{network}/pools/remove", tag = "networks", operation_id = "remove_pool",
    params(("network" = Name, Path, description = "The network's name.")), request_body = RemovePool,
    responses((status = 200, description = "The network.", body = NetworkView)))]
pub(super) async fn remove_pool(
    State(app): State<App>,
    caller: Caller,
    RowName(name): RowName,
    request: Mutation<RemovePool>,
) -> Result<Response, ApiError> {
    let done = app.fleet.remove_pool(&caller, request.mark, name, request.body).await?;
    Ok(answer::done(StatusCode::OK, &done))
}

/// Lists addresses and prefixes that are held, or were at a time.
#[utoipa::path(get, path = "/api/addresses", tag = "networks", operation_id = "list_addresses", params(PageQuery, AddressQuery),
    responses((status = 200, description = "A page of them: first those that are held now.", body = Page<AddressView>)))]
pub(super) async fn addresses(
    State(app): State<App>,
    caller: Caller,
    Filtered(paging, given, _): Filtered<AddressFilter>,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    let wanted = Wanted::read(&given)?;
    paging.page(
        "addresses",
        |from: Bound<Place>| {
            rows(&state, from).filter(|row| wanted.fits(row) && row.is_seen_by(&state, &caller))
        },
        Held::place,
        |row| {
            let shown = match row {
                Held::Now(row) => view::address(&state, row),
                Held::Then(row) => view::former(&state, row),
            };
            if caller.sees_hosts() { shown } else { AddressView { host: None, ..shown } }
        },
    )
}

/// The parameters that the list of addresses knows.
pub(super) struct AddressFilter;

impl crate::api::page::Filters for AddressFilter {
    const NAMES: &'static [&'static str] = &["address", "vps", "network", "at"];
}

/// Which addresses are asked for.
struct Wanted {
    address: Option<IpAddr>,
    vps: Option<VpsId>,
    network: Option<Name>,
    at: Option<UnixMillis>,
}

impl Wanted {
    fn read(given: &BTreeMap<String, String>) -> Result<Self, ApiError> {
        let one = |name: &'static str| given.get(name).map(String::as_str);
        let bad = |name: &'static str, text: &str, what: &str| {
            ApiError::new(Kind::Malformed, format!("`{}` is {what}", shown(text))).at(name)
        };
        let address = one("address").map(|text| {
            text.parse()
                .map_err(|_| bad("address", text, "no address; give one such as 192.0.2.7 or 2001:db8::7"))
        });
        let vps = one("vps").map(|text| {
            text.parse().map_err(|_| bad("vps", text, "no VPS id; read the VPS to learn its id"))
        });
        let network =
            one("network").map(|text| text.parse().map_err(|_| bad("network", text, "no name of a network")));
        let at = one("at").map(|text| {
            parse_rfc3339(text).ok_or_else(|| {
                bad("at", text, "no time; write it as in RFC 3339, such as 2026-11-23T04:00:00Z")
            })
        });
        Ok(Self {
            address: address.transpose()?,
            vps: vps.transpose()?,
            network: network.transpose()?,
            at: at.transpose()?,
        })
    }

    fn fits(&self, held: &Held<'_>) -> bool {
        let (row, until) = match held {
            Held::Now(row) => (*row, None),
            Held::Then(row) => (&row.row, Some(row.until)),
        };
        let at = match self.at {
            None => until.is_none(),
            Some(at) => row.since <= at && until.is_none_or(|until| at < until),
        };
        at && self.address.is_none_or(|address| row.held.contains(&address))
            && self.vps.is_none_or(|vps| row.vps == vps)
            && self.network.as_ref().is_none_or(|network| row.network == *network)
    }
}

/// A row of the list.
enum Held<'a> {
    Now(&'a AddressRow),
    Then(&'a FormerAddressRow),
}

/// Where a row stands in the list: what is held now first.
struct Place {
    until: Option<UnixMillis>,
    scope: Scope,
    held: IpNet,
}

impl Held<'_> {
    /// A tenant is told what the VPSs that it has hold or held, and of no other.
    fn is_seen_by(&self, state: &state::State, caller: &Caller) -> bool {
        let row: &AddressRow = match self {
            Self::Now(row) => row,
            Self::Then(former) => &former.row,
        };
        let of_own = || state.get::<VpsRow>(&row.vps).is_some_and(|vps| caller.sees_vps(vps));
        caller.tenant.is_none() || of_own()
    }

    fn place(&self) -> Place {
        let (row, until) = match self {
            Self::Now(row) => (*row, None),
            Self::Then(row) => (&row.row, Some(row.until)),
        };
        Place { until, scope: row.scope.clone(), held: row.held }
    }
}

fn rows(state: &state::State, from: Bound<Place>) -> impl Iterator<Item = Held<'_>> {
    let from = match from {
        Bound::Excluded(place) | Bound::Included(place) => Some(place),
        Bound::Unbounded => None,
    };
    let (now_from, then_from) = match from {
        None => (Some(Bound::Unbounded), Bound::Unbounded),
        Some(Place { until: None, scope, held }) => (Some(Bound::Excluded((scope, held))), Bound::Unbounded),
        Some(Place { until: Some(until), scope, held }) => (None, Bound::Excluded((until, scope, held))),
    };
    let now = now_from.into_iter().flat_map(|from| state.addresses.range((from, Bound::Unbounded)));
    let then = state.former_addresses.range((then_from, Bound::Unbounded));
    now.map(|(_, stored)| Held::Now(stored.row.as_ref()))
        .chain(then.map(|(_, stored)| Held::Then(stored.row.as_ref())))
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { until, scope, held } = self;
        let until = until.map_or(0, |until| until.0);
        match scope {
            Scope::Host(host) => write!(out, "{until} host {host} {held}"),
            Scope::Network(name) => write!(out, "{until} network {name} {held}"),
        }
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let (Some(until), Some(kind), Some(of), Some(held), None) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            return Err(());
        };
        let until: u64 = until.parse().map_err(|_| ())?;
        Ok(Self {
            until: Some(UnixMillis(until)).filter(|until| until.0 > 0),
            scope: match kind {
                "host" => Scope::Host(of.parse().map_err(|_| ())?),
                "network" => Scope::Network(of.parse().map_err(|_| ())?),
                _ => return Err(()),
            },
            held: held.parse().map_err(|_| ())?,
        })
    }
}
