//! Memory and swap (proc_meminfo(5)).

use std::path::Path;

use chom_protocol::sample::{Metric, Point};

use super::{CollectError, Source, float, number, point};

const FIELDS: [(&str, Metric); 4] = [
    ("MemTotal", Metric::MemoryTotal),
    ("MemAvailable", Metric::MemoryAvailable),
    ("SwapTotal", Metric::SwapTotal),
    ("SwapFree", Metric::SwapFree),
];

#[derive(Debug)]
pub(crate) struct Memory {
    source: Source,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self::at(Path::new("/proc"))
    }

    pub(super) fn at(proc: &Path) -> Self {
        Self { source: Source::new(proc.join("meminfo")) }
    }

    pub(crate) fn collect(&mut self, points: &mut Vec<Point>) -> Result<(), CollectError> {
        let bytes = self.source.parse(parse)?;
        points.extend(bytes.into_iter().map(|(metric, bytes)| point(metric, "", float(bytes))));
        Ok(())
    }
}

/// Bytes of each field.
fn parse(text: &str) -> Result<Vec<(Metric, u64)>, String> {
    FIELDS
        .into_iter()
        .map(|(name, metric)| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kibibytes = number(line.and_then(|rest| rest.split_ascii_whitespace().next()), name)?;
            Ok((metric, kibibytes.saturating_mul(1024)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_bytes() {
        let text = "MemTotal:       24682416 kB\nMemFree:        18874368 kB\nMemAvailable:   23068672 kB\n\
                    SwapCached:            0 kB\nSwapTotal:       1048576 kB\nSwapFree:        1048575 kB\n";
        assert_eq!(
            parse(text).unwrap(),
            [
                (Metric::MemoryTotal, 24_682_416 * 1024),
                (Metric::MemoryAvailable, 23_068_672 * 1024),
                (Metric::SwapTotal, 1024 * 1024 * 1024),
                (Metric::SwapFree, 1_048_575 * 1024)
            ]
        );
        let error = parse("MemTotal: 1 kB\n").unwrap_err();
        assert!(error.contains("MemAvailable"), "{error}");
        assert!(parse("MemTotal: x kB\n").is_err());
    }
}
