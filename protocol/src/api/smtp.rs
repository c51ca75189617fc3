//! The mail server that alerts leave through.

use serde::{Deserialize, Serialize};

/// How the connection to the mail server is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SmtpSecurity {
    /// Begins in the clear and must switch to TLS before anything else (RFC 3207); usual on port 587.
    #[default]
    Starttls,
    /// TLS from the first byte (RFC 8314); usual on port 465.
    Tls,
    /// In the clear. Never with a password except to loopback.
    None,
}

/// Sets the mail server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ConfigureSmtp {
    /// Name or address of the server.
    pub host: String,
    /// Its port; 587, 465 or 25 by `security` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How the connection is protected.
    #[serde(default)]
    pub security: SmtpSecurity,
    /// User name, where the server wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Its password. Absent with the same user name and host as before: the one that is kept. It never comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The sender's mailbox.
    pub from: String,
    /// Who gets the alerts.
    pub to: Vec<String>,
    /// Certificates to trust instead of the system's, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// The name given in EHLO; the machine's own where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hello: Option<String>,
}

/// The mail server as configured, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SmtpView {
    /// Name or address of the server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub security: SmtpSecurity,
    /// User name.
    pub username: Option<String>,
    /// Whether a password is kept.
    pub password_set: bool,
    /// The sender's mailbox.
    pub from: String,
    /// Who gets the alerts.
    pub to: Vec<String>,
    /// Whether certificates of its own are trusted.
    pub ca_set: bool,
    /// The name given in EHLO.
    pub hello: Option<String>,
    /// Revision, for `If-Match`.
    pub revision: u64,
}

/// Sends a test mail now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TestSmtp {
    /// To whom; the configured recipients where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
}

/// How the test went for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SmtpTestOutcome {
    /// The mailbox.
    pub recipient: String,
    /// Whether the server took the mail.
    pub delivered: bool,
    /// What the server said, or what went wrong and what to do.
    pub answer: String,
}

/// How the test went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SmtpTested {
    /// Whether every recipient got it.
    pub delivered: bool,
    /// Each recipient.
    pub outcomes: Vec<SmtpTestOutcome>,
}
