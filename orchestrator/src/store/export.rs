//! The whole store as one file, and a store made from such a file: JSON lines (header, one line a row, trailer with count
//! and SHA-256), compressed with zstd, put in place whole.
//!
//! Values are written as stored: secrets stay sealed. A restore checks the file to its end before it writes anything.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use chom_protocol::UnixMillis;
use data_encoding::HEXLOWER;
use imbl::OrdMap;
use ring::digest;
use serde::{Deserialize, Serialize};

use super::commit::{ReadError, Record, Revision};
use super::key::{EVERYTHING, Key};
use super::record::{self, Meta, RecordError};
use super::{Store, sled};
use crate::durable_file::{self, DurableFile};

/// The version of the file's form.
pub const FORMAT: u32 = 1;

/// Exports kept by [`prune`]: two days at one an hour. Results of jobs must be kept longer than this.
pub const EXPORTS_KEPT_MAX: usize = 48;

/// Longest line: a value of 64 KiB of which each byte is written as `\u0000`, and the rest of the line.
const LINE_BYTES_MAX: usize = 512 * 1024;

/// How much newer a restored store's revisions begin: more than the lost store can have made since its export (commits
/// of 16 hours at full speed), so that no revision ever means two things.
const RESTORE_REVISION_GAP: u64 = 1_000_000_000;

/// Quick; exports run beside the live store.
const COMPRESSION_LEVEL: i32 = 3;

const NAME_BEGIN: &str = "chom-export-";
const NAME_END: &str = ".jsonl.zst";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    chom_export: u32,
    fleet: String,
    epoch: u64,
    revision: Revision,
    at: UnixMillis,
}

/// Only the number of the form: read first, since all else may differ.
#[derive(Deserialize)]
struct Form {
    chom_export: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: Key,
    mod_revision: Revision,
    create_revision: Revision,
    value: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    records: u64,
    sha256: String,
}

/// Why an export was not written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store cannot be read.
    #[error("cannot read the store for an export")]
    Read {
        /// Why.
        #[source]
        source: ReadError,
    },
    /// The store says not whose it is.
    #[error("the store has no row of its own (`{}`): run `chom-orchestrator init` first", Meta::key())]
    NoMeta,
    /// The store's own row does not decode.
    #[error("cannot export the store")]
    Meta {
        /// Why.
        #[source]
        source: RecordError,
    },
    /// The file cannot be written.
    #[error("cannot write the export `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The writing ended unasked: the orchestrator is shutting down.
    #[error("the export was interrupted")]
    Interrupted,
}

/// Why an export is not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file cannot be read.
    #[error("cannot read the export `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not what was exported.
    #[error("the export `{}` is damaged: {detail}; nothing was restored: take an older export", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        detail: String,
    },
    /// The file was written by a newer release.
    #[error("the export `{}` has format {found}, this release knows {FORMAT}: install the newer release", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The store's own row is missing or not readable.
    #[error("the export `{}` has no readable row about the fleet; nothing was restored: take another export", path.display())]
    Meta {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Option<RecordError>,
    },
    /// The new store cannot be made.
    #[error("cannot restore into `{}`", folder.display())]
    Fill {
        /// The target.
        folder: PathBuf,
        /// Why.
        #[source]
        source: sled::OpenError,
    },
}

/// What an export holds, once it is checked to its end.
#[derive(Debug, Clone)]
pub struct Export {
    /// The fleet and the epoch it was in.
    pub meta: Meta,
    /// The store's revision then.
    pub revision: Revision,
    /// When it was made.
    pub at: UnixMillis,
    rows: OrdMap<Key, Record>,
}

impl Export {
    /// How many rows it has.
    #[must_use]
    pub fn records(&self) -> usize {
        self.rows.len()
    }
}

/// What a restore made.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The fleet, in its new epoch.
    pub meta: Meta,
    /// The new store's revision.
    pub revision: Revision,
    /// Its rows.
    pub records: usize,
    /// When the export was made: what was changed since is lost.
    pub exported_at: UnixMillis,
}

/// Writes all rows at one revision into a new file of the folder, while the store runs.
///
/// # Errors
/// When the store was never set up, or the file cannot be written; no half file is left under its final name.
pub async fn export(store: &dyn Store, folder: &Path, now: UnixMillis) -> Result<PathBuf, ExportError> {
    let (revision, records) = store.list(&EVERYTHING).await.map_err(|source| ExportError::Read { source })?;
    let meta = records.iter().find(|record| record.key == Meta::key()).ok_or(ExportError::NoMeta)?;
    let meta = record::decode::<Meta>(meta).map_err(|source| ExportError::Meta { source })?.row;
    let header = Header { chom_export: FORMAT, fleet: meta.fleet, epoch: meta.epoch, revision, at: now };
    let path = folder.join(file_name(&header));
    let writing = tokio::task::spawn_blocking(move || {
        write(&path, &header, &records)
            .map_err(|source| ExportError::Write { path: path.clone(), source })?;
        Ok(path)
    });
    writing.await.unwrap_or(Err(ExportError::Interrupted))
}

fn write(path: &Path, header: &Header, records: &[Record]) -> io::Result<()> {
    std::fs::create_dir_all(durable_file::parent(path))?;
    let mut encoder = zstd::stream::write::Encoder::new(DurableFile::create(path)?, COMPRESSION_LEVEL)?;
    encoder.include_checksum(true)?;
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut line = |line: Vec<u8>, hash: &mut digest::Context| {
        hash.update(&line);
        encoder.write_all(&line)
    };
    line(json_line(header)?, &mut hash)?;
    for record in records {
        let row = Line {
            key: record.key.clone(),
            mod_revision: record.mod_revision,
            create_revision: record.create_revision,
            value: record.value.as_ref().to_owned(),
        };
        line(json_line(&row)?, &mut hash)?;
    }
    let sha256 = HEXLOWER.encode(hash.finish().as_ref());
    encoder.write_all(&json_line(&Trailer { records: records.len() as u64, sha256 })?)?;
    encoder.finish()?.publish()
}

fn json_line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Sorts by time: `chom-export-20261123T002144Z-r000000000042.jsonl.zst`.
fn file_name(header: &Header) -> String {
    let at = i64::try_from(header.at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let at = at.unwrap_or(jiff::Timestamp::MAX).strftime("%Y%m%dT%H%M%SZ");
    format!("{NAME_BEGIN}{at}-r{:012}{NAME_END}", header.revision.0)
}

/// Reads an export to its end and checks all of it.
///
/// # Errors
/// When it cannot be read, is damaged or newer than this release.
pub fn read(path: &Path) -> Result<Export, RestoreError> {
    let unreadable = |source| RestoreError::Read { path: path.to_owned(), source };
    let decoder =
        zstd::stream::read::Decoder::new(File::open(path).map_err(unreadable)?).map_err(unreadable)?;
    let mut lines = Lines { reader: BufReader::new(decoder), path, number: 0 };
    let first = lines.next()?;
    let form: Form = lines.parse(&first)?;
    if form.chom_export > FORMAT {
        return Err(RestoreError::Newer { path: path.to_owned(), found: form.chom_export });
    }
    let header: Header = lines.parse(&first)?;
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&first);
    let mut rows = OrdMap::new();
    let trailer = loop {
        let bytes = lines.next()?;
        if let Ok(trailer) = serde_json::from_slice::<Trailer>(&bytes) {
            break trailer;
        }
        let row: Line = lines.parse(&bytes)?;
        hash.update(&bytes);
        if row.mod_revision > header.revision || row.create_revision > row.mod_revision {
            return Err(lines.damaged(&format!("`{}` is newer than the export", row.key)));
        }
        let record = Record {
            key: row.key.clone(),
            value: row.value.into(),
            mod_revision: row.mod_revision,
            create_revision: row.create_revision,
        };
        if rows.insert(row.key, record).is_some() {
            return Err(lines.damaged("a row stands there twice"));
        }
    };
    if trailer.records != rows.len() as u64 || trailer.sha256 != HEXLOWER.encode(hash.finish().as_ref()) {
        return Err(lines.damaged("count or SHA-256 do not match"));
    }
    lines.end()?;
    let meta = rows.get(&Meta::key()).ok_or(RestoreError::Meta { path: path.to_owned(), source: None })?;
    let meta = record::decode::<Meta>(meta)
        .map_err(|source| RestoreError::Meta { path: path.to_owned(), source: Some(source) })?
        .row;
    Ok(Export { meta, revision: header.revision, at: header.at, rows })
}

struct Lines<'path, R> {
    reader: R,
    path: &'path Path,
    number: usize,
}

impl<R: BufRead> Lines<'_, R> {
    /// The next line with its end, at most [`LINE_BYTES_MAX`].
    fn next(&mut self) -> Result<Vec<u8>, RestoreError> {
        self.number += 1;
        let mut line = Vec::new();
        let limit = LINE_BYTES_MAX as u64;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut line);
        read.map_err(|error| self.damaged(&error.to_string()))?;
        if line.last() == Some(&b'\n') {
            Ok(line)
        } else {
            Err(self.damaged("the line is cut short or too long"))
        }
    }

    fn parse<'line, T: Deserialize<'line>>(&self, line: &'line [u8]) -> Result<T, RestoreError> {
        serde_json::from_slice(line).map_err(|error| self.damaged(&error.to_string()))
    }

    /// Nothing may follow the trailer; reading on also checks the compressed frame's own checksum.
    fn end(&mut self) -> Result<(), RestoreError> {
        match self.reader.fill_buf() {
            Ok([]) => Ok(()),
            Ok(_) => Err(self.damaged("there is more behind its end")),
            Err(error) => Err(self.damaged(&error.to_string())),
        }
    }

    fn damaged(&self, what: &str) -> RestoreError {
        RestoreError::Damaged { path: self.path.to_owned(), detail: format!("line {}: {what}", self.number) }
    }
}

/// Makes a store from an export, in a new epoch, in a folder that is missing or empty: all or nothing.
///
/// # Errors
/// When the export is not whole, or the folder holds something; nothing is written before the whole export is checked.
pub fn restore(path: &Path, folder: &Path, now: UnixMillis) -> Result<Restored, RestoreError> {
    let Export { meta, revision, at, mut rows } = read(path)?;
    let meta = meta.restored(now);
    let revision = Revision(revision.0.saturating_add(RESTORE_REVISION_GAP));
    let unreadable = |source| RestoreError::Meta { path: path.to_owned(), source: Some(source) };
    let value = record::encode(&meta).map_err(unreadable)?;
    let create_revision = rows.get(&Meta::key()).map_or(revision, |record| record.create_revision);
    rows.insert(Meta::key(), Record { key: Meta::key(), value, mod_revision: revision, create_revision });
    let fill = |source| RestoreError::Fill { folder: folder.to_owned(), source };
    sled::fill(folder, &rows, revision).map_err(fill)?;
    Ok(Restored { meta, revision, records: rows.len(), exported_at: at })
}

/// The exports of a folder, oldest first; none when there is no such folder.
///
/// # Errors
/// When the folder cannot be read.
pub fn list_exports(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut exports = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(NAME_BEGIN) && name.ends_with(NAME_END)) {
            exports.push(folder.join(name));
        }
    }
    exports.sort_unstable();
    Ok(exports)
}

/// The newest export of a folder, if there is one.
///
/// # Errors
/// When the folder cannot be read.
pub fn newest_export(folder: &Path) -> io::Result<Option<PathBuf>> {
    Ok(list_exports(folder)?.pop())
}

/// Removes all but the newest [`EXPORTS_KEPT_MAX`] exports and returns what it removed.
///
/// # Errors
/// When the folder cannot be read or written.
pub fn prune(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut exports = list_exports(folder)?;
    let kept = exports.len().min(EXPORTS_KEPT_MAX);
    exports.truncate(exports.len() - kept);
    for export in &exports {
        std::fs::remove_file(export)?;
    }
    Ok(exports)
}

/// What to do about a damaged store: the newest export, and the command that restores it.
pub(super) fn advice(folder: &Path, exports: &Path) -> String {
    let store = folder.display();
    match newest_export(exports) {
        Ok(Some(export)) => {
            let export = export.display();
            format!(
                "The newest export is `{export}`; to go on from it: \
                 mv {store} {store}.damaged && chom-orchestrator restore {export}"
            )
        }
        Ok(None) => format!(
            "There is no export in `{}`; find one in your backups, then: \
             mv {store} {store}.damaged && chom-orchestrator restore EXPORT",
            exports.display()
        ),
        Err(error) => format!("The exports in `{}` cannot be listed ({error})", exports.display()),
    }
}
