//! CHOM's trust: the fleet's certificate authority, enrolment, renewal, the agent's identity files and the TLS
//! configurations of every connection.
//!
//! Nothing here reads the clock (`now` is an argument), opens a socket or needs an async runtime; only `identity`
//! touches the disk. This is the one crate that names `rcgen`, and *ring* is its only crypto provider.
//!
//! ```text
//! authority ── signs ──► host certificate   client use, URI `chom:host:<id>`, 30 days
//!     │      └─ signs ──► server certificate server use, `SERVER_NAME` and the operator's names
//!     └─ certificate ──► bundle ──► tls (both sides verify against it), identity (kept by the agent)
//! join   the line an admin pastes: addresses, CA fingerprint, single-use token
//! enrol  is this token good?      renew  is it time?      peer  who is this, and may it do more than renew?
//! ```

pub mod authority;
pub mod bundle;
pub mod certificate;
pub mod enrol;
pub mod fingerprint;
pub mod identity;
pub mod join;
pub mod key;
pub mod peer;
pub mod renew;
pub mod server;
pub mod tls;

pub use authority::{Authority, AuthorityError, SignedHost, request_key};
pub use bundle::{BundleError, CaBundle};
pub use certificate::{CertificateError, HostCertificate, Serial};
pub use enrol::{EnrolmentRefused, EnrolmentToken, StoredToken, TokenHash};
pub use fingerprint::Fingerprint;
pub use identity::{HostKey, Identity, IdentityError};
pub use join::{JoinCode, JoinCodeError};
pub use key::{KeyError, KeyPem};
pub use peer::{PeerError, PeerIdentity, peer_identity};
pub use server::{ServerCertificate, ServerCertificateError};
pub use tls::{
    ALPN_ENROL, ALPN_LINK, SERVER_NAME, TlsError, client_config, enrol_client_config, https_server_config,
    server_config,
};
