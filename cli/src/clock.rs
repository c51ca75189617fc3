//! The one place of chomctl that reads the wall clock or sleeps.

use std::time::Duration;

use chom_protocol::UnixMillis;

/// Now, by the wall clock.
#[expect(clippy::disallowed_methods, reason = "this is the edge that reads the clock for everything else")]
pub(crate) fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Waits between two questions to the server; there is nothing local to wait for.
#[expect(
    clippy::disallowed_methods,
    reason = "polling a remote server: every caller has a deadline or a bound on tries"
)]
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
