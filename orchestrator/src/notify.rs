//! All that leaves the orchestrator: mail, and webhooks (`webhook`). Settings of the mail server, the test mail, and what the API
//! shows of the outbox. When something is told is decided in `alerts`.

use std::sync::Arc;

use chom_protocol::api::alerts::DeliveryState;
use chom_protocol::api::alerts::{DeliveryView, NotificationView};
use chom_protocol::api::smtp::{
    ConfigureSmtp, SmtpSecurity, SmtpTestOutcome, SmtpTested, SmtpView, TestSmtp,
};
use futures_util::future::join_all;

use crate::clock::{self, rfc3339};
use crate::fleet::state::{State, Stored, Table};
use crate::fleet::{Caller, Decision, Done, ErrorKind, Fleet, FleetError, RequestMark, check_revision};
use crate::store::seal::{MasterKey, Sealed};

mod hello;
pub mod mail;
pub(crate) mod outbox;
pub(crate) mod render;
pub mod rows;
pub mod webhook;

use mail::{Limits, Mail, Mailer, SendError, Server};
use rows::{Delivery, NotificationRow, SmtpRow, THE_SERVER};

/// Recipients of alerts; more belong into a list of the mail server's.
pub const RECIPIENTS_MAX: usize = 20;
/// Longest `ca_pem`: a stored value is smaller than 64 KiB, and a handful of certificates is enough.
pub const CA_PEM_BYTES_MAX: usize = 32 * 1024;
/// Longest text of any other setting: what RFC 5321 allows a path or domain, and passwords that are tokens.
pub const SETTING_BYTES_MAX: usize = 1024;

/// Sends what alerts have to tell. Clones are handles to the same.
#[derive(Clone)]
pub struct Notifier(Arc<Inner>);

struct Inner {
    fleet: Fleet,
    master: Arc<MasterKey>,
    hello: Option<String>,
    limits: Limits,
}

impl Notifier {
    /// For one fleet; `master` opens the password.
    #[must_use]
    pub fn new(fleet: Fleet, master: Arc<MasterKey>) -> Self {
        Self::with_limits(fleet, master, Limits::default())
    }

    /// With other deadlines than usual.
    #[must_use]
    pub fn with_limits(fleet: Fleet, master: Arc<MasterKey>, limits: Limits) -> Self {
        Self(Arc::new(Inner { fleet, master, hello: hello::own_name(), limits }))
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        &self.0.fleet
    }

    /// The mail server as configured.
    #[must_use]
    pub fn smtp_view(&self) -> Option<SmtpView> {
        smtp_view(&self.fleet().state())
    }

    /// Sets the mail server. What waits in the outbox is tried at once.
    ///
    /// # Errors
    /// When a setting cannot be, or `If-Match` names another revision.
    pub async fn smtp_configure(
        &self,
        caller: &Caller,
        mark: RequestMark,
        request: ConfigureSmtp,
    ) -> Result<Done<SmtpView>, FleetError> {
        check(&request)?;
        let sealed = match &request.password {
            Some(password) => {
                let key = SmtpRow::key(&THE_SERVER);
                Some(self.0.master.seal(&key, password.as_bytes()).map_err(|error| internal(&error))?)
            }
            None => None,
        };
        self.fleet()
            .mutate(caller, mark, move |decision, mark| configure(decision, mark, request, sealed))
            .await
    }

    /// Sends a test mail now, to each recipient in a transaction of its own.
    ///
    /// # Errors
    /// When no mail server is configured, or a recipient is no mailbox.
    pub async fn smtp_test(&self, request: TestSmtp) -> Result<SmtpTested, FleetError> {
        check_recipients("/to", &request.to)?;
        let state = self.fleet().state();
        let Some(row) = state.get::<SmtpRow>(&THE_SERVER) else {
            return Err(FleetError::conflict(
                "no mail server is configured; set one with `chomctl smtp configure` first",
            ));
        };
        let to = if request.to.is_empty() { row.to.clone() } else { request.to };
        let mailer = self.mailer(row);
        let now = clock::now();
        let domain = mail::domain(&row.from).unwrap_or_else(|| "chom.invalid".to_owned());
        let attempt = |recipient: String| {
            let (mailer, id) = (mailer.clone(), uuid::Uuid::new_v4());
            let mail = Mail {
                from: row.from.clone(),
                to: recipient.clone(),
                message_id: format!("<{id}@{domain}>"),
                thread: None,
                date: now,
                subject: "[TEST] CHOM can send mail".to_owned(),
                body: format!("Asked for at {}. Alerts come the same way.\n", rfc3339(now)),
            };
            async move {
                let outcome = match mailer {
                    Ok(mailer) => mailer.send(&mail).await,
                    Err(error) => Err(error),
                };
                let delivered = outcome.is_ok();
                let answer = outcome.unwrap_or_else(|error| error.to_string());
                SmtpTestOutcome { recipient, delivered, answer }
            }
        };
        let outcomes: Vec<SmtpTestOutcome> = join_all(to.into_iter().map(attempt)).await;
        Ok(SmtpTested { delivered: outcomes.iter().all(|outcome| outcome.delivered), outcomes })
    }

    /// Makes the settings usable.
    pub(crate) fn mailer(&self, row: &SmtpRow) -> Result<Mailer, SendError> {
        let SmtpRow { host, port, security, username, sealed_password, from: _, to: _, ca_pem, hello } = row;
        let password = match sealed_password {
            Some(sealed) => {
                let plain = self.0.master.open(&SmtpRow::key(&THE_SERVER), sealed);
                let plain = plain.map_err(|error| SendError::Settings(error.to_string()))?;
                Some(String::from_utf8(plain).map_err(|error| SendError::Settings(error.to_string()))?)
            }
            None => None,
        };
        Mailer::new(Server {
            host: host.clone(),
            port: *port,
            security: *security,
            credentials: username.clone().zip(password),
            ca_pem: ca_pem.clone(),
            hello: hello.clone().or_else(|| self.0.hello.clone()),
            limits: self.0.limits,
        })
    }
}

fn internal(error: &dyn std::error::Error) -> FleetError {
    FleetError::Refused { kind: ErrorKind::Internal, detail: error.to_string(), location: None }
}

/// The mail server as configured in a state.
#[must_use]
pub fn smtp_view(state: &State) -> Option<SmtpView> {
    let Stored { row, revision } = state.smtp.get(&THE_SERVER)?;
    let SmtpRow { host, port, security, username, sealed_password, from, to, ca_pem, hello } = row.as_ref();
    Some(SmtpView {
        host: host.clone(),
        port: *port,
        security: *security,
        username: username.clone(),
        password_set: sealed_password.is_some(),
        from: from.clone(),
        to: to.clone(),
        ca_set: ca_pem.is_some(),
        hello: hello.clone(),
        revision: revision.0,
    })
}

/// A notification as the API shows it.
#[must_use]
pub fn notification_view(row: &NotificationRow) -> NotificationView {
    let delivery = |delivery: &Delivery| {
        let Delivery { recipient, state, attempts, last_answer, next_attempt_at } = delivery.clone();
        let next_attempt_at = next_attempt_at.map(rfc3339);
        DeliveryView { recipient, state, attempts, last_answer, next_attempt_at }
    };
    NotificationView {
        id: row.id,
        message_id: row.message_id.clone(),
        alerts: row.firing.iter().chain(&row.resolved).copied().collect(),
        created_at: rfc3339(row.created_at),
        deliveries: row.deliveries.iter().map(delivery).collect(),
    }
}

fn configure(
    decision: &mut Decision,
    mark: &RequestMark,
    request: ConfigureSmtp,
    sealed: Option<Sealed>,
) -> Result<SmtpView, FleetError> {
    let before = decision.state.smtp.get(&THE_SERVER).cloned();
    check_revision(mark, before.as_ref().map(|stored| stored.revision).unwrap_or_default())?;
    let ConfigureSmtp { host, port, security, username, password: _, from, to, ca_pem, hello } = request;
    let kept = before.filter(|stored| stored.row.host == host && stored.row.username == username);
    let kept = kept.and_then(|stored| stored.row.sealed_password.clone());
    let sealed_password = if username.is_some() { sealed.or(kept) } else { None };
    if username.is_some() && sealed_password.is_none() {
        return Err(FleetError::invalid(
            "/password",
            "give the password of `username`; one is kept only for the same host and user name",
        ));
    }
    let usual = match security {
        SmtpSecurity::Starttls => 587,
        SmtpSecurity::Tls => 465,
        SmtpSecurity::None => 25,
    };
    let port = port.unwrap_or(usual);
    decision.put(SmtpRow { host, port, security, username, sealed_password, from, to, ca_pem, hello })?;
    decision.audit("smtp.configure", "smtp")?;
    retry_now(decision)?;
    smtp_view(&decision.state).ok_or(FleetError::Closed)
}

/// What waits is tried with the new settings at once, as much of it as one commit takes.
fn retry_now(decision: &mut Decision) -> Result<(), FleetError> {
    const ROWS_MAX: usize = 64;
    let rows = decision.state.notifications.values().map(|stored| stored.row.as_ref());
    let waiting: Vec<NotificationRow> = rows.filter(|row| !row.is_done()).take(ROWS_MAX).cloned().collect();
    for mut row in waiting {
        for delivery in &mut row.deliveries {
            if delivery.state == DeliveryState::Waiting {
                delivery.next_attempt_at = Some(decision.now);
            }
        }
        decision.put(row)?;
    }
    Ok(())
}

fn check(request: &ConfigureSmtp) -> Result<(), FleetError> {
    let ConfigureSmtp { host, port, security, username, password, from, to, ca_pem, hello } = request;
    check_host("/host", host)?;
    if *port == Some(0) {
        return Err(FleetError::invalid("/port", "0 is no port; leave it out for the usual one"));
    }
    for (location, text) in [("/username", username), ("/password", password)] {
        let Some(text) = text else { continue };
        if text.is_empty() || text.len() > SETTING_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(FleetError::invalid(
                location,
                format!("give 1 to {SETTING_BYTES_MAX} bytes without control characters, or leave it out"),
            ));
        }
    }
    if username.is_none() && password.is_some() {
        return Err(FleetError::invalid("/username", "there is a password and no user name"));
    }
    if username.is_some() && *security == SmtpSecurity::None && !mail::is_loopback(host) {
        return Err(FleetError::invalid(
            "/security",
            "a password is never sent in the clear to another machine: use `starttls` or `tls`, or leave the user name out",
        ));
    }
    mail::check_mailbox(from).map_err(|what| FleetError::invalid("/from", what))?;
    if to.is_empty() {
        return Err(FleetError::invalid("/to", "name at least one mailbox that gets the alerts"));
    }
    check_recipients("/to", to)?;
    if let Some(pem) = ca_pem {
        if pem.len() > CA_PEM_BYTES_MAX {
            let what =
                format!("{} bytes; at most {CA_PEM_BYTES_MAX} are allowed: give only the CA", pem.len());
            return Err(FleetError::invalid("/ca_pem", what));
        }
        mail::check_ca(pem).map_err(|what| FleetError::invalid("/ca_pem", what))?;
    }
    hello.as_ref().map_or(Ok(()), |name| check_host("/hello", name))
}

fn check_recipients(location: &'static str, to: &[String]) -> Result<(), FleetError> {
    if to.len() > RECIPIENTS_MAX {
        let what =
            format!("{} mailboxes; at most {RECIPIENTS_MAX} are allowed: use a mailing list", to.len());
        return Err(FleetError::invalid(location, what));
    }
    let mut seen = std::collections::BTreeSet::new();
    for recipient in to {
        if recipient.len() > SETTING_BYTES_MAX {
            return Err(FleetError::invalid(location, "a mailbox is too long"));
        }
        mail::check_mailbox(recipient).map_err(|what| FleetError::invalid(location, what))?;
        if !seen.insert(recipient) {
            return Err(FleetError::invalid(location, format!("`{recipient}` is there twice; remove one")));
        }
    }
    Ok(())
}

/// A host name (RFC 1123) or an address.
fn check_host(location: &'static str, text: &str) -> Result<(), FleetError> {
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty() && label.len() <= 63 && label.chars().all(inner) && !label.starts_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    if text.parse::<std::net::IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(label)) {
        return Ok(());
    }
    let what = format!("`{}` is neither a host name nor an address", text.escape_debug());
    Err(FleetError::invalid(location, what))
}

#[cfg(test)]
mod tests;
