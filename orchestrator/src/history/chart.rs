//! A series as its mean over regular steps. What was not measured is unknown, never zero and never guessed. Pure.

use chom_protocol::sample::MetricKind;
use chom_protocol::{BootId, UnixMillis};

/// The steps that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// When the first begins.
    pub from: UnixMillis,
    /// How long each is; not zero.
    pub step_millis: u64,
    /// How many there are.
    pub count: usize,
}

/// A value and when it was measured, in which boot of the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    pub(super) at: UnixMillis,
    pub(super) boot: BootId,
    pub(super) value: f64,
}

/// The mean of each step of a series that is sorted by time. Between two values that are more than `gap_millis` apart nothing is
/// known; of a counter neither where it fell or the host was booted.
pub(super) fn means(
    kind: MetricKind,
    measured: &[Measured],
    steps: Steps,
    gap_millis: u64,
) -> Vec<Option<f64>> {
    let mut sums = vec![(0.0, 0.0); steps.count];
    for pair in measured.windows(2) {
        let [before, after] = pair else { continue };
        let millis = after.at.0.saturating_sub(before.at.0);
        if millis == 0 || millis > gap_millis {
            continue;
        }
        let value = match kind {
            MetricKind::Gauge => after.value,
            MetricKind::Counter if before.boot != after.boot || after.value < before.value => continue,
            MetricKind::Counter => (after.value - before.value) / seconds(millis),
        };
        let first = before.at.0.saturating_sub(steps.from.0) / steps.step_millis;
        for place in usize::try_from(first).unwrap_or(usize::MAX)..steps.count {
            let begin = steps.from.0 + place as u64 * steps.step_millis;
            let end = begin + steps.step_millis;
            if begin >= after.at.0 {
                break;
            }
            let overlap = after.at.0.min(end).saturating_sub(before.at.0.max(begin));
            if let Some((sum, weight)) = sums.get_mut(place) {
                *sum += value * seconds(overlap);
                *weight += seconds(overlap);
            }
        }
    }
    sums.into_iter().map(|(sum, weight)| (weight > 0.0).then(|| sum / weight)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "spans of a few minutes")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn drawn(kind: MetricKind, values: &[(u64, u128, f64)]) -> Vec<Option<f64>> {
        let measured: Vec<Measured> = values
            .iter()
            .map(|(at, boot, value)| Measured {
                at: UnixMillis(at * 1000),
                boot: BootId::new(Uuid::from_u128(*boot)),
                value: *value,
            })
            .collect();
        means(kind, &measured, Steps { from: UnixMillis(100_000), step_millis: 10_000, count: 4 }, 30_000)
    }

    #[test]
    fn a_counter_is_drawn_as_what_it_rose_by_each_second() {
        let even = [(95, 1, 0.0), (105, 1, 20.0), (115, 1, 40.0), (140, 1, 40.0)];
        assert_eq!(drawn(MetricKind::Counter, &even), [Some(2.0), Some(1.0), Some(0.0), Some(0.0)]);
    }

    #[test]
    fn what_was_not_measured_is_unknown_and_never_zero() {
        let nothing = [None; 4];
        assert_eq!(drawn(MetricKind::Gauge, &[]), nothing);
        assert_eq!(drawn(MetricKind::Gauge, &[(105, 1, 7.0)]), nothing, "one value says nothing of a time");
        assert_eq!(drawn(MetricKind::Gauge, &[(90, 1, 7.0), (130, 1, 7.0)]), nothing, "too far apart");
        let gap = [(100, 1, 1.0), (110, 1, 3.0), (145, 1, 5.0)];
        assert_eq!(drawn(MetricKind::Gauge, &gap), [Some(3.0), None, None, None]);
        assert_eq!(
            drawn(MetricKind::Gauge, &[(10, 1, 1.0), (20, 1, 1.0), (150, 1, 1.0), (160, 1, 1.0)]),
            nothing
        );
    }

    #[test]
    fn a_counter_that_fell_or_of_another_boot_says_nothing_there() {
        let fell = [(100, 1, 50.0), (110, 1, 5.0), (120, 1, 15.0)];
        assert_eq!(drawn(MetricKind::Counter, &fell), [None, Some(1.0), None, None]);
        let booted = [(100, 1, 5.0), (110, 2, 50.0), (120, 2, 60.0)];
        assert_eq!(drawn(MetricKind::Counter, &booted), [None, Some(1.0), None, None]);
    }
}
