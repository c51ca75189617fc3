//! The files of closed hours: one for each, written once, in order of tenant and VPS. Blocks of records, compressed each by
//! itself, then an index with their digests, then where the index begins: a page reads the index and its own blocks. Decides
//! nothing about what is in a record.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chom_protocol::api::usage::UsageRecord;
use chom_protocol::vps::Sha256;
use chom_protocol::{Name, VpsId};
use serde::{Deserialize, Serialize};

use crate::durable_file::DurableFile;

/// Records of one block: about 200 KiB unpacked, 15 KiB on disk.
pub const BLOCK_RECORDS: usize = 512;
/// A block that unpacks to more was not written here.
const BLOCK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Speed before size: an hour of 200,000 VPSs is written while others want the processor.
const COMPRESSION_LEVEL: i32 = 3;
const SUFFIX: &str = ".usage";
/// Where the index begins, and its SHA-256.
const TAIL_BYTES: usize = 8 + 32;

/// Why a file of an hour cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The disk.
    #[error("cannot {step} the usage file `{}`", path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is not as it was written.
    #[error("the usage file `{}` is damaged: {detail}; put back a copy of it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        detail: String,
    },
}

/// What the records of an hour are in order of. A place among them is named so, and not by a number, which would tell a tenant
/// how many others have.
pub type RecordKey = (Name, VpsId);

/// Where a block is.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Block {
    offset: u64,
    bytes: u64,
    sha256: Sha256,
    /// Its first record and its last.
    from: RecordKey,
    to: RecordKey,
}

/// Which records are wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Of one tenant.
    pub tenant: Option<Name>,
    /// Of one VPS.
    pub vps: Option<VpsId>,
}

impl Wanted {
    fn is_in(&self, block: &Block) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| block.from.0 <= *tenant && *tenant <= block.to.0)
    }

    fn has(&self, record: &UsageRecord) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| record.tenant == *tenant)
            && self.vps.is_none_or(|vps| record.vps == vps)
    }
}

/// A part of an hour's records.
#[derive(Debug, Default)]
pub struct Part {
    /// The records.
    pub records: Vec<UsageRecord>,
    /// Blocks that were unpacked for it.
    pub blocks: usize,
    /// Behind what the rest is; none: there is no more.
    pub next: Option<RecordKey>,
}

/// The folder. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct Archive {
    folder: Arc<Path>,
}

impl Archive {
    /// The archive in a folder, which is made when it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self { folder: folder.into() })
    }

    fn path(&self, hour: u64) -> PathBuf {
        self.folder.join(format!("{hour:012}{SUFFIX}"))
    }

    /// Whether an hour is there, whole.
    #[must_use]
    pub fn has(&self, hour: u64) -> bool {
        self.index(hour).is_ok_and(|found| found.is_some())
    }

    /// Writes an hour, durably. Blocks the thread.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn write(&self, hour: u64, records: impl Iterator<Item = UsageRecord>) -> Result<u64, ArchiveError> {
        let path = self.path(hour);
        self.fill(&path, records).map_err(|source| ArchiveError::File { step: "write", path, source })
    }

    fn fill(&self, path: &Path, records: impl Iterator<Item = UsageRecord>) -> io::Result<u64> {
        let mut file = DurableFile::create(path)?;
        let (mut offset, mut number) = (0, 0);
        let mut blocks: Vec<Block> = Vec::new();
        let mut records = records.peekable();
        while records.peek().is_some() {
            let block: Vec<UsageRecord> = records.by_ref().take(BLOCK_RECORDS).collect();
            let (Some(first), Some(last)) = (block.first(), block.last()) else { break };
            let packed = zstd::bulk::compress(&serde_json::to_vec(&block)?, COMPRESSION_LEVEL)?;
            file.write_all(&packed)?;
            blocks.push(Block {
                offset,
                bytes: packed.len() as u64,
                sha256: Sha256::of(&packed),
                from: key(first),
                to: key(last),
            });
            offset += packed.len() as u64;
            number += block.len() as u64;
        }
        let index = zstd::bulk::compress(&serde_json::to_vec(&blocks)?, COMPRESSION_LEVEL)?;
        file.write_all(&index)?;
        file.write_all(&offset.to_le_bytes())?;
        file.write_all(&Sha256::of(&index).0)?;
        file.publish()?;
        Ok(number)
    }

    /// The index of an hour; none where there is no such file.
    fn index(&self, hour: u64) -> Result<Option<(File, Vec<Block>)>, ArchiveError> {
        let path = self.path(hour);
        let failed = |source| ArchiveError::File { step: "read", path: self.path(hour), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let damaged = |detail: &str| ArchiveError::Damaged { path: path.clone(), detail: detail.to_owned() };
        let length = file.metadata().map_err(failed)?.len();
        let Some(tail_at) = length.checked_sub(TAIL_BYTES as u64) else {
            return Err(damaged("it is too short"));
        };
        let mut tail = [0; TAIL_BYTES];
        file.read_exact_at(&mut tail, tail_at).map_err(failed)?;
        let (offset, sum) = tail.split_at(8);
        let offset = u64::from_le_bytes(offset.try_into().unwrap_or_default());
        let Some(bytes) = tail_at.checked_sub(offset).and_then(|bytes| usize::try_from(bytes).ok()) else {
            return Err(damaged("its index begins behind its end"));
        };
        let mut index = vec![0; bytes];
        file.read_exact_at(&mut index, offset).map_err(failed)?;
        if Sha256::of(&index).0 != sum {
            return Err(damaged("its index has another digest"));
        }
        let unpacked = unpack(&index).map_err(|error| damaged(&error.to_string()))?;
        let blocks = serde_json::from_slice(&unpacked).map_err(|error| damaged(&error.to_string()))?;
        Ok(Some((file, blocks)))
    }

    /// Records of an hour behind one, as many as asked for, out of at most so many blocks. Blocks the thread.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn read(
        &self,
        hour: u64,
        after: Option<&RecordKey>,
        count: usize,
        blocks_max: usize,
        wanted: &Wanted,
    ) -> Result<Part, ArchiveError> {
        let mut part = Part::default();
        let Some((file, blocks)) = self.index(hour)? else { return Ok(part) };
        let is_behind = |key: &RecordKey| after.is_none_or(|after| key > after);
        let mut looked_at = after.cloned();
        for block in blocks.iter().filter(|block| is_behind(&block.to) && wanted.is_in(block)) {
            if part.blocks == blocks_max {
                part.next = looked_at;
                return Ok(part);
            }
            part.blocks += 1;
            for record in self.block(hour, &file, block)? {
                if !is_behind(&key(&record)) || !wanted.has(&record) {
                    continue;
                }
                if part.records.len() == count {
                    part.next = part.records.last().map(key);
                    return Ok(part);
                }
                part.records.push(record);
            }
            // Of a block that ends with another tenant's record no more follows for this one.
            looked_at = Some(block.to.clone());
        }
        Ok(part)
    }

    fn block(&self, hour: u64, file: &File, block: &Block) -> Result<Vec<UsageRecord>, ArchiveError> {
        let path = || self.path(hour);
        let damaged = |detail: String| ArchiveError::Damaged { path: path(), detail };
        let bytes = usize::try_from(block.bytes).ok().filter(|bytes| *bytes <= BLOCK_BYTES_MAX);
        let mut packed = vec![0; bytes.ok_or_else(|| damaged("a block is too large".to_owned()))?];
        file.read_exact_at(&mut packed, block.offset).map_err(|source| ArchiveError::File {
            step: "read",
            path: path(),
            source,
        })?;
        if Sha256::of(&packed) != block.sha256 {
            return Err(damaged(format!("the block at {} has another digest", block.offset)));
        }
        let unpacked = unpack(&packed).map_err(|error| damaged(error.to_string()))?;
        serde_json::from_slice(&unpacked).map_err(|error| damaged(error.to_string()))
    }

    /// The oldest hour that is there.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        let entries = std::fs::read_dir(&self.folder).ok()?;
        entries.filter_map(|entry| hour_of(&entry.ok()?.path())).min()
    }

    /// Removes the files of hours before this one.
    ///
    /// # Errors
    /// When the folder cannot be read or a file not removed.
    pub fn forget_before(&self, hour: u64) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if hour_of(&path).is_some_and(|of| of < hour) {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

fn key(record: &UsageRecord) -> RecordKey {
    (record.tenant.clone(), record.vps)
}

fn hour_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(SUFFIX)?.parse().ok()
}

fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(packed)?;
    decoder.take(BLOCK_BYTES_MAX as u64).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}
