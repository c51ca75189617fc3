//! Reading the audit log: entries from the newest to the oldest, and its lines as they are, from the oldest on. Every read has
//! a bound on what it looks at; whoever wants more goes on where it ended.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::str::FromStr;

use chom_protocol::UnixMillis;
use chom_protocol::audit::Line;

use crate::audit::log::{AuditLog, LINE_BYTES_MAX, row};
use crate::fleet::rows::{AuditHeadRow, AuditRow};

/// What one page of entries may have looked at: two segments, about 20,000 entries.
const PAGE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Most of one segment that is read; one has 4 MiB and what one sync added.
const SEGMENT_READ_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What one piece of lines has at most.
const PIECE_BYTES_MAX: usize = 1024 * 1024;

/// When entries were made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// None before it.
    pub from: Option<UnixMillis>,
    /// None at it or later.
    pub until: Option<UnixMillis>,
}

impl Span {
    /// Whether a moment is in it.
    #[must_use]
    pub fn contains(&self, at: UnixMillis) -> bool {
        self.from.is_none_or(|from| at >= from) && self.until.is_none_or(|until| at < until)
    }
}

/// Entries, the newest first.
#[derive(Debug, Default)]
pub struct Found<T> {
    /// What was looked for.
    pub items: Vec<T>,
    /// The oldest entry that was looked at; none: there are no older ones.
    pub looked_until: Option<u64>,
}

/// Where a line begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    segment: u64,
    byte: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.segment, self.byte)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (segment, byte) = text.split_once(' ').ok_or(())?;
        Ok(Self { segment: segment.parse().map_err(|_| ())?, byte: byte.parse().map_err(|_| ())? })
    }
}

impl AuditLog {
    /// Entries older than `before`, as `take` makes something of them, until there are `limit`. Where clocks were set back,
    /// the span is judged segment by segment from their first entries.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn newest_first<T>(
        &self,
        head: &AuditHeadRow,
        before: u64,
        span: Span,
        limit: usize,
        mut take: impl FnMut(&AuditRow) -> Option<T>,
    ) -> io::Result<Found<T>> {
        let segments: Vec<(u64, UnixMillis)> =
            self.segments().range(..=head.segment).map(|(first, at)| (*first, *at)).collect();
        let (mut items, mut looked_at) = (Vec::new(), 0);
        let mut younger: Option<UnixMillis> = None;
        for (first, began_at) in segments.into_iter().rev() {
            let is_too_old = younger.zip(span.from).is_some_and(|(younger, from)| younger < from);
            younger = Some(began_at);
            if is_too_old {
                break;
            }
            if first >= before || span.until.is_some_and(|until| began_at >= until) {
                continue;
            }
            let bytes = self.segment(first, head)?;
            looked_at += bytes.len() as u64;
            for line in bytes.split(|byte| *byte == b'\n').rev().filter(|line| !line.is_empty()) {
                let read = std::str::from_utf8(line).ok().and_then(Line::read);
                let Some(row) = read.and_then(|line| row(line.entry)) else {
                    tracing::error!(
                        segment = first,
                        "an entry of the audit log cannot be read; `chomctl audit verify` names it"
                    );
                    continue;
                };
                if row.sequence >= before || !span.contains(row.at) {
                    continue;
                }
                if items.len() == limit {
                    return Ok(Found { items, looked_until: Some(row.sequence + 1) });
                }
                items.extend(take(&row));
            }
            if looked_at >= PAGE_BYTES_MAX {
                return Ok(Found { items, looked_until: Some(first) });
            }
        }
        Ok(Found { items, looked_until: None })
    }

    /// A segment as far as the store knows it.
    fn segment(&self, first: u64, head: &AuditHeadRow) -> io::Result<Vec<u8>> {
        let limit = if first == head.segment { head.segment_bytes } else { SEGMENT_READ_BYTES_MAX };
        let mut bytes = Vec::new();
        match File::open(self.path(first)) {
            Ok(file) => file.take(limit).read_to_end(&mut bytes).map(|_| bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(bytes), // dropped meanwhile, or taken away
            Err(error) => Err(error),
        }
    }

    /// Lines as they stand there, from a place on, until there are `limit`, and where the next ones are.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn lines(
        &self,
        head: &AuditHeadRow,
        from: Option<Place>,
        limit: usize,
    ) -> io::Result<(Vec<String>, Option<Place>)> {
        let from = from.unwrap_or(Place { segment: 0, byte: 0 });
        // What is dropped for its age may still be there for a moment.
        let oldest = from.segment.max(head.dropped.sequence + 1);
        let segments: Vec<u64> =
            self.segments().range(oldest..=head.segment.max(oldest)).map(|(first, _)| *first).collect();
        let (mut lines, mut bytes) = (Vec::new(), 0);
        for segment in segments {
            let mut byte = if segment == from.segment { from.byte } else { 0 };
            let mut file = match File::open(self.path(segment)) {
                Ok(file) => BufReader::new(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            file.seek(SeekFrom::Start(byte))?;
            let end = if segment == head.segment { head.segment_bytes } else { u64::MAX };
            while byte < end {
                let mut line = Vec::new();
                file.by_ref().take((end - byte).min(LINE_BYTES_MAX)).read_until(b'\n', &mut line)?;
                if line.is_empty() {
                    break;
                }
                if lines.len() == limit || bytes >= PIECE_BYTES_MAX {
                    return Ok((lines, Some(Place { segment, byte })));
                }
                (byte, bytes) = (byte + line.len() as u64, bytes + line.len());
                // What is no text any more was changed; the hash tells.
                lines.push(String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned());
            }
        }
        Ok((lines, None))
    }
}
