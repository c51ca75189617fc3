//! What a list that is watched tells, one document for each server-sent event.

use serde::{Deserialize, Serialize};

use crate::api::Problem;

/// What a watched list tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Change<T> {
    /// A row that is there at the beginning.
    Row {
        /// As the list has it.
        row: T,
    },
    /// All rows were told; what comes now are changes.
    Synced,
    /// A row changed, or came in.
    Changed {
        /// As it is now.
        row: T,
    },
    /// A row is not among them any more: it was removed, or a filter keeps it out.
    Gone {
        /// Which.
        id: String,
    },
    /// Changes were missed: forget all rows, they are told anew.
    Reset,
    /// The watch ends.
    Refused {
        /// Why, and what to do.
        problem: Problem,
    },
}
