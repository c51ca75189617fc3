//! Waiting for a condition until a deadline. The one place of the tests that sleeps.

use std::time::{Duration, Instant};

use chom_protocol::UnixMillis;

/// Between two looks: short beside what is waited for, long beside what a look costs.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// Looks again and again until there is something, at most for `deadline`.
///
/// # Panics
/// When there is nothing by then; says what was waited for and what was seen last.
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if started.elapsed() >= deadline => {
                panic!("waited {} s for {what}; seen last: {seen}", deadline.as_secs());
            }
            Err(_) => std::thread::sleep(LOOK_INTERVAL),
        }
    }
}

/// Waits until something holds, at most for `deadline`.
///
/// # Panics
/// When it does not by then.
pub fn wait_until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    wait_for(what, deadline, || if holds() { Ok(()) } else { Err("it does not hold".to_owned()) });
}

/// Lets time pass that is itself what is tested, such as the length of an outage or the moment of a kill.
pub fn pass(time: Duration) {
    std::thread::sleep(time);
}

/// Checks that something holds all the time, for so long.
///
/// # Panics
/// As soon as it does not.
pub fn holds_for(what: &str, time: Duration, mut look: impl FnMut() -> Result<(), String>) {
    let started = Instant::now();
    while started.elapsed() < time {
        if let Err(seen) = look() {
            panic!("{what} held only {} ms of {} s: {seen}", started.elapsed().as_millis(), time.as_secs());
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// The wall clock.
#[must_use]
pub fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
