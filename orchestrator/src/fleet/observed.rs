//! What agents reported last: in memory, cheap to snapshot, and kept in the store only when it changes in a way that a
//! restarted orchestrator should know. Decides nothing.

use std::sync::{Arc, Mutex, PoisonError};

use chom_certs::Serial;
use chom_protocol::host::{HostSpec, HostStatus};
use chom_protocol::vps::Sha256;
use chom_protocol::{Generation, HostId, InstanceId, UnixMillis};
use imbl::OrdMap;

/// A host as last seen.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// The newest status; none until one came.
    pub status: Option<Arc<HostStatus>>,
    /// When the host last gave any sign of life, by the orchestrator's clock.
    pub seen_at: UnixMillis,
    /// The agent that is connected now.
    pub instance: Option<InstanceId>,
    /// The desired state that is on its disk.
    pub accepted: Generation,
    /// Why it does not take its desired state.
    pub refusal: Option<String>,
    /// Digest of the CAs that it trusts, as the connected agent said.
    pub trusts: Option<Sha256>,
    /// The certificate that the agent showed when it connected last.
    pub shown: Option<Serial>,
    /// What it uploaded after a restore of the orchestrator.
    pub ledger: Option<Arc<HostSpec>>,
}

/// All hosts as of one moment.
pub type Snapshot = OrdMap<HostId, Arc<Observation>>;

/// The newest observation of each host.
#[derive(Debug, Default)]
pub struct Observations(Mutex<Snapshot>);

impl Observations {
    /// All hosts as of now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One host as of now.
    #[must_use]
    pub fn of(&self, host: HostId) -> Option<Arc<Observation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&host).cloned()
    }

    pub(super) fn change(&self, host: HostId, change: impl FnOnce(&mut Observation)) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = map.get(&host).map(|old| Observation::clone(old)).unwrap_or_default();
        change(&mut new);
        map.insert(host, Arc::new(new));
    }
}
