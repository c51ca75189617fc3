//! One POST of a webhook: signed, over a connection of its own, without redirects, with a deadline, and with a bound on what is
//! read of the answer. Decides nothing about retries.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chom_protocol::UnixMillis;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout};
use url::Url;

use super::queue::{Outcome, Verdict};
use super::rows::Attempt;
use super::signature::signature;
use crate::clock;
use crate::dial::{DialError, Dialer, Reach};

/// A receiver that needs longer to say that it took something should take it first and work on it later.
const DEADLINE: Duration = Duration::from_secs(15);
/// Looking the name up, connecting, TLS: each.
const STEP: Duration = Duration::from_secs(5);
/// What is read of an answer.
const ANSWER_BYTES_MAX: usize = 512;
const AGENT: &str = concat!("chom-orchestrator/", env!("CARGO_PKG_VERSION"));
/// The key of the configuration that opens networks to webhooks of tenants.
const SETTING: &str = "webhooks.networks";

/// What is posted.
pub(crate) struct Letter {
    /// Where to.
    pub(crate) url: String,
    /// Whether a tenant said so.
    pub(crate) of_tenant: bool,
    /// `webhook-id`.
    pub(crate) id: String,
    /// What it is signed with.
    pub(crate) secrets: Vec<Vec<u8>>,
    /// What is told.
    pub(crate) body: String,
}

/// Whom webhooks may be posted to.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Networks beside the public Internet that a tenant's webhook may stand in.
    pub networks: Vec<IpNet>,
}

impl Policy {
    /// Judges a URL, as far as the URL says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, text: &str, of_tenant: bool) -> Result<Url, String> {
        let mut url = Url::parse(text)
            .map_err(|error| format!("`{text}` is no URL ({error}); give `https://host/path`"))?;
        match url.scheme() {
            "https" => {}
            "http" if !of_tenant || !self.networks.is_empty() => {}
            "http" => return Err("a tenant's webhook is posted to by `https://` only".to_owned()),
            other => return Err(format!("webhooks are posted to by `https://`, not by `{other}:`")),
        }
        if url.host().is_none() {
            return Err(format!("`{text}` names no host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "the URL has a user or password in it, which everybody would see who sees the webhook; \
                 the receiver verifies the signature instead"
                    .to_owned(),
            );
        }
        url.set_fragment(None);
        self.reach(&url, of_tenant).check(&url)?;
        Ok(url)
    }

    /// Operators know their own network; tenants must not be able to look about in it, and what they are told does not cross
    /// the Internet in the clear.
    fn reach(&self, url: &Url, of_tenant: bool) -> Reach {
        let networks = of_tenant.then(|| self.networks.clone());
        Reach { networks, public: url.scheme() == "https", setting: SETTING }
    }
}

/// Posts.
#[derive(Clone)]
pub struct Poster {
    tls: Arc<ClientConfig>,
    policy: Policy,
}

impl Poster {
    /// Trusts as `tls` says.
    #[must_use]
    pub fn new(tls: ClientConfig, policy: Policy) -> Self {
        Self { tls: Arc::new(tls), policy }
    }

    /// One try.
    pub(crate) async fn post(&self, letter: &Letter) -> Outcome {
        let (at, began) = (clock::now(), Instant::now());
        let tried = timeout(DEADLINE, self.exchange(letter, at)).await;
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let late = || {
            let answer =
                format!("no answer within {} s; answer first and work on it later", DEADLINE.as_secs());
            Answered { status: None, answer, retry_after_seconds: None }
        };
        let Answered { status, answer, retry_after_seconds } = tried.unwrap_or_else(|_| late());
        let verdict = match status {
            Some(200..300) => Verdict::Taken,
            // What a proxy says of a receiver that is down, or that wants to be left alone.
            Some(429 | 502 | 503 | 504) | None => Verdict::Absent,
            Some(_) => Verdict::Refused,
        };
        Outcome { attempt: Attempt { at, duration_ms, status, answer }, verdict, retry_after_seconds }
    }

    async fn exchange(&self, letter: &Letter, at: UnixMillis) -> Answered {
        match self.try_exchange(letter, at).await {
            Ok(answered) => answered,
            Err(error) => {
                Answered { status: None, answer: bounded(&crate::chain(&error)), retry_after_seconds: None }
            }
        }
    }

    async fn try_exchange(&self, letter: &Letter, at: UnixMillis) -> Result<Answered, PostError> {
        let checked = self.policy.check(&letter.url, letter.of_tenant);
        let url = checked.map_err(|problem| DialError::Url { problem })?;
        let reach = self.policy.reach(&url, letter.of_tenant);
        let dialer = Dialer { tls: Arc::clone(&self.tls), reach, step: STEP };
        let stream = dialer.connect(&url).await?;
        let seconds = at.0 / 1000;
        let signed = signature(letter.secrets.iter().map(Vec::as_slice), &letter.id, seconds, &letter.body);
        let request = Request::post(&url[url::Position::BeforePath..])
            .header(HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
            .header(USER_AGENT, AGENT)
            .header(ACCEPT_ENCODING, "identity")
            .header(CONNECTION, "close")
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &letter.id)
            .header("webhook-timestamp", seconds.to_string())
            .header("webhook-signature", signed)
            .body(Full::new(Bytes::from(letter.body.clone())));
        let request = request.map_err(|error| DialError::Url { problem: error.to_string() })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // The connection must be driven while it is spoken on; how it ends shows in the answer.
        let driven = async {
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        let spoken = async { Ok(read(sender.send_request(request).await?).await) };
        tokio::select! {
            answered = spoken => answered,
            never = driven => match never {},
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the connection broke off")]
    Broken(#[from] hyper::Error),
}

struct Answered {
    status: Option<u16>,
    answer: String,
    retry_after_seconds: Option<u64>,
}

/// The beginning of an answer; the rest is not waited for.
async fn read(response: Response<hyper::body::Incoming>) -> Answered {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes.extend_from_slice(frame.data_ref().map(|data| data.as_ref()).unwrap_or_default());
    }
    let said = bounded(&String::from_utf8_lossy(&bytes));
    let answer = match status.is_redirection() {
        true => format!("redirects are not followed; give the webhook the URL that it leads to. {said}"),
        false => said,
    };
    Answered { status: Some(status.as_u16()), answer, retry_after_seconds: retry_after }
}

fn bounded(text: &str) -> String {
    let text: String = text.chars().take(ANSWER_BYTES_MAX).collect();
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests;
