//! The event stream (server-sent events, WHATWG HTML section 9.2): resumable by the id of the last event seen, `reset` where
//! the ring has moved on. A slow reader holds back nobody: each reads the ring at its own pace.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use chom_protocol::TokenId;
use chom_protocol::api::events::Event;
use futures_util::stream;
use tokio::sync::watch::Receiver;

use crate::api::problem::{ApiError, Kind, shown};
use crate::api::{App, auth};
use crate::clock;
use crate::fleet::Caller;
use crate::fleet::events::EventId;

/// Streams that one token may have open: a console in several windows, and some scripts.
const STREAMS_PER_TOKEN_MAX: usize = 32;
/// Streams together; each holds a connection, of which the server takes 1,024.
const STREAMS_MAX: usize = 256;
/// Events written at once: about 50 KiB.
const EVENTS_PER_WRITE_MAX: usize = 256;
/// Silence after which a comment is sent: below the minute after which proxies give up, and half of chomctl's patience.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// What a reader that lost its connection is asked to wait for.
const RECONNECT: Duration = Duration::from_secs(2);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Follows what changes. Each event has an id; a stream that is opened with it, as the header `Last-Event-ID` or as `from`,
/// goes on behind it. Where events were missed it begins with an event of type `reset`: read the lists again.
#[utoipa::path(get, path = "/api/events", tag = "events", operation_id = "watch_events",
    params(
        ("from" = Option<String>, Query, description = "The id of the last event seen, such as `1795392000000.42`."),
        ("Last-Event-ID" = Option<String>, Header, description = "The same; it goes before `from`."),
    ),
    responses((status = 200, description = "Events, each a JSON document.", content_type = "text/event-stream", body = Event)))]
pub(super) async fn watch(
    State(app): State<App>,
    caller: Caller,
    query: Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let last = last_seen(&query, &headers)?;
    let slot = app.streams.open(caller.token)?;
    // Subscribed before the ring is read: what comes in between wakes the stream.
    let news = app.fleet.events().news();
    let mut first = format!("retry: {}\n", RECONNECT.as_millis());
    let next = match last {
        Some(last) => EventId { sequence: last.sequence.saturating_add(1), ..last },
        None => {
            let end = app.fleet.events().end();
            // An id at once, so that a connection that breaks before the first event misses none.
            let _ = writeln!(first, "id: {}", before(end));
            end
        }
    };
    first.push('\n');
    let watcher = Watcher { app, caller, next, news, first: Some(first), _slot: slot };
    let body = Body::from_stream(stream::unfold(watcher, Watcher::write));
    let media_type = (CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Proxies that collect answers would hold events back.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(([media_type, unbuffered], body).into_response())
}

fn last_seen(query: &[(String, String)], headers: &HeaderMap) -> Result<Option<EventId>, ApiError> {
    let read = |text: &str, location: &str| match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|()| {
            let detail = format!(
                "`{}` is no event id; give the `id` of an event, or nothing to begin with what comes next",
                shown(text)
            );
            ApiError::new(Kind::Malformed, detail).at(location)
        }),
    };
    if let Some((other, _)) = query.iter().find(|(name, _)| name != "from") {
        let detail = format!("the event stream knows no parameter `{}`; it takes `from`", shown(other));
        return Err(ApiError::new(Kind::Malformed, detail).at(shown(other)));
    }
    // A browser connects again to the same address, with a newer id in the header.
    match headers.get(LAST_EVENT_ID) {
        Some(value) => read(&String::from_utf8_lossy(value.as_bytes()), "Last-Event-ID"),
        None => query.first().map_or(Ok(None), |(_, value)| read(value, "from")),
    }
}

fn before(id: EventId) -> EventId {
    EventId { sequence: id.sequence.saturating_sub(1), ..id }
}

struct Watcher {
    app: App,
    caller: Caller,
    next: EventId,
    news: Receiver<u64>,
    first: Option<String>,
    _slot: Slot,
}

impl Watcher {
    /// The next piece of the stream; none when it ends: on shutdown, and when the token is no longer good.
    async fn write(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if let Some(first) = self.first.take() {
            return Some((Ok(first.into()), self));
        }
        if !auth::still_valid(&self.app.fleet.state(), &self.caller, clock::now()) {
            return None;
        }
        let text = match self.ready() {
            Some(text) => text,
            None => self.wait().await?,
        };
        Some((Ok(text.into()), self))
    }

    /// What stands in the ring behind the last event written.
    fn ready(&mut self) -> Option<String> {
        let ring = self.app.fleet.events();
        let state = self.app.fleet.state();
        let mut text = String::new();
        match ring.read(self.next, EVENTS_PER_WRITE_MAX) {
            None => {
                self.next = ring.end();
                event(&mut text, before(self.next), &Event::Reset);
            }
            Some(events) => {
                for (id, what) in events {
                    if self.caller.hears(&state, &what) {
                        event(&mut text, id, &what);
                    }
                    self.next = EventId { sequence: id.sequence + 1, ..id };
                }
            }
        }
        Some(text).filter(|text| !text.is_empty())
    }

    async fn wait(&mut self) -> Option<String> {
        let stop = self.app.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return None,
                news = self.news.changed() => news.ok()?, // cancel-safe
                () = tokio::time::sleep(KEEP_ALIVE) => return Some(": still here\n\n".to_owned()),
            }
            if let Some(text) = self.ready() {
                return Some(text);
            }
        }
    }
}

fn event(text: &mut String, id: EventId, event: &Event) {
    // A view without maps or floats always has a JSON text, and JSON on one line has no line break in it.
    if let Ok(json) = serde_json::to_string(event) {
        let _ = write!(text, "id: {id}\ndata: {json}\n\n");
    }
}

/// Which streams are open, by token.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Mutex<BTreeMap<TokenId, usize>>>);

impl Streams {
    fn open(&self, token: TokenId) -> Result<Slot, ApiError> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let own = open.get(&token).copied().unwrap_or_default();
        if own >= STREAMS_PER_TOKEN_MAX || all >= STREAMS_MAX {
            let detail = format!(
                "too many event streams are open: {own} with this token (at most {STREAMS_PER_TOKEN_MAX}), {all} together (at most {STREAMS_MAX}); close some"
            );
            return Err(ApiError::new(Kind::TooMany, detail));
        }
        open.insert(token, own + 1);
        Ok(Slot { streams: self.clone(), token })
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

/// One open stream; closed when dropped.
struct Slot {
    streams: Streams,
    token: TokenId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.token) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.token);
            }
        }
    }
}
