//! What goes into the store and what comes back: records, guarded commits, their bounds and their errors. Pure.

use std::fmt;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::key::{KEY_BYTES_MAX, Key};

/// Changes (puts and deletes) in one commit, and guards of one commit: etcd's default `--max-txn-ops`.
pub const COMMIT_OPERATIONS_MAX: usize = 128;

/// Keys and values of one commit together: etcd's default `--max-request-bytes` (1.5 MiB).
pub const COMMIT_BYTES_MAX: usize = 1536 * 1024;

/// Values are shorter than this: what is larger leaves sled's log for files that it handles less safely.
pub const VALUE_BYTES_LIMIT: usize = 64 * 1024;

/// The number of a commit that changed something. Rises by one with each; zero is the empty store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one: where a watch begins that follows a list at this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// One stored row. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub key: Key,
    /// What stands there: JSON text, see `store::record`.
    pub value: Arc<str>,
    /// The commit that last wrote it.
    pub mod_revision: Revision,
    /// The commit that made it (after its last deletion, if it was deleted before).
    pub create_revision: Revision,
}

/// What a [`Guard`] expects of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// There is no such row.
    Absent,
    /// The row was last written by this commit.
    Revision(Revision),
}

/// A condition of a commit: when one does not hold, nothing of the commit happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The row that is looked at.
    pub key: Key,
    /// What it must be.
    pub expect: Expect,
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// All must hold, on the newest state (commits queued before this one included).
    pub guards: Vec<Guard>,
    /// Rows to write.
    pub puts: Vec<(Key, Arc<str>)>,
    /// Rows to remove; one that is not there is no error.
    pub deletes: Vec<Key>,
}

impl Commit {
    /// An empty commit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if there is no such row.
    #[must_use]
    pub fn if_absent(mut self, key: Key) -> Self {
        self.guards.push(Guard { key, expect: Expect::Absent });
        self
    }

    /// Only if the row was last written by that commit.
    #[must_use]
    pub fn if_revision(mut self, key: Key, revision: Revision) -> Self {
        self.guards.push(Guard { key, expect: Expect::Revision(revision) });
        self
    }

    /// Writes a row.
    #[must_use]
    pub fn put(mut self, key: Key, value: impl Into<Arc<str>>) -> Self {
        self.puts.push((key, value.into()));
        self
    }

    /// Removes a row.
    #[must_use]
    pub fn delete(mut self, key: Key) -> Self {
        self.deletes.push(key);
        self
    }

    /// Keys and values together, as they count against [`COMMIT_BYTES_MAX`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        let guards: usize = self.guards.iter().map(|guard| guard.key.as_str().len()).sum();
        let puts: usize = self.puts.iter().map(|(key, value)| key.as_str().len() + value.len()).sum();
        let deletes: usize = self.deletes.iter().map(|key| key.as_str().len()).sum();
        guards + puts + deletes
    }

    /// Whether the commit keeps the bounds that every backend has.
    ///
    /// # Errors
    /// When it is too large, one of its values is, or it changes one key twice.
    pub fn check(&self) -> Result<(), CommitError> {
        let operations = (self.puts.len() + self.deletes.len()).max(self.guards.len());
        if operations > COMMIT_OPERATIONS_MAX {
            return Err(CommitError::TooManyOperations { operations });
        }
        let bytes = self.bytes();
        if bytes > COMMIT_BYTES_MAX {
            return Err(CommitError::TooManyBytes { bytes });
        }
        let mut changed: Vec<&Key> = self.puts.iter().map(|(key, _)| key).chain(&self.deletes).collect();
        changed.sort_unstable();
        if let Some(pair) = changed.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(CommitError::DuplicateKey { key: pair[0].clone() });
        }
        if let Some(key) = changed.into_iter().find(|key| key.as_str().len() > KEY_BYTES_MAX) {
            return Err(CommitError::KeyTooLong { key: key.clone(), bytes: key.as_str().len() });
        }
        match self.puts.iter().find(|(_, value)| value.len() >= VALUE_BYTES_LIMIT) {
            Some((key, value)) => Err(CommitError::ValueTooLarge { key: key.clone(), bytes: value.len() }),
            None => Ok(()),
        }
    }
}

/// Why a commit did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// A guard did not hold: somebody else was faster. Read again and decide anew.
    #[error("`{key}` is {}, not as expected: it was changed meanwhile", Found(*.found))]
    Conflict {
        /// The first guard's key that did not hold.
        key: Key,
        /// Its newest revision; none when there is no such row.
        found: Option<Revision>,
    },
    /// More changes or guards than one commit may have.
    #[error("a commit of {operations} operations; at most {COMMIT_OPERATIONS_MAX} are allowed: split it")]
    TooManyOperations {
        /// How many it has.
        operations: usize,
    },
    /// More bytes than one commit may have.
    #[error("a commit of {bytes} bytes; at most {COMMIT_BYTES_MAX} are allowed: split it")]
    TooManyBytes {
        /// How many it has.
        bytes: usize,
    },
    /// A value that is too large for one row.
    #[error("the value of `{key}` has {bytes} bytes; it must have less than {VALUE_BYTES_LIMIT}")]
    ValueTooLarge {
        /// Its key.
        key: Key,
        /// Its length.
        bytes: usize,
    },
    /// A key that is too long.
    #[error("the key `{key}` has {bytes} bytes; at most {KEY_BYTES_MAX} are allowed")]
    KeyTooLong {
        /// The key.
        key: Key,
        /// Its length.
        bytes: usize,
    },
    /// One key is changed twice in one commit.
    #[error("`{key}` is changed twice in one commit")]
    DuplicateKey {
        /// The key.
        key: Key,
    },
    /// More commits wait than the store lets wait. The caller should wait for earlier ones.
    #[error("the store is busy: {commits} commits wait already; try again")]
    Busy {
        /// How many wait.
        commits: usize,
    },
    /// The store could not write. It takes no more until the orchestrator is restarted.
    #[error("the store cannot write any more; free space or repair the disk, then restart the orchestrator")]
    Failed {
        /// What went wrong first.
        #[source]
        source: Arc<StoreFailure>,
    },
    /// A write does not end.
    #[error("the store has been writing for {seconds} s; is its disk overloaded, or gone?")]
    Stalled {
        /// For how long by now.
        seconds: u64,
    },
    /// The store was closed.
    #[error("the store is closed: the orchestrator is shutting down")]
    Closed,
}

impl CommitError {
    /// Whether the same commit may succeed later without the caller changing it.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Stalled { .. } => true,
            Self::Conflict { .. }
            | Self::TooManyOperations { .. }
            | Self::TooManyBytes { .. }
            | Self::ValueTooLarge { .. }
            | Self::KeyTooLong { .. }
            | Self::DuplicateKey { .. }
            | Self::Failed { .. }
            | Self::Closed => false,
        }
    }
}

struct Found(Option<Revision>);

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(revision) => write!(out, "at revision {revision}"),
            None => out.write_str("absent"),
        }
    }
}

/// The first thing that went wrong when the store wrote; everything later fails with it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} the store in `{place}`")]
pub struct StoreFailure {
    /// What was being done: write, flush, sync.
    pub step: &'static str,
    /// Where.
    pub place: String,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Why a read failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The backend cannot be reached. The embedded one always can.
    #[error("the store cannot be read")]
    Failed {
        /// What went wrong.
        #[source]
        source: Arc<StoreFailure>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(&format!("/chom/v1/{text}")).unwrap()
    }

    #[test]
    fn a_commit_keeps_the_bounds_of_etcd() {
        let many =
            |count: usize| (0..count).fold(Commit::new(), |all, n| all.put(key(&format!("{n}")), "{}"));
        assert!(many(COMMIT_OPERATIONS_MAX).check().is_ok());
        let error = many(COMMIT_OPERATIONS_MAX).delete(key("x")).check().unwrap_err();
        assert!(matches!(error, CommitError::TooManyOperations { operations: 129 }), "{error}");

        let long = |bytes: usize| "x".repeat(bytes);
        assert!(Commit::new().put(key("a"), long(VALUE_BYTES_LIMIT - 1)).check().is_ok());
        let error = Commit::new().put(key("a"), long(VALUE_BYTES_LIMIT)).check().unwrap_err();
        assert!(matches!(error, CommitError::ValueTooLarge { .. }), "{error}");

        let value: Arc<str> = long(VALUE_BYTES_LIMIT - 1).into();
        let all = (0..24).fold(Commit::new(), |all, n| all.put(key(&format!("{n}")), Arc::clone(&value)));
        let error = all.check().unwrap_err();
        assert!(matches!(error, CommitError::TooManyBytes { .. }), "{error}");

        let error = Commit::new().put(key("a"), "1").delete(key("a")).check().unwrap_err();
        assert!(matches!(error, CommitError::DuplicateKey { .. }), "{error}");
    }

    #[test]
    fn a_conflict_says_what_was_found() {
        let error = CommitError::Conflict { key: key("a"), found: Some(Revision(7)) };
        assert_eq!(
            error.to_string(),
            "`/chom/v1/a` is at revision 7, not as expected: it was changed meanwhile"
        );
    }
}
