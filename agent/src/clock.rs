//! The one place of the agent that reads the wall clock. Decisions take `now` as an argument.

use chom_protocol::UnixMillis;

/// Now, by the host's clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one function of the agent that reads the wall clock")]
pub fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
