//! Takes a sample each interval and puts it into the spool, connected or not. What is measured is the probe's business.

use std::sync::Arc;
use std::time::Duration;

use chom_protocol::host::Inventory;
use chom_protocol::sample::{Point, Sample};
use chom_protocol::{BootId, UnixMillis};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::chain::Chain;
use crate::clock;
use crate::driver::Driver;
use crate::driver::engines::Engines;
use crate::health::Troubles;
use crate::ledger::Ledger;
use crate::shelf::Shelves;

/// Figures of the VPSs that take longer miss their sample.
const MEASURE_SECONDS_MAX: Duration = Duration::from_secs(10);
/// Facts that change slowly are looked at this often.
const INVENTORY_EVERY: Duration = Duration::from_secs(60);
/// Until a desired state says otherwise.
const INTERVAL_SECONDS_FIRST: u32 = 15;

/// What measures a host.
pub trait Probe: Send + 'static {
    /// Everything measured now; `vps_points` are the engine's.
    fn sample(&mut self, boot: BootId, sequence: u64, now: UnixMillis, vps_points: Vec<Point>) -> Sample;

    /// What the host is and has.
    fn inventory(&mut self) -> Inventory;

    /// What could not be measured last time, in words for an admin.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A host that exists only in a simulation: says what it is told, measures nothing of its own.
#[derive(Debug, Clone, Default)]
pub struct FixedProbe {
    /// What it is said to be.
    pub inventory: Inventory,
    /// What it is said to measure.
    pub points: Vec<Point>,
}

impl Probe for FixedProbe {
    fn sample(&mut self, boot: BootId, sequence: u64, now: UnixMillis, vps_points: Vec<Point>) -> Sample {
        let points = self.points.iter().cloned().chain(vps_points).collect();
        Sample { boot, sequence, at: now, points }
    }

    fn inventory(&mut self) -> Inventory {
        self.inventory.clone()
    }
}

/// All that measuring works with.
pub(crate) struct Measuring<D> {
    pub(crate) engines: Engines<D>,
    pub(crate) probe: Option<Box<dyn Probe>>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) shelves: Arc<Shelves>,
    pub(crate) inventory: watch::Sender<Inventory>,
    pub(crate) troubles: Troubles,
    pub(crate) boot: BootId,
}

/// Measures until asked to stop.
pub(crate) async fn run<D: Driver>(mut measuring: Measuring<D>, stop: CancellationToken) {
    let mut numbers = 0..0;
    let mut looked_at = Instant::now();
    let mut begun_at = Instant::now();
    let mut desired = measuring.ledger.watch();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = turn(&mut measuring, &mut numbers) => {}
        }
        if looked_at.elapsed() >= INVENTORY_EVERY {
            looked_at = Instant::now();
            if let Some(probe) = &mut measuring.probe {
                measuring.inventory.send_replace(probe.inventory());
            }
        }
        // Another interval holds at once. Late samples are not caught up with: one of now is worth more.
        begun_at = loop {
            let spec = desired.borrow_and_update().spec.clone();
            let seconds = spec.map_or(INTERVAL_SECONDS_FIRST, |spec| spec.settings.report_interval_seconds);
            let due = begun_at + Duration::from_secs(u64::from(seconds.max(1)));
            tokio::select! { // every arm is cancel-safe
                () = stop.cancelled() => return,
                changed = desired.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(due) => break due.max(Instant::now()),
            }
        };
    }
}

async fn turn<D: Driver>(measuring: &mut Measuring<D>, numbers: &mut std::ops::Range<u64>) {
    let (points, errors) = measuring.engines.measure(MEASURE_SECONDS_MAX).await;
    for (engine, error) in errors {
        warn!(%engine, %error, "an engine's figures are missing in this sample");
    }
    if numbers.is_empty() {
        let (ledger, boot) = (Arc::clone(&measuring.ledger), measuring.boot);
        match spawn_blocking(move || ledger.take_sequence(boot)).await {
            Ok(Ok(taken)) => *numbers = taken,
            Ok(Err(error)) => return lost(measuring, &Chain(&error).to_string()),
            Err(_) => return, // the runtime is shutting down
        }
    }
    let Some(number) = numbers.next() else { return };
    let (boot, Some(mut probe)) = (measuring.boot, measuring.probe.take()) else { return };
    // On a thread of its own: a file system that hangs holds up its reader, and must hold up nobody else.
    let measured = spawn_blocking(move || {
        let sample = probe.sample(boot, number, clock::now(), points);
        (probe, sample)
    });
    let Ok((probe, sample)) = measured.await else { return }; // the runtime is shutting down
    let problems = probe.problems();
    measuring.probe = Some(probe);
    match problems {
        none if none.is_empty() => measuring.troubles.clear("measuring"),
        some => measuring.troubles.set("measuring", some.join("; ")),
    }
    // A buffered write of 2 KiB: not worth a thread.
    match measuring.shelves.put_sample(sample) {
        Ok(()) => measuring.troubles.clear("samples"),
        Err(error) => lost(measuring, &Chain(&error).to_string()),
    }
}

fn lost<D>(measuring: &Measuring<D>, problem: &str) {
    warn!(problem, "a sample is lost");
    measuring.troubles.set("samples", format!("samples are lost: {problem}"));
}
