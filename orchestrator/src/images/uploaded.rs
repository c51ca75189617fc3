//! Images that are added while the orchestrator runs: received into the state folder beside their final place, checked, and
//! put there whole, named by their content. What no row names goes at the next start.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use chom_protocol::vps::{ImageFormat, Sha256};
use chom_protocol::{Bytes, Name};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::{ImageFolder, Served, Stamp, qcow2};
use crate::durable_file;
use crate::fleet::rows::ImageRow;

/// Largest image that is received; hosts get it whole.
pub const IMAGE_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// Uploads at once; more are told to come again.
pub(super) const UPLOADS_MAX: usize = 4;
/// How the names of unfinished files end.
const PART_SUFFIX: &str = "part";

/// Why an image was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The disk.
    #[error("the image cannot be written on the orchestrator")]
    Write(#[source] io::Error),
    /// More than [`IMAGE_BYTES_MAX`].
    #[error("the image has more than {}; larger ones are not taken", Bytes(IMAGE_BYTES_MAX))]
    Large,
    /// Nothing came.
    #[error("the image is empty; send the bytes of its file")]
    Empty,
    /// It is not what was announced.
    #[error(
        "what arrived has the SHA-256 {found}, not {wanted}; the file is another one, or was damaged on its way"
    )]
    Digest {
        /// What was announced.
        wanted: Sha256,
        /// What came.
        found: Sha256,
    },
    /// It is not of its format.
    #[error("this is no usable image: {0}")]
    Form(String),
    /// As many images as are received at once are on their way.
    #[error("{UPLOADS_MAX} images are being received already; try again when one is done")]
    Busy,
}

/// An image on its way in. What came is gone again when this is dropped before [`Incoming::finish`].
pub struct Incoming {
    file: tokio::fs::File,
    part: PathBuf,
    folder: PathBuf,
    digest: ring::digest::Context,
    head: Vec<u8>,
    size: u64,
    _place: OwnedSemaphorePermit,
}

/// An image that was received, in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its content.
    pub sha256: Sha256,
    /// Size of the file.
    pub size: Bytes,
    /// Smallest disk that it fits on, as far as its header says.
    pub minimum_disk: Bytes,
}

impl Incoming {
    /// Bytes that came.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Lets go of what came, for a sender that begins anew.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn restart(&mut self) -> Result<(), ReceiveError> {
        if self.size == 0 {
            return Ok(());
        }
        let emptied = async {
            self.file.flush().await?;
            self.file.set_len(0).await?;
            self.file.rewind().await
        };
        emptied.await.map_err(ReceiveError::Write)?;
        self.digest = ring::digest::Context::new(&ring::digest::SHA256);
        self.head.clear();
        self.size = 0;
        Ok(())
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When there are too many, or the disk fails or is full.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ReceiveError> {
        self.size += bytes.len() as u64;
        if self.size > IMAGE_BYTES_MAX {
            return Err(ReceiveError::Large);
        }
        let missing = qcow2::HEADER_BYTES.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..missing]);
        self.digest.update(bytes);
        self.file.write_all(bytes).await.map_err(ReceiveError::Write)
    }

    /// Checks what came and puts it in its place, durably.
    ///
    /// # Errors
    /// When it is not what was announced or no image of that format, or the disk fails.
    pub async fn finish(
        mut self,
        images: &ImageFolder,
        name: &Name,
        format: ImageFormat,
        wanted: Option<Sha256>,
    ) -> Result<Received, ReceiveError> {
        if self.size == 0 {
            return Err(ReceiveError::Empty);
        }
        let mut found = Sha256([0; 32]);
        found.0.copy_from_slice(self.digest.clone().finish().as_ref());
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            return Err(ReceiveError::Digest { wanted, found });
        }
        let minimum_disk = match format {
            ImageFormat::Raw => self.size,
            // What it unpacks to is not written in it.
            ImageFormat::IncusTarball | ImageFormat::Iso => 0,
            ImageFormat::Qcow2 => {
                qcow2::virtual_size(&self.head).map_err(|error| ReceiveError::Form(error.to_string()))?
            }
        };
        self.file.flush().await.map_err(ReceiveError::Write)?;
        self.file.sync_all().await.map_err(ReceiveError::Write)?;
        let (from, to) = (self.part.clone(), self.folder.join(found.to_string()));
        let placed = to.clone();
        let stamp = spawn_blocking(move || {
            durable_file::replace(&from, &placed)?;
            Stamp::of(&File::open(&placed)?)
        });
        let stamp =
            stamp.await.map_err(io::Error::other).and_then(|done| done).map_err(ReceiveError::Write)?;
        images.serve(found, Served { image: name.clone(), path: to, stamp });
        Ok(Received { sha256: found, size: Bytes(self.size), minimum_disk: Bytes(minimum_disk) })
    }
}

/// Whether a file in the folder was put there by this module, going by its name: whatever else lies there is somebody's.
fn is_ours(path: &Path) -> bool {
    let name = |part: Option<&std::ffi::OsStr>| part.and_then(|name| name.to_str()).map(str::to_owned);
    match name(path.extension()) {
        Some(extension) => {
            extension == PART_SUFFIX
                && name(path.file_stem()).is_some_and(|stem| uuid::Uuid::try_parse(&stem).is_ok())
        }
        None => name(path.file_name()).is_some_and(|name| Sha256::try_from(name).is_ok()),
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Best effort, and nothing is there once it was put in its place: what is left goes at the next start.
        let _ = std::fs::remove_file(&self.part);
    }
}

impl ImageFolder {
    /// Begins to receive an image.
    ///
    /// # Errors
    /// When too many are on their way, or the folder cannot be written.
    pub async fn receive(&self) -> Result<Incoming, ReceiveError> {
        let place =
            std::sync::Arc::clone(&self.uploads).try_acquire_owned().map_err(|_| ReceiveError::Busy)?;
        let part = self.folder.join(format!("{}.{PART_SUFFIX}", uuid::Uuid::new_v4()));
        let file = tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).await;
        Ok(Incoming {
            file: file.map_err(ReceiveError::Write)?,
            part,
            folder: self.folder.clone(),
            digest: ring::digest::Context::new(&ring::digest::SHA256),
            head: Vec::new(),
            size: 0,
            _place: place,
        })
    }

    /// Serves the images of these rows too, and removes what none of them names. Blocks on the disk.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn take_rows<'a>(&self, rows: impl Iterator<Item = &'a ImageRow>) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let mut named = BTreeSet::new();
        // The configuration's images may lie here too.
        named.extend(
            self.files
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .values()
                .map(|served| served.path.clone()),
        );
        for row in rows {
            let path = self.folder.join(row.sha256.to_string());
            named.insert(path.clone());
            match File::open(&path).and_then(|file| Stamp::of(&file)) {
                Ok(stamp) if stamp.size == row.size.0 => {
                    self.serve(row.sha256, Served { image: row.name.clone(), path, stamp });
                }
                Ok(stamp) => {
                    warn!(image = %row.name, size = stamp.size, "the file of an image has another size; it is not given out")
                }
                Err(error) => {
                    warn!(image = %row.name, path = %path.display(), %error, "the file of an image is missing; add the image again")
                }
            }
        }
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if is_ours(&path) && !named.contains(&path) {
                info!(path = %path.display(), "removing a file that no image names");
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Gives an image out no longer, and removes its file if it is one that was added.
    pub async fn discard(&self, sha256: Sha256) {
        let path = self.folder.join(sha256.to_string());
        if !self.is_added(&sha256, &path) {
            return;
        }
        self.forget(&sha256);
        // What stays goes at the next start.
        if let Err(error) = tokio::fs::remove_file(&path).await {
            warn!(path = %path.display(), %error, "cannot remove the file of an image");
        }
    }

    fn is_added(&self, sha256: &Sha256, path: &Path) -> bool {
        self.path_of(sha256).is_some_and(|served| served == path)
    }
}
