//! Space and inodes of the host's own file systems, and the activity of its physical disks.
//!
//! File systems of a network are left out: asking one whose server is gone blocks for minutes.

use std::collections::BTreeMap;
use std::path::Path;

use chom_protocol::sample::{Metric, Point};
use nix::sys::statvfs::{Statvfs, statvfs};

use super::{CollectError, LABELS_MAX, Source, float, is_label, number, point};

/// File systems that hold data of this host on storage of its own; others are the kernel's, in memory, read-only by
/// nature or elsewhere.
const REAL: [&str; 12] =
    ["ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "vfat", "exfat"];
/// Unit of /proc/diskstats, whatever the disk's own is.
const SECTOR_BYTES: u64 = 512;
/// Names whose nature is remembered; far more than a host has disks.
const KNOWN_MAX: usize = 4096;

#[derive(Debug)]
pub(crate) struct Disks {
    mounts: Source,
    stats: Source,
    /// Whether a device of that name is a physical disk: looking is dearer than remembering.
    known: BTreeMap<String, bool>,
}

/// Bytes of a file system that can be used at all, and those that still can: what is reserved for root counts as neither,
/// as df(1) reckons, so that the share in use reaches one when writes begin to fail.
pub(super) fn usable(found: &Statvfs) -> (u64, u64) {
    let used = found.blocks().saturating_sub(found.blocks_free());
    let available = found.blocks_available();
    let unit = found.fragment_size();
    (used.saturating_add(available).saturating_mul(unit), available.saturating_mul(unit))
}

impl Disks {
    pub(crate) fn new() -> Self {
        Self {
            mounts: Source::new("/proc/self/mountinfo"),
            stats: Source::new("/proc/diskstats"),
            known: BTreeMap::new(),
        }
    }

    pub(crate) fn collect_space(&mut self, points: &mut Vec<Point>) -> Result<(), CollectError> {
        let mounts = self.mounts.parse(|text| Ok(parse_mounts(text)))?;
        let mut failed = None;
        for mount in &mounts {
            match statvfs(mount.as_str()) {
                Ok(found) => {
                    let (size, available) = usable(&found);
                    if size == 0 {
                        continue;
                    }
                    points.push(point(Metric::DiskTotal, mount, float(size)));
                    points.push(point(Metric::DiskAvailable, mount, float(available)));
                    // btrfs and others have no fixed number of inodes.
                    if found.files() > 0 {
                        points.push(point(Metric::InodesTotal, mount, float(found.files())));
                        points.push(point(Metric::InodesFree, mount, float(found.files_free())));
                    }
                }
                // Unmounted since, or covered by another mount: not there to be measured.
                Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EACCES) => {}
                Err(errno) => failed = Some((mount.clone(), errno)),
            }
        }
        match failed {
            Some((mount, errno)) => Err(CollectError::Read { path: mount.into(), cause: errno.into() }),
            None => Ok(()),
        }
    }

    pub(crate) fn collect_activity(&mut self, points: &mut Vec<Point>) -> Result<(), CollectError> {
        let all = self.stats.parse(parse_stats)?;
        let mut left = LABELS_MAX;
        for activity in all {
            if left == 0 {
                break;
            }
            if !self.is_physical(&activity.device) {
                continue;
            }
            left -= 1;
            let device = activity.device.as_str();
            points.push(point(Metric::DiskReadBytes, device, float(activity.read_bytes)));
            points.push(point(Metric::DiskWrittenBytes, device, float(activity.written_bytes)));
            points.push(point(Metric::DiskBusySeconds, device, float(activity.busy_milliseconds) / 1000.0));
        }
        Ok(())
    }

    /// A physical disk has hardware behind it in /sys; a partition has no folder of its own there.
    fn is_physical(&mut self, device: &str) -> bool {
        if let Some(&known) = self.known.get(device) {
            return known;
        }
        // The kernel writes a `!` where a name has a slash (cciss).
        let folder = Path::new("/sys/block").join(device.replace('/', "!"));
        let optical_or_floppy = device.starts_with("sr") || device.starts_with("fd");
        let physical = !optical_or_floppy && folder.join("device").exists();
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(device.to_owned(), physical);
        physical
    }
}

/// Mount points worth watching, one for each device: of several, the shortest. The root counts whatever it is on.
fn parse_mounts(text: &str) -> Vec<String> {
    let mut by_device: BTreeMap<&str, String> = BTreeMap::new();
    for line in text.lines() {
        // proc_pid_mountinfo(5): id parent major:minor root mount-point options [fields…] - type source options
        let mut words = line.split(' ');
        let (Some(device), Some(mount)) = (words.nth(2), words.nth(1)) else { continue };
        let Some((_, after)) = line.split_once(" - ") else { continue };
        let kind = after.split(' ').next().unwrap_or_default();
        if !REAL.contains(&kind) && mount != "/" {
            continue;
        }
        let mount = unescape(mount);
        if !is_label(&mount) {
            continue;
        }
        match by_device.get(device) {
            Some(known) if (known.len(), known) <= (mount.len(), &mount) => {}
            _ => {
                by_device.insert(device, mount);
            }
        }
    }
    let mut mounts: Vec<String> = by_device.into_values().collect();
    mounts.sort();
    mounts.dedup();
    mounts.truncate(LABELS_MAX);
    mounts
}

/// Blanks and backslashes come as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (code, c) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(code, c);
    }
    out
}

/// What one block device did.
#[derive(Debug, PartialEq, Eq)]
struct Activity {
    device: String,
    read_bytes: u64,
    written_bytes: u64,
    busy_milliseconds: u64,
}

fn parse_stats(text: &str) -> Result<Vec<Activity>, String> {
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let device = *words.get(2).ok_or("a line has no device")?;
            let field = |at: usize, what| number(words.get(at).copied(), what);
            Ok(Activity {
                device: device.to_owned(),
                read_bytes: field(5, "sectors read")?.saturating_mul(SECTOR_BYTES),
                written_bytes: field(9, "sectors written")?.saturating_mul(SECTOR_BYTES),
                busy_milliseconds: field(12, "time busy")?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_file_systems_are_watched_and_each_once() {
        let text = "\
22 27 0:20 / /proc rw,nosuid shared:5 - proc proc rw
26 22 0:24 / /dev/shm rw - tmpfs tmpfs rw
27 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
28 27 253:0 /srv /mnt/bind rw - ext4 /dev/vda rw
29 27 253:16 / /var/lib/chom\\040data rw master:2 propagate_from:1 - xfs /dev/vdb rw
30 27 0:50 / /var/lib/docker/overlay2/1/merged rw - overlay overlay rw
31 27 0:60 / /mnt/nfs rw - nfs4 server:/x rw
32 27 7:1 / /snap/core ro - squashfs /dev/loop1 ro
";
        assert_eq!(parse_mounts(text), ["/", "/var/lib/chom data"]);
    }

    #[test]
    fn a_root_on_an_overlay_counts() {
        assert_eq!(parse_mounts("27 1 0:70 / / rw - overlay overlay rw,lowerdir=/a\n"), ["/"]);
    }

    #[test]
    fn mounts_are_bounded_and_nonsense_is_passed_over() {
        use std::fmt::Write as _;
        let mut text = "nonsense\n\n1 2\n".to_owned();
        for number in 0..LABELS_MAX + 10 {
            writeln!(text, "{number} 1 8:{number} / /m{number} rw - ext4 /dev/x rw").unwrap();
        }
        writeln!(text, "9 1 9:9 / /{} rw - ext4 /dev/x rw", "x".repeat(300)).unwrap();
        assert_eq!(parse_mounts(&text).len(), LABELS_MAX);
    }

    #[test]
    fn activity_is_told_in_bytes_and_milliseconds() {
        let text =
            " 253       0 vda 11 2 8 5 7 1 16 9 0 42 14 0 0 0 0 3 4\n   7  0 loop0 0 0 0 0 0 0 0 0 0 0 0\n";
        let got = parse_stats(text).unwrap();
        let vda = Activity {
            device: "vda".to_owned(),
            read_bytes: 4096,
            written_bytes: 8192,
            busy_milliseconds: 42,
        };
        assert_eq!((got.len(), &got[0]), (2, &vda));
        assert!(parse_stats("253 0\n").is_err() && parse_stats("253 0 vda 1 2 x 4 5 6 7 8 9 10\n").is_err());
    }

    #[test]
    fn loops_and_partitions_are_no_physical_disks() {
        let mut disks = Disks::new();
        for name in ["loop0", "ram0", "nonexistent1", "sr0"] {
            assert!(!disks.is_physical(name), "{name}");
        }
    }
}
