//! Fingerprints: the SHA-256 of a certificate or public key, as people copy and compare them. No I/O.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};

/// Length of a SHA-256 (FIPS 180-4).
pub const FINGERPRINT_BYTES: usize = 32;

/// The SHA-256 of something public: a certificate's DER, or a key's SubjectPublicKeyInfo.
///
/// Reads and prints as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; FINGERPRINT_BYTES]);

/// Why a text is no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FingerprintError {
    /// Too short or too long: usually a copy that was cut.
    #[error(
        "the fingerprint has {characters} characters, expected {} hexadecimal digits (SHA-256); copy it whole",
        FINGERPRINT_BYTES * 2
    )]
    Length {
        /// How many there were.
        characters: usize,
    },
    /// Not hexadecimal.
    #[error(
        "the fingerprint has a character that is no hexadecimal digit at position {position}; copy it again"
    )]
    Digit {
        /// Where, counted from 1.
        position: usize,
    },
}

impl Fingerprint {
    /// The fingerprint of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        let mut fingerprint = [0; FINGERPRINT_BYTES];
        fingerprint.copy_from_slice(digest.as_ref());
        Self(fingerprint)
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; FINGERPRINT_BYTES] {
        &self.0
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let characters = text.chars().count();
        if characters != FINGERPRINT_BYTES * 2 {
            return Err(FingerprintError::Length { characters });
        }
        if let Some(index) = text.chars().position(|c| !c.is_ascii_hexdigit()) {
            return Err(FingerprintError::Digit { position: index + 1 });
        }
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(FingerprintError::Length { characters })
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;

    fn try_from(text: String) -> Result<Self, FingerprintError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Fingerprint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_prints_as_lower_case_hex_and_reads_back_in_either_case() {
        let fingerprint = Fingerprint::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(fingerprint.to_string(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(fingerprint));
    }

    #[test]
    fn a_cut_or_mistyped_fingerprint_says_what_is_wrong() {
        let good = Fingerprint::of(b"abc").to_string();
        assert_eq!(good[..63].parse::<Fingerprint>(), Err(FingerprintError::Length { characters: 63 }));
        assert_eq!("".parse::<Fingerprint>(), Err(FingerprintError::Length { characters: 0 }));
        let typo = good.replacen('8', "x", 1);
        assert_eq!(typo.parse::<Fingerprint>(), Err(FingerprintError::Digit { position: 4 }));
        let wide = "é".repeat(64);
        assert_eq!(wide.parse::<Fingerprint>(), Err(FingerprintError::Digit { position: 1 }));
    }
}
