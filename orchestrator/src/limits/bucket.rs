//! Token buckets: a caller may ask `burst` times at once and `per_second` times a second on end. Pure.

use std::time::Duration;

use crate::limits::recent::Recent;

/// What one request takes out of a bucket. In thousandths, what flows in during a millisecond is a whole number.
const REQUEST: u64 = 1000;

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// On end.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

/// A bucket for each caller, as many as there is room for: one that has to go was not used for the longest time, so it is
/// full again in all but a flood of callers, and a full one is as good as none.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    buckets: Recent<K, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    level: u64,
    at_ms: u64,
}

impl<K: Ord + Clone> Buckets<K> {
    /// Full buckets for at most `callers_max` callers.
    #[must_use]
    pub fn new(rate: Rate, callers_max: usize) -> Self {
        Self { rate, buckets: Recent::new(callers_max) }
    }

    /// Takes one request out of a caller's bucket.
    ///
    /// # Errors
    /// When it is empty: how long until it is not.
    pub fn take(&mut self, caller: &K, now_ms: u64) -> Result<(), Duration> {
        let (flow, full) = (u64::from(self.rate.per_second), u64::from(self.rate.burst) * REQUEST);
        let bucket = self.buckets.touch(caller, || Bucket { level: full, at_ms: now_ms });
        let since = now_ms.saturating_sub(bucket.at_ms);
        bucket.level = bucket.level.saturating_add(since.saturating_mul(flow)).min(full);
        bucket.at_ms = bucket.at_ms.max(now_ms);
        match bucket.level.checked_sub(REQUEST) {
            Some(rest) => {
                bucket.level = rest;
                Ok(())
            }
            None => Err(Duration::from_millis((REQUEST - bucket.level).div_ceil(flow.max(1)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 3 };

    #[test]
    fn a_burst_is_let_through_then_one_for_each_share_of_a_second() {
        let mut buckets = Buckets::new(RATE, 8);
        let asked: String = [0, 0, 0, 0, 50, 99, 100, 101, 199, 200, 10_000, 10_000, 10_000, 10_000]
            .into_iter()
            .map(|now| match buckets.take(&"a", now) {
                Ok(()) => format!("{now} "),
                Err(wait) => format!("{now}:wait {} ", wait.as_millis()),
            })
            .collect();
        assert_eq!(
            asked,
            "0 0 0 0:wait 100 50:wait 50 99:wait 1 100 101:wait 99 199:wait 1 200 10000 10000 10000 10000:wait 100 "
        );
        assert!(buckets.take(&"b", 0).is_ok(), "another caller has a bucket of its own");
    }

    #[test]
    fn callers_without_end_take_no_more_than_their_room() {
        let mut buckets = Buckets::new(RATE, 8);
        for caller in 0..10_000 {
            assert!(buckets.take(&caller, 0).is_ok());
        }
        assert_eq!(buckets.buckets.len(), 8);
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_what_flowed_in(
            per_second in 1_u32..5000, burst in 1_u32..5000, pauses in prop::collection::vec(0_u64..300, 1..400),
        ) {
            let mut buckets = Buckets::new(Rate { per_second, burst }, 2);
            let (mut now, mut given) = (7, Vec::new());
            for pause in pauses {
                now += pause;
                match buckets.take(&(), now) {
                    Ok(()) => given.push(now),
                    // Whoever waits as told gets in.
                    Err(wait) => {
                        now += u64::try_from(wait.as_millis()).unwrap();
                        prop_assert!(buckets.take(&(), now).is_ok());
                        given.push(now);
                    }
                }
            }
            // In any stretch of time, not only from the beginning on.
            for (first, from) in given.iter().enumerate() {
                for (last, until) in given.iter().enumerate().skip(first) {
                    let (count, millis) = ((last - first + 1) as u64, until - from);
                    prop_assert!(count * 1000 <= u64::from(burst) * 1000 + millis * u64::from(per_second));
                }
            }
        }
    }
}
