//! Many agents in one process: each with the product's own link, ledger, spool and reconciler, a folder of its own, and
//! guests in memory. What the host is and measures is made up; nothing else is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chom_agent::agent::{Agent, Parts, Settings};
use chom_agent::config::Config;
use chom_agent::driver::fake::FakeDriver;
use chom_agent::link::Contact;
use chom_agent::measure::FixedProbe;
use chom_agent::{boot, enrol};
use chom_certs::Identity;
use chom_protocol::host::Inventory;
use chom_protocol::sample::{Metric, Point};
use chom_protocol::{Bytes, HostId};
use chom_supervise::SuperviseError;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Enrolments at once: each is a handshake, a signature and some files.
const ENROLMENTS_MAX: usize = 16;
/// Agents stop within this, also when thousands write to one disk.
const STOP_GRACE: Duration = Duration::from_secs(60);

/// One simulated host.
#[derive(Debug)]
pub struct Simulated {
    /// The agent, as the daemon runs it.
    pub agent: Agent,
    /// Its guests.
    pub engine: FakeDriver,
}

/// Running agents.
#[derive(Debug, Default)]
pub struct Simulation {
    /// All of them.
    pub hosts: Vec<Simulated>,
}

/// A host as large as its VPSs need, so that capacity is never what is measured.
#[must_use]
pub fn inventory() -> Inventory {
    Inventory {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: "simulated".to_owned(),
        kernel: "6.1".to_owned(),
        os: "simulated".to_owned(),
        cores: 64,
        memory: Bytes::gib(512),
        disk: Bytes::gib(16 * 1024),
        disk_free: Bytes::gib(16 * 1024),
    }
}

/// About as many points as a host with a few disks, file systems and interfaces has.
fn points() -> Vec<Point> {
    let point = |metric, label: &str, value| Point { metric, vps: None, label: label.to_owned(), value };
    let mut points = vec![
        point(Metric::Load1, "", 0.5),
        point(Metric::Load5, "", 0.5),
        point(Metric::Load15, "", 0.5),
        point(Metric::MemoryTotal, "", 512e9),
        point(Metric::MemoryAvailable, "", 300e9),
        point(Metric::SwapTotal, "", 0.0),
        point(Metric::SwapFree, "", 0.0),
        point(Metric::Uptime, "", 1e6),
    ];
    for mode in ["user", "system", "iowait", "idle"] {
        points.push(point(Metric::CpuSeconds, mode, 1e6));
    }
    for mount in ["/", "/var"] {
        points.push(point(Metric::DiskTotal, mount, 1e12));
        points.push(point(Metric::DiskAvailable, mount, 6e11));
        points.push(point(Metric::InodesTotal, mount, 1e8));
        points.push(point(Metric::InodesFree, mount, 9e7));
    }
    for device in ["nvme0n1", "nvme1n1"] {
        points.push(point(Metric::DiskReadBytes, device, 1e12));
        points.push(point(Metric::DiskWrittenBytes, device, 1e12));
        points.push(point(Metric::DiskBusySeconds, device, 1e5));
    }
    points.push(point(Metric::NetworkReceivedBytes, "eth0", 1e12));
    points.push(point(Metric::NetworkSentBytes, "eth0", 1e12));
    points
}

/// Enrols one host for each code, in folders `0`, `1`, … below `folder`; a folder that is enrolled already is kept.
///
/// # Panics
/// When a host cannot be enrolled.
pub async fn enrol(folder: &Path, codes: Vec<String>) -> Vec<PathBuf> {
    let turns = std::sync::Arc::new(Semaphore::new(ENROLMENTS_MAX));
    let mut tasks = JoinSet::new();
    for (place, code) in codes.into_iter().enumerate() {
        let (folder, turns) = (folder.join(place.to_string()), turns.clone());
        tasks.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            fs::create_dir_all(&folder).unwrap();
            let config = config(&folder);
            if Identity::load(&config.identity_directory()).is_err() {
                enrol::enrol(&config, &code)
                    .await
                    .unwrap_or_else(|error| panic!("host {place}: {}", chom_agent::chain::Chain(&error)));
            }
            (place, folder)
        });
    }
    let mut folders = tasks.join_all().await;
    folders.sort_unstable();
    folders.into_iter().map(|(_, folder)| folder).collect()
}

fn config(folder: &Path) -> Config {
    let path = folder.join("agent.toml");
    let text =
        format!("state_directory = {folder:?}\nruntime_directory = {folder:?}\nengines = [\"fake\"]\n");
    Config::parse(&text, &path).unwrap()
}

impl Simulation {
    /// Starts an agent for each enrolled folder.
    ///
    /// # Panics
    /// When one cannot be started.
    #[must_use]
    pub fn start(folders: &[PathBuf]) -> Self {
        Self { hosts: folders.iter().map(|folder| start(folder)).collect() }
    }

    /// The hosts.
    #[must_use]
    pub fn ids(&self) -> Vec<HostId> {
        self.hosts.iter().map(|host| host.agent.host()).collect()
    }

    /// How many are connected now.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.hosts.iter().filter(|host| host.agent.contact().borrow().is_connected()).count()
    }

    /// Waits until all are connected and each was welcomed so many times since its start; how long that took. An agent
    /// that has not noticed yet that its orchestrator is gone counts as connected, but not as welcomed again.
    ///
    /// # Panics
    /// When they are not in time.
    pub async fn all_connected(&self, welcomes: u64, deadline: Duration) -> Duration {
        let started = Instant::now();
        for host in &self.hosts {
            let mut contact = host.agent.contact();
            let left = deadline.saturating_sub(started.elapsed());
            let there = |contact: &Contact| contact.is_connected() && contact.welcomes >= welcomes;
            let connected = timeout(left, contact.wait_for(there)).await;
            assert!(
                matches!(connected, Ok(Ok(_))),
                "{} of {} agents are connected",
                self.connected(),
                self.hosts.len()
            );
        }
        started.elapsed()
    }

    /// Asks all to end and waits.
    ///
    /// # Errors
    /// When one had a part that ended unasked, or does not end in time.
    pub async fn stop(self) -> Result<(), SuperviseError> {
        let mut tasks = JoinSet::new();
        for host in self.hosts {
            tasks.spawn(host.agent.stop(STOP_GRACE));
        }
        tasks.join_all().await.into_iter().collect()
    }
}

fn start(folder: &Path) -> Simulated {
    let config = config(folder);
    let engine = FakeDriver::in_memory();
    let parts = Parts {
        settings: Settings { moved_grace: Duration::ZERO, ..config.settings() },
        identity: Identity::load(&config.identity_directory()).unwrap(),
        drivers: vec![engine.clone()],
        probe: Box::new(FixedProbe { inventory: inventory(), points: points() }),
        boot: boot::current().unwrap(),
    };
    let agent = Agent::start(parts)
        .unwrap_or_else(|error| panic!("{}: {}", folder.display(), chom_agent::chain::Chain(&error)));
    Simulated { agent, engine }
}
