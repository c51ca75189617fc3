//! The use cases on a real store, with hosts that are told what to report.

mod adopt;
mod bulk;
mod engine;
mod external_ids;
pub(crate) mod golden;
mod lifecycle;
mod operations;
mod order;
mod placing;
mod plans;
mod quota;
mod restore;
mod rotation;
mod snapshots;
mod ssh_keys;

use std::sync::Arc;

use chom_certs::PeerIdentity;
use chom_protocol::api::hosts::AddHost;
use chom_protocol::api::tokens::Role;
use chom_protocol::api::vps_servers::{CreateVps, VpsAccepted};
use chom_protocol::host::{Acceleration, EngineStatus, HostStatus, Inventory};
use chom_protocol::link::{Hello, Standing};
use chom_protocol::vps::{Engine, ImageFormat, ImageReference, Power, Sha256, VpsState, VpsStatus};
use chom_protocol::{
    BootId, Bytes, Generation, HostId, InstanceId, Name, OperationId, TokenId, UnixMillis, VpsId,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::clock;
use crate::fleet::authority::Authorities;
use crate::fleet::catalogue::{Catalogue, Image, Overcommit, Size};
use crate::fleet::rows::{AuthorityRow, HostRow, OperationRow};
use crate::fleet::state::Table;
use crate::fleet::vps::Action;
use crate::fleet::{Caller, Done, Fleet, FleetError, RequestMark};
use crate::store::seal::MasterKey;
use crate::store::{Commit, Meta, Store, encode, sled};

/// A fleet on a store of its own.
pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) folder: tempfile::TempDir,
    stop: CancellationToken,
    tasks: TaskTracker,
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn caller() -> Caller {
    Caller {
        name: "admin".into(),
        token: TokenId::new(Uuid::from_u128(7)),
        role: Role::Admin,
        tenant: None,
        vps: None,
        origin: Default::default(),
    }
}

pub(crate) fn catalogue() -> Catalogue {
    let image = Image {
        reference: ImageReference {
            name: name("hello"),
            sha256: Sha256::of(b"image"),
            size: Bytes::mib(20),
            format: ImageFormat::Qcow2,
        },
        engine: Engine::Fake,
        minimum_disk: Bytes::mib(100),
    };
    Catalogue {
        fleet_name: name("test"),
        regions: vec![name("eu-west"), name("us-east")],
        sizes: [(name("small"), Size { cores: 1, memory: Bytes::mib(256), disk: Bytes::gib(1) })].into(),
        images: [(name("hello"), image)].into(),
        default_images: vec![name("hello")],
        overcommit: Overcommit {
            cores_per_core: 8,
            memory_percent: 100,
            cores_reserved: 0,
            memory_reserved: Bytes(0),
            disk_reserved: Bytes(0),
        },
        agent: Default::default(),
        retention_seconds: 3600,
        unreachable_after_seconds: 45,
        operation_seconds_max: 600,
        image_networks: vec!["127.0.0.0/8".parse().unwrap()],
        webhook_networks: vec!["127.0.0.0/8".parse().unwrap()],
        link_addresses: vec!["orchestrator.example:7443".to_owned()],
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(catalogue()).await
    }

    /// A fleet with a catalogue of its own.
    pub(crate) async fn with(catalogue: Catalogue) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let master = MasterKey::create(&folder.path().join("master-key")).unwrap();
        let store = open(&folder);
        let mut authority = Authorities::create(&name("test"), 1, &master, clock::now()).unwrap();
        authority.signs_since = Some(authority.announced_at);
        let commit = Commit::new()
            .put(Meta::key(), encode(&Meta::new("test", clock::now())).unwrap())
            .put(AuthorityRow::key(&1), encode(&authority).unwrap());
        store.commit(commit).await.unwrap();
        Self::start(folder, store, catalogue).await
    }

    pub(crate) async fn start(
        folder: tempfile::TempDir,
        store: Arc<dyn Store>,
        catalogue: Catalogue,
    ) -> Self {
        let master = MasterKey::from_file(&folder.path().join("master-key")).unwrap();
        let (fleet, task) = Fleet::load(store, catalogue, Arc::new(master), clock::now()).await.unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(task.run(stop.clone()));
        Self { fleet, folder, stop, tasks }
    }

    /// Stops everything and starts again on the same store.
    pub(crate) async fn restart(self) -> Self {
        let folder = self.end().await;
        let store = open(&folder);
        Self::start(folder, store, catalogue()).await
    }

    pub(crate) async fn end(self) -> tempfile::TempDir {
        let Self { fleet, folder, stop, tasks } = self;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        drop(fleet);
        folder
    }

    /// A host that has enrolled and reported, with room for `vps` VPSs of size `small`.
    pub(crate) async fn host(&self, host: &str, region: &str, vps: u64) -> HostId {
        let request = AddHost { name: name(host), region: name(region), host: None };
        let added = self.fleet.add_host(&caller(), RequestMark::default(), request).await.unwrap().value;
        let code: chom_certs::JoinCode = added.join_code.parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let csr = chom_certs::HostKey::load_or_create(folder.path()).unwrap().csr_der().unwrap();
        let enrolled = self.fleet.enrol(&code.token().reveal(), csr).await.unwrap();
        assert_eq!(enrolled.host, added.host);
        let mut status = empty_status();
        status.inventory = Inventory {
            cores: 64,
            memory: Bytes(Bytes::mib(256).0 * vps),
            disk: Bytes::gib(1000),
            ..Inventory::default()
        };
        self.fleet.observe(added.host, status).await.unwrap();
        added.host
    }

    pub(crate) async fn create(&self, vps: &str, region: &str) -> Result<Done<VpsAccepted>, FleetError> {
        self.fleet.create_vps(&caller(), RequestMark::default(), request(vps, region)).await
    }

    pub(crate) async fn act(&self, vps: VpsId, action: Action) -> Result<VpsAccepted, FleetError> {
        self.fleet.act(&caller(), RequestMark::default(), vps, action).await.map(|done| done.value)
    }

    pub(crate) fn operation(&self, id: OperationId) -> OperationRow {
        self.fleet.state().get::<OperationRow>(&id).unwrap().clone()
    }

    /// The host reports that all is as it should be, tombstones carried out.
    pub(crate) async fn converge(&self, host: HostId) {
        let spec = self.fleet.spec(host).unwrap();
        let mut status = self.status_of(host);
        (status.accepted, status.reconciled) = (spec.generation, spec.generation);
        status.vps = spec
            .vps
            .values()
            .map(|vps| {
                let state = match vps.wanted_power() {
                    Power::Running => VpsState::Running,
                    Power::Paused => VpsState::Paused,
                    Power::Stopped => VpsState::Stopped,
                };
                (vps.id, VpsStatus { build: vps.build, ..seen(state, vps.start_count) })
            })
            .chain(spec.tombstones.keys().map(|id| (*id, seen(VpsState::Absent, 0))))
            .collect();
        self.fleet.observe(host, status).await.unwrap();
    }

    pub(crate) fn status_of(&self, host: HostId) -> HostStatus {
        let observation = self.fleet.observations().of(host).unwrap();
        observation.status.as_deref().cloned().unwrap_or_else(empty_status)
    }

    pub(crate) fn standing(&self, host: HostId) -> Result<Standing, FleetError> {
        let state = self.fleet.state();
        let certificate = state.get::<HostRow>(&host).unwrap().certificate.clone().unwrap();
        let peer = PeerIdentity {
            host,
            serial: certificate.serial,
            not_before: UnixMillis(0),
            not_after: certificate.not_after,
            key_fingerprint: certificate.key,
            expired: false,
        };
        let hello = Hello {
            host,
            instance: InstanceId::new(Uuid::from_u128(1)),
            boot: BootId::new(Uuid::from_u128(2)),
            agent_version: "0.1.0".to_owned(),
            accepted: Generation::default(),
        };
        self.fleet.admit(&peer, &hello)
    }
}

pub(crate) fn open(folder: &tempfile::TempDir) -> Arc<dyn Store> {
    let options =
        sled::Options { folder: folder.path().join("store"), exports: folder.path().join("exports") };
    // The writer of a store that was just closed may still be on its way out.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        match sled::open(&options) {
            Ok(store) => return store,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        std::thread::yield_now();
    }
}

pub(crate) fn request(vps: &str, region: &str) -> CreateVps {
    CreateVps {
        engine: None,
        name: name(vps),
        region: name(region),
        size: name("small"),
        image: None,
        network: None,
        ssh_keys: vec![],
        tenant_keys: None,
        user_data: None,
        guest_shutdown: Default::default(),
        anti_affinity: None,
        host_labels: Default::default(),
        tenant: None,
        external_id: None,
    }
}

pub(crate) fn seen(state: VpsState, start_count: u64) -> VpsStatus {
    VpsStatus {
        state,
        placement: 1,
        start_count,
        build: 0,
        restart_needed: false,
        since: UnixMillis(0),
        problem: None,
        progress: None,
        traffic: None,
        snapshots: Some(vec![]),
        guest: None,
    }
}

fn empty_status() -> HostStatus {
    HostStatus {
        prefetch: Default::default(),
        boot: BootId::new(Uuid::from_u128(2)),
        observed_at: UnixMillis(0),
        accepted: Generation::default(),
        reconciled: Generation::default(),
        inventory: Inventory::default(),
        engines: vec![EngineStatus {
            engine: Engine::Fake,
            version: "1".to_owned(),
            acceleration: Acceleration::None,
            problem: None,
        }],
        vps: Default::default(),
        foreign: vec![],
        orphans: vec![],
        destroys_waiting: vec![],
        problems: vec![],
    }
}

#[test]
fn every_folder_of_the_store_has_one_table() {
    let folders = [
        HostRow::folder(),
        OperationRow::folder(),
        AuthorityRow::folder(),
        crate::fleet::rows::VpsRow::folder(),
        crate::fleet::rows::VpsNameRow::folder(),
        crate::fleet::rows::ObservedRow::folder(),
        crate::fleet::rows::ObservedVpsRow::folder(),
    ];
    for (place, one) in folders.iter().enumerate() {
        for other in &folders[place + 1..] {
            assert!(!one.as_str().starts_with(other.as_str()) && !other.as_str().starts_with(one.as_str()));
        }
    }
}
