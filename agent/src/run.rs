//! The daemon: puts an agent together from the configuration, tells systemd how it is, ends when asked.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use chom_certs::{Identity, IdentityError};
use chom_protocol::vps::Engine;
use chom_supervise::SuperviseError;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, info, warn};

use crate::agent::{Agent, Parts, STOP_GRACE, StartError};
use crate::boot;
use crate::chain::Chain;
use crate::clock;
use crate::config::Config;
use crate::driver::acceleration;
use crate::driver::any::AnyDriver;
use crate::driver::fake::FakeDriver;
use crate::driver::incus::IncusDriver;
use crate::driver::libvirt::LibvirtDriver;
use crate::durable::SealedError;
use crate::image::ImageCache;
use crate::measure::Probe;
use crate::view::View;

/// The status file follows changes this much later, so that a busy host does not write it all the time.
const VIEW_SPACING: Duration = Duration::from_secs(1);
/// Without changes it is written this often.
const VIEW_EVERY: Duration = Duration::from_secs(15);
/// How often the main loop is looked at when systemd does not watch.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Who we are.
    #[error("the agent does not know who it is")]
    Identity(#[source] IdentityError),
    /// Which boot this is.
    #[error("cannot read which boot of the host this is from /proc")]
    Boot(#[source] io::Error),
    /// The fake engine's guests.
    #[error("the guests of the fake engine cannot be read")]
    Fake(#[source] SealedError),
    /// Its files.
    #[error("the agent cannot start")]
    Start(#[source] StartError),
    /// Signals.
    #[error("cannot listen for signals")]
    Signal(#[source] io::Error),
    /// It did not end as asked.
    #[error("the agent did not end as asked")]
    Supervise(#[source] SuperviseError),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or a part of it ends unasked.
pub async fn run(config: &Config, probe: Box<dyn Probe>) -> Result<(), RunError> {
    let asked = asked_to_stop().map_err(RunError::Signal)?;
    let agent = begin(config, probe).await?;
    info!(host = %agent.host(), version = env!("CARGO_PKG_VERSION"), "the agent runs");
    notify(&[NotifyState::Ready]);
    let ended = agent.ended();
    tokio::select! {
        signal = asked => info!("{signal}: stopping; VPSs stay as they are"),
        () = ended.cancelled() => {}
        () = watch_over(&agent) => {}
        () = keep_view(&agent, config) => {}
    }
    notify(&[NotifyState::Stopping]);
    agent.stop(STOP_GRACE).await.map_err(RunError::Supervise)
}

/// Listens from now on; resolves to the name of the signal that came.
fn asked_to_stop() -> io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

async fn begin(config: &Config, probe: Box<dyn Probe>) -> Result<Agent, RunError> {
    let identity = Identity::load(&config.identity_directory()).map_err(RunError::Identity)?;
    let boot = boot::current().map_err(RunError::Boot)?;
    let mut drivers = Vec::new();
    // In order of name: libvirt before those that share its network.
    for engine in config.engines.clone().unwrap_or_else(|| found(config)) {
        drivers.push(driver(config, engine, &drivers).await?);
    }
    let parts = Parts { settings: config.settings(), identity, drivers, probe, boot };
    Agent::start(parts).map_err(RunError::Start)
}

/// The engines that are on this host. Never the fake one: that must be asked for.
fn found(config: &Config) -> BTreeSet<Engine> {
    let marks = [(Engine::Libvirt, &config.helper), (Engine::Incus, &config.incus_socket)];
    marks.into_iter().filter(|(_, mark)| mark.exists()).map(|(engine, _)| engine).collect()
}

async fn driver(config: &Config, engine: Engine, before: &[AnyDriver]) -> Result<AnyDriver, RunError> {
    match engine {
        Engine::Libvirt => {
            let kernel = nix::sys::utsname::uname().map(|name| name.release().to_owned());
            let kernel = kernel.unwrap_or_default().to_string_lossy().into_owned();
            let verdict =
                acceleration::determine(config.acceleration, &config.state_directory, &kernel).await;
            info!(acceleration = ?verdict.acceleration, reason = verdict.reason, "guests' processors");
            let images = ImageCache::new(config.settings().image_directory);
            let driver = LibvirtDriver::new(config.helper.clone(), config.vps_directory(), images, verdict);
            Ok(AnyDriver::Libvirt(Box::new(driver)))
        }
        Engine::Incus => {
            let shared = before.iter().find_map(AnyDriver::network);
            Ok(AnyDriver::Incus(IncusDriver::new(config.incus_socket.clone(), shared)))
        }
        Engine::Fake => {
            warn!("the engine is a fake: no guest is real");
            let file = config.state_directory.join("fake-guests.json");
            Ok(AnyDriver::Fake(FakeDriver::in_file(file).map_err(RunError::Fake)?))
        }
    }
}

/// Pings systemd's watchdog, but only while the main loop turns. Never ends.
async fn watch_over(agent: &Agent) {
    let limit = sd_notify::watchdog_enabled();
    let mut tick = interval(limit.map_or(LOOK_EVERY, |limit| limit / 3));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let heartbeat = agent.heartbeat();
    let mut seen = heartbeat.count();
    loop {
        tick.tick().await;
        let count = heartbeat.count();
        if count == seen {
            warn!("the main loop does not turn");
        } else {
            notify(&[NotifyState::Watchdog]);
        }
        seen = count;
    }
}

/// Keeps the status file. Never ends.
async fn keep_view(agent: &Agent, config: &Config) {
    let (mut status, mut contact, desired) = (agent.status(), agent.contact(), agent.desired());
    loop {
        let view = {
            let (contact, status) = (contact.borrow_and_update().clone(), status.borrow_and_update().clone());
            View::new(agent.host(), &contact, desired.borrow().generation(), status.as_deref(), clock::now())
        };
        let folder = config.runtime_directory.clone();
        // A few KiB in memory (/run).
        if let Err(error) = view.write(&folder) {
            warn!(folder = %folder.display(), error = %Chain(&error), "cannot write the status file");
        }
        let written_at = Instant::now();
        tokio::select! { // every arm is cancel-safe
            Ok(()) = status.changed() => {}
            Ok(()) = contact.changed() => {}
            () = sleep_until(written_at + VIEW_EVERY) => {}
        }
        sleep_until(written_at + VIEW_SPACING).await;
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "systemd does not listen");
    }
}
