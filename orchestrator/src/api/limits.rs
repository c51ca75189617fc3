//! The edge of `limits`: counts requests by token and by address and answers 429 to what is too much. Knows the clock, so
//! that `limits` need not.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::Extensions;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use chom_protocol::TokenId;
use chom_protocol::vps::Sha256;
use hyper::body::Body as _;

use crate::api::App;
use crate::api::problem::{ApiError, Kind};
use crate::api::slots::{Slot, Slots};
use crate::config::LimitSettings;
use crate::limits::bucket::{Buckets, Rate};
use crate::limits::party;
use crate::limits::throttle::{Lock, Throttle};

/// Tokens whose requests are counted; about 150 bytes each.
const TOKENS_MAX: usize = 10_000;
/// Addresses, the same.
const ADDRESSES_MAX: usize = 10_000;
/// Bodies of requests that one token has on their way: half of all, each up to 256 KiB.
const BODIES_PER_TOKEN_MAX: usize = 128;
/// Answers larger than this are counted in memory; there is one buffer of this size for each connection anyway.
const ANSWER_BYTES_FREE: u64 = 64 * 1024;
/// Answers that one token has on their way: eight of the largest pages.
const ANSWER_BYTES_PER_TOKEN_MAX: usize = 32 * 1024 * 1024;
/// And all tokens together.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Whoever asks these is a load balancer or a watchdog, and must be answered most of all when there is too much.
const UNCOUNTED: [&str; 2] = ["/healthz", "/readyz"];

/// Who has asked how much.
pub(super) struct Limits {
    begun: Instant,
    tokens: Mutex<Buckets<TokenId>>,
    addresses: Mutex<Buckets<IpAddr>>,
    sign_ins: Mutex<Throttle>,
    bodies: Slots<TokenId>,
    answers: Slots<TokenId>,
}

/// The memory that an answer takes, for as long as it is not sent: the server keeps it with the body.
#[derive(Clone)]
pub(super) struct AnswerMemory(#[expect(dead_code, reason = "is dropped")] Arc<Slot<TokenId>>);

impl Limits {
    /// Nobody has asked anything yet.
    pub(super) fn new(settings: &LimitSettings) -> Self {
        let LimitSettings {
            token_requests_per_second,
            token_burst,
            address_requests_per_second,
            address_burst,
            sign_in_failures_max,
            sign_in_lock_seconds,
        } = *settings;
        let of_tokens = Rate { per_second: token_requests_per_second, burst: token_burst };
        let of_addresses = Rate { per_second: address_requests_per_second, burst: address_burst };
        let lock = Lock { after: sign_in_failures_max, seconds: sign_in_lock_seconds };
        Self {
            begun: Instant::now(),
            tokens: Mutex::new(Buckets::new(of_tokens, TOKENS_MAX)),
            addresses: Mutex::new(Buckets::new(of_addresses, ADDRESSES_MAX)),
            sign_ins: Mutex::new(Throttle::new(lock)),
            bodies: Slots::new(BODIES_PER_TOKEN_MAX, usize::MAX),
            answers: Slots::new(ANSWER_BYTES_PER_TOKEN_MAX, ANSWER_BYTES_MAX),
        }
    }

    /// Counts a request of a token.
    pub(super) fn count_token(&self, token: TokenId) -> Result<(), ApiError> {
        let taken = lock(&self.tokens).take(&token, self.now_ms());
        taken.map_err(|wait| too_many("your token has", wait))
    }

    /// Lets a token send a body, which it holds until that is read.
    pub(super) fn body(&self, token: TokenId) -> Result<Slot<TokenId>, ApiError> {
        self.bodies.take(token, 1).map_err(|_| {
            let detail = format!(
                "{BODIES_PER_TOKEN_MAX} requests of your token are still sending their bodies; wait for some to end"
            );
            ApiError::new(Kind::TooMany, detail)
        })
    }

    /// Counts the memory of an answer to a token until it is sent.
    pub(super) fn answered(&self, token: TokenId, mut response: Response) -> Result<Response, ApiError> {
        let size = response.body().size_hint().exact().filter(|bytes| *bytes > ANSWER_BYTES_FREE);
        let Some(bytes) = size else { return Ok(response) };
        let memory = self.answers.take(token, usize::try_from(bytes).unwrap_or(usize::MAX));
        let memory = memory.map_err(|full| {
            let detail = format!(
                "{} bytes of answers to your token are not read yet (at most {ANSWER_BYTES_PER_TOKEN_MAX}; {} of all tokens, at most {ANSWER_BYTES_MAX}); read them first, or ask for smaller pages",
                full.own, full.all
            );
            ApiError::new(Kind::TooMany, detail)
        })?;
        response.extensions_mut().insert(AnswerMemory(Arc::new(memory)));
        Ok(response)
    }

    /// Lets somebody try a password, and counts it as wrong until it is told otherwise.
    pub(super) fn enter(&self, name: &Sha256, from: Address) -> Result<(), ApiError> {
        let entered = lock(&self.sign_ins).enter(name, from.0, self.now_ms());
        entered.map_err(refused_sign_in)
    }

    /// The password was right.
    pub(super) fn forgive(&self, name: &Sha256, from: Address) {
        lock(&self.sign_ins).forgive(name, from.0);
    }

    /// No password was looked at.
    pub(super) fn untried(&self, name: &Sha256, from: Address) {
        lock(&self.sign_ins).untried(name, from.0);
    }

    /// For how many seconds a name is locked now that its password was wrong.
    pub(super) fn locks(&self, name: &Sha256) -> Option<u64> {
        lock(&self.sign_ins).locks(name)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answer to whoever tries too often, the same whether there is such a user or not.
pub(super) fn refused_sign_in(wait: Duration) -> ApiError {
    let seconds = whole_seconds(wait);
    let detail = format!(
        "too many wrong passwords with this name or from your address; try again in {seconds} s, or ask an admin to enable the user again"
    );
    ApiError::new(Kind::TooMany, detail).retry_after(wait)
}

fn too_many(who: &str, wait: Duration) -> ApiError {
    let seconds = whole_seconds(wait);
    let detail = format!(
        "{who} sent more requests than are let through; go on in {seconds} s, and slower, or watch GET /api/events instead of asking again and again"
    );
    ApiError::new(Kind::TooMany, detail).retry_after(wait)
}

fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Whom a request is counted for; none for this machine itself, and where there is no connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address(Option<IpAddr>);

impl Address {
    /// Nobody's.
    pub(super) const NONE: Self = Self(None);

    fn of(extensions: &Extensions) -> Self {
        Self(extensions.get::<ConnectInfo<SocketAddr>>().and_then(|info| party(info.0.ip())))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Address {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.extensions))
    }
}

/// Counts requests by address, before anything is looked up for them.
pub(super) async fn by_address(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Address(Some(address)) = Address::of(request.extensions())
        && !UNCOUNTED.contains(&request.uri().path())
    {
        let taken = lock(&app.limits.addresses).take(&address, app.limits.now_ms());
        taken.map_err(|wait| too_many("your address has", wait))?;
    }
    Ok(next.run(request).await)
}
