//! The lines of the audit log: each has its own hash and that of the line before, so that a change of any byte of them, and a
//! line that is missing, moved or put in, is found. The orchestrator writes them; it and chomctl check them. Pure.

use serde::Deserialize;

use crate::vps::Sha256;

/// What stands in for the hash of the line before the first one.
pub const BEGINNING: Sha256 = Sha256([0; 32]);

const BEFORE_HASH: &str = r#"{"hash":""#;
const BEFORE_PREVIOUS: &str = r#"","previous":""#;
const BEFORE_ENTRY: &str = r#"","entry":"#;
const END: &str = "}";
/// Hexadecimal digits of a SHA-256.
const DIGITS: usize = 64;

/// An entry's hash: of the hash before it and of its JSON text, byte for byte.
#[must_use]
pub fn hash(previous: &Sha256, entry: &str) -> Sha256 {
    Sha256::of(format!("{previous}\n{entry}").as_bytes())
}

/// The line of an entry, without the newline, and its hash. `entry` is JSON without a newline in it.
#[must_use]
pub fn line(previous: &Sha256, entry: &str) -> (String, Sha256) {
    let hash = hash(previous, entry);
    (format!("{BEFORE_HASH}{hash}{BEFORE_PREVIOUS}{previous}{BEFORE_ENTRY}{entry}{END}"), hash)
}

/// A line taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The hash that it says it has.
    pub hash: Sha256,
    /// The hash that it says the line before has.
    pub previous: Sha256,
    /// Its entry, JSON.
    pub entry: &'a str,
    /// The entry's number.
    pub sequence: u64,
}

impl<'a> Line<'a> {
    /// Takes a line apart; none if it is none as the orchestrator writes them.
    #[must_use]
    pub fn read(text: &'a str) -> Option<Self> {
        let (hash, rest) = digits(text.strip_prefix(BEFORE_HASH)?)?;
        let (previous, rest) = digits(rest.strip_prefix(BEFORE_PREVIOUS)?)?;
        let entry = rest.strip_prefix(BEFORE_ENTRY)?.strip_suffix(END)?;
        let Numbered { data: Number { sequence } } = serde_json::from_str(entry).ok()?;
        Some(Self { hash, previous, entry, sequence })
    }

    /// Whether its hash is that of what stands in it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        hash(&self.previous, self.entry) == self.hash
    }
}

#[derive(Deserialize)]
struct Numbered {
    data: Number,
}

#[derive(Deserialize)]
struct Number {
    sequence: u64,
}

/// A hash at the beginning of a text, and the rest. Only as it is written: digits in upper case were put there by somebody else.
fn digits(text: &str) -> Option<(Sha256, &str)> {
    let (digits, rest) = text.split_at_checked(DIGITS)?;
    let hash = Sha256::try_from(digits.to_owned()).ok()?;
    (hash.to_string() == digits).then_some((hash, rest))
}

/// What is wrong at one place of the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The text is no line.
    #[error("entry {sequence} cannot be read: its line was changed")]
    Unreadable {
        /// Which entry should be there.
        sequence: u64,
    },
    /// Hash and content differ.
    #[error("entry {sequence} was changed: its hash is not that of what stands there")]
    Changed {
        /// Which entry.
        sequence: u64,
    },
    /// Whole in itself, and no successor of the one before.
    #[error("entry {sequence} does not follow the one before it: one of the two was replaced")]
    Detached {
        /// Which entry.
        sequence: u64,
    },
    /// Entries are not there.
    #[error("the entries {first} to {last} are missing")]
    Missing {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
    /// An entry that stands there already.
    #[error("entry {sequence} stands there twice, or in another place than its own")]
    Repeated {
        /// Which entry.
        sequence: u64,
    },
    /// The log ends otherwise than the store says.
    #[error("the last entry, {sequence}, is not the one that the orchestrator's store says")]
    OtherEnd {
        /// Which entry.
        sequence: u64,
    },
}

/// Checks lines, one after the other.
#[derive(Debug, Clone)]
pub struct Checker {
    /// The last entry.
    sequence: u64,
    /// Its hash; none: it cannot be known, because the line was no line.
    hash: Option<Sha256>,
    entries: u64,
}

impl Checker {
    /// Begins behind an entry.
    #[must_use]
    pub const fn after(sequence: u64, hash: Sha256) -> Self {
        Self { sequence, hash: Some(hash), entries: 0 }
    }

    /// Begins with whatever line comes first; what was before it cannot be known.
    #[must_use]
    pub fn from_first(line: &str) -> Self {
        let first = Line::read(line);
        let (sequence, hash) =
            first.map_or((0, None), |line| (line.sequence.saturating_sub(1), Some(line.previous)));
        Self { sequence, hash, entries: 0 }
    }

    /// How many lines were taken.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// The number of the last entry.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Takes the next line, and goes on with what it says of itself.
    ///
    /// # Errors
    /// When it was changed, or is not the next one.
    pub fn take(&mut self, text: &str) -> Result<(), Fault> {
        self.entries += 1;
        let expected = self.sequence.saturating_add(1);
        let Some(line) = Line::read(text) else {
            (self.sequence, self.hash) = (expected, None);
            return Err(Fault::Unreadable { sequence: expected });
        };
        if !line.is_whole() {
            // Its number may be what was changed.
            (self.sequence, self.hash) = (expected, Some(line.hash));
            return Err(Fault::Changed { sequence: expected });
        }
        let before = self.hash;
        (self.sequence, self.hash) = (line.sequence, Some(line.hash));
        match before {
            _ if line.sequence < expected && before.is_some() => {
                Err(Fault::Repeated { sequence: line.sequence })
            }
            _ if line.sequence > expected => Err(Fault::Missing { first: expected, last: line.sequence - 1 }),
            Some(before) if before != line.previous => Err(Fault::Detached { sequence: line.sequence }),
            _ => Ok(()),
        }
    }

    /// Judges the end by what the store says of it.
    ///
    /// # Errors
    /// When entries are missing at the end, or the last one is another.
    pub fn end(&self, sequence: u64, hash: &Sha256) -> Result<(), Fault> {
        if self.sequence < sequence {
            return Err(Fault::Missing { first: self.sequence + 1, last: sequence });
        }
        match self.hash {
            Some(found) if self.sequence == sequence && found != *hash => Err(Fault::OtherEnd { sequence }),
            _ if self.sequence > sequence => Err(Fault::OtherEnd { sequence: self.sequence }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;

    /// So many lines, and the hash of the last.
    fn log(count: u64) -> (Vec<String>, Sha256) {
        let mut previous = BEGINNING;
        let lines = (1..=count).map(|sequence| {
            let entry = format!(
                r#"{{"kind":"audit","schema":1,"data":{{"sequence":{sequence},"action":"vps.stop"}}}}"#
            );
            let (line, hash) = line(&previous, &entry);
            previous = hash;
            line
        });
        (lines.collect(), previous)
    }

    /// What is wrong with a log as it stands in a file.
    fn faults(text: &[u8], count: u64, last: &Sha256) -> Vec<Fault> {
        let mut checker = Checker::after(0, BEGINNING);
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let taken =
            text.split(|byte| *byte == b'\n').map(|line| checker.take(&String::from_utf8_lossy(line)));
        let mut faults: Vec<Fault> = taken.filter_map(Result::err).collect();
        faults.extend(checker.end(count, last).err());
        faults
    }

    fn file(lines: &[String]) -> Vec<u8> {
        lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect()
    }

    fn words(lines: &[String], last: &Sha256) -> String {
        let all = faults(&file(lines), 4, last);
        all.iter().map(|fault| format!("{fault}\n")).collect()
    }

    #[test]
    fn a_line_looks_like_this_and_an_untouched_log_has_no_fault() {
        let (lines, last) = log(4);
        expect![[r#"{"hash":"aa98ae7e3b5c30b2d0758e4cc8c4d7a415d1e1b8988967b37aa772a2685d9557","previous":"0000000000000000000000000000000000000000000000000000000000000000","entry":{"kind":"audit","schema":1,"data":{"sequence":1,"action":"vps.stop"}}}"#]].assert_eq(&lines[0]);
        assert_eq!(words(&lines, &last), "");
        let mut checker = Checker::from_first(&lines[2]);
        assert!(lines[2..].iter().all(|line| checker.take(line).is_ok()));
        assert_eq!((checker.entries(), checker.sequence()), (2, 4));
    }

    #[test]
    fn what_was_done_to_a_log_is_named() {
        let (lines, last) = log(4);
        let without = |place: usize| {
            let mut lines = lines.clone();
            lines.remove(place);
            lines
        };
        expect!["the entries 2 to 2 are missing\n"].assert_eq(&words(&without(1), &last));
        expect!["the entries 1 to 1 are missing\n"].assert_eq(&words(&without(0), &last));
        expect!["the entries 4 to 4 are missing\n"].assert_eq(&words(&without(3), &last));
        let mut swapped = lines.clone();
        swapped.swap(1, 2);
        expect![[r#"
            the entries 2 to 2 are missing
            entry 2 stands there twice, or in another place than its own
            the entries 3 to 3 are missing
        "#]]
        .assert_eq(&words(&swapped, &last));
        // Somebody who knows how hashes are made writes entry 2 anew, and then all that follow.
        let mut forged = lines.clone();
        let first = Line::read(&lines[0]).unwrap().hash;
        forged[1] = line(&first, r#"{"data":{"sequence":2,"action":"vps.start"}}"#).0;
        expect!["entry 3 does not follow the one before it: one of the two was replaced\n"]
            .assert_eq(&words(&forged, &last));
        for place in 2..4 {
            let previous = Line::read(&forged[place - 1]).unwrap().hash;
            forged[place] = line(&previous, Line::read(&lines[place]).unwrap().entry).0;
        }
        expect!["the last entry, 4, is not the one that the orchestrator's store says\n"]
            .assert_eq(&words(&forged, &last));
    }

    proptest! {
        /// Whichever byte is changed into whichever other: it is found, and the entry is named whose line it is in.
        #[test]
        fn any_byte_that_is_changed_is_found(place in 0usize..1_000_000, new in any::<u8>()) {
            let (lines, last) = log(4);
            let mut bytes = file(&lines);
            let place = place % bytes.len();
            prop_assume!(bytes[place] != new);
            let entry = bytes[..place].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
            bytes[place] = new;
            let found = faults(&bytes, 4, &last);
            let named = found.iter().any(|fault| match fault {
                Fault::Unreadable { sequence } | Fault::Changed { sequence } => *sequence == entry,
                _ => false,
            });
            prop_assert!(named, "byte {place} of entry {entry}: {found:?}");
        }

        /// Cutting the log anywhere is found too.
        #[test]
        fn any_end_that_is_cut_off_is_found(place in 0usize..1_000_000) {
            let (lines, last) = log(4);
            let bytes = file(&lines);
            let cut = &bytes[..place % (bytes.len() - 1)];
            prop_assert!(!faults(cut, 4, &last).is_empty());
        }
    }
}
