//! The audit trail as it is decided: who did what, what became of the rows (without secrets, and bounded), whose rows these
//! are, and what of an entry a caller is shown. Pure; the log on disk is `audit/`.

use std::any::Any;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use chom_protocol::api::audit::{AuditChange, AuditEntry, AuditResult};
use chom_protocol::{Name, OperationId, TokenId, UnixMillis, VpsId};
use serde_json::{Map, Value};

use crate::clock::rfc3339;
use crate::fleet::Caller;
use crate::fleet::network::rows::{AddressRow, TrafficRow};
use crate::fleet::rows::{AuditRow, Changed, OperationRow, SnapshotRow, TenantRow, VpsRow};
use crate::fleet::state::{State, Table};
use crate::store::Key;

/// The one row that says how far the log is.
pub const THE_LOG: u64 = 1;
/// Rows that one entry names; a create changes about five that are shown.
const CHANGES_MAX: usize = 32;
/// Before and after of one entry, as JSON text; rows beyond it are named only. A whole VPS has about 2 KiB, and a line of the
/// log must stay below `LINE_BYTES_MAX`.
const CHANGES_BYTES_MAX: usize = 16 * 1024;
/// Longest target; a denied request's is its path.
const TARGET_CHARACTERS_MAX: usize = 300;
/// Who did what the orchestrator does by itself.
pub const ITSELF: &str = "chom";
/// What a tenant is told of the fleet's people.
const PROVIDER: &str = "provider";

/// What of a kind of row the trail shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// All fields but these: secrets, and what says nothing to a reader.
    Without(&'static [&'static str]),
    /// That it was made, changed or removed.
    Named,
    /// Nothing: it only follows from other rows.
    Nothing,
}

/// Each kind of row. One that is not here is only named, so that no secret of a new kind gets out; a test asks for its line.
const KINDS: &[(&str, Shown)] = &[
    ("host", Shown::Without(&["epoch", "number"])),
    ("enrolment", Shown::Named),
    ("vps", Shown::Without(&[])),
    ("vps-name", Shown::Nothing),
    ("network", Shown::Without(&[])),
    ("pool", Shown::Without(&[])),
    ("address", Shown::Without(&[])),
    ("former-address", Shown::Nothing),
    ("traffic", Shown::Without(&["counted", "counted_at", "months"])),
    // User data have passwords in them.
    ("blob", Shown::Nothing),
    ("operation", Shown::Nothing),
    // Its parameters can have a password in them; what it does to each VPS is an entry of its own.
    ("bulk", Shown::Named),
    ("bulk-chunk", Shown::Nothing),
    ("snapshot", Shown::Without(&[])),
    ("job", Shown::Nothing),
    ("image", Shown::Without(&[])),
    // A URL can have a password in it.
    ("image-fetch", Shown::Without(&["url"])),
    ("prefetch", Shown::Without(&[])),
    ("ssh-key", Shown::Without(&[])),
    ("token", Shown::Without(&["hash", "last_used_at"])),
    ("user", Shown::Without(&["password", "signed_in_at"])),
    ("sign-in-lock", Shown::Nothing),
    ("tenant", Shown::Without(&[])),
    ("idempotency", Shown::Nothing),
    ("audit", Shown::Nothing),
    ("audit-head", Shown::Nothing),
    ("observed", Shown::Nothing),
    ("observed-vps", Shown::Nothing),
    ("authority", Shown::Without(&["certificate", "sealed_key"])),
    ("alert", Shown::Nothing),
    ("alert-group", Shown::Nothing),
    ("notification", Shown::Nothing),
    // A receiver's URL often is all that one has to know to write there.
    ("webhook", Shown::Without(&["url", "secret", "old_secret", "dropped", "dropped_at"])),
    ("delivery", Shown::Nothing),
    ("journal", Shown::Nothing),
    ("usage-held", Shown::Nothing),
    ("usage-closing", Shown::Nothing),
    ("smtp", Shown::Without(&["sealed_password", "ca_pem"])),
];

/// Fields that say where a VPS stands, and how its host is made: not for tenants.
const HOST_FIELDS: &[&str] = &["host", "scope", "adopted", "placement", "purging", "attachment", "number"];

fn shown(kind: &str) -> Shown {
    KINDS.iter().find(|(known, _)| *known == kind).map_or(Shown::Named, |(_, shown)| *shown)
}

/// Where a request comes from, and why it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The client's address.
    pub address: Option<IpAddr>,
    /// In its own words.
    pub reason: Option<Arc<str>>,
}

/// Who decides.
#[derive(Debug, Clone)]
pub(super) struct Actor {
    pub(super) name: Arc<str>,
    token: Option<TokenId>,
    tenant: Option<Name>,
    origin: Origin,
}

impl Actor {
    pub(super) fn named(name: Arc<str>) -> Self {
        Self { name, token: None, tenant: None, origin: Origin::default() }
    }

    /// Who has no token yet, or none any more.
    pub(super) fn from(name: Arc<str>, origin: Origin) -> Self {
        Self { origin, ..Self::named(name) }
    }

    pub(super) fn of(caller: &Caller) -> Self {
        Self {
            name: Arc::clone(&caller.name),
            token: Some(caller.token),
            tenant: caller.tenant.clone(),
            origin: caller.origin.clone(),
        }
    }
}

/// An entry before it is known what became of the rows.
#[derive(Debug, Clone)]
pub(super) struct Note {
    action: String,
    target: String,
    denied: Option<Denied>,
}

/// Requests that were refused.
#[derive(Debug, Clone)]
pub(super) struct Denied {
    /// Who made them, as far as that is known.
    pub(super) actor: Arc<str>,
    pub(super) token: Option<TokenId>,
    pub(super) tenant: Option<Name>,
    pub(super) address: Option<IpAddr>,
    pub(super) times: u64,
    /// Whether their tenant is told: not of rows that are not its own, for it would learn that they are there.
    pub(super) is_told: bool,
}

impl Note {
    pub(super) fn done(action: &str, target: impl std::fmt::Display) -> Self {
        Self { action: action.to_owned(), target: bounded(target.to_string()), denied: None }
    }

    pub(super) fn denied(action: &str, target: String, denied: Denied) -> Self {
        Self { action: action.to_owned(), target: bounded(target), denied: Some(denied) }
    }
}

#[cfg(test)]
impl Note {
    pub(super) fn times(&self) -> u64 {
        self.denied.as_ref().map_or(1, |denied| denied.times)
    }

    pub(super) fn summary(&self) -> String {
        format!("{} x{}", self.action, self.times())
    }
}

/// A text as a target may be: its beginning.
pub(super) fn bounded(text: String) -> String {
    match text.char_indices().nth(TARGET_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A row whose type does not matter here.
pub(super) trait AnyRow: Any {
    fn to_json(&self) -> Option<Value>;
    fn as_any(&self) -> &dyn Any;
}

impl<R: Table> AnyRow for R {
    fn to_json(&self) -> Option<Value> {
        serde_json::to_value(self).ok()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A changed row as it was and as it is.
#[derive(Clone)]
pub(super) struct Rows {
    shown: Shown,
    old: Option<Arc<dyn AnyRow>>,
    new: Option<Arc<dyn AnyRow>>,
}

impl Rows {
    pub(super) fn of<R: Table>(old: Option<&Arc<R>>, new: Option<&Arc<R>>) -> Self {
        let any = |row: &Arc<R>| Arc::clone(row) as Arc<dyn AnyRow>;
        Self { shown: shown(R::KIND), old: old.map(any), new: new.map(any) }
    }

    pub(super) fn become_now<R: Table>(&mut self, new: Option<&Arc<R>>) {
        self.new = new.map(|row| Arc::clone(row) as Arc<dyn AnyRow>);
    }

    fn tenant(&self, state: &State) -> Option<Name> {
        let of = |row: &Arc<dyn AnyRow>| tenant_of(row.as_ref(), state);
        self.new.as_ref().and_then(of).or_else(|| self.old.as_ref().and_then(of))
    }

    /// Before and after, where they differ; none if nothing that is shown does.
    fn difference(&self) -> Option<(Option<Value>, Option<Value>)> {
        let Shown::Without(hidden) = self.shown else {
            return (self.shown == Shown::Named).then_some((None, None));
        };
        let json = |row: &Option<Arc<dyn AnyRow>>| {
            let mut value = row.as_ref()?.to_json()?;
            if let Value::Object(fields) = &mut value {
                fields.retain(|name, _| !hidden.contains(&name.as_str()));
            }
            Some(value)
        };
        match (json(&self.old), json(&self.new)) {
            (Some(old), Some(new)) => differing(old, new).map(|(old, new)| (Some(old), Some(new))),
            (None, None) => None,
            one => Some(one),
        }
    }
}

/// The parts of two values that differ; of objects, only those fields.
fn differing(old: Value, new: Value) -> Option<(Value, Value)> {
    match (old, new) {
        (Value::Object(old), Value::Object(mut new)) => {
            let (mut before, mut after) = (Map::new(), Map::new());
            for (name, old) in old {
                match new.remove(&name) {
                    None => {
                        before.insert(name, old);
                    }
                    Some(new) => {
                        if let Some((old, new)) = differing(old, new) {
                            before.insert(name.clone(), old);
                            after.insert(name, new);
                        }
                    }
                }
            }
            after.extend(new);
            let differ = !before.is_empty() || !after.is_empty();
            differ.then_some((Value::Object(before), Value::Object(after)))
        }
        (old, new) => (old != new).then_some((old, new)),
    }
}

/// Whose a row is.
fn tenant_of(row: &dyn AnyRow, state: &State) -> Option<Name> {
    let of_vps = |id: &VpsId| state.get::<VpsRow>(id).map(|row| row.spec.tenant.clone());
    let any = row.as_any();
    if let Some(row) = any.downcast_ref::<VpsRow>() {
        Some(row.spec.tenant.clone())
    } else if let Some(row) = any.downcast_ref::<OperationRow>() {
        row.vps.map(|_| row.tenant.clone())
    } else if let Some(row) = any.downcast_ref::<TenantRow>() {
        Some(row.name.clone())
    } else if let Some(row) = any.downcast_ref::<SnapshotRow>() {
        of_vps(&row.vps)
    } else if let Some(row) = any.downcast_ref::<AddressRow>() {
        of_vps(&row.vps)
    } else if let Some(row) = any.downcast_ref::<TrafficRow>() {
        of_vps(&row.vps)
    } else {
        // Tokens, users, SSH keys and the like: all call it so.
        row.to_json()?.get("tenant")?.as_str()?.parse().ok()
    }
}

/// The entries of a decision: each has the changes of the row that it names; what no entry names is the first one's.
pub(super) fn rows<'a>(
    notes: Vec<Note>,
    actor: &Actor,
    changes: impl Iterator<Item = (&'a Key, &'a Rows)>,
    state: &State,
    operation: Option<OperationId>,
    now: UnixMillis,
) -> Vec<AuditRow> {
    let newest = state.audit.get_max().map_or(0, |(last, _)| *last).max(state.audit_head().last.sequence);
    let mut entries: Vec<Entry> = (newest + 1..)
        .zip(notes)
        .map(|(sequence, note)| Entry::new(sequence, note, actor, state, now))
        .collect();
    for entry in &mut entries {
        entry.row.operation = operation.filter(|_| entry.row.result == AuditResult::Done);
    }
    for (key, rows) in changes {
        let named =
            entries.iter().position(|entry| key.as_str().ends_with(&format!("/{}", entry.row.target)));
        if let Some(entry) = entries.get_mut(named.unwrap_or(0)) {
            entry.add(key, rows, state);
        }
    }
    entries.into_iter().map(|entry| entry.row).collect()
}

/// An entry that changes are added to.
struct Entry {
    row: AuditRow,
    bytes: usize,
    /// Whether its target says whose it is: then its changes do not.
    is_owned: bool,
}

impl Entry {
    fn new(sequence: u64, note: Note, actor: &Actor, state: &State, now: UnixMillis) -> Self {
        let Note { action, target, denied } = note;
        let mut row = AuditRow {
            sequence,
            at: now,
            actor: actor.name.to_string(),
            action,
            target,
            token: actor.token,
            actor_tenant: actor.tenant.clone(),
            address: actor.origin.address,
            reason: actor.origin.reason.as_deref().map(str::to_owned),
            tenants: BTreeSet::new(),
            result: AuditResult::Done,
            times: 1,
            operation: None,
            changes: Vec::new(),
            changes_left_out: 0,
        };
        if let Some(Denied { actor, token, tenant, address, times, is_told }) = denied {
            row.tenants.extend(tenant.clone().filter(|_| is_told));
            let actor = actor.to_string();
            row = AuditRow {
                actor,
                token,
                actor_tenant: tenant,
                address,
                times,
                result: AuditResult::Denied,
                ..row
            };
        } else if let Some(vps) = row.target.split(' ').next().and_then(|word| word.parse().ok()) {
            row.tenants.extend(state.get::<VpsRow>(&vps).map(|vps| vps.spec.tenant.clone()));
        }
        let is_owned = !row.tenants.is_empty();
        Self { row, bytes: 0, is_owned }
    }

    fn add(&mut self, key: &Key, rows: &Rows, state: &State) {
        let tenant = rows.tenant(state);
        self.row.tenants.extend(tenant.clone().filter(|_| !self.is_owned));
        let Some((before, after)) = rows.difference() else { return };
        if self.row.changes.len() == CHANGES_MAX {
            self.row.changes_left_out += 1;
            return;
        }
        let bytes = |value: &Option<Value>| value.as_ref().map_or(0, |value| value.to_string().len());
        let added = bytes(&before) + bytes(&after);
        let fits = self.bytes + added <= CHANGES_BYTES_MAX;
        let (before, after) = if fits { (before, after) } else { (None, None) };
        self.bytes += if fits { added } else { 0 };
        let row = key.as_str().trim_start_matches("/chom/v1/").to_owned();
        self.row.changes.push(Changed { row, tenant, before, after });
    }
}

/// An entry as a caller is shown it; none: it is not there for it.
#[must_use]
pub fn view(caller: &Caller, row: &AuditRow) -> Option<AuditEntry> {
    let AuditRow {
        sequence,
        at,
        actor,
        action,
        target,
        token,
        actor_tenant,
        address,
        reason,
        tenants,
        result,
        times,
        operation,
        changes,
        changes_left_out,
    } = row.clone();
    let change = |Changed { row, tenant: _, before, after }| AuditChange { row, before, after };
    let entry = AuditEntry {
        sequence,
        at: rfc3339(at),
        actor,
        token,
        address,
        action,
        target,
        tenants,
        reason,
        result,
        times,
        operation,
        changes: Vec::new(),
        changes_left_out,
    };
    let Some(own) = &caller.tenant else {
        return Some(AuditEntry { changes: changes.into_iter().map(change).collect(), ..entry });
    };
    if !entry.tenants.contains(own) {
        return None;
    }
    let entry = AuditEntry {
        tenants: [own.clone()].into(),
        changes_left_out: 0,
        changes: changes
            .into_iter()
            .filter(|row| row.tenant.as_ref() == Some(own))
            .map(without_host)
            .map(change)
            .collect(),
        ..entry
    };
    if actor_tenant.as_ref() == Some(own) {
        return Some(entry);
    }
    let actor = if entry.actor == ITSELF { ITSELF } else { PROVIDER };
    Some(AuditEntry { actor: actor.to_owned(), token: None, address: None, reason: None, ..entry })
}

/// A change as a tenant is shown it.
fn without_host(change: Changed) -> Changed {
    let Changed { row, tenant, mut before, mut after } = change;
    before.iter_mut().chain(&mut after).for_each(strip);
    // An address on a host's own network has the host in its key.
    let row = match row.split_once('/') {
        Some(("addresses", _)) => "addresses".to_owned(),
        _ => row,
    };
    Changed { row, tenant, before, after }
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !HOST_FIELDS.contains(&name.as_str()));
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
