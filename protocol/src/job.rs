//! Jobs: one-shot tasks inside desired state, and their results.

use serde::{Deserialize, Serialize};

use crate::id::{JobId, SnapshotId, VpsId};
use crate::units::{Generation, UnixMillis};

/// A one-shot task: started once, finished or undone after a crash, its result kept until acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What to do.
    pub kind: JobKind,
    /// Not begun by then, it is not begun at all.
    pub deadline: UnixMillis,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Stops a VPS, gracefully first, and starts it again.
    Restart {
        /// Which VPS.
        vps: VpsId,
    },
    /// Takes a snapshot of its disk; a VPS that runs keeps running.
    TakeSnapshot {
        /// Of which VPS.
        vps: VpsId,
        /// What it becomes.
        snapshot: SnapshotId,
    },
    /// Makes its disk what it was in a snapshot. The VPS is stopped for it, and started again if it should run.
    RestoreSnapshot {
        /// Of which VPS.
        vps: VpsId,
        /// Which.
        snapshot: SnapshotId,
    },
    /// Removes a snapshot; one that is not there is removed already.
    DeleteSnapshot {
        /// Of which VPS.
        vps: VpsId,
        /// Which.
        snapshot: SnapshotId,
    },
}

impl JobKind {
    /// The VPS that it works on.
    #[must_use]
    pub fn vps(&self) -> VpsId {
        match *self {
            Self::Restart { vps }
            | Self::TakeSnapshot { vps, .. }
            | Self::RestoreSnapshot { vps, .. }
            | Self::DeleteSnapshot { vps, .. } => vps,
        }
    }

    /// Whether it changes a VPS's snapshots or disk: once given it is seen through, since half of it is worse than none.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        match self {
            Self::Restart { .. } => false,
            Self::TakeSnapshot { .. } | Self::RestoreSnapshot { .. } | Self::DeleteSnapshot { .. } => true,
        }
    }
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOutcome {
    /// As asked.
    Done,
    /// Not done; things are as before, or as the message says.
    Failed {
        /// What was wrong and what to do.
        problem: String,
    },
}

/// The result of a job, delivered durably and in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobResult {
    /// Which job.
    pub job: JobId,
    /// How it ended.
    pub outcome: JobOutcome,
    /// When, by the host's clock.
    pub finished_at: UnixMillis,
    /// The desired state it was part of.
    pub generation: Generation,
}
