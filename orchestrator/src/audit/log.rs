//! The files of the audit log: segments of JSON Lines, named by their first entry, appended to and never changed. The store
//! knows how far the log is (`AuditHeadRow`); what stands in a file beyond that was not confirmed and is written anew, so that
//! a crash neither loses nor doubles an entry.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chom_protocol::UnixMillis;
use chom_protocol::api::audit::ChainEnd;
use chom_protocol::audit::{Line, line};

use crate::durable_file::{replace, sync_folder};
use crate::fleet::rows::{AuditHeadRow, AuditRow};
use crate::fleet::state::{State, Table};
use crate::store::{self, Record, Revision, record};

/// A segment that has so many bytes gets a successor: few files, and each is read whole in milliseconds.
const SEGMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Longest line: 16 KiB of changes, and the names of the changed rows. Longer ones in a file are damage.
pub const LINE_BYTES_MAX: u64 = 64 * 1024;

/// The files. Reading and writing block: callers do it beside the runtime.
#[derive(Debug)]
pub struct AuditLog {
    folder: PathBuf,
    /// When the first entry of each segment was made, by its number.
    segments: Mutex<BTreeMap<u64, UnixMillis>>,
}

/// What stood in the files beyond what the store knew.
#[derive(Debug)]
pub struct Beyond {
    /// How far the files are.
    pub head: AuditHeadRow,
    /// Entries that are rows of the store too.
    pub moved: Vec<u64>,
    /// Numbers that another entry has in the store.
    pub clashing: Vec<u64>,
}

impl AuditLog {
    /// Opens the log, or makes an empty one.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut segments = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if let Some(first) = number(&path) {
                // A first line that cannot be read says no time: the segment is then never passed over.
                segments.insert(first, first_line(&path)?.map_or(UnixMillis(0), |(_, row)| row.at));
            }
        }
        Ok(Self { folder: folder.to_owned(), segments: Mutex::new(segments) })
    }

    pub(super) fn segments(&self) -> MutexGuard<'_, BTreeMap<u64, UnixMillis>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a segment is.
    pub(super) fn path(&self, first: u64) -> PathBuf {
        self.folder.join(format!("{first:020}.jsonl"))
    }

    /// Appends entries behind the head, and gives how far the log is after each of them. They are on disk when this returns;
    /// what stood behind the head before is gone.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub fn append(&self, head: &AuditHeadRow, rows: &[Arc<AuditRow>]) -> io::Result<Vec<AuditHeadRow>> {
        let mut head = head.clone();
        let mut heads = Vec::with_capacity(rows.len());
        let mut file = self.writable(&mut head)?;
        let mut text = Vec::new();
        for row in rows {
            if head.segment_bytes >= SEGMENT_BYTES_MAX {
                file.write_all(&text)?;
                file.sync_all()?;
                text.clear();
                (head.segment, head.segment_bytes) = (row.sequence, 0);
                file = self.writable(&mut head)?;
            }
            let entry = record::encode(row.as_ref()).map_err(io::Error::other)?;
            let (line, hash) = line(&head.last.hash, &entry);
            if head.segment_bytes == 0 {
                self.segments().insert(head.segment, row.at);
            }
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
            head.segment_bytes += line.len() as u64 + 1;
            head.last = ChainEnd { sequence: row.sequence, hash };
            heads.push(head.clone());
        }
        file.write_all(&text)?;
        file.sync_all()?;
        Ok(heads)
    }

    /// The head's segment, cut behind the head. One that is shorter was tampered with and is left as it is: a new one begins.
    fn writable(&self, head: &mut AuditHeadRow) -> io::Result<File> {
        let path = self.path(head.segment);
        if head.segment_bytes > 0 {
            match OpenOptions::new().write(true).open(&path) {
                Ok(mut file) if file.metadata()?.len() >= head.segment_bytes => {
                    file.set_len(head.segment_bytes)?;
                    file.seek(SeekFrom::Start(head.segment_bytes))?;
                    return Ok(file);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            tracing::error!(
                path = %path.display(),
                "the audit log is shorter than it was: somebody cut it; `chomctl audit verify` names what is missing"
            );
            (head.segment, head.segment_bytes) = (head.last.sequence + 1, 0);
        }
        let path = self.path(head.segment);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        sync_folder(&self.folder)?;
        Ok(file)
    }

    /// Reads what stands in the files behind the head, as far as it is whole and follows. That is what a crash left before the
    /// store knew of it, or all that came after an export that was restored. Segments that follow nothing are put aside.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn beyond(&self, state: &State) -> io::Result<Option<Beyond>> {
        let known = state.audit_head();
        let mut beyond = Beyond { head: known.clone(), moved: Vec::new(), clashing: Vec::new() };
        loop {
            let before = beyond.head.last.sequence;
            self.read_on(&mut beyond, state)?;
            let now = &mut beyond.head;
            let next = now.last.sequence + 1;
            // Also where the segment that the store knows is whole, and another begins behind it.
            if next == now.segment
                || !self.path(next).exists()
                || (before == now.last.sequence && before != known.last.sequence)
            {
                break;
            }
            (now.segment, now.segment_bytes) = (next, 0);
        }
        let now = &beyond.head;
        let detached: Vec<u64> =
            self.segments().keys().copied().filter(|first| *first > now.segment).collect();
        for first in detached {
            let (path, aside) = (self.path(first), self.path(first).with_extension("detached"));
            tracing::error!(path = %aside.display(), "a file of the audit log follows no other; it is put aside under this name");
            replace(&path, &aside)?;
            self.segments().remove(&first);
        }
        // It is confirmed by the store next, so it has to be on disk.
        if now.last == known.last {
            return Ok(None);
        }
        File::open(self.path(now.segment))?.sync_all()?;
        Ok(Some(beyond))
    }

    fn read_on(&self, beyond: &mut Beyond, state: &State) -> io::Result<()> {
        let now = &mut beyond.head;
        let mut file = match File::open(self.path(now.segment)) {
            Ok(file) if file.metadata()?.len() > now.segment_bytes => file,
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(now.segment_bytes))?;
        let mut file = BufReader::new(file);
        loop {
            let mut text = Vec::new();
            file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
            let Some(row) = following(now, &text) else { return Ok(()) };
            match state.get::<AuditRow>(&row.sequence) {
                Some(same) if *same == row => beyond.moved.push(row.sequence),
                Some(_) => beyond.clashing.push(row.sequence),
                None => {}
            }
        }
    }

    /// The entry before the first one that is to be kept: what is older than `oldest` goes, in whole segments.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn droppable(&self, head: &AuditHeadRow, oldest: UnixMillis) -> io::Result<Option<ChainEnd>> {
        let segments = self.segments();
        let first_kept =
            segments.range(..=head.segment).rev().find(|(_, at)| **at < oldest).map(|(first, _)| *first);
        let Some(first_kept) = first_kept.filter(|first| *first > head.dropped.sequence + 1) else {
            return Ok(None);
        };
        drop(segments);
        let before =
            first_line(&self.path(first_kept))?.map(|(hash, _)| ChainEnd { sequence: first_kept - 1, hash });
        Ok(before)
    }

    /// Removes the segments before an entry that the store says is dropped.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn drop_until(&self, dropped: &ChainEnd) -> io::Result<()> {
        let gone: Vec<u64> = self.segments().range(..=dropped.sequence).map(|(first, _)| *first).collect();
        for first in gone {
            match fs::remove_file(self.path(first)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.segments().remove(&first),
            };
        }
        Ok(())
    }
}

/// Moves a head over a line that follows it.
fn following(head: &mut AuditHeadRow, text: &[u8]) -> Option<AuditRow> {
    let line = Line::read(std::str::from_utf8(text.strip_suffix(b"\n")?).ok()?)?;
    let follows =
        line.is_whole() && line.previous == head.last.hash && line.sequence == head.last.sequence + 1;
    let row = row(line.entry).filter(|_| follows)?;
    head.last = ChainEnd { sequence: line.sequence, hash: line.hash };
    head.segment_bytes += text.len() as u64;
    Some(row)
}

/// The entry in a line.
pub(super) fn row(entry: &str) -> Option<AuditRow> {
    let revision = Revision(0);
    let key = AuditRow::key(&0);
    let record = Record { key, value: entry.into(), mod_revision: revision, create_revision: revision };
    store::decode::<AuditRow>(&record).ok().map(|decoded| decoded.row)
}

/// The hash before a segment's first entry, and that entry.
fn first_line(path: &Path) -> io::Result<Option<(chom_protocol::vps::Sha256, AuditRow)>> {
    let mut text = Vec::new();
    BufReader::new(File::open(path)?).take(LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
    let text = String::from_utf8_lossy(&text);
    let Some(line) = Line::read(text.trim_end_matches('\n')) else { return Ok(None) };
    Ok(row(line.entry).map(|row| (line.previous, row)))
}

/// The first entry of a segment, from its file's name.
fn number(path: &Path) -> Option<u64> {
    let is_segment = path.extension().is_some_and(|extension| extension == "jsonl");
    path.file_stem().filter(|_| is_segment)?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests;
