//! The fleet's CAs while they are in use: the newest signs, all are trusted. Their keys are in memory only; the store has
//! them sealed.

use chom_certs::{Authority, AuthorityError, BundleError, CaBundle};
use chom_protocol::link::FleetInfo;
use chom_protocol::{Name, UnixMillis};

use crate::fleet::rows::AuthorityRow;
use crate::fleet::state::{State, Table};
use crate::store::seal::{MasterKey, SealError};

/// Why the fleet's CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// The key does not open.
    #[error("the fleet CA's key cannot be unsealed")]
    Seal(#[from] SealError),
    /// It opens to something else.
    #[error("the fleet CA cannot be read")]
    Authority(#[from] AuthorityError),
    /// The certificates do not make a bundle.
    #[error("the fleet's CA certificates make no bundle")]
    Bundle(#[from] BundleError),
    /// There is none.
    #[error("the store holds no CA: it was not made by `chom-orchestrator init`; restore an export")]
    None,
    /// The key is no text.
    #[error("the fleet CA's key is no PEM text")]
    Text,
}

/// The fleet's CAs.
#[derive(Debug)]
pub struct Authorities {
    signing: Authority,
    bundle: CaBundle,
}

impl Authorities {
    /// Unseals the CAs of a state.
    ///
    /// # Errors
    /// When there is none, or one does not open under the master key.
    pub fn open(state: &State, master: &MasterKey) -> Result<Self, AuthoritiesError> {
        let mut all = Vec::new();
        for stored in state.authorities.values() {
            let row = stored.row.as_ref();
            let key = master.open(&AuthorityRow::key(&row.number), &row.sealed_key)?;
            let key = String::from_utf8(key).map_err(|_| AuthoritiesError::Text)?;
            all.push(Authority::from_pem(&row.certificate, &key)?);
        }
        let bundle = CaBundle::new(all.iter().map(Authority::certificate_der))?;
        let signing = all.pop().ok_or(AuthoritiesError::None)?;
        Ok(Self { signing, bundle })
    }

    /// Makes a new CA and the row that keeps it, with its key sealed.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn create(
        fleet: &Name,
        number: u64,
        master: &MasterKey,
        now: UnixMillis,
    ) -> Result<AuthorityRow, AuthoritiesError> {
        let (certificate, key) = Authority::create(fleet, now)?.to_pem();
        let sealed_key = master.seal(&AuthorityRow::key(&number), key.reveal().as_bytes())?;
        Ok(AuthorityRow { number, certificate, sealed_key })
    }

    /// The CA that signs.
    #[must_use]
    pub fn signing(&self) -> &Authority {
        &self.signing
    }

    /// The CAs that are trusted.
    #[must_use]
    pub fn bundle(&self) -> &CaBundle {
        &self.bundle
    }

    /// What agents should know.
    #[must_use]
    pub fn fleet_info(&self, orchestrators: &[String]) -> FleetInfo {
        FleetInfo {
            orchestrators: orchestrators.to_vec(),
            ca_bundle: self.bundle.certificates().iter().map(|certificate| certificate.to_vec()).collect(),
        }
    }
}
