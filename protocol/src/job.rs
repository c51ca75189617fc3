//! Jobs: one-shot tasks inside desired state, and their results.

use serde::{Deserialize, Serialize};

use crate::id::{JobId, VpsId};
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
