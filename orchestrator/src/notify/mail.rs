//! Sends one mail to one recipient in one SMTP transaction (RFC 5321). Only this room names lettre. Every phase has a
//! deadline, and the whole one too. Decides nothing about retries; says what went wrong, where, and what to do.

mod problem;

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use chom_protocol::UnixMillis;
use chom_protocol::api::smtp::SmtpSecurity;
use data_encoding::BASE64;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message, SinglePart};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::Mechanism;
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters, TlsParametersBuilder,
};
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Quit, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use problem::words;
pub use problem::{Phase, SendError};

/// How long the farewell may take: the mail is delivered already.
const QUIT_WAIT: Duration = Duration::from_secs(2);

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Each phase. Servers that scan for spam answer within it; RFC 5321's minutes would stall an alert.
    pub phase: Duration,
    /// The whole transaction.
    pub total: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { phase: Duration::from_secs(30), total: Duration::from_secs(90) }
    }
}

/// A mail server, ready to be used.
#[derive(Clone)]
pub struct Server {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// How the connection is protected.
    pub security: SmtpSecurity,
    /// User name and password.
    pub credentials: Option<(String, String)>,
    /// Certificates to trust instead of the system's, PEM.
    pub ca_pem: Option<String>,
    /// The name given in EHLO; an address literal where absent.
    pub hello: Option<String>,
    /// Deadlines.
    pub limits: Limits,
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Server({}:{} {:?})", self.host, self.port, self.security)
    }
}

/// One mail to one recipient.
#[derive(Debug, Clone)]
pub struct Mail {
    /// The sender's mailbox.
    pub from: String,
    /// The recipient's mailbox.
    pub to: String,
    /// Message-ID, with its angle brackets.
    pub message_id: String,
    /// The mail that this one answers.
    pub thread: Option<String>,
    /// When it was written.
    pub date: UnixMillis,
    /// One line.
    pub subject: String,
    /// Plain text.
    pub body: String,
}

/// Checks a mailbox: `a@example.com` or `Name <a@example.com>`.
///
/// # Errors
/// What is wrong with it.
pub fn check_mailbox(text: &str) -> Result<(), String> {
    mailbox(text).map(|_| ())
}

fn mailbox(text: &str) -> Result<Mailbox, String> {
    if text.chars().any(char::is_control) {
        return Err(format!("`{}` has control characters in it", text.escape_debug()));
    }
    let mailbox: Mailbox = text.parse().map_err(|error| {
        format!("`{text}` is no mailbox ({error}); write `name@example.com` or `Name <name@example.com>`")
    })?;
    if mailbox.email.to_string().is_ascii() {
        Ok(mailbox)
    } else {
        Err(format!(
            "the address of `{text}` has letters outside ASCII; write its domain in punycode (xn--…)"
        ))
    }
}

/// The domain of a mailbox, for Message-IDs.
#[must_use]
pub fn domain(text: &str) -> Option<String> {
    mailbox(text).ok().map(|mailbox| mailbox.email.domain().to_owned())
}

/// Checks certificates to trust: PEM, at least one, each readable.
///
/// # Errors
/// What is wrong with them.
pub fn check_ca(pem: &str) -> Result<(), String> {
    let damaged = || {
        "it is no PEM text with certificates; paste them whole, from `-----BEGIN CERTIFICATE-----` on"
            .to_owned()
    };
    if !pem.contains("-----BEGIN CERTIFICATE-----") {
        return Err(damaged());
    }
    let certificate = Certificate::from_pem(pem.as_bytes()).map_err(|_| damaged())?;
    let builder = TlsParametersBuilder::new("localhost".to_owned()).certificate_store(CertificateStore::None);
    builder
        .add_root_certificate(certificate)
        .build()
        .map(|_| ())
        .map_err(|error| format!("a certificate in it cannot be used as a trust anchor ({error})"))
}

/// Whether a host is this machine.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Sends mails through one server.
#[derive(Clone)]
pub struct Mailer {
    server: Server,
    /// Reading the system's certificates takes a while: once for all mails.
    tls: Option<TlsParameters>,
}

impl Mailer {
    /// Prepares it.
    ///
    /// # Errors
    /// When the certificates cannot be used.
    pub fn new(server: Server) -> Result<Self, SendError> {
        let tls = match server.security {
            SmtpSecurity::None => None,
            SmtpSecurity::Starttls | SmtpSecurity::Tls => Some(tls_parameters(&server)?),
        };
        Ok(Self { server, tls })
    }

    /// Sends one mail; gives the server's last words. When the answer to the content is lost, the server may have taken
    /// the mail all the same: a second try then makes a second copy with the same Message-ID.
    ///
    /// # Errors
    /// Why it did not get through, or is not known to have.
    pub async fn send(&self, mail: &Mail) -> Result<String, SendError> {
        let (from, to) =
            (mailbox(&mail.from).map_err(SendError::Mail)?, mailbox(&mail.to).map_err(SendError::Mail)?);
        let content = content(mail, from.clone(), to.clone())?;
        let end = Instant::now() + self.server.limits.total;
        let mut connection = self.connect(end).await?;
        if let Some((user, password)) = &self.server.credentials {
            self.login(&mut connection, user, password, end).await?;
        }
        let sender = MailFrom::new(Some(from.email), Vec::new());
        self.step(Phase::Sender, end, connection.command(sender)).await?;
        self.step(Phase::Recipient, end, connection.command(Rcpt::new(to.email, Vec::new()))).await?;
        self.step(Phase::Data, end, connection.command(Data)).await?;
        let response = self.step(Phase::Content, end, connection.message(&content)).await?;
        // Delivered, whatever becomes of the farewell.
        let _ = tokio::time::timeout(QUIT_WAIT, connection.command(Quit)).await;
        Ok(words(response.code().into(), &response.message().collect::<Vec<_>>().join(" ")))
    }

    async fn connect(&self, end: Instant) -> Result<AsyncSmtpConnection, SendError> {
        let Server { host, port, security, .. } = &self.server;
        if let (SmtpSecurity::Tls, Some(tls)) = (security, &self.tls) {
            // lettre has no deadline but TCP's own: ours is around all of it.
            let hello = self.hello(None);
            let (address, tls) = ((host.as_str(), *port), Some(tls.clone()));
            let connect = AsyncSmtpConnection::connect_tokio1(address, None, &hello, tls, None);
            return self.step(Phase::ConnectTls, end, connect).await;
        }
        let connect = TcpStream::connect((host.as_str(), *port));
        let stream = match timeout_at(self.deadline(end), connect).await {
            Err(_) => return Err(self.late(Phase::Connect)),
            Ok(Err(error)) => return Err(self.broken(Phase::Connect, error.to_string(), String::new())),
            Ok(Ok(stream)) => stream,
        };
        let peer_is_loopback = stream.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback());
        if *security == SmtpSecurity::None && self.server.credentials.is_some() && !peer_is_loopback {
            return Err(SendError::Settings(format!(
                "the password was not sent: `{host}` is another machine and `security` is `none`; use `starttls` or `tls`"
            )));
        }
        let hello = self.hello(stream.local_addr().ok().map(|address| address.ip()));
        let greet = AsyncSmtpConnection::connect_with_transport(Box::new(stream), &hello);
        let mut connection = self.step(Phase::Greeting, end, greet).await?;
        if let (SmtpSecurity::Starttls, Some(tls)) = (security, &self.tls) {
            if !connection.server_info().supports_feature(Extension::StartTls) {
                return Err(SendError::Settings(format!(
                    "{} offers no STARTTLS; nothing was sent. Set `security` to `tls` with the port for it (usually 465), or, \
                     where the network in between is trusted, to `none`",
                    self.name()
                )));
            }
            self.step(Phase::Starttls, end, connection.starttls(tls.clone(), &hello)).await?;
        }
        Ok(connection)
    }

    /// PLAIN (RFC 4616) or LOGIN. LOGIN's prompts are not read: servers word them in many ways, the order is always the same.
    async fn login(
        &self,
        connection: &mut AsyncSmtpConnection,
        user: &str,
        password: &str,
        end: Instant,
    ) -> Result<(), SendError> {
        let base64 = |text: &str| BASE64.encode(text.as_bytes());
        let info = connection.server_info().clone();
        let commands = if info.supports_auth_mechanism(Mechanism::Plain) {
            vec![format!("AUTH PLAIN {}\r\n", base64(&format!("\0{user}\0{password}")))]
        } else if info.supports_auth_mechanism(Mechanism::Login) {
            vec![
                "AUTH LOGIN\r\n".to_owned(),
                format!("{}\r\n", base64(user)),
                format!("{}\r\n", base64(password)),
            ]
        } else {
            return Err(SendError::Settings(format!(
                "{} offers no login that we know (PLAIN, LOGIN), so no mail was sent; remove `username` and `password`, or use \
                 the port meant for submission (587 or 465)",
                self.name()
            )));
        };
        for command in commands {
            self.step(Phase::Auth, end, connection.command(command)).await?;
        }
        Ok(())
    }

    async fn step<T>(
        &self,
        phase: Phase,
        end: Instant,
        work: impl Future<Output = Result<T, SmtpError>>,
    ) -> Result<T, SendError> {
        match timeout_at(self.deadline(end), work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.explain(phase, &error)),
            Err(_) => Err(self.late(phase)),
        }
    }

    fn deadline(&self, end: Instant) -> Instant {
        end.min(Instant::now() + self.server.limits.phase)
    }

    fn name(&self) -> String {
        format!("{}:{}", self.server.host, self.server.port)
    }

    fn hello(&self, local: Option<IpAddr>) -> ClientId {
        match (&self.server.hello, local) {
            (Some(name), _) => name.parse().map_or_else(
                |_| ClientId::Domain(name.clone()),
                |ip| match ip {
                    IpAddr::V4(ip) => ClientId::Ipv4(ip),
                    IpAddr::V6(ip) => ClientId::Ipv6(ip),
                },
            ),
            (None, Some(IpAddr::V4(ip))) => ClientId::Ipv4(ip),
            (None, Some(IpAddr::V6(ip))) => ClientId::Ipv6(ip),
            (None, None) => ClientId::default(),
        }
    }
}

fn tls_parameters(server: &Server) -> Result<TlsParameters, SendError> {
    let unusable = |error: SmtpError| SendError::Settings(format!("`ca_pem` cannot be used: {error}"));
    let mut builder = TlsParametersBuilder::new(server.host.clone());
    if let Some(pem) = &server.ca_pem {
        builder = builder
            .certificate_store(CertificateStore::None)
            .add_root_certificate(Certificate::from_pem(pem.as_bytes()).map_err(unusable)?);
    }
    builder.build().map_err(unusable)
}

fn content(mail: &Mail, from: Mailbox, to: Mailbox) -> Result<Vec<u8>, SendError> {
    let unmakable = |error: &dyn std::error::Error| SendError::Mail(error.to_string());
    let automatic =
        HeaderName::new_from_ascii("Auto-Submitted".to_owned()).map_err(|error| unmakable(&error))?;
    let mut builder = Message::builder()
        .from(from)
        .to(to)
        .subject(super::render::one_line(&mail.subject))
        .message_id(Some(mail.message_id.clone()))
        .date(SystemTime::UNIX_EPOCH + Duration::from_millis(mail.date.0))
        // RFC 3834: no out-of-office replies, please.
        .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()));
    if let Some(first) = &mail.thread {
        builder = builder.in_reply_to(first.clone()).references(first.clone());
    }
    let text = SinglePart::plain(mail.body.clone());
    let message = builder.singlepart(text).map_err(|error| unmakable(&error))?;
    Ok(message.formatted())
}

#[cfg(test)]
mod tests;
