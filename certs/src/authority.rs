//! The fleet's certificate authority: signs hosts' and servers' certificates. It decides everything a certificate
//! says; from a request it takes the public key alone. No I/O but the randomness of keys and serial numbers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use chom_protocol::{HostId, Name, UnixMillis};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use ring::rand::SecureRandom;
use rustls::pki_types::{CertificateDer, DnsName};
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::{FromDer, X509CertificationRequest};
use x509_parser::time::ASN1Time;

use crate::bundle::{BundleError, CaBundle, certificate_pem};
use crate::certificate::{CertificateError, Facts, HOST_URI_PREFIX, Serial};
use crate::enrol::RandomError;
use crate::fingerprint::Fingerprint;
use crate::key::{KeyError, KeyPem, PrivateKey};
use crate::peer::PeerIdentity;
use crate::renew::after_expiry_allowed;
use crate::server::ServerCertificate;
use crate::tls::SERVER_NAME;

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// Life of a CA: longer than the hardware it serves; a rotation ends it earlier.
pub const AUTHORITY_LIFE_SECONDS: u64 = 3650 * DAY_SECONDS;
/// Life of a host's certificate: short, because a revocation is only as good as the registry that knows it.
pub const HOST_LIFE_SECONDS: u64 = 30 * DAY_SECONDS;
/// Life of a server's certificate: the most that browsers accept (398 days) but one. Made anew at every start.
pub const SERVER_LIFE_SECONDS: u64 = 397 * DAY_SECONDS;
/// Certificates are valid from a while before they are signed: hosts' clocks run behind at times.
pub const CLOCK_SKEW_SECONDS: u64 = 60 * 60;
/// Longest certificate request that is read; one for P-256 has about 250 bytes.
pub const REQUEST_BYTES_MAX: usize = 4096;
/// Most names in a server's certificate, which must fit a handshake of a few packets.
pub const SERVER_NAMES_MAX: usize = 32;
/// Length of a serial number: random, so that none repeats (RFC 5280 allows 20 bytes).
const SERIAL_BYTES: usize = 16;

/// Why the authority cannot be made, read, or will not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The key.
    #[error("the fleet CA's key cannot be used")]
    Key(#[source] KeyError),
    /// The CA's certificate.
    #[error("the fleet CA's certificate cannot be used")]
    Certificate(#[source] BundleError),
    /// One certificate was expected.
    #[error("the fleet CA's file holds {count} certificates, expected one")]
    Count {
        /// How many it holds.
        count: usize,
    },
    /// Key and certificate are not of each other.
    #[error("the fleet CA's key and certificate do not belong together; restore both from the same export")]
    Mismatch,
    /// Too old to sign.
    #[error("the fleet CA has expired and signs nothing any more; make a new one and enrol the hosts again")]
    Expired,
    /// No randomness.
    #[error("no serial number for a certificate")]
    Random(#[source] RandomError),
    /// The time is not one that a certificate can say.
    #[error("the time {} ms cannot be written in a certificate; check the clock", now.0)]
    Time {
        /// The time given.
        now: UnixMillis,
    },
    /// The request is no request.
    #[error("the certificate request is damaged or longer than {REQUEST_BYTES_MAX} bytes")]
    Request,
    /// Whoever sent the request does not hold the key.
    #[error("the certificate request is not signed by the key in it")]
    RequestSignature,
    /// Not P-256.
    #[error("the certificate request is for a key that is not P-256; agents make no others")]
    RequestKey,
    /// A renewal with another key.
    #[error(
        "a renewal must be for the key that the host enrolled with; a host that lost its key enrols again with a new token"
    )]
    RenewalKey,
    /// A renewal too long after the end.
    #[error(
        "the certificate expired more than 90 days ago and cannot be renewed; enrol the host again with a new token"
    )]
    RenewalLate,
    /// A name for a server's certificate.
    #[error("`{name}` is neither a DNS name nor an IP address; a server's certificate cannot be made for it")]
    ServerName {
        /// The name at fault.
        name: String,
    },
    /// More than [`SERVER_NAMES_MAX`].
    #[error("{count} names for one server certificate, at most {SERVER_NAMES_MAX} are allowed")]
    ServerNames {
        /// How many.
        count: usize,
    },
    /// The signing itself.
    #[error("cannot sign a certificate")]
    Sign(#[source] rcgen::Error),
    /// What was signed cannot be read back.
    #[error("a certificate just signed cannot be read")]
    Signed(#[source] CertificateError),
}

/// The fleet's CA: its certificate and its key. `Debug` does not show the key.
#[derive(Debug)]
pub struct Authority {
    certificate: CertificateDer<'static>,
    not_after: UnixMillis,
    key: PrivateKey,
}

/// A host's new certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHost {
    /// The certificate.
    pub der: Vec<u8>,
    /// Its number.
    pub serial: Serial,
    /// Valid from.
    pub not_before: UnixMillis,
    /// Valid until.
    pub not_after: UnixMillis,
    /// Of which key: what a later renewal must show, and what tells a clone from the host.
    pub key_fingerprint: Fingerprint,
}

impl Authority {
    /// Makes a new CA with a key of its own for the fleet of this name.
    ///
    /// # Errors
    /// When the system gives no randomness, or `now` is no time that a certificate can say.
    pub fn create(fleet_name: &Name, now: UnixMillis) -> Result<Self, AuthorityError> {
        let key = PrivateKey::generate().map_err(AuthorityError::Key)?;
        let not_after = now.plus_seconds(AUTHORITY_LIFE_SECONDS);
        let mut params = template(now, not_after, "CHOM fleet CA")?;
        params.distinguished_name.push(DnType::OrganizationName, fleet_name.as_str());
        // Signs hosts and servers directly: no CA below it.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = false;
        let certificate = params.self_signed(key.pair()).map_err(AuthorityError::Sign)?;
        Self::assemble(certificate.into(), key)
    }

    /// Reads the CA back from what [`Authority::to_pem`] gave.
    ///
    /// # Errors
    /// When either is damaged or they do not belong together.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let bundle = CaBundle::from_pem(certificate).map_err(AuthorityError::Certificate)?;
        let [certificate] = bundle.certificates() else {
            return Err(AuthorityError::Count { count: bundle.certificates().len() });
        };
        Self::assemble(certificate.clone(), PrivateKey::from_pem(key).map_err(AuthorityError::Key)?)
    }

    fn assemble(certificate: CertificateDer<'static>, key: PrivateKey) -> Result<Self, AuthorityError> {
        let facts = Facts::read(&certificate).map_err(AuthorityError::Signed)?;
        if facts.key_fingerprint != key.fingerprint() {
            return Err(AuthorityError::Mismatch);
        }
        Ok(Self { certificate, not_after: facts.not_after, key })
    }

    /// The CA's certificate and key in PEM, in this order. The key is to be sealed before it is stored.
    #[must_use]
    pub fn to_pem(&self) -> (String, KeyPem) {
        (self.certificate_pem(), self.key.to_pem())
    }

    /// The CA's certificate in PEM, for whoever has to trust it.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        certificate_pem(&self.certificate)
    }

    /// The CA's certificate in DER.
    #[must_use]
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// When the CA ends.
    #[must_use]
    pub const fn not_after(&self) -> UnixMillis {
        self.not_after
    }

    /// The SHA-256 of the CA's certificate: what an enrolling host pins.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Signs a certificate for `host` and the key of this request. What the request says beside the key is ignored:
    /// the caller knows whose it is from the token's row.
    ///
    /// # Errors
    /// When the request is damaged, not signed by its own key or not for P-256, or the CA has expired.
    pub fn sign_host(
        &self,
        csr_der: &[u8],
        host: HostId,
        now: UnixMillis,
    ) -> Result<SignedHost, AuthorityError> {
        let key_info = request_key_info(csr_der)?;
        let public_key = SubjectPublicKeyInfo::from_der(&key_info).map_err(AuthorityError::Sign)?;
        let mut params = template(now, self.end_of(now, HOST_LIFE_SECONDS)?, &host.to_string())?;
        let uri = format!("{HOST_URI_PREFIX}{host}").try_into().map_err(AuthorityError::Sign)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let der = self.sign(&params, &public_key)?;
        let Facts { serial, not_before, not_after, key_fingerprint, is_authority: _ } =
            Facts::read(&der).map_err(AuthorityError::Signed)?;
        Ok(SignedHost { der: der.to_vec(), serial, not_before, not_after, key_fingerprint })
    }

    /// Signs a new certificate for a host that showed a good or recently expired one, for the same key.
    ///
    /// # Errors
    /// As [`Authority::sign_host`], and when the key is another or the old certificate expired too long ago.
    pub fn renew_host(
        &self,
        csr_der: &[u8],
        peer: &PeerIdentity,
        now: UnixMillis,
    ) -> Result<SignedHost, AuthorityError> {
        if !after_expiry_allowed(peer.not_after, now) {
            return Err(AuthorityError::RenewalLate);
        }
        if request_key(csr_der)? != peer.key_fingerprint {
            return Err(AuthorityError::RenewalKey);
        }
        self.sign_host(csr_der, peer.host, now)
    }

    /// Makes a key and a certificate for a server with these DNS names and IP addresses, and always [`SERVER_NAME`],
    /// by which agents verify it whatever address they dialled.
    ///
    /// # Errors
    /// When a name is neither, there are too many, or the CA has expired.
    pub fn sign_server(
        &self,
        names: &[String],
        now: UnixMillis,
    ) -> Result<ServerCertificate, AuthorityError> {
        if names.len() > SERVER_NAMES_MAX {
            return Err(AuthorityError::ServerNames { count: names.len() });
        }
        let key = PrivateKey::generate().map_err(AuthorityError::Key)?;
        let mut params = template(now, self.end_of(now, SERVER_LIFE_SECONDS)?, SERVER_NAME)?;
        let names: BTreeSet<&str> = names.iter().map(String::as_str).chain([SERVER_NAME]).collect();
        params.subject_alt_names = names.into_iter().map(server_name).collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = self.sign(&params, key.pair())?;
        // The CA goes with it: an enrolling host, which knows only its fingerprint, must be shown it.
        Ok(ServerCertificate { chain: vec![leaf, self.certificate.clone()], key: key.to_der() })
    }

    /// No certificate outlives its CA, so that an expired CA cannot be used through what it signed.
    fn end_of(&self, now: UnixMillis, life_seconds: u64) -> Result<UnixMillis, AuthorityError> {
        if now >= self.not_after {
            Err(AuthorityError::Expired)
        } else {
            Ok(now.plus_seconds(life_seconds).min(self.not_after))
        }
    }

    fn sign(
        &self,
        params: &CertificateParams,
        public_key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let issuer =
            Issuer::from_ca_cert_der(&self.certificate, self.key.pair()).map_err(AuthorityError::Sign)?;
        Ok(params.signed_by(public_key, &issuer).map_err(AuthorityError::Sign)?.into())
    }
}

/// The fingerprint of the key that a request is for, once its signature proved that the sender holds the key.
///
/// # Errors
/// When the request is damaged, not signed by its own key, or not for P-256.
pub fn request_key(csr_der: &[u8]) -> Result<Fingerprint, AuthorityError> {
    request_key_info(csr_der).map(|info| Fingerprint::of(&info))
}

fn request_key_info(csr_der: &[u8]) -> Result<Vec<u8>, AuthorityError> {
    if csr_der.len() > REQUEST_BYTES_MAX {
        return Err(AuthorityError::Request);
    }
    let Ok(([], request)) = X509CertificationRequest::from_der(csr_der) else {
        return Err(AuthorityError::Request);
    };
    let key = &request.certification_request_info.subject_pki;
    let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
        return Err(AuthorityError::RequestKey);
    }
    request.verify_signature().map_err(|_| AuthorityError::RequestSignature)?;
    Ok(key.raw.to_vec())
}

/// What all certificates have in common. rcgen would derive the serial from the key, the same at every renewal:
/// it is random here.
fn template(now: UnixMillis, not_after: UnixMillis, name: &str) -> Result<CertificateParams, AuthorityError> {
    let time = |at: UnixMillis| {
        let seconds = i64::try_from(at.0 / 1000).ok();
        seconds.and_then(|seconds| ASN1Time::from_timestamp(seconds).ok()).ok_or(AuthorityError::Time { now })
    };
    let mut serial = [0; SERIAL_BYTES];
    ring::rand::SystemRandom::new().fill(&mut serial).map_err(|_| AuthorityError::Random(RandomError))?;
    let mut params = CertificateParams::default();
    params.not_before = time(UnixMillis(now.0.saturating_sub(CLOCK_SKEW_SECONDS * 1000)))?.to_datetime();
    params.not_after = time(not_after)?.to_datetime();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn server_name(name: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let error = || AuthorityError::ServerName { name: name.to_owned() };
    DnsName::try_from(name).map_err(|_| error())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| error())?))
}
