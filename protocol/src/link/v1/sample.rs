//! Samples on the wire. FROZEN: see `v1`.
//!
//! A point that cannot be kept is dropped and the rest of its sample kept, because a sample that was refused would be sent
//! again for ever: a metric of a newer agent, a value that is no number (nothing was read), a label that is no path.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::list::List;
use super::value::Id;
use crate::id::{BootId, VpsId};
use crate::sample::{self, Metric};
use crate::units::UnixMillis;

/// A host of 500 VPSs makes about 5,000 points.
const POINTS_MAX: usize = 64 * 1024;
/// Longest label: a mount point is a path (PATH_MAX, limits.h).
const LABEL_BYTES_MAX: usize = 4096;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sample {
    boot: Id,
    sequence: u64,
    at: u64,
    points: List<Point, POINTS_MAX>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Point {
    metric: u16,
    vps: Option<Id>,
    label: String,
    value: f64,
}

impl From<&sample::Sample> for Sample {
    fn from(sample: &sample::Sample) -> Self {
        let sample::Sample { boot, sequence, at, points } = sample;
        Self {
            boot: boot.uuid().into_bytes(),
            sequence: *sequence,
            at: at.0,
            points: points.iter().map(Point::from).collect(),
        }
    }
}

impl From<Sample> for sample::Sample {
    fn from(sample: Sample) -> Self {
        let Sample { boot, sequence, at, points } = sample;
        Self {
            boot: BootId::new(Uuid::from_bytes(boot)),
            sequence,
            at: UnixMillis(at),
            points: points.0.into_iter().filter_map(Point::kept).collect(),
        }
    }
}

impl From<&sample::Point> for Point {
    fn from(point: &sample::Point) -> Self {
        let sample::Point { metric, vps, label, value } = point;
        Self {
            metric: metric.number(),
            vps: vps.map(|vps| vps.uuid().into_bytes()),
            label: label.clone(),
            value: *value,
        }
    }
}

impl Point {
    /// The point, if it can be kept.
    fn kept(self) -> Option<sample::Point> {
        let Self { metric, vps, label, value } = self;
        let metric = Metric::from_number(metric)?;
        (value.is_finite() && label.len() <= LABEL_BYTES_MAX).then(|| sample::Point {
            metric,
            vps: vps.map(|vps| VpsId::new(Uuid::from_bytes(vps))),
            label,
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_that_cannot_be_kept_are_dropped_and_the_rest_stays() {
        let point = |metric, value, label: &str| Point { metric, vps: None, label: label.to_owned(), value };
        let points = [
            point(Metric::Load1.number(), 0.5, ""),
            point(9999, 1.0, "of a newer agent"),
            point(Metric::Load5.number(), f64::NAN, ""),
            point(Metric::Load15.number(), f64::INFINITY, ""),
            point(Metric::DiskTotal.number(), 1.0, &"/".repeat(LABEL_BYTES_MAX + 1)),
            point(Metric::DiskTotal.number(), 2.0, "/"),
        ];
        let wire = Sample { boot: [1; 16], sequence: 1, at: 1, points: points.into_iter().collect() };
        let kept: Vec<_> = sample::Sample::from(wire).points.iter().map(|p| (p.metric, p.value)).collect();
        assert_eq!(kept, [(Metric::Load1, 0.5), (Metric::DiskTotal, 2.0)]);
    }
}
