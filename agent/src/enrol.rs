//! Joins a fleet: makes the host's key, has it signed, keeps what came. Decides nothing; starts nothing.

use std::path::PathBuf;

use chom_certs::{
    BundleError, CaBundle, HostKey, Identity, IdentityError, JoinCode, JoinCodeError, TlsError,
};
use chom_protocol::HostId;
use chom_protocol::link::{FleetInfo, ToAgent, ToOrchestrator};
use tracing::warn;

use crate::chain::Chain;
use crate::config::Config;
use crate::ledger::{Ledger, LedgerError};
use crate::link::{self, FrameError, LinkError};

/// Why the host did not join.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The code.
    #[error("the enrolment code cannot be used")]
    Code(#[source] JoinCodeError),
    /// It has joined one already, and would leave its VPSs behind.
    #[error("this host is enrolled already, as host {host}; only if it is to begin anew: stop the agent, move `{}` away and enrol again", folder.display())]
    Enrolled {
        /// As which host.
        host: HostId,
        /// Its identity's folder.
        folder: PathBuf,
    },
    /// The host's key or files.
    #[error("the host's identity cannot be made")]
    Identity(#[source] IdentityError),
    /// TLS.
    #[error("TLS cannot be set up")]
    Tls(#[source] TlsError),
    /// No orchestrator of the code took the host.
    #[error("this host could not be enrolled")]
    Link(#[source] LinkError),
    /// An answer that is none.
    #[error("the orchestrator gave an answer that is none; is it of a newer release?")]
    Answer,
    /// The CAs that came.
    #[error("the CA bundle that came cannot be used")]
    Bundle(#[source] BundleError),
    /// The CA of the code is not among them.
    #[error(
        "the CA bundle that came lacks the CA of the enrolment code; somebody stands between, or the code is of another fleet"
    )]
    OtherAuthority,
    /// The addresses.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Enrols this host with the line that `chomctl host add` printed. Repeated with the same key after a lost answer.
///
/// # Errors
/// When the code is damaged, the host is enrolled already, no orchestrator takes the host, or something cannot be written.
pub async fn enrol(config: &Config, code: &str) -> Result<HostId, EnrolError> {
    let code: JoinCode = code.parse().map_err(EnrolError::Code)?;
    let folder = config.identity_directory();
    if let Ok(identity) = Identity::load(&folder) {
        return Err(EnrolError::Enrolled { host: identity.host(), folder });
    }
    let key = HostKey::load_or_create(&folder).map_err(EnrolError::Identity)?;
    let message = ToOrchestrator::Enrol {
        token: code.token().reveal(),
        csr: key.csr_der().map_err(EnrolError::Identity)?,
        hostname: nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let (certificate, fleet) = ask(&code, &message).await?;
    let FleetInfo { orchestrators, ca_bundle } = fleet;
    let bundle = CaBundle::new(ca_bundle).map_err(EnrolError::Bundle)?;
    if !bundle.contains(code.fingerprint()) {
        return Err(EnrolError::OtherAuthority);
    }
    let addresses = if orchestrators.is_empty() { code.addresses().to_vec() } else { orchestrators };
    // The addresses first: with its certificate the host is enrolled, and then it must know whom to dial.
    Ledger::save_orchestrators(&config.state_directory, &addresses)?;
    let identity = key.install(&certificate, bundle).map_err(EnrolError::Identity)?;
    Ok(identity.host())
}

async fn ask(code: &JoinCode, message: &ToOrchestrator) -> Result<(Vec<u8>, FleetInfo), EnrolError> {
    let mut last = LinkError::Nowhere;
    for address in code.addresses() {
        let tls = chom_certs::enrol_client_config(*code.fingerprint()).map_err(EnrolError::Tls)?;
        match link::enrol(address, tls, message.clone()).await {
            Ok(ToAgent::Enrolled { host: _, certificate, fleet }) => return Ok((certificate, fleet)),
            Ok(ToAgent::Problem { problem }) => {
                return Err(EnrolError::Link(FrameError::Problem { problem }.into()));
            }
            Ok(_) => return Err(EnrolError::Answer),
            Err(error) => {
                warn!(address, error = %Chain(&error), "not enrolled there");
                last = error;
            }
        }
    }
    Err(EnrolError::Link(last))
}
