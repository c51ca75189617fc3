//! Time that work stood still for want of processor, memory or disk (PSI). A kernel without it has nothing to say.

use std::io;

use chom_protocol::sample::{Metric, Point};

use super::{CollectError, Source, float, number, point};

/// PSI counts microseconds.
const MICROSECONDS: f64 = 1e6;

#[derive(Debug)]
pub(crate) struct Pressure {
    sources: [(Source, &'static str); 3],
}

impl Pressure {
    pub(crate) fn new() -> Self {
        let source = |name: &'static str| (Source::new(format!("/proc/pressure/{name}")), name);
        Self { sources: [source("cpu"), source("memory"), source("io")] }
    }

    pub(crate) fn collect(&mut self, points: &mut Vec<Point>) -> Result<(), CollectError> {
        for (source, name) in &mut self.sources {
            match source.parse(parse) {
                Ok(stalled) => points.extend(stalled.into_iter().map(|(kind, microseconds)| {
                    let label = format!("{name}_{kind}");
                    point(Metric::PressureSeconds, &label, float(microseconds) / MICROSECONDS)
                })),
                Err(CollectError::Read { cause, .. }) if is_absent(&cause) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Not compiled in, or switched off at boot (psi=0).
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported)
}

/// Microseconds by kind: some work, or all of it.
fn parse(text: &str) -> Result<Vec<(&'static str, u64)>, String> {
    let mut out = Vec::new();
    for line in text.lines() {
        let kind = match line.split_ascii_whitespace().next() {
            Some("some") => "some",
            Some("full") => "full",
            _ => continue,
        };
        let total = line.split_ascii_whitespace().find_map(|word| word.strip_prefix("total="));
        out.push((kind, number(total, "total")?));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_totals_are_told() {
        let text = "some avg10=0.12 avg60=0.05 avg300=0.01 total=1234567\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=8\n";
        assert_eq!(parse(text).unwrap(), [("some", 1_234_567), ("full", 8)]);
        assert_eq!(parse("").unwrap(), []);
        assert!(parse("some avg10=0.00\n").is_err() && parse("some total=x\n").is_err());
    }

    #[test]
    fn a_kernel_without_it_is_no_problem() {
        let mut pressure = Pressure::new();
        pressure.sources[0].0 = Source::new("/nonexistent/pressure");
        assert!(pressure.collect(&mut Vec::new()).is_ok());
    }
}
