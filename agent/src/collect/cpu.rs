//! Processor time by mode, the run queue, and how long the host has been up.

use chom_protocol::sample::{Metric, Point};
use nix::unistd::{SysconfVar, sysconf};

use super::{CollectError, Source, float, number, point};

/// Columns of the first line of /proc/stat (proc_stat(5)). The two that follow, guest time, are part of user and nice.
const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
/// What sysconf answers on every Linux; used if it does not answer.
const TICKS_PER_SECOND_USUAL: u64 = 100;

#[derive(Debug)]
pub(crate) struct Cpu {
    stat: Source,
    load: Source,
    uptime: Source,
    ticks_per_second: u64,
}

impl Cpu {
    pub(crate) fn new() -> Self {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
        Self {
            stat: Source::new("/proc/stat"),
            load: Source::new("/proc/loadavg"),
            uptime: Source::new("/proc/uptime"),
            ticks_per_second: ticks.filter(|ticks| *ticks > 0).unwrap_or(TICKS_PER_SECOND_USUAL),
        }
    }

    pub(crate) fn collect(&mut self, points: &mut Vec<Point>) -> Result<(), CollectError> {
        let ticks_per_second = float(self.ticks_per_second);
        for (mode, ticks) in self.stat.parse(parse_stat)? {
            points.push(point(Metric::CpuSeconds, mode, float(ticks) / ticks_per_second));
        }
        let load = self.load.parse(parse_floats::<3>)?;
        for (metric, value) in [Metric::Load1, Metric::Load5, Metric::Load15].into_iter().zip(load) {
            points.push(point(metric, "", value));
        }
        let [uptime] = self.uptime.parse(parse_floats::<1>)?;
        points.push(point(Metric::Uptime, "", uptime));
        Ok(())
    }
}

/// Ticks by mode, all processors together. Old kernels have fewer columns.
fn parse_stat(text: &str) -> Result<Vec<(&'static str, u64)>, String> {
    let line = text.lines().next().and_then(|line| line.strip_prefix("cpu "));
    let line = line.ok_or("the first line does not begin with `cpu`")?;
    line.split_ascii_whitespace()
        .zip(MODES)
        .map(|(ticks, mode)| Ok((mode, number(Some(ticks), mode)?)))
        .collect()
}

/// The first `N` words, which are numbers.
fn parse_floats<const N: usize>(text: &str) -> Result<[f64; N], String> {
    let mut out = [0.0; N];
    let mut words = text.split_ascii_whitespace();
    for value in &mut out {
        let word = words.next().ok_or("it has too few numbers")?;
        *value = word.parse().ok().filter(|v: &f64| v.is_finite()).ok_or(format!("`{word}` is no number"))?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_told_by_mode() {
        let text = "cpu  80236 97673 46793 403283 2185 0 590 187 5 6\ncpu0 39324 47607 21166 206470 651 0 39 94 0 0\n";
        assert_eq!(
            parse_stat(text).unwrap(),
            [
                ("user", 80236),
                ("nice", 97673),
                ("system", 46793),
                ("idle", 403_283),
                ("iowait", 2185),
                ("irq", 0),
                ("softirq", 590),
                ("steal", 187)
            ]
        );
        assert_eq!(parse_stat("cpu 1 2 3 4\n").unwrap().len(), 4);
        for bad in ["", "intr 1 2", "cpu a b"] {
            assert!(parse_stat(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn load_and_uptime_are_read() {
        assert_eq!(parse_floats::<3>("0.41 1.75 2.10 3/189 4242\n").unwrap(), [0.41, 1.75, 2.1]);
        assert_eq!(parse_floats::<1>("3157.92 4032.83\n").unwrap(), [3157.92]);
        for bad in ["", "0.1 0.2", "0.1 x 0.3", "nan 1 2"] {
            assert!(parse_floats::<3>(bad).is_err(), "{bad}");
        }
    }
}
