//! Durable replacement of a file, and files that notice their own damage. The only code of the agent that renames.
//!
//! What cannot be read is never taken for absent: `read_sealed` tells the two apart, and its callers stop.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chom_protocol::vps::Sha256;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest state file that is read; a ledger of 10,000 VPSs has about 10 MiB.
const SEALED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// The system would not read it.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has nothing in it, or too much.
    #[error("`{}` has {bytes} bytes, which the agent never writes; restore it from a backup, or move it away and start again: VPSs are not touched", path.display())]
    Size {
        /// Which.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Its content is not what was written.
    #[error("`{}` is damaged (its checksum differs); restore it from a backup, or move it away and start again: VPSs are not touched", path.display())]
    Checksum {
        /// Which.
        path: PathBuf,
    },
    /// Another release wrote it.
    #[error("`{}` has format `{found}`, this release reads `{expected}`; install the release that wrote it", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// The content makes no sense to us.
    #[error("`{}` cannot be understood; install the release that wrote it", path.display())]
    Value {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Writes, syncs, renames and syncs the folder: afterwards the file is the old one or the new one, whatever happens.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_added_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    rename(&fresh, path)
}

/// Puts a finished and synced file in its place, durably.
#[expect(clippy::disallowed_methods, reason = "the one function of the agent that replaces files")]
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    match to.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Writes a value under a first line of `format` and checksum.
pub(crate) fn write_sealed<T: Serialize>(path: &Path, format: &str, value: &T) -> io::Result<()> {
    let body = serde_json::to_vec(value).map_err(io::Error::other)?;
    let mut bytes = format!("{format} {}\n", Sha256::of(&body)).into_bytes();
    bytes.extend_from_slice(&body);
    bytes.push(b'\n');
    replace(path, &bytes)
}

/// Reads what [`write_sealed`] wrote; none only if there is no such file.
pub(crate) fn read_sealed<T: DeserializeOwned>(path: &Path, format: &str) -> Result<Option<T>, SealedError> {
    let read = |source| SealedError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read(error)),
    };
    let mut bytes = Vec::new();
    let size = file.take(SEALED_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(read)? as u64;
    if size == 0 || size > SEALED_BYTES_MAX {
        return Err(SealedError::Size { path: path.to_owned(), bytes: size });
    }
    let broken = || SealedError::Checksum { path: path.to_owned() };
    let line_end = bytes.iter().position(|&byte| byte == b'\n').ok_or_else(broken)?;
    let (line, rest) = bytes.split_at(line_end);
    let body = rest.get(1..).and_then(|rest| rest.strip_suffix(b"\n")).ok_or_else(broken)?;
    let line = std::str::from_utf8(line).map_err(|_| broken())?;
    let (found, checksum) = line.rsplit_once(' ').ok_or_else(broken)?;
    if checksum != Sha256::of(body).to_string() {
        return Err(broken());
    }
    if found != format {
        let (found, expected) = (found.to_owned(), format.to_owned());
        return Err(SealedError::Format { path: path.to_owned(), found, expected });
    }
    serde_json::from_slice(body)
        .map(Some)
        .map_err(|source| SealedError::Value { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_state_file_is_never_taken_for_absent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        assert!(read_sealed::<u64>(&path, "test 1").unwrap().is_none());
        write_sealed(&path, "test 1", &7_u64).unwrap();
        assert_eq!(read_sealed::<u64>(&path, "test 1").unwrap(), Some(7));
        let good = fs::read(&path).unwrap();
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            assert!(read_sealed::<u64>(&path, "test 1").is_err(), "byte {index}");
        }
        for cut in 0..good.len() {
            fs::write(&path, &good[..cut]).unwrap();
            assert!(read_sealed::<u64>(&path, "test 1").is_err(), "cut at {cut}");
        }
        fs::write(&path, &good).unwrap();
        let error = read_sealed::<u64>(&path, "test 2").unwrap_err();
        assert!(error.to_string().contains("install the release"), "{error}");
    }
}
