//! The event stream: what changed, for whoever watches. An event says that something changed; the row says how it is.

use serde::{Deserialize, Serialize};

use crate::id::{AlertId, HostId, Name, OperationId, VpsId};

/// What changed. Its id on the stream is `epoch.sequence`; past the ring the stream begins with `reset`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// Events were missed: read the lists again.
    Reset,
    /// A VPS's desired or observed state.
    Vps {
        /// Which.
        id: VpsId,
        /// Its name.
        name: Name,
        /// Whose.
        tenant: Name,
        /// What happened, in words.
        message: String,
    },
    /// A host.
    Host {
        /// Which.
        id: HostId,
        /// Its name.
        name: Name,
        /// What happened, in words.
        message: String,
    },
    /// An operation.
    Operation {
        /// Which.
        id: OperationId,
        /// Whose VPS.
        tenant: Name,
        /// What happened, in words.
        message: String,
    },
    /// An alert.
    Alert {
        /// Which.
        id: AlertId,
        /// What happened, in words.
        message: String,
    },
}
