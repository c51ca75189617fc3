//! What is stored of mail: the server, and the outbox. Rows refer to alerts; mails are rendered when they are sent. Nothing
//! here decides.

use chom_protocol::api::alerts::DeliveryState;
use chom_protocol::api::smtp::SmtpSecurity;
use chom_protocol::{AlertId, NotificationId, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::alerts::rows::Group;
use crate::store::seal::Sealed;

/// The number of the one mail server that there is.
pub(crate) const THE_SERVER: u64 = 1;

/// The mail server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmtpRow {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// How the connection is protected.
    pub security: SmtpSecurity,
    /// User name.
    pub username: Option<String>,
    /// Its password, sealed.
    pub sealed_password: Option<Sealed>,
    /// The sender's mailbox.
    pub from: String,
    /// Who gets the alerts.
    pub to: Vec<String>,
    /// Certificates to trust instead of the system's, PEM.
    pub ca_pem: Option<String>,
    /// The name given in EHLO.
    pub hello: Option<String>,
}

/// One recipient of one notification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The mailbox.
    pub recipient: String,
    /// How it went.
    pub state: DeliveryState,
    /// Tries so far.
    pub attempts: u32,
    /// What the server said last, or what went wrong.
    pub last_answer: Option<String>,
    /// When it is tried next.
    pub next_attempt_at: Option<UnixMillis>,
}

/// A notification in the outbox: one mail, which each recipient gets in a transaction of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationRow {
    /// Its id.
    pub id: NotificationId,
    /// The Message-ID (RFC 5322), the same for all recipients and tries.
    pub message_id: String,
    /// The Message-ID of the first mail of the same group, when this is not the first.
    pub thread: Option<String>,
    /// What it tells of.
    pub group: Group,
    /// Alerts that fired when it was written.
    pub firing: Vec<AlertId>,
    /// Alerts that were over when it was written.
    pub resolved: Vec<AlertId>,
    /// How many fired in all; `firing` is bounded.
    pub firing_count: usize,
    /// How many were over in all.
    pub resolved_count: usize,
    /// When it was written.
    pub created_at: UnixMillis,
    /// Its recipients.
    pub deliveries: Vec<Delivery>,
}

impl NotificationRow {
    /// Whether every recipient got it or was given up.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.deliveries.iter().all(|delivery| delivery.state != DeliveryState::Waiting)
    }
}
