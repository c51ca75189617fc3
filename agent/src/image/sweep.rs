//! Removes blobs that nothing needs from the cache. Needed is what the desired state names, in whichever field; what a disk
//! below the VPSs' folder stands on (retained, orphaned and replaced ones included); and what any process has open. While
//! any of that cannot be told, nothing goes. Asks no engine.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use chom_protocol::UnixMillis;
use chom_protocol::host::HostStatus;
use chom_protocol::vps::{Engine, Sha256};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::statvfs::statvfs;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ImageCache;
use super::removal::{Cached, Space, removable};
use crate::clock;
use crate::driver::disk::stands_on;
use crate::driver::qcow2;
use crate::durable::rename;
use crate::ledger::Ledger;
use crate::reconcile::memory::Mode;

/// A look costs a few milliseconds; a disk that runs full is helped within this.
const EVERY: Duration = Duration::from_secs(600);
/// What is about to go has this name meanwhile, so that nobody begins to use it.
const GOING: &str = "going";
/// A fetch that broke off.
const PART: &str = "part";

/// All that sweeping works with.
#[derive(Clone)]
pub(crate) struct Sweep {
    pub(crate) images: ImageCache,
    pub(crate) vps_folder: PathBuf,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) status: watch::Receiver<Option<Arc<HostStatus>>>,
}

/// Sweeps until asked to stop.
pub(crate) async fn run(sweep: Sweep, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let own = sweep.clone();
        let look = move || match own.images.folder.try_exists()? {
            true => own.once(own.space()?, clock::now()),
            false => Ok(Vec::new()), // nothing was ever fetched
        };
        match spawn_blocking(look).await {
            Ok(Ok(gone)) => gone.iter().for_each(|blob| {
                info!(sha256 = %blob.sha256, bytes = blob.bytes, "an image or document that nothing needs was removed");
            }),
            Ok(Err(error)) => warn!(%error, "cannot tell which images are needed; none is removed"),
            Err(_) => return, // the runtime is shutting down
        }
    }
}

impl Sweep {
    fn space(&self) -> io::Result<Space> {
        let found = statvfs(&self.images.folder)?;
        let bytes = |blocks: u64| found.fragment_size().saturating_mul(blocks);
        Ok(Space { free_bytes: bytes(found.blocks_available()), total_bytes: bytes(found.blocks()) })
    }

    /// One look; gives what went.
    fn once(&self, space: Space, now: UnixMillis) -> io::Result<Vec<Cached>> {
        let Some(mut named) = self.named()? else { return Ok(Vec::new()) };
        let mut unneeded = Vec::new();
        for blob in self.cached()? {
            match named.contains(&blob.sha256.to_string()) {
                true => self.mark(&blob, now)?,
                false => unneeded.push(blob),
            }
        }
        let mut gone = Vec::new();
        for blob in removable(unneeded, space, now) {
            let (path, going) = (self.path(&blob), self.path(&blob).with_added_extension(GOING));
            rename(&path, &going)?;
            // What was ordered and made until now is known by now; what comes later finds no such image and fetches it.
            named = self.named()?.unwrap_or_else(|| blob.sha256.to_string());
            if named.contains(&blob.sha256.to_string()) || is_open(&going)? {
                rename(&going, &path)?;
                self.mark(&blob, now)?;
                continue;
            }
            fs::remove_file(&going)?;
            gone.push(blob);
        }
        Ok(gone)
    }

    /// A text in which the digest of every blob stands that is needed; none while that cannot be told.
    fn named(&self) -> io::Result<Option<String>> {
        let desired = self.ledger.desired();
        let Some(spec) = desired.spec.filter(|_| desired.mode != Mode::ReportOnly) else { return Ok(None) };
        let sure = self.status.borrow().as_ref().is_some_and(|status| {
            let silent = status.engines.iter().any(|engine| engine.problem.is_some());
            let engines_seen = !status.engines.is_empty() && !silent;
            // On what the disks of foreign guests stand only their engine knows.
            engines_seen && status.foreign.iter().all(|guest| guest.engine != Engine::Libvirt)
        });
        if !sure {
            return Ok(None);
        }
        let mut named = serde_json::to_string(&*spec)?;
        for folder in entries(&self.vps_folder)? {
            for file in stands_on(&folder)? {
                named.push_str(&file.to_string_lossy());
            }
            for file in entries(&folder)? {
                if fs::symlink_metadata(&file)?.is_file() {
                    named.extend(qcow2::backing_file(&file)?);
                }
            }
        }
        Ok(Some(named))
    }

    /// Everything in the cache. What a kill left half-way out of it is back in its place.
    fn cached(&self) -> io::Result<Vec<Cached>> {
        let mut cached = Vec::new();
        for mut path in entries(&self.images.folder)? {
            if path.extension().is_some_and(|extension| extension == GOING) {
                let place = path.with_extension("");
                rename(&path, &place)?;
                path = place;
            }
            let partial = path.extension().is_some_and(|extension| extension == PART);
            let name = if partial { path.with_extension("") } else { path.clone() };
            let name = name.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // Whatever has another name is nobody's that we know.
            let Ok(sha256) = Sha256::try_from(name) else { continue };
            let meta = fs::metadata(&path)?;
            let needed_at = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            let needed_at = UnixMillis(u64::try_from(needed_at.as_millis()).unwrap_or(u64::MAX));
            cached.push(Cached { sha256, partial, bytes: meta.len(), needed_at });
        }
        Ok(cached)
    }

    fn path(&self, blob: &Cached) -> PathBuf {
        let path = self.images.path(blob.sha256);
        if blob.partial { path.with_added_extension(PART) } else { path }
    }

    /// Keeps when a blob was last needed, where a restart finds it: as the time of its file.
    fn mark(&self, blob: &Cached, now: UnixMillis) -> io::Result<()> {
        let at = UNIX_EPOCH + Duration::from_millis(now.0);
        match File::open(self.path(blob)).and_then(|file| file.set_modified(at)) {
            // A fetch that ended meanwhile has renamed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// What is in a folder; nothing where there is none.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Whether any process has a file open (QEMU: of a guest that CHOM does not know, of a copy by hand). Processes that may not
/// be looked into (in another user namespace) show themselves by QEMU's lock.
fn is_open(path: &Path) -> io::Result<bool> {
    let wanted = fs::metadata(path)?;
    if is_locked(&File::open(path)?)? {
        return Ok(true);
    }
    for process in entries(Path::new("/proc"))? {
        if !process.file_name().is_some_and(|name| name.to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        {
            continue;
        }
        // Processes and their files come and go.
        for file in hidden_is_none(entries(&process.join("fd")))?.unwrap_or_default() {
            let found = hidden_is_none(fs::metadata(file))?;
            if found.is_some_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino())) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// QEMU holds a lock on every file of a running guest's disk chain (docs/system/images, "locking").
fn is_locked(file: &File) -> io::Result<bool> {
    let kind = |kind: i32| i16::try_from(kind).map_err(io::Error::other);
    let (l_type, l_whence) = (kind(libc::F_WRLCK)?, kind(libc::SEEK_SET)?);
    let mut lock = libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(lock.l_type != kind(libc::F_UNLCK)?)
}

fn hidden_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
                || error.raw_os_error() == Some(Errno::ESRCH as i32) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
