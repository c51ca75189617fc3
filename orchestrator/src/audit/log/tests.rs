//! The files, and what is left of them by crashes and by hands.

use chom_protocol::audit::{BEGINNING, Checker};
use proptest::prelude::*;

use super::*;
use crate::audit::read::{Place, Span};

fn entry(sequence: u64) -> Arc<AuditRow> {
    let text = format!(
        r#"{{"kind":"audit","schema":1,"data":{{"sequence":{sequence},"at":{},"actor":"admin","action":"vps.stop","target":"t{sequence}"}}}}"#,
        sequence * 1000
    );
    Arc::new(row(&text).unwrap())
}

fn entries(numbers: std::ops::RangeInclusive<u64>) -> Vec<Arc<AuditRow>> {
    numbers.map(entry).collect()
}

/// A log of so many entries, and its head.
fn log(folder: &Path, count: u64) -> (AuditLog, AuditHeadRow) {
    let log = AuditLog::open(folder).unwrap();
    let head = log.append(&AuditHeadRow::default(), &entries(1..=count)).unwrap().pop().unwrap();
    (log, head)
}

/// All lines, read in small pieces.
fn lines(log: &AuditLog, head: &AuditHeadRow) -> Vec<String> {
    let (mut lines, mut place) = (Vec::new(), None::<Place>);
    loop {
        let (more, next) = log.lines(head, place, 3).unwrap();
        lines.extend(more);
        match next {
            Some(next) => place = Some(next.to_string().parse().unwrap()),
            None => return lines,
        }
    }
}

fn faults(log: &AuditLog, head: &AuditHeadRow) -> Vec<String> {
    let mut checker = Checker::after(head.dropped.sequence, head.dropped.hash);
    let mut faults: Vec<String> = lines(log, head)
        .iter()
        .filter_map(|line| checker.take(line).err())
        .map(|fault| fault.to_string())
        .collect();
    faults.extend(checker.end(head.last.sequence, &head.last.hash).err().map(|fault| fault.to_string()));
    faults
}

fn state(head: &AuditHeadRow, rows: &[Arc<AuditRow>]) -> State {
    let mut state = State::default();
    state.insert(head.clone(), Revision(1));
    rows.iter().for_each(|row| state.insert(row.as_ref().clone(), Revision(1)));
    state
}

#[test]
fn what_is_appended_is_chained_and_read_from_both_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (log, head) = log(folder.path(), 10);
    let head = log.append(&head, &entries(11..=12)).unwrap().pop().unwrap();
    assert_eq!((head.last.sequence, head.segment), (12, 1));
    assert!(faults(&log, &head).is_empty());
    let again = AuditLog::open(folder.path()).unwrap();
    assert_eq!(lines(&again, &head), lines(&log, &head));
    let page = |before, span, limit| {
        let found = log.newest_first(&head, before, span, limit, |row| Some(row.sequence)).unwrap();
        (found.items, found.looked_until)
    };
    assert_eq!(page(u64::MAX, Span::default(), 3), (vec![12, 11, 10], Some(10)));
    assert_eq!(page(10, Span::default(), 8), (vec![9, 8, 7, 6, 5, 4, 3, 2], Some(2)));
    assert_eq!(page(2, Span::default(), 8), (vec![1], None));
    let span = Span { from: Some(UnixMillis(3000)), until: Some(UnixMillis(5000)) };
    assert_eq!(page(u64::MAX, span, 8), (vec![4, 3], None));
}

#[test]
fn an_attempt_that_was_not_confirmed_is_written_anew_and_not_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (log, head) = log(folder.path(), 3);
    // Killed after the write, and then in the middle of the next.
    log.append(&head, &entries(4..=6)).unwrap();
    let path = log.path(1);
    let length = fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 20).unwrap();
    let log = AuditLog::open(folder.path()).unwrap();
    let beyond = log.beyond(&state(&head, &entries(4..=7))).unwrap().unwrap();
    assert_eq!((beyond.head.last.sequence, beyond.moved, beyond.clashing), (5, vec![4, 5], vec![]));
    let head = log.append(&head, &entries(4..=7)).unwrap().pop().unwrap();
    assert!(faults(&log, &head).is_empty());
    assert_eq!(lines(&log, &head).len(), 7);
}

#[test]
fn after_an_older_store_was_restored_the_log_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (log, old) = log(folder.path(), 3);
    let newest = log.append(&old, &entries(4..=9)).unwrap().pop().unwrap();
    // The export had entry 4 as a row, and a 5 that never was.
    let mut rows = entries(4..=5);
    rows[1] = Arc::new(AuditRow { actor: "other".to_owned(), ..rows[1].as_ref().clone() });
    let beyond = log.beyond(&state(&old, &rows)).unwrap().unwrap();
    assert_eq!((beyond.head, beyond.moved, beyond.clashing), (newest.clone(), vec![4], vec![5]));
    assert!(log.beyond(&state(&newest, &[])).unwrap().is_none());
}

#[test]
fn segments_follow_each_other_and_old_ones_go() {
    let folder = tempfile::tempdir().unwrap();
    let log = AuditLog::open(folder.path()).unwrap();
    let mut head = AuditHeadRow::default();
    for first in [1, 4, 7] {
        // As if the segment before were full.
        if first > 1 {
            (head.segment, head.segment_bytes) = (first, 0);
        }
        head = log.append(&head, &entries(first..=first + 2)).unwrap().pop().unwrap();
    }
    assert!(faults(&log, &head).is_empty());
    assert_eq!(log.segments().len(), 3);
    let at_beginning = AuditHeadRow::default();
    let taken_over = log.beyond(&state(&at_beginning, &[])).unwrap().unwrap();
    assert_eq!(taken_over.head, head, "over all segments");
    assert_eq!(log.droppable(&head, UnixMillis(4000)).unwrap(), None, "entry 4 is not older than that");
    let dropped = log.droppable(&head, UnixMillis(5000)).unwrap().unwrap();
    assert_eq!(dropped.sequence, 3);
    head.dropped = dropped;
    assert!(faults(&log, &head).is_empty(), "before the file is gone");
    log.drop_until(&dropped).unwrap();
    assert!(faults(&log, &head).is_empty());
    assert_eq!(log.segments().keys().copied().collect::<Vec<_>>(), [4, 7]);
    // Somebody takes a file away.
    fs::remove_file(log.path(4)).unwrap();
    assert_eq!(faults(&log, &head), ["the entries 4 to 6 are missing"]);
    assert_eq!(faults(&AuditLog::open(folder.path()).unwrap(), &head), ["the entries 4 to 6 are missing"]);
}

#[test]
fn a_log_that_was_cut_goes_on_and_what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (log, head) = log(folder.path(), 5);
    let length = fs::metadata(log.path(1)).unwrap().len();
    OpenOptions::new().write(true).open(log.path(1)).unwrap().set_len(length - length / 5 - 10).unwrap();
    let head = log.append(&head, &entries(6..=7)).unwrap().pop().unwrap();
    assert_eq!(head.segment, 6);
    assert_eq!(
        faults(&log, &head),
        ["entry 4 cannot be read: its line was changed", "the entries 5 to 5 are missing"]
    );
    fs::remove_file(log.path(6)).unwrap();
    assert!(faults(&log, &head).contains(&"the entries 5 to 7 are missing".to_owned()));
    assert_eq!(Checker::after(0, BEGINNING).sequence(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whichever byte of a file somebody changes, the entry is named that it is in.
    #[test]
    fn any_byte_that_is_changed_on_disk_is_found(place in 0usize..1_000_000, new in any::<u8>()) {
        let folder = tempfile::tempdir().unwrap();
        let (log, head) = log(folder.path(), 6);
        let mut bytes = fs::read(log.path(1)).unwrap();
        let place = place % bytes.len();
        prop_assume!(bytes[place] != new);
        let entry = bytes[..place].iter().filter(|byte| **byte == b'\n').count() + 1;
        bytes[place] = new;
        fs::write(log.path(1), bytes).unwrap();
        let found = faults(&log, &head);
        prop_assert!(found.iter().any(|fault| fault.starts_with(&format!("entry {entry} "))), "{entry}: {found:?}");
    }
}
