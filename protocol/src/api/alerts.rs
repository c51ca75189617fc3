//! Alerts as the API shows them.

use serde::{Deserialize, Serialize};

use crate::id::{AlertId, HostId, NotificationId, VpsId};

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Look at it within days.
    Warning,
    /// Look at it now.
    Critical,
}

/// Where an alert is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// Its condition holds, not for long enough yet.
    Pending,
    /// It fires.
    Firing,
    /// Its condition no longer holds.
    Resolved,
}

/// An alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AlertView {
    /// Its id.
    pub id: AlertId,
    /// Name of the rule, such as `HostUnreachable`.
    pub rule: String,
    /// How bad.
    pub severity: Severity,
    /// Where it is in its life.
    pub state: AlertState,
    /// Of which host.
    pub host: Option<HostId>,
    /// Of which VPS.
    pub vps: Option<VpsId>,
    /// What is wrong, and what to do.
    pub summary: String,
    /// Since when its condition holds, RFC 3339.
    pub since: String,
    /// Since when it fires, RFC 3339.
    pub firing_since: Option<String>,
    /// When it resolved, RFC 3339.
    pub resolved_at: Option<String>,
    /// When its condition was last judged on fresh facts, RFC 3339.
    pub last_seen: String,
    /// When it was last mailed, RFC 3339.
    pub last_notified: Option<String>,
}

/// How one recipient's mail went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Not sent yet, or to be tried again.
    Waiting,
    /// Taken by the server.
    Delivered,
    /// Refused for good, or tried for too long.
    GivenUp,
}

/// One recipient of one notification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeliveryView {
    /// The mailbox.
    pub recipient: String,
    /// How it went.
    pub state: DeliveryState,
    /// Tries so far.
    pub attempts: u32,
    /// What the server said last.
    pub last_answer: Option<String>,
    /// When it is tried next, RFC 3339.
    pub next_attempt_at: Option<String>,
}

/// A notification in the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NotificationView {
    /// Its id.
    pub id: NotificationId,
    /// The Message-ID of its mail (RFC 5322), the same at every try.
    pub message_id: String,
    /// The alerts it tells of.
    pub alerts: Vec<AlertId>,
    /// When it was written, RFC 3339.
    pub created_at: String,
    /// Its recipients.
    pub deliveries: Vec<DeliveryView>,
}
