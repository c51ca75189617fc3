//! The files of a VPS: a folder of its own with its disk, its seed and its console's log. Disks are never overwritten,
//! and removing takes exactly that one folder. Knows nothing of libvirt.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chom_protocol::vps::{ImageFormat, ImageReference, VpsSpec};
use chom_protocol::{Bytes, Name, VpsId};
use serde::Deserialize;

use super::command::{CommandError, Program};
use super::seed::{SEED_PREFIX, SEED_SUFFIX, Seed};
use super::snapshot::SnapshotName;
use crate::durable;

mod adopted;
mod snapshots;

pub(crate) use adopted::{size as adopted_size, stands_on};

/// Making an overlay or reading a header touches a few blocks; a minute is a disk that hangs.
const QEMU_IMG: Program =
    Program { name: "qemu-img", package: "qemu-utils", deadline: Duration::from_secs(60) };
/// A seed has a few kilobytes.
const XORRISO: Program = Program { name: "xorriso", package: "xorriso", deadline: Duration::from_secs(60) };
/// The agent's alone to list, QEMU's user may pass through to the files that libvirt gives it.
const FOLDER_MODE: u32 = 0o711;
/// How the names of disks for rescue mode begin: they hold nothing that is kept.
const RESCUE_PREFIX: &str = "rescue-";
/// A seed may hold secrets: the agent's and, by libvirt, QEMU's.
const SEED_MODE: u32 = 0o600;

/// Where the files of a VPS are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VpsFiles {
    pub(crate) folder: PathBuf,
    pub(crate) disk: PathBuf,
    pub(crate) rescue: Option<PathBuf>,
    pub(crate) seed: PathBuf,
    pub(crate) console_log: PathBuf,
}

/// The folder that holds the VPSs' folders.
#[derive(Debug, Clone)]
pub(crate) struct Disks {
    root: PathBuf,
}

/// Why the files of a VPS are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The system refused.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The image would read other files of the host.
    #[error("the image `{}` refers to another file ({refers}): use an image that stands alone (`qemu-img convert` makes one)", path.display())]
    Image {
        /// Which.
        path: PathBuf,
        /// To what.
        refers: String,
    },
    /// The image is for another engine.
    #[error(
        "image `{image}` is of format {format}, which no virtual machine boots from: choose another image"
    )]
    Format {
        /// Its name.
        image: Name,
        /// Its format.
        format: ImageFormat,
    },
    /// qemu-img answered what it never does.
    #[error("cannot understand what qemu-img says about `{}`", path.display())]
    Answer {
        /// About which image.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Nothing to make it from.
    #[error("it was adopted and has no image that a disk could be made from")]
    NoImage,
    /// The disk would cut its image off.
    #[error(
        "a disk of {disk} cannot hold the image, which has {image}: choose a larger size or another image"
    )]
    Small {
        /// Size of the disk.
        disk: Bytes,
        /// Size that the image shows to a guest.
        image: Bytes,
    },
    /// Nothing to copy it from.
    #[error(
        "it is to be copied from VPS {vps}, whose disk is not on this host or has no snapshot `{name}` any more: delete \
         this VPS and make the copy anew"
    )]
    Source {
        /// From which VPS.
        vps: VpsId,
        /// From which snapshot.
        name: SnapshotName,
    },
    /// What was written beyond the new end would be lost.
    #[error(
        "its disk has {disk}, and only {wanted} are wanted: disks never shrink; order at least what it has"
    )]
    Shrinks {
        /// What it has.
        disk: Bytes,
        /// What is wanted.
        wanted: Bytes,
    },
    /// Not a folder that the agent made.
    #[error("`{}` is not a folder but something else: the agent did not make it and leaves it; remove it by hand", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
    },
}

impl DiskError {
    /// Whether trying again may help.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Io { .. } | Self::Command(_) | Self::Answer { .. } | Self::Source { .. } => true,
            Self::Image { .. }
            | Self::NoImage
            | Self::Shrinks { .. }
            | Self::Format { .. }
            | Self::Small { .. }
            | Self::Folder { .. } => false,
        }
    }
}

/// What `qemu-img info` says, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ImageInfo {
    virtual_size: u64,
    backing_filename: Option<String>,
    backing_filename_format: Option<String>,
    format_specific: Option<FormatSpecific>,
}

#[derive(Debug, Deserialize)]
struct FormatSpecific {
    data: FormatData,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct FormatData {
    data_file: Option<String>,
}

impl Disks {
    /// Disks under `root`, an absolute path.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where a VPS's files are or will be. No I/O.
    pub(crate) fn files(&self, spec: &VpsSpec) -> VpsFiles {
        let folder = self.folder(spec.id);
        VpsFiles {
            disk: folder.join(disk_name(spec.build)),
            rescue: spec.rescue.as_ref().map(|image| {
                let digest = image.sha256.to_string();
                folder.join(format!("{RESCUE_PREFIX}{}.qcow2", &digest[..16]))
            }),
            seed: folder.join(Seed::of(spec).file_name()),
            console_log: folder.join("console.log"),
            folder,
        }
    }

    fn folder(&self, vps: VpsId) -> PathBuf {
        self.root.join(vps.to_string())
    }

    /// Makes what is missing of a VPS's files: the disk as an overlay on `image` or as a copy of its source, the disk for
    /// rescue mode, the seed. What is there stays. `rescue` is the file of the rescue image, if there is to be one.
    pub(crate) async fn prepare(
        &self,
        spec: &VpsSpec,
        image: &Path,
        rescue: Option<&Path>,
        user_data: Option<&[u8]>,
    ) -> Result<VpsFiles, DiskError> {
        let files = self.files(spec);
        for folder in [&self.root, &files.folder] {
            DirBuilder::new()
                .recursive(true)
                .mode(FOLDER_MODE)
                .create(folder)
                .map_err(io_error("make the folder", folder))?;
        }
        if !exists(&files.disk)? {
            match spec.source {
                None => {
                    let reference = spec.image.as_ref().ok_or(DiskError::NoImage)?;
                    create_overlay(reference, image, Some(spec.disk), &files.disk).await?;
                }
                Some(source) => self.copy_disk(spec, source).await?,
            }
        }
        if let (Some(reference), Some(image), Some(disk)) = (&spec.rescue, rescue, &files.rescue)
            && !exists(disk)?
        {
            create_overlay(reference, image, None, disk).await?;
        }
        if !exists(&files.seed)? {
            create_seed(spec, user_data, &files).await?;
        }
        Ok(files)
    }

    /// How large a guest sees its disk, and whether somebody uses it or not.
    pub(crate) async fn size(&self, files: &VpsFiles) -> Result<Bytes, DiskError> {
        let info = image_info(&files.disk, &["info", "--output=json", "-U", "-f", "qcow2"]).await?;
        Ok(Bytes(info.virtual_size))
    }

    /// Makes the disk of a guest that is off larger. QEMU's lock on the file keeps it from one that is on.
    pub(crate) async fn grow(&self, disk: &Path, format: &str, size: Bytes) -> Result<(), DiskError> {
        let mut arguments = options(&["resize", "-q", "-f", format]);
        arguments.push(disk.into());
        arguments.push(size.0.to_string().into());
        QEMU_IMG.succeed(&arguments).await?;
        sync(disk)
    }

    /// Removes seeds and rescue disks that the guest's definition does not name any more, and disks of older builds. A guest that runs
    /// keeps what it has open.
    pub(crate) fn remove_old_files(&self, files: &VpsFiles) -> Result<(), DiskError> {
        let read = io_error("read the folder", &files.folder);
        for entry in fs::read_dir(&files.folder).map_err(read)? {
            let path = entry.map_err(io_error("read the folder", &files.folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let old_seed = name.starts_with(SEED_PREFIX) && name.ends_with(SEED_SUFFIX) && path != files.seed;
            let old_rescue = name.starts_with(RESCUE_PREFIX) && Some(&path) != files.rescue.as_ref();
            if old_seed || old_rescue || build_of(name) < build_of_path(&files.disk) {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Removes a VPS's folder for good, and the files of the disks that it was adopted with; nothing else. Not there: done.
    /// `others` are the disks of all foreign guests.
    pub(crate) fn destroy(&self, vps: VpsId, others: &[PathBuf]) -> Result<(), DiskError> {
        // Built from a typed id, so it is one step below the root; a link there would lead elsewhere.
        let folder = self.folder(vps);
        match fs::symlink_metadata(&folder) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(DiskError::Folder { path: folder }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error("look at", &folder)(error)),
        }
        self.remove_adopted(vps, others)?;
        fs::remove_dir_all(&folder).map_err(io_error("remove the folder", &folder))?;
        sync(&self.root)
    }
}

/// The name of the disk of a build: another one for each, so that the old disk is whole until the new one is in use.
fn disk_name(build: u64) -> String {
    if build == 0 { "disk.qcow2".to_owned() } else { format!("disk-{build}.qcow2") }
}

/// Of which build a file of this name is the disk; the greatest number for what is no disk at all.
fn build_of(name: &str) -> u64 {
    let number = name.strip_prefix("disk-").and_then(|rest| rest.strip_suffix(".qcow2"));
    let build = if name == disk_name(0) { Some(0) } else { number.and_then(|number| number.parse().ok()) };
    build.unwrap_or(u64::MAX)
}

fn build_of_path(disk: &Path) -> u64 {
    disk.file_name().and_then(|name| name.to_str()).map_or(0, build_of)
}

/// Makes a disk that stands on an image; as large as the image where no size is given.
async fn create_overlay(
    reference: &ImageReference,
    image: &Path,
    size: Option<Bytes>,
    disk: &Path,
) -> Result<(), DiskError> {
    let format = match reference.format {
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Raw => "raw",
        format @ (ImageFormat::IncusTarball | ImageFormat::Iso) => {
            return Err(DiskError::Format { image: reference.name.clone(), format });
        }
    };
    check_image(image, format, size).await?;
    // Whatever a crash left under this name was never a disk.
    let fresh = disk.with_added_extension("new");
    let mut arguments = options(&["create", "-q", "-f", "qcow2", "-F", format, "-b"]);
    arguments.push(image.into());
    arguments.push((&fresh).into());
    arguments.extend(size.map(|size| OsString::from(size.0.to_string())));
    QEMU_IMG.succeed(&arguments).await?;
    publish(&fresh, disk)
}

/// Refuses an image that would show a guest other files of the host, or that does not fit.
async fn check_image(image: &Path, format: &str, size: Option<Bytes>) -> Result<(), DiskError> {
    let info = image_info(image, &["info", "--output=json", "-f", format]).await?;
    let data_file = info.format_specific.and_then(|specific| specific.data.data_file);
    if let Some(refers) = info.backing_filename.or(data_file) {
        return Err(DiskError::Image { path: image.to_owned(), refers });
    }
    match size {
        Some(disk) if info.virtual_size > disk.0 => {
            Err(DiskError::Small { disk, image: Bytes(info.virtual_size) })
        }
        _ => Ok(()),
    }
}

async fn image_info(path: &Path, question: &[&str]) -> Result<ImageInfo, DiskError> {
    let mut arguments = options(question);
    arguments.push(path.into());
    let answer = QEMU_IMG.succeed(&arguments).await?;
    serde_json::from_slice(&answer).map_err(|source| DiskError::Answer { path: path.to_owned(), source })
}

async fn create_seed(spec: &VpsSpec, user_data: Option<&[u8]>, files: &VpsFiles) -> Result<(), DiskError> {
    let seed = Seed::of(spec);
    let sources = files.folder.join("seed.new.d");
    // Left by a crash, if it is there.
    if exists(&sources)? {
        fs::remove_dir_all(&sources).map_err(io_error("remove the folder", &sources))?;
    }
    DirBuilder::new().mode(0o700).create(&sources).map_err(io_error("make the folder", &sources))?;
    let user_data = user_data.unwrap_or(seed.default_user_data.as_bytes());
    for (name, content) in [
        ("meta-data", seed.meta_data.as_bytes()),
        ("network-config", seed.network_config.as_bytes()),
        ("user-data", user_data),
    ] {
        let path = sources.join(name);
        fs::write(&path, content).map_err(io_error("write", &path))?;
    }
    let fresh = files.seed.with_added_extension("new");
    let mut arguments =
        options(&["-as", "mkisofs", "-quiet", "-volid", "cidata", "-joliet", "-rational-rock", "-output"]);
    arguments.push((&fresh).into());
    arguments.push((&sources).into());
    XORRISO.succeed(&arguments).await?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(SEED_MODE))
        .map_err(io_error("set the mode of", &fresh))?;
    fs::remove_dir_all(&sources).map_err(io_error("remove the folder", &sources))?;
    publish(&fresh, &files.seed)
}

/// Puts a finished file in its place, durably.
fn publish(fresh: &Path, path: &Path) -> Result<(), DiskError> {
    sync(fresh)?;
    durable::rename(fresh, path).map_err(io_error("put in its place", path))
}

fn sync(path: &Path) -> Result<(), DiskError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io_error("sync", path))
}

/// Whether something has that name; not being able to tell is an error, never "no".
fn exists(path: &Path) -> Result<bool, DiskError> {
    path.try_exists().map_err(io_error("look at", path))
}

fn options(options: &[&str]) -> Vec<OsString> {
    options.iter().map(OsString::from).collect()
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    move |source| DiskError::Io { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::super::seed::tests::spec;
    use super::*;

    /// A folder with a small image, or none where a program is missing.
    pub(super) async fn setting() -> Option<(tempfile::TempDir, Disks, PathBuf)> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        let mut arguments = options(&["create", "-q", "-f", "qcow2"]);
        arguments.extend([image.clone().into_os_string(), "8M".into()]);
        let ready = match QEMU_IMG.succeed(&arguments).await {
            Ok(_) => XORRISO.run(&options(&["-version"])).await.map(drop),
            Err(error) => Err(error),
        };
        match ready {
            Ok(()) => {
                let disks = Disks::new(folder.path().join("vps"));
                Some((folder, disks, image))
            }
            Err(CommandError::Missing { program, .. }) => {
                eprintln!("not checked: {program} is not installed here");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn an_existing_disk_is_never_overwritten_and_a_seed_only_when_it_changed() {
        let Some((_folder, disks, image)) = setting().await else { return };
        let mut spec = spec();
        let first = disks.prepare(&spec, &image, None, None).await.unwrap();
        fs::write(&first.disk, b"what the guest wrote").unwrap();
        fs::write(&first.seed, b"kept").unwrap();
        let again = disks.prepare(&spec, &image, None, None).await.unwrap();
        assert_eq!(first, again);
        assert_eq!(fs::read(&first.disk).unwrap(), b"what the guest wrote");
        assert_eq!(fs::read(&first.seed).unwrap(), b"kept");

        spec.ssh_keys.clear();
        let changed = disks.prepare(&spec, &image, None, None).await.unwrap();
        assert_ne!(changed.seed, first.seed);
        disks.remove_old_files(&changed).unwrap();
        let mut names: Vec<String> = fs::read_dir(&changed.folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["disk.qcow2", changed.seed.file_name().unwrap().to_str().unwrap()]);
    }

    #[tokio::test]
    async fn a_disk_grows_and_each_build_has_one_of_its_own_that_takes_the_place_of_the_older_ones() {
        let Some((_folder, disks, image)) = setting().await else { return };
        let mut spec = VpsSpec { disk: Bytes::mib(16), ..spec() };
        let first = disks.prepare(&spec, &image, None, None).await.unwrap();
        assert_eq!(disks.size(&first).await.unwrap(), Bytes::mib(16));
        disks.grow(&first.disk, "qcow2", Bytes::mib(24)).await.unwrap();
        assert_eq!(disks.size(&first).await.unwrap(), Bytes::mib(24));

        spec.build = 2;
        let second = disks.prepare(&spec, &image, None, None).await.unwrap();
        assert!(first.disk.exists() && second.disk.exists(), "both are whole until the new one is in use");
        disks.remove_old_files(&second).unwrap();
        assert!(!first.disk.exists() && second.disk.exists());
        // Looked at with the eyes of an older build, the newer disk is not an old one.
        disks.remove_old_files(&first).unwrap();
        assert!(second.disk.exists());
    }

    #[tokio::test]
    async fn an_image_that_reads_other_files_or_does_not_fit_is_refused() {
        let Some((folder, disks, image)) = setting().await else { return };
        let evil = folder.path().join("evil");
        let mut arguments = options(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/hostname"]);
        arguments.extend([evil.clone().into_os_string(), "8M".into()]);
        QEMU_IMG.succeed(&arguments).await.unwrap();
        let error = disks.prepare(&spec(), &evil, None, None).await.unwrap_err();
        assert!(matches!(&error, DiskError::Image { refers, .. } if refers == "/etc/hostname"), "{error}");

        let small = VpsSpec { disk: Bytes::mib(4), ..spec() };
        let error = disks.prepare(&small, &image, None, None).await.unwrap_err();
        assert!(matches!(error, DiskError::Small { .. }), "{error}");
        assert!(!disks.files(&small).disk.exists());
    }

    #[test]
    fn destroy_removes_one_folder_and_follows_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let disks = Disks::new(folder.path().join("vps"));
        let (ours, other) = (spec().id, "0190f6d2-8f3e-7cc0-9d4c-000000000000".parse().unwrap());
        disks.destroy(ours, &[]).unwrap();
        for vps in [ours, other] {
            fs::create_dir_all(disks.folder(vps)).unwrap();
            fs::write(disks.folder(vps).join("disk.qcow2"), b"").unwrap();
        }
        disks.destroy(ours, &[]).unwrap();
        assert!(!disks.folder(ours).exists() && disks.folder(other).join("disk.qcow2").exists());

        std::os::unix::fs::symlink(disks.folder(other), disks.folder(ours)).unwrap();
        assert!(disks.destroy(ours, &[]).is_err());
        assert!(disks.folder(other).join("disk.qcow2").exists());
    }
}
