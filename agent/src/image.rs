//! The cache of images and other blobs: fetched over the link, resumed where it broke off, named by their digest, and in
//! their place only when verified. Removes nothing but what turned out damaged.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use chom_protocol::vps::Sha256;
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::chain::Chain;
use crate::durable::rename;
use crate::link::{Blobs, LinkError};

/// A fetch that brings nothing for so long is broken off; the next one resumes.
const STALL_SECONDS_MAX: Duration = Duration::from_secs(30);
/// Read from the connection and written at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Largest file read into memory: cloud-init user data, which the API bounds well below.
const SMALL_BYTES_MAX: u64 = 1024 * 1024;

/// Why a blob is not in the cache.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The connection.
    #[error("{what} cannot be fetched; it is tried again")]
    Link {
        /// What it is.
        what: String,
        /// Why.
        #[source]
        source: LinkError,
    },
    /// It broke off.
    #[error("{what} broke off at {at} of {size} bytes; it is resumed")]
    Short {
        /// What it is.
        what: String,
        /// How far it came.
        at: u64,
        /// How far it should.
        size: u64,
    },
    /// The orchestrator has a file of another size.
    #[error(
        "{what} has {found} bytes at the orchestrator, {expected} were announced; register the image again there"
    )]
    Size {
        /// What it is.
        what: String,
        /// As announced.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// It is not what was announced.
    #[error(
        "{what} has the wrong content: expected sha256 {expected}, found {found}; it was removed. Check the file in the orchestrator's image folder and register it again"
    )]
    Digest {
        /// What it is.
        what: String,
        /// As announced.
        expected: Sha256,
        /// As it came.
        found: Sha256,
    },
    /// No room.
    #[error("no space left for {what} ({size} bytes) in `{}`; free space there", folder.display())]
    Full {
        /// What it is.
        what: String,
        /// Its size.
        size: u64,
        /// Where.
        folder: PathBuf,
    },
    /// The disk.
    #[error("cannot keep {what} in `{}`", path.display())]
    Disk {
        /// What it is.
        what: String,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its digest.
    pub sha256: Sha256,
    /// Its size.
    pub size: u64,
    /// What it is, for messages.
    pub what: String,
}

/// A folder of verified blobs.
#[derive(Debug, Clone)]
pub struct ImageCache {
    folder: PathBuf,
}

impl ImageCache {
    /// A cache in `folder`, made when something first comes.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where a blob is, or would be.
    #[must_use]
    pub fn path(&self, sha256: Sha256) -> PathBuf {
        self.folder.join(sha256.to_string())
    }

    /// Whether it is there. What is in its place was verified before it came there.
    #[must_use]
    pub fn has(&self, sha256: Sha256) -> bool {
        self.path(sha256).is_file()
    }

    /// The content of a small blob.
    ///
    /// # Errors
    /// When it cannot be read or is larger than any user data.
    pub fn read_small(&self, sha256: Sha256) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.path(sha256))?.take(SMALL_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > SMALL_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than any user data"));
        }
        Ok(bytes)
    }

    /// Fetches a blob; what came of it before is kept and added to. Says how far it is, in percent.
    ///
    /// # Errors
    /// As [`ImageError`] says. What came stays for the next try, unless it is damaged.
    pub async fn fetch(
        &self,
        blobs: &Blobs,
        wanted: &Wanted,
        percent: &Arc<AtomicU8>,
    ) -> Result<(), ImageError> {
        let part = self.path(wanted.sha256).with_added_extension("part");
        let disk = |source: io::Error| self.disk_error(wanted, &part, source);
        tokio::fs::create_dir_all(&self.folder).await.map_err(disk)?;
        let file = tokio::fs::OpenOptions::new().append(true).create(true).open(&part).await.map_err(disk)?;
        let mut at = file.metadata().await.map_err(disk)?.len();
        if at > wanted.size {
            file.set_len(0).await.map_err(disk)?;
            at = 0;
        }
        if at < wanted.size {
            self.receive(blobs, wanted, file, at, percent).await?;
        }
        percent.store(100, Ordering::Relaxed);
        let path = part.clone();
        let found = spawn_blocking(move || digest_and_sync(&path)).await.map_err(io::Error::other);
        let found = found.and_then(|found| found).map_err(disk)?;
        if found != wanted.sha256 {
            tokio::fs::remove_file(&part).await.map_err(disk)?;
            return Err(ImageError::Digest { what: wanted.what.clone(), expected: wanted.sha256, found });
        }
        let (from, to) = (part.clone(), self.path(wanted.sha256));
        let renamed = spawn_blocking(move || rename(&from, &to)).await.map_err(io::Error::other);
        renamed.and_then(|renamed| renamed).map_err(disk)
    }

    async fn receive(
        &self,
        blobs: &Blobs,
        wanted: &Wanted,
        file: tokio::fs::File,
        mut at: u64,
        percent: &Arc<AtomicU8>,
    ) -> Result<(), ImageError> {
        let Wanted { sha256, size, what } = wanted;
        let part = self.path(*sha256).with_added_extension("part");
        let disk = |source: io::Error| self.disk_error(wanted, &part, source);
        let (found, mut stream) = blobs
            .fetch(*sha256, at)
            .await
            .map_err(|source| ImageError::Link { what: what.clone(), source })?;
        if found != *size {
            return Err(ImageError::Size { what: what.clone(), expected: *size, found });
        }
        let mut file = BufWriter::with_capacity(CHUNK_BYTES, file);
        let whole = loop {
            let chunk = timeout(STALL_SECONDS_MAX, stream.read_chunk(CHUNK_BYTES, true)).await;
            let Ok(Ok(Some(chunk))) = chunk else { break at == *size };
            at += chunk.bytes.len() as u64;
            if at > *size {
                break false;
            }
            file.write_all(&chunk.bytes).await.map_err(disk)?;
            percent
                .store(u8::try_from(at.saturating_mul(100) / size.max(&1)).unwrap_or(100), Ordering::Relaxed);
        };
        file.flush().await.map_err(disk)?;
        if whole { Ok(()) } else { Err(ImageError::Short { what: what.clone(), at, size: *size }) }
    }

    fn disk_error(&self, wanted: &Wanted, path: &Path, source: io::Error) -> ImageError {
        let what = wanted.what.clone();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ImageError::Full { what, size: wanted.size, folder: self.folder.clone() }
            }
            _ => ImageError::Disk { what, path: path.to_owned(), source },
        }
    }
}

impl ImageError {
    /// In one line, for the status.
    #[must_use]
    pub fn problem(&self) -> String {
        Chain(self).to_string()
    }
}

fn digest_and_sync(path: &Path) -> io::Result<Sha256> {
    let mut file = File::open(path)?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => context.update(&buffer[..count]),
        }
    }
    file.sync_all()?;
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(Sha256(digest))
}
