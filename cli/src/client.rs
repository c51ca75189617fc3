//! The one way to the orchestrator: HTTPS with a bearer token, problems as errors, lists followed to their end,
//! mutations with an `Idempotency-Key`. Nothing here prints.

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chom_protocol::api::audit::REASON_HEADER;
use chom_protocol::api::{PAGE_ROWS_MAX, Page, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tungstenite::WebSocket;
use ureq::http::{HeaderValue, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, RequestBuilder};

use crate::clock;
use crate::context::Target;
use crate::error::Failure;
use crate::socket::{self, Peer, Stream};

/// A connection that is not there by then will not come; SYN retransmits take 1, 3 and 7 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The API answers within 100 ms; this leaves room for a bad line and a full queue.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A test mail waits for the mail server, which may take minutes (RFC 5321 section 4.5.3.2).
pub(crate) const MAIL_TIMEOUT: Duration = Duration::from_secs(330);
/// The largest image over 100 Mbit/s takes an hour and a half.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(3 * 60 * 60);
/// Silence on the event stream after which it is taken for dead; the server sends a comment more often.
const STREAM_SILENCE_TIMEOUT: Duration = Duration::from_secs(90);
/// Largest answer: a page of 1000 hosts with some problems each is about 4 MiB.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Pages of one list; with 1000 rows each more than any fleet has.
const PAGES_MAX: u32 = 10_000;
/// Waits before the second and third try; a restart of the orchestrator takes about a second.
const RETRY_PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(1500)];

/// Whose certificates are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Exactly the CA in this file.
    File(PathBuf),
    /// The system's roots.
    System,
}

impl fmt::Display for Trust {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(out, "only the CA in {}", path.display()),
            Self::System => out.write_str("the system's CAs"),
        }
    }
}

/// Why TLS did not come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TlsProblem {
    /// Signed by nobody that is trusted.
    Issuer,
    /// For other names.
    Name(String),
    /// Out of its time.
    Time(String),
    /// The other side does not speak TLS.
    NotTls,
    /// Anything else.
    Other(String),
}

impl TlsProblem {
    fn of(error: &rustls::Error) -> Self {
        use rustls::CertificateError as C;
        match error {
            rustls::Error::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => Self::Issuer,
            rustls::Error::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
                Self::Name(error.to_string())
            }
            rustls::Error::InvalidCertificate(
                C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. },
            ) => Self::Time(error.to_string()),
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            other => Self::Other(other.to_string()),
        }
    }

    /// What to do about it.
    pub(crate) fn help(&self, trust: &Trust) -> String {
        match (self, trust) {
            (Self::Issuer, Trust::File(path)) => format!(
                "the server's certificate was not signed by the CA in {}: get the CA certificate of this orchestrator \
                 and add the context again with --ca-file",
                path.display()
            ),
            (Self::Issuer, Trust::System) => {
                "the orchestrator has a CA of its own: copy its CA certificate here and add the context again with --ca-file"
                    .to_owned()
            }
            (Self::Name(_), _) => {
                "use a name or address that the server's certificate has, or add this one to the orchestrator's names"
                    .to_owned()
            }
            (Self::Time(_), _) => {
                "check the clock of this machine, then the orchestrator's certificate".to_owned()
            }
            (Self::NotTls, _) => "check the port: what answers there does not speak HTTPS".to_owned(),
            (Self::Other(_), _) => {
                "check that the address is the orchestrator's HTTPS port and that it speaks TLS 1.3".to_owned()
            }
        }
    }
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issuer => out.write_str("its certificate was signed by an unknown CA"),
            Self::NotTls => out.write_str("it does not speak TLS"),
            Self::Name(text) | Self::Time(text) | Self::Other(text) => out.write_str(text),
        }
    }
}

/// A mutation's method.
#[derive(Debug, Clone, Copy)]
enum Method {
    Post,
    Delete,
}

/// An orchestrator that can be asked.
pub(crate) struct Client {
    agent: Agent,
    server: String,
    authorization: String,
    /// Why it is asked, sent with every change; none: nothing was said.
    reason: Option<HeaderValue>,
    trust: Trust,
    ca: Option<Vec<u8>>,
}

impl Client {
    /// Makes ready to ask; connects only when asked to.
    ///
    /// # Errors
    /// The system's CAs are to be trusted and there are none.
    pub(crate) fn new(target: Target, reason: Option<&str>) -> Result<Self, Failure> {
        // The command line takes no reason with control characters, which alone a header has no place for.
        let reason = reason.and_then(|text| HeaderValue::from_bytes(text.as_bytes()).ok());
        let ca = target.ca.as_ref().map(|(_, pem)| pem.clone());
        let (trust, certificates) = match target.ca {
            Some((path, pem)) => (Trust::File(path), certificates_of(&pem)),
            None if target.server.starts_with("http://") => (Trust::System, Vec::new()),
            None => (Trust::System, system_certificates(&target.server)?),
        };
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&certificates))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let mut config = Agent::config_builder()
            .tls_config(tls)
            // A redirect would carry the request to a server that nobody named.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("chomctl/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT));
        if target.server.starts_with("http://") {
            // Loopback only: a proxy elsewhere has no business with it.
            config = config.proxy(None);
        }
        Ok(Self {
            agent: config.build().new_agent(),
            server: target.server,
            authorization: format!("Bearer {}", target.token),
            reason,
            trust,
            ca,
        })
    }

    /// Reads one thing.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.retrying(|| self.get_page(path, &[]))
    }

    /// Reads one thing, with parameters.
    pub(crate) fn get_where<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, Failure> {
        self.retrying(|| self.get_page(path, query))
    }

    /// Reads a list to its end, or to `limit` rows.
    pub(crate) fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        limit: Option<u32>,
    ) -> Result<Vec<T>, Failure> {
        self.list_where(path, &[], limit)
    }

    /// Reads those rows of a list that its filters let through.
    pub(crate) fn list_where<T: DeserializeOwned>(
        &self,
        path: &str,
        filters: &[(&str, String)],
        limit: Option<u32>,
    ) -> Result<Vec<T>, Failure> {
        let wanted = limit.map_or(usize::MAX, |rows| usize::try_from(rows).unwrap_or(usize::MAX));
        let rows = limit.unwrap_or(PAGE_ROWS_MAX).clamp(1, PAGE_ROWS_MAX).to_string();
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut query = vec![("limit", rows.as_str())];
            query.extend(filters.iter().map(|(name, value)| (*name, value.as_str())));
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page: Page<T> = self.retrying(|| self.get_page(path, &query))?;
            items.extend(page.items);
            if items.len() >= wanted || page.next_cursor.is_none() {
                items.truncate(wanted);
                return Ok(items);
            }
            if page.next_cursor == cursor {
                break;
            }
            cursor = page.next_cursor;
        }
        Err(self.strange(None, format!("the list {path} does not end")))
    }

    /// Sends a file, described by parameters. It is not sent a second time when it fails.
    pub(crate) fn upload<Q: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        described: &Q,
        file: &std::path::Path,
    ) -> Result<T, Failure> {
        let failed =
            |source| Failure::File { what: "an image from", path: file.display().to_string(), source };
        let opened = std::fs::File::open(file).map_err(failed)?;
        let described =
            serde_json::to_value(described).map_err(|error| self.strange(None, error.to_string()))?;
        let text =
            |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let query: Vec<(String, String)> = described
            .as_object()
            .map(|fields| fields.iter().map(|(name, value)| (name.clone(), text(value))).collect())
            .unwrap_or_default();
        let answer = self
            .explained(self.agent.post(self.url(path)))
            .query_pairs(query.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .config()
            .timeout_global(Some(UPLOAD_TIMEOUT))
            .build()
            .header("Authorization", &self.authorization)
            .header("Accept", "application/json")
            .content_type("application/octet-stream")
            .send(&opened);
        self.decode(answer)
    }

    /// Changes something; the request has a body.
    pub(crate) fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Failure> {
        self.post_within(path, body, ANSWER_TIMEOUT)
    }

    /// Overwrites a row as it was read; refused when somebody else has changed it since.
    pub(crate) fn overwrite<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        revision: u64,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Failure::Format { format: "JSON", reason: error.to_string() })?;
        // A row that is not stored yet has no revision to name.
        let if_match = (revision > 0).then(|| format!("\"{revision}\""));
        self.mutate(Method::Post, path, (Some(&body), if_match.as_deref()), ANSWER_TIMEOUT)
    }

    /// Changes something that may take longer than answers usually do.
    pub(crate) fn post_within<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        timeout: Duration,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Failure::Format { format: "JSON", reason: error.to_string() })?;
        self.mutate(Method::Post, path, (Some(&body), None), timeout)
    }

    /// Changes something; there is nothing to say but the path.
    pub(crate) fn act<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.mutate(Method::Post, path, (None, None), ANSWER_TIMEOUT)
    }

    /// Deletes something.
    pub(crate) fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.mutate(Method::Delete, path, (None, None), ANSWER_TIMEOUT)
    }

    /// Opens the event stream, after the event with that id where one is given.
    pub(crate) fn stream(
        &self,
        path: &str,
        query: &[(&str, String)],
        last_event_id: Option<&str>,
    ) -> Result<impl Read + use<>, Failure> {
        let mut request = self
            .agent
            .get(self.url(path))
            .query_pairs(query.iter().map(|(name, value)| (*name, value.as_str())))
            .config()
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(STREAM_SILENCE_TIMEOUT))
            .build()
            .header("Authorization", &self.authorization)
            .header("Accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        let response = request.call().map_err(|error| self.unreachable(error))?;
        if response.status().as_u16() == 200 {
            return Ok(response.into_body().into_reader());
        }
        Err(self.refusal(response))
    }

    /// Opens a WebSocket.
    pub(crate) fn socket(&self, path: &str) -> Result<WebSocket<Stream>, Failure> {
        let Self { server, authorization, ca, .. } = self;
        socket::open(&Peer { server, authorization, ca: ca.as_deref() }, path)
    }

    /// An answer that makes no sense, as an error that names this server.
    pub(crate) fn strange(&self, status: Option<u16>, what: impl Into<String>) -> Failure {
        Failure::Answer { server: self.server.clone(), status, what: what.into() }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server)
    }

    fn get_page<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, Failure> {
        let answer = self
            .agent
            .get(self.url(path))
            .query_pairs(query.iter().copied())
            .config()
            .timeout_global(Some(ANSWER_TIMEOUT))
            .build()
            .header("Authorization", &self.authorization)
            .header("Accept", "application/json")
            .call();
        self.decode(answer)
    }

    fn mutate<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        (body, if_match): (Option<&[u8]>, Option<&str>),
        timeout: Duration,
    ) -> Result<T, Failure> {
        // One key for all tries: the server carries the mutation out once.
        let key = uuid::Uuid::new_v4().to_string();
        self.retrying(|| {
            let answer = match method {
                Method::Post => {
                    let mut request = self
                        .explained(self.agent.post(self.url(path)))
                        .config()
                        .timeout_global(Some(timeout))
                        .build()
                        .header("Authorization", &self.authorization)
                        .header("Accept", "application/json")
                        .header("Idempotency-Key", &key);
                    if let Some(if_match) = if_match {
                        request = request.header("If-Match", if_match);
                    }
                    match body {
                        Some(body) => request.content_type("application/json").send(body),
                        None => request.send_empty(),
                    }
                }
                Method::Delete => self
                    .explained(self.agent.delete(self.url(path)))
                    .config()
                    .timeout_global(Some(timeout))
                    .build()
                    .header("Authorization", &self.authorization)
                    .header("Accept", "application/json")
                    .header("Idempotency-Key", &key)
                    .call(),
            };
            self.decode(answer)
        })
    }

    /// A change with the reason for it.
    fn explained<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.reason {
            Some(reason) => request.header(REASON_HEADER, reason.clone()),
            None => request,
        }
    }

    fn retrying<T>(&self, mut ask: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
        for pause in RETRY_PAUSES {
            match ask() {
                Err(failure) if failure.is_retryable() => clock::pause(pause),
                outcome => return outcome,
            }
        }
        ask()
    }

    fn decode<T: DeserializeOwned>(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<T, Failure> {
        let mut response = answer.map_err(|error| self.unreachable(error))?;
        if !response.status().is_success() {
            return Err(self.refusal(response));
        }
        let bytes = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()
            .map_err(|error| self.unreachable(error))?;
        serde_json::from_slice(&bytes).map_err(|error| self.strange(None, error.to_string()))
    }

    fn refusal(&self, mut response: Response<Body>) -> Failure {
        let status = response.status().as_u16();
        let body =
            response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().unwrap_or_default();
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Failure::Problem {
                server: self.server.clone(),
                problem: Box::new(Problem { status, ..problem }),
            },
            Err(_) => self.strange(Some(status), format!("HTTP status {status} without a problem in it")),
        }
    }

    fn unreachable(&self, error: ureq::Error) -> Failure {
        if let Some(problem) = tls_problem(&error) {
            return Failure::Tls { server: self.server.clone(), problem, trust: self.trust.clone() };
        }
        if let ureq::Error::Timeout(phase) = &error {
            return Failure::Silent { server: self.server.clone(), phase: phase.to_string() };
        }
        // A timeout has cost enough; what a resolver or proxy refuses stays refused.
        let retryable = matches!(&error, ureq::Error::Io(source) if source.kind() != io::ErrorKind::TimedOut);
        Failure::Connection { server: self.server.clone(), retryable, source: Box::new(error) }
    }
}

fn tls_problem(error: &ureq::Error) -> Option<TlsProblem> {
    match error {
        ureq::Error::Rustls(error) => Some(TlsProblem::of(error)),
        ureq::Error::Tls(what) => Some(TlsProblem::Other((*what).to_owned())),
        ureq::Error::Io(error) => {
            error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).map(TlsProblem::of)
        }
        _ => None,
    }
}

fn certificates_of(pem: &[u8]) -> Vec<Certificate<'static>> {
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    parse_pem(pem).filter_map(certificate).collect()
}

fn system_certificates(server: &str) -> Result<Vec<Certificate<'static>>, Failure> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let reason = "this machine has no CA certificates (package ca-certificates)".to_owned();
        return Err(Failure::Tls {
            server: server.to_owned(),
            problem: TlsProblem::Other(reason),
            trust: Trust::System,
        });
    }
    Ok(found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect())
}
