//! The TLS configurations of every connection, as plain rustls types: the edges wrap them for QUIC or HTTPS.
//!
//! The link is TLS 1.3 with *ring* and X25519, never resumed: a resumed handshake skips the verifiers, and with them
//! revocation and expiry. No I/O.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, VerifierBuilderError, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, ServerConfig, SignatureScheme,
};

use crate::bundle::CaBundle;
use crate::fingerprint::Fingerprint;
use crate::identity::Identity;
use crate::peer::HostVerifier;
use crate::server::ServerCertificate;

/// The link of an enrolled agent. Needs a client certificate, which `session` checks before any stream.
pub const ALPN_LINK: &[u8] = b"chom/1";
/// Enrolment, on the same port: no client certificate, and nothing but one request for one.
pub const ALPN_ENROL: &[u8] = b"chom-enrol/1";
/// The name by which agents verify every orchestrator, whatever address they dialled: addresses change, trust does not.
pub const SERVER_NAME: &str = "orchestrator.chom.internal";

/// Why a TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The provider lacks what is needed; a mistake in the build.
    #[error("the crypto provider cannot do TLS 1.3")]
    Provider(#[source] Error),
    /// Verifying clients.
    #[error("clients' certificates cannot be verified against the CA bundle")]
    Clients(#[source] VerifierBuilderError),
    /// Verifying servers.
    #[error("the server's certificate cannot be verified against the CA bundle")]
    Servers(#[source] VerifierBuilderError),
    /// The server's own certificate.
    #[error(
        "the server's certificate and key cannot be used together; check that the key is the one of the first certificate in the chain"
    )]
    ServerCertificate(#[source] Error),
    /// The agent's own certificate.
    #[error("the host's certificate and key cannot be used together; enrol the host again with a new token")]
    ClientCertificate(#[source] Error),
}

/// The orchestrator's side of the link and of enrolment. Clients may show a certificate; one that they show must be
/// the fleet's, and [`crate::peer_identity`] says whose it is and whether it is only good for renewal.
///
/// # Errors
/// When certificate and key do not fit each other.
pub fn server_config(server: &ServerCertificate, bundle: &CaBundle) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Provider)?
        .with_client_cert_verifier(Arc::new(HostVerifier::new(bundle)?))
        .with_single_cert(server.chain.clone(), server.key.clone_key())
        .map_err(TlsError::ServerCertificate)?;
    config.alpn_protocols = vec![ALPN_LINK.to_vec(), ALPN_ENROL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The agent's side of the link: shows its certificate, and verifies the server as [`SERVER_NAME`] against its bundle.
///
/// # Errors
/// When certificate and key do not fit each other.
pub fn client_config(identity: &Identity) -> Result<ClientConfig, TlsError> {
    let bundle = WebPkiServerVerifier::builder_with_provider(identity.bundle().roots(), provider())
        .build()
        .map_err(TlsError::Servers)?;
    let certificate = CertificateDer::from(identity.certificate_der().to_vec());
    let config = client(Trust::Bundle(bundle))?
        .with_client_auth_cert(vec![certificate], identity.key_der())
        .map_err(TlsError::ClientCertificate)?;
    Ok(without_resumption(config, ALPN_LINK))
}

/// A host's side of enrolment: trusts exactly the CA with this fingerprint, which the server sends along, and shows no
/// certificate.
///
/// # Errors
/// When the build lacks TLS 1.3.
pub fn enrol_client_config(fingerprint: Fingerprint) -> Result<ClientConfig, TlsError> {
    Ok(without_resumption(client(Trust::Pinned(fingerprint))?.with_no_client_auth(), ALPN_ENROL))
}

/// The HTTPS API: the fleet CA's certificate or an operator's, HTTP/2 and HTTP/1.1, no client certificates.
///
/// # Errors
/// When certificate and key do not fit each other.
pub fn https_server_config(server: &ServerCertificate) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Provider)?
        .with_no_client_auth()
        .with_single_cert(server.chain.clone(), server.key.clone_key())
        .map_err(TlsError::ServerCertificate)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// *ring*, named explicitly: a second provider in the tree would make rustls panic at the first handshake. One key
/// exchange, because both ends are ours.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { kx_groups: vec![ring::kx_group::X25519], ..ring::default_provider() })
}

fn client(
    trust: Trust,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, TlsError> {
    let provider = provider();
    let verifier = FleetServerVerifier { trust, provider: Arc::clone(&provider) };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Provider)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

fn without_resumption(mut config: ClientConfig, alpn: &[u8]) -> ClientConfig {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config
}

/// Which CAs a client trusts.
#[derive(Debug)]
enum Trust {
    /// Those of its bundle.
    Bundle(Arc<WebPkiServerVerifier>),
    /// The one with this fingerprint, to be found in the chain that the server sends.
    Pinned(Fingerprint),
}

/// Verifies that a server is an orchestrator of the fleet: always as [`SERVER_NAME`], whatever name was dialled.
#[derive(Debug)]
struct FleetServerVerifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

/// What an enrolling host says of a server whose chain lacks the pinned CA. Travels inside rustls's error.
#[derive(thiserror::Error)]
#[error(
    "the server's CA is not the one of the enrolment code (fingerprint {expected}): either the code is of another fleet, or somebody stands between; print a new line with `chomctl host add` and check the address"
)]
struct WrongAuthority {
    expected: Fingerprint,
}

/// rustls shows the errors of others by `Debug`; this one is for an admin to read.
impl fmt::Debug for WrongAuthority {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FleetServerVerifier {
    fn pinned(
        &self,
        expected: Fingerprint,
        chain: &[CertificateDer<'_>],
    ) -> Result<Arc<WebPkiServerVerifier>, Error> {
        let refused = |error| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))));
        let authority = chain.iter().find(|certificate| Fingerprint::of(certificate) == expected);
        let authority = authority.ok_or_else(|| refused(WrongAuthority { expected }))?;
        let bundle = CaBundle::new([authority]).map_err(|_| CertificateError::BadEncoding)?;
        WebPkiServerVerifier::builder_with_provider(bundle.roots(), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))
    }
}

impl ServerCertVerifier for FleetServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = match &self.trust {
            Trust::Bundle(verifier) => Arc::clone(verifier),
            Trust::Pinned(fingerprint) => self.pinned(*fingerprint, intermediates)?,
        };
        let name = ServerName::try_from(SERVER_NAME).map_err(|error| Error::General(error.to_string()))?;
        // CAs sign servers directly: no intermediates.
        verifier.verify_server_cert(end_entity, &[], &name, &[], now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
