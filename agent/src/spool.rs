//! A bounded queue on disk: append-only segment files of records with length and checksum. A torn tail (kill -9, power cut)
//! costs the torn record alone. What was acknowledged is deleted; after a restart some of it may be given out again, so
//! receivers know records by their own names. Blocks on the disk; knows nothing of what the records mean.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use chom_protocol::link::codec::FRAME_BYTES_MAX;
use chom_protocol::vps::Sha256;

/// Size at which a segment is full: the unit in which old records are dropped.
pub const SEGMENT_BYTES_MAX: u64 = 1024 * 1024;
/// Space for samples: at 2 KiB each, 32,768 of them, which is 5.7 days of one every 15 s.
pub const SAMPLES_BYTES_MAX: u64 = 64 * 1024 * 1024;

const LENGTH_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 8;
const HEADER_BYTES: usize = LENGTH_BYTES + CHECKSUM_BYTES;

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// A file of it.
    #[error("cannot use spool `{}`; free space on that disk or repair it", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No record is that large.
    #[error("a record of {bytes} bytes is too large for the spool")]
    Large {
        /// Its size.
        bytes: usize,
    },
}

/// Up to where records were given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    segment: u64,
    offset: u64,
}

/// Records that were given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Oldest first.
    pub records: Vec<Vec<u8>>,
    /// Acknowledge this once they are kept elsewhere.
    pub position: Position,
}

/// What the spool does with its oldest records when it is full, and how hard it holds on to new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Every record is synced, none is ever dropped.
    All,
    /// The oldest segments are dropped beyond so many bytes; survives a kill, not always a power cut.
    Newest {
        /// Space in all.
        bytes_max: u64,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct Segment {
    bytes: u64,
    records: u64,
}

/// A queue on disk.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    keep: Keep,
    segments: BTreeMap<u64, Segment>,
    active: Option<(u64, File)>,
    acknowledged: Position,
    dropped: u64,
}

impl Spool {
    /// Opens a spool, made on the first start. Torn tails are cut off.
    ///
    /// # Errors
    /// When the folder or a segment cannot be read.
    pub fn open(folder: &Path, keep: Keep) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError::File { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let mut segments = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            let (Some(number), Some("spool")) = (number, path.extension().and_then(|end| end.to_str()))
            else {
                continue;
            };
            let segment = scan(&path).map_err(|source| SpoolError::File { path: path.clone(), source })?;
            segments.insert(number, segment);
        }
        let first = segments.keys().next().copied().unwrap_or(1);
        let acknowledged = Position { segment: first, offset: 0 };
        Ok(Self { folder: folder.to_owned(), keep, segments, active: None, acknowledged, dropped: 0 })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// When it cannot be written; then the spool is as before.
    pub fn append(&mut self, record: &[u8]) -> Result<(), SpoolError> {
        if record.len() > FRAME_BYTES_MAX {
            return Err(SpoolError::Large { bytes: record.len() });
        }
        let number = self.segment_for_append()?;
        let path = self.path(number);
        let before = self.segments.get(&number).copied().unwrap_or_default();
        let sync = self.keep == Keep::All;
        let written = match &mut self.active {
            Some((_, file)) => write_record(file, record, sync),
            None => Err(io::Error::other("no active segment")),
        };
        if let Err(source) = written {
            // What was half written is cut off; if even that fails, the next start does it.
            if let Some((_, file)) = self.active.take() {
                let _ = file.set_len(before.bytes);
            }
            return Err(SpoolError::File { path, source });
        }
        let bytes = before.bytes + (HEADER_BYTES + record.len()) as u64;
        self.segments.insert(number, Segment { bytes, records: before.records + 1 });
        self.drop_oldest()
    }

    /// Records not yet acknowledged, oldest first, at least one if there is any, of at most about `bytes_max`; and up
    /// to where they go.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn peek(&self, bytes_max: usize) -> Result<Option<Batch>, SpoolError> {
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut position = self.acknowledged;
        for (&number, segment) in self.segments.range(position.segment..) {
            let offset = if number == position.segment { position.offset } else { 0 };
            if offset >= segment.bytes {
                continue;
            }
            let path = self.path(number);
            let failed = |source| SpoolError::File { path: path.clone(), source };
            let mut file = File::open(&path).map_err(failed)?;
            file.seek(SeekFrom::Start(offset)).map_err(failed)?;
            position = Position { segment: number, offset };
            while position.offset < segment.bytes {
                let Some(record) = read_record(&mut file).map_err(failed)? else { break };
                if !records.is_empty() && bytes + record.len() > bytes_max {
                    return Ok(Some(Batch { records, position }));
                }
                bytes += record.len();
                position.offset += (HEADER_BYTES + record.len()) as u64;
                records.push(record);
            }
        }
        Ok((!records.is_empty()).then_some(Batch { records, position }))
    }

    /// Forgets everything up to there.
    ///
    /// # Errors
    /// When a segment cannot be deleted.
    pub fn acknowledge(&mut self, position: Position) -> Result<(), SpoolError> {
        self.acknowledged = self.acknowledged.max(position);
        let over = |(&number, segment): (&u64, &Segment)| {
            let Position { segment: at, offset } = self.acknowledged;
            (number < at || (number == at && offset >= segment.bytes)).then_some(number)
        };
        for number in self.segments.iter().filter_map(over).collect::<Vec<_>>() {
            self.remove(number)?;
        }
        Ok(())
    }

    /// Whether there is nothing to give out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// How many records were dropped for want of space since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Size on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:012}.spool"))
    }

    fn segment_for_append(&mut self) -> Result<u64, SpoolError> {
        let last = self.segments.last_key_value().map(|(&number, segment)| (number, segment.bytes));
        let number = match last {
            Some((number, bytes)) if bytes < SEGMENT_BYTES_MAX => number,
            Some((number, _)) => number + 1,
            None => self.acknowledged.segment + 1,
        };
        if self.active.as_ref().is_none_or(|(active, _)| *active != number) {
            let path = self.path(number);
            let failed = |source| SpoolError::File { path: path.clone(), source };
            let file = OpenOptions::new().append(true).create(true).open(&path).map_err(failed)?;
            if self.keep == Keep::All {
                File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
            }
            self.active = Some((number, file));
        }
        Ok(number)
    }

    fn drop_oldest(&mut self) -> Result<(), SpoolError> {
        let Keep::Newest { bytes_max } = self.keep else { return Ok(()) };
        while self.bytes() > bytes_max && self.segments.len() > 1 {
            let Some((&oldest, segment)) = self.segments.first_key_value() else { break };
            self.dropped += segment.records;
            self.remove(oldest)?;
        }
        Ok(())
    }

    fn remove(&mut self, number: u64) -> Result<(), SpoolError> {
        let path = self.path(number);
        if self.active.as_ref().is_some_and(|(active, _)| *active == number) {
            self.active = None;
        }
        self.segments.remove(&number);
        self.acknowledged = self.acknowledged.max(Position { segment: number, offset: u64::MAX });
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(SpoolError::File { path, source }),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn checksum(record: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut out = [0; CHECKSUM_BYTES];
    out.copy_from_slice(&Sha256::of(record).0[..CHECKSUM_BYTES]);
    out
}

fn write_record(file: &mut File, record: &[u8], sync: bool) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + record.len());
    bytes.extend_from_slice(&u32::try_from(record.len()).map_err(io::Error::other)?.to_be_bytes());
    bytes.extend_from_slice(&checksum(record));
    bytes.extend_from_slice(record);
    file.write_all(&bytes)?;
    if sync { file.sync_data() } else { Ok(()) }
}

/// The next record; none at the end, and where what follows is torn or damaged.
fn read_record(file: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; LENGTH_BYTES];
    let mut sum = [0; CHECKSUM_BYTES];
    if !read_whole(file, &mut length)? || !read_whole(file, &mut sum)? {
        return Ok(None);
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Ok(None);
    }
    let mut record = vec![0; length];
    Ok((read_whole(file, &mut record)? && checksum(&record) == sum).then_some(record))
}

fn read_whole(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Counts the good records of a segment and cuts off what follows them.
fn scan(path: &Path) -> io::Result<Segment> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut reader = io::BufReader::new(&file);
    let mut segment = Segment::default();
    while let Some(record) = read_record(&mut reader)? {
        segment.bytes += (HEADER_BYTES + record.len()) as u64;
        segment.records += 1;
    }
    if file.metadata()?.len() > segment.bytes {
        file.set_len(segment.bytes)?;
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(spool: &Spool) -> Vec<Vec<u8>> {
        spool.peek(usize::MAX).unwrap().map(|batch| batch.records).unwrap_or_default()
    }

    #[test]
    fn records_stay_until_acknowledged_and_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), Keep::All).unwrap();
        for record in [&b"one"[..], b"two", b"three"] {
            spool.append(record).unwrap();
        }
        let Batch { records, position } = spool.peek(6).unwrap().unwrap();
        assert_eq!(records, [b"one".to_vec(), b"two".to_vec()]);
        assert_eq!(all(&Spool::open(folder.path(), Keep::All).unwrap()).len(), 3);
        spool.acknowledge(position).unwrap();
        assert_eq!(all(&spool), [b"three".to_vec()]);
        spool.append(b"four").unwrap();
        let Batch { position, .. } = spool.peek(usize::MAX).unwrap().unwrap();
        spool.acknowledge(position).unwrap();
        assert!(spool.is_empty() && all(&spool).is_empty());
        spool.append(b"five").unwrap();
        assert_eq!(all(&Spool::open(folder.path(), Keep::All).unwrap()), [b"five".to_vec()]);
    }

    #[test]
    fn a_full_spool_drops_its_oldest_and_counts_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool =
            Spool::open(folder.path(), Keep::Newest { bytes_max: 2 * SEGMENT_BYTES_MAX }).unwrap();
        let record = |number: u8| vec![number; 200 * 1024];
        for number in 0..40 {
            spool.append(&record(number)).unwrap();
        }
        let kept = all(&spool);
        assert!(spool.bytes() <= 2 * SEGMENT_BYTES_MAX);
        assert_eq!(kept.last(), Some(&record(39)));
        assert_eq!(kept.len() as u64 + spool.dropped(), 40);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_cut_or_damaged_tail_costs_only_what_it_hit(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..12),
            at in any::<prop::sample::Index>(),
            cut: bool,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut spool = Spool::open(folder.path(), Keep::All).unwrap();
            let mut ends = vec![];
            for record in &records {
                spool.append(record).unwrap();
                ends.push(spool.bytes() as usize);
            }
            let path = spool.path(2);
            let mut bytes = fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= 0x55 }
            fs::write(&path, &bytes).unwrap();
            let whole = ends.iter().filter(|end| **end <= at).count();
            let mut spool = Spool::open(folder.path(), Keep::All).unwrap();
            prop_assert_eq!(all(&spool), &records[..whole]);
            spool.append(b"after").unwrap();
            prop_assert_eq!(all(&spool).pop(), Some(b"after".to_vec()));
        }
    }
}
