//! The admin API as a client of it: typed, trusting the fleet's CA alone, with deadlines, and able to say the same thing
//! again under the same key.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chom_protocol::api::alerts::{AlertState, AlertView};
use chom_protocol::api::hosts::{HostAdded, HostState, HostView};
use chom_protocol::api::operations::OperationView;
use chom_protocol::api::vps_servers::{VpsAccepted, VpsView};
use chom_protocol::api::{Page, Problem};
use chom_protocol::{HostId, OperationId, VpsId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::wait::wait_for;

/// An answer is here by then, or the orchestrator is taken for gone. The product promises 100 ms.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Why a request was not done.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The orchestrator said no.
    Refused(Box<Problem>),
    /// No answer, or none that makes sense: it may or may not have been done.
    Silent(String),
}

impl Failure {
    /// The status of a no; 0 for silence.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Refused(problem) => problem.status,
            Self::Silent(_) => 0,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(problem) => {
                write!(out, "{} {}: {}", problem.status, problem.title, problem.detail)?;
                problem.location.iter().try_for_each(|location| write!(out, " (at {location})"))
            }
            Self::Silent(what) => write!(out, "no answer: {what}"),
        }
    }
}

/// A client with a token.
#[derive(Debug, Clone)]
pub struct Api {
    http: ureq::Agent,
    /// `https://host:port`.
    pub server: String,
    /// The bearer token.
    pub token: String,
    /// Certificates of the CAs that are trusted, PEM.
    pub ca: Vec<u8>,
}

/// How to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Read.
    Get,
    /// Change.
    Post,
    /// Delete.
    Delete,
}

impl Api {
    /// A client that trusts the CAs in a PEM file.
    ///
    /// # Panics
    /// When the file cannot be read.
    #[must_use]
    pub fn new(server: String, token: String, ca: &Path) -> Self {
        let pem = std::fs::read(ca).unwrap_or_else(|error| panic!("{}: {error}", ca.display()));
        let certificate = |item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        };
        let roots: Vec<Certificate<'static>> = parse_pem(&pem).filter_map(certificate).collect();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&roots))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let http = ureq::Agent::config_builder()
            .tls_config(tls)
            .proxy(None)
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_DEADLINE))
            .build()
            .new_agent();
        Self { http, server, token, ca: pem }
    }

    /// The same server, asked with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// Asks, and gives status and body.
    ///
    /// # Errors
    /// When no whole answer came.
    pub fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&[u8]>,
        headers: &[(&str, &str)],
    ) -> Result<(u16, Vec<u8>), Failure> {
        let url = format!("{}{path}", self.server);
        let authorization = format!("Bearer {}", self.token);
        let mut all = vec![("Authorization", authorization.as_str())];
        all.extend_from_slice(headers);
        let answer = match method {
            Method::Get => with(self.http.get(url), &all).call(),
            Method::Delete => with(self.http.delete(url), &all).call(),
            Method::Post => match body {
                Some(body) => with(self.http.post(url), &all).content_type("application/json").send(body),
                None => with(self.http.post(url), &all).send_empty(),
            },
        };
        let silent = |error: ureq::Error| Failure::Silent(error.to_string());
        let mut answer = answer.map_err(silent)?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(64 << 20).read_to_vec().map_err(silent)?;
        Ok((status, body))
    }

    /// Asks, and reads the answer.
    ///
    /// # Errors
    /// When it was refused, or no answer came that makes sense.
    pub fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<T, Failure> {
        let body = body.map(|body| body.to_string().into_bytes());
        let headers: Vec<(&str, &str)> = key.map(|key| ("Idempotency-Key", key)).into_iter().collect();
        let (status, answer) = self.ask(method, path, body.as_deref(), &headers)?;
        read(status, &answer)
    }

    /// Reads one thing.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::Get, path, None, None)
    }

    /// Changes something.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body = serde_json::to_value(body).unwrap();
        self.call(Method::Post, path, Some(&body), None)
    }

    /// Overwrites something, whatever it is now.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn overwrite<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).unwrap();
        let (status, answer) = self.ask(Method::Post, path, Some(&body), &[("If-Match", "*")])?;
        read(status, &answer)
    }

    /// A whole list.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Failure> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let page: Page<T> = self.get(&format!("{path}?limit=1000{cursor}"))?;
            items.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }

    /// Invites a host.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn add_host(&self, name: &str, region: &str) -> Result<HostAdded, Failure> {
        self.post("/api/hosts", &json!({"name": name, "region": region}))
    }

    /// A host.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn host(&self, host: HostId) -> Result<HostView, Failure> {
        self.get(&format!("/api/hosts/{host}"))
    }

    /// Creates a VPS of the smallest size.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn create(&self, name: &str, key: Option<&str>) -> Result<VpsAccepted, Failure> {
        let body = json!({"name": name, "region": "us-east", "size": "small"});
        self.call(Method::Post, "/api/vps-servers", Some(&body), key)
    }

    /// Does something to a VPS: start, stop, restart, delete, undelete, purge.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn act(&self, vps: VpsId, action: &str, key: Option<&str>) -> Result<VpsAccepted, Failure> {
        let path = format!("/api/vps-servers/{vps}");
        match action {
            "delete" => self.call(Method::Delete, &path, None, key),
            _ => self.call(Method::Post, &format!("{path}/{action}"), None, key),
        }
    }

    /// A VPS.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn vps(&self, vps: VpsId) -> Result<VpsView, Failure> {
        self.get(&format!("/api/vps-servers/{vps}"))
    }

    /// An operation.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn operation(&self, operation: OperationId) -> Result<OperationView, Failure> {
        self.get(&format!("/api/operations/{operation}"))
    }

    /// Alerts of a rule that fire now.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn firing(&self, rule: &str) -> Result<Vec<AlertView>, Failure> {
        let alerts: Vec<AlertView> = self.list("/api/alerts")?;
        let fires = |alert: &AlertView| alert.rule == rule && alert.state == AlertState::Firing;
        Ok(alerts.into_iter().filter(fires).collect())
    }

    /// Waits until an operation has ended.
    ///
    /// # Panics
    /// When it has not in time.
    #[must_use]
    pub fn ended(&self, operation: OperationId, deadline: Duration) -> OperationView {
        wait_for("an operation to end", deadline, || {
            let row = self.operation(operation).map_err(|failure| failure.to_string())?;
            if row.state.is_final() { Ok(row) } else { Err(format!("{row:?}")) }
        })
    }

    /// Waits until a host is in a state.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn host_becomes(&self, host: HostId, state: HostState, deadline: Duration) -> HostView {
        wait_for(&format!("host {host} to be {state:?}"), deadline, || {
            let row = self.host(host).map_err(|failure| failure.to_string())?;
            if row.state == state { Ok(row) } else { Err(format!("{row:?}")) }
        })
    }

    /// Waits until something holds of a VPS.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn vps_becomes(
        &self,
        vps: VpsId,
        what: &str,
        deadline: Duration,
        holds: impl Fn(&VpsView) -> bool,
    ) -> VpsView {
        wait_for(&format!("VPS {vps} to be {what}"), deadline, || {
            let row = self.vps(vps).map_err(|failure| failure.to_string())?;
            if holds(&row) { Ok(row) } else { Err(format!("{row:?}")) }
        })
    }
}

fn read<T: DeserializeOwned>(status: u16, answer: &[u8]) -> Result<T, Failure> {
    let strange = |error: serde_json::Error| {
        Failure::Silent(format!("{status} {error}: {}", String::from_utf8_lossy(answer)))
    };
    match status {
        200..300 => serde_json::from_slice(answer).map_err(strange),
        _ => Err(Failure::Refused(Box::new(serde_json::from_slice(answer).map_err(strange)?))),
    }
}

fn with<B>(request: ureq::RequestBuilder<B>, headers: &[(&str, &str)]) -> ureq::RequestBuilder<B> {
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

/// Asks until there is an answer, with one key: through any number of restarts, done once.
///
/// # Errors
/// When it was refused.
///
/// # Panics
/// When there is no answer within `deadline`.
pub fn insist<T>(
    what: &str,
    deadline: Duration,
    mut ask: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Box<Problem>> {
    wait_for(&format!("an answer to {what}"), deadline, || match ask() {
        Ok(value) => Ok(Ok(value)),
        // 503 is an answer of a server that comes or goes: ask again.
        Err(Failure::Refused(problem)) if problem.status == 503 => Err(problem.detail),
        Err(Failure::Refused(problem)) => Ok(Err(problem)),
        Err(Failure::Silent(what)) => Err(what),
    })
}
