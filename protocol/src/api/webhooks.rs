//! Webhooks: who is told of what by HTTP, as the API shows and takes them. Deliveries follow the Standard Webhooks
//! specification (headers `webhook-id`, `webhook-timestamp`, `webhook-signature`), so that its libraries verify them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::api::alerts::DeliveryState;
use crate::id::{DeliveryId, Name, VpsId, WebhookId};

/// Longest URL of a webhook.
pub const WEBHOOK_URL_BYTES_MAX: usize = 2048;

/// What a webhook can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WebhookKind {
    /// How far operations are: `operation.pending`, `operation.running`, `operation.succeeded` and so on.
    Operations,
    /// `alert.firing` and `alert.resolved`; only for webhooks of the fleet.
    Alerts,
    /// A VPS used up its traffic of this month: `quota.exceeded`, `quota.cleared`.
    Quota,
    /// The usage records of each hour: `usage.hour`, up to 512 of them each.
    Usage,
}

impl WebhookKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Operations, Self::Alerts, Self::Quota, Self::Usage];
}

impl std::fmt::Display for WebhookKind {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Operations => "operations",
            Self::Alerts => "alerts",
            Self::Quota => "quota",
            Self::Usage => "usage",
        })
    }
}

/// Makes a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateWebhook {
    /// What it is called; unique in its tenant, or among those of the fleet.
    pub name: Name,
    /// Where events are sent to by POST. `https`; `http` too for webhooks of the fleet, and for those of a tenant that stay
    /// in `webhooks.networks` of the configuration. No redirect is followed.
    pub url: String,
    /// What it is told of.
    pub kinds: BTreeSet<WebhookKind>,
    /// Whose events; the caller's own tenant where absent, or all of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
}

/// Changes a webhook; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UpdateWebhook {
    /// Where events are sent to, also those that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What it is told of from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<BTreeSet<WebhookKind>>,
    /// Whether it is told anything. While it is not, nothing new is queued for it, and what waits keeps waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Makes a new secret. For a day deliveries are signed with both.
    #[serde(default)]
    pub new_secret: bool,
}

/// A webhook, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WebhookView {
    /// Its id.
    pub id: WebhookId,
    /// What it is called.
    pub name: Name,
    /// Whose events; none: all of the fleet.
    pub tenant: Option<Name>,
    /// Where events are sent to.
    pub url: String,
    /// What it is told of.
    pub kinds: BTreeSet<WebhookKind>,
    /// Whether it is told anything. Only people change that.
    pub enabled: bool,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Deliveries that wait.
    pub waiting: u64,
    /// Since when the oldest of them waits, RFC 3339.
    pub waiting_since: Option<String>,
    /// What is in its way: the answer to the oldest one that was tried in vain.
    pub problem: Option<String>,
    /// Deliveries that were given up or dropped because they waited too long, or too many did.
    pub dropped: u64,
    /// When that last happened, RFC 3339.
    pub dropped_at: Option<String>,
    /// Until when deliveries are signed with the secret before this one as well, RFC 3339.
    pub old_secret_until: Option<String>,
    /// Its revision, for `If-Match`.
    pub revision: u64,
}

/// A webhook that was just made or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WebhookMade {
    /// What is kept of it.
    pub webhook: WebhookView,
    /// The secret that its deliveries are signed with, where a new one was made; shown this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// The last try of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AttemptView {
    /// When, RFC 3339.
    pub at: String,
    /// How long it took.
    pub duration_ms: u64,
    /// The status of the answer; none: there was no answer.
    pub status: Option<u16>,
    /// The first bytes of the answer, or what was in the way.
    pub answer: String,
}

/// One event on its way to one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WebhookDeliveryView {
    /// The event's id, which the receiver gets as `webhook-id`; of usage what each of its ids begins with.
    pub id: DeliveryId,
    /// What it is, such as `operation.succeeded`.
    pub event: String,
    /// What it is about; deliveries of one resource keep their order.
    pub resource: String,
    /// About which VPS.
    pub vps: Option<VpsId>,
    /// How it went.
    pub state: DeliveryState,
    /// When it happened, RFC 3339.
    pub created_at: String,
    /// Tries so far.
    pub attempts: u32,
    /// The last of them.
    pub last_attempt: Option<AttemptView>,
    /// When it is tried next, RFC 3339; at once where absent.
    pub next_attempt_at: Option<String>,
}

/// Sends again what is kept of a webhook's deliveries, under the same ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReplayWebhook {
    /// This delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliveryId>,
    /// Or all that happened since then, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// What will be sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WebhookReplayed {
    /// How many deliveries.
    pub deliveries: u64,
    /// There are more than one request takes: ask again with this as `since`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more_since: Option<String>,
}

/// How the test of a webhook went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WebhookTested {
    /// The id that was sent along.
    pub id: DeliveryId,
    /// Whether the receiver took it: its answer had a status from 200 to 299.
    pub delivered: bool,
    /// How it went.
    pub attempt: AttemptView,
}
