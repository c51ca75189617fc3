//! The admin API's JSON: requests and views, shared by the orchestrator and chomctl. Views are made for readers; they are
//! never what the store keeps. Times are RFC 3339 text in UTC; sizes are bytes.

pub mod adoption;
pub mod alerts;
pub mod audit;
pub mod authorities;
pub mod bulk;
pub mod catalogue;
pub mod console;
pub mod events;
pub mod guest;
pub mod hosts;
pub mod metrics;
pub mod networks;
pub mod operations;
pub mod plans;
pub mod smtp;
pub mod snapshots;
pub mod ssh_keys;
pub mod tenants;
pub mod tokens;
pub mod usage;
pub mod users;
pub mod vps_servers;
pub mod watch;
pub mod webhooks;

use serde::{Deserialize, Serialize};

/// Largest request body; user data (32 KiB) is the largest part of any request.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// Rows of a page when none is asked for.
pub const PAGE_ROWS_DEFAULT: u32 = 100;
/// Most rows of a page.
pub const PAGE_ROWS_MAX: u32 = 1000;

/// An error answer, `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// What kind of problem, as a path below the API's own documentation, such as `/problems/no-capacity`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// HTTP status code.
    pub status: u16,
    /// What was wrong here, and what to do.
    pub detail: String,
    /// Which part of the request, as a JSON pointer (RFC 6901) or the name of a header or parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// `?cursor=` of the next page; none on the last. A page may have fewer rows than asked for, even none, and a next one:
    /// that is where a filter lets few rows through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Query parameters of every list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// Most rows to return, 1 to 1000.
    #[serde(default)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Only these fields of each row, with commas between them and dots within: `id,name,observed.state`.
    #[serde(default)]
    pub fields: Option<String>,
}
