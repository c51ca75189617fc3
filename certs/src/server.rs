//! A server's certificate and key: made by the fleet's CA, or brought by an operator as PEM. No I/O.

use chom_protocol::UnixMillis;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::bundle::{block_pem, certificate_pem};
use crate::certificate::{CertificateError, Facts};
use crate::key::KeyPem;

/// A server's certificate chain and its key, of the fleet's CA or an operator's. `Debug` does not show the key.
#[derive(Debug)]
pub struct ServerCertificate {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// Why an operator's certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServerCertificateError {
    /// The chain's file.
    #[error("the certificate chain is no PEM text of certificates")]
    Chain(#[source] rustls::pki_types::pem::Error),
    /// No certificate in it.
    #[error(
        "the certificate chain is empty; put the server's certificate first, then its intermediates, in PEM"
    )]
    Empty,
    /// One of them is damaged.
    #[error("certificate {position} of the chain is damaged")]
    Certificate {
        /// Which, counted from 1.
        position: usize,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// The key's file.
    #[error("the private key is no PEM text of an unencrypted private key (PKCS #8, PKCS #1 or SEC1)")]
    Key(#[source] rustls::pki_types::pem::Error),
}

impl ServerCertificate {
    /// Reads a chain (the server's own certificate first) and its key from PEM, as an operator has them.
    ///
    /// # Errors
    /// When either is no PEM of what it should be. That they fit each other is checked when a configuration is made.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, ServerCertificateError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(ServerCertificateError::Chain)?;
        if chain.is_empty() {
            return Err(ServerCertificateError::Empty);
        }
        for (index, certificate) in chain.iter().enumerate() {
            Facts::read(certificate)
                .map_err(|source| ServerCertificateError::Certificate { position: index + 1, source })?;
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(ServerCertificateError::Key)?;
        Ok(Self { chain, key })
    }

    /// The chain in PEM, the server's own certificate first.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|certificate| certificate_pem(certificate)).collect()
    }

    /// The key in PEM.
    #[must_use]
    pub fn key_pem(&self) -> KeyPem {
        let tag = match &self.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        KeyPem::new(block_pem(tag, self.key.secret_der()))
    }

    /// From when until when the server's own certificate is valid.
    ///
    /// # Errors
    /// When it cannot be read, which [`ServerCertificate::from_pem`] excludes.
    pub fn validity(&self) -> Result<(UnixMillis, UnixMillis), CertificateError> {
        let leaf = self.chain.first().ok_or(CertificateError::Unreadable)?;
        Facts::read(leaf).map(|facts| (facts.not_before, facts.not_after))
    }
}
