//! Operations: what every mutation that takes time returns.

use serde::{Deserialize, Serialize};

use crate::api::bulk::BulkCounts;
use crate::id::{HostId, Name, OperationId, VpsId};

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Desired state was written; its host has not acknowledged it yet.
    Pending,
    /// The host works on it.
    Running,
    /// Done.
    Succeeded,
    /// Ended without success; `problem` says why.
    Failed,
    /// A later operation on the same VPS took its place.
    Superseded,
    /// Taken back on request; the VPS is wanted as it was before.
    Cancelled,
}

impl OperationState {
    /// Whether it will change no more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Superseded | Self::Cancelled => true,
        }
    }
}

/// One step of an operation's trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperationStep {
    /// When, RFC 3339.
    pub at: String,
    /// What happened, in words.
    pub message: String,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperationView {
    /// Its id.
    pub id: OperationId,
    /// What it does, such as `create` or `restart`.
    pub kind: String,
    /// Whose VPS.
    pub tenant: Name,
    /// Which VPS.
    pub vps: Option<VpsId>,
    /// On which host.
    pub host: Option<HostId>,
    /// How far it is.
    pub state: OperationState,
    /// Its trail, oldest first.
    pub steps: Vec<OperationStep>,
    /// Why it failed, or what it waits for, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// When it was asked for, RFC 3339.
    pub created_at: String,
    /// When it will have ended at the latest, RFC 3339.
    pub deadline: String,
    /// When it ended, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Of an order on many VPSs that is shown by itself: how far they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulk: Option<BulkCounts>,
}
