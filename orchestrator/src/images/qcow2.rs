//! What must be known of a qcow2 file before hosts get it: how large a disk it makes, and that it stands alone. Pure.
//! (QEMU, docs/interop/qcow2.txt.)

/// As much of the file as is looked at.
pub(super) const HEADER_BYTES: usize = 80;
const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Incompatible feature: the data are in another file.
const EXTERNAL_DATA_FILE: u64 = 1 << 2;

/// Why a file is no image that can be given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Qcow2Error {
    #[error("it does not begin as a qcow2 file; set `format = \"raw\"` if it is a raw disk")]
    Magic,
    #[error("it is of qcow2 version {0}; convert it with `qemu-img convert -O qcow2`")]
    Version(u32),
    #[error("it is cut off within its header; copy it again")]
    Short,
    #[error("it has a backing file, which hosts do not have; flatten it with `qemu-img convert -O qcow2`")]
    Backing,
    #[error(
        "its data are in another file, which hosts do not have; convert it with `qemu-img convert -O qcow2`"
    )]
    DataFile,
}

/// Size of the disk that the image makes, in bytes.
pub(super) fn virtual_size(header: &[u8]) -> Result<u64, Qcow2Error> {
    if header.first_chunk() != Some(&MAGIC) {
        return Err(Qcow2Error::Magic);
    }
    let version = number::<4>(header, 4)?;
    if version != 2 && version != 3 {
        return Err(Qcow2Error::Version(u32::try_from(version).unwrap_or(u32::MAX)));
    }
    if number::<8>(header, 8)? != 0 {
        return Err(Qcow2Error::Backing);
    }
    if version == 3 && number::<8>(header, 72)? & EXTERNAL_DATA_FILE != 0 {
        return Err(Qcow2Error::DataFile);
    }
    number::<8>(header, 24)
}

fn number<const BYTES: usize>(header: &[u8], at: usize) -> Result<u64, Qcow2Error> {
    let bytes = header.get(at..at + BYTES).ok_or(Qcow2Error::Short)?;
    Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
pub(super) fn header(version: u32, backing: u64, features: u64, size: u64) -> Vec<u8> {
    let mut header = vec![0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4..8].copy_from_slice(&version.to_be_bytes());
    header[8..16].copy_from_slice(&backing.to_be_bytes());
    header[24..32].copy_from_slice(&size.to_be_bytes());
    header[72..80].copy_from_slice(&features.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_stands_alone_has_a_size() {
        assert_eq!(virtual_size(&header(3, 0, 0, 1 << 30)), Ok(1 << 30));
        assert_eq!(virtual_size(&header(2, 0, 0, 7)), Ok(7));
    }

    #[test]
    fn an_image_that_needs_other_files_is_refused() {
        assert_eq!(virtual_size(&header(3, 104, 0, 1)), Err(Qcow2Error::Backing));
        assert_eq!(virtual_size(&header(3, 0, 4, 1)), Err(Qcow2Error::DataFile));
    }

    #[test]
    fn what_is_no_qcow2_is_refused_without_panic() {
        assert_eq!(virtual_size(&header(4, 0, 0, 1)), Err(Qcow2Error::Version(4)));
        assert_eq!(virtual_size(b"\x7fELF"), Err(Qcow2Error::Magic));
        let whole = header(3, 0, 0, 1);
        for length in 4..HEADER_BYTES {
            assert_eq!(virtual_size(&whole[..length]), Err(Qcow2Error::Short), "{length}");
        }
        assert_eq!(virtual_size(&[]), Err(Qcow2Error::Magic));
    }
}
