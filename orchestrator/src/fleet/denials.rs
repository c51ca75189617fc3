//! Requests that were refused, for the audit trail: counted in memory by who made them, and written once a minute for each, so
//! that nobody fills the disk by asking for what he may not have. Noting one never waits.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use chom_protocol::{Name, TokenId, UnixMillis};

use crate::fleet::audit::{Denied, Note, bounded};
use crate::fleet::{Decision, Fleet, FleetError};

/// Who may be counted apart at once; what more there are is counted together. About 500 bytes each in memory.
const COUNTED_APART_MAX: usize = 256;
/// The first refusal of somebody is written at once, those of the minute after it as one entry.
const WINDOW_SECONDS: u64 = 60;
/// Entries that are written in an hour; about 400 KiB. What is above it is counted in one entry a minute.
const ENTRIES_PER_HOUR_MAX: u32 = 1000;
const HOUR_SECONDS: u64 = 3600;
/// Entries of one commit, which has room for 128 changes.
const ENTRIES_PER_COMMIT_MAX: usize = 50;
/// The action of the entry that counts those who are not counted apart.
const OTHERS: &str = "request.denied";
/// Whose token nobody knows.
const UNKNOWN: &str = "unknown";

/// A request that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Why, such as `request.forbidden`.
    pub action: &'static str,
    /// Its method and path.
    pub target: String,
    /// The name of its token, where that is known.
    pub actor: Option<Arc<str>>,
    /// Its token, where that is known.
    pub token: Option<TokenId>,
    /// The tenant of the token.
    pub tenant: Option<Name>,
    /// From where.
    pub address: Option<IpAddr>,
    /// Whether its tenant may be told of it: not where it asked for a row that is another tenant's.
    pub is_told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Who {
    action: &'static str,
    token: Option<TokenId>,
    address: Option<IpAddr>,
}

#[derive(Debug)]
struct Count {
    /// The first that is not written yet, or was written last.
    denial: Denial,
    times: u64,
    written_at: Option<UnixMillis>,
}

/// What is not written yet.
#[derive(Default)]
pub(super) struct Denials(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    apart: BTreeMap<Who, Count>,
    others: u64,
    others_written_at: UnixMillis,
    hour_began_at: UnixMillis,
    written_this_hour: u32,
}

impl Counts {
    fn add(&mut self, denial: Denial) {
        let who = Who { action: denial.action, token: denial.token, address: denial.address };
        let is_full = self.apart.len() >= COUNTED_APART_MAX;
        match self.apart.get_mut(&who) {
            Some(count) => {
                if count.times == 0 {
                    count.denial = denial;
                }
                count.times += 1;
            }
            None if is_full => self.others += 1,
            None => {
                self.apart.insert(who, Count { denial, times: 1, written_at: None });
            }
        }
    }

    /// Takes what is to be written now. `all`: the orchestrator ends, and nothing waits for its minute.
    fn take(&mut self, now: UnixMillis, all: bool) -> Vec<Note> {
        if now.seconds_since(self.hour_began_at) >= HOUR_SECONDS || now < self.hour_began_at {
            (self.hour_began_at, self.written_this_hour) = (now, 0);
        }
        // A clock that was set back ends the window too.
        let is_over = |at: UnixMillis| all || now.seconds_since(at) >= WINDOW_SECONDS || now < at;
        let mut notes = Vec::new();
        let (written, others) = (&mut self.written_this_hour, &mut self.others);
        self.apart.retain(|_, count| {
            if count.written_at.is_some_and(|at| !is_over(at)) {
                return true;
            }
            if count.times == 0 {
                return false;
            }
            let times = std::mem::take(&mut count.times);
            count.written_at = Some(now);
            if *written < ENTRIES_PER_HOUR_MAX {
                *written += 1;
                notes.push(note(count.denial.clone(), times));
            } else {
                *others += times;
            }
            true
        });
        if *others > 0 && is_over(self.others_written_at) {
            self.others_written_at = now;
            let denied = Denied {
                actor: UNKNOWN.into(),
                token: None,
                tenant: None,
                address: None,
                times: std::mem::take(others),
                is_told: false,
            };
            notes.push(Note::denied(OTHERS, "too many at once to be told apart".to_owned(), denied));
        }
        notes
    }
}

fn note(denial: Denial, times: u64) -> Note {
    let Denial { action, target, actor, token, tenant, address, is_told } = denial;
    let actor = actor.unwrap_or_else(|| UNKNOWN.into());
    Note::denied(action, target, Denied { actor, token, tenant, address, times, is_told })
}

impl Fleet {
    /// Notes a request that was refused; it is written to the audit trail within a minute.
    pub fn note_denial(&self, denial: Denial) {
        let denial = Denial { target: bounded(denial.target), ..denial };
        self.0.denials.0.lock().unwrap_or_else(PoisonError::into_inner).add(denial);
    }

    /// Writes what is due of the refused requests.
    ///
    /// # Errors
    /// When it cannot be stored; what was to be written is then lost.
    pub async fn write_denials(&self, now: UnixMillis, all: bool) -> Result<(), FleetError> {
        let notes = self.0.denials.0.lock().unwrap_or_else(PoisonError::into_inner).take(now, all);
        let mut notes = notes.into_iter().peekable();
        while notes.peek().is_some() {
            let chunk: Vec<Note> = notes.by_ref().take(ENTRIES_PER_COMMIT_MAX).collect();
            let write =
                move |decision: &mut Decision| chunk.into_iter().try_for_each(|note| decision.note(note));
            self.decide(super::audit::ITSELF.into(), write).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(address: u8, action: &'static str) -> Denial {
        let address = Some(IpAddr::from([192, 0, 2, address]));
        let target = format!("GET /{action}");
        Denial { action, target, actor: None, token: None, tenant: None, address, is_told: false }
    }

    /// What is written, as `ACTION xTIMES`.
    fn written(notes: &[Note]) -> Vec<String> {
        notes.iter().map(|note| note.summary()).collect()
    }

    const fn at(seconds: u64) -> UnixMillis {
        UnixMillis((1_000_000 + seconds) * 1000)
    }

    #[test]
    fn the_first_is_written_at_once_and_the_rest_of_its_minute_as_one() {
        let mut counts = Counts::default();
        counts.add(denial(1, "request.forbidden"));
        assert_eq!(written(&counts.take(at(0), false)), ["request.forbidden x1"]);
        for _ in 0..70_000 {
            counts.add(denial(1, "request.forbidden"));
        }
        counts.add(denial(2, "request.forbidden"));
        counts.add(denial(1, "request.foreign"));
        assert_eq!(written(&counts.take(at(1), false)), ["request.forbidden x1", "request.foreign x1"]);
        assert!(counts.take(at(59), false).is_empty());
        assert_eq!(written(&counts.take(at(60), false)), ["request.forbidden x70000"]);
        assert!(counts.take(at(61), false).is_empty());
        assert_eq!(counts.apart.len(), 1, "who asked nothing for a minute is forgotten");
        counts.add(denial(1, "request.forbidden"));
        assert_eq!(written(&counts.take(at(62), true)), ["request.forbidden x1"], "at the end nothing waits");
        assert!(counts.take(at(500), false).is_empty());
        assert!(counts.apart.is_empty());
    }

    #[test]
    fn many_addresses_fill_neither_memory_nor_disk() {
        let mut counts = Counts::default();
        let (mut entries, mut times) = (0, 0);
        for second in 0..3600_u64 {
            for address in 0..1000_u16 {
                let [high, low] = address.to_be_bytes();
                let address = Some(IpAddr::from([10, 0, high, low]));
                counts.add(Denial { address, ..denial(0, "request.unauthorised") });
            }
            assert!(counts.apart.len() <= COUNTED_APART_MAX);
            let notes = counts.take(at(second), second == 3599);
            entries += notes.len();
            times += notes.iter().map(Note::times).sum::<u64>();
        }
        assert!(entries <= 1000 + 62, "{entries}");
        assert_eq!(times, 3_600_000, "all of them are counted");
    }
}
