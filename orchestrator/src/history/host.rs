//! One host's recent samples: rows of values beside a table of series, oldest first. Pure.

use std::mem::size_of;

use chom_protocol::sample::{Metric, Point, Sample};
use chom_protocol::{BootId, UnixMillis, VpsId};

use crate::history::chart::{self, Measured, Steps};

/// What an idle host (about 40 series) may take; such a host keeps some 14 samples, about 3 minutes.
pub(super) const HOST_BYTES: usize = 8 * 1024;
/// Samples that every host keeps whatever their size: two make a rate, two more bridge a late one.
pub(super) const ROWS_MIN: usize = 4;
/// Samples that a host with few series keeps at most: 10 minutes at one each 15 s.
pub(super) const ROWS_MAX: usize = 40;
/// Series of one host: 500 VPSs with 15 each. More are not kept.
pub(super) const SERIES_MAX: usize = 8192;
/// Longest label: a deep mount point.
const LABEL_BYTES_MAX: usize = 255;
/// Rows between two passes that drop series no kept row has.
const COMPACT_ROWS: u32 = 32;
/// A sample may be so much older than its arrival and still count: hosts' clocks run behind. Older ones are backfill.
const CLOCK_SKEW_SECONDS: u64 = 60 * 60;

/// What is measured, of whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    metric: Metric,
    vps: Option<VpsId>,
    label: Box<str>,
}

#[derive(Debug)]
struct Row {
    boot: BootId,
    sequence: u64,
    at: UnixMillis,
    received_at: UnixMillis,
    /// By place in the table; shorter than it when newer series came later. NaN: not in this sample.
    values: Box<[f64]>,
}

/// One value of a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// What.
    pub metric: Metric,
    /// Of which VPS; none: of the host itself.
    pub vps: Option<VpsId>,
    /// Device, mount point, interface or mode.
    pub label: Box<str>,
    /// How much.
    pub value: f64,
}

/// One series as means over steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// What.
    pub metric: Metric,
    /// Device, mount point, interface or mode.
    pub label: Box<str>,
    /// The mean of each step; none: unknown.
    pub means: Vec<Option<f64>>,
}

/// How full the parts of a host are that can run out, as shares from 0 to 1. None: it was not in the sample.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Levels {
    /// Memory in use.
    pub memory_ratio: Option<f64>,
    /// File systems by mount point.
    pub file_systems: Vec<(Box<str>, FileSystemLevel)>,
}

/// How full one file system is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FileSystemLevel {
    /// Space in use.
    pub disk_ratio: Option<f64>,
    /// Inodes in use; none where the file system does not count them.
    pub inodes_ratio: Option<f64>,
}

/// How much a host uses.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) at: Option<UnixMillis>,
    pub(super) cpu_ratio: Option<f64>,
    pub(super) load1: Option<f64>,
    pub(super) memory_ratio: Option<f64>,
    pub(super) swap_ratio: Option<f64>,
    pub(super) disk_ratio: Option<f64>,
    pub(super) inodes_ratio: Option<f64>,
}

/// Recent samples of one host.
#[derive(Debug, Default)]
pub(super) struct HostHistory {
    /// Unsorted: a place never changes while a row points at it.
    table: Vec<Series>,
    /// Oldest first.
    rows: Vec<Row>,
    since_compaction: u32,
}

impl HostHistory {
    /// Memory of it, as accounted: within a tenth of what the allocator gives.
    pub(super) fn bytes(&self) -> usize {
        let labels: usize = self.table.iter().map(|series| series.label.len()).sum();
        let values: usize = self.rows.iter().map(|row| row.values.len()).sum();
        self.table.len() * size_of::<Series>()
            + labels
            + self.rows.len() * size_of::<Row>()
            + values * size_of::<f64>()
    }

    /// Takes a sample unless it is there already, is older than all that is kept, or does not fit into `bytes_max`.
    pub(super) fn record(&mut self, sample: Sample, now: UnixMillis, bytes_max: usize) {
        let Sample { boot, sequence, at, points } = sample;
        if self.rows.iter().any(|row| row.boot == boot && row.sequence == sequence) {
            return;
        }
        let place = self.place(boot, sequence, at);
        if place == 0 && self.rows.len() >= self.rows_allowed() {
            return;
        }
        let values = self.values(points);
        self.rows.insert(place, Row { boot, sequence, at, received_at: now, values });
        while self.rows.len() > self.rows_allowed() || (self.bytes() > bytes_max && !self.rows.is_empty()) {
            self.rows.remove(0);
        }
        self.since_compaction += 1;
        if self.since_compaction >= COMPACT_ROWS || self.rows.is_empty() {
            self.compact();
        }
    }

    /// Behind every row that is older: by sequence within a boot, by the host's clock across boots.
    fn place(&self, boot: BootId, sequence: u64, at: UnixMillis) -> usize {
        let older = |row: &Row| if row.boot == boot { row.sequence < sequence } else { row.at <= at };
        self.rows.iter().rposition(older).map_or(0, |last| last + 1)
    }

    fn rows_allowed(&self) -> usize {
        let row = size_of::<Row>() + self.table.len() * size_of::<f64>();
        let table: usize = self.table.iter().map(|series| size_of::<Series>() + series.label.len()).sum();
        (HOST_BYTES.saturating_sub(table) / row).clamp(ROWS_MIN, ROWS_MAX)
    }

    fn values(&mut self, points: Vec<Point>) -> Box<[f64]> {
        let mut values = vec![f64::NAN; self.table.len()];
        // Agents send points in the same order each time: the series is usually the next one.
        let mut next = 0;
        for Point { metric, vps, label, value } in points.into_iter().take(SERIES_MAX) {
            let is =
                |series: &Series| series.metric == metric && series.vps == vps && *series.label == *label;
            let found = match self.table.get(next) {
                Some(series) if is(series) => Some(next),
                _ => self.table.iter().position(is),
            };
            let place = match found {
                Some(place) => place,
                None if self.table.len() >= SERIES_MAX || label.len() > LABEL_BYTES_MAX => continue,
                None => {
                    self.table.push(Series { metric, vps, label: label.into_boxed_str() });
                    values.push(f64::NAN);
                    self.table.len() - 1
                }
            };
            if let Some(slot) = values.get_mut(place) {
                *slot = if value.is_finite() { value } else { f64::NAN };
            }
            next = place + 1;
        }
        values.into_boxed_slice()
    }

    /// Drops series that no kept row has: disks, interfaces and VPSs come and go.
    fn compact(&mut self) {
        self.since_compaction = 0;
        let used = |place: usize| self.rows.iter().any(|row| row.value(place).is_some());
        let kept: Vec<usize> = (0..self.table.len()).filter(|place| used(*place)).collect();
        if kept.len() == self.table.len() {
            return;
        }
        for row in &mut self.rows {
            row.values = kept.iter().map(|place| row.value(*place).unwrap_or(f64::NAN)).collect();
        }
        let mut places = kept.iter().copied().peekable();
        let mut place = 0;
        self.table.retain(|_| {
            let keep = places.next_if_eq(&place).is_some();
            place += 1;
            keep
        });
        self.table.shrink_to_fit();
    }

    /// The newest sample, if it says anything of now.
    fn newest(&self, now: UnixMillis, stale_seconds: u64) -> Option<&Row> {
        let row = self.rows.last()?;
        let came_lately = now.seconds_since(row.received_at) <= stale_seconds;
        let taken_lately = now.seconds_since(row.at) <= stale_seconds + CLOCK_SKEW_SECONDS;
        (came_lately && taken_lately).then_some(row)
    }

    pub(super) fn latest(&self, now: UnixMillis, stale_seconds: u64) -> Option<(UnixMillis, Vec<Reading>)> {
        let row = self.newest(now, stale_seconds)?;
        let reading = |(place, series): (usize, &Series)| {
            let Series { metric, vps, label } = series.clone();
            Some(Reading { metric, vps, label, value: row.value(place)? })
        };
        Some((row.at, self.table.iter().enumerate().filter_map(reading).collect()))
    }

    pub(super) fn series(&self, vps: Option<VpsId>, metric: Metric, label: &str) -> Vec<(UnixMillis, f64)> {
        let is = |series: &Series| series.metric == metric && series.vps == vps && *series.label == *label;
        let Some(place) = self.table.iter().position(is) else { return Vec::new() };
        self.rows.iter().filter_map(|row| Some((row.at, row.value(place)?))).collect()
    }

    /// As charts: the series of a VPS, or of the host itself, in order of metric and label.
    pub(super) fn charts(
        &self,
        vps: Option<VpsId>,
        metrics: &[Metric],
        steps: Steps,
        gap_millis: u64,
    ) -> Vec<Chart> {
        let wanted =
            |series: &Series| series.vps == vps && (metrics.is_empty() || metrics.contains(&series.metric));
        let mut found: Vec<(usize, &Series)> =
            self.table.iter().enumerate().filter(|(_, series)| wanted(series)).collect();
        found.sort_unstable_by_key(|(_, series)| *series);
        let chart = |(place, series): (usize, &Series)| {
            let measured =
                |row: &Row| Some(Measured { at: row.at, boot: row.boot, value: row.value(place)? });
            let measured: Vec<Measured> = self.rows.iter().filter_map(measured).collect();
            let means = chart::means(series.metric.kind(), &measured, steps, gap_millis);
            Chart { metric: series.metric, label: series.label.clone(), means }
        };
        found.into_iter().map(chart).collect()
    }

    pub(super) fn usage(&self, now: UnixMillis, stale_seconds: u64) -> Usage {
        let Some(row) = self.newest(now, stale_seconds) else { return Usage::default() };
        let host = |metric| self.of_host(metric).next().and_then(|(place, _)| row.value(place));
        let fullest = |total, free| {
            let of_label = |label: &str| {
                self.of_host(free).find(|(_, other)| *other == label).and_then(|(place, _)| row.value(place))
            };
            self.of_host(total)
                .filter_map(|(place, label)| used(row.value(place), of_label(label)))
                .reduce(f64::max)
        };
        Usage {
            at: Some(row.at),
            cpu_ratio: self.cpu_ratio(),
            load1: host(Metric::Load1),
            memory_ratio: used(host(Metric::MemoryTotal), host(Metric::MemoryAvailable)),
            swap_ratio: used(host(Metric::SwapTotal), host(Metric::SwapFree)),
            disk_ratio: fullest(Metric::DiskTotal, Metric::DiskAvailable),
            inodes_ratio: fullest(Metric::InodesTotal, Metric::InodesFree),
        }
    }

    pub(super) fn levels(&self, now: UnixMillis, stale_seconds: u64) -> Option<Levels> {
        let row = self.newest(now, stale_seconds)?;
        let (mut memory, mut available) = (None, None);
        // Total and free of space, then of inodes. A host has few file systems: looking through them is cheap.
        let mut file_systems: Vec<(&str, [Option<f64>; 4])> = Vec::new();
        for (place, series) in self.table.iter().enumerate().filter(|(_, series)| series.vps.is_none()) {
            let slot = match series.metric {
                Metric::MemoryTotal => {
                    memory = row.value(place);
                    continue;
                }
                Metric::MemoryAvailable => {
                    available = row.value(place);
                    continue;
                }
                Metric::DiskTotal => 0,
                Metric::DiskAvailable => 1,
                Metric::InodesTotal => 2,
                Metric::InodesFree => 3,
                _ => continue,
            };
            let Some(value) = row.value(place) else { continue };
            let found = file_systems.iter().position(|(mount, _)| *mount == &*series.label);
            let found = found.unwrap_or_else(|| {
                file_systems.push((&series.label, [None; 4]));
                file_systems.len() - 1
            });
            if let Some((_, values)) = file_systems.get_mut(found) {
                values[slot] = Some(value);
            }
        }
        let level = |(mount, [total, free, inodes, inodes_free]): (&str, [Option<f64>; 4])| {
            let level =
                FileSystemLevel { disk_ratio: used(total, free), inodes_ratio: used(inodes, inodes_free) };
            (Box::from(mount), level)
        };
        let file_systems = file_systems.into_iter().map(level).collect();
        Some(Levels { memory_ratio: used(memory, available), file_systems })
    }

    fn of_host(&self, metric: Metric) -> impl Iterator<Item = (usize, &str)> {
        let is = move |(place, series): (usize, &'_ Series)| {
            (series.metric == metric && series.vps.is_none()).then_some(place)
        };
        self.table.iter().enumerate().filter_map(move |row| Some((is(row)?, &*row.1.label)))
    }

    /// Between the last two samples of one boot. A counter that fell was reset: then there is no rate.
    fn cpu_ratio(&self) -> Option<f64> {
        let [.., before, after] = self.rows.as_slice() else { return None };
        if before.boot != after.boot {
            return None;
        }
        let (mut busy, mut total) = (0.0, 0.0);
        for (place, mode) in self.of_host(Metric::CpuSeconds) {
            let spent = after.value(place)? - before.value(place)?;
            let idle = matches!(mode, "idle" | "iowait");
            // The kernel's iowait may step back a little (proc_stat(5)); any other fall is a reset.
            if spent < 0.0 && mode != "iowait" {
                return None;
            }
            total += spent.max(0.0);
            busy += if idle { 0.0 } else { spent };
        }
        (total > 0.0).then(|| (busy / total).clamp(0.0, 1.0))
    }
}

/// The share in use.
fn used(total: Option<f64>, free: Option<f64>) -> Option<f64> {
    match (total?, free?) {
        (total, free) if total > 0.0 => Some((1.0 - free / total).clamp(0.0, 1.0)),
        _ => None,
    }
}

impl Row {
    fn value(&self, place: usize) -> Option<f64> {
        self.values.get(place).copied().filter(|value| !value.is_nan())
    }
}

#[cfg(test)]
mod tests;
