//! The CAs a fleet trusts. Usually one; two while the CA is rotated: the new one is announced to every agent before it
//! signs anything. No I/O.

use std::sync::Arc;

use chom_protocol::vps::Sha256;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use crate::certificate::Facts;
use crate::fingerprint::Fingerprint;

/// Most CAs in a bundle: a rotation needs two; the rest is room for one that was cut short. Bounds the work of a
/// handshake, in which each may be tried.
pub const BUNDLE_AUTHORITIES_MAX: usize = 4;

/// Why a bundle of CA certificates is refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Not PEM.
    #[error("the CA bundle is no PEM text; it must hold one `BEGIN CERTIFICATE` block for each CA")]
    Pem(#[source] pem::PemError),
    /// Something other than a certificate.
    #[error("the CA bundle holds a `{tag}`; it must hold nothing but certificates")]
    Tag {
        /// What the block is called.
        tag: String,
    },
    /// No CA: everything would be refused.
    #[error("the CA bundle is empty; it must hold at least one CA certificate")]
    Empty,
    /// More than [`BUNDLE_AUTHORITIES_MAX`].
    #[error(
        "the CA bundle holds {count} CAs, at most {BUNDLE_AUTHORITIES_MAX} are allowed; remove those that signed nothing in use"
    )]
    Many {
        /// How many.
        count: usize,
    },
    /// A certificate in it cannot be read.
    #[error("certificate {position} of the CA bundle is damaged")]
    Certificate {
        /// Which, counted from 1.
        position: usize,
        /// Why.
        #[source]
        source: crate::certificate::CertificateError,
    },
    /// A certificate in it is no CA's.
    #[error("certificate {position} of the CA bundle is not a CA's")]
    NotAuthority {
        /// Which, counted from 1.
        position: usize,
    },
    /// rustls cannot use it as a root.
    #[error("certificate {position} of the CA bundle cannot be a root of trust")]
    Root {
        /// Which, counted from 1.
        position: usize,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// The CA certificates that are trusted: at least one, at most [`BUNDLE_AUTHORITIES_MAX`], without repeats.
#[derive(Debug, Clone)]
pub struct CaBundle {
    authorities: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl CaBundle {
    /// Trusts these CA certificates (DER). Repeats are dropped, the order is kept.
    ///
    /// # Errors
    /// When there are none or too many, or one is no CA's certificate.
    pub fn new<C: AsRef<[u8]>>(certificates: impl IntoIterator<Item = C>) -> Result<Self, BundleError> {
        let mut authorities: Vec<CertificateDer<'static>> = Vec::new();
        let mut roots = RootCertStore::empty();
        for (index, der) in certificates.into_iter().enumerate() {
            let position = index + 1;
            let der = der.as_ref();
            let facts = Facts::read(der).map_err(|source| BundleError::Certificate { position, source })?;
            if !facts.is_authority {
                return Err(BundleError::NotAuthority { position });
            }
            let certificate = CertificateDer::from(der.to_vec());
            if authorities.contains(&certificate) {
                continue;
            }
            if authorities.len() == BUNDLE_AUTHORITIES_MAX {
                return Err(BundleError::Many { count: authorities.len() + 1 });
            }
            roots.add(certificate.clone()).map_err(|source| BundleError::Root { position, source })?;
            authorities.push(certificate);
        }
        if authorities.is_empty() {
            return Err(BundleError::Empty);
        }
        Ok(Self { authorities, roots: Arc::new(roots) })
    }

    /// Reads a bundle from PEM text.
    ///
    /// # Errors
    /// As [`CaBundle::new`], and when the text is no PEM of certificates.
    pub fn from_pem(text: &str) -> Result<Self, BundleError> {
        let blocks = pem::parse_many(text).map_err(BundleError::Pem)?;
        if let Some(odd) = blocks.iter().find(|block| block.tag() != "CERTIFICATE") {
            return Err(BundleError::Tag { tag: odd.tag().to_owned() });
        }
        Self::new(blocks.iter().map(pem::Pem::contents))
    }

    /// The bundle as PEM text.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.authorities.iter().map(|certificate| certificate_pem(certificate)).collect()
    }

    /// The CA certificates in DER, in order.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// The CAs' fingerprints, in order.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.authorities.iter().map(|certificate| Fingerprint::of(certificate)).collect()
    }

    /// What tells two bundles apart: the digest of their fingerprints, in order.
    #[must_use]
    pub fn digest(&self) -> Sha256 {
        let all: Vec<String> = self.fingerprints().iter().map(ToString::to_string).collect();
        Sha256::of(all.join("\n").as_bytes())
    }

    /// Whether a CA with this fingerprint is trusted.
    #[must_use]
    pub fn contains(&self, fingerprint: &Fingerprint) -> bool {
        self.fingerprints().contains(fingerprint)
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }
}

impl PartialEq for CaBundle {
    fn eq(&self, other: &Self) -> bool {
        self.authorities == other.authorities
    }
}

impl Eq for CaBundle {}

/// One certificate as PEM text.
pub(crate) fn certificate_pem(der: &[u8]) -> String {
    block_pem("CERTIFICATE", der)
}

/// One PEM block with Unix line ends.
pub(crate) fn block_pem(tag: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), config)
}
