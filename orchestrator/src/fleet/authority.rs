//! The fleet's CAs while they are in use: all are trusted; of those that may sign, the newest signs hosts' certificates and
//! the oldest those of the orchestrator itself, because every host trusts it, also one that was away while a newer one was
//! announced. Their keys are in memory only; the store has them sealed.

use chom_certs::{Authority, AuthorityError, BundleError, CaBundle};
use chom_protocol::link::FleetInfo;
use chom_protocol::vps::Sha256;
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
    #[error(
        "the store holds no CA that may sign: it was not made by `chom-orchestrator init`; restore an export"
    )]
    None,
    /// The key is no text.
    #[error("the fleet CA's key is no PEM text")]
    Text,
}

/// The fleet's CAs.
#[derive(Debug)]
pub struct Authorities {
    /// Those that may sign, oldest first: never empty.
    signers: Vec<(u64, Authority)>,
    bundle: CaBundle,
    digest: Sha256,
}

impl Authorities {
    /// Unseals the CAs of a state.
    ///
    /// # Errors
    /// When none may sign, or one does not open under the master key.
    pub fn open(state: &State, master: &MasterKey) -> Result<Self, AuthoritiesError> {
        let (mut signers, mut certificates) = (Vec::new(), Vec::new());
        for stored in state.authorities.values() {
            let row = stored.row.as_ref();
            let key = master.open(&AuthorityRow::key(&row.number), &row.sealed_key)?;
            let key = String::from_utf8(key).map_err(|_| AuthoritiesError::Text)?;
            let authority = Authority::from_pem(&row.certificate, &key)?;
            certificates.push(authority.certificate_der().to_vec());
            if row.signs_since.is_some() {
                signers.push((row.number, authority));
            }
        }
        if signers.is_empty() {
            return Err(AuthoritiesError::None);
        }
        let bundle = CaBundle::new(certificates)?;
        Ok(Self { digest: bundle.digest(), signers, bundle })
    }

    /// Makes a new CA and the row that keeps it, with its key sealed. It is only announced.
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
        Ok(AuthorityRow { number, announced_at: now, signs_since: None, certificate, sealed_key })
    }

    /// The CA that signs hosts' certificates.
    #[must_use]
    #[expect(clippy::expect_used, reason = "`open` makes none without a signer")]
    pub fn signing(&self) -> &Authority {
        &self.signers.last().expect("a CA that signs").1
    }

    /// Its number.
    #[must_use]
    pub fn signing_number(&self) -> u64 {
        self.signers.last().map_or(0, |(number, _)| *number)
    }

    /// The CA that signs the orchestrator's own certificates: every host of the fleet trusts it.
    #[must_use]
    #[expect(clippy::expect_used, reason = "`open` makes none without a signer")]
    pub fn serving(&self) -> &Authority {
        &self.signers.first().expect("a CA that signs").1
    }

    /// The CAs that are trusted.
    #[must_use]
    pub fn bundle(&self) -> &CaBundle {
        &self.bundle
    }

    /// What a host that trusts exactly these says of them.
    #[must_use]
    pub const fn digest(&self) -> Sha256 {
        self.digest
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
