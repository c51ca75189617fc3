//! The audit trail: its entries, the newest first, and the log's lines with their hashes for whoever checks them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use chom_protocol::api::audit::{AuditChain, AuditEntry, AuditResult};
use chom_protocol::api::{Page, PageQuery};
use chom_protocol::{Name, UnixMillis};
use chom_supervise::aside;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::page::{Filtered, Filters, Paging, read_cursor, write_cursor};
use crate::api::problem::{ApiError, Kind, shown};
use crate::api::{App, answer};
use crate::audit::read::{Place, Span};
use crate::clock::parse_rfc3339;
use crate::fleet::rows::AuditRow;
use crate::fleet::{Caller, audit};

/// Pages that are read at once; each holds a segment of 4 MiB.
const READERS_MAX: usize = 4;

/// Reads of the log that are under way.
pub(super) type Readers = tokio::sync::Semaphore;

/// So many of them.
pub(super) fn readers() -> Readers {
    Readers::new(READERS_MAX)
}

/// Parameters of the list besides those of every list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters; they are read by `Wanted`")]
struct AuditQuery {
    /// Only what was done by this actor.
    actor: Option<String>,
    /// Only this action, such as `vps.stop`, or all on a kind of row, such as `vps`.
    action: Option<String>,
    /// Only what was done to this row, or changed it: its id or name.
    target: Option<String>,
    /// Only what is about this tenant's rows.
    #[param(value_type = Option<String>)]
    tenant: Option<Name>,
    /// `done` or `denied`.
    result: Option<String>,
    /// Only from this time on, RFC 3339.
    from: Option<String>,
    /// Only before this time, RFC 3339.
    until: Option<String>,
}

/// Parameters of the chain.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters; they are read by `Paging`")]
struct ChainQuery {
    /// Most lines to return, 1 to 1000.
    limit: Option<u32>,
    /// `next_cursor` of the piece before.
    cursor: Option<String>,
}

/// The names of these.
pub(super) struct AuditFilter;

impl Filters for AuditFilter {
    const NAMES: &'static [&'static str] =
        &["actor", "action", "target", "tenant", "result", "from", "until"];
}

/// Which entries are asked for; judged by what the caller is shown of them.
struct Wanted {
    actor: Option<String>,
    action: Option<String>,
    target: Option<String>,
    tenant: Option<Name>,
    result: Option<AuditResult>,
    span: Span,
}

impl Wanted {
    fn read(mut given: BTreeMap<String, String>) -> Result<Self, ApiError> {
        let bad = |name: &'static str, text: &str, what: &str| {
            ApiError::new(Kind::Malformed, format!("`{}` is {what}", shown(text))).at(name)
        };
        let time =
            |given: &BTreeMap<String, String>, name: &'static str| -> Result<Option<UnixMillis>, ApiError> {
                let read = |text: &String| {
                    parse_rfc3339(text).ok_or_else(|| {
                        bad(name, text, "no time; write it as in RFC 3339, such as 2026-11-23T04:00:00Z")
                    })
                };
                given.get(name).map(read).transpose()
            };
        let tenant = given
            .get("tenant")
            .map(|text| text.parse().map_err(|_| bad("tenant", text, "no name of a tenant")));
        let result = given.get("result").map(|text| match text.as_str() {
            "done" => Ok(AuditResult::Done),
            "denied" => Ok(AuditResult::Denied),
            other => Err(bad("result", other, "no result; it is `done` or `denied`")),
        });
        Ok(Self {
            tenant: tenant.transpose()?,
            result: result.transpose()?,
            span: Span { from: time(&given, "from")?, until: time(&given, "until")? },
            actor: given.remove("actor"),
            action: given.remove("action"),
            target: given.remove("target"),
        })
    }

    fn fits(&self, entry: &AuditEntry) -> bool {
        let is_or_begins = |text: &str, wanted: &str, end: char| {
            text.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(end))
        };
        let changes =
            |wanted: &str| entry.changes.iter().any(|change| change.row.rsplit('/').next() == Some(wanted));
        self.actor.as_deref().is_none_or(|wanted| entry.actor == wanted)
            && self.action.as_deref().is_none_or(|wanted| is_or_begins(&entry.action, wanted, '.'))
            && self
                .target
                .as_deref()
                .is_none_or(|wanted| is_or_begins(&entry.target, wanted, ' ') || changes(wanted))
            && self.tenant.as_ref().is_none_or(|wanted| entry.tenants.contains(wanted))
            && self.result.is_none_or(|wanted| entry.result == wanted)
    }
}

/// Lists the entries of the audit trail, the newest first. A page may have fewer entries than asked for, or none, and still
/// be followed by others.
#[utoipa::path(get, path = "/api/audit", tag = "audit", operation_id = "list_audit", params(PageQuery, AuditQuery),
    responses((status = 200, description = "A page of entries.", body = Page<AuditEntry>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Filtered(paging, given, _): Filtered<AuditFilter>,
) -> Result<Response, ApiError> {
    let wanted = Wanted::read(given)?;
    let before: u64 = match &paging.cursor {
        None => u64::MAX,
        Some(cursor) => read_cursor("audit", cursor)?,
    };
    let (state, span) = (app.fleet.state(), wanted.span);
    let take = move |row: &AuditRow| {
        audit::view(&caller, row).filter(|entry| span.contains(row.at) && wanted.fits(entry))
    };
    // What stands in the store only is newer than the log.
    let mut items = Vec::new();
    let mut more = None;
    for (number, stored) in state.audit.range(..before).rev() {
        if items.len() == paging.limit {
            more = Some(number + 1);
            break;
        }
        items.extend(take(&stored.row));
    }
    if more.is_none() {
        let head = state.audit_head();
        let before = before.min(head.last.sequence.saturating_add(1));
        let limit = paging.limit - items.len();
        let _turn = app.audit_readers.acquire().await;
        let log = Arc::clone(&app.audit);
        let found =
            aside(move || log.newest_first(&head, before, span, limit, take)).await.map_err(unreadable)?;
        items.extend(found.items);
        more = found.looked_until;
    }
    let next_cursor = more.map(|before| write_cursor("audit", &before));
    Ok(paging.answer(items, next_cursor))
}

/// The lines of the audit log as they stand on disk, the oldest first, with the hashes that chain them: `chomctl audit verify`
/// checks them.
#[utoipa::path(get, path = "/api/audit/chain", tag = "audit", operation_id = "read_audit_chain", params(ChainQuery),
    responses((status = 200, description = "A piece of the log.", body = AuditChain)))]
pub(super) async fn chain(State(app): State<App>, _: Caller, paging: Paging) -> Result<Response, ApiError> {
    let from: Option<Place> =
        paging.cursor.as_deref().map(|cursor| read_cursor("chain", cursor)).transpose()?;
    let head = app.fleet.state().audit_head();
    let (log, known, limit) = (Arc::clone(&app.audit), head.clone(), paging.limit);
    let _turn = app.audit_readers.acquire().await;
    let (lines, next) = aside(move || log.lines(&known, from, limit)).await.map_err(unreadable)?;
    let next_cursor = next.map(|place| write_cursor("chain", &place));
    Ok(answer::row(&AuditChain { before: head.dropped, last: head.last, lines, next_cursor }))
}

fn unreadable(error: std::io::Error) -> ApiError {
    tracing::error!(%error, "the audit log cannot be read");
    ApiError::new(Kind::Unavailable, "the audit log cannot be read; the orchestrator's log says why")
}
