//! When a certificate is renewed. Pure: times in, decision out.

use chom_protocol::{HostId, UnixMillis};

/// How long after its expiry a certificate still lets its host ask for a new one with the same key, so that an outage
/// of a season needs no hands on the hosts. It opens nothing else.
pub const RENEWABLE_AFTER_EXPIRY_SECONDS: u64 = 90 * 24 * 60 * 60;

/// Hosts enrolled in one go spread their renewals over this part of a certificate's life (one twelfth: 2.5 of 30 days).
const SPREAD_DIVISOR: u64 = 12;

/// When two thirds of a certificate's life are over: a third of it is left for what may go wrong.
#[must_use]
pub fn two_thirds(not_before: UnixMillis, not_after: UnixMillis) -> UnixMillis {
    let life_ms = not_after.millis_since(not_before);
    UnixMillis(not_before.0.saturating_add(life_ms - life_ms / 3))
}

/// When this host renews a certificate: after two thirds of its life and a share of the spread that depends on the
/// host alone, so that it is the same after every restart.
#[must_use]
pub fn renewal_at(not_before: UnixMillis, not_after: UnixMillis, host: HostId) -> UnixMillis {
    let life_ms = not_after.millis_since(not_before);
    let spread_ms = life_ms / SPREAD_DIVISOR;
    let digest = ring::digest::digest(&ring::digest::SHA256, host.uuid().as_bytes());
    // The digest's first 32 bits as a share of the spread; 2^32 shares of at most a few years fit in 128 bits.
    let share = digest.as_ref().iter().take(4).fold(0_u128, |share, &byte| (share << 8) | u128::from(byte));
    let jitter_ms = u64::try_from((u128::from(spread_ms) * share) >> 32).unwrap_or(spread_ms);
    UnixMillis(two_thirds(not_before, not_after).0.saturating_add(jitter_ms))
}

/// Whether it is time for this host to renew.
#[must_use]
pub fn renewal_due(not_before: UnixMillis, not_after: UnixMillis, host: HostId, now: UnixMillis) -> bool {
    now >= renewal_at(not_before, not_after, host)
}

/// Whether a certificate is past its last second. X.509 counts whole seconds, and the last one is still good.
#[must_use]
pub fn is_expired(not_after: UnixMillis, now: UnixMillis) -> bool {
    now.seconds_since(not_after) > 0
}

/// Whether a certificate that ran out at `not_after` may still be renewed with the same key.
#[must_use]
pub fn after_expiry_allowed(not_after: UnixMillis, now: UnixMillis) -> bool {
    now.seconds_since(not_after) <= RENEWABLE_AFTER_EXPIRY_SECONDS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const DAY: u64 = 24 * 60 * 60;
    const START: UnixMillis = UnixMillis(1_800_000_000_000);

    fn day(days: u64) -> UnixMillis {
        START.plus_seconds(days * DAY)
    }

    fn host(number: u128) -> HostId {
        HostId::new(Uuid::from_u128(number))
    }

    #[test]
    fn renewal_is_due_after_two_thirds_of_life_and_before_three_quarters() {
        for (at, due) in [(0, false), (19, false), (23, true), (30, true), (31, true), (400, true)] {
            for number in 0..50 {
                assert_eq!(
                    renewal_due(START, day(30), host(number), day(at)),
                    due,
                    "day {at}, host {number}"
                );
            }
        }
    }

    #[test]
    fn hosts_enrolled_together_do_not_renew_together() {
        let mut times: Vec<UnixMillis> = (0..1000).map(|n| renewal_at(START, day(30), host(n))).collect();
        times.sort_unstable();
        // No hour of the 60 takes more than a handful of the thousand hosts.
        let hour_ms = 60 * 60 * 1000;
        let busiest = times
            .iter()
            .map(|from| times.iter().filter(|at| **at >= *from && at.0 < from.0 + hour_ms).count());
        assert!(busiest.max() <= Some(50));
    }

    #[test]
    fn a_certificate_may_be_renewed_for_ninety_days_after_it_ran_out() {
        let end = day(30);
        let limit = end.plus_seconds(RENEWABLE_AFTER_EXPIRY_SECONDS);
        let table = [
            (day(0), false, true),
            (end, false, true),
            (UnixMillis(end.0 + 999), false, true),
            (end.plus_seconds(1), true, true),
            (limit, true, true),
            (limit.plus_seconds(1), true, false),
        ];
        for (now, expired, renewable) in table {
            assert_eq!(
                (is_expired(end, now), after_expiry_allowed(end, now)),
                (expired, renewable),
                "{now:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn renewal_falls_within_the_last_third_of_any_life(start: u32, life_ms in 0..u64::from(u32::MAX) * 1000, number: u128) {
            let not_before = UnixMillis(u64::from(start) * 1000);
            let not_after = UnixMillis(not_before.0 + life_ms);
            let at = renewal_at(not_before, not_after, host(number));
            prop_assert!(at.0 >= not_before.0 + life_ms / 3 * 2 && at <= not_after);
        }

        #[test]
        fn no_times_however_odd_make_it_panic(a: u64, b: u64, now: u64, number: u128) {
            let (a, b, now) = (UnixMillis(a), UnixMillis(b), UnixMillis(now));
            let _ = renewal_due(a, b, host(number), now);
            let _ = (is_expired(a, now), after_expiry_allowed(b, now));
        }
    }
}
