//! A fleet to measure: the real orchestrator as a process of its own, on a store that the use cases themselves filled with
//! hosts (enrolled, with identities on disk) and running VPSs.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chom_certs::{HostKey, JoinCode};
use chom_orchestrator::config::Config;
use chom_orchestrator::fleet::{Caller, Fleet, RequestMark};
use chom_orchestrator::run::{self, Running};
use chom_protocol::api::hosts::AddHost;
use chom_protocol::api::tokens::Role;
use chom_protocol::api::vps_servers::CreateVps;
use chom_protocol::host::{Acceleration, EngineStatus, HostSpec, HostStatus, Inventory};
use chom_protocol::vps::{Engine, VpsState, VpsStatus};
use chom_protocol::{BootId, Bytes, Generation, HostId, Name, TokenId, UnixMillis};
use chom_tests::process::{Process, program, run as run_program};
use chom_tests::wait::wait_for;
use tempfile::TempDir;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::client::{Client, Target};

/// Loading 20,000 VPSs takes under a second.
const READY_SECONDS_MAX: Duration = Duration::from_secs(60);
/// Use cases under way at once while a store is filled: enough for the store's groups.
const FILL_AT_ONCE: usize = 128;
/// VPSs whose first report one commit of the orchestrator takes.
const REPORT_VPS_MAX: usize = 16;
/// The image that is made up where none is given, in the world's folder.
pub(crate) const MADE_UP_IMAGE: &str = "image.raw";
/// Where hosts stand.
pub(crate) const REGION: &str = "us-east";

/// How the fleet is set up.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) hosts: usize,
    pub(crate) vps_per_host: usize,
    /// Seconds without a sign of life after which a host counts as unreachable.
    pub(crate) unreachable_after_seconds: u32,
    /// Seconds between reports of an agent.
    pub(crate) report_seconds: u32,
    /// Seconds between passes of an agent.
    pub(crate) reconcile_seconds: u32,
    /// Where the API and the link are; loopback unless hosts of their own must reach them.
    pub(crate) address: Ipv4Addr,
    /// What runs the image, and what it is made of.
    pub(crate) image: Option<(Engine, PathBuf)>,
    /// Size of the image that is made up where none is given.
    pub(crate) image_bytes: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            hosts: 0,
            vps_per_host: 0,
            unreachable_after_seconds: 60,
            report_seconds: 15,
            reconcile_seconds: 30,
            address: Ipv4Addr::LOCALHOST,
            image: None,
            image_bytes: 64 * 1024,
        }
    }
}

/// A fleet that was set up; its orchestrator runs or not.
pub(crate) struct World {
    folder: TempDir,
    api: SocketAddr,
    token: String,
    process: Option<Process>,
}

impl World {
    /// Sets up an empty fleet.
    pub(crate) fn new(shape: &Shape) -> Self {
        // Not in memory: disks are part of what is measured.
        let folder = tempfile::Builder::new().prefix("chom-bench-").tempdir_in("/var/tmp").unwrap();
        let api = free_tcp(shape.address);
        write_config(folder.path(), shape, api, free_udp(shape.address));
        let config = folder.path().join("orchestrator.toml");
        let arguments = [Path::new("--config"), &config, Path::new("init")];
        let token = run_program(&program("chom-orchestrator"), arguments).well("chom-orchestrator init");
        Self { folder, api, token: token.trim().to_owned(), process: None }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config(&self) -> Config {
        Config::load(&self.folder.path().join("orchestrator.toml")).unwrap()
    }

    /// Starts the real program and waits until it is ready.
    pub(crate) fn start(&mut self) {
        let config = self.folder.path().join("orchestrator.toml");
        let arguments = [Path::new("--config"), &config, Path::new("run")];
        let log = self.folder.path().join("orchestrator.log");
        self.process = Some(Process::start(&program("chom-orchestrator"), arguments, &log));
        let target = self.target();
        wait_for("the orchestrator to be ready", READY_SECONDS_MAX, || {
            let asked = target.connect().and_then(|mut client| client.call("GET", "/readyz", None));
            match asked {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("HTTP {}", answer.status)),
                Err(error) => Err(error.to_string()),
            }
        });
    }

    /// Asks it to end and waits.
    pub(crate) fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            assert!(process.stop().success(), "the orchestrator did not end well");
        }
    }

    /// kill -9.
    pub(crate) fn kill_9(&mut self) {
        self.process.take().unwrap().kill_9();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().pid()
    }

    pub(crate) fn target(&self) -> Target {
        let ca = self.folder.path().join("state/ca.pem");
        Target::new(self.api, &ca, &self.token).unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        self.target().connect().unwrap()
    }

    /// Where agents dial.
    pub(crate) fn link(&self) -> String {
        self.config().public_addresses[0].clone()
    }

    /// Runs an orchestrator within this process, to fill the store or to look inside.
    pub(crate) async fn within(&self) -> Running {
        run::start(&self.config()).await.unwrap()
    }

    /// Fills the store with hosts and their running VPSs, through the use cases.
    pub(crate) async fn fill(&self, shape: &Shape) {
        let running = self.within().await;
        let hosts = add_hosts(&running.fleet, self.folder.path(), shape.hosts).await;
        create(&running.fleet, shape.hosts * shape.vps_per_host).await;
        for host in hosts {
            converge(&running.fleet, host).await;
        }
        running.stop().await.unwrap();
    }
}

/// The folder of a host, by its number.
pub(crate) fn host_folder(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("hosts/{number}"))
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Who fills.
pub(crate) fn caller() -> Caller {
    Caller {
        name: "bench".into(),
        token: TokenId::new(Uuid::from_u128(7)),
        role: Role::Admin,
        tenant: None,
        vps: None,
        origin: Default::default(),
    }
}

/// A VPS to ask for.
pub(crate) fn request(vps: &str) -> CreateVps {
    CreateVps {
        engine: None,
        name: name(vps),
        region: name(REGION),
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

async fn add_hosts(fleet: &Fleet, folder: &Path, count: usize) -> Vec<HostId> {
    let mut tasks = JoinSet::new();
    let mut hosts = Vec::new();
    for number in 0..count {
        if tasks.len() >= FILL_AT_ONCE {
            hosts.extend(tasks.join_next().await.map(Result::unwrap));
        }
        let (fleet, folder) = (fleet.clone(), host_folder(folder, number));
        tasks.spawn(async move { add_host(&fleet, &folder, number).await });
    }
    hosts.extend(tasks.join_all().await);
    hosts
}

async fn add_host(fleet: &Fleet, folder: &Path, number: usize) -> HostId {
    let request = AddHost { name: name(&format!("host-{number}")), region: name(REGION), host: None };
    let added = fleet.add_host(&caller(), RequestMark::default(), request).await.unwrap().value;
    let code: JoinCode = added.join_code.parse().unwrap();
    let identity = folder.join("state/identity");
    fs::create_dir_all(&identity).unwrap();
    let key = HostKey::load_or_create(&identity).unwrap();
    let enrolled = fleet.enrol(&code.token().reveal(), key.csr_der().unwrap()).await.unwrap();
    key.install(&enrolled.certificate, fleet.authorities().bundle().clone()).unwrap();
    fleet.observe(enrolled.host, status(inventory(number))).await.unwrap();
    enrolled.host
}

/// What a host is said to be.
pub(crate) fn inventory(number: usize) -> Inventory {
    Inventory {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: format!("host-{number}"),
        kernel: "6.1.0-32-amd64".to_owned(),
        os: "Debian GNU/Linux 12 (bookworm)".to_owned(),
        cores: 32,
        memory: Bytes::gib(256),
        disk: Bytes::gib(4000),
        disk_free: Bytes::gib(3000),
    }
}

async fn create(fleet: &Fleet, count: usize) {
    let mut tasks = JoinSet::new();
    for number in 0..count {
        if tasks.len() >= FILL_AT_ONCE {
            tasks.join_next().await.unwrap().unwrap();
        }
        let fleet = fleet.clone();
        tasks.spawn(async move {
            let request = request(&format!("vps-{number}"));
            fleet.create_vps(&caller(), RequestMark::default(), request).await.unwrap();
        });
    }
    tasks.join_all().await;
}

/// The host reports that all runs as wanted.
async fn converge(fleet: &Fleet, host: HostId) {
    let spec: HostSpec = fleet.spec(host).unwrap();
    let observation = fleet.observations().of(host).unwrap();
    let mut status = observation.status.as_deref().cloned().unwrap();
    (status.accepted, status.reconciled) = (spec.generation, spec.generation);
    let seen = |start_count| VpsStatus {
        state: VpsState::Running,
        placement: 1,
        start_count,
        build: 0,
        restart_needed: false,
        since: UnixMillis(0),
        problem: None,
        progress: None,
        traffic: None,
        snapshots: None,
        guest: None,
    };
    status.vps = spec.vps.values().map(|vps| (vps.id, seen(vps.start_count))).collect();
    for _ in 0..=spec.vps.len() / REPORT_VPS_MAX {
        fleet.observe(host, status.clone()).await.unwrap();
    }
}

fn status(inventory: Inventory) -> HostStatus {
    HostStatus {
        prefetch: Default::default(),
        boot: BootId::new(Uuid::from_u128(2)),
        observed_at: UnixMillis(0),
        accepted: Generation::default(),
        reconciled: Generation::default(),
        inventory,
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

fn free_tcp(address: Ipv4Addr) -> SocketAddr {
    TcpListener::bind((address, 0)).and_then(|listener| listener.local_addr()).unwrap()
}

fn free_udp(address: Ipv4Addr) -> SocketAddr {
    UdpSocket::bind((address, 0)).and_then(|socket| socket.local_addr()).unwrap()
}

fn write_config(folder: &Path, shape: &Shape, api: SocketAddr, link: SocketAddr) {
    let engine = shape.image.as_ref().map_or(Engine::Fake, |(engine, _)| *engine);
    let format = match engine {
        Engine::Libvirt => "qcow2",
        Engine::Incus => "incus_tarball",
        Engine::Fake => "raw",
    };
    let image = shape.image.clone().map(|(_, file)| file).unwrap_or_else(|| {
        let made_up = folder.join(MADE_UP_IMAGE);
        // Of no content that a file system or a network could make smaller.
        let mut content = vec![0; shape.image_bytes];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut content).unwrap();
        fs::write(&made_up, content).unwrap();
        made_up
    });
    let path = |name: &str| folder.join(name);
    let mut text = format!(
        "state_directory = {:?}\nexport_directory = {:?}\nmaster_key = {:?}\nlisten_api = \"{api}\"\n\
         listen_link = \"{link}\"\npublic_addresses = [\"{link}\"]\nregions = [\"{REGION}\"]\n\
         unreachable_after_seconds = {}\noperation_seconds_max = 3600\n\n",
        path("state"),
        path("exports"),
        path("master.key"),
        shape.unreachable_after_seconds,
    );
    write!(
        text,
        "[limits]\ntoken_requests_per_second = 1000000\ntoken_burst = 1000000\n\n\
         [overcommit]\ncores_per_core = 100\n\n[agent]\nreport_interval_seconds = {}\nreconcile_interval_seconds = {}\nstop_grace_seconds = 5\n\n\
         [[size]]\nname = \"small\"\ncores = 1\nmemory_mib = 192\ndisk_mib = 256\n\n\
         [[image]]\nname = \"hello\"\nfile = {image:?}\nengine = \"{engine}\"\nformat = \"{format}\"\n\
         minimum_disk_mib = 64\ndefault = true\n",
        shape.report_seconds, shape.reconcile_seconds,
    )
    .unwrap();
    fs::write(path("orchestrator.toml"), text).unwrap();
}
