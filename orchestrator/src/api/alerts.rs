//! Alerts, and the mails that they led to.

use std::ops::Bound;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chom_protocol::api::alerts::{AlertState, AlertView, NotificationView, Severity};
use chom_protocol::api::{Page, PageQuery};
use chom_protocol::{AlertId, HostId, Name, NotificationId, VpsId};

use crate::alerts::AlertViews;
use crate::alerts::rows::AlertRow;
use crate::api::list::{Chosen, Given, Key, List, Parameter, Part, Place, Query, Rows, Sight, is_among};
use crate::api::page::Paging;
use crate::api::problem::ApiError;
use crate::api::vps_list::HostKey;
use crate::api::{App, watch};
use crate::fleet::Caller;
use crate::fleet::events::Touched;
use crate::notify::notification_view;

/// Which alerts are asked for.
pub(super) struct AlertList {
    states: Vec<AlertState>,
    severities: Vec<Severity>,
    rule: Option<String>,
    host: Option<HostKey>,
    vps: Option<VpsId>,
    region: Option<Name>,
}

impl List for AlertList {
    const NAME: &'static str = "alerts";
    const FILTERS: &'static [Parameter] = &[
        Parameter { name: "state", about: "Only in one of these states: `firing`, or `pending,firing`." },
        Parameter { name: "severity", about: "Only as bad as one of these: `critical`." },
        Parameter { name: "rule", about: "Only of this rule, such as `HostUnreachable`." },
        Parameter { name: "host", about: "Only of this host, by id or name." },
        Parameter { name: "vps", about: "Only of this VPS, by id." },
        Parameter { name: "region", about: "Only in this region." },
    ];
    const SORTS: &'static [&'static str] = &["id", "since"];
    const IS_WATCHED: bool = true;

    fn read(given: &Given) -> Result<Self, ApiError> {
        Ok(Self {
            states: given.words("state")?,
            severities: given.words("severity")?,
            rule: given.text("rule").map(str::to_owned),
            host: HostKey::read(given)?,
            vps: given.one("vps")?,
            region: given.one("region")?,
        })
    }
}

impl AlertList {
    fn fits(&self, host: Option<HostId>, row: &AlertRow) -> bool {
        is_among(&self.states, || row.state)
            && is_among(&self.severities, || row.severity)
            && self.rule.as_ref().is_none_or(|rule| rule == row.subject.rule.name())
            && host.is_none_or(|host| row.subject.host == Some(host))
            && self.vps.is_none_or(|vps| row.subject.vps == Some(vps))
            && (self.region.is_none() || self.region == row.region)
    }
}

impl Rows for AlertList {
    type Id = AlertId;
    type View = AlertView;

    fn part(&self, sight: &Sight, part: &Part<AlertId>) -> Result<Chosen<AlertView, AlertId>, ApiError> {
        let by = part.sort.by;
        let host = self.host.as_ref().map(|host| host.id(sight));
        let fits = |row: &&AlertRow| self.fits(host, row);
        let place = |row: &&AlertRow| Place {
            key: if by == "since" { Key::time(row.since) } else { Key::Nothing },
            id: row.id,
        };
        let views = AlertViews::of(&sight.state);
        let chosen = if by == "id" {
            let rows = sight.state.alerts.range(part.bounds(part.start_id()));
            part.walk(part.directed(rows.map(|(_, stored)| stored.row.as_ref())), fits, place)
        } else {
            part.select(sight.state.alerts.values().map(|stored| stored.row.as_ref()).filter(fits), place)
        };
        Ok(chosen.map(|row| views.view(row)))
    }

    fn row(&self, sight: &Sight, id: AlertId) -> Option<AlertView> {
        let host = self.host.as_ref().map(|host| host.id(sight));
        let row = sight.state.get::<AlertRow>(&id).filter(|row| self.fits(host, row))?;
        Some(AlertViews::of(&sight.state).view(row))
    }

    fn id(view: &AlertView) -> AlertId {
        view.id
    }

    fn concerned(_: &Sight, touched: &Touched) -> Vec<AlertId> {
        match touched {
            Touched::Alert(id) => vec![*id],
            Touched::Vps(..) | Touched::Host(_) | Touched::Sight(_) | Touched::Operation(..) => Vec::new(),
        }
    }
}

/// Lists the alerts, oldest first; resolved ones are kept for a week.
#[utoipa::path(get, path = "/api/alerts", tag = "alerts", operation_id = "list_alerts", params(PageQuery),
    responses((status = 200, description = "A page of alerts.", body = Page<AlertView>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    query: Query<AlertList>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    watch::answer(app, caller, query, &headers)
}

/// Lists the notifications, oldest first, with how each recipient's mail went.
#[utoipa::path(get, path = "/api/notifications", tag = "alerts", operation_id = "list_notifications", params(PageQuery),
    responses((status = 200, description = "A page of notifications.", body = Page<NotificationView>)))]
pub(super) async fn notifications(
    State(app): State<App>,
    _: Caller,
    paging: Paging,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    paging.page(
        "notifications",
        |from: Bound<NotificationId>| {
            state.notifications.range((from, Bound::Unbounded)).map(|(_, stored)| &stored.row)
        },
        |row| row.id,
        |row| notification_view(row),
    )
}
