//! Who is at the other end: whether a client's certificate is the fleet's, whose, and whether it may do more than renew.
//!
//! TLS lets a recently expired certificate through, so that its host can renew; `session` asks here and keeps such a
//! peer to renewals. Revocation is not in here: the live registry knows it. No I/O.

use std::sync::Arc;
use std::time::Duration;

use chom_protocol::{HostId, UnixMillis};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};

use crate::bundle::CaBundle;
use crate::certificate::{CertificateError, HostCertificate, Serial};
use crate::fingerprint::Fingerprint;
use crate::renew::{after_expiry_allowed, is_expired};
use crate::tls::{TlsError, provider};

/// Why a peer is nobody.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It showed no certificate.
    #[error("the peer showed no client certificate; only enrolment works without one")]
    None,
    /// It showed something that is no host's certificate.
    #[error("the peer's certificate is not a host's")]
    Certificate(#[source] CertificateError),
    /// No CA of the bundle signed it, or it is not for clients, or not valid yet.
    #[error(
        "the peer's certificate is not accepted by this fleet; a host of another fleet enrols again with a new token"
    )]
    Untrusted(#[source] rustls::Error),
    /// It ran out too long ago.
    #[error(
        "the certificate of host {host} expired more than 90 days ago and cannot be renewed; enrol the host again with a new token"
    )]
    Lapsed {
        /// Whose it was.
        host: HostId,
        /// When it ran out.
        not_after: UnixMillis,
    },
    /// The bundle cannot be used to verify anything.
    #[error("clients cannot be verified")]
    Bundle(#[source] TlsError),
}

/// A peer whose certificate the fleet's CA signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Which host it is.
    pub host: HostId,
    /// Which of its certificates it showed.
    pub serial: Serial,
    /// Valid from.
    pub not_before: UnixMillis,
    /// Valid until.
    pub not_after: UnixMillis,
    /// Of which key: the registry knows the key that the host enrolled with.
    pub key_fingerprint: Fingerprint,
    /// The certificate is past its end, at most 90 days: the peer may renew with the same key and do nothing else.
    pub expired: bool,
}

/// Says who a client is by the certificates of its handshake (its own first), at the moment `now`.
///
/// # Errors
/// When it showed none, or one that this fleet did not sign for a host, is not valid yet, or ran out too long ago.
pub fn peer_identity(
    certificates: &[CertificateDer<'_>],
    bundle: &CaBundle,
    now: UnixMillis,
) -> Result<PeerIdentity, PeerError> {
    let leaf = certificates.first().ok_or(PeerError::None)?;
    HostVerifier::new(bundle).map_err(PeerError::Bundle)?.identify(leaf, now)
}

/// Verifies clients' certificates against a bundle, for TLS and for [`peer_identity`] alike.
#[derive(Debug)]
pub(crate) struct HostVerifier {
    chains: Arc<dyn ClientCertVerifier>,
}

impl HostVerifier {
    pub(crate) fn new(bundle: &CaBundle) -> Result<Self, TlsError> {
        let chains = WebPkiClientVerifier::builder_with_provider(bundle.roots(), provider())
            // An agent has one certificate and needs no hint which to show.
            .clear_root_hint_subjects()
            .allow_unauthenticated()
            .build()
            .map_err(TlsError::Clients)?;
        Ok(Self { chains })
    }

    pub(crate) fn identify(
        &self,
        leaf: &CertificateDer<'_>,
        now: UnixMillis,
    ) -> Result<PeerIdentity, PeerError> {
        let HostCertificate { host, serial, not_before, not_after, key_fingerprint } =
            HostCertificate::read(leaf).map_err(PeerError::Certificate)?;
        let expired = is_expired(not_after, now);
        if expired && !after_expiry_allowed(not_after, now) {
            return Err(PeerError::Lapsed { host, not_after });
        }
        // An expired certificate must have been good in its last second. CAs sign hosts directly: no intermediates.
        let at = UnixTime::since_unix_epoch(Duration::from_millis(if expired { not_after.0 } else { now.0 }));
        self.chains.verify_client_cert(leaf, &[], at).map_err(PeerError::Untrusted)?;
        Ok(PeerIdentity { host, serial, not_before, not_after, key_fingerprint, expired })
    }
}

impl ClientCertVerifier for HostVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    /// Not demanded: which ALPN was agreed on, and so whether this is an enrolment, is not known here.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match self.identify(end_entity, UnixMillis::default().plus_seconds(now.as_secs())) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(PeerError::Untrusted(error)) => Err(error),
            Err(PeerError::Lapsed { .. }) => Err(rustls::CertificateError::Expired.into()),
            Err(PeerError::None | PeerError::Certificate(_) | PeerError::Bundle(_)) => {
                Err(rustls::CertificateError::ApplicationVerificationFailure.into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
