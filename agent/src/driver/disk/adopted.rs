//! The disks of guests that CHOM did not make. Where they are is kept in the VPS's folder, so that it is known when its
//! spec is not any more: they go with the VPS's purge, but for what CHOM does not remove.

use std::fs::{self, DirBuilder};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chom_protocol::foreign::{Adopted, DiskKind, GuestDisk};
use chom_protocol::{Bytes, VpsId};
use nix::libc;
use tracing::{info, warn};

use super::{DiskError, Disks, FOLDER_MODE, exists, io_error, sync};
use crate::driver::qcow2;
use crate::durable::{read_sealed, write_sealed};

const FORMAT: &str = "chom-adopted 1";
const FILE: &str = "adopted";

impl Disks {
    /// Notes which guest a VPS was adopted as, durably.
    pub(crate) fn note_adopted(&self, vps: VpsId, adopted: &Adopted) -> Result<(), DiskError> {
        if self.adopted(vps)?.as_ref() == Some(adopted) {
            return Ok(());
        }
        let folder = self.folder(vps);
        for folder in [&self.root, &folder] {
            DirBuilder::new()
                .recursive(true)
                .mode(FOLDER_MODE)
                .create(folder)
                .map_err(io_error("make the folder", folder))?;
        }
        sync(&self.root)?;
        let path = folder.join(FILE);
        write_sealed(&path, FORMAT, adopted).map_err(io_error("write", &path))
    }

    /// The guest that a VPS was adopted as; none for one that CHOM made.
    pub(crate) fn adopted(&self, vps: VpsId) -> Result<Option<Adopted>, DiskError> {
        let path = self.folder(vps).join(FILE);
        read_sealed(&path, FORMAT).map_err(|error| io_error("read", &path)(io::Error::other(error)))
    }

    /// Removes the note of a guest that was never taken on; its disks stay.
    pub(crate) fn forget_adopted(&self, vps: VpsId) -> Result<(), DiskError> {
        let folder = self.folder(vps);
        fs::remove_dir_all(&folder).map_err(io_error("remove the folder", &folder))?;
        sync(&self.root)
    }

    /// The disk of a VPS that was adopted.
    pub(super) fn adopted_disk(&self, vps: VpsId) -> Option<GuestDisk> {
        let adopted = self.adopted(vps).unwrap_or_else(|error| {
            warn!(%vps, %error, "cannot tell whether it was adopted");
            None
        });
        adopted?.disks.into_iter().next()
    }

    /// Removes the files of an adopted VPS's disks, but for those that another guest stands on. `others` are the disks of
    /// all foreign guests.
    pub(super) fn remove_adopted(&self, vps: VpsId, others: &[PathBuf]) -> Result<(), DiskError> {
        let Some(adopted) = self.adopted(vps)? else { return Ok(()) };
        for disk in adopted.disks {
            match self.why_left(vps, &disk, others)? {
                None => {
                    remove_file(Path::new(&disk.path))?;
                    info!(%vps, disk = disk.path, "the disk of a purged VPS was removed");
                }
                Some(why) => warn!(%vps, disk = disk.path, why, "the disk of a purged VPS is left"),
            }
        }
        Ok(())
    }

    /// Why the disk of a VPS that is purged is left; none: it goes.
    fn why_left(
        &self,
        vps: VpsId,
        disk: &GuestDisk,
        others: &[PathBuf],
    ) -> Result<Option<String>, DiskError> {
        let path = Path::new(&disk.path);
        if !disk.kind.is_file() {
            return Ok(Some("it is no file: remove it by hand".to_owned()));
        }
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Ok(Some("it is no plain file any more".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("look at", path)(error)),
        }
        let user = self.user_of(vps, path, others)?;
        Ok(user.map(|user| format!("another disk needs it: {}", user.display())))
    }

    /// A disk of another guest that is a file or stands on it.
    fn user_of(&self, vps: VpsId, file: &Path, others: &[PathBuf]) -> Result<Option<PathBuf>, DiskError> {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let (file, own) = (real(file), self.folder(vps));
        let mut disks = others.to_vec();
        if exists(&self.root)? {
            for folder in fs::read_dir(&self.root).map_err(io_error("read the folder", &self.root))? {
                let folder = folder.map_err(io_error("read the folder", &self.root))?.path();
                if folder == own || !folder.is_dir() {
                    continue;
                }
                for entry in fs::read_dir(&folder).map_err(io_error("read the folder", &folder))? {
                    let entry = entry.map_err(io_error("read the folder", &folder))?;
                    if entry.file_name() != FILE {
                        disks.push(entry.path());
                        continue;
                    }
                    let name = folder.file_name().and_then(|name| name.to_str());
                    let Some(other) = name.and_then(|name| name.parse().ok()) else { continue };
                    let adopted = self.adopted(other)?.into_iter().flat_map(|adopted| adopted.disks);
                    disks.extend(adopted.filter(|disk| disk.kind.is_file()).map(|disk| disk.path.into()));
                }
            }
        }
        // What cannot be read may stand on anything.
        let needs = |disk: &PathBuf| match qcow2::chain(disk) {
            Ok(chain) => chain.iter().any(|path| real(path) == file),
            Err(_) => true,
        };
        Ok(disks.into_iter().find(needs))
    }
}

/// Removes a file for good; not there: done.
fn remove_file(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed.map_err(io_error("remove", path))?,
    }
    path.parent().map_or(Ok(()), sync)
}

/// Everything that the disks of an adopted VPS stand on, by the VPS's folder.
pub(crate) fn stands_on(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let adopted: Option<Adopted> = read_sealed(&folder.join(FILE), FORMAT).map_err(io::Error::other)?;
    let mut files = Vec::new();
    for disk in adopted.into_iter().flat_map(|adopted| adopted.disks).filter(|disk| disk.kind.is_file()) {
        files.extend(qcow2::chain(Path::new(&disk.path))?);
    }
    Ok(files)
}

/// How large a guest sees a disk that CHOM did not make; none where that cannot be told. May hang where its file system
/// does.
pub(crate) fn size(disk: &GuestDisk) -> Option<Bytes> {
    let path = Path::new(&disk.path);
    let kind = fs::metadata(path).ok()?.file_type();
    match disk.kind {
        DiskKind::Qcow2 if kind.is_file() => qcow2::read(path).ok().map(|disk| disk.virtual_size),
        DiskKind::Raw if kind.is_file() => fs::metadata(path).ok().map(|found| Bytes(found.len())),
        DiskKind::Block if kind.is_block_device() => {
            let mut options = fs::OpenOptions::new();
            let mut device = options.read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
            device.seek(SeekFrom::End(0)).ok().map(Bytes)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::seed::tests::spec;

    fn adopted(paths: &[(&Path, DiskKind)]) -> Adopted {
        let disk = |&(path, kind): &(&Path, DiskKind)| GuestDisk {
            path: path.to_str().unwrap().to_owned(),
            kind,
            size: None,
            device: "vda".to_owned(),
        };
        Adopted { guest: "by-hand".to_owned(), disks: paths.iter().map(disk).collect() }
    }

    #[test]
    fn a_purge_removes_the_files_that_were_adopted_unless_another_guest_needs_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let disks = Disks::new(at("vps"));
        let vps = spec().id;
        for name in ["own.qcow2", "shared.img", "base.img", "kept.img"] {
            fs::write(at(name), b"").unwrap();
        }
        std::os::unix::fs::symlink(at("kept.img"), at("link.img")).unwrap();
        // A qcow2 header that names a backing file, as another guest's overlay would.
        let mut overlay = vec![0; 104];
        overlay[..4].copy_from_slice(b"QFI\xfb");
        overlay[15] = 72;
        overlay[19] = 8;
        overlay[72..80].copy_from_slice(b"base.img");
        fs::write(at("overlay.qcow2"), overlay).unwrap();
        disks
            .note_adopted(
                vps,
                &adopted(&[
                    (&at("own.qcow2"), DiskKind::Qcow2),
                    (&at("shared.img"), DiskKind::Raw),
                    (&at("base.img"), DiskKind::Raw),
                    (&at("link.img"), DiskKind::Raw),
                    (&at("kept.img"), DiskKind::Block),
                    (&at("never.img"), DiskKind::Raw),
                ]),
            )
            .unwrap();
        assert_eq!(disks.disk(vps), at("own.qcow2"));
        let other = "0190f6d2-8f3e-7cc0-9d4c-000000000000".parse().unwrap();
        disks.note_adopted(other, &adopted(&[(&at("shared.img"), DiskKind::Raw)])).unwrap();
        for _ in 0..2 {
            disks.destroy(vps, &[at("overlay.qcow2")]).unwrap();
        }
        let left: Vec<&str> = ["own.qcow2", "shared.img", "base.img", "kept.img", "link.img"]
            .into_iter()
            .filter(|name| at(name).exists())
            .collect();
        assert_eq!(left, ["shared.img", "base.img", "kept.img", "link.img"]);
        assert!(!disks.folder(vps).exists() && disks.adopted(other).unwrap().is_some());
    }
}
