//! What is stored of webhooks: themselves, the journal of events that are not spread yet, and their queues. Nothing here
//! decides.

use std::collections::BTreeSet;

use chom_protocol::api::alerts::DeliveryState;
use chom_protocol::api::webhooks::WebhookKind;
use chom_protocol::{DeliveryId, Name, UnixMillis, VpsId, WebhookId};
use serde::{Deserialize, Serialize};

use crate::store::seal::Sealed;
use crate::usage::archive::RecordKey;

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookRow {
    /// Its id.
    pub id: WebhookId,
    /// What it is called.
    pub name: Name,
    /// Whose events; none: all of the fleet.
    pub tenant: Option<Name>,
    /// Where they go.
    pub url: String,
    /// Of what it is told.
    pub kinds: BTreeSet<WebhookKind>,
    /// Whether it is told anything.
    pub enabled: bool,
    /// What deliveries are signed with.
    pub secret: Sealed,
    /// The one before it, while that is used too.
    pub old_secret: Option<OldSecret>,
    /// When it was made.
    pub created_at: UnixMillis,
    /// Deliveries that were given up or dropped.
    pub dropped: u64,
    /// When that last happened.
    pub dropped_at: Option<UnixMillis>,
}

/// A secret that was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldSecret {
    /// It.
    pub secret: Sealed,
    /// Until when deliveries are signed with it as well.
    pub until: UnixMillis,
}

/// Something that happened, as all that hear of it are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookEvent {
    /// Its id.
    pub id: DeliveryId,
    /// When.
    pub at: UnixMillis,
    /// Of what kind.
    pub kind: WebhookKind,
    /// What, such as `operation.succeeded`.
    pub name: String,
    /// Whose; none: the fleet's.
    pub tenant: Option<Name>,
    /// About which VPS.
    pub vps: Option<VpsId>,
    /// What keeps its order.
    pub resource: String,
    /// What is told.
    pub content: Content,
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// This body.
    Body(String),
    /// The records of an hour, read from its file when they are sent.
    Usage {
        /// Hours since 1970.
        hour: u64,
        /// Behind which record it goes on; what is before was taken by the receiver.
        after: Option<RecordKey>,
    },
}

/// Events of one decision that are not spread yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRow {
    /// Counts up.
    pub sequence: u64,
    /// Those that are left, in order.
    pub events: Vec<HookEvent>,
    /// The first of them is spread up to this webhook.
    pub spread_to: Option<WebhookId>,
}

/// The last try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub at: UnixMillis,
    /// How long it took.
    pub duration_ms: u64,
    /// Status of the answer.
    pub status: Option<u16>,
    /// Its first bytes, or what was in the way.
    pub answer: String,
}

/// An event in the queue of one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryRow {
    /// Of which webhook.
    pub webhook: WebhookId,
    /// Its place in the queue.
    pub sequence: u64,
    /// What happened.
    pub event: HookEvent,
    /// How it went.
    pub state: DeliveryState,
    /// Since when it is in the queue; later than the event where it is sent again.
    pub queued_at: UnixMillis,
    /// Tries so far.
    pub attempts: u32,
    /// When it is tried next; at once where absent.
    pub next_attempt_at: Option<UnixMillis>,
    /// The last try.
    pub last: Option<Attempt>,
}
