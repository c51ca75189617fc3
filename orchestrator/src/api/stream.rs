//! Streams of server-sent events (WHATWG HTML section 9.2): how many may be open, what their ids look like, and how they are
//! written. A slow reader holds back nobody: each reads at its own pace. Knows not what is streamed.

use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use chom_protocol::TokenId;
use data_encoding::BASE64URL_NOPAD;
use futures_util::stream;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch::Receiver;

use crate::api::problem::{ApiError, Kind, shown};
use crate::api::slots::{Full, Slot, Slots};
use crate::api::{App, auth};
use crate::clock;
use crate::fleet::Caller;
use crate::fleet::events::EventId;

/// Streams that one token may have open: a console in several windows, and some scripts.
const STREAMS_PER_TOKEN_MAX: usize = 32;
/// Streams together; each holds a connection, of which the server takes 2,048, and the rest is for requests that end.
const STREAMS_MAX: usize = 1536;
/// Silence after which a comment is sent: below the minute after which proxies give up, and half of chomctl's patience.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// What a reader that lost its connection is asked to wait for.
const RECONNECT: Duration = Duration::from_secs(2);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What a stream tells.
pub(super) trait Feed: Send + 'static {
    /// The next piece that there is to write, some 100 KiB at most; none: nothing has happened that this reader is told of.
    fn ready(&mut self) -> Option<Bytes>;

    /// Whether nothing comes any more.
    fn is_over(&self) -> bool {
        false
    }

    /// Behind which entry it goes on when it is resumed now; none: it begins anew.
    fn position(&self) -> Option<EventId>;
}

/// Opens a stream of a feed, which is made once there is room for it. `news` wakes it.
pub(super) fn open<F: Feed>(
    app: &App,
    caller: &Caller,
    news: Receiver<u64>,
    feed: impl FnOnce() -> F,
) -> Result<Response, ApiError> {
    let slot = slot(&app.streams, caller.token)?;
    let feed = feed();
    let mut first = format!("retry: {}\n", RECONNECT.as_millis());
    // An id at once, so that a connection that breaks before the first event misses none.
    if let Some(position) = feed.position() {
        let _ = writeln!(first, "id: {}", app.seal.written(caller, position));
    }
    first.push('\n');
    let writer =
        Writer { app: app.clone(), caller: caller.clone(), news, first: Some(first), feed, _slot: slot };
    let body = Body::from_stream(stream::unfold(writer, Writer::write));
    let media_type = (CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Proxies that collect answers would hold events back.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(([media_type, unbuffered], body).into_response())
}

/// The id of the last event seen, as the header has it, or a parameter of another name.
///
/// # Errors
/// When it is no id.
pub(super) fn last_seen(
    app: &App,
    caller: &Caller,
    headers: &HeaderMap,
    parameter: Option<(&str, &str)>,
) -> Result<Option<EventId>, ApiError> {
    // A browser connects again to the same address, with a newer id in the header.
    let header = headers.get(LAST_EVENT_ID).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let (location, text) = match (&header, parameter) {
        (Some(text), _) => ("Last-Event-ID", text.as_ref()),
        (None, Some(parameter)) => parameter,
        (None, None) => return Ok(None),
    };
    if text.is_empty() {
        return Ok(None);
    }
    app.seal.read(caller, text).map(Some).ok_or_else(|| {
        let detail = format!(
            "`{}` is no event id; give the `id` of an event, or nothing to begin with what comes next",
            shown(text)
        );
        ApiError::new(Kind::Malformed, detail).at(location)
    })
}

struct Writer<F> {
    app: App,
    caller: Caller,
    news: Receiver<u64>,
    first: Option<String>,
    feed: F,
    _slot: Slot<TokenId>,
}

impl<F: Feed> Writer<F> {
    /// The next piece of the stream; none when it ends: on shutdown, and when the token is no longer good.
    async fn write(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if let Some(first) = self.first.take() {
            return Some((Ok(first.into()), self));
        }
        let stop = self.app.stop.clone();
        loop {
            if stop.is_cancelled() || !auth::still_valid(&self.app.fleet.state(), &self.caller, clock::now())
            {
                return None;
            }
            // What comes in after this look wakes it.
            self.news.borrow_and_update();
            if let Some(piece) = self.feed.ready() {
                return Some((Ok(piece), self));
            }
            if self.feed.is_over() {
                return None;
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                news = self.news.changed() => news.ok()?, // cancel-safe
                () = tokio::time::sleep(KEEP_ALIVE) => return Some((Ok(self.still_here()), self)),
            }
        }
    }

    /// With where it is by now: what others did meanwhile does not make a reader come too late that connects again.
    fn still_here(&self) -> Bytes {
        let id = self.feed.position().map(|position| self.app.seal.written(&self.caller, position));
        id.map_or_else(|| ": still here\n\n".to_owned(), |id| format!(": still here\nid: {id}\n\n")).into()
    }
}

/// Bytes of a sealed id: a nonce, epoch and sequence, and the tag.
const SEALED_BYTES: usize = NONCE_LEN + 16 + 16;

/// What ids look like. To a tenant's callers a count of all that happens in the fleet would tell how much others do: theirs are
/// sealed, each time anew, with a key of this process. After a restart no stream can be resumed anyway.
pub(super) struct Seal(Option<LessSafeKey>);

impl Seal {
    /// A new key. Without randomness from the system tenants get no ids that resume.
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        let filled = SystemRandom::new().fill(&mut key).ok();
        Self(filled.and_then(|()| UnboundKey::new(&AES_256_GCM, &key).ok()).map(LessSafeKey::new))
    }

    /// An id as a caller is told it.
    pub(super) fn written(&self, caller: &Caller, id: EventId) -> String {
        if caller.tenant.is_none() { id.to_string() } else { self.sealed(id).unwrap_or_default() }
    }

    fn sealed(&self, id: EventId) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut text = [id.epoch.to_be_bytes(), id.sequence.to_be_bytes()].concat();
        let nonce_of_use = Nonce::assume_unique_for_key(nonce);
        self.0.as_ref()?.seal_in_place_append_tag(nonce_of_use, Aad::empty(), &mut text).ok()?;
        Some(BASE64URL_NOPAD.encode(&[&nonce[..], &text].concat()))
    }

    /// The id that a caller was told; one of another process is of no ring there is.
    fn read(&self, caller: &Caller, text: &str) -> Option<EventId> {
        if caller.tenant.is_none() {
            return text.parse().ok();
        }
        let bytes =
            BASE64URL_NOPAD.decode(text.as_bytes()).ok().filter(|bytes| bytes.len() == SEALED_BYTES)?;
        let (nonce, sealed) = bytes.split_at(NONCE_LEN);
        let mut sealed = sealed.to_vec();
        let opened = Nonce::try_assume_unique_for_key(nonce)
            .ok()
            .and_then(|nonce| self.0.as_ref()?.open_in_place(nonce, Aad::empty(), &mut sealed).ok());
        let number =
            |bytes: Option<&[u8]>| bytes.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        let of_here = opened.and_then(|plain| {
            Some(EventId { epoch: number(plain.get(..8))?, sequence: number(plain.get(8..))? })
        });
        Some(of_here.unwrap_or(EventId { epoch: 0, sequence: 0 }))
    }
}

/// Which streams are open, by token.
pub(super) type Streams = Slots<TokenId>;

/// None are open yet.
pub(super) fn streams() -> Streams {
    Slots::new(STREAMS_PER_TOKEN_MAX, STREAMS_MAX)
}

fn slot(streams: &Streams, token: TokenId) -> Result<Slot<TokenId>, ApiError> {
    streams.take(token, 1).map_err(|Full { own, all }| {
        let detail = format!(
            "too many streams are open: {own} with this token (at most {STREAMS_PER_TOKEN_MAX}), {all} together (at most {STREAMS_MAX}); close some"
        );
        ApiError::new(Kind::TooMany, detail)
    })
}

#[cfg(test)]
mod tests {
    use chom_protocol::api::tokens::Role;
    use chom_protocol::{Name, UnixMillis};
    use uuid::Uuid;

    use super::*;

    fn caller(tenant: Option<Name>) -> Caller {
        let role = if tenant.is_some() { Role::Owner } else { Role::Admin };
        Caller {
            name: "a".into(),
            token: TokenId::new(Uuid::nil()),
            role,
            tenant,
            vps: None,
            origin: Default::default(),
        }
    }

    #[test]
    fn a_tenants_ids_say_nothing_and_lead_back_all_the_same() {
        let (seal, tenant) = (Seal::new(), caller(Some(Name::default_tenant())));
        let id = EventId { epoch: UnixMillis(1_795_392_000_000).0, sequence: 42 };
        let (one, other) = (seal.written(&tenant, id), seal.written(&tenant, id));
        assert_ne!(one, other, "the same place looks new each time");
        assert_eq!((seal.read(&tenant, &one), seal.read(&tenant, &other)), (Some(id), Some(id)));
        assert_eq!(seal.read(&tenant, &id.to_string()), None, "a tenant cannot try places of its choice");
        let of_another = Seal::new().written(&tenant, id);
        assert_eq!(seal.read(&tenant, &of_another).map(|id| id.epoch), Some(0), "of no ring: reset");
        let fleet = caller(None);
        assert_eq!(seal.written(&fleet, id), "1795392000000.42");
        assert_eq!(seal.read(&fleet, "1795392000000.42"), Some(id));
    }
}
