//! Fetches an image by HTTP into the image folder. One connection an attempt; what came is kept and added to where the server
//! can give a part (RFC 9110 section 14), begun anew where not. Every phase has a deadline; only addresses that may be spoken
//! to are (see `dial`), also behind redirects. No proxy, no cookies, no compression.

mod problem;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming as Body;
use hyper::client::conn::http1;
use hyper::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_RANGE, HOST, HeaderMap, HeaderName, LOCATION,
    RANGE, USER_AGENT,
};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::reach::{allowed, check_url, shown};
use super::uploaded::{IMAGE_BYTES_MAX, Incoming};
use crate::dial::{DialError, Dialer};

pub use problem::FetchError;

/// Redirects that are followed: mirrors send on once or twice.
const REDIRECTS_MAX: usize = 5;
/// Attempts in a row that bring nothing.
const ATTEMPTS_MAX: u32 = 5;
const AGENT: &str = concat!("chom-orchestrator/", env!("CARGO_PKG_VERSION"));

/// How long things may take, and how large they may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Looking a name up; a connection to one address; TLS. SYN retransmits take 1, 3 and 7 s.
    pub connect: Duration,
    /// Until an answer begins: some mirrors fetch the file themselves first.
    pub answer: Duration,
    /// Nothing at all for so long is a broken connection.
    pub silence: Duration,
    /// Less than [`Limits::pace_bytes`] in this time is too slow to be waited for.
    pub pace: Duration,
    /// 17 KiB/s in a minute: 64 GiB would take a month at that.
    pub pace_bytes: u64,
    /// Before the second attempt; doubled before each further one.
    pub pause: Duration,
    /// Largest image.
    pub size_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            silence: Duration::from_secs(30),
            pace: Duration::from_secs(60),
            pace_bytes: 1024 * 1024,
            pause: Duration::from_secs(2),
            size_max: IMAGE_BYTES_MAX,
        }
    }
}

/// How far a fetch is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that came.
    pub bytes: u64,
    /// Bytes of the whole, once its server said.
    pub total: Option<u64>,
    /// Why it is tried again.
    pub problem: Option<String>,
}

/// Fetches images.
#[derive(Clone)]
pub struct Client {
    dialer: Dialer,
    limits: Limits,
}

/// What an answer comes to.
enum Next {
    Whole,
    Elsewhere(Url),
}

impl Client {
    /// A client that also speaks to these networks, trusts as `tls` says, and keeps to these limits.
    #[must_use]
    pub fn new(tls: ClientConfig, networks: Vec<IpNet>, limits: Limits) -> Self {
        let dialer = Dialer { tls: Arc::new(tls), reach: allowed(networks), step: limits.connect };
        Self { dialer, limits }
    }

    /// Fetches all of it. What came before a failure that passes is kept for the next attempt.
    ///
    /// # Errors
    /// When it cannot be had, or not for now.
    pub async fn fetch(
        &self,
        url: &Url,
        into: &mut Incoming,
        told: &watch::Sender<Progress>,
    ) -> Result<(), FetchError> {
        let (mut fruitless, mut pause) = (0, self.limits.pause);
        loop {
            let before = into.size();
            let Err(error) = self.attempt(url, into, told).await else { return Ok(()) };
            if into.size() > before {
                (fruitless, pause) = (0, self.limits.pause);
            }
            fruitless += 1;
            if !error.is_passing() || fruitless >= ATTEMPTS_MAX {
                return Err(error);
            }
            told.send_modify(|progress| progress.problem = Some(crate::chain(&error)));
            sleep(pause).await;
            pause *= 2;
        }
    }

    async fn attempt(
        &self,
        url: &Url,
        into: &mut Incoming,
        told: &watch::Sender<Progress>,
    ) -> Result<(), FetchError> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            match self.exchange(&at, into, told).await? {
                Next::Whole => return Ok(()),
                Next::Elsewhere(next) => at = next,
            }
        }
        Err(FetchError::Redirects { most: REDIRECTS_MAX, last: shown(&at) })
    }

    async fn exchange(
        &self,
        url: &Url,
        into: &mut Incoming,
        told: &watch::Sender<Progress>,
    ) -> Result<Next, FetchError> {
        let stream = self.dialer.connect(url).await?;
        let from = into.size();
        let broken = |source| FetchError::Broken { host: host(url), source };
        let mut request = Request::builder()
            .uri(&url[url::Position::BeforePath..])
            .header(HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
            .header(USER_AGENT, AGENT)
            .header(ACCEPT_ENCODING, "identity")
            .header(CONNECTION, "close");
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let request = request.body(Empty::<Bytes>::new());
        let request = request.map_err(|error| DialError::Url { problem: error.to_string() })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // The connection must be driven while it is spoken on; how it ends shows in the answer.
        let driven = async {
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        let spoken = async {
            let answered = timeout(self.limits.answer, sender.send_request(request)).await;
            let response = answered
                .map_err(|_| FetchError::Late { host: host(url), seconds: self.limits.answer.as_secs() })?
                .map_err(broken)?;
            if let Some(next) = redirect(url, &response)? {
                return Ok(Next::Elsewhere(next));
            }
            let total = self.begin(url, &response, from, into).await?;
            told.send_modify(|progress| *progress = Progress { bytes: into.size(), total, problem: None });
            self.take(url, response.into_body(), into, told).await.map(|()| Next::Whole)
        };
        tokio::select! {
            next = spoken => next,
            never = driven => match never {},
        }
    }

    /// Judges the head of an answer; gives the size of the whole, where the server says it.
    async fn begin(
        &self,
        url: &Url,
        response: &Response<Body>,
        from: u64,
        into: &mut Incoming,
    ) -> Result<Option<u64>, FetchError> {
        let headers = response.headers();
        let status = response.status();
        match status {
            StatusCode::OK => into.restart().await.map_err(FetchError::Receive)?,
            StatusCode::PARTIAL_CONTENT if part_begins(headers) == Some(from) => {}
            // What came is of no use to this server.
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => {
                into.restart().await.map_err(FetchError::Receive)?;
                return Err(FetchError::Part { host: host(url) });
            }
            status => return Err(FetchError::Status { url: shown(url), status }),
        }
        if let Some(encoding) = text(headers, &CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            return Err(FetchError::Encoding { url: shown(url), encoding: encoding.to_owned() });
        }
        let left = hyper::body::Body::size_hint(response.body()).exact();
        let total = left.map(|left| left.saturating_add(into.size()));
        match total {
            Some(bytes) if bytes > self.limits.size_max => {
                Err(FetchError::Large { url: shown(url), most: self.limits.size_max })
            }
            total => Ok(total),
        }
    }

    async fn take(
        &self,
        url: &Url,
        mut body: Body,
        into: &mut Incoming,
        told: &watch::Sender<Progress>,
    ) -> Result<(), FetchError> {
        let Limits { silence, pace, pace_bytes, size_max, .. } = self.limits;
        let (mut since, mut came) = (Instant::now(), 0);
        loop {
            let frame = timeout(silence, body.frame()).await;
            let frame =
                frame.map_err(|_| FetchError::Late { host: host(url), seconds: silence.as_secs() })?;
            let Some(frame) = frame else { return Ok(()) };
            let frame = frame.map_err(|source| FetchError::Broken { host: host(url), source })?;
            let Ok(bytes) = frame.into_data() else { continue };
            if into.size().saturating_add(bytes.len() as u64) > size_max {
                return Err(FetchError::Large { url: shown(url), most: size_max });
            }
            into.write(&bytes).await.map_err(FetchError::Receive)?;
            told.send_modify(|progress| progress.bytes = into.size());
            came += bytes.len() as u64;
            if since.elapsed() >= pace {
                if came < pace_bytes {
                    return Err(FetchError::Slow { host: host(url), bytes: came, seconds: pace.as_secs() });
                }
                (since, came) = (Instant::now(), 0);
            }
        }
    }
}

/// Where an answer sends us on to.
fn redirect(from: &Url, response: &Response<Body>) -> Result<Option<Url>, FetchError> {
    let sent_on = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    if !sent_on {
        return Ok(None);
    }
    let bad = |problem: String| FetchError::Redirect { url: shown(from), problem };
    let to = text(response.headers(), &LOCATION).ok_or_else(|| bad("it does not say where to".to_owned()))?;
    let to = from.join(to).map_err(|error| bad(error.to_string()))?;
    check_url(to.as_str()).map(Some).map_err(bad)
}

/// From which byte on a part is (RFC 9110 section 14.4): `bytes 5-9/10`.
fn part_begins(headers: &HeaderMap) -> Option<u64> {
    let range = text(headers, &CONTENT_RANGE)?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
