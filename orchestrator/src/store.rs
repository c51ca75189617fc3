//! What the orchestrator knows for good: a revisioned key-value contract with the semantics of etcd, so that the embedded
//! backend and a cluster can stand behind it alike.
//!
//! Only this folder names a database. Rows of the use cases are encoded by [`record`]; secrets are sealed by [`seal`]
//! before they get here. Nothing here decides what should be stored.

use futures_util::future::BoxFuture;

pub mod commit;
pub mod export;
pub mod key;
mod pulse;
pub mod record;
pub mod seal;
pub mod sled;
pub mod watch;
mod writer;

#[cfg(test)]
mod tests;

pub use commit::{Commit, CommitError, Expect, Guard, ReadError, Record, Revision, StoreFailure};
pub use key::{EVERYTHING, Key, KeyError, KeyPart, Part, Prefix};
pub use record::{Decoded, Meta, RecordError, Row, decode, decode_value, encode};
pub use watch::{Change, Event, EventBatch, WatchError, WatchStream};

/// The contract. Every backend passes the same suite of tests.
///
/// Reads and watches see only what is durable.
pub trait Store: Send + Sync {
    /// One row.
    fn get(&self, key: &Key) -> BoxFuture<'static, Result<Option<Record>, ReadError>>;

    /// All rows of a folder in key order, and the revision at which they stood there together.
    fn list(&self, folder: &Prefix) -> BoxFuture<'static, Result<(Revision, Vec<Record>), ReadError>>;

    /// Makes the changes when all guards hold. The commit is queued by the call itself, in call order, before the future
    /// is polled: a caller may send the next one without waiting. The future resolves when the commit is durable, to its
    /// revision; dropping it does not take the commit back.
    ///
    /// A commit that changes nothing (no puts, no delete that finds its row) makes no revision and resolves to the newest.
    /// A caller that pipelines keeps fewer than [`QUEUE_COMMITS_MAX`] commits under way and so never meets
    /// [`CommitError::Busy`].
    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Revision, CommitError>>;

    /// Everything that happens in a folder from that revision on (inclusive): after a list at revision r, watch from
    /// `r.next()`. Commits that do not touch the folder are left out.
    fn watch(&self, folder: &Prefix, from: Revision) -> WatchStream;

    /// Whether commits are taken: known at once, without a commit and without waiting for a disk.
    ///
    /// # Errors
    /// When the store has failed, was closed, or has been writing for so long that its disk must hang.
    fn ready(&self) -> Result<(), CommitError>;

    /// The newest durable revision.
    fn revision(&self) -> Revision;
}

/// Commits that may wait in a store. The decider keeps fewer under way.
pub const QUEUE_COMMITS_MAX: usize = 4096;

/// Bytes of waiting commits together: 40 of the largest allowed, thousands of the usual.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
