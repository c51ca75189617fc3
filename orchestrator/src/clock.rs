//! The one place of the orchestrator that reads the wall clock; decisions are given the time.

use chom_protocol::UnixMillis;

/// The time now. A clock set before 1970 reads as 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the edge that reads the clock")]
pub fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A moment as RFC 3339 text in UTC, as the API shows it.
#[must_use]
pub fn rfc3339(at: UnixMillis) -> String {
    timestamp(at).to_string()
}

/// The moment that an RFC 3339 text names; none if it is no such text, or before 1970.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<UnixMillis> {
    let at: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok().map(UnixMillis)
}

/// Year and month of a moment, UTC.
#[must_use]
pub fn date_utc(at: UnixMillis) -> (i16, i8) {
    let date = timestamp(at).to_zoned(jiff::tz::TimeZone::UTC).date();
    (date.year(), date.month())
}

fn timestamp(at: UnixMillis) -> jiff::Timestamp {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX)
}
