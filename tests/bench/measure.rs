//! Figures of processes from /proc, and of many measurements together. Reads; changes nothing.

use std::fs;
use std::io;
use std::time::Duration;

/// Ticks of a processor in `/proc/PID/stat` (USER_HZ: 100 on every Linux).
const TICKS_PER_SECOND: f64 = 100.0;

/// Memory of a process, KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Resident, what it shares included.
    pub(crate) rss_kib: f64,
    /// Its proportional share.
    pub(crate) pss_kib: f64,
    /// Backed by no file.
    pub(crate) anonymous_kib: f64,
}

impl Memory {
    /// From the text of `smaps_rollup`.
    pub(crate) fn parse(smaps_rollup: &str) -> Self {
        let field = |name: &str| {
            let line = smaps_rollup.lines().find(|line| line.split(':').next() == Some(name));
            let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
            kib.unwrap_or(0.0)
        };
        Self { rss_kib: field("Rss"), pss_kib: field("Pss"), anonymous_kib: field("Anonymous") }
    }

    /// Of a process.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?))
    }
}

/// Seconds of processor time, from the text of `/proc/PID/stat`.
pub(crate) fn cpu_seconds(stat: &str) -> f64 {
    // The command's name may have spaces and brackets; fields are counted behind it (proc_pid_stat(5)).
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let ticks: f64 =
        behind.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

/// Seconds of processor time that a process has used.
pub(crate) fn cpu_seconds_of(pid: u32) -> io::Result<f64> {
    Ok(cpu_seconds(&fs::read_to_string(format!("/proc/{pid}/stat"))?))
}

/// The machine's load over the last minute, as text.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Many times of the same thing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that so many in a hundred stay under, ms.
    pub(crate) fn percentile_ms(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
        let place = ((sorted.len() as f64 * percent / 100.0).ceil() as usize).saturating_sub(1);
        sorted.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_an_odd_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 100 1000 10";
        assert!((cpu_seconds(stat) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let mut times = Times::default();
        (1..=100).for_each(|ms| times.push(Duration::from_millis(ms)));
        assert_eq!(times.percentile_ms(50.0), 50.0);
        assert_eq!(times.percentile_ms(99.0), 99.0);
    }
}
