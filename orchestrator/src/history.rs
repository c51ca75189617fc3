//! The last minutes of every host's samples, in bounded memory, for usage figures, alerts and `/metrics`. Long-term history
//! is Prometheus'. Lost with the process; reads never wait for a host.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chom_protocol::api::hosts::UsageView;
use chom_protocol::sample::{Metric, Sample};
use chom_protocol::{HostId, UnixMillis, VpsId};

use crate::clock::rfc3339;

mod chart;
mod host;

pub use chart::Steps;
pub use host::{Chart, FileSystemLevel, Levels, Reading};
use host::{HostHistory, Usage};

/// All hosts together: 2,000 hosts with 20 VPSs each need about half of it.
pub const TOTAL_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A sample says something of now for at least so long, and for as long as four reports take: three may be late or lost.
const STALE_SECONDS_MIN: u64 = 60;
/// A sample that arrives so long after it was taken was kept back by an outage: two reports apart at the usual pace.
const BACKFILL_SECONDS: u64 = 30;

/// Samples that arrived since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrived {
    /// All of them, repeats included.
    pub all: u64,
    /// Those that an outage had kept back.
    pub backfilled: u64,
}

/// Recent samples of all hosts.
#[derive(Debug)]
pub struct History {
    kept: Mutex<Kept>,
    stale_seconds: u64,
}

impl Default for History {
    fn default() -> Self {
        Self::new(0)
    }
}

#[derive(Debug, Default)]
struct Kept {
    hosts: BTreeMap<HostId, HostHistory>,
    bytes: usize,
    arrived: Arrived,
}

impl History {
    /// Nothing yet, of hosts that report every so many seconds.
    #[must_use]
    pub fn new(report_interval_seconds: u32) -> Self {
        let stale_seconds = STALE_SECONDS_MIN.max(u64::from(report_interval_seconds) * 4);
        Self { kept: Mutex::default(), stale_seconds }
    }

    /// Takes samples of a host, in any order, repeats included, that arrived at `now`.
    pub fn record(&self, host: HostId, samples: Vec<Sample>, now: UnixMillis) {
        let mut kept = self.kept();
        for sample in samples {
            kept.arrived.all += 1;
            kept.arrived.backfilled += u64::from(now.seconds_since(sample.at) >= BACKFILL_SECONDS);
            let room = TOTAL_BYTES_MAX.saturating_sub(kept.bytes);
            let of_host = kept.hosts.entry(host).or_default();
            let before = of_host.bytes();
            of_host.record(sample, now, before + room);
            let after = of_host.bytes();
            kept.bytes = kept.bytes - before + after;
        }
    }

    /// How many samples arrived since the start.
    #[must_use]
    pub fn arrived(&self) -> Arrived {
        self.kept().arrived
    }

    /// How much a host uses. What was not heard of lately is none.
    #[must_use]
    pub fn usage(&self, host: HostId, now: UnixMillis) -> UsageView {
        let usage = self
            .kept()
            .hosts
            .get(&host)
            .map(|of_host| of_host.usage(now, self.stale_seconds))
            .unwrap_or_default();
        let Usage { at, cpu_ratio, load1, memory_ratio, swap_ratio, disk_ratio, inodes_ratio } = usage;
        UsageView {
            at: at.map(rfc3339),
            cpu_ratio,
            load1,
            memory_ratio,
            swap_ratio,
            disk_ratio,
            inodes_ratio,
        }
    }

    /// Everything in a host's newest sample, and when it was taken. None when it is stale.
    #[must_use]
    pub fn latest(&self, host: HostId, now: UnixMillis) -> Option<(UnixMillis, Vec<Reading>)> {
        self.kept().hosts.get(&host).and_then(|of_host| of_host.latest(now, self.stale_seconds))
    }

    /// How full a host's memory and each of its file systems is. None when its newest sample is stale.
    #[must_use]
    pub fn levels(&self, host: HostId, now: UnixMillis) -> Option<Levels> {
        self.kept().hosts.get(&host).and_then(|of_host| of_host.levels(now, self.stale_seconds))
    }

    /// One series, oldest first.
    #[must_use]
    pub fn series(
        &self,
        host: HostId,
        vps: Option<VpsId>,
        metric: Metric,
        label: &str,
    ) -> Vec<(UnixMillis, f64)> {
        self.kept().hosts.get(&host).map(|of_host| of_host.series(vps, metric, label)).unwrap_or_default()
    }

    /// The series of a host, or of a VPS on it, as means over steps: those of the named metrics, or all of them.
    #[must_use]
    pub fn charts(&self, host: HostId, vps: Option<VpsId>, metrics: &[Metric], steps: Steps) -> Vec<Chart> {
        let gap_millis = self.stale_seconds * 1000;
        let kept = self.kept();
        kept.hosts
            .get(&host)
            .map(|of_host| of_host.charts(vps, metrics, steps, gap_millis))
            .unwrap_or_default()
    }

    /// Drops all of a host that left the fleet.
    pub fn forget(&self, host: HostId) {
        let mut kept = self.kept();
        if let Some(gone) = kept.hosts.remove(&host) {
            kept.bytes -= gone.bytes();
        }
    }

    /// Memory in use, as accounted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.kept().bytes
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
