//! The cache of images and other blobs: fetched over the link, resumed where it broke off, named by their digest, and in
//! their place only when verified. What nothing needs any more, `sweep` removes.

mod removal;
pub(crate) mod sweep;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chom_protocol::vps::Sha256;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::chain::Chain;
use crate::durable::rename;
use crate::link::{Blobs, LinkError};

/// A fetch that brings nothing for so long is broken off; the next one resumes.
const STALL_SECONDS_MAX: Duration = Duration::from_secs(30);
/// Packets taken from the connection at once: some 90 KiB.
const BATCH_PACKETS_MAX: usize = 64;
/// Batches that wait for the disk, under 1 MiB; the connection's window waits behind them.
const BATCHES_AHEAD_MAX: usize = 8;
/// Written at once.
const WRITE_BYTES: usize = 256 * 1024;
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
        let (path, size) = (part.clone(), wanted.size);
        let (file, at) = blocking(move || open(&path, size)).await.map_err(disk)?;
        let (sender, came) = mpsc::channel(BATCHES_AHEAD_MAX);
        let keeping = blocking(move || keep(file, came));
        let receiving = self.receive(blobs, wanted, at, sender, percent);
        let (kept, received) = tokio::join!(keeping, receiving);
        // What the disk said first: that it took no more also ends the receiving.
        let found = kept.map_err(disk)?;
        received?;
        if found != wanted.sha256 {
            tokio::fs::remove_file(&part).await.map_err(disk)?;
            return Err(ImageError::Digest { what: wanted.what.clone(), expected: wanted.sha256, found });
        }
        let (from, to) = (part.clone(), self.path(wanted.sha256));
        blocking(move || rename(&from, &to)).await.map_err(disk)
    }

    /// Hands on what comes, from byte `at` on.
    async fn receive(
        &self,
        blobs: &Blobs,
        wanted: &Wanted,
        mut at: u64,
        keep: mpsc::Sender<Vec<Bytes>>,
        percent: &Arc<AtomicU8>,
    ) -> Result<(), ImageError> {
        let Wanted { sha256, size, what } = wanted;
        if at == *size {
            return Ok(());
        }
        let (found, mut stream) = blobs
            .fetch(*sha256, at)
            .await
            .map_err(|source| ImageError::Link { what: what.clone(), source })?;
        if found != *size {
            return Err(ImageError::Size { what: what.clone(), expected: *size, found });
        }
        let whole = loop {
            let mut batch = vec![Bytes::new(); BATCH_PACKETS_MAX];
            let came = timeout(STALL_SECONDS_MAX, stream.read_chunks(&mut batch)).await;
            let Ok(Ok(Some(count))) = came else { break at == *size };
            batch.truncate(count);
            at += batch.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
            // Too much is not kept, and a disk that hangs is not waited for.
            if at > *size || !matches!(timeout(STALL_SECONDS_MAX, keep.send(batch)).await, Ok(Ok(()))) {
                break false;
            }
            percent
                .store(u8::try_from(at.saturating_mul(100) / size.max(&1)).unwrap_or(100), Ordering::Relaxed);
        };
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

/// Does what may wait for the disk on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Opens what has come so far of a blob of `size` bytes; and how much that is.
fn open(part: &Path, size: u64) -> io::Result<(File, u64)> {
    if let Some(folder) = part.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().read(true).append(true).create(true).open(part)?;
    let at = file.metadata()?.len();
    if at > size {
        file.set_len(0)?;
        return Ok((file, 0));
    }
    Ok((file, at))
}

/// Adds what comes to a file, and gives the digest of all of it, synced. What comes is added up while it is written: reading
/// it again would take half as long as the way here.
fn keep(mut file: File, mut came: mpsc::Receiver<Vec<Bytes>>) -> io::Result<Sha256> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; WRITE_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => context.update(&buffer[..count]),
        }
    }
    drop(buffer);
    let mut file = BufWriter::with_capacity(WRITE_BYTES, file);
    while let Some(batch) = came.blocking_recv() {
        for bytes in batch {
            context.update(&bytes);
            file.write_all(&bytes)?;
        }
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(Sha256(digest))
}
