//! Private keys: P-256, made where they are used, never printed by `Debug`. No I/O.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::fingerprint::Fingerprint;

/// Why a private key cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system gave no randomness, or the key could not be made of it.
    #[error("cannot make a P-256 key")]
    Make(#[source] rcgen::Error),
    /// Not the PEM of a P-256 key.
    #[error("this is no PEM of a P-256 private key (PKCS #8, `BEGIN PRIVATE KEY`)")]
    Read(#[source] rcgen::Error),
    /// Another kind of key.
    #[error("this private key is not of the curve P-256, the only one a fleet uses")]
    Curve,
    /// The request could not be signed.
    #[error("cannot sign a certificate request with the key")]
    Request(#[source] rcgen::Error),
}

/// A private key as PEM text: wiped from memory when dropped, and never printed by `Debug`.
#[derive(Clone)]
pub struct KeyPem(Zeroizing<String>);

impl KeyPem {
    pub(crate) fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The PEM text. Whoever calls this seals it or writes it to a file of mode 0600.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyPem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("KeyPem(secret)")
    }
}

/// A P-256 private key.
pub(crate) struct PrivateKey(KeyPair);

impl PrivateKey {
    pub(crate) fn generate() -> Result<Self, KeyError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(KeyError::Make)
    }

    pub(crate) fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let pair = KeyPair::from_pem(pem).map_err(KeyError::Read)?;
        if pair.algorithm() == &PKCS_ECDSA_P256_SHA256 { Ok(Self(pair)) } else { Err(KeyError::Curve) }
    }

    pub(crate) fn to_pem(&self) -> KeyPem {
        KeyPem::new(self.0.serialize_pem())
    }

    /// For rustls, which wants a copy of its own.
    pub(crate) fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialize_der()))
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0
    }

    /// The fingerprint of the public half (its SubjectPublicKeyInfo).
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0.subject_public_key_info())
    }

    /// A certificate request that says nothing but the public key: the authority decides everything else.
    pub(crate) fn request_der(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.0).map_err(KeyError::Request)?;
        Ok(request.der().to_vec())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PrivateKey(public half {})", self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_shows_its_private_half_when_debugged() {
        let key = PrivateKey::generate().unwrap();
        let pem = key.to_pem();
        let shown = format!("{key:?} {pem:?}");
        for line in pem.reveal().lines().filter(|line| !line.starts_with('-')) {
            assert!(!shown.contains(line), "{shown}");
        }
    }

    #[test]
    fn a_key_survives_its_pem() {
        let key = PrivateKey::generate().unwrap();
        assert_eq!(PrivateKey::from_pem(key.to_pem().reveal()).unwrap().fingerprint(), key.fingerprint());
        assert!(matches!(PrivateKey::from_pem("hello"), Err(KeyError::Read(_))));
        let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
        assert!(matches!(PrivateKey::from_pem(&other), Err(KeyError::Curve)));
    }
}
