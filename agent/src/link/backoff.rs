//! How long to wait before dialling again. Pure: randomness and times are arguments.

use std::time::Duration;

/// The first pause is at most this: a restarted orchestrator is back at once.
const FIRST_MS_MAX: u64 = 1_000;
/// The longest pause: what an agent is late at most after a long outage.
const PAUSE_MS_MAX: u64 = 60_000;
/// A connection that held so long was a good one.
pub(super) const STABLE: Duration = Duration::from_secs(60);

/// Exponential with full jitter: anywhere between nothing and a bound that doubles, so that a fleet that lost its
/// orchestrator at one moment does not come back at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next pause; `random` is uniform over all of u64.
    pub(super) fn next(&mut self, random: u64) -> Duration {
        let bound = FIRST_MS_MAX.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        Duration::from_millis(random % (bound + 1))
    }

    /// A pause near the longest, for what time alone does not mend.
    pub(super) fn long(&mut self, random: u64) -> Duration {
        self.failures = u32::MAX;
        Duration::from_millis(PAUSE_MS_MAX / 2 + random % (PAUSE_MS_MAX / 2 + 1))
    }

    /// A connection ended that had held for so long.
    pub(super) fn held(&mut self, held: Duration) {
        if held >= STABLE {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_a_minute_and_a_stable_connection_resets_it() {
        let mut backoff = Backoff::default();
        let bounds: Vec<u64> = (0..8)
            .map(|_| {
                let mut longest = backoff;
                let bound = (0..60_001).map(|random| longest_of(&mut longest, backoff, random)).max();
                backoff.next(0);
                bound.unwrap()
            })
            .collect();
        assert_eq!(bounds, [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        backoff.held(Duration::from_secs(59));
        assert_ne!(backoff, Backoff::default());
        backoff.held(STABLE);
        assert_eq!(backoff, Backoff::default());
    }

    fn longest_of(scratch: &mut Backoff, from: Backoff, random: u64) -> u64 {
        *scratch = from;
        u64::try_from(scratch.next(random).as_millis()).unwrap()
    }

    #[test]
    fn jitter_is_full() {
        let pauses: Vec<Duration> = (0..1000).map(|random| Backoff::default().next(random)).collect();
        assert!(pauses.iter().any(|pause| pause.as_millis() < 50));
        assert!(pauses.iter().any(|pause| pause.as_millis() > 950));
    }
}
