//! Who is connected: one session for each host, the newest. Closing one is done here, from anywhere.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chom_certs::Fingerprint;
use chom_protocol::link::Close;
use chom_protocol::{HostId, InstanceId, UnixMillis};
use quinn::Connection;

use super::clones::Instances;

/// The sessions of all hosts.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<BTreeMap<HostId, Entry>>);

#[derive(Debug)]
struct Entry {
    current: Option<Connection>,
    key: Fingerprint,
    instances: Instances,
}

/// What the registry says of a session that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// It is the host's session now.
    Newest,
    /// Another machine uses the same key.
    Cloned,
}

impl Sessions {
    /// Enters a session, and closes the host's earlier one.
    pub(super) fn begin(
        &self,
        host: HostId,
        key: Fingerprint,
        instance: InstanceId,
        connection: &Connection,
        now: UnixMillis,
    ) -> Begun {
        let mut entries = self.entries();
        let entry = entries.entry(host).or_insert_with(|| Entry {
            current: None,
            key,
            instances: Instances::default(),
        });
        if entry.key != key {
            // A host that enrolled anew is not the clone of its old self.
            entry.key = key;
            entry.instances.clear();
        }
        let cloned = entry.instances.is_clone(instance, now);
        let older = entry.current.replace(connection.clone());
        drop(entries);
        if let Some(older) = older {
            let close = if cloned { Close::Cloned } else { Close::Replaced };
            end(&older, close, "a newer session of this host took over");
        }
        if cloned { Begun::Cloned } else { Begun::Newest }
    }

    /// Takes a session out, if it is still the host's newest.
    pub(super) fn end(&self, host: HostId, connection: &Connection) -> bool {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&host) else { return false };
        let is_newest =
            entry.current.as_ref().is_some_and(|current| current.stable_id() == connection.stable_id());
        if is_newest {
            entry.current = None;
        }
        is_newest
    }

    /// Closes the session of a host at once, if there is one.
    pub fn close(&self, host: HostId, close: Close, reason: &str) {
        let current = self.entries().get(&host).and_then(|entry| entry.current.clone());
        if let Some(connection) = current {
            end(&connection, close, reason);
        }
    }

    /// The live connection of a host.
    pub(super) fn connection(&self, host: HostId) -> Option<Connection> {
        self.entries().get(&host).and_then(|entry| entry.current.clone())
    }

    /// How many hosts are connected.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.entries().values().filter(|entry| entry.current.is_some()).count()
    }

    /// Whether a host is connected.
    #[must_use]
    pub fn is_connected(&self, host: HostId) -> bool {
        self.entries().get(&host).is_some_and(|entry| entry.current.is_some())
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<HostId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Longest reason that is sent along: it must fit one packet.
const REASON_BYTES_MAX: usize = 512;

/// Closes a connection with a code for the agent and a reason for a person.
pub(super) fn end(connection: &Connection, close: Close, reason: &str) {
    let reason = reason.as_bytes();
    connection.close(close.code().into(), &reason[..reason.len().min(REASON_BYTES_MAX)]);
}
