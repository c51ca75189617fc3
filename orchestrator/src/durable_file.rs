//! Replacing a file so that after a crash or power cut either the old or the new one stands there, whole: the one place of
//! this crate that renames.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file being written beside its final place. Gone again when dropped before [`DurableFile::publish`].
#[derive(Debug)]
pub(crate) struct DurableFile {
    file: File,
    path: PathBuf,
    written: PathBuf,
    published: bool,
}

impl DurableFile {
    /// Begins a file that only its owner may read.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(".new");
        let written = path.with_file_name(name);
        // What a crash left of an earlier attempt is cut to nothing and written anew.
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&written)?;
        Ok(Self { file, path: path.to_owned(), written, published: false })
    }

    /// Puts the file in its place; when this returns, it survives a power cut.
    ///
    /// # Errors
    /// When the disk fails or is full; the old file then still stands.
    pub(crate) fn publish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        replace(&self.written, &self.path)?;
        self.published = true;
        Ok(())
    }
}

impl Write for DurableFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for DurableFile {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: the next attempt overwrites what is left.
            let _ = std::fs::remove_file(&self.written);
        }
    }
}

/// Writes a whole file that only its owner may read, durably.
///
/// # Errors
/// When the disk fails or is full; the old file then still stands.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = DurableFile::create(path)?;
    file.write_all(content)?;
    file.publish()
}

/// Moves a file over a file, or a folder over an empty one, and makes that durable. What is moved must be synced already.
///
/// # Errors
/// As the system says.
#[expect(clippy::disallowed_methods, reason = "this is the one function of the crate that renames durably")]
pub(crate) fn replace(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    sync_folder(parent(to))
}

/// Makes entries of a folder (new, renamed, removed) durable.
///
/// # Errors
/// As the system says.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The folder that a path stands in; `.` for a bare name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "old").unwrap();
        let mut file = DurableFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        let mut file = DurableFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        file.publish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
