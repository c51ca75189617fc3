//! What a qcow2 file says of itself: its size, its internal snapshots and what it stands on (QEMU's
//! docs/interop/qcow2.rst). Read from the file, since every VPS is looked at in every pass and a program for each would cost far more. Writes nothing.
//!
//! QEMU writes a new table of snapshots before the header that points to it, so a running guest's file can be read too.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use chom_protocol::{Bytes, UnixMillis};

const MAGIC: &[u8; 4] = b"QFI\xfb";
/// Longest name of a backing file, as the format has it.
const BACKING_NAME_BYTES_MAX: usize = 1023;
/// Deepest chain of disks that is followed: libvirt takes 200, nobody makes ten.
const CHAIN_MAX: usize = 64;
/// The part of the header that is needed.
const HEADER_BYTES: usize = 72;
/// An entry of the table without its variable parts.
const ENTRY_BYTES: usize = 40;
/// Read of a table: an entry of CHOM's takes 128 bytes, so that this is far beyond any quota.
const TABLE_BYTES_MAX: usize = 256 * 1024;
/// A table that is replaced while it is read is read again; so often only in a file that is no disk of a guest.
const TRIES_MAX: u32 = 5;

/// What a qcow2 file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Qcow2 {
    /// Size that the guest sees.
    pub(super) virtual_size: Bytes,
    /// Its snapshots, oldest first.
    pub(super) snapshots: Vec<Snapshot>,
}

/// One internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) name: String,
    pub(super) taken_at: UnixMillis,
    /// Size that the guest saw then; version 2 files do not say.
    pub(super) virtual_size: Option<Bytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    virtual_size: u64,
    snapshots: u32,
    table_offset: u64,
}

/// Reads a file that a guest may be writing to.
pub(super) fn read(path: &Path) -> io::Result<Qcow2> {
    let file = File::open(path)?;
    for _ in 0..TRIES_MAX {
        let header = header(&file)?;
        let snapshots = match header.snapshots {
            0 => Some(Vec::new()),
            count => parse_table(&read_up_to(&file, header.table_offset, TABLE_BYTES_MAX)?, count),
        };
        if header == self::header(&file)? {
            let virtual_size = Bytes(header.virtual_size);
            return snapshots
                .map(|snapshots| Qcow2 { virtual_size, snapshots })
                .ok_or_else(|| damaged("its table of snapshots is damaged: see `qemu-img check`"));
        }
    }
    Err(damaged("its table of snapshots changes all the time"))
}

/// The name of what a disk stands on; none for what is no qcow2 file or stands alone.
///
/// # Errors
/// When it cannot be read, or is cut short.
pub(crate) fn backing_file(path: &Path) -> io::Result<Option<String>> {
    let file = File::open(path)?;
    let bytes = read_up_to(&file, 0, HEADER_BYTES)?;
    if !bytes.starts_with(MAGIC) {
        return Ok(None);
    }
    let (offset, length) =
        u64_at(&bytes, 8).zip(u32_at(&bytes, 16)).ok_or_else(|| damaged("its header is cut short"))?;
    let mut name = vec![0; (length as usize).min(BACKING_NAME_BYTES_MAX)];
    file.read_exact_at(&mut name, offset)?;
    Ok((!name.is_empty()).then(|| String::from_utf8_lossy(&name).into_owned()))
}

/// Every file that a disk stands on, itself first.
///
/// # Errors
/// When one of them cannot be read, or there is no end to them.
pub(crate) fn chain(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut chain = vec![path.to_owned()];
    while let Some(last) = chain.last().filter(|last| last.is_file()) {
        let Some(name) = backing_file(last)? else { return Ok(chain) };
        if chain.len() == CHAIN_MAX {
            return Err(damaged("it stands on more files than make sense"));
        }
        // A relative name is of the folder that the disk is in.
        let next = last.parent().unwrap_or(Path::new("/")).join(name);
        chain.push(next);
    }
    Ok(chain)
}

fn header(file: &File) -> io::Result<Header> {
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0)?;
    parse_header(&bytes).ok_or_else(|| damaged("it is no qcow2 file"))
}

fn read_up_to(file: &File, offset: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; bytes_max];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset.saturating_add(filled as u64))? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn damaged(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

fn parse_header(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
    if !bytes.starts_with(MAGIC) {
        return None;
    }
    Some(Header {
        virtual_size: u64_at(bytes, 24)?,
        snapshots: u32_at(bytes, 60)?,
        table_offset: u64_at(bytes, 64)?,
    })
}

fn parse_table(bytes: &[u8], count: u32) -> Option<Vec<Snapshot>> {
    let (mut snapshots, mut at) = (Vec::new(), 0);
    for _ in 0..count {
        let entry = bytes.get(at..)?;
        let (id_bytes, name_bytes) = (usize::from(u16_at(entry, 12)?), usize::from(u16_at(entry, 14)?));
        let (seconds, nanoseconds) = (u32_at(entry, 16)?, u32_at(entry, 20)?);
        let extra_bytes = usize::try_from(u32_at(entry, 36)?).ok()?;
        let extra = entry.get(ENTRY_BYTES..ENTRY_BYTES.checked_add(extra_bytes)?)?;
        let name_at = ENTRY_BYTES + extra_bytes + id_bytes;
        let name = entry.get(name_at..name_at + name_bytes)?;
        snapshots.push(Snapshot {
            name: String::from_utf8_lossy(name).into_owned(),
            taken_at: UnixMillis(u64::from(seconds) * 1000 + u64::from(nanoseconds / 1_000_000)),
            virtual_size: u64_at(extra, 8).map(Bytes),
        });
        at = at.checked_add((name_at + name_bytes).next_multiple_of(8))?;
    }
    Some(snapshots)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, extra: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; ENTRY_BYTES];
        bytes[13] = 1;
        bytes[15] = u8::try_from(name.len()).unwrap();
        bytes[16..20].copy_from_slice(&1_800_000_000_u32.to_be_bytes());
        bytes[20..24].copy_from_slice(&5_000_000_u32.to_be_bytes());
        bytes[39] = u8::try_from(extra.len()).unwrap();
        bytes.extend(extra);
        bytes.extend(b"1");
        bytes.extend(name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn a_table_is_read_entry_by_entry_and_a_cut_one_is_not() {
        let extra: Vec<u8> = [0_u64, 1 << 30, 0].iter().flat_map(|word| word.to_be_bytes()).collect();
        let table = [entry("chom-a", &extra), entry("by hand", &[])].concat();
        let taken_at = UnixMillis(1_800_000_000_005);
        let expected = [("chom-a", Some(Bytes(1 << 30))), ("by hand", None)];
        let expected =
            expected.map(|(name, virtual_size)| Snapshot { name: name.into(), taken_at, virtual_size });
        assert_eq!(parse_table(&table, 2).unwrap(), expected);
        assert_eq!(parse_table(&table, 3), None);
        for end in 0..table.len() - 8 {
            assert_eq!(parse_table(&table[..end], 2), None, "{end}");
        }
    }

    #[test]
    fn what_is_no_qcow2_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        for content in [&b""[..], b"QFI\xfb", &[0; 100]] {
            std::fs::write(&path, content).unwrap();
            assert!(read(&path).is_err());
            // What cannot be told is an error too: an image might go on the word of it.
            assert_eq!(backing_file(&path).ok(), (!content.starts_with(MAGIC)).then_some(None));
        }
    }
}
