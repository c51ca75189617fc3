//! Fetches what the rows say is to be fetched, so many at a time. Level-triggered: each look compares the rows with what runs,
//! starts what is missing, lets go of what is wanted no more. A restart begins anew what was under way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chom_protocol::{Bytes, Name, OperationId};
use chom_supervise::Supervisor;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use super::fetch::{Client, Progress};
use super::{ImageFolder, Incoming, ReceiveError};
use crate::chain;
use crate::fleet::rows::ImageFetchRow;
use crate::fleet::{Fleet, FleetError};

/// Between looks at the rows: an order waits so long at most.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Fetches at once; the others wait. Fewer than there are places for what comes in, so that uploads find one.
const FETCHES_AT_ONCE: usize = 2;
/// The trail is told so often at most, and of each tenth.
const TOLD_EVERY: Duration = Duration::from_secs(5);
const PERCENT_STEP: u64 = 10;
/// Without a known size, the trail is told of each gigabyte.
const BYTES_STEP: u64 = 1024 * 1024 * 1024;

/// Fetches images for a fleet.
#[derive(Clone)]
pub struct Fetcher {
    fleet: Fleet,
    images: Arc<ImageFolder>,
    client: Client,
    tasks: Supervisor,
}

/// One that runs.
struct Running {
    operation: OperationId,
    /// Cancelled when it is wanted no more.
    unwanted: CancellationToken,
    /// Cancelled when it has ended.
    ended: CancellationToken,
}

impl Fetcher {
    /// A fetcher whose tasks are among these.
    #[must_use]
    pub fn new(fleet: Fleet, images: Arc<ImageFolder>, client: Client, tasks: Supervisor) -> Self {
        Self { fleet, images, client, tasks }
    }

    /// Fetches until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut running = BTreeMap::<Name, Running>::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => {}
            }
            self.look(&mut running, &stop);
        }
    }

    fn look(&self, running: &mut BTreeMap<Name, Running>, stop: &CancellationToken) {
        let state = self.fleet.state();
        running.retain(|_, one| !one.ended.is_cancelled());
        for (name, one) in running.iter() {
            let wanted = state.get::<ImageFetchRow>(name).is_some_and(|row| row.operation == one.operation);
            if !wanted {
                one.unwanted.cancel();
            }
        }
        let mut waiting: Vec<&ImageFetchRow> =
            state.image_fetches.values().map(|stored| &*stored.row).collect();
        waiting.retain(|row| !running.contains_key(&row.name));
        waiting.sort_unstable_by_key(|row| row.operation);
        for row in waiting.into_iter().take(FETCHES_AT_ONCE.saturating_sub(running.len())) {
            let one = Running {
                operation: row.operation,
                unwanted: stop.child_token(),
                ended: CancellationToken::new(),
            };
            let (fetcher, row, unwanted) = (self.clone(), row.clone(), one.unwanted.clone());
            let ended = one.ended.clone().drop_guard();
            running.insert(row.name.clone(), one);
            self.tasks.spawn(async move {
                let _ended = ended;
                tokio::select! {
                    () = unwanted.cancelled() => info!(image = %row.name, "an image is not fetched any more"),
                    () = fetcher.fetch(&row) => {}
                }
            });
        }
    }

    /// Fetches one to its end, well or not.
    async fn fetch(&self, row: &ImageFetchRow) {
        let told = match self.try_fetch(row).await {
            Ok(()) => return,
            Err(Ended::Later) => return, // the next look begins again
            Err(Ended::Badly(problem)) => {
                warn!(image = %row.name, problem, "an image cannot be fetched");
                self.fleet.image_fetch_failed(row.name.clone(), row.operation, problem).await
            }
            Err(Ended::Untold(error)) => Err(error),
        };
        if let Err(error) = told {
            warn!(image = %row.name, error = chain(&error), "cannot store how a fetch went; it begins again");
        }
    }

    async fn try_fetch(&self, row: &ImageFetchRow) -> Result<(), Ended> {
        let url = Url::parse(&row.url).map_err(|error| Ended::Badly(error.to_string()))?;
        let mut incoming = match self.images.receive().await {
            Err(ReceiveError::Busy) => return Err(Ended::Later),
            begun => begun.map_err(|error| Ended::Badly(chain(&error)))?,
        };
        info!(image = %row.name, host = url.host_str(), "fetching an image");
        self.note(row, "it is being fetched".to_owned(), None).await?;
        self.follow(row, &url, &mut incoming).await?;
        let received = incoming
            .finish(&self.images, &row.name, row.format, Some(row.sha256))
            .await
            .map_err(|error| Ended::Badly(chain(&error)))?;
        let (sha256, size) = (received.sha256, received.size);
        let wanted = self.fleet.image_fetched(row.name.clone(), row.operation, received).await;
        if !matches!(wanted, Ok(true)) && !self.fleet.is_image(sha256) {
            self.images.discard(sha256).await;
        }
        info!(image = %row.name, %size, "an image was fetched");
        wanted.map(|_| ()).map_err(Ended::Untold)
    }

    /// Fetches, and tells the trail how far it is.
    async fn follow(&self, row: &ImageFetchRow, url: &Url, incoming: &mut Incoming) -> Result<(), Ended> {
        let (told, mut progress) = watch::channel(Progress::default());
        let mut fetching = Box::pin(self.client.fetch(url, incoming, &told));
        let (mut noted, mut noted_at) = (Progress::default(), Instant::now());
        let mut ticks = interval(LOOK_EVERY);
        loop {
            tokio::select! {
                fetched = &mut fetching => {
                    return fetched.map_err(|error| Ended::Badly(chain(&error)));
                }
                _ = ticks.tick() => {}
            }
            let now = progress.borrow_and_update().clone();
            let Some(words) = words(&noted, &now) else { continue };
            if now.problem == noted.problem && noted_at.elapsed() < TOLD_EVERY {
                continue;
            }
            self.note(row, words, now.problem.clone()).await?;
            (noted, noted_at) = (now, Instant::now());
        }
    }

    async fn note(&self, row: &ImageFetchRow, words: String, problem: Option<String>) -> Result<(), Ended> {
        let noted = self.fleet.note_image_fetch(row.name.clone(), row.operation, words, problem);
        noted.await.map_err(Ended::Untold)
    }
}

/// Why a fetch ended, other than well.
enum Ended {
    /// There was no place for it.
    Later,
    /// It cannot be fetched.
    Badly(String),
    /// How far it is cannot be stored.
    Untold(FleetError),
}

/// What is new enough for the trail.
fn words(noted: &Progress, now: &Progress) -> Option<String> {
    if let Some(problem) = now.problem.as_ref().filter(|_| now.problem != noted.problem) {
        return Some(format!("{problem}; it is tried again"));
    }
    let step = |progress: &Progress| match progress.total {
        Some(total) => percent(progress.bytes, total) / PERCENT_STEP,
        None => progress.bytes / BYTES_STEP,
    };
    // None is told of what only began.
    if step(now) == step(noted) {
        return None;
    }
    Some(match now.total {
        Some(total) => format!("{} % of {} came", percent(now.bytes, total), Bytes(total)),
        None => format!("{} came", Bytes(now.bytes)),
    })
}

fn percent(bytes: u64, total: u64) -> u64 {
    bytes.saturating_mul(100) / total.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trail_is_told_of_tenths_and_of_each_new_trouble() {
        let at = |bytes, total, problem: Option<&str>| Progress {
            bytes,
            total,
            problem: problem.map(str::to_owned),
        };
        let total = Some(1000);
        for (noted, now, expected) in [
            (at(0, None, None), at(99, total, None), None),
            (at(0, None, None), at(250, total, None), Some("25 % of 1000 B came")),
            (at(250, total, None), at(299, total, None), None),
            (at(250, total, None), at(300, total, None), Some("30 % of 1000 B came")),
            (at(250, total, None), at(250, total, Some("cut")), Some("cut; it is tried again")),
            (at(250, total, Some("cut")), at(250, total, Some("cut")), None),
            (at(250, total, Some("cut")), at(260, total, None), None),
            (at(0, None, None), at(3 << 30, None, None), Some("3 GiB came")),
        ] {
            assert_eq!(words(&noted, &now).as_deref(), expected, "{noted:?} {now:?}");
        }
    }
}
