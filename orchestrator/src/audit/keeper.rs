//! Moves entries of the audit trail from the store, where they are written with what they are about, into the log: in order,
//! behind the commits, each once. What it did is confirmed by a commit that advances the head and removes the rows, so that
//! it can be killed at any point.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use chom_protocol::UnixMillis;
use chom_supervise::aside;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::audit::AuditLog;
use crate::fleet::audit::ITSELF;
use crate::fleet::rows::{AuditHeadRow, AuditRow};
use crate::fleet::{Decision, Fleet, FleetError};
use crate::{chain, clock};

/// Between passes: for so long entries stand in the store only, where they are as durable.
const PASS: Duration = Duration::from_secs(1);
/// Entries that are written with one sync of the disk; with the largest entries 32 MiB.
const ENTRIES_PER_SYNC_MAX: usize = 1000;
/// Rows that one commit removes; it has room for 128 changes.
const ROWS_PER_COMMIT_MAX: usize = 100;
/// How often it is looked for segments that are too old.
const DROP_EVERY_SECONDS: u64 = 3600;
const DAY_SECONDS: u64 = 24 * 3600;

/// Why entries are not moved.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The files.
    #[error("cannot write the audit log; entries stay in the store until it can be written")]
    Log(#[from] io::Error),
    /// The store.
    #[error("cannot store how far the audit log is")]
    Fleet(#[from] FleetError),
}

/// The task.
pub struct Keeper {
    fleet: Fleet,
    log: Arc<AuditLog>,
    kept_seconds: u64,
}

impl Keeper {
    /// Takes over what stands in the files and the store does not know; nothing may have changed the store since it was
    /// loaded.
    ///
    /// # Errors
    /// When the files cannot be read, or the store takes no commit.
    pub async fn start(fleet: Fleet, log: Arc<AuditLog>, kept_days: u32) -> Result<Self, AuditError> {
        let keeper = Self { fleet, log, kept_seconds: u64::from(kept_days) * DAY_SECONDS };
        let (log, state) = (Arc::clone(&keeper.log), keeper.fleet.state());
        let Some(beyond) = aside(move || log.beyond(&state)).await? else { return Ok(keeper) };
        tracing::info!(
            last = beyond.head.last.sequence,
            "the audit log is ahead of the store; its entries are taken over"
        );
        // The head goes last: until then a crash begins anew.
        for numbers in beyond.clashing.chunks(ROWS_PER_COMMIT_MAX / 2) {
            keeper.renumber(numbers.to_vec(), beyond.head.last.sequence).await?;
        }
        for numbers in beyond.moved.chunks(ROWS_PER_COMMIT_MAX) {
            keeper.confirm(None, numbers.to_vec()).await?;
        }
        keeper.confirm(Some(beyond.head), Vec::new()).await?;
        Ok(keeper)
    }

    /// Runs until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(PASS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut dropped_at = UnixMillis(0);
        loop {
            let is_last = tokio::select! {
                () = stop.cancelled() => true,
                _ = ticks.tick() => false,
            };
            let now = clock::now();
            if let Err(error) = self.fleet.write_denials(now, is_last).await {
                tracing::error!(error = %error, "refused requests are not in the audit trail");
            }
            said(self.pass().await);
            if is_last {
                return;
            }
            if now.seconds_since(dropped_at) >= DROP_EVERY_SECONDS {
                dropped_at = now;
                said(self.drop_old(now).await);
            }
        }
    }

    /// Moves everything that there is.
    ///
    /// # Errors
    /// When the log or the store cannot be written.
    pub async fn pass(&self) -> Result<(), AuditError> {
        loop {
            let state = self.fleet.state();
            let rows: Vec<Arc<AuditRow>> = state
                .audit
                .values()
                .take(ENTRIES_PER_SYNC_MAX)
                .map(|stored| Arc::clone(&stored.row))
                .collect();
            if rows.is_empty() {
                return Ok(());
            }
            let (log, head) = (Arc::clone(&self.log), state.audit_head());
            let numbers: Vec<u64> = rows.iter().map(|row| row.sequence).collect();
            let heads = aside(move || log.append(&head, &rows)).await?;
            for (heads, numbers) in heads.chunks(ROWS_PER_COMMIT_MAX).zip(numbers.chunks(ROWS_PER_COMMIT_MAX))
            {
                self.confirm(heads.last().cloned(), numbers.to_vec()).await?;
            }
        }
    }

    /// Drops whole segments of entries that are older than they have to be kept.
    async fn drop_old(&self, now: UnixMillis) -> Result<(), AuditError> {
        let head = self.fleet.state().audit_head();
        let oldest = UnixMillis(now.0.saturating_sub(self.kept_seconds * 1000));
        let (log, known) = (Arc::clone(&self.log), head.clone());
        let found = aside(move || log.droppable(&known, oldest)).await?;
        // Stored first: a crash leaves files that nobody misses, and the next pass removes them.
        let dropped = found.unwrap_or(head.dropped);
        if found.is_some() {
            self.confirm(Some(AuditHeadRow { dropped, ..head }), Vec::new()).await?;
        }
        let log = Arc::clone(&self.log);
        aside(move || log.drop_until(&dropped)).await?;
        Ok(())
    }

    async fn confirm(&self, head: Option<AuditHeadRow>, moved: Vec<u64>) -> Result<(), FleetError> {
        let change = move |decision: &mut Decision| {
            for number in &moved {
                decision.delete::<AuditRow>(number);
            }
            head.map_or(Ok(()), |head| decision.put(head))
        };
        self.fleet.decide(ITSELF.into(), change).await.map(|_| ())
    }

    /// Gives rows whose numbers are taken in the log new ones, behind all others.
    async fn renumber(&self, numbers: Vec<u64>, last: u64) -> Result<(), FleetError> {
        let change = move |decision: &mut Decision| {
            for number in numbers {
                let Some(row) = decision.state.get::<AuditRow>(&number).cloned() else { continue };
                let newest = decision.state.audit.get_max().map_or(0, |(last, _)| *last).max(last);
                decision.delete::<AuditRow>(&number);
                decision.put(AuditRow { sequence: newest + 1, ..row })?;
            }
            Ok(())
        };
        self.fleet.decide(ITSELF.into(), change).await.map(|_| ())
    }
}

/// Nothing is lost by what failed: it is done again.
fn said(outcome: Result<(), AuditError>) {
    if let Err(error) = outcome {
        tracing::error!(error = chain(&error), "the audit log could not be kept; the next pass tries again");
    }
}

#[cfg(test)]
mod tests;
