//! The agent's identity folder: the key made on this host, its certificate, and the CAs it trusts. The one file of this
//! crate that touches the disk.
//!
//! Every file is replaced as a whole and durably (write, sync, rename, sync the folder), so that a crash leaves the old
//! or the new one. What cannot be read is never taken for absent: a key is made only where there is none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use chom_protocol::HostId;
use rustls::pki_types::PrivateKeyDer;

use crate::bundle::{BundleError, CaBundle, certificate_pem};
use crate::certificate::{CertificateError, HostCertificate};
use crate::fingerprint::Fingerprint;
use crate::key::{KeyError, PrivateKey};
use crate::peer::{HostVerifier, PeerError};
use crate::tls::TlsError;

/// The private key, PKCS #8 PEM, mode 0600.
pub const KEY_FILE: &str = "key.pem";
/// The host's certificate, PEM. The host's id is in it and nowhere else.
pub const CERTIFICATE_FILE: &str = "certificate.pem";
/// The CAs that the host trusts, PEM.
pub const BUNDLE_FILE: &str = "ca-bundle.pem";
/// Longest file that is read: a full bundle has about 4 KiB.
pub const IDENTITY_FILE_BYTES_MAX: u64 = 64 * 1024;

const SECRET_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o700;

/// Why the identity cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file is not there.
    #[error("this host is not enrolled: `{}` is missing; run the line that `chomctl host add` prints", path.display())]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// A file is there but cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is longer than [`IDENTITY_FILE_BYTES_MAX`].
    #[error("`{}` is longer than {IDENTITY_FILE_BYTES_MAX} bytes; it is not what the agent wrote", path.display())]
    Long {
        /// Which.
        path: PathBuf,
    },
    /// Others can read the key.
    #[error("`{}` has mode {mode:04o}: others can read or change the host's key; run `chmod 600` on it, and enrol again with a new token if others use this host", path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The key in its file.
    #[error("the key in `{}` is damaged; move the file away and enrol again with a new token", path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// No new key, or no request with it.
    #[error("the host's key cannot be made or used")]
    NoKey(#[source] KeyError),
    /// The text of the certificate's file.
    #[error("`{}` is no PEM of one certificate; enrol again with a new token", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
    },
    /// The certificate is not a host's.
    #[error("the host's certificate cannot be used; enrol again with a new token")]
    Certificate(#[source] CertificateError),
    /// The certificate is for another key.
    #[error("the host's certificate is for another key than `{KEY_FILE}`; enrol again with a new token")]
    OtherKey,
    /// A renewal gave another host's certificate.
    #[error("the new certificate is for host {given}, this is host {mine}; it was not installed")]
    OtherHost {
        /// This host.
        mine: HostId,
        /// Whose certificate it is.
        given: HostId,
    },
    /// No CA of the bundle signed the new certificate.
    #[error("the new certificate is not signed by a CA that this host trusts; it was not installed")]
    Untrusted(#[source] PeerError),
    /// The bundle in its file.
    #[error("the CA bundle in `{}` cannot be used; enrol again with a new token", path.display())]
    Bundle {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: BundleError,
    },
    /// The bundle cannot verify anything.
    #[error("the CA bundle cannot be used")]
    Verifier(#[source] TlsError),
}

/// A host's key before the host has a certificate.
#[derive(Debug)]
pub struct HostKey {
    folder: PathBuf,
    key: PrivateKey,
}

impl HostKey {
    /// Reads the key in this folder, or makes folder and key if there is none. A key that is there is kept: enrolling
    /// again after a lost answer must be with the same one.
    ///
    /// # Errors
    /// When the key is there but unreadable, damaged or readable by others, or cannot be made or written.
    pub fn load_or_create(folder: &Path) -> Result<Self, IdentityError> {
        let folder = folder.to_owned();
        match load_key(&folder) {
            Ok(key) => Ok(Self { folder, key }),
            Err(IdentityError::Missing { .. }) => {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(FOLDER_MODE)
                    .create(&folder)
                    .and_then(|()| sync_parent(&folder))
                    .map_err(|source| IdentityError::Write { path: folder.clone(), source })?;
                let key = PrivateKey::generate().map_err(IdentityError::NoKey)?;
                replace_file(&folder, KEY_FILE, key.to_pem().reveal(), SECRET_MODE)?;
                Ok(Self { folder, key })
            }
            Err(error) => Err(error),
        }
    }

    /// The request for a certificate, in DER.
    ///
    /// # Errors
    /// When the key cannot sign it.
    pub fn csr_der(&self) -> Result<Vec<u8>, IdentityError> {
        self.key.request_der().map_err(IdentityError::NoKey)
    }

    /// The SHA-256 of the public key.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.key.fingerprint()
    }

    /// Writes what enrolment answered beside the key. The certificate comes last: with it, the host is enrolled.
    ///
    /// # Errors
    /// When the certificate is not for this key or not signed by a CA of the bundle, or a file cannot be written.
    pub fn install(self, certificate_der: &[u8], bundle: CaBundle) -> Result<Identity, IdentityError> {
        let Self { folder, key } = self;
        let certificate = check(&key, certificate_der, &bundle)?;
        replace_file(&folder, BUNDLE_FILE, &bundle.to_pem(), PUBLIC_MODE)?;
        replace_file(&folder, CERTIFICATE_FILE, &certificate_pem(certificate_der), PUBLIC_MODE)?;
        Ok(Identity { folder, key, certificate_der: certificate_der.to_vec(), certificate, bundle })
    }
}

/// An enrolled host's identity, as it is in its folder. `Debug` does not show the key.
#[derive(Debug)]
pub struct Identity {
    folder: PathBuf,
    key: PrivateKey,
    certificate_der: Vec<u8>,
    certificate: HostCertificate,
    bundle: CaBundle,
}

impl Identity {
    /// Reads the identity in this folder. An expired certificate is read like any other: it can still be renewed.
    ///
    /// # Errors
    /// When a file is missing, unreadable or damaged, others can read the key, or the parts do not fit each other.
    pub fn load(folder: &Path) -> Result<Self, IdentityError> {
        let key = load_key(folder)?;
        let path = folder.join(CERTIFICATE_FILE);
        let text = read_file(&path)?.0;
        let block = pem::parse(text).ok().filter(|block| block.tag() == "CERTIFICATE");
        let certificate_der = block.ok_or(IdentityError::Pem { path })?.into_contents();
        let certificate = of_key(&key, &certificate_der)?;
        let path = folder.join(BUNDLE_FILE);
        let text = read_file(&path)?.0;
        let bundle = CaBundle::from_pem(&text).map_err(|source| IdentityError::Bundle { path, source })?;
        Ok(Self { folder: folder.to_owned(), key, certificate_der, certificate, bundle })
    }

    /// Which host this is.
    #[must_use]
    pub const fn host(&self) -> HostId {
        self.certificate.host
    }

    /// What the certificate says.
    #[must_use]
    pub const fn certificate(&self) -> &HostCertificate {
        &self.certificate
    }

    /// The certificate in DER.
    #[must_use]
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// The CAs this host trusts.
    #[must_use]
    pub const fn bundle(&self) -> &CaBundle {
        &self.bundle
    }

    /// The request for the next certificate, with the same key, in DER.
    ///
    /// # Errors
    /// When the key cannot sign it.
    pub fn csr_der(&self) -> Result<Vec<u8>, IdentityError> {
        self.key.request_der().map_err(IdentityError::NoKey)
    }

    /// Installs a renewed certificate, on disk first.
    ///
    /// # Errors
    /// When it is another host's, for another key, not signed by a trusted CA, or cannot be written; the old one stays.
    pub fn replace_certificate(&mut self, certificate_der: &[u8]) -> Result<(), IdentityError> {
        let certificate = check(&self.key, certificate_der, &self.bundle)?;
        if certificate.host != self.certificate.host {
            return Err(IdentityError::OtherHost { mine: self.certificate.host, given: certificate.host });
        }
        replace_file(&self.folder, CERTIFICATE_FILE, &certificate_pem(certificate_der), PUBLIC_MODE)?;
        self.certificate = certificate;
        self.certificate_der = certificate_der.to_vec();
        Ok(())
    }

    /// Trusts these CAs from now on, on disk first. Comes over the link, from a server that the old bundle verified.
    ///
    /// # Errors
    /// When it cannot be written; the old one stays.
    pub fn replace_bundle(&mut self, bundle: CaBundle) -> Result<(), IdentityError> {
        replace_file(&self.folder, BUNDLE_FILE, &bundle.to_pem(), PUBLIC_MODE)?;
        self.bundle = bundle;
        Ok(())
    }

    pub(crate) fn key_der(&self) -> PrivateKeyDer<'static> {
        self.key.to_der()
    }
}

/// A certificate that may be installed: of this key, and signed by a CA of the bundle.
fn check(key: &PrivateKey, der: &[u8], bundle: &CaBundle) -> Result<HostCertificate, IdentityError> {
    let certificate = of_key(key, der)?;
    // In its first second: this host's clock may be wrong, and who signed it does not depend on the time.
    let verifier = HostVerifier::new(bundle).map_err(IdentityError::Verifier)?;
    verifier.identify(&der.into(), certificate.not_before).map_err(IdentityError::Untrusted)?;
    Ok(certificate)
}

fn of_key(key: &PrivateKey, der: &[u8]) -> Result<HostCertificate, IdentityError> {
    let certificate = HostCertificate::read(der).map_err(IdentityError::Certificate)?;
    if certificate.key_fingerprint == key.fingerprint() {
        Ok(certificate)
    } else {
        Err(IdentityError::OtherKey)
    }
}

fn load_key(folder: &Path) -> Result<PrivateKey, IdentityError> {
    let path = folder.join(KEY_FILE);
    let (text, mode) = read_file(&path)?;
    let text = zeroize::Zeroizing::new(text);
    if mode & 0o077 != 0 {
        return Err(IdentityError::Mode { path, mode });
    }
    PrivateKey::from_pem(&text).map_err(|source| IdentityError::Key { path, source })
}

/// The file's text, and its mode as it was when opened.
fn read_file(path: &Path) -> Result<(String, u32), IdentityError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => IdentityError::Missing { path: path.to_owned() },
        _ => IdentityError::Read { path: path.to_owned(), source },
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.len() > IDENTITY_FILE_BYTES_MAX {
        return Err(IdentityError::Long { path: path.to_owned() });
    }
    let mut text = String::new();
    file.take(IDENTITY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok((text, metadata.permissions().mode() & 0o7777))
}

/// Makes a new folder's name durable.
fn sync_parent(folder: &Path) -> io::Result<()> {
    match folder.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Replaces a file as a whole and durably. A half-written one of an earlier crash is written over.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one function of this crate that replaces files durably"
)]
fn replace_file(folder: &Path, name: &str, text: &str, mode: u32) -> Result<(), IdentityError> {
    let path = folder.join(name);
    let new = folder.join(format!(".{name}.new"));
    let write = || -> io::Result<()> {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // `create_new` with the mode from the start: a secret is never readable by others, not even for a moment.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|source| IdentityError::Write { path: path.clone(), source })
}
