//! Secrets at rest: sealed under a master key that is never in the store. Opens and closes; stores nothing.
//!
//! AES-256-GCM with a random nonce; the key of the row is authenticated with the content, so that a sealed secret cannot be
//! moved to another row.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};
use serde::{Deserialize, Serialize};

use super::key::Key;
use crate::durable_file;

/// The name of the systemd credential (`LoadCredential=master-key:…`).
pub const CREDENTIAL: &str = "master-key";

const MASTER_KEY_BYTES: usize = 32;

/// Enough to tell keys apart in a message, too little to help anybody.
const FINGERPRINT_BYTES: usize = 4;

const VERSION: &str = "v1";

/// Why a master key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The file cannot be read.
    #[error("cannot read the master key `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others may read the file.
    #[error("the master key `{}` can be read by others (mode {mode:o}): chmod 600 it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file is no key.
    #[error(
        "the master key `{}` must be 64 hexadecimal digits or exactly 32 bytes; it has {bytes} bytes that are neither",
        path.display()
    )]
    Form {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The file cannot be written.
    #[error("cannot write the master key `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A new key would replace one.
    #[error("there is a master key in `{}` already; without it no sealed secret opens, so it is not replaced", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// Why a secret cannot be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It was sealed under another key.
    #[error(
        "the secret of `{key}` was sealed under master key {sealed_under}, the loaded one is {loaded}: \
         load the master key that belongs to this store (its offline copy)"
    )]
    OtherKey {
        /// The row.
        key: Key,
        /// The fingerprint of the key it was sealed under.
        sealed_under: String,
        /// The fingerprint of the loaded key.
        loaded: String,
    },
    /// It was changed, or moved from another row.
    #[error("the secret of `{key}` was changed after it was sealed, or belongs to another row: set it anew")]
    Changed {
        /// The row.
        key: Key,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// Larger than the cipher takes.
    #[error("the secret of `{key}` is too large to seal")]
    Large {
        /// The row.
        key: Key,
    },
}

/// The key that all secrets of a store are sealed under. Never printed, never stored.
pub struct MasterKey {
    sealing: LessSafeKey,
    deriving: hmac::Key,
    fingerprint: String,
}

impl MasterKey {
    /// The key that systemd gives the service, in `$CREDENTIALS_DIRECTORY` (passed in by the caller).
    ///
    /// # Errors
    /// When there is none or it is no key.
    pub fn from_credentials(folder: &Path) -> Result<Self, MasterKeyError> {
        // systemd lets nobody else see the folder, and may use an ACL, which looks like an open mode.
        Self::parse(&folder.join(CREDENTIAL), None)
    }

    /// The key in a file that only its owner may read.
    ///
    /// # Errors
    /// When it cannot be read, others may read it, or it is no key.
    pub fn from_file(path: &Path) -> Result<Self, MasterKeyError> {
        Self::parse(path, Some(0o077))
    }

    fn parse(path: &Path, forbidden_mode: Option<u32>) -> Result<Self, MasterKeyError> {
        let unreadable = |source| MasterKeyError::Read { path: path.to_owned(), source };
        let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & forbidden_mode.unwrap_or(0) != 0 {
            return Err(MasterKeyError::Open { path: path.to_owned(), mode });
        }
        let content = std::fs::read(path).map_err(unreadable)?;
        let wrong = || MasterKeyError::Form { path: path.to_owned(), bytes: content.len() };
        let bytes = match <[u8; MASTER_KEY_BYTES]>::try_from(content.as_slice()) {
            Ok(raw) => raw,
            Err(_) => {
                let text = HEXLOWER_PERMISSIVE.decode(content.trim_ascii()).map_err(|_| wrong())?;
                text.try_into().map_err(|_| wrong())?
            }
        };
        Self::from_bytes(&bytes).ok_or_else(wrong)
    }

    /// Makes a new key and writes it, as hexadecimal digits, into a new file (0600).
    ///
    /// # Errors
    /// When a file stands there already or the disk fails.
    pub fn create(path: &Path) -> Result<Self, MasterKeyError> {
        if path.exists() {
            return Err(MasterKeyError::Exists { path: path.to_owned() });
        }
        let bytes = random::<MASTER_KEY_BYTES>().ok_or(MasterKeyError::Random)?;
        let text = format!("{}\n", HEXLOWER.encode(&bytes));
        durable_file::write(path, text.as_bytes())
            .map_err(|source| MasterKeyError::Write { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes).ok_or(MasterKeyError::Random)
    }

    /// None never happens with this length; the library's type allows it.
    fn from_bytes(bytes: &[u8; MASTER_KEY_BYTES]) -> Option<Self> {
        let sealing = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).ok()?);
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"chom master key fingerprint\0");
        context.update(bytes);
        let fingerprint = HEXLOWER.encode(&context.finish().as_ref()[..FINGERPRINT_BYTES]);
        let deriving = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        Some(Self { sealing, deriving, fingerprint })
    }

    /// Tells keys apart in messages; says nothing about the key.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// A key for another purpose, which says nothing about this one or those of other purposes: the same after every
    /// restart and restore, and nothing more to keep.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let tag = hmac::sign(&self.deriving, purpose.as_bytes());
        let mut out = [0; 32];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// Seals a secret for one row.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn seal(&self, row: &Key, plain: &[u8]) -> Result<Sealed, SealError> {
        let nonce = random::<NONCE_LEN>().ok_or(SealError::Random)?;
        let mut sealed = plain.to_vec();
        self.sealing
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), associated(row), &mut sealed)
            .map_err(|_| SealError::Large { key: row.clone() })?;
        let content = [nonce.as_slice(), &sealed].concat();
        Ok(Sealed(format!("{VERSION}:{}:{}", self.fingerprint, BASE64.encode(&content))))
    }

    /// Opens a secret of that row.
    ///
    /// # Errors
    /// When it was sealed under another key or for another row, or was changed.
    pub fn open(&self, row: &Key, sealed: &Sealed) -> Result<Vec<u8>, SealError> {
        let changed = || SealError::Changed { key: row.clone() };
        let rest =
            sealed.0.strip_prefix(VERSION).and_then(|rest| rest.strip_prefix(':')).ok_or_else(changed)?;
        let (sealed_under, content) = rest.split_once(':').ok_or_else(changed)?;
        if sealed_under != self.fingerprint {
            return Err(SealError::OtherKey {
                key: row.clone(),
                sealed_under: sealed_under.chars().take(2 * FINGERPRINT_BYTES).collect(),
                loaded: self.fingerprint.clone(),
            });
        }
        let content = BASE64.decode(content.as_bytes()).map_err(|_| changed())?;
        let (nonce, content) = content.split_first_chunk::<NONCE_LEN>().ok_or_else(changed)?;
        let mut content = content.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain =
            self.sealing.open_in_place(nonce, associated(row), &mut content).map_err(|_| changed())?;
        Ok(plain.to_vec())
    }
}

fn associated(row: &Key) -> Aad<&[u8]> {
    Aad::from(row.as_str().as_bytes())
}

fn random<const BYTES: usize>() -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "MasterKey({})", self.fingerprint)
    }
}

/// A sealed secret, as it stands in a row: `v1:FINGERPRINT:BASE64`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(String);

impl fmt::Debug for Sealed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Sealed(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(fill: u8) -> MasterKey {
        MasterKey::from_bytes(&[fill; MASTER_KEY_BYTES]).unwrap()
    }

    fn row(name: &str) -> Key {
        Key::new(&format!("/chom/v1/secret/{name}")).unwrap()
    }

    #[test]
    fn a_secret_opens_under_its_key_for_its_row_only() {
        let sealed = key(1).seal(&row("smtp"), b"hunter2").unwrap();
        assert_eq!(key(1).open(&row("smtp"), &sealed).unwrap(), b"hunter2");
        assert!(matches!(key(1).open(&row("other"), &sealed), Err(SealError::Changed { .. })));
        let error = key(2).open(&row("smtp"), &sealed).unwrap_err();
        assert!(matches!(error, SealError::OtherKey { .. }), "{error}");
        assert!(error.to_string().contains("offline copy"), "{error}");
        let again = key(1).seal(&row("smtp"), b"hunter2").unwrap();
        assert_ne!(sealed, again, "every nonce is new");
    }

    #[test]
    fn a_derived_key_is_the_same_again_and_another_for_each_purpose_and_master_key() {
        assert_eq!(key(1).derive("a"), key(1).derive("a"));
        assert_ne!(key(1).derive("a"), key(1).derive("b"));
        assert_ne!(key(1).derive("a"), key(2).derive("a"));
    }

    #[test]
    fn a_changed_secret_does_not_open() {
        let sealed = key(1).seal(&row("a"), b"secret").unwrap();
        let Sealed(text) = &sealed;
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = Sealed(String::from_utf8(bytes).unwrap());
            assert!(key(1).open(&row("a"), &changed).is_err(), "byte {at}");
        }
        assert!(key(1).open(&row("a"), &Sealed(String::new())).is_err());
    }

    #[test]
    fn nothing_secret_is_printed() {
        let sealed = key(1).seal(&row("a"), b"hunter2").unwrap();
        let printed = format!("{:?} {:?}", key(0x41), sealed);
        assert!(
            !printed.contains("AAAA") && !printed.contains("4141") && !printed.contains(&sealed.0),
            "{printed}"
        );
    }

    #[test]
    fn a_sealed_secret_is_text_in_a_row() {
        let sealed = key(1).seal(&row("a"), b"x").unwrap();
        let json = serde_json::to_string(&sealed).unwrap();
        assert!(json.starts_with("\"v1:"), "{json}");
        assert_eq!(serde_json::from_str::<Sealed>(&json).unwrap(), sealed);
    }

    #[test]
    fn a_key_file_is_private_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CREDENTIAL);
        let made = MasterKey::create(&path).unwrap();
        let loaded = MasterKey::from_file(&path).unwrap();
        assert_eq!(made.fingerprint(), loaded.fingerprint());
        assert_eq!(MasterKey::from_credentials(folder.path()).unwrap().fingerprint(), made.fingerprint());
        assert!(matches!(MasterKey::create(&path), Err(MasterKeyError::Exists { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = MasterKey::from_file(&path).unwrap_err();
        assert!(error.to_string().contains("mode 640"), "{error}");
    }

    #[test]
    fn a_key_is_hexadecimal_digits_or_raw_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let load = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            MasterKey::from_file(&path).map(|key| key.fingerprint().to_owned())
        };
        let raw = load(&[0xab; 32]).unwrap();
        assert_eq!(load("ab".repeat(32).as_bytes()).unwrap(), raw);
        assert_eq!(load(format!("{}\n", "AB".repeat(32)).as_bytes()).unwrap(), raw);
        for bad in [&b""[..], b"short", &[7; 31], &[b'a'; 63], &[b'g'; 64]] {
            assert!(matches!(load(bad), Err(MasterKeyError::Form { .. })), "{bad:?}");
        }
        assert!(matches!(MasterKey::from_file(Path::new("/nowhere/key")), Err(MasterKeyError::Read { .. })));
    }
}
