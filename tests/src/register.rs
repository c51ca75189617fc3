//! Whether what clients saw of one row could have happened one by one (linearisability), judged from revisions and values
//! alone. Pure. A row is a register: each write names the revision that it overwrites, so the successful writes are a chain,
//! and every answer has its place in it.

use std::collections::BTreeMap;

/// What a client asked, and what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It read this.
    Read {
        /// The revision.
        revision: u64,
        /// The value.
        value: String,
    },
    /// It wrote over a revision, and it was taken.
    Written {
        /// Which it overwrote.
        over: u64,
        /// Which it made.
        revision: u64,
        /// What it wrote.
        value: String,
    },
    /// It would have written over a revision, and was told that this is not the newest.
    Stale {
        /// Which.
        over: u64,
    },
}

/// One answer, and between which moments it was given. Moments are numbers of one clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// When it was asked.
    pub asked: u64,
    /// When it was told.
    pub told: u64,
    /// What.
    pub seen: Seen,
}

/// Judges a history that began with a revision and its value.
///
/// # Errors
/// Says what could not have happened one by one.
pub fn one_by_one(first: (u64, &str), history: &[Answer]) -> Result<(), String> {
    let places = chain(first, history)?;
    let place = |revision: u64| {
        places
            .get(&revision)
            .map(|(place, _)| *place)
            .ok_or_else(|| format!("revision {revision} was never there"))
    };
    // Where each answer stands: a write before the reads of what it wrote.
    let mut stands: Vec<(u64, u64, usize, &Answer)> = Vec::new();
    let mut in_order: Vec<&Answer> = history.iter().collect();
    in_order.sort_by_key(|answer| answer.asked);
    for answer in in_order {
        let at = match &answer.seen {
            Seen::Read { revision, value } => {
                let wrote = places.get(revision).map(|(_, wrote)| wrote);
                if wrote.is_some_and(|wrote| wrote != value) {
                    return Err(format!("revision {revision} was read as `{value}`, and is {wrote:?}"));
                }
                (place(*revision)?, 1)
            }
            Seen::Written { revision, .. } => (place(*revision)?, 0),
            // At the first moment at which it was stale, and not before what was over when it was asked.
            Seen::Stale { over } => {
                let before = stands.iter().filter(|(.., other)| other.told < answer.asked);
                let least = before.map(|(at, ..)| *at).max().unwrap_or(0);
                (least.max(place(*over)? + 1), 1)
            }
        };
        stands.push((at.0, at.1, stands.len(), answer));
    }
    let newest = places.values().map(|(place, _)| *place).max().unwrap_or(0);
    for (at, kind, _, one) in &stands {
        if *at > newest {
            return Err(format!("{one:?} was refused, and nothing had been written over it"));
        }
        for (other_at, other_kind, _, other) in &stands {
            let first = (*at, *kind);
            let second = (*other_at, *other_kind);
            // What was told before the other was asked must stand before it; two reads of the same may stand as they like.
            let together = first == second && *kind == 1;
            if one.told < other.asked && second <= first && !together {
                return Err(format!("{one:?} was over when {other:?} was asked, and stands behind it"));
            }
        }
    }
    Ok(())
}

/// The place and the value of each revision.
fn chain(first: (u64, &str), history: &[Answer]) -> Result<BTreeMap<u64, (u64, String)>, String> {
    let mut writes: BTreeMap<u64, (u64, String)> = BTreeMap::new();
    for answer in history {
        if let Seen::Written { over, revision, value } = &answer.seen
            && let Some((other, _)) = writes.insert(*over, (*revision, value.clone()))
        {
            return Err(format!("revision {over} was written over twice: by {other} and {revision}"));
        }
    }
    let mut places = BTreeMap::from([(first.0, (0, first.1.to_owned()))]);
    let (mut at, mut place) = (first.0, 0);
    while let Some((next, value)) = writes.remove(&at) {
        place += 1;
        if next <= at {
            return Err(format!("revision {next} follows revision {at}"));
        }
        places.insert(next, (place, value));
        at = next;
    }
    match writes.first_key_value() {
        Some((over, (revision, _))) => {
            Err(format!("revision {revision} was written over {over}, which was not the newest"))
        }
        None => Ok(places),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `asked-told what`, one a line: `r REVISION VALUE`, `w OVER REVISION VALUE`, `s OVER`.
    fn judge(text: &str) -> Result<(), String> {
        let history: Vec<Answer> =
            text.split(',').map(str::trim).filter(|line| !line.is_empty()).map(read).collect();
        one_by_one((1, "a"), &history)
    }

    fn read(line: &str) -> Answer {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (asked, told) = words[0].split_once('-').unwrap();
        let number = |place: usize| words[place].parse().unwrap();
        let seen = match words[1] {
            "r" => Seen::Read { revision: number(2), value: words[3].to_owned() },
            "w" => Seen::Written { over: number(2), revision: number(3), value: words[4].to_owned() },
            _ => Seen::Stale { over: number(2) },
        };
        Answer { asked: asked.parse().unwrap(), told: told.parse().unwrap(), seen }
    }

    #[test]
    fn what_could_have_happened_one_by_one_is_let_through() {
        for good in [
            "",
            "1-2 r 1 a, 3-4 w 1 5 b, 5-6 r 5 b, 7-8 s 1, 9-10 w 5 6 c",
            // All at once: each as it likes.
            "1-9 r 1 a, 1-9 w 1 5 b, 1-9 r 5 b, 1-9 s 1, 1-9 w 5 6 c, 1-9 r 6 c",
            "1-9 w 1 5 b, 2-3 r 5 b, 4-5 r 5 b",
            "1-3 r 1 a, 2-4 r 1 a, 5-6 r 1 a",
            "1-5 s 1, 2-9 w 1 5 b",
        ] {
            assert_eq!(judge(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_could_not_is_rejected_with_why() {
        for (bad, why) in [
            ("1-2 w 1 5 b, 3-4 w 1 6 c", "written over twice"),
            ("1-2 w 3 5 b", "was not the newest"),
            ("1-2 w 1 1 b", "follows"),
            ("1-2 r 7 z", "never there"),
            ("1-2 w 1 5 b, 3-4 r 5 z", "was read as"),
            // Stale reads: what was written, or read, before is gone again.
            ("1-2 w 1 5 b, 3-4 r 1 a", "stands behind"),
            ("1-9 w 1 5 b, 2-3 r 5 b, 4-5 r 1 a", "stands behind"),
            // Read before anybody asked for it to be written.
            ("1-2 r 5 b, 3-4 w 1 5 b", "stands behind"),
            // Refused, though nobody had written over it yet, or ever.
            ("1-2 s 1, 3-4 w 1 5 b", "stands behind"),
            ("1-2 s 1", "nothing had been written"),
            // After a refusal nobody sees the old one.
            ("1-9 w 1 5 b, 2-3 s 1, 4-5 r 1 a", "stands behind"),
            ("1-2 w 1 5 b, 3-4 w 5 6 c, 5-6 s 6", "nothing had been written"),
        ] {
            let said = judge(bad).expect_err(bad);
            assert!(said.contains(why), "{bad}: {said}");
        }
    }
}
