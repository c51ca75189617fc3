//! Lists that are watched: first their rows, then `synced`, then each row as it changes, comes in or leaves. Fed by the ring of
//! changed rows, so that nothing is asked for twice and nobody is waited for.

use std::collections::BTreeSet;
use std::fmt::Write;

use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::response::Response;
use chom_protocol::api::watch::Change;
use chom_protocol::{Name, VpsId};
use serde::Serialize;
use serde_json::Value;

use crate::api::App;
use crate::api::list::{self, Part, Query, Rows, Sight};
use crate::api::problem::{ApiError, Kind};
use crate::api::stream::{self, Feed};
use crate::fleet::Caller;
use crate::fleet::events::{Entry, EventId, Touched};

/// Rows that one watch follows: their ids are kept, some 30 bytes each.
const WATCHED_ROWS_MAX: usize = 20_000;
/// Rows written at once while it begins: about 100 KiB.
const ROWS_PER_WRITE_MAX: usize = 100;
/// Entries of the ring looked at for one piece.
const ENTRIES_PER_WRITE_MAX: usize = 100;

/// The answer to a list that can be watched.
pub(super) fn answer<L: Rows>(
    app: App,
    caller: Caller,
    query: Query<L>,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    if query.watch { open(app, caller, query, headers) } else { list::answer(app, caller, &query) }
}

fn open<L: Rows>(
    app: App,
    caller: Caller,
    query: Query<L>,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let last = stream::last_seen(&app, &caller, headers, None)?;
    let news = app.fleet.changes().news();
    let first = Part { from: None, sort: query.sort, limit: ROWS_PER_WRITE_MAX };
    let (streams, reader) = (app.clone(), caller.clone());
    stream::open(&streams, &reader, news, || {
        let (next, stage) = match last {
            Some(last) => (
                EventId { sequence: last.sequence.saturating_add(1), ..last },
                Stage::Resuming(first.clone()),
            ),
            None => (app.fleet.changes().end(), Stage::Listing(first.clone())),
        };
        let was_away_until = last.map_or(0, |_| app.fleet.changes().end().sequence);
        Watch { app, caller, query, first, next, stage, known: BTreeSet::new(), was_away_until }
    })
}

/// How far a watch is.
enum Stage<I> {
    /// The rows behind here are still to be written.
    Listing(Part<I>),
    /// The reader has rows; which is found out again.
    Resuming(Part<I>),
    /// All rows are known: changes are told.
    Following,
    /// It was refused.
    Over,
}

/// One reader of a list.
struct Watch<L: Rows> {
    app: App,
    caller: Caller,
    query: Query<L>,
    first: Part<L::Id>,
    /// The next entry of the ring.
    next: EventId,
    stage: Stage<L::Id>,
    /// The rows that the reader has.
    known: BTreeSet<L::Id>,
    /// Before this entry the reader was away, and may have rows that are not among them any more.
    was_away_until: u64,
}

impl<L: Rows> Feed for Watch<L> {
    fn ready(&mut self) -> Option<Bytes> {
        let sight = Sight::of(self.app.clone(), self.caller.clone());
        // A reader that was away for too long, or is too slow, begins anew.
        if !self.is_over() && self.app.fleet.changes().read(self.next, 0).is_none() {
            return Some(self.begin_anew().into());
        }
        loop {
            match &self.stage {
                Stage::Listing(part) => {
                    let part = part.clone();
                    return Some(self.list(&sight, &part).into());
                }
                Stage::Resuming(part) => {
                    let part = part.clone();
                    if let Err(problem) = self.find_out(&sight, &part) {
                        return Some(problem.into());
                    }
                }
                Stage::Following => return self.follow(&sight).map(Into::into),
                Stage::Over => return None,
            }
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    fn position(&self) -> Option<EventId> {
        match self.stage {
            Stage::Listing(_) | Stage::Over => None,
            Stage::Resuming(_) | Stage::Following => {
                Some(EventId { sequence: self.next.sequence.saturating_sub(1), ..self.next })
            }
        }
    }
}

impl<L: Rows> Watch<L> {
    fn begin_anew(&mut self) -> String {
        self.known.clear();
        // First where the ring ends, then the rows: what changes in between is told twice and missed never.
        self.next = self.app.fleet.changes().end();
        self.stage = Stage::Listing(self.first.clone());
        self.written(None, &Change::<()>::Reset)
    }

    /// The next rows; behind the last one `synced`.
    fn list(&mut self, sight: &Sight, part: &Part<L::Id>) -> String {
        let chosen = match self.query.list.part(sight, part) {
            Ok(chosen) => chosen,
            Err(problem) => return self.refuse(problem),
        };
        let mut text = String::new();
        for row in chosen.rows {
            self.known.insert(L::id(&row));
            text += &self.written(None, &Change::Row { row: self.cut(row) });
        }
        if self.known.len() > WATCHED_ROWS_MAX {
            return self.refuse(too_many());
        }
        match chosen.next {
            Some(next) => self.stage = Stage::Listing(Part { from: Some(next), ..part.clone() }),
            None => {
                self.stage = Stage::Following;
                text += &self.written(self.position(), &Change::<()>::Synced);
            }
        }
        text
    }

    /// Finds out which rows there are now, without writing them.
    fn find_out(&mut self, sight: &Sight, part: &Part<L::Id>) -> Result<(), String> {
        let chosen = self.query.list.part(sight, part).map_err(|problem| self.refuse(problem))?;
        self.known.extend(chosen.rows.iter().map(L::id));
        if self.known.len() > WATCHED_ROWS_MAX {
            return Err(self.refuse(too_many()));
        }
        self.stage = match chosen.next {
            Some(next) => Stage::Resuming(Part { from: Some(next), ..part.clone() }),
            None => Stage::Following,
        };
        Ok(())
    }

    /// What changed since.
    fn follow(&mut self, sight: &Sight) -> Option<String> {
        loop {
            let entries = self.app.fleet.changes().read(self.next, ENTRIES_PER_WRITE_MAX)?;
            let is_end = entries.len() < ENTRIES_PER_WRITE_MAX;
            let mut text = String::new();
            let mut told = BTreeSet::new();
            // The newest first: what a row is now is told once, at its last change.
            for (at, entry) in entries.iter().rev() {
                for id in L::concerned(sight, &entry.what) {
                    if told.insert(id) {
                        text.insert_str(0, &self.change(sight, id, *at, entry));
                    }
                }
            }
            if let Some((last, _)) = entries.last() {
                self.next = EventId { sequence: last.sequence + 1, ..*last };
            }
            if !text.is_empty() {
                return Some(text);
            }
            if is_end {
                return None;
            }
        }
    }

    /// What became of a row.
    fn change(&mut self, sight: &Sight, id: L::Id, at: EventId, entry: &Entry<Touched>) -> String {
        // Several rows may follow from one entry: a reader that comes back is told all of them again.
        let is_of_one = !matches!(entry.what, Touched::Sight(_));
        let at_end = Some(at).filter(|_| is_of_one);
        let Some(row) = self.query.list.row(sight, id) else {
            let was_away = at.sequence < self.was_away_until && is_there(&self.caller, &entry.what);
            // Of a row that it never had a reader is told nothing.
            return match self.known.remove(&id) || was_away {
                true => self.written(at_end, &Change::<()>::Gone { id: id.to_string() }),
                false => String::new(),
            };
        };
        self.known.insert(id);
        if self.known.len() > WATCHED_ROWS_MAX {
            return self.refuse(too_many());
        }
        if self.query.paging.fields.is_some() || !is_of_one {
            return self.written(at_end, &Change::Changed { row: self.cut(row) });
        }
        let [fleet, tenant] = &entry.texts;
        let place = if self.caller.tenant.is_none() { fleet } else { tenant };
        let made = || self.written(at_end, &Change::Changed { row }).into();
        place.get_or_init(made).to_string()
    }

    fn refuse(&mut self, problem: ApiError) -> String {
        self.stage = Stage::Over;
        self.written(None, &Change::<()>::Refused { problem: problem.into_problem() })
    }

    /// The fields of a row that were asked for.
    fn cut(&self, row: L::View) -> Value {
        // A view always has a JSON form.
        let row = serde_json::to_value(row).unwrap_or_default();
        self.query.paging.fields.as_ref().map_or_else(|| row.clone(), |fields| fields.pick(row.clone()))
    }

    fn written<T: Serialize>(&self, at: Option<EventId>, change: &Change<T>) -> String {
        let mut text = String::new();
        if let Some(at) = at {
            let _ = writeln!(text, "id: {}", self.app.seal.written(&self.caller, at));
        }
        // JSON on one line has no line break in it.
        if let Ok(json) = serde_json::to_string(change) {
            let _ = write!(text, "data: {json}\n\n");
        }
        text
    }
}

/// Whether a row that changed, or was removed, is there for a caller.
fn is_there(caller: &Caller, touched: &Touched) -> bool {
    let is_own = |tenant: &Name, vps: Option<VpsId>| {
        caller.sees_tenant(tenant) && caller.vps.is_none_or(|own| vps == Some(own))
    };
    match touched {
        Touched::Vps(id, tenant) => is_own(tenant, Some(*id)),
        Touched::Operation(_, tenant, vps) => {
            caller.tenant.is_none() || (vps.is_some() && is_own(tenant, *vps))
        }
        Touched::Host(_) | Touched::Alert(_) => caller.tenant.is_none(),
        // What follows from it are rows that the caller sees.
        Touched::Sight(_) => true,
    }
}

fn too_many() -> ApiError {
    let detail = format!(
        "more than {WATCHED_ROWS_MAX} rows would be watched; name fewer with filters, or follow /api/events instead"
    );
    ApiError::new(Kind::TooMany, detail)
}
