//! The three lanes of reports: status (latest wins), results (durable, in order), samples (old ones too, last in line).

use std::sync::Arc;
use std::time::Duration;

use chom_protocol::host::HostStatus;
use chom_protocol::link::ToOrchestrator;
use quinn::Connection;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::LinkError;
use super::frames::{FrameError, report};
use crate::ledger::Ledger;
use crate::shelf::{Shelf, Shelves};

/// Changes within this time go as one report.
const STATUS_SPACING: Duration = Duration::from_millis(200);
/// What one report of a spool carries: four fit into the connection's window, so that other lanes are not held up.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// After an orchestrator could not keep a report, it is asked again this much later.
const PAUSE: Duration = Duration::from_secs(10);
/// Results and status before samples.
const PRIORITY_HIGH: i32 = 1;
const PRIORITY_LOW: i32 = -1;

/// Whether a report was kept. An orchestrator that says why not is there all the same: the connection stays.
fn kept(outcome: Result<(), LinkError>) -> Result<bool, LinkError> {
    match outcome {
        Ok(()) => Ok(true),
        Err(LinkError::Frame(FrameError::Problem { problem })) => {
            warn!(problem, "the orchestrator could not keep a report; it is sent again");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Reports the status at each change and each interval, until the connection ends.
pub(super) async fn status(
    connection: &Connection,
    ledger: &Arc<Ledger>,
    mut status: watch::Receiver<Option<Arc<HostStatus>>>,
) -> Result<(), LinkError> {
    loop {
        let latest = status.borrow_and_update().clone();
        if let Some(latest) = latest {
            let message = ToOrchestrator::Status(Box::new(HostStatus::clone(&latest)));
            kept(report(connection, &message, "status", PRIORITY_HIGH).await)?;
        }
        let sent_at = Instant::now();
        let seconds = ledger.desired().spec.map_or(15, |spec| spec.settings.report_interval_seconds.max(1));
        let interval = Duration::from_secs(u64::from(seconds));
        tokio::select! {
            changed = status.changed() => { // cancel-safe
                changed.map_err(|_| LinkError::Internal)?;
                tokio::time::sleep_until(sent_at + STATUS_SPACING).await;
            }
            () = tokio::time::sleep_until(sent_at + interval) => {}
        }
    }
}

/// Sends results as they come; each is deleted once the orchestrator has it on disk.
pub(super) async fn results(connection: &Connection, shelves: &Arc<Shelves>) -> Result<(), LinkError> {
    drain(connection, shelves, |shelves| &shelves.results, "results", PRIORITY_HIGH).await
}

/// Sends samples as they come, those of an outage first.
pub(super) async fn samples(connection: &Connection, shelves: &Arc<Shelves>) -> Result<(), LinkError> {
    drain(connection, shelves, |shelves| &shelves.samples, "samples", PRIORITY_LOW).await
}

async fn drain(
    connection: &Connection,
    shelves: &Arc<Shelves>,
    shelf: fn(&Shelves) -> &Shelf,
    lane: &'static str,
    priority: i32,
) -> Result<(), LinkError> {
    let mut came = shelf(shelves).watch();
    loop {
        came.mark_unchanged();
        loop {
            let at = Arc::clone(shelves);
            let next = tokio::task::spawn_blocking(move || shelf(&at).next(BATCH_BYTES_MAX)).await;
            let Some((message, position)) = next.map_err(|_| LinkError::Internal)?? else { break };
            if !kept(report(connection, &message, lane, priority).await)? {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let at = Arc::clone(shelves);
            let forgot = tokio::task::spawn_blocking(move || shelf(&at).acknowledge(position)).await;
            forgot.map_err(|_| LinkError::Internal)??;
        }
        came.changed().await.map_err(|_| LinkError::Internal)?;
    }
}
