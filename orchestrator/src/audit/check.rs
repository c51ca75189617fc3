//! `chom-orchestrator audit verify`: checks the files of the log where they are, also while the orchestrator runs. Changes
//! nothing but that it makes the folder where there is none.

use std::io;

use chom_protocol::audit::{Checker, Fault};

use crate::audit::AuditLog;
use crate::config::Config;
use crate::fleet::audit::THE_LOG;
use crate::fleet::rows::AuditHeadRow;
use crate::fleet::state::Table;
use crate::store::{Meta, ReadError, RecordError, decode, sled};

/// Lines that are read at once.
const LINES_PER_READ: usize = 10_000;

/// Why the log was not found whole.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The files.
    #[error("cannot read the folder `audit` in the state folder")]
    Log(#[from] io::Error),
    /// The store.
    #[error("cannot read the store")]
    Read(#[from] ReadError),
    /// Nothing of ours.
    #[error("the store holds no fleet; is this the right configuration?")]
    Empty,
    /// The row in it.
    #[error("cannot read how far the audit log is")]
    Record(#[from] RecordError),
    /// It is not as it was written.
    #[error("the audit log was changed: {} faults, the first of them: {first}", faults)]
    Altered {
        /// How many.
        faults: usize,
        /// The first.
        first: Fault,
    },
}

/// Checks the log, and prints what is wrong with it, or that nothing is.
///
/// # Errors
/// When something is, or it cannot be read.
pub async fn verify(config: &Config) -> Result<(), VerifyError> {
    // A store that is in use cannot be asked; the running orchestrator can (`chomctl audit verify`).
    let head = match sled::open(&crate::export::options(config)) {
        Ok(store) if store.get(&Meta::key()).await?.is_none() => return Err(VerifyError::Empty),
        Ok(store) => match store.get(&AuditHeadRow::key(&THE_LOG)).await? {
            Some(record) => Some(decode::<AuditHeadRow>(&record)?.row),
            None => Some(AuditHeadRow::default()),
        },
        Err(_) => None,
    };
    let log = AuditLog::open(&config.state_directory.join("audit"))?;
    let (entries, faults) = check(&log, head.as_ref())?;
    for fault in &faults {
        println!("{fault}");
    }
    let count = faults.len();
    if let Some(first) = faults.into_iter().next() {
        return Err(VerifyError::Altered { faults: count, first });
    }
    let end =
        if head.is_some() { "" } else { "; its ends were not compared with the store, which is in use" };
    println!("{entries} entries, none changed{end}");
    Ok(())
}

/// How many entries there are, and what is wrong with them.
fn check(log: &AuditLog, head: Option<&AuditHeadRow>) -> io::Result<(u64, Vec<Fault>)> {
    let all = AuditHeadRow { segment: u64::MAX, segment_bytes: u64::MAX, ..AuditHeadRow::default() };
    let known = head.unwrap_or(&all);
    let mut checker = head.map(|head| Checker::after(head.dropped.sequence, head.dropped.hash));
    let (mut faults, mut place) = (Vec::new(), None);
    loop {
        let (lines, next) = log.lines(known, place, LINES_PER_READ)?;
        for line in &lines {
            faults.extend(checker.get_or_insert_with(|| Checker::from_first(line)).take(line).err());
        }
        place = next;
        if place.is_none() {
            break;
        }
    }
    let last = checker.as_ref().map_or(0, Checker::sequence);
    if head.is_none() && faults.last() == Some(&Fault::Unreadable { sequence: last }) {
        // The last line is being written at this moment, or was when the orchestrator was killed.
        faults.pop();
    }
    let end = |head: &AuditHeadRow| checker.as_ref()?.end(head.last.sequence, &head.last.hash).err();
    faults.extend(head.and_then(end));
    Ok((checker.map_or(0, |checker| checker.entries()), faults))
}
