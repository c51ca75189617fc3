//! What the host does, measured: reads /proc and /sys, hands the text to pure parsers, gathers the points. Writes
//! nothing, runs nothing, asks no engine. A part that fails adds nothing and is reported; it never stops the others.

mod cpu;
mod disk;
mod inventory;
mod memory;
mod network;
mod pressure;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use chom_protocol::host::Inventory;
use chom_protocol::sample::{Metric, Point, Sample};
use chom_protocol::{BootId, UnixMillis};

/// Largest file that is read; /proc/diskstats of a thousand disks has 100 KiB.
const FILE_BYTES_MAX: usize = 1024 * 1024;
/// A first read of this size covers what these files have on almost every host.
const READ_BYTES: usize = 8 * 1024;
/// Devices, mount points or interfaces that one part reports: every label is a series that others must keep.
const LABELS_MAX: usize = 64;
/// Points of one sample, the VPSs' included: within a frame with room to spare (about 40 bytes each).
const POINTS_MAX: usize = 8 * 1024;
/// A longer label (a mount point) is left out: cut off it might name another.
const LABEL_BYTES_MAX: usize = 256;

/// Why a part of the collector has nothing to say.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    /// The system would not say.
    #[error("cannot read `{}`: {cause}", path.display())]
    Read { path: PathBuf, cause: io::Error },
    /// It said what we do not understand.
    #[error("cannot understand `{}`: {what}", path.display())]
    Parse { path: PathBuf, what: String },
}

/// Reads the host's figures, over and over, from files that it keeps open.
#[derive(Debug)]
pub struct Collector {
    cpu: cpu::Cpu,
    memory: memory::Memory,
    disk: disk::Disks,
    network: network::Network,
    pressure: pressure::Pressure,
    vps_folder: PathBuf,
    problems: Vec<String>,
}

impl Collector {
    /// A collector of this host. `vps_folder` holds the VPSs' disks; the inventory tells its file system's size.
    /// Nothing is read yet.
    #[must_use]
    pub fn new(vps_folder: PathBuf) -> Self {
        Self {
            cpu: cpu::Cpu::new(),
            memory: memory::Memory::new(),
            disk: disk::Disks::new(),
            network: network::Network::new(),
            pressure: pressure::Pressure::new(),
            vps_folder,
            problems: Vec::new(),
        }
    }

    /// Measures now; `vps_points` are what the drivers measured. A few files are read: about a tenth of a millisecond
    /// of processor time, and a file system that hangs may hold it up, so call it where that harms nobody.
    pub fn sample(&mut self, boot: BootId, sequence: u64, now: UnixMillis, vps_points: Vec<Point>) -> Sample {
        let mut points = Vec::new();
        self.problems.clear();
        let results = [
            self.cpu.collect(&mut points),
            self.memory.collect(&mut points),
            self.disk.collect_space(&mut points),
            self.disk.collect_activity(&mut points),
            self.network.collect(&mut points),
            self.pressure.collect(&mut points),
        ];
        self.problems.extend(results.into_iter().filter_map(Result::err).map(|error| error.to_string()));
        points.extend(vps_points);
        if points.len() > POINTS_MAX {
            self.problems.push(format!("{} figures were measured; only {POINTS_MAX} are sent", points.len()));
            points.truncate(POINTS_MAX);
        }
        Sample { boot, sequence, at: now, points }
    }

    /// What kept parts of the last sample from being measured, in words for an admin.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// What the host is and has. Costs a few milliseconds; ask when it may have changed, not with each sample.
    #[must_use]
    pub fn inventory(&self, agent_version: &str) -> Inventory {
        inventory::inventory(agent_version, &self.vps_folder)
    }
}

/// This boot of the host (random(4)).
///
/// # Errors
/// When /proc is not as Linux has it.
pub fn boot() -> io::Result<BootId> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    text.trim().parse().map_err(io::Error::other)
}

/// A file of the kernel's, opened at first use and then read again and again from its beginning.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl Source {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None, buffer: Vec::new() }
    }

    /// Its text now.
    pub(crate) fn read(&mut self) -> Result<&str, CollectError> {
        match self.fill() {
            Ok(length) => std::str::from_utf8(self.buffer.get(..length).unwrap_or_default())
                .map_err(|error| CollectError::Parse { path: self.path.clone(), what: error.to_string() }),
            Err(cause) => {
                // Opened afresh next time: the kernel may have put another file there.
                self.file = None;
                Err(CollectError::Read { path: self.path.clone(), cause })
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            empty @ None => empty.insert(File::open(&self.path)?),
        };
        self.buffer.resize(self.buffer.len().max(READ_BYTES), 0);
        let mut length = 0;
        loop {
            match file.read_at(self.buffer.get_mut(length..).unwrap_or_default(), length as u64) {
                Ok(0) => return Ok(length),
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if length == self.buffer.len() {
                if length >= FILE_BYTES_MAX {
                    return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
                }
                self.buffer.resize(length * 2, 0);
            }
        }
    }

    /// Its text, parsed; an error names the file.
    pub(crate) fn parse<T>(
        &mut self,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, CollectError> {
        let parsed = self.read().map(parse)?;
        parsed.map_err(|what| CollectError::Parse { path: self.path.clone(), what })
    }
}

/// A point of the host itself.
pub(crate) fn point(metric: Metric, label: &str, value: f64) -> Point {
    Point { metric, vps: None, label: label.to_owned(), value }
}

/// Whether a label may be sent.
pub(crate) fn is_label(label: &str) -> bool {
    !label.is_empty() && label.len() <= LABEL_BYTES_MAX
}

/// A counter as a figure; beyond 2^53 it loses digits that no rate shows.
pub(crate) fn float(value: u64) -> f64 {
    value as f64
}

/// A number of a file of the kernel's.
pub(crate) fn number(text: Option<&str>, what: &str) -> Result<u64, String> {
    let text = text.ok_or_else(|| format!("{what} is missing"))?;
    text.parse().map_err(|_| format!("{what} is `{text}`, which is no number"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn sample(collector: &mut Collector) -> Sample {
        collector.sample(boot().unwrap(), 1, UnixMillis(1000), Vec::new())
    }

    #[test]
    fn this_host_is_measured_whole_and_again() {
        let mut collector = Collector::new("/".into());
        for _ in 0..2 {
            let sample = sample(&mut collector);
            assert_eq!(collector.problems(), [""; 0]);
            for metric in [
                Metric::CpuSeconds,
                Metric::Load1,
                Metric::MemoryAvailable,
                Metric::SwapTotal,
                Metric::DiskAvailable,
                Metric::Uptime,
            ] {
                assert!(sample.points.iter().any(|point| point.metric == metric), "{metric:?}");
            }
        }
    }

    #[test]
    fn figures_move_on_although_the_files_stay_open() {
        let mut collector = Collector::new("/".into());
        let uptime = |sample: Sample| {
            sample.points.iter().find(|point| point.metric == Metric::Uptime).map(|point| point.value)
        };
        let first = uptime(sample(&mut collector)).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while uptime(sample(&mut collector)).unwrap() <= first {
            assert!(std::time::Instant::now() < deadline);
        }
    }

    #[test]
    fn a_part_that_fails_is_reported_and_the_others_go_on() {
        let mut collector = Collector::new("/".into());
        collector.memory = memory::Memory::at(Path::new("/nonexistent"));
        let sample = sample(&mut collector);
        assert!(sample.points.iter().any(|point| point.metric == Metric::CpuSeconds));
        assert!(!sample.points.iter().any(|point| point.metric == Metric::MemoryTotal));
        assert_eq!(collector.problems().len(), 1);
        assert!(collector.problems()[0].contains("/nonexistent/meminfo"), "{:?}", collector.problems());
    }

    #[test]
    fn a_file_larger_than_the_buffer_is_read_whole_and_an_endless_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let text = "x".repeat(READ_BYTES * 3 + 1);
        std::fs::write(&path, &text).unwrap();
        assert_eq!(Source::new(&path).read().unwrap(), text);
        assert!(Source::new("/dev/zero").read().is_err());
    }

    #[test]
    fn the_inventory_knows_this_host() {
        let inventory = Collector::new("/".into()).inventory("1.2.3");
        assert!(inventory.cores > 0 && inventory.memory.0 > 0 && inventory.disk >= inventory.disk_free);
        assert!(!inventory.kernel.is_empty() && !inventory.hostname.is_empty() && !inventory.os.is_empty());
    }

    #[test]
    fn too_many_points_are_cut_and_said_so() {
        let mut collector = Collector::new("/".into());
        let many = vec![point(Metric::VpsMemory, "", 1.0); POINTS_MAX];
        let sample = collector.sample(boot().unwrap(), 1, UnixMillis(0), many);
        assert_eq!(sample.points.len(), POINTS_MAX);
        assert!(!collector.problems().is_empty());
    }
}
