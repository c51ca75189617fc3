//! Usage records, for billing systems that pull them.

use std::marker::PhantomData;

use axum::extract::State;
use axum::response::Response;
use chom_protocol::UnixMillis;
use chom_protocol::api::usage::{UsageQuery, UsageRecord};
use chom_protocol::api::{Page, PageQuery};

use crate::api::App;
use crate::api::page::{Filtered, Filters, read_cursor, write_cursor};
use crate::api::problem::{ApiError, Kind, shown};
use crate::clock::parse_rfc3339;
use crate::fleet::Caller;
use crate::usage::archive::Wanted;
use crate::usage::{Place, Question};

const LIST: &str = "usage";

/// What the list of usage records knows besides what every list does.
pub(super) struct UsageFilters;

impl Filters for UsageFilters {
    const NAMES: &'static [&'static str] = &["from", "until", "tenant", "vps"];
}

/// Lists usage records of closed hours, by hour, tenant and VPS. A page may have fewer records than asked for, or none, and
/// still a next one. Records never change: whoever reads to the last page, and next time begins with `from` an hour after the last
/// record, misses none and meets none twice.
#[utoipa::path(get, path = "/api/usage", tag = "usage", operation_id = "list_usage", params(UsageQuery, PageQuery),
    responses((status = 200, description = "A page of records.", body = Page<UsageRecord>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Filtered(paging, given, PhantomData): Filtered<UsageFilters>,
) -> Result<Response, ApiError> {
    let after: Option<Place> =
        paging.cursor.as_deref().map(|cursor| read_cursor(LIST, cursor)).transpose()?;
    let moment = |name: &'static str| -> Result<Option<UnixMillis>, ApiError> {
        let Some(text) = given.get(name) else { return Ok(None) };
        parse_rfc3339(text).map(Some).ok_or_else(|| bad(name, text, "a time such as 2026-11-23T12:00:00Z"))
    };
    let (from, until) = (moment("from")?, moment("until")?);
    let tenant =
        given.get("tenant").map(|text| text.parse().map_err(|_| bad("tenant", text, "a tenant's name")));
    let vps = given.get("vps").map(|text| text.parse().map_err(|_| bad("vps", text, "a VPS's id")));
    let (tenant, vps) = (tenant.transpose()?, vps.transpose()?);
    // Another tenant's records are as little there as those of one that never was.
    let foreign = tenant.as_ref().is_some_and(|tenant| !caller.sees_tenant(tenant));
    let wanted = Wanted { tenant: caller.tenant.or(tenant), vps };
    let question = Question {
        from,
        until: if foreign { Some(UnixMillis(0)) } else { until },
        wanted,
        after,
        limit: paging.limit,
    };
    let (items, next) = app.accountant.page(question).await.map_err(|error| {
        tracing::error!(error = crate::chain(&error), "cannot read usage records");
        ApiError::new(Kind::Internal, crate::chain(&error))
    })?;
    let next_cursor = next.map(|place| write_cursor(LIST, &place));
    Ok(paging.answer(items, next_cursor))
}

fn bad(name: &'static str, text: &str, wanted: &str) -> ApiError {
    ApiError::new(Kind::Malformed, format!("`{}` is not {wanted}", shown(text))).at(name)
}
