//! Snapshots of a VPS's disk while no guest has it open, and disks copied from a snapshot.
//!
//! They are internal snapshots of the qcow2 file: one file stays one file, whatever is taken, restored and removed in
//! whatever order, so nothing has to be merged and no other file must be kept for it. A guest that runs has its own
//! QEMU do it (`driver/libvirt.rs`); `qemu-img` cannot open the file then, which is the lock against doing both.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use chom_protocol::VpsId;
use chom_protocol::foreign::DiskKind;
use chom_protocol::vps::{CloneSource, SnapshotStatus, VpsSpec};

use super::{
    DiskError, Disks, ImageInfo, QEMU_IMG, build_of, disk_name, exists, io_error, options, publish, sync,
};
use crate::driver::command::Program;
use crate::driver::qcow2::{self, Qcow2};
use crate::driver::snapshot::{SnapshotName, Snapshots};

/// Counting references anew: on a slow disk a terabyte takes a minute or two.
const QEMU_IMG_SNAPSHOT: Program = Program { deadline: Duration::from_secs(540), ..QEMU_IMG };
/// Copying a disk: 100 GiB at 30 MB/s.
const QEMU_IMG_COPY: Program = Program { deadline: Duration::from_secs(3540), ..QEMU_IMG };
/// Beside a disk that `qemu-img` is changing: what stays after a kill says that the file must be checked.
const CHANGING: &str = "disk.changing";

impl Disks {
    /// Where a VPS's disk is or would be: of its newest build, or where it was when the VPS was adopted.
    pub(crate) fn disk(&self, vps: VpsId) -> PathBuf {
        if let Some(disk) = self.adopted_disk(vps) {
            return disk.path.into();
        }
        let folder = self.folder(vps);
        let names = fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        let newest = names.map(|name| build_of(&name)).filter(|build| *build < u64::MAX).max();
        folder.join(disk_name(newest.unwrap_or(0)))
    }

    /// Whether a VPS has a disk.
    pub(crate) fn has_disk(&self, vps: VpsId) -> Result<bool, DiskError> {
        exists(&self.disk(vps))
    }

    /// CHOM's snapshots of a VPS; none at all while it has no disk.
    pub(crate) fn snapshots(&self, vps: VpsId) -> Result<Snapshots, DiskError> {
        let Some(disk) = self.look(vps)? else { return Ok(Snapshots::default()) };
        let mut snapshots = Snapshots::default();
        for snapshot in disk.snapshots {
            match SnapshotName::parse(&snapshot.name) {
                Some(SnapshotName::Kept(id)) => {
                    let (taken_at, disk) = (snapshot.taken_at, snapshot.virtual_size);
                    snapshots.kept.push(SnapshotStatus { id, taken_at, disk });
                }
                Some(SnapshotName::ForClone(vps)) => snapshots.for_clones.push(vps),
                None => {} // made by hand
            }
        }
        snapshots.kept.sort_unstable_by_key(|snapshot| snapshot.id);
        Ok(snapshots)
    }

    fn look(&self, vps: VpsId) -> Result<Option<Qcow2>, DiskError> {
        if self.adopted_disk(vps).is_some_and(|disk| disk.kind != DiskKind::Qcow2) {
            return Ok(None); // of its own kind, which has no snapshots
        }
        let path = self.disk(vps);
        match qcow2::read(&path) {
            Ok(disk) => Ok(Some(disk)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read the header of", &path)(error)),
        }
    }

    /// Takes a snapshot of a disk that no guest has open.
    pub(crate) async fn take_snapshot(&self, vps: VpsId, name: SnapshotName) -> Result<(), DiskError> {
        self.change(vps, "-c", name).await
    }

    /// Removes one, of a disk that no guest has open.
    pub(crate) async fn delete_snapshot(&self, vps: VpsId, name: SnapshotName) -> Result<(), DiskError> {
        self.change(vps, "-d", name).await
    }

    /// Makes a disk that no guest has open what it was, but never smaller than it should be.
    pub(crate) async fn restore_snapshot(&self, spec: &VpsSpec, name: SnapshotName) -> Result<(), DiskError> {
        self.change(spec.id, "-a", name).await?;
        let is = self.look(spec.id)?.map_or(spec.disk, |disk| disk.virtual_size);
        if is < spec.disk { grow(&self.disk(spec.id), spec).await } else { Ok(()) }
    }

    async fn change(&self, vps: VpsId, option: &str, name: SnapshotName) -> Result<(), DiskError> {
        let (disk, mark) = (self.disk(vps), self.folder(vps).join(CHANGING));
        if exists(&mark)? {
            // Killed half-way: what may be left are clusters that nobody refers to.
            let mut arguments = options(&["check", "-q", "-f", "qcow2", "-r", "all"]);
            arguments.push((&disk).into());
            QEMU_IMG_SNAPSHOT.succeed(&arguments).await?;
        }
        File::create(&mark).and_then(|file| file.sync_all()).map_err(io_error("write", &mark))?;
        sync(&self.folder(vps))?;
        let mut arguments = options(&["snapshot", "-q", option]);
        arguments.push(name.to_string().into());
        arguments.push((&disk).into());
        QEMU_IMG_SNAPSHOT.succeed(&arguments).await?;
        sync(&disk)?;
        fs::remove_file(&mark).map_err(io_error("remove", &mark))
    }

    /// Makes a VPS's disk from another's, over the same image. The other one's guest may run.
    pub(super) async fn copy_disk(&self, spec: &VpsSpec, source: CloneSource) -> Result<(), DiskError> {
        let name = match source.snapshot {
            Some(id) => SnapshotName::Kept(id),
            None => SnapshotName::ForClone(spec.id),
        };
        let missing = || DiskError::Source { vps: source.vps, name };
        let found = self.look(source.vps)?.ok_or_else(missing)?;
        let snapshot = found.snapshots.iter().find(|snapshot| snapshot.name == name.to_string());
        let size = snapshot.ok_or_else(missing)?.virtual_size.unwrap_or(found.virtual_size);
        if size > spec.disk {
            return Err(DiskError::Small { disk: spec.disk, image: size });
        }
        let (from, to) = (self.disk(source.vps), self.disk(spec.id));
        let mut arguments = options(&["info", "-U", "--output=json", "-f", "qcow2"]);
        arguments.push((&from).into());
        let answer = QEMU_IMG.succeed(&arguments).await?;
        let info: ImageInfo = serde_json::from_slice(&answer)
            .map_err(|source| DiskError::Answer { path: from.clone(), source })?;
        let mut arguments = options(&["convert", "-U", "-q", "-f", "qcow2", "-O", "qcow2", "-l"]);
        arguments.push(format!("snapshot.name={name}").into());
        if let Some(backing) = info.backing_filename {
            let format = info.backing_filename_format.unwrap_or_else(|| "qcow2".to_owned());
            arguments.extend(["-B".into(), backing.into(), "-F".into(), format.into()]);
        }
        // Whatever a crash left under this name was never a disk; qemu-img begins it anew.
        let fresh = to.with_added_extension("new");
        arguments.extend([from.into(), (&fresh).into()]);
        QEMU_IMG_COPY.succeed(&arguments).await?;
        if size < spec.disk {
            grow(&fresh, spec).await?;
        }
        publish(&fresh, &to)
    }
}

async fn grow(disk: &std::path::Path, spec: &VpsSpec) -> Result<(), DiskError> {
    let mut arguments = options(&["resize", "-q", "-f", "qcow2"]);
    arguments.push(disk.into());
    arguments.push(spec.disk.0.to_string().into());
    QEMU_IMG.succeed(&arguments).await.map(drop).map_err(DiskError::from)
}

#[cfg(test)]
mod tests {
    use chom_protocol::{Bytes, SnapshotId};
    use uuid::Uuid;

    use super::super::tests::setting;
    use super::*;
    use crate::driver::seed::tests::spec;

    const NAME: SnapshotName = SnapshotName::Kept(SnapshotId::new(Uuid::from_u128(7)));

    /// Whether the first 64 KiB of a disk are full of a byte; writes them first where told to.
    async fn io(disk: &std::path::Path, what: &str, byte: u8) -> bool {
        let io = Program { name: "qemu-io", ..QEMU_IMG };
        let mut arguments = options(&["-f", "qcow2", "-c"]);
        arguments.push(format!("{what} -P {byte} 0 64k").into());
        arguments.push(disk.into());
        let said = io.succeed(&arguments).await.unwrap();
        !String::from_utf8_lossy(&said).contains("verification failed")
    }

    #[tokio::test]
    async fn a_restore_brings_the_content_back_and_never_shrinks_a_disk_that_grew() {
        let Some((_folder, disks, image)) = setting().await else { return };
        let mut spec = spec();
        let disk = disks.prepare(&spec, &image, None, None).await.unwrap().disk;
        io(&disk, "write", 1).await;
        disks.take_snapshot(spec.id, NAME).await.unwrap();
        let was = spec.disk;
        spec.disk = Bytes(was.0 * 2);
        grow(&disk, &spec).await.unwrap();
        io(&disk, "write", 2).await;
        assert_eq!(disks.snapshots(spec.id).unwrap().kept[0].disk, Some(was));
        // Killed half-way: the next one checks the file first, and twice is as good as once.
        std::fs::write(disks.folder(spec.id).join(CHANGING), b"").unwrap();
        for _ in 0..2 {
            disks.restore_snapshot(&spec, NAME).await.unwrap();
        }
        assert!(io(&disk, "read", 1).await);
        assert_eq!(disks.look(spec.id).unwrap().unwrap().virtual_size, spec.disk);
        disks.delete_snapshot(spec.id, NAME).await.unwrap();
        assert_eq!(disks.snapshots(spec.id).unwrap(), Snapshots::default());
        assert!(!exists(&disks.folder(spec.id).join(CHANGING)).unwrap());
        let mut check = options(&["check", "-q", "-f", "qcow2"]);
        check.push((&disk).into());
        QEMU_IMG.succeed(&check).await.unwrap();
    }

    #[tokio::test]
    async fn a_copy_is_of_the_snapshot_stands_on_the_same_image_and_needs_a_disk_as_large() {
        let Some((_folder, disks, image)) = setting().await else { return };
        let from = spec();
        let disk = disks.prepare(&from, &image, None, None).await.unwrap().disk;
        io(&disk, "write", 1).await;
        disks.take_snapshot(from.id, NAME).await.unwrap();
        io(&disk, "write", 2).await;
        let SnapshotName::Kept(snapshot) = NAME else { unreachable!() };
        let source = Some(CloneSource { vps: from.id, snapshot: Some(snapshot) });
        let copy = VpsSpec {
            id: VpsId::new(Uuid::from_u128(8)),
            source,
            disk: Bytes(from.disk.0 + 4096),
            ..from.clone()
        };
        let small = VpsSpec { disk: Bytes(from.disk.0 - 4096), ..copy.clone() };
        assert!(matches!(disks.prepare(&small, &image, None, None).await, Err(DiskError::Small { .. })));
        let files = disks.prepare(&copy, &image, None, None).await.unwrap();
        assert!(io(&files.disk, "read", 1).await && io(&disk, "read", 2).await);
        let made = disks.look(copy.id).unwrap().unwrap();
        assert_eq!((made.virtual_size, made.snapshots), (copy.disk, Vec::new()));
        let mut info = options(&["info", "--output=json"]);
        info.push((&files.disk).into());
        let info: ImageInfo = serde_json::from_slice(&QEMU_IMG.succeed(&info).await.unwrap()).unwrap();
        assert_eq!(info.backing_filename.as_deref(), image.to_str());
        let gone = CloneSource { vps: from.id, snapshot: None };
        let lost = VpsSpec { id: VpsId::new(Uuid::from_u128(9)), source: Some(gone), ..copy };
        assert!(matches!(disks.prepare(&lost, &image, None, None).await, Err(DiskError::Source { .. })));
    }
}
