//! Why a mutation was not done: what was wrong, where, and what to do. The API turns these into problem documents.

use std::sync::Arc;

use crate::store::CommitError;
use crate::store::record::RecordError;

/// What kind of error, for the API's status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such row, or it is not the caller's to see.
    NotFound,
    /// The request contradicts itself or the rules.
    Invalid,
    /// The request is right and cannot be done in the present state.
    Conflict,
    /// The caller's role may not do it.
    Forbidden,
    /// No host can take it.
    NoCapacity,
    /// The tenant's quota does not allow it.
    OverQuota,
    /// `If-Match` named another revision.
    Stale,
    /// `If-Match` is missing where the change would overwrite what somebody else may have changed.
    Unconditional,
    /// The plan is not known, or not true any more.
    PlanMoved,
    /// The idempotency key was used for another request.
    KeyReused,
    /// The credentials are not enough.
    Unauthorised,
    /// The store or another part of the orchestrator failed.
    Internal,
}

/// Why a mutation was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FleetError {
    /// What the caller can mend.
    #[error("{detail}")]
    Refused {
        /// What kind.
        kind: ErrorKind,
        /// What was wrong and what to do.
        detail: String,
        /// Which part of the request: a JSON pointer, header or parameter.
        location: Option<&'static str>,
    },
    /// The row could not be encoded.
    #[error("a row could not be encoded")]
    Record(#[source] Arc<RecordError>),
    /// The commit was not made.
    #[error("the change was not stored")]
    Store(#[source] CommitError),
    /// The orchestrator is going down.
    #[error("the orchestrator is shutting down: try again in a moment")]
    Closed,
}

impl FleetError {
    /// The error of a request that names something that does not exist.
    #[must_use]
    pub fn not_found(kind: &str, which: impl std::fmt::Display) -> Self {
        let detail = format!("there is no {kind} `{which}`; list what there is and check the name or id");
        Self::Refused { kind: ErrorKind::NotFound, detail, location: None }
    }

    /// The error of a request that breaks a rule.
    #[must_use]
    pub fn invalid(location: &'static str, detail: impl Into<String>) -> Self {
        Self::Refused { kind: ErrorKind::Invalid, detail: detail.into(), location: Some(location) }
    }

    /// The error of a request that does not fit the present state.
    #[must_use]
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::Refused { kind: ErrorKind::Conflict, detail: detail.into(), location: None }
    }

    /// The error of a part of the orchestrator that failed.
    #[must_use]
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::Refused { kind: ErrorKind::Internal, detail: detail.into(), location: None }
    }

    /// The same for a tenant, who is not told of hosts.
    pub(super) fn without_hosts(self) -> Self {
        match self {
            Self::Refused { kind: ErrorKind::NoCapacity, location, .. } => Self::Refused {
                kind: ErrorKind::NoCapacity,
                detail: "there is no room for it now; choose less or another region, or try again later"
                    .to_owned(),
                location,
            },
            other => other,
        }
    }

    /// What kind of error it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { kind, .. } => *kind,
            Self::Record(_) | Self::Store(_) | Self::Closed => ErrorKind::Internal,
        }
    }

    /// Which part of the request was wrong.
    #[must_use]
    pub const fn location(&self) -> Option<&'static str> {
        match self {
            Self::Refused { location, .. } => *location,
            Self::Record(_) | Self::Store(_) | Self::Closed => None,
        }
    }
}

impl From<RecordError> for FleetError {
    fn from(error: RecordError) -> Self {
        Self::Record(Arc::new(error))
    }
}
