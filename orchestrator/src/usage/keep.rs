//! The task that closes hours, and what is asked of closed ones. Level-triggered: each pass goes on where the rows say that the
//! one before it stopped, also when that was killed.

use std::time::Duration;

use chom_protocol::api::usage::UsageRecord;
use chom_protocol::vps::Sha256;
use chom_protocol::{DeliveryId, Name, UnixMillis, VpsId};
use chom_supervise::aside;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::archive::{Archive, ArchiveError, Part, RecordKey, Wanted};
use super::rows::{ClosingRow, HeldRow};
use super::{hour, note};
use crate::clock;
use crate::fleet::observed::Snapshot;
use crate::fleet::state::State;
use crate::fleet::{Decision, Fleet, FleetError};
use crate::notify::webhook::event::Telling;

/// Between looks at whether an hour is to be closed.
const PASS: Duration = Duration::from_secs(5);
/// Hours that one pass closes: after a long pause a day's worth, then others have their turn.
const HOURS_PER_PASS_MAX: usize = 24;
/// Rows that one commit takes away; well within a commit's 128 changes.
const ROWS_PER_COMMIT_MAX: usize = 100;
/// Blocks that one request unpacks: a quarter of a second of one core.
const BLOCKS_PER_REQUEST_MAX: usize = 64;
/// Hours whose index one request reads: a month.
const HOURS_PER_REQUEST_MAX: u64 = 31 * 24;
/// Records of one post to a webhook: about 250 KiB.
const RECORDS_PER_POST_MAX: usize = 512;

/// How hours are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageSettings {
    /// Length of an hour, where none was closed yet.
    pub hour_seconds: u64,
    /// How long after its end an hour is closed: traffic is taken over every few minutes.
    pub close_after_seconds: u64,
    /// How long records are kept.
    pub kept_seconds: u64,
}

/// Why an hour was not closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    /// The commit.
    #[error("cannot store how far hours are closed")]
    Fleet(#[from] FleetError),
    /// The file.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Where a record stands in all of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// In which hour.
    pub hour: u64,
    /// Behind which record of it; none: at its beginning.
    pub after: Option<RecordKey>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.after {
            None => write!(out, "{}", self.hour),
            Some((tenant, vps)) => write!(out, "{}.{tenant}.{vps}", self.hour),
        }
    }
}

impl std::str::FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let hour = parts.next().and_then(|hour| hour.parse().ok()).ok_or(())?;
        let after = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => None,
            (Some(tenant), Some(vps), None) => {
                Some((tenant.parse().map_err(|_| ())?, vps.parse().map_err(|_| ())?))
            }
            _ => return Err(()),
        };
        Ok(Self { hour, after })
    }
}

/// What is asked of closed hours.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// Hours that begin then or later.
    pub from: Option<UnixMillis>,
    /// Hours that begin before then.
    pub until: Option<UnixMillis>,
    /// Which records.
    pub wanted: Wanted,
    /// Where the page before ended.
    pub after: Option<Place>,
    /// Most records.
    pub limit: usize,
}

/// Closes hours and answers of them. Clones are handles to the same.
#[derive(Clone)]
pub struct Accountant {
    fleet: Fleet,
    archive: Archive,
    settings: UsageSettings,
}

impl Accountant {
    /// For one fleet.
    #[must_use]
    pub fn new(fleet: Fleet, archive: Archive, settings: UsageSettings) -> Self {
        Self { fleet, archive, settings }
    }

    /// Closes hours until stopped.
    pub async fn run(self, stop: CancellationToken) {
        // Where hours are short somebody waits for them.
        let pass = PASS.min(Duration::from_secs(self.settings.close_after_seconds.max(1)));
        let mut ticks = tokio::time::interval(pass);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.close_due(clock::now()).await {
                tracing::error!(
                    error = crate::chain(&error),
                    "cannot close an hour of usage; the next pass tries again"
                );
            }
        }
    }

    /// One pass: closes what is due.
    ///
    /// # Errors
    /// When something could not be stored.
    pub(crate) async fn close_due(&self, now: UnixMillis) -> Result<(), UsageError> {
        for _ in 0..HOURS_PER_PASS_MAX {
            let Some(closing) = note::closing(&self.fleet.state()) else {
                self.begin(now).await?;
                continue;
            };
            let hour = if closing.frozen > closing.closed {
                closing.frozen
            } else {
                let next = self.next(closing, now);
                if now < closing.begins(next + 1).plus_seconds(self.settings.close_after_seconds) {
                    break;
                }
                self.change(move |row| ClosingRow { frozen: next, ..row }).await?;
                next
            };
            self.close(hour).await?;
        }
        self.tidy().await?;
        Ok(())
    }

    /// The hour that is closed next. Records that would not be kept are not made.
    fn next(&self, closing: ClosingRow, now: UnixMillis) -> u64 {
        let kept = UnixMillis(now.0.saturating_sub(self.settings.kept_seconds * 1000));
        let next = (closing.closed + 1).max(closing.hour(kept));
        if next > closing.closed + 1 {
            let hours = next - closing.closed - 1;
            tracing::error!(hours, "hours have no usage records: they are longer ago than records are kept");
        }
        next
    }

    async fn begin(&self, now: UnixMillis) -> Result<(), FleetError> {
        let hour_seconds = self.settings.hour_seconds;
        let begin = move |decision: &mut Decision| {
            let before = (now.0 / (hour_seconds * 1000)).saturating_sub(1);
            decision.put(ClosingRow { hour_seconds, frozen: before, closed: before })
        };
        self.fleet.decide("chom".into(), begin).await.map(|((), _)| ())
    }

    async fn change(
        &self,
        change: impl FnOnce(ClosingRow) -> ClosingRow + Send + 'static,
    ) -> Result<(), FleetError> {
        let change = move |decision: &mut Decision| match note::closing(&decision.state) {
            Some(row) => decision.put(change(row)),
            None => Ok(()),
        };
        self.fleet.decide("chom".into(), change).await.map(|((), _)| ())
    }

    /// Writes the file of a frozen hour, where there is none yet, and tells that it is there.
    async fn close(&self, hour: u64) -> Result<(), UsageError> {
        let (state, observations) = (self.fleet.state(), self.fleet.observations().snapshot());
        let archive = self.archive.clone();
        // A file that is there was read perhaps (the store is a restored one), so it stands; or it was written right before
        // a kill, out of the same rows.
        let written = aside(move || match archive.has(hour) {
            true => Ok(None),
            false => archive.write(hour, records(&state, &observations, hour)).map(Some),
        });
        if let Some(records) = written.await? {
            tracing::info!(hour, records, "an hour of usage is closed");
        }
        let close = move |decision: &mut Decision| {
            let Some(row) = note::closing(&decision.state).filter(|row| row.closed < hour) else {
                return Ok(());
            };
            let fleet = decision.state.meta.as_ref().map_or("", |meta| meta.fleet.as_str());
            let digest = Sha256::of(format!("usage {fleet} {hour}").as_bytes());
            let mut id = [0; 16];
            id.copy_from_slice(&digest.0[..16]);
            let id = DeliveryId::new(uuid::Builder::from_random_bytes(id).into_uuid());
            decision.put(ClosingRow { closed: hour, ..row })?;
            let at = decision.now;
            decision.journal_event(Telling::usage(id, hour, at));
            Ok(())
        };
        self.fleet.decide("chom".into(), close).await?;
        let kept = self.settings.kept_seconds;
        let archive = self.archive.clone();
        let seconds = note::closing(&self.fleet.state()).map_or(3600, |row| row.hour_seconds);
        let oldest = (hour + 1).saturating_sub(kept / seconds);
        if let Err(error) = aside(move || archive.forget_before(oldest)).await {
            tracing::warn!(%error, "cannot remove usage records that need not be kept any more");
        }
        Ok(())
    }

    /// Takes rows away whose hours are all in files.
    async fn tidy(&self) -> Result<(), FleetError> {
        loop {
            let over = closed_rows(&self.fleet.state());
            if over.is_empty() {
                return Ok(());
            }
            let remove = move |decision: &mut Decision| {
                over.iter().for_each(|id| decision.delete::<HeldRow>(id));
                Ok(())
            };
            self.fleet.decide("chom".into(), remove).await?;
        }
    }

    /// A page of records, in order of hour, tenant and VPS.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) async fn page(
        &self,
        question: Question,
    ) -> Result<(Vec<UsageRecord>, Option<Place>), ArchiveError> {
        let (closing, archive) = (note::closing(&self.fleet.state()), self.archive.clone());
        aside(move || page(&archive, closing, &question)).await
    }

    /// The next records of an hour that are posted together.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) async fn post(
        &self,
        hour: u64,
        after: Option<RecordKey>,
        tenant: Option<Name>,
    ) -> Result<Part, ArchiveError> {
        let archive = self.archive.clone();
        let wanted = Wanted { tenant, vps: None };
        aside(move || archive.read(hour, after.as_ref(), RECORDS_PER_POST_MAX, usize::MAX, &wanted)).await
    }
}

/// The records of an hour, in order.
fn records<'a>(
    state: &'a State,
    observations: &'a Snapshot,
    hour: u64,
) -> impl Iterator<Item = UsageRecord> + 'a {
    let closing = note::closing(state);
    let candidates = closing.map(|closing| hour::candidates(state, closing, hour)).unwrap_or_default();
    candidates.into_iter().filter_map(move |(_, vps): (Name, VpsId)| {
        hour::record(state, closing?, hour, vps, |row| observations.get(&row.host).map(|seen| seen.seen_at))
    })
}

/// Rows that say nothing of an hour that is not closed.
pub(super) fn closed_rows(state: &State) -> Vec<(VpsId, UnixMillis)> {
    let Some(closing) = note::closing(state) else { return Vec::new() };
    let open = closing.begins(closing.closed + 1);
    let rows = state.held_vps.values().map(|stored| stored.row.as_ref());
    let over = rows.filter(|row| {
        let left = row.gone.as_ref().is_some_and(|hours| hours.iter().any(|of| of.hour > closing.closed));
        row.until <= open && !left
    });
    over.map(|row| (row.vps, row.until)).take(ROWS_PER_COMMIT_MAX).collect()
}

fn page(
    archive: &Archive,
    closing: Option<ClosingRow>,
    question: &Question,
) -> Result<(Vec<UsageRecord>, Option<Place>), ArchiveError> {
    let mut items = Vec::new();
    let Some(closing) = closing else { return Ok((items, None)) };
    let end = closing.closed + 1;
    // An hour that begins within is in; one that began before is not.
    let at_or_after =
        |at: UnixMillis| closing.hour(UnixMillis(at.0.saturating_add(closing.hour_seconds * 1000 - 1)));
    let end = question.until.map_or(end, |until| at_or_after(until).min(end));
    let first = question.from.map_or(0, at_or_after).max(archive.oldest().unwrap_or(end));
    let beginning = Place { hour: first, after: None };
    let mut place = question.after.clone().unwrap_or_else(|| beginning.clone()).max(beginning);
    let (mut blocks, mut hours) = (0, 0);
    while place.hour < end {
        if items.len() == question.limit || blocks >= BLOCKS_PER_REQUEST_MAX || hours == HOURS_PER_REQUEST_MAX
        {
            return Ok((items, Some(place)));
        }
        hours += 1;
        let (room, blocks_left) = (question.limit - items.len(), BLOCKS_PER_REQUEST_MAX - blocks);
        let part = archive.read(place.hour, place.after.as_ref(), room, blocks_left, &question.wanted)?;
        blocks += part.blocks;
        items.extend(part.records);
        place = match part.next {
            None => Place { hour: place.hour + 1, after: None },
            after => Place { after, ..place },
        };
    }
    Ok((items, None))
}
