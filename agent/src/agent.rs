//! One agent, put together: link, reconciler and measuring around one ledger. No global state: a process can run thousands.

use std::fs::{File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chom_certs::Identity;
use chom_protocol::host::HostStatus;
use chom_protocol::{BootId, HostId, InstanceId};
use chom_supervise::{SuperviseError, Supervisor};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::driver::Driver;
use crate::driver::engines::Engines;
use crate::durable::SealedError;
use crate::facts::{self, Asking};
use crate::health::{Heartbeat, Troubles};
use crate::image::ImageCache;
use crate::image::sweep::{self, Sweep};
use crate::ledger::{Desired, Ledger, LedgerError};
use crate::link::{self, Contact, Link};
use crate::measure::{self, Measuring, Probe};
use crate::network::Network;
use crate::reconcile::{self, Reconciler};
use crate::shelf::Shelves;
use crate::spool::SpoolError;
use crate::tunnel::Tunnels;

const NO_ENGINE: &str = "no engine was found on this host, so it runs no VPS: install chom-agent-libvirt or Incus, then restart the agent";

/// What an agent needs to know of its host's administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Ledger, memory, spools.
    pub state_directory: PathBuf,
    /// Verified images.
    pub image_directory: PathBuf,
    /// Disks of VPSs, which stand on images.
    pub vps_directory: PathBuf,
    /// The cap on destroys.
    pub destroys_per_hour: u32,
    /// How long a host that booted waits for word from the orchestrator.
    pub moved_grace: Duration,
}

/// All that an agent is made of.
pub struct Parts<D> {
    /// Its settings.
    pub settings: Settings,
    /// Who it is.
    pub identity: Identity,
    /// Its engines, one driver for each.
    pub drivers: Vec<D>,
    /// What measures the host.
    pub probe: Box<dyn Probe>,
    /// This boot of the host.
    pub boot: BootId,
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its files.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Its spools.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// What it knows of the guests' cards.
    #[error(transparent)]
    Network(#[from] SealedError),
    /// Two agents on one folder would undo each other's work.
    #[error("another agent is at work in `{}`; stop it first", folder.display())]
    Running {
        /// Where.
        folder: PathBuf,
    },
    /// The lock file.
    #[error("cannot lock `{}`", path.display())]
    Lock {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    host: HostId,
    tasks: Supervisor,
    status: watch::Receiver<Option<Arc<HostStatus>>>,
    contact: watch::Receiver<Contact>,
    ledger: Arc<Ledger>,
    heartbeat: Heartbeat,
    _lock: File,
}

impl Agent {
    /// Opens everything and begins. Needs no orchestrator: it goes on from its ledger.
    ///
    /// # Errors
    /// When its files cannot be used, or another agent uses them.
    pub fn start<D: Driver>(parts: Parts<D>) -> Result<Self, StartError> {
        let Parts { settings, identity, drivers, mut probe, boot } = parts;
        let folder = settings.state_directory;
        let host = identity.host();
        let (ledger, memory) = Ledger::open(&folder, host)?;
        let lock = lock(&folder)?;
        let ledger = Arc::new(ledger);
        let shelves = Shelves::open(&folder.join("spool"))?;
        let addresses = Ledger::orchestrators(&folder)?;
        let engines: Engines<D> = drivers.into_iter().collect();
        let network = Network::open(&folder)?;
        let (tasks, heartbeat, troubles) = (Supervisor::new(), Heartbeat::default(), Troubles::default());
        if engines.is_empty() {
            troubles.set("engines", NO_ENGINE.to_owned());
        }
        let status = watch::Sender::new(None);
        let (facts, said) = watch::channel(facts::Facts::new());
        let contact = watch::Sender::new(Contact::default());
        let inventory = watch::Sender::new(probe.inventory());
        let agent = Self {
            host,
            tasks: tasks.clone(),
            status: status.subscribe(),
            contact: contact.subscribe(),
            ledger: Arc::clone(&ledger),
            heartbeat: heartbeat.clone(),
            _lock: lock,
        };
        let link = Link {
            host,
            instance: InstanceId::new(uuid::Uuid::new_v4()),
            boot,
            identity: Arc::new(Mutex::new(identity)),
            state_folder: folder,
            addresses: watch::Sender::new(addresses),
            ledger: Arc::clone(&ledger),
            shelves: Arc::clone(&shelves),
            status: status.subscribe(),
            contact,
        };
        let images = ImageCache::new(settings.image_directory);
        let sweep = Sweep {
            images: images.clone(),
            vps_folder: settings.vps_directory,
            ledger: Arc::clone(&ledger),
            status: status.subscribe(),
        };
        let reconciler = Reconciler::new(reconcile::Parts {
            engines: engines.clone(),
            ledger: Arc::clone(&ledger),
            memory,
            network,
            shelves: Arc::clone(&shelves),
            images,
            contact: agent.contact.clone(),
            inventory: inventory.subscribe(),
            facts: said,
            status,
            troubles: troubles.clone(),
            heartbeat,
            boot,
            destroys_per_hour: settings.destroys_per_hour,
            moved_grace: settings.moved_grace,
        });
        let asking = Asking {
            engines: engines.clone(),
            ledger: Arc::clone(&ledger),
            status: agent.status.clone(),
            facts,
        };
        let tunnels = Arc::new(Tunnels::new(engines.clone(), Arc::clone(&ledger)));
        let measuring = Measuring { engines, probe: Some(probe), ledger, shelves, inventory, troubles, boot };
        tasks.service("reconcile", reconciler.run(tasks.stop()));
        tasks.service("facts", facts::run(asking, tasks.stop()));
        tasks.service("link", link::run(link, tunnels, tasks.stop()));
        tasks.service("measure", measure::run(measuring, tasks.stop()));
        tasks.service("sweep", sweep::run(sweep, tasks.stop()));
        Ok(agent)
    }

    /// Whose agent this is.
    #[must_use]
    pub fn host(&self) -> HostId {
        self.host
    }

    /// The host as last seen; none before the first pass.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Option<Arc<HostStatus>>> {
        self.status.clone()
    }

    /// The connection.
    #[must_use]
    pub fn contact(&self) -> watch::Receiver<Contact> {
        self.contact.clone()
    }

    /// What is on disk, and what changes of it.
    #[must_use]
    pub fn desired(&self) -> watch::Receiver<Desired> {
        self.ledger.watch()
    }

    /// Whether the main loop turns.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }

    /// Cancelled when a part of the agent ended unasked: end the process then, so that it is started anew.
    #[must_use]
    pub fn ended(&self) -> CancellationToken {
        self.tasks.stop()
    }

    /// Asks all parts to end and waits for them. VPSs stay as they are.
    ///
    /// # Errors
    /// When a part had ended unasked, or does not end in time.
    pub async fn stop(self, grace: Duration) -> Result<(), SuperviseError> {
        self.tasks.shutdown(grace).await
    }
}

/// How long the parts of an agent have to end: a write to a slow disk.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

/// Why an agent ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It did not end as asked.
    #[error(transparent)]
    Supervise(#[from] SuperviseError),
}

/// Runs an agent until `stop` is cancelled: what simulations call.
///
/// # Errors
/// When it does not start, or a part of it ends unasked.
pub async fn run<D: Driver>(parts: Parts<D>, stop: CancellationToken) -> Result<(), RunError> {
    let agent = Agent::start(parts)?;
    let ended = agent.ended();
    tokio::select! {
        () = stop.cancelled() => {}
        () = ended.cancelled() => {}
    }
    Ok(agent.stop(STOP_GRACE).await?)
}

fn lock(folder: &std::path::Path) -> Result<File, StartError> {
    let path = folder.join("lock");
    let failed = |source| StartError::Lock { path: path.clone(), source };
    let file = File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Running { folder: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}
