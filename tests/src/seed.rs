//! Chance that can be repeated: every test prints its seed, and `CHOM_TEST_SEED` gives it back. No cryptography here.

use std::time::Duration;

/// Names the seed to use instead of a fresh one.
const SEED_VARIABLE: &str = "CHOM_TEST_SEED";
/// Set to 1: whole campaigns instead of about a tenth.
const LONG_VARIABLE: &str = "CHOM_TEST_LONG";

/// A stream of numbers that follows from its seed (SplitMix64, Steele et al. 2014).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// A fresh seed, printed; or the one of `CHOM_TEST_SEED`.
    ///
    /// # Panics
    /// When `CHOM_TEST_SEED` is no number.
    #[must_use]
    pub fn for_test(test: &str) -> Self {
        let seed = match std::env::var(SEED_VARIABLE) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE}=`{text}` is no number")),
            Err(_) => u64::try_from(uuid::Uuid::new_v4().as_u128() >> 96).unwrap_or_default(),
        };
        println!("{test}: repeat with {SEED_VARIABLE}={seed}");
        Self(seed)
    }

    /// Of a seed.
    #[must_use]
    pub const fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number().checked_rem(bound).unwrap_or_default()
    }

    /// Whether something with this chance in a hundred happens.
    pub fn percent(&mut self, percent: u8) -> bool {
        self.below(100) < u64::from(percent)
    }

    /// A time between the two.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from(most.saturating_sub(least).as_micros()).unwrap_or(u64::MAX);
        least + Duration::from_micros(self.below(span + 1))
    }

    /// One of these.
    ///
    /// # Panics
    /// When there are none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let place = self.below(of.len() as u64);
        &of[usize::try_from(place).unwrap_or_default()]
    }

    /// A stream of its own for a part of the test, so that threads do not change each other's numbers.
    pub fn split(&mut self) -> Self {
        Self(self.number())
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number().to_le_bytes()[0]).collect()
    }
}

/// Whether whole campaigns are to be run.
#[must_use]
pub fn long() -> bool {
    std::env::var(LONG_VARIABLE).is_ok_and(|value| value == "1")
}

/// Rounds of a campaign: all of them, or those for every run.
#[must_use]
pub fn rounds(whole: usize, every_run: usize) -> usize {
    if long() { whole } else { every_run }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_chance() {
        let (mut one, mut two) = (Chance::of(7), Chance::of(7));
        let drawn: Vec<u64> = (0..100).map(|_| one.below(10)).collect();
        assert_eq!(drawn, (0..100).map(|_| two.below(10)).collect::<Vec<_>>());
        assert!((0..10).all(|digit| drawn.contains(&digit)), "{drawn:?}");
    }
}
