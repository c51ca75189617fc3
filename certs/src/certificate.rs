//! Reads what certificates say: whose host, from when until when, of which key. Trusts nothing: whether the fleet's
//! CA signed them is asked in `peer` and `tls`. No I/O.

use std::fmt;
use std::str::FromStr;

use chom_protocol::{HostId, UnixMillis};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::fingerprint::Fingerprint;

/// What a host's identity begins with in its certificate: the URI `chom:host:<uuid>` among the subject's names.
pub const HOST_URI_PREFIX: &str = "chom:host:";

/// Why a certificate cannot be read, or is not a host's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not a certificate.
    #[error("this is no X.509 certificate in DER")]
    Unreadable,
    /// It does not name exactly one host.
    #[error(
        "the certificate names {count} hosts, expected exactly one URI `{HOST_URI_PREFIX}<id>`; it is not a host's"
    )]
    Hosts {
        /// How many it names.
        count: usize,
    },
    /// The host's id in it is no id.
    #[error("the certificate names a host by something that is no id")]
    Host(#[source] chom_protocol::id::IdError),
}

/// A certificate's serial number: unique for each certificate, lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Serial(String);

impl Serial {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        // DER writes a leading zero before a number whose first bit is set; it is no part of the number.
        let first = bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len());
        Self(HEXLOWER.encode(&bytes[first..]))
    }

    /// The number in hexadecimal.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What any certificate says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) serial: Serial,
    pub(crate) not_before: UnixMillis,
    pub(crate) not_after: UnixMillis,
    pub(crate) key_fingerprint: Fingerprint,
    pub(crate) is_authority: bool,
}

impl Facts {
    pub(crate) fn read(der: &[u8]) -> Result<Self, CertificateError> {
        parse(der).map(|certificate| Self::of(&certificate))
    }

    fn of(certificate: &X509Certificate<'_>) -> Self {
        Self {
            serial: Serial::of(certificate.raw_serial()),
            not_before: moment(certificate.validity().not_before.timestamp()),
            not_after: moment(certificate.validity().not_after.timestamp()),
            key_fingerprint: Fingerprint::of(certificate.public_key().raw),
            is_authority: certificate.is_ca(),
        }
    }
}

/// What a host's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCertificate {
    /// Whose it is.
    pub host: HostId,
    /// Its number.
    pub serial: Serial,
    /// Valid from.
    pub not_before: UnixMillis,
    /// Valid until, inclusive.
    pub not_after: UnixMillis,
    /// The SHA-256 of the host's public key: the same for all certificates of one key.
    pub key_fingerprint: Fingerprint,
}

impl HostCertificate {
    /// Reads a host's certificate.
    ///
    /// # Errors
    /// When it is no certificate, or does not name exactly one host.
    pub fn read(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        let names = certificate.subject_alternative_name().map_err(|_| CertificateError::Unreadable)?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let hosts: Vec<&str> = names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix(HOST_URI_PREFIX),
                _ => None,
            })
            .collect();
        let [host] = hosts.as_slice() else { return Err(CertificateError::Hosts { count: hosts.len() }) };
        let host = HostId::from_str(host).map_err(CertificateError::Host)?;
        let Facts { serial, not_before, not_after, key_fingerprint, is_authority: _ } =
            Facts::of(&certificate);
        Ok(Self { host, serial, not_before, not_after, key_fingerprint })
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(CertificateError::Unreadable),
    }
}

/// A certificate's time. Times before 1970 count as 1970: none of ours is that old.
fn moment(seconds: i64) -> UnixMillis {
    UnixMillis::default().plus_seconds(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_has_no_leading_zero_bytes() {
        for (bytes, text) in [(&[0, 0x8f, 1][..], "8f01"), (&[1, 0], "0100"), (&[], "")] {
            assert_eq!(Serial::of(bytes).as_str(), text);
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        for bytes in [&b""[..], b"hello", &[0x30, 0x82, 0xff, 0xff]] {
            assert_eq!(HostCertificate::read(bytes), Err(CertificateError::Unreadable));
        }
    }
}
