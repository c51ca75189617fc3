//! The event stream: what happens, in words, resumable by the id of the last event seen; `reset` where the ring has moved on.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use chom_protocol::api::events::Event;
use chom_protocol::{HostId, Name, VpsId};

use crate::alerts::rows::AlertRow;
use crate::api::App;
use crate::api::list::Given;
use crate::api::problem::{ApiError, Kind, shown};
use crate::api::stream::{self, Feed};
use crate::fleet::Caller;
use crate::fleet::events::{Entry, EventId};
use crate::fleet::rows::{OperationRow, VpsRow};
use crate::fleet::state::State as FleetState;

/// Events written at once: about 50 KiB.
const EVENTS_PER_WRITE_MAX: usize = 256;
/// The parameters besides `from`.
const FILTERS: [&str; 4] = ["kind", "vps", "host", "tenant"];

/// Follows what changes. Each event has an id; a stream that is opened with it, as the header `Last-Event-ID` or as `from`,
/// goes on behind it. Where events were missed it begins with an event of type `reset`: read the lists again.
#[utoipa::path(get, path = "/api/events", tag = "events", operation_id = "watch_events",
    params(
        ("from" = Option<String>, Query, description = "The id of the last event seen; ids are to be taken as they are."),
        ("kind" = Option<String>, Query, description = "Only of these types: `vps`, or `operation,alert`."),
        ("vps" = Option<VpsId>, Query, description = "Only about this VPS."),
        ("host" = Option<HostId>, Query, description = "Only about this host and what stands on it; not for a tenant's tokens."),
        ("tenant" = Option<Name>, Query, description = "Only about this tenant's VPSs."),
        ("Last-Event-ID" = Option<String>, Header, description = "The same as `from`; it goes before it."),
    ),
    responses((status = 200, description = "Events, each a JSON document.", content_type = "text/event-stream", body = Event)))]
pub(super) async fn watch(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (from, filter) = read(query, &caller)?;
    let last = stream::last_seen(&app, &caller, &headers, from.as_deref().map(|from| ("from", from)))?;
    // Subscribed before the ring is read: what comes in between wakes the stream.
    let news = app.fleet.events().news();
    stream::open(&app, &caller, news, || {
        let next = match last {
            Some(last) => EventId { sequence: last.sequence.saturating_add(1), ..last },
            None => app.fleet.events().end(),
        };
        Events { app: app.clone(), caller: caller.clone(), filter, next }
    })
}

fn read(query: Vec<(String, String)>, caller: &Caller) -> Result<(Option<String>, Filter), ApiError> {
    let known: Vec<&str> =
        FILTERS.into_iter().filter(|name| caller.tenant.is_none() || *name != "host").collect();
    let (mut from, mut given) = (None, BTreeMap::new());
    for (name, value) in query {
        match name.as_str() {
            "from" => from = Some(value),
            filter if known.contains(&filter) => {
                given.insert(name, value);
            }
            other => {
                let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
                let detail = format!(
                    "the event stream knows no parameter `{}`; it takes {} and `from`",
                    shown(other),
                    known.join(", ")
                );
                return Err(ApiError::new(Kind::Malformed, detail).at(shown(other)));
            }
        }
    }
    let given = Given::of(given);
    let filter = Filter {
        kinds: given.words("kind")?,
        vps: given.one("vps")?,
        host: given.one("host")?,
        tenant: given.one("tenant")?,
    };
    Ok((from, filter))
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Vps,
    Host,
    Operation,
    Alert,
}

/// Which events are asked for.
struct Filter {
    kinds: Vec<What>,
    vps: Option<VpsId>,
    host: Option<HostId>,
    tenant: Option<Name>,
}

impl Filter {
    fn lets_through(&self, state: &FleetState, event: &Event) -> bool {
        let Self { kinds, vps, host, tenant } = self;
        let whose = |vps: &VpsId| state.get::<VpsRow>(vps).map(|row| row.spec.tenant.clone());
        let (kind, about, on, of) = match event {
            Event::Reset => return true,
            Event::Vps { id, tenant, .. } => {
                let on = || state.get::<VpsRow>(id).map(|row| row.host);
                (What::Vps, Some(*id), host.and_then(|_| on()), Some(tenant.clone()))
            }
            Event::Host { id, .. } => (What::Host, None, Some(*id), None),
            Event::Operation { id, tenant, .. } => {
                let row = state.get::<OperationRow>(id);
                let (about, on) = (row.and_then(|row| row.vps), row.and_then(|row| row.host));
                (What::Operation, about, on, Some(tenant.clone()))
            }
            Event::Alert { id, .. } => {
                let subject = state.get::<AlertRow>(id).map(|row| &row.subject);
                let (about, on) = (subject.and_then(|of| of.vps), subject.and_then(|of| of.host));
                (What::Alert, about, on, about.as_ref().and_then(whose))
            }
        };
        (kinds.is_empty() || kinds.contains(&kind))
            && vps.is_none_or(|vps| about == Some(vps))
            && host.is_none_or(|host| on == Some(host))
            && tenant.as_ref().is_none_or(|tenant| of.as_ref() == Some(tenant))
    }
}

/// One reader of the events.
struct Events {
    app: App,
    caller: Caller,
    filter: Filter,
    next: EventId,
}

impl Feed for Events {
    fn ready(&mut self) -> Option<Bytes> {
        let (ring, state) = (self.app.fleet.events(), self.app.fleet.state());
        let mut text = String::new();
        loop {
            let Some(entries) = ring.read(self.next, EVENTS_PER_WRITE_MAX) else {
                self.next = ring.end();
                let id = self.app.seal.written(&self.caller, before(self.next));
                return Some(written(&id, &Event::Reset).into());
            };
            let is_end = entries.len() < EVENTS_PER_WRITE_MAX;
            for (id, entry) in entries {
                if self.caller.hears(&state, &entry.what) && self.filter.lets_through(&state, &entry.what) {
                    text.push_str(&self.text(id, &entry));
                }
                self.next = EventId { sequence: id.sequence + 1, ..id };
            }
            if !text.is_empty() {
                return Some(text.into());
            }
            if is_end {
                return None;
            }
        }
    }

    fn position(&self) -> Option<EventId> {
        Some(before(self.next))
    }
}

impl Events {
    /// An event as it is written: the same for all who are told of it, but for what its id looks like.
    fn text(&self, id: EventId, entry: &Entry<Event>) -> Arc<str> {
        let [fleet, tenant] = &entry.texts;
        let place = if self.caller.tenant.is_none() { fleet } else { tenant };
        let made = || written(&self.app.seal.written(&self.caller, id), &entry.what).into();
        Arc::clone(place.get_or_init(made))
    }
}

fn before(id: EventId) -> EventId {
    EventId { sequence: id.sequence.saturating_sub(1), ..id }
}

fn written(id: &str, event: &Event) -> String {
    let mut text = String::new();
    // A view without maps or floats always has a JSON text, and JSON on one line has no line break in it.
    if let Ok(json) = serde_json::to_string(event) {
        let _ = write!(text, "id: {id}\ndata: {json}\n\n");
    }
    text
}
