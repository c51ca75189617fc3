//! The throttle of sign-ins: after some wrong passwords each further try must wait, twice as long each time, and after too
//! many nobody gets in for a while. It knows names that exist from others as little as it knows passwords. Pure.

use std::net::IpAddr;
use std::time::Duration;

use chom_protocol::vps::Sha256;

use crate::limits::recent::Recent;

/// Names whose tries are remembered; about 150 bytes each. Whom it forgets has an empty slate, but a lock is stored apart.
const NAMES_MAX: usize = 10_000;
/// Addresses, the same.
const ADDRESSES_MAX: usize = 10_000;
/// A mistyped password costs nothing.
const FREE_PER_NAME: u32 = 3;
/// An office with many people has one address.
const FREE_PER_ADDRESS: u32 = 15;
/// An address is locked only after so many times as many wrong passwords as a name.
const NAMES_PER_ADDRESS: u32 = 5;
/// The first pause; each is twice the one before.
const PAUSE_FIRST_MS: u64 = 1000;
/// And none is longer.
const PAUSE_MAX_MS: u64 = 60_000;
/// After so long without a try, all is forgotten.
const FORGOTTEN_AFTER_MS: u64 = 60 * 60 * 1000;

/// When somebody is locked out, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// After so many wrong passwords for one name.
    pub after: u32,
    /// For so long.
    pub seconds: u32,
}

/// Tries by name and by address.
#[derive(Debug)]
pub struct Throttle {
    lock: Lock,
    names: Recent<Sha256, Tries>,
    addresses: Recent<IpAddr, Tries>,
}

#[derive(Debug, Default)]
struct Tries {
    failures: u32,
    last_ms: u64,
}

impl Tries {
    /// How long until the next try is let through.
    fn wait_ms(&self, lock: Lock, free: u32, now_ms: u64) -> u64 {
        let pause = match self.failures {
            failures if failures >= lock.after => u64::from(lock.seconds) * 1000,
            failures if failures < free => 0,
            failures => PAUSE_MAX_MS.min(PAUSE_FIRST_MS << (failures - free).min(16)),
        };
        self.last_ms.saturating_add(pause).saturating_sub(now_ms)
    }

    fn count(&mut self, lock: Lock, now_ms: u64) {
        let forgotten_after = FORGOTTEN_AFTER_MS.max(u64::from(lock.seconds) * 1000);
        if now_ms.saturating_sub(self.last_ms) > forgotten_after {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.last_ms = now_ms;
    }
}

impl Throttle {
    /// Nobody has tried yet.
    #[must_use]
    pub fn new(lock: Lock) -> Self {
        Self { lock, names: Recent::new(NAMES_MAX), addresses: Recent::new(ADDRESSES_MAX) }
    }

    /// Lets a try through, and counts it as a failure until it is told otherwise: tries at the same time count too.
    ///
    /// # Errors
    /// When it comes too soon: how long until it does not.
    pub fn enter(&mut self, name: &Sha256, address: Option<IpAddr>, now_ms: u64) -> Result<(), Duration> {
        let (of_name, of_address) = (self.lock, self.of_address());
        let by_name = self.names.get(name).map_or(0, |tries| tries.wait_ms(of_name, FREE_PER_NAME, now_ms));
        let by_address = address
            .and_then(|address| self.addresses.get(&address))
            .map_or(0, |tries| tries.wait_ms(of_address, FREE_PER_ADDRESS, now_ms));
        let wait = by_name.max(by_address);
        if wait > 0 {
            return Err(Duration::from_millis(wait));
        }
        self.names.touch(name, Tries::default).count(of_name, now_ms);
        if let Some(address) = address {
            self.addresses.touch(&address, Tries::default).count(of_address, now_ms);
        }
        Ok(())
    }

    /// Takes back that a try was counted. With the right password, what was wrong before with this name is forgiven; with
    /// this address it is not: whoever has one password may be guessing others.
    pub fn forgive(&mut self, name: &Sha256, address: Option<IpAddr>) {
        self.names.remove(name);
        self.take_back(address);
    }

    /// Takes back that a try was counted which was no try: no password was looked at.
    pub fn untried(&mut self, name: &Sha256, address: Option<IpAddr>) {
        if let Some(tries) = self.names.get_mut(name) {
            tries.failures = tries.failures.saturating_sub(1);
        }
        self.take_back(address);
    }

    fn take_back(&mut self, address: Option<IpAddr>) {
        if let Some(tries) = address.and_then(|address| self.addresses.get_mut(&address)) {
            tries.failures = tries.failures.saturating_sub(1);
        }
    }

    /// For how long a name is locked now that its password was wrong; none if it is not.
    #[must_use]
    pub fn locks(&self, name: &Sha256) -> Option<u64> {
        let tries = self.names.get(name)?;
        (tries.failures >= self.lock.after).then_some(u64::from(self.lock.seconds))
    }

    fn of_address(&self) -> Lock {
        Lock { after: self.lock.after.saturating_mul(NAMES_PER_ADDRESS).max(FREE_PER_ADDRESS), ..self.lock }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOCK: Lock = Lock { after: 10, seconds: 900 };

    fn name(text: &str) -> Sha256 {
        Sha256::of(text.as_bytes())
    }

    /// Tries with wrong passwords, each as soon as it is let through; the waits between them, in seconds.
    fn waits(
        throttle: &mut Throttle,
        tries: usize,
        mut who: impl FnMut(usize) -> (Sha256, Option<IpAddr>),
    ) -> Vec<u64> {
        let mut now = 1_000_000;
        (0..tries)
            .map(|number| {
                let (name, address) = who(number);
                let wait = throttle.enter(&name, address, now).err().unwrap_or_default();
                now += u64::try_from(wait.as_millis()).unwrap();
                if !wait.is_zero() {
                    assert!(throttle.enter(&name, address, now - 1).is_err(), "not a moment earlier");
                    throttle.enter(&name, address, now).unwrap();
                }
                wait.as_secs()
            })
            .collect()
    }

    #[test]
    fn each_wrong_password_makes_the_next_wait_longer_until_the_name_is_locked() {
        let mut throttle = Throttle::new(LOCK);
        let found = waits(&mut throttle, 12, |_| (name("anna"), None));
        assert_eq!(found, [0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 900, 900]);
        assert_eq!(throttle.locks(&name("anna")), Some(900));
        assert_eq!(throttle.locks(&name("bert")), None);
    }

    #[test]
    fn an_address_that_tries_many_names_is_locked_too() {
        let mut throttle = Throttle::new(LOCK);
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let found = waits(&mut throttle, 52, |number| (name(&number.to_string()), Some(address)));
        assert_eq!(found[..16], [&[0; 15][..], &[1]].concat());
        assert_eq!(found[50..], [900, 900]);
        assert!(
            throttle.enter(&name("x"), Some("192.0.2.2".parse().unwrap()), 1_000_000).is_ok(),
            "others go on"
        );
    }

    #[test]
    fn the_right_password_forgives_the_name_and_not_what_the_address_tried_besides() {
        let mut throttle = Throttle::new(Lock { after: 3, seconds: 900 });
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        // Between guesses of others' passwords, one's own is right: that opens no door.
        let mut guesses = 0;
        while throttle.enter(&name(&guesses.to_string()), Some(address), 5).is_ok() {
            guesses += 1;
            if throttle.enter(&name("own"), Some(address), 5).is_ok() {
                throttle.forgive(&name("own"), Some(address));
            }
        }
        assert_eq!(guesses, 15);
    }

    #[test]
    fn after_a_long_time_all_is_forgotten() {
        let mut throttle = Throttle::new(LOCK);
        for _ in 0..3 {
            throttle.enter(&name("anna"), None, 5).unwrap();
        }
        assert!(throttle.enter(&name("anna"), None, 6).is_err());
        let later = 6 + FORGOTTEN_AFTER_MS;
        for _ in 0..3 {
            throttle.enter(&name("anna"), None, later).unwrap();
        }
    }

    proptest! {
        /// However a guesser spreads its tries, in any hour it has no more than the free ones, the doubling ones and the locks' worth.
        #[test]
        fn nobody_tries_more_passwords_than_the_rule_allows(pauses in prop::collection::vec(0_u64..200_000, 1..300)) {
            let (mut throttle, mut now) = (Throttle::new(LOCK), 1);
            let mut tried = Vec::new();
            for pause in pauses {
                now += pause;
                if throttle.enter(&name("anna"), None, now).is_ok() {
                    tried.push(now);
                }
            }
            for (first, from) in tried.iter().enumerate() {
                let in_an_hour = tried[first..].iter().take_while(|at| **at < from + 60 * 60 * 1000).count();
                prop_assert!(in_an_hour <= 10 + 4, "{in_an_hour}");
            }
        }
    }
}
