//! Which blobs of the cache may go. Pure: what needs a blob is found elsewhere.

use chom_protocol::UnixMillis;
use chom_protocol::vps::Sha256;

/// What nothing needs is kept so long after it was last needed: a rebuild, or the next VPS of the same image, finds it.
const KEPT_SECONDS: u64 = 24 * 60 * 60;
/// With less of the file system free than this, in percent, what nothing needs goes at once, the oldest first.
const FREE_PERCENT_MIN: u64 = 10;

/// A blob of the cache, or what has come of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cached {
    pub(super) sha256: Sha256,
    /// Its fetch broke off.
    pub(super) partial: bool,
    pub(super) bytes: u64,
    /// When it was last known to be needed.
    pub(super) needed_at: UnixMillis,
}

/// Space of the file system that the cache is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) free_bytes: u64,
    pub(super) total_bytes: u64,
}

/// Those that may go, of those that nothing needs now: the one needed longest ago first.
pub(super) fn removable(mut unneeded: Vec<Cached>, space: Space, now: UnixMillis) -> Vec<Cached> {
    unneeded.sort_by_key(|blob| (blob.needed_at, blob.sha256));
    let wanted = space.total_bytes / 100 * FREE_PERCENT_MIN;
    let mut free = space.free_bytes;
    unneeded.retain(|blob| {
        // A clock that stepped back keeps it longer.
        let goes = now.seconds_since(blob.needed_at) >= KEPT_SECONDS || free < wanted;
        free = free.saturating_add(if goes { blob.bytes } else { 0 });
        goes
    });
    unneeded
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
    const NOW: u64 = 1_000 * HOUR;

    /// Blobs by how many hours ago they were needed, 10 bytes each; gives the hours of those that go.
    fn goes(hours_ago: &[u64], free_bytes: u64) -> Vec<u64> {
        let blob = |&hours: &u64| Cached {
            sha256: Sha256::of(&hours.to_be_bytes()),
            partial: false,
            bytes: 10,
            needed_at: UnixMillis((NOW - hours * HOUR) * 1000),
        };
        let space = Space { free_bytes, total_bytes: 1000 };
        let gone = removable(hours_ago.iter().map(blob).collect(), space, UnixMillis(NOW * 1000));
        gone.iter().map(|blob| NOW / HOUR - blob.needed_at.0 / 1000 / HOUR).collect()
    }

    #[test]
    fn what_was_not_needed_for_a_day_goes_and_the_rest_only_for_want_of_space_the_oldest_first() {
        for (hours_ago, free_bytes, expected) in [
            (&[1, 23, 24, 100][..], 500, &[100, 24][..]),
            (&[1, 23, 24, 100], 100, &[100, 24]),
            (&[1, 2, 3, 4], 100, &[]),
            (&[1, 2, 3, 4], 99, &[4]),
            (&[1, 2, 3, 4], 75, &[4, 3, 2]),
            (&[1, 2, 30, 40], 85, &[40, 30]),
            (&[1, 2], 0, &[2, 1]),
            (&[], 0, &[]),
        ] {
            assert_eq!(goes(hours_ago, free_bytes), expected, "{hours_ago:?}, {free_bytes} bytes free");
        }
    }
}
