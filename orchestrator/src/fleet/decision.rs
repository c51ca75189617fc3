//! One mutation while it is decided: a working copy of the state in which each change shows at once, and the commit that
//! grows from it. Nothing here touches the store or a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chom_protocol::api::events::Event;
use chom_protocol::{DeliveryId, HostId, OperationId, UnixMillis, VpsId};
use uuid::Uuid;

use crate::fleet::audit::{self, Actor, Note, Rows};
use crate::fleet::error::FleetError;
use crate::fleet::events::Touched;
use crate::fleet::plans::Pinned;
use crate::fleet::rows::{HostRow, ObservedVpsRow, VpsRow};
use crate::fleet::state::{State, Stored, Table};
use crate::notify::webhook::courier;
use crate::notify::webhook::event::Telling;
use crate::notify::webhook::rows::HookEvent;
use crate::store::{Commit, Expect, Guard, Key, Revision, record};
use crate::usage::note;

/// Entries of the audit trail in one commit: half of its 128 changes.
const NOTES_MAX: usize = 64;

/// Entries that may wait for the audit log, about 1 KiB each in memory. They wait for a second, unless its disk is full or
/// broken: then nothing is done any more that would leave no trace.
const NOTES_WAITING_MAX: usize = 150_000;

/// A mutation being decided.
#[derive(Clone)]
pub struct Decision {
    /// The state with every change made so far.
    pub state: State,
    /// The time of the decision.
    pub now: UnixMillis,
    /// The operation that this decision begins, if it does.
    pub(super) operation: Option<OperationId>,
    /// What a plan that is applied leaves no choice of.
    pub(super) pinned: Option<Pinned>,
    /// Whether whoever asked is told on which hosts things stand.
    pub(super) sees_hosts: bool,
    pub(super) actor: Actor,
    changes: BTreeMap<Key, Change>,
    hosts: BTreeSet<HostId>,
    events: Vec<Event>,
    notes: Vec<Note>,
    journal: Vec<HookEvent>,
    touched: BTreeSet<Touched>,
}

#[derive(Clone)]
struct Change {
    before: Option<Revision>,
    value: Option<Arc<str>>,
    rows: Rows,
}

/// What a decision leaves behind.
pub(super) struct Decided {
    pub(super) after: State,
    pub(super) commit: Commit,
    pub(super) hosts: BTreeSet<HostId>,
    pub(super) events: Vec<Event>,
    pub(super) touched: BTreeSet<Touched>,
}

impl Decision {
    /// Begins on a state. Rows written now get the revision that comes next.
    pub(super) fn begin(state: &State, now: UnixMillis, actor: Arc<str>) -> Self {
        let mut state = state.clone();
        state.revision = state.revision.next();
        Self {
            state,
            now,
            operation: None,
            pinned: None,
            sees_hosts: true,
            actor: Actor::named(actor),
            changes: BTreeMap::new(),
            hosts: BTreeSet::new(),
            events: Vec::new(),
            notes: Vec::new(),
            journal: Vec::new(),
            touched: BTreeSet::new(),
        }
    }

    /// Decides a part of it: when that is refused, it is as if it had not been tried.
    ///
    /// # Errors
    /// What the part says.
    pub(super) fn attempt<T>(
        &mut self,
        part: impl FnOnce(&mut Self) -> Result<T, FleetError>,
    ) -> Result<T, FleetError> {
        let before = self.clone();
        part(self).inspect_err(|_| *self = before)
    }

    /// A new id, sortable by age (RFC 9562, version 7).
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        let seconds = self.now.0 / 1000;
        let nanos = u32::try_from(self.now.0 % 1000).unwrap_or(0) * 1_000_000;
        Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos))
    }

    /// Who asked for it.
    #[must_use]
    pub fn actor(&self) -> &str {
        &self.actor.name
    }

    /// The store's epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.state.meta.as_ref().map_or(0, |meta| meta.epoch)
    }

    /// Writes a row.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn put<R: Table>(&mut self, row: R) -> Result<(), FleetError> {
        let id = row.id();
        let value = record::encode(&row)?;
        let old = R::rows(&self.state).get(&id).cloned();
        self.touched.extend(row.touched(&self.state));
        self.state.insert(row, self.state.revision);
        self.change::<R>(&id, old, Some(value));
        Ok(())
    }

    /// Removes a row.
    pub fn delete<R: Table>(&mut self, id: &R::Id) {
        if let Some(old) = R::rows(&self.state).get(id).cloned() {
            self.touched.extend(old.row.touched(&self.state));
            self.state.remove::<R>(id);
            self.change::<R>(id, Some(old), None);
        }
    }

    fn change<R: Table>(&mut self, id: &R::Id, old: Option<Stored<R>>, value: Option<Arc<str>>) {
        let new = R::rows(&self.state).get(id).map(|stored| &stored.row);
        match self.changes.entry(R::key(id)) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                let before = old.as_ref().map(|stored| stored.revision);
                let rows = Rows::of(old.as_ref().map(|stored| &stored.row), new);
                entry.insert(Change { before, value, rows });
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let change = entry.get_mut();
                change.value = value;
                change.rows.become_now(new);
            }
        }
    }

    /// Raises a host's generation: something of its desired state changed in this decision. Gives the new number.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn raise(&mut self, host: HostId) -> Result<u64, FleetError> {
        let Some(row) = self.state.get::<HostRow>(&host) else {
            return Err(FleetError::not_found("host", host));
        };
        if !self.hosts.insert(host) {
            return Ok(row.number); // raised already by this decision
        }
        let mut row = row.clone();
        row.number += 1;
        let number = row.number;
        self.put(row)?;
        Ok(number)
    }

    /// Tells the event stream, once the decision is durable.
    pub fn tell(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Tells webhooks, in the same commit.
    pub(crate) fn tell_webhooks(&mut self, telling: Telling) {
        let id = DeliveryId::new(self.new_id());
        self.journal_event(telling.event(id, self.now));
    }

    /// Tells webhooks of an event that has an id already. Without any webhook nothing is written.
    pub(crate) fn journal_event(&mut self, event: HookEvent) {
        if !self.state.webhooks.is_empty() {
            self.journal.push(event);
        }
    }

    /// Writes what follows from the decision as a whole: what VPSs had before it, and what webhooks are told of it.
    ///
    /// # Errors
    /// When a row cannot be written.
    pub(super) fn complete(&mut self, before: &State) -> Result<(), FleetError> {
        let folders = [VpsRow::folder(), ObservedVpsRow::folder()];
        let of_vps = |key: &Key| folders.iter().find_map(|folder| key.below(folder)?.parse().ok());
        let changed: BTreeSet<VpsId> = self.changes.keys().filter_map(of_vps).collect();
        for row in note::changed(before, &self.state, &changed, self.now) {
            self.put(row)?;
        }
        for row in courier::journal(&self.state, std::mem::take(&mut self.journal)) {
            self.put(row)?;
        }
        Ok(())
    }

    /// Notes who did what to which row, in the same commit; what became of the rows is added when all is decided.
    ///
    /// # Errors
    /// When the decision has more entries than a commit has room for.
    pub fn audit(&mut self, action: &str, target: impl std::fmt::Display) -> Result<(), FleetError> {
        self.note(Note::done(action, target))
    }

    /// As [`Self::audit`], for what was not done by whoever decides.
    pub(super) fn note(&mut self, note: Note) -> Result<(), FleetError> {
        if self.notes.len() == NOTES_MAX {
            return Err(FleetError::internal(format!(
                "more than {NOTES_MAX} entries for the audit trail in one commit"
            )));
        }
        if self.state.audit.len() >= NOTES_WAITING_MAX {
            return Err(FleetError::internal(
                "the audit log cannot be written, and nothing is changed without it; free space in the state directory, the \
                 orchestrator's log says what is wrong",
            ));
        }
        self.notes.push(note);
        Ok(())
    }

    /// The commit, guarded by what was read of each changed row.
    ///
    /// # Errors
    /// When a line of the audit trail cannot be written.
    pub(super) fn finish(mut self) -> Result<Decided, FleetError> {
        let notes = std::mem::take(&mut self.notes);
        if !notes.is_empty() {
            let changes = self.changes.iter().map(|(key, change)| (key, &change.rows));
            let rows = audit::rows(notes, &self.actor, changes, &self.state, self.operation, self.now);
            for row in rows {
                self.put(row)?;
            }
        }
        let mut commit = Commit::new();
        for (key, change) in self.changes {
            let expect = change.before.map_or(Expect::Absent, Expect::Revision);
            match (change.value, change.before) {
                (Some(value), _) => {
                    commit.guards.push(Guard { key: key.clone(), expect });
                    commit.puts.push((key, value));
                }
                (None, Some(_)) => {
                    commit.guards.push(Guard { key: key.clone(), expect });
                    commit.deletes.push(key);
                }
                (None, None) => {} // made and removed again
            }
        }
        Ok(Decided {
            after: self.state,
            commit,
            hosts: self.hosts,
            events: self.events,
            touched: self.touched,
        })
    }
}
