//! A host of a test: folders, an identity, guests of the fake driver that outlive the agent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chom_agent::agent::{Agent, Parts, STOP_GRACE, Settings};
use chom_agent::boot;
use chom_agent::clock;
use chom_agent::driver::fake::FakeDriver;
use chom_agent::ledger::Ledger;
use chom_agent::measure::{FixedProbe, Probe};
use chom_certs::{HostKey, Identity};
use chom_protocol::host::{AgentSettings, HostSpec, HostStatus};
use chom_protocol::vps::{
    Engine, GuestShutdown, ImageFormat, ImageReference, NetworkInterface, Power, Sha256, VpsSpec, VpsState,
};
use chom_protocol::{BootId, Bytes, Generation, HostId, Name, UnixMillis, VpsId};
use tempfile::TempDir;
use uuid::Uuid;

use crate::orchestrator::{Orchestrator, wait};

pub const IMAGE: &[u8] = &[7; 300_000];

pub struct Host {
    pub folder: TempDir,
    pub id: HostId,
    pub driver: FakeDriver,
    /// Engines beside the fake one.
    pub others: Vec<FakeDriver>,
    pub boot: BootId,
    pub destroys_per_hour: u32,
    pub moved_grace: Duration,
    number: u64,
}

impl Host {
    /// Enrolled with `orchestrator`, as of `signed_at`.
    pub fn enrolled(orchestrator: &Orchestrator, signed_at: UnixMillis) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let id = HostId::new(Uuid::new_v4());
        let key = HostKey::load_or_create(&folder.path().join("identity")).unwrap();
        let signed = orchestrator.authority.sign_host(&key.csr_der().unwrap(), id, signed_at).unwrap();
        key.install(&signed.der, orchestrator.bundle()).unwrap();
        Ledger::save_orchestrators(folder.path(), &[orchestrator.address.to_string()]).unwrap();
        orchestrator.told().blobs.insert(Sha256::of(IMAGE), IMAGE.to_vec());
        Self {
            folder,
            id,
            driver: FakeDriver::in_memory(),
            others: Vec::new(),
            boot: boot::simulated(),
            destroys_per_hour: 5,
            moved_grace: Duration::from_secs(120),
            number: 0,
        }
    }

    pub fn new(orchestrator: &Orchestrator) -> Self {
        Self::enrolled(orchestrator, clock::now())
    }

    pub fn start(&self) -> Agent {
        self.start_with(Box::new(FixedProbe::default()))
    }

    pub fn start_with(&self, probe: Box<dyn Probe>) -> Agent {
        let settings = Settings {
            state_directory: self.folder.path().to_owned(),
            image_directory: self.images(),
            vps_directory: self.folder.path().join("vps"),
            destroys_per_hour: self.destroys_per_hour,
            moved_grace: self.moved_grace,
        };
        let identity = Identity::load(&self.folder.path().join("identity")).unwrap();
        let drivers = [self.driver.clone()].into_iter().chain(self.others.clone()).collect();
        Agent::start(Parts { settings, identity, drivers, probe, boot: self.boot }).unwrap()
    }

    pub fn images(&self) -> PathBuf {
        self.folder.path().join("images")
    }

    /// A desired state, newer than the last.
    pub fn spec(&mut self, vps: impl IntoIterator<Item = VpsSpec>) -> HostSpec {
        self.number += 1;
        HostSpec {
            prefetch: Default::default(),
            host: self.id,
            generation: Generation { epoch: 1, number: self.number },
            settings: AgentSettings {
                report_interval_seconds: 1,
                reconcile_interval_seconds: 1,
                stop_grace_seconds: 1,
                destroys_allowed_until: None,
            },
            vps: vps.into_iter().map(|vps| (vps.id, vps)).collect(),
            tombstones: Default::default(),
            jobs: Default::default(),
        }
    }

    /// How often the guest was switched on; none if there is none.
    pub fn starts(&self, id: VpsId) -> Option<u64> {
        self.driver.world().guests.get(&id).map(|guest| guest.starts)
    }

    pub fn runs(&self, id: VpsId) -> bool {
        self.driver.world().guests.get(&id).is_some_and(|guest| guest.state == VpsState::Running)
    }
}

pub fn vps(number: u128) -> VpsSpec {
    let name: Name = format!("v{number}").parse().unwrap();
    VpsSpec {
        id: VpsId::new(Uuid::from_u128(number)),
        tenant: Name::default_tenant(),
        name,
        placement: 1,
        engine: Engine::Fake,
        power: Power::Running,
        guest_shutdown: GuestShutdown::StayOff,
        hold: false,
        retained: false,
        start_count: 0,
        build: 0,
        suspension: None,
        stop_grace_seconds: None,
        cores: 1,
        memory: Bytes::gib(1),
        disk: Bytes::gib(1),
        image: Some(ImageReference {
            name: "tiny".parse().unwrap(),
            sha256: Sha256::of(IMAGE),
            size: Bytes(IMAGE.len() as u64),
            format: ImageFormat::Raw,
        }),
        interface: NetworkInterface::bare([2, 0, 0, 0, 0, 1]),
        ssh_keys: vec![],
        user_data: None,
        source: None,
        rescue: None,
        iso: None,
        adopted: None,
    }
}

pub async fn stop(agent: Agent) {
    agent.stop(STOP_GRACE).await.unwrap();
}

/// Waits until the status is as said.
pub async fn status(
    agent: &Agent,
    what: &str,
    mut is_so: impl FnMut(&HostStatus) -> bool,
) -> Arc<HostStatus> {
    let status = agent.status();
    wait(what, || status.borrow().as_ref().is_some_and(|status| is_so(status))).await;
    let status = status.borrow().clone();
    status.unwrap()
}
