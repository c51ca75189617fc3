//! The image folder: digests of the configured images, and the bytes of all images for the agents that fetch them. What an
//! image's name stands for is fixed while it is there; a file that changed under us is not served.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use chom_protocol::vps::{ImageFormat, ImageReference, Sha256};
use chom_protocol::{Bytes, Name};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::config;
use crate::durable_file::DurableFile;
use crate::fleet::catalogue::Image;

pub mod fetch;
pub mod fetcher;
mod qcow2;
pub mod reach;
mod uploaded;

pub use uploaded::{IMAGE_BYTES_MAX, Incoming, ReceiveError, Received};

/// Read at once while a digest is made: large enough for a disk to stream.
const READ_BYTES: usize = 1024 * 1024;
/// Where digests are kept between starts, in the state folder.
pub const DIGESTS_FILE: &str = "image-digests.json";

/// Why the image folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file cannot be read.
    #[error("cannot read the file `{}` of image `{image}`; put it there or take the image out of the configuration", path.display())]
    Read {
        /// Which image.
        image: Name,
        /// Its file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not what the configuration says.
    #[error("the file `{}` of image `{image}` is no usable image: {problem}", path.display())]
    Form {
        /// Which image.
        image: Name,
        /// Its file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
}

/// Why an image's bytes cannot be given out.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not the file that the digest was made of.
    #[error(
        "the file of image `{image}` was changed after the orchestrator started; restart the orchestrator to take the new one"
    )]
    Changed {
        /// Which image.
        image: Name,
    },
    /// It cannot be read now.
    #[error("the file of image `{image}` cannot be read on the orchestrator")]
    Read {
        /// Which image.
        image: Name,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The agent has more than there is.
    #[error("image `{image}` has {size} bytes; it cannot be sent from byte {offset} on")]
    Offset {
        /// Which image.
        image: Name,
        /// Its size.
        size: u64,
        /// What was asked for.
        offset: u64,
    },
}

/// What tells that a file is still the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    inode: u64,
    modified_seconds: i64,
    modified_nanoseconds: i64,
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        Ok(Self {
            size: meta.len(),
            inode: meta.ino(),
            modified_seconds: meta.mtime(),
            modified_nanoseconds: meta.mtime_nsec(),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Digest {
    stamp: Stamp,
    sha256: Sha256,
}

type Digests = BTreeMap<PathBuf, Digest>;

/// Where images that were added are, in the state folder.
const ADDED_FOLDER: &str = "images";

/// The images' files by digest.
#[derive(Debug)]
pub struct ImageFolder {
    files: RwLock<BTreeMap<Sha256, Served>>,
    /// Of those that were added.
    folder: PathBuf,
    /// Places for uploads.
    uploads: Arc<Semaphore>,
}

#[derive(Debug, Clone)]
struct Served {
    image: Name,
    path: PathBuf,
    stamp: Stamp,
}

/// An image being given out.
#[derive(Debug)]
pub struct OpenImage {
    /// The file, at the offset asked for.
    pub file: File,
    /// Size of the whole.
    pub size: u64,
}

/// Reads the configured images: their digests (made anew only when a file changed) and sizes. Blocks; a gigabyte takes a
/// second or two.
///
/// # Errors
/// When a file cannot be read or is not what the configuration says.
pub fn load(
    images: &[config::Image],
    state_directory: &Path,
) -> Result<(ImageFolder, BTreeMap<Name, Image>), ImageError> {
    let cache = state_directory.join(DIGESTS_FILE);
    let known = read_digests(&cache);
    let (folder, mut catalogue, mut digests) =
        (ImageFolder::new(state_directory), BTreeMap::new(), Digests::new());
    for image in images {
        let (entry, digest) = load_one(image, &known)?;
        let sha256 = digest.sha256;
        let served =
            Served { image: image.name.clone(), path: image.file.clone(), stamp: digest.stamp.clone() };
        folder.serve(sha256, served);
        digests.insert(image.file.clone(), digest);
        catalogue.insert(image.name.clone(), entry);
    }
    if digests != known {
        write_digests(&cache, &digests);
    }
    Ok((folder, catalogue))
}

fn load_one(image: &config::Image, known: &Digests) -> Result<(Image, Digest), ImageError> {
    let config::Image { name, file: path, engine: _, format, minimum_disk_mib, default: _ } = image;
    let unreadable = |source| ImageError::Read { image: name.clone(), path: path.clone(), source };
    let mut file = File::open(path).map_err(unreadable)?;
    let stamp = Stamp::of(&file).map_err(unreadable)?;
    let virtual_size = match format {
        ImageFormat::Raw | ImageFormat::Iso => stamp.size,
        // What it unpacks to is not written in it.
        ImageFormat::IncusTarball => 0,
        ImageFormat::Qcow2 => {
            let mut head = Vec::with_capacity(qcow2::HEADER_BYTES);
            (&file).take(qcow2::HEADER_BYTES as u64).read_to_end(&mut head).map_err(unreadable)?;
            qcow2::virtual_size(&head).map_err(|error| ImageError::Form {
                image: name.clone(),
                path: path.clone(),
                problem: error.to_string(),
            })?
        }
    };
    let digest = match known.get(path).filter(|digest| digest.stamp == stamp) {
        Some(digest) => digest.clone(),
        None => {
            info!(image = %name, path = %path.display(), "making the digest of an image");
            Digest { sha256: digest_of(&mut file).map_err(unreadable)?, stamp }
        }
    };
    let minimum_disk = minimum_disk_mib.map_or(Bytes(0), Bytes::mib).max(Bytes(virtual_size));
    let reference = ImageReference {
        name: name.clone(),
        sha256: digest.sha256,
        size: Bytes(digest.stamp.size),
        format: *format,
    };
    Ok((Image { reference, engine: image.engine(), minimum_disk }, digest))
}

fn digest_of(file: &mut File) -> io::Result<Sha256> {
    file.seek(SeekFrom::Start(0))?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => context.update(&buffer[..count]),
        }
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    Ok(Sha256(out))
}

/// What is known from earlier starts. It only saves time: an unreadable file is made anew.
fn read_digests(path: &Path) -> Digests {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Digests::new(),
        Err(error) => {
            warn!(path = %path.display(), %error, "cannot read the kept digests; making them anew");
            return Digests::new();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        warn!(path = %path.display(), %error, "the kept digests are damaged; making them anew");
        Digests::new()
    })
}

fn write_digests(path: &Path, digests: &Digests) {
    let write = || {
        let text = serde_json::to_vec_pretty(digests).map_err(io::Error::other)?;
        let mut file = DurableFile::create(path)?;
        file.write_all(&text)?;
        file.publish()
    };
    if let Err(error) = write() {
        warn!(path = %path.display(), %error, "cannot keep the digests of images; the next start makes them anew");
    }
}

impl ImageFolder {
    /// An empty one that keeps what is added in a state folder.
    #[must_use]
    pub fn new(state_directory: &Path) -> Self {
        Self {
            files: RwLock::default(),
            folder: state_directory.join(ADDED_FOLDER),
            uploads: Arc::new(Semaphore::new(uploaded::UPLOADS_MAX)),
        }
    }

    /// Whether there is an image of this content.
    #[must_use]
    pub fn contains(&self, sha256: &Sha256) -> bool {
        self.path_of(sha256).is_some()
    }

    /// Opens an image at an offset; none when there is no such image. Blocks on the disk.
    ///
    /// # Errors
    /// When the file was changed or cannot be read, or the offset is past its end.
    pub fn open(&self, sha256: &Sha256, offset: u64) -> Option<Result<OpenImage, OpenError>> {
        let served = self.files.read().unwrap_or_else(PoisonError::into_inner).get(sha256).cloned();
        served.map(|served| served.open(offset))
    }

    fn path_of(&self, sha256: &Sha256) -> Option<PathBuf> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.get(sha256).map(|served| served.path.clone())
    }

    fn serve(&self, sha256: Sha256, served: Served) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        // One that the configuration names stays: its file is not ours to remove.
        if files.get(&sha256).is_none_or(|known| known.path == served.path) {
            files.insert(sha256, served);
        }
    }

    fn forget(&self, sha256: &Sha256) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).remove(sha256);
    }
}

impl Served {
    fn open(&self, offset: u64) -> Result<OpenImage, OpenError> {
        let unreadable = |source| OpenError::Read { image: self.image.clone(), source };
        let mut file = File::open(&self.path).map_err(unreadable)?;
        if Stamp::of(&file).map_err(unreadable)? != self.stamp {
            return Err(OpenError::Changed { image: self.image.clone() });
        }
        let size = self.stamp.size;
        if offset > size {
            return Err(OpenError::Offset { image: self.image.clone(), size, offset });
        }
        file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
        Ok(OpenImage { file, size })
    }
}

#[cfg(test)]
mod tests;
