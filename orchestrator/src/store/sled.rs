//! The embedded backend: rows in a sled tree, synced by ourselves, checksummed, and read whole when opened.
//!
//! sled's flush is no fsync and a file cut short loses rows silently, so this file syncs the database file after each group
//! and keeps a small witness beside it of how far the store had got. sled panics on damaged files: it is opened with panics
//! caught, and damage becomes an error that says how to restore.

#![expect(clippy::disallowed_types, reason = "this is the file that names sled")]

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdMap;
use ring::digest;

use super::commit::{Record, Revision};
use super::export;
use super::key::Key;
use super::writer::{Disk, Embedded, Group, Snapshot, panic_text};
use super::{Store, key};
use crate::durable_file;

/// What sled keeps in memory: the working set of 20,000 VPSs.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// sled's own flush between our syncs; only bounds what its background work leaves unwritten.
const FLUSH_EVERY_MS: u64 = 500;

/// Pages larger than a quarter of a segment leave sled's log for files that it never syncs. A page has at most 17 rows of
/// less than 64 KiB, so with this size none ever does.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
const _: () = assert!(18 * (super::commit::VALUE_BYTES_LIMIT + key::KEY_BYTES_MAX) < SEGMENT_BYTES / 4);

/// Rows written at once when a store is filled from an export.
const FILL_ROWS: usize = 1024;

/// Where the tree keeps its own row of revision and count; no key begins like this.
const TAIL_ROW: &[u8] = b"!tail";

/// How long a lock is waited for. The kernel gives one back when the last descriptor of the open file is gone, and that can be
/// after whoever had it is: sled's pool finishes its work after the database was dropped, and the exit of a killed process takes
/// its time.
const LOCK_WAIT: Duration = Duration::from_secs(3);
const LOCK_POLL: Duration = Duration::from_millis(10);

const LOCK_FILE: &str = "lock";
const TAIL_FILE: &str = "tail";
const SLED_FOLDER: &str = "sled";
const SLED_FILE: &str = "db";

/// Where an embedded store is.
#[derive(Debug, Clone)]
pub struct Options {
    /// The store's own folder; made when missing.
    pub folder: PathBuf,
    /// Where exports are: named in the error when the store is damaged.
    pub exports: PathBuf,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store in `{}` is in use by another process; stop the other orchestrator first", folder.display())]
    InUse {
        /// The store.
        folder: PathBuf,
    },
    /// A file cannot be used.
    #[error("cannot open the store: cannot {step} `{}`", path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The files are not what was written.
    #[error("the store in `{}` is damaged: {detail}. {advice}", folder.display())]
    Damaged {
        /// The store.
        folder: PathBuf,
        /// What is wrong.
        detail: String,
        /// The newest export and the command that restores it.
        advice: String,
    },
    /// The folder to fill has a store already.
    #[error("`{}` is not empty; move it away first", folder.display())]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
}

/// Opens the store, making an empty one where there is none. Reads and checks every row.
///
/// # Errors
/// When another process has it, a file cannot be used, or it is damaged.
pub fn open(options: &Options) -> Result<Arc<dyn Store>, OpenError> {
    let damaged = |detail| OpenError::Damaged {
        folder: options.folder.clone(),
        detail,
        advice: export::advice(&options.folder, &options.exports),
    };
    make_folder(&options.folder)?;
    let lock = lock(&options.folder)?;
    let (disk, snapshot) = SledDisk::open(&options.folder, lock).map_err(|error| match error {
        Trouble::Damage(detail) => damaged(detail),
        Trouble::File { step, path, source } => OpenError::File { step, path, source },
    })?;
    start(disk, snapshot, &options.folder)
}

/// Makes a store of these rows in a folder that is missing or empty: all or nothing.
///
/// # Errors
/// When the folder holds something or the disk fails.
pub(super) fn fill(folder: &Path, rows: &OrdMap<Key, Record>, revision: Revision) -> Result<(), OpenError> {
    let file = |step, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::File { step, path, source }
    };
    if folder.exists() && std::fs::read_dir(folder).map_err(file("read", folder))?.next().is_some() {
        return Err(OpenError::NotEmpty { folder: folder.to_owned() });
    }
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".restoring");
    let filling = folder.with_file_name(name);
    if filling.exists() {
        // Left by a restore that was cut short.
        std::fs::remove_dir_all(&filling).map_err(file("remove", &filling))?;
    }
    make_folder(&filling)?;
    let lock = lock(&filling)?;
    let (mut disk, _) = SledDisk::open(&filling, lock).map_err(|error| match error {
        Trouble::Damage(detail) => file("fill", &filling)(io::Error::other(detail)),
        Trouble::File { step, path, source } => OpenError::File { step, path, source },
    })?;
    let mut records = 0;
    let all: Vec<&Record> = rows.values().collect();
    for part in all.chunks(FILL_ROWS) {
        records += part.len();
        let changes = part.iter().map(|&record| (record.key.clone(), Some(record.clone()))).collect();
        disk.write(&Group { changes, revision, records })
            .map_err(|(step, source)| file(step, &filling)(source))?;
    }
    drop(disk);
    durable_file::replace(&filling, folder).map_err(file("move into place", &filling))
}

fn start(disk: SledDisk, snapshot: Snapshot, folder: &Path) -> Result<Arc<dyn Store>, OpenError> {
    let store = Embedded::start(disk, snapshot).map_err(|source| OpenError::File {
        step: "start the writer of",
        path: folder.to_owned(),
        source,
    })?;
    Ok(Arc::new(store))
}

fn make_folder(folder: &Path) -> Result<(), OpenError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| OpenError::File {
        step: "make the folder",
        path: folder.to_owned(),
        source,
    })
}

/// The lock is the kernel's, on the open file: it ends with the process, however that ends.
fn lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join(LOCK_FILE);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|source| OpenError::File { step: "open", path: path.clone(), source })?;
    match lock_when_free(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { folder: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(OpenError::File { step: "lock", path, source }),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "waits on a lock, with a deadline: flock(2) knows none of its own"
)]
fn lock_when_free(file: &File) -> Result<(), TryLockError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_POLL),
            outcome => return outcome,
        }
    }
}

/// What can be wrong with the files, before it is known how to tell the user.
enum Trouble {
    Damage(String),
    File { step: &'static str, path: PathBuf, source: io::Error },
}

struct SledDisk {
    // Dropped in this order: sled lets go of its files before the lock does.
    database: ::sled::Db,
    file: File,
    tail: File,
    folder: PathBuf,
    _lock: File,
}

impl SledDisk {
    fn open(folder: &Path, lock: File) -> Result<(Self, Snapshot), Trouble> {
        let trouble = |step, path: &Path| {
            let path = path.to_owned();
            move |source| Trouble::File { step, path, source }
        };
        let (sled_folder, tail_path) = (folder.join(SLED_FOLDER), folder.join(TAIL_FILE));
        let file_path = sled_folder.join(SLED_FILE);
        let witness = match std::fs::read(&tail_path) {
            // Cut off while it was made: as good as none.
            Ok(bytes) if bytes.is_empty() => None,
            Ok(bytes) => Some(Tail::decode(&bytes).ok_or_else(|| {
                Trouble::Damage(format!("the file `{}` is not as written", tail_path.display()))
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(trouble("read", &tail_path)(source)),
        };
        if witness.is_some_and(|tail| tail.revision > 0) && !file_path.exists() {
            return Err(Trouble::Damage(format!("the database file `{}` is missing", file_path.display())));
        }
        if file_path.exists() {
            // After a kill the end of the file may be in memory only, and sled is about to build on it.
            let file = File::open(&file_path).map_err(trouble("open", &file_path))?;
            file.sync_all().map_err(trouble("sync", &file_path))?;
            // sled takes this lock as well, and would not wait for it.
            lock_when_free(&file).map_err(|error| trouble("lock", &file_path)(error.into()))?;
        }
        // sled panics on some damage; what it leaves behind then is dropped unused.
        let loaded = catch_unwind(|| load(&sled_folder));
        let (database, snapshot) =
            loaded.unwrap_or_else(|panic| Err(Trouble::Damage(panic_text(panic.as_ref()))))?;
        check_witness(witness, &snapshot, &tail_path)?;

        let file = File::open(&file_path).map_err(trouble("open", &file_path))?;
        let tail = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&tail_path);
        let tail = tail.map_err(trouble("open", &tail_path))?;
        Tail::of(&snapshot)
            .write(&tail)
            .and_then(|()| tail.sync_all())
            .map_err(trouble("write", &tail_path))?;
        // A new store's entries must be durable before its first commit is.
        for made in [&sled_folder, folder, durable_file::parent(folder)] {
            durable_file::sync_folder(made).map_err(trouble("sync", made))?;
        }
        Ok((Self { database, file, tail, folder: folder.to_owned(), _lock: lock }, snapshot))
    }
}

/// Opens the tree and reads all of it.
fn load(folder: &Path) -> Result<(::sled::Db, Snapshot), Trouble> {
    let failed = |error: ::sled::Error| match error {
        ::sled::Error::Io(source) => Trouble::File { step: "open", path: folder.to_owned(), source },
        other => Trouble::Damage(other.to_string()),
    };
    let database = ::sled::Config::new()
        .path(folder)
        .mode(::sled::Mode::HighThroughput)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(FLUSH_EVERY_MS))
        .segment_size(SEGMENT_BYTES)
        .open()
        .map_err(failed)?;
    let (mut rows, mut tail) = (OrdMap::new(), Tail::default());
    for row in database.iter() {
        let (key, value) = row.map_err(failed)?;
        if key.as_ref() == TAIL_ROW {
            tail = Tail::decode(&value)
                .ok_or_else(|| Trouble::Damage("its row of counts is not as written".into()))?;
            continue;
        }
        let record = decode_row(&key, &value).map_err(Trouble::Damage)?;
        rows.insert(record.key.clone(), record);
    }
    let newest = rows.values().map(|record: &Record| record.mod_revision.0).max().unwrap_or(0);
    if rows.len() as u64 != tail.records || newest > tail.revision {
        return Err(Trouble::Damage(format!(
            "it has {} rows up to revision {newest}, but says that it should have {} up to {}",
            rows.len(),
            tail.records,
            tail.revision
        )));
    }
    Ok((database, Snapshot { revision: Revision(tail.revision), rows }))
}

fn check_witness(witness: Option<Tail>, snapshot: &Snapshot, path: &Path) -> Result<(), Trouble> {
    let found = Tail::of(snapshot);
    match witness {
        Some(tail) if tail.revision > found.revision => Err(Trouble::Damage(format!(
            "it ends at revision {}, but revision {} was acknowledged: its end is lost",
            found.revision, tail.revision
        ))),
        Some(tail) if tail.revision == found.revision && tail.records != found.records => {
            Err(Trouble::Damage(format!(
                "it has {} rows at revision {}, not {}",
                found.records, found.revision, tail.records
            )))
        }
        None if found.revision > 0 => Err(Trouble::Damage(format!(
            "the file `{}` is missing, so nobody can tell whether the end of the store is lost",
            path.display()
        ))),
        Some(_) | None => Ok(()),
    }
}

impl Disk for SledDisk {
    fn write(&mut self, group: &Group) -> Result<(), (&'static str, io::Error)> {
        let tail = Tail { revision: group.revision.0, records: group.records as u64 };
        let mut batch = ::sled::Batch::default();
        for (key, change) in &group.changes {
            match change {
                Some(record) => batch.insert(key.as_str(), encode_row(record)),
                None => batch.remove(key.as_str()),
            }
        }
        batch.insert(TAIL_ROW, &tail.encode());
        self.database.apply_batch(batch).map_err(|error| ("write", io_error(error)))?;
        self.database.flush().map_err(|error| ("flush", io_error(error)))?;
        self.file.sync_data().map_err(|source| ("sync", source))?;
        // Not synced: it only has to follow the database, never to lead it.
        tail.write(&self.tail).map_err(|source| ("write the tail of", source))
    }

    fn place(&self) -> String {
        self.folder.display().to_string()
    }
}

fn io_error(error: ::sled::Error) -> io::Error {
    match error {
        ::sled::Error::Io(source) => source,
        other => io::Error::other(other.to_string()),
    }
}

const CHECKSUM_BYTES: usize = 8;
const NUMBER_BYTES: usize = 8;
const ROW_HEADER_BYTES: usize = CHECKSUM_BYTES + 2 * NUMBER_BYTES;

/// A row as sled holds it: checksum over key and rest, both revisions, value.
fn encode_row(record: &Record) -> Vec<u8> {
    let mut row = Vec::with_capacity(ROW_HEADER_BYTES + record.value.len());
    row.extend_from_slice(&[0; CHECKSUM_BYTES]);
    row.extend_from_slice(&record.mod_revision.0.to_le_bytes());
    row.extend_from_slice(&record.create_revision.0.to_le_bytes());
    row.extend_from_slice(record.value.as_bytes());
    let sum = checksum(record.key.as_str().as_bytes(), &row[CHECKSUM_BYTES..]);
    row[..CHECKSUM_BYTES].copy_from_slice(&sum);
    row
}

fn decode_row(key: &[u8], row: &[u8]) -> Result<Record, String> {
    let name = String::from_utf8_lossy(key).into_owned();
    let wrong = |what: &str| format!("the row `{name}` {what}");
    let (sum, rest) = row.split_first_chunk::<CHECKSUM_BYTES>().ok_or_else(|| wrong("is cut short"))?;
    if *sum != checksum(key, rest) {
        return Err(wrong("does not match its checksum"));
    }
    let (modified, rest) = rest.split_first_chunk::<NUMBER_BYTES>().ok_or_else(|| wrong("is cut short"))?;
    let (created, value) = rest.split_first_chunk::<NUMBER_BYTES>().ok_or_else(|| wrong("is cut short"))?;
    Ok(Record {
        key: Key::new(&name).map_err(|error| wrong(&error.to_string()))?,
        value: std::str::from_utf8(value).map_err(|_| wrong("is no text"))?.into(),
        mod_revision: Revision(u64::from_le_bytes(*modified)),
        create_revision: Revision(u64::from_le_bytes(*created)),
    })
}

/// How far the store had got: as a row in the tree (in every batch), and as a file beside it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tail {
    revision: u64,
    records: u64,
}

impl Tail {
    fn of(snapshot: &Snapshot) -> Self {
        Self { revision: snapshot.revision.0, records: snapshot.rows.len() as u64 }
    }

    fn encode(self) -> [u8; CHECKSUM_BYTES + 2 * NUMBER_BYTES] {
        let mut bytes = [0; CHECKSUM_BYTES + 2 * NUMBER_BYTES];
        bytes[CHECKSUM_BYTES..][..NUMBER_BYTES].copy_from_slice(&self.revision.to_le_bytes());
        bytes[CHECKSUM_BYTES + NUMBER_BYTES..].copy_from_slice(&self.records.to_le_bytes());
        let sum = checksum(TAIL_ROW, &bytes[CHECKSUM_BYTES..]);
        bytes[..CHECKSUM_BYTES].copy_from_slice(&sum);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (sum, rest) = bytes.split_first_chunk::<CHECKSUM_BYTES>()?;
        let (revision, records) = rest.split_first_chunk::<NUMBER_BYTES>()?;
        let records: &[u8; NUMBER_BYTES] = records.try_into().ok()?;
        let whole = *sum == checksum(TAIL_ROW, rest);
        whole.then(|| Self { revision: u64::from_le_bytes(*revision), records: u64::from_le_bytes(*records) })
    }

    /// Over the old one in place: smaller than a sector, so never half.
    fn write(self, file: &File) -> io::Result<()> {
        file.write_all_at(&self.encode(), 0)
    }
}

/// The first bytes of SHA-256 over key and content.
fn checksum(key: &[u8], content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&(key.len() as u64).to_le_bytes());
    context.update(key);
    context.update(content);
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&context.finish().as_ref()[..CHECKSUM_BYTES]);
    sum
}
