//! The one string that an admin pastes on a new host: where the orchestrators are, the CA to trust, and the token.
//! Text only, no I/O.
//!
//! ```text
//! orch1.example.com:7443,[2001:db8::1]:7443/<CA fingerprint, 64 hex>/chom-enrol-<token, 64 hex>
//! ```

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use rustls::pki_types::DnsName;

use crate::enrol::{EnrolmentToken, TokenError};
use crate::fingerprint::{Fingerprint, FingerprintError};

/// Most orchestrator addresses in one code: a cluster has at most five members, seen from two networks at times.
pub const ADDRESSES_MAX: usize = 8;

/// Everything a host needs to enrol. Printing it reveals the token: that is what it is for.
#[derive(Debug, Clone)]
pub struct JoinCode {
    addresses: Vec<String>,
    fingerprint: Fingerprint,
    token: EnrolmentToken,
}

/// Why a text is no join code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinCodeError {
    /// Not three parts.
    #[error(
        "an enrolment code has three parts divided by `/` (addresses, CA fingerprint, token), this one has {count}; paste the whole line that `chomctl host add` printed"
    )]
    Parts {
        /// How many parts there are.
        count: usize,
    },
    /// None or too many.
    #[error("an enrolment code names 1 to {ADDRESSES_MAX} orchestrator addresses, this one {count}")]
    Addresses {
        /// How many there are.
        count: usize,
    },
    /// One is no address.
    #[error(
        "`{address}` is no orchestrator address; write host:port, for example orch.example.com:7443 or [2001:db8::1]:7443"
    )]
    Address {
        /// The address at fault.
        address: String,
    },
    /// The second part.
    #[error("the CA fingerprint in the enrolment code is damaged")]
    Fingerprint(#[source] FingerprintError),
    /// The third part.
    #[error("the token in the enrolment code is damaged")]
    Token(#[source] TokenError),
}

impl JoinCode {
    /// Puts a code together.
    ///
    /// # Errors
    /// When there are no or too many addresses, or one is not `host:port`.
    pub fn new(
        addresses: Vec<String>,
        fingerprint: Fingerprint,
        token: EnrolmentToken,
    ) -> Result<Self, JoinCodeError> {
        if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
            return Err(JoinCodeError::Addresses { count: addresses.len() });
        }
        match addresses.iter().find(|address| !is_address(address)) {
            Some(address) => Err(JoinCodeError::Address { address: address.clone() }),
            None => Ok(Self { addresses, fingerprint, token }),
        }
    }

    /// The orchestrators, each as host:port.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The fingerprint of the CA that must have signed the orchestrator's certificate.
    #[must_use]
    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The token to present.
    #[must_use]
    pub const fn token(&self) -> &EnrolmentToken {
        &self.token
    }

    /// The line to paste in the host's shell. Quoted: shells give brackets a meaning.
    #[must_use]
    pub fn command(&self) -> String {
        format!("chom-agent enrol '{self}'")
    }
}

/// Whether this is `host:port`: a DNS name, an IPv4 address, or an IPv6 address in brackets, and a port above 0.
#[must_use]
pub fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_is_good = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<Ipv4Addr>().is_ok() || DnsName::try_from(host).is_ok(),
    };
    let port_is_good =
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    host_is_good && port_is_good
}

impl fmt::Display for JoinCode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}/{}", self.addresses.join(","), self.fingerprint, self.token.reveal())
    }
}

impl FromStr for JoinCode {
    type Err = JoinCodeError;

    fn from_str(text: &str) -> Result<Self, JoinCodeError> {
        let parts: Vec<&str> = text.trim().split('/').filter(|part| !part.is_empty()).collect();
        let [addresses, fingerprint, token] = parts.as_slice() else {
            return Err(JoinCodeError::Parts { count: parts.len() });
        };
        let fingerprint = fingerprint.parse().map_err(JoinCodeError::Fingerprint)?;
        let token = token.parse().map_err(JoinCodeError::Token)?;
        Self::new(addresses.split(',').map(str::to_owned).collect(), fingerprint, token)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;

    const FINGERPRINT: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const TOKEN: &str = "chom-enrol-0000000000000000000000000000000000000000000000000000000000000007";

    #[test]
    fn the_line_to_paste_holds_addresses_fingerprint_and_token() {
        let text = format!(" orch.example.com:7443,[2001:db8::1]:7443/{FINGERPRINT}/{TOKEN}\n");
        let code: JoinCode = text.parse().unwrap();
        expect!["chom-agent enrol 'orch.example.com:7443,[2001:db8::1]:7443/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/chom-enrol-0000000000000000000000000000000000000000000000000000000000000007'"]
            .assert_eq(&code.command());
        assert_eq!(code.to_string(), text.trim());
    }

    #[test]
    fn a_damaged_code_says_which_part_is_wrong() {
        let mut shown = String::new();
        for text in [
            String::new(),
            "orch:7443".to_owned(),
            format!("orch:7443/{FINGERPRINT}"),
            format!("/{FINGERPRINT}/{TOKEN}"),
            format!("orch:7443/{}/{TOKEN}", &FINGERPRINT[1..]),
            format!("orch:7443/{FINGERPRINT}/{}", &TOKEN[..20]),
            format!("orch/{FINGERPRINT}/{TOKEN}"),
            format!("orch:7443,/{FINGERPRINT}/{TOKEN}"),
            format!("{}orch:7443/{FINGERPRINT}/{TOKEN}", "orch:7443,".repeat(8)),
        ] {
            let error = text.parse::<JoinCode>().unwrap_err();
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            shown.push_str(&format!("{error}{cause}\n"));
        }
        expect![[r#"
            an enrolment code has three parts divided by `/` (addresses, CA fingerprint, token), this one has 0; paste the whole line that `chomctl host add` printed
            an enrolment code has three parts divided by `/` (addresses, CA fingerprint, token), this one has 1; paste the whole line that `chomctl host add` printed
            an enrolment code has three parts divided by `/` (addresses, CA fingerprint, token), this one has 2; paste the whole line that `chomctl host add` printed
            an enrolment code has three parts divided by `/` (addresses, CA fingerprint, token), this one has 2; paste the whole line that `chomctl host add` printed
            the CA fingerprint in the enrolment code is damaged: the fingerprint has 63 characters, expected 64 hexadecimal digits (SHA-256); copy it whole
            the token in the enrolment code is damaged: the enrolment token must have 64 hexadecimal digits after `chom-enrol-`, this one has 9 characters; paste it whole
            `orch` is no orchestrator address; write host:port, for example orch.example.com:7443 or [2001:db8::1]:7443
            `` is no orchestrator address; write host:port, for example orch.example.com:7443 or [2001:db8::1]:7443
            an enrolment code names 1 to 8 orchestrator addresses, this one 9
        "#]].assert_eq(&shown);
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["orch:1", "a.b.example.com:65535", "192.0.2.1:7443", "[::1]:7443"] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "",
            "orch",
            "orch:",
            "orch:0",
            "orch:65536",
            "orch:+1",
            "::1:7443",
            "[::1]",
            "[orch]:1",
            "a b:1",
            "a'b:1",
        ] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,200}") {
            let _ = text.parse::<JoinCode>();
            let _ = is_address(&text);
        }
    }
}
