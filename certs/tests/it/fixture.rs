//! A fleet on paper: an authority, an enrolled host, a fixed time.

use chom_certs::{Authority, CaBundle, HostKey, Identity, PeerIdentity, ServerCertificate, peer_identity};
use chom_protocol::{HostId, Name, UnixMillis};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;
use uuid::Uuid;

/// 2027-01-15, any fixed moment.
pub(crate) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
pub(crate) const DAY_SECONDS: u64 = 24 * 60 * 60;

pub(crate) fn after_days(days: u64) -> UnixMillis {
    NOW.plus_seconds(days * DAY_SECONDS)
}

pub(crate) fn host(number: u128) -> HostId {
    HostId::new(Uuid::from_u128(number))
}

pub(crate) fn authority() -> Authority {
    Authority::create(&"demo".parse::<Name>().unwrap(), NOW).unwrap()
}

pub(crate) fn bundle(authorities: &[&Authority]) -> CaBundle {
    CaBundle::new(authorities.iter().map(|authority| authority.certificate_der())).unwrap()
}

pub(crate) fn server(authority: &Authority, now: UnixMillis) -> ServerCertificate {
    authority.sign_server(&["orch.example.com".to_owned(), "192.0.2.1".to_owned()], now).unwrap()
}

/// An enrolled host and its folder, which lives as long as this.
pub(crate) struct Host {
    pub(crate) folder: TempDir,
    pub(crate) identity: Identity,
}

impl Host {
    pub(crate) fn enrol(authority: &Authority, number: u128) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = HostKey::load_or_create(folder.path()).unwrap();
        let signed = authority.sign_host(&key.csr_der().unwrap(), host(number), NOW).unwrap();
        let identity = key.install(&signed.der, bundle(&[authority])).unwrap();
        Self { folder, identity }
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.identity.certificate_der().to_vec().into()]
    }

    pub(crate) fn peer(&self, now: UnixMillis) -> PeerIdentity {
        peer_identity(&self.chain(), self.identity.bundle(), now).unwrap()
    }
}
