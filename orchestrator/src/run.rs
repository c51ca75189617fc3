//! `chom-orchestrator run`: puts the parts together, serves until asked to stop, and takes them apart in order: first all
//! that asks (link, API, alerts), then what answers (the decider), last the store.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chom_supervise::{SuperviseError, Supervisor, aside};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::alerts::{Alerting, AlertingSettings};
use crate::api::{self, ApiCertificateError, App, CertificateKeeper};
use crate::audit::{self, AuditLog};
use crate::config::Config;
use crate::console::Consoles;
use crate::fleet::catalogue::{Catalogue, Overcommit, Size};
use crate::fleet::{Fleet, LoadError};
use crate::history::History;
use crate::images::fetcher::Fetcher;
use crate::images::{self, ImageError, ImageFolder, fetch};
use crate::notify::Notifier;
use crate::notify::webhook::Courier;
use crate::notify::webhook::post::{Policy, Poster};
use crate::session::{Link, LinkError, LinkOptions};
use crate::store::seal::{MasterKey, MasterKeyError};
use crate::store::{Store, sled};
use crate::usage::{Accountant, Archive};
use crate::{chain, clock, dial, export, init};

/// What asks has so long to end: a slow API request its deadline, the link its last packets.
const EDGES_GRACE: Duration = Duration::from_secs(15);
/// What answers has so long: commits under way. Both together stay under systemd's TimeoutStopSec (90 s by default).
const CORE_GRACE: Duration = Duration::from_secs(15);

/// Why the orchestrator does not run (any more).
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The master key.
    #[error(
        "there is no usable master key; put back the offline copy, or, for a new fleet, call `chom-orchestrator init`"
    )]
    MasterKey(#[from] MasterKeyError),
    /// The store.
    #[error("cannot open the store")]
    Open(#[from] sled::OpenError),
    /// The images.
    #[error("the images of the configuration cannot be used")]
    Images(#[from] ImageError),
    /// The folder of images that were added.
    #[error("the folder `images` in the state folder cannot be used")]
    ImageFolder(#[source] io::Error),
    /// The folder of usage records.
    #[error("the folder `usage` in the state folder cannot be used")]
    UsageFolder(#[source] io::Error),
    /// The fleet.
    #[error("cannot load the fleet")]
    Load(#[from] LoadError),
    /// The link.
    #[error("cannot serve agents")]
    Link(#[from] LinkError),
    /// The API's address.
    #[error(
        "cannot listen for the API on {address} (TCP); is another server there, or `listen_api` not an address of this machine?"
    )]
    ApiBind {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The audit log.
    #[error("the folder `audit` in the state folder cannot be used")]
    Audit(#[source] io::Error),
    /// What stands in it.
    #[error("the audit log cannot be taken up")]
    AuditKeeper(#[from] audit::keeper::AuditError),
    /// The API's certificate.
    #[error(transparent)]
    ApiCertificate(#[from] ApiCertificateError),
    /// Signals.
    #[error("cannot listen for signals")]
    Signal(#[source] io::Error),
    /// A task.
    #[error("the orchestrator did not end as asked")]
    Supervise(#[from] SuperviseError),
}

/// A running orchestrator.
pub struct Running {
    /// The use cases.
    pub fleet: Fleet,
    /// The durable rows.
    pub store: Arc<dyn Store>,
    /// The master key, for secrets in rows.
    pub master_key: Arc<MasterKey>,
    /// Recent samples.
    pub history: Arc<History>,
    /// The agents' connections.
    pub link: Link,
    /// Where agents are listened to, with the real port.
    pub link_address: SocketAddr,
    /// Where the API is served, with the real port.
    pub api_address: SocketAddr,
    /// All that asks; ends first.
    pub edges: Supervisor,
    core: Supervisor,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When something is missing at the start, or a part ends unasked.
pub async fn run(config: &Config) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    let running = start(config).await?;
    notify(&[NotifyState::Ready]);
    info!(version = env!("CARGO_PKG_VERSION"), "the orchestrator runs");
    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        () = running.edges.stop().cancelled_owned() => "a part ended",
        () = running.core.stop().cancelled_owned() => "a part ended",
    };
    info!(why, "stopping");
    notify(&[NotifyState::Stopping]);
    Ok(running.stop().await?)
}

/// Starts everything.
///
/// # Errors
/// When something is missing.
pub async fn start(config: &Config) -> Result<Running, RunError> {
    let (master, _) = init::load_master_key(config)?;
    let store = sled::open(&export::options(config))?;
    let master = Arc::new(master);
    let (folder, catalogue) = catalogue(config)?;
    let (fleet, decider) =
        Fleet::load(Arc::clone(&store), catalogue, Arc::clone(&master), clock::now()).await?;
    let (core, edges) = (Supervisor::new(), Supervisor::new());
    // On a thread of its own: a whole group of commits that ends at once is a long piece of work, and all that waits for the
    // same thread of the runtime would wait for it.
    let (runtime, stop) = (tokio::runtime::Handle::current(), core.stop());
    core.service("decider", aside(move || runtime.block_on(decider.run(stop))));
    // Before anything changes the store: entries get numbers behind all that stand in the log.
    let log = Arc::new(AuditLog::open(&config.state_directory.join("audit")).map_err(RunError::Audit)?);
    let audit = audit::Keeper::start(fleet.clone(), Arc::clone(&log), config.audit_days).await?;
    edges.service("audit", audit.run(edges.stop()));
    // Before anything is served, so that what is wrong with it is said at the start.
    let certificate = CertificateKeeper::new(config, fleet.clone())?;
    let api = bind_api(config.listen_api).await?;
    let api_address =
        api.local_addr().map_err(|source| RunError::ApiBind { address: config.listen_api, source })?;
    let archive = Archive::open(&config.state_directory.join("usage")).map_err(RunError::UsageFolder)?;
    let history = Arc::new(History::new(config.agent.report_interval_seconds));
    let images = Arc::new(folder);
    let rows = fleet.state();
    images
        .take_rows(rows.images.values().map(|stored| stored.row.as_ref()))
        .map_err(RunError::ImageFolder)?;
    let link = Link::new(fleet.clone(), Arc::clone(&history), images, edges.clone());
    let link_address = link.serve(&LinkOptions {
        listen: config.listen_link,
        idle_timeout: Duration::from_secs(config.link.idle_timeout_seconds.into()),
        server_names: config.server_names(),
        // Known to nobody else, and the same after every restart and restore.
        reset_key: master.derive("stateless reset of the link"),
    })?;
    let running =
        Running { fleet, store, master_key: master, history, link, link_address, api_address, edges, core };
    running.start_services(config, api, certificate, (log, archive));
    Ok(running)
}

impl Running {
    /// What runs beside the link. Each part has its line here.
    fn start_services(
        &self,
        config: &Config,
        api: TcpListener,
        certificate: CertificateKeeper,
        (audit, archive): (Arc<AuditLog>, Archive),
    ) {
        let Self { fleet, store, history, master_key, link, edges, .. } = self;
        let notifier = Notifier::new(fleet.clone(), Arc::clone(master_key));
        let policy = Policy { networks: config.webhooks.networks.clone() };
        let poster = Poster::new(dial::system_tls(), policy);
        let accountant = Accountant::new(fleet.clone(), archive, config.usage.settings());
        let courier = Courier::new(fleet.clone(), poster, accountant.clone(), config.webhooks.backoff());
        let consoles = Consoles::new(fleet.clone(), Arc::clone(&link.sessions), edges.clone());
        let app = App::new(
            fleet.clone(),
            Arc::clone(store),
            Arc::clone(history),
            (notifier.clone(), courier.clone(), accountant.clone()),
            Arc::clone(&link.images),
            consoles,
            audit,
        )
        .limited(&config.limits);
        let in_use = certificate.in_use();
        let settings = AlertingSettings::of(config);
        let alerting = Alerting::new(fleet.clone(), Arc::clone(history), settings, Some(in_use.clone()));
        let stop = edges.stop();
        edges.service("alerts", async move { alerting.watch(stop).await });
        let stop = edges.stop();
        edges.service("mail", async move { notifier.deliver(stop).await });
        edges.service("webhooks", courier.run(edges.stop()));
        edges.service("usage", accountant.run(edges.stop()));
        let tasks = edges.clone();
        edges.service("api", async move {
            if let Err(error) = api::serve(api::router(app), api, in_use, &tasks).await {
                error!(error = chain(&error), "the API cannot be served");
            }
        });
        let networks = fleet.catalogue().image_networks.clone();
        let client = fetch::Client::new(dial::system_tls(), networks, fetch::Limits::default());
        let fetcher = Fetcher::new(fleet.clone(), Arc::clone(&link.images), client, edges.clone());
        edges.service("images", fetcher.run(edges.stop()));
        edges.service("certificate", certificate.keep(edges.stop()));
        let keeper = fleet.clone();
        let stop = edges.stop();
        edges.service("keeper", async move { keeper.keep(stop).await });
        let many = fleet.clone();
        let stop = edges.stop();
        edges.service("bulk", async move { many.carry_out_bulk(stop).await });
        let every = Duration::from_secs(config.export_interval_seconds.into());
        let exports =
            export::keep_exporting(Arc::clone(store), config.export_directory.clone(), every, edges.stop());
        edges.service("exports", exports);
        if let Some(period) = sd_notify::watchdog_enabled() {
            edges.service("watchdog", watchdog(fleet.clone(), period, edges.stop()));
        }
    }

    /// Takes everything apart in order.
    ///
    /// # Errors
    /// When a part had ended unasked, or does not end in time.
    pub async fn stop(self) -> Result<(), SuperviseError> {
        let Self { fleet, store, link, edges, core, .. } = self;
        let edges = edges.shutdown(EDGES_GRACE).await;
        // The decider is asked to end before the last handle goes: without any it would end unasked.
        let core = core.shutdown(CORE_GRACE).await;
        drop((fleet, link));
        drop(store); // the last handle: its writer ends when it is done
        edges.and(core)
    }
}

/// The images' files, and what VPSs can be made of.
///
/// # Errors
/// When an image's file cannot be used.
pub fn catalogue(config: &Config) -> Result<(ImageFolder, Catalogue), ImageError> {
    let (folder, images) = images::load(&config.images, &config.state_directory)?;
    let size = |size: &crate::config::Size| {
        let (memory, disk) =
            (chom_protocol::Bytes::mib(size.memory_mib), chom_protocol::Bytes::mib(size.disk_mib));
        (size.name.clone(), Size { cores: size.cores, memory, disk })
    };
    let mut regions = config.regions.clone();
    regions.sort_unstable();
    let catalogue = Catalogue {
        fleet_name: config.fleet_name.clone(),
        regions,
        sizes: config.sizes.iter().map(size).collect(),
        images,
        default_images: config
            .images
            .iter()
            .filter(|image| image.default)
            .map(|image| image.name.clone())
            .collect(),
        overcommit: Overcommit {
            cores_per_core: config.overcommit.cores_per_core,
            memory_percent: config.overcommit.memory_percent,
            cores_reserved: config.overcommit.cores_reserved,
            memory_reserved: chom_protocol::Bytes::mib(config.overcommit.memory_reserved_mib),
            disk_reserved: chom_protocol::Bytes::mib(config.overcommit.disk_reserved_mib),
        },
        agent: config.agent.settings(),
        retention_seconds: u64::from(config.retention_days) * 24 * 60 * 60,
        unreachable_after_seconds: config.unreachable_after_seconds.into(),
        operation_seconds_max: config.operation_seconds_max.into(),
        image_networks: config.image_fetch_networks.clone(),
        webhook_networks: config.webhooks.networks.clone(),
        link_addresses: config.public_addresses.clone(),
    };
    Ok((folder, catalogue))
}

async fn bind_api(address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::ApiBind { address, source })
}

/// Tells systemd that we live while mutations still get their turn.
async fn watchdog(fleet: Fleet, period: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(period / 3);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // Changes nothing, and waits in the same queue as every mutation.
        let turn = fleet.decide("chom".into(), |_| Ok(()));
        if tokio::time::timeout(period / 3, turn).await.is_ok() {
            notify(&[NotifyState::Watchdog]);
        } else {
            warn!("mutations do not get their turn in time");
        }
    }
}

/// Without systemd there is nobody to tell, which is no error.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot tell systemd");
    }
}
