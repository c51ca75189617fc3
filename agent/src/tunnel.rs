//! Tunnels: streams that the orchestrator opens to one VPS each, for its console, its screen, a new password. Passes bytes on
//! and keeps none; what is no tunnel of `chom_protocol::link::tunnel` is refused. Their number is bounded by the transport
//! (`link/endpoint.rs`), their bytes by QUIC's windows, their life by the connection and an idle limit.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chom_protocol::link::Standing;
use chom_protocol::link::tunnel::{Secret, TerminalSize, TunnelReply, TunnelRequest};
use chom_protocol::{TunnelId, VpsId};
use quinn::{Connection, RecvStream, SendStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info};

use crate::chain::Chain;
use crate::driver::engines::Engines;
use crate::driver::{Driver, DriverError, Pipe};
use crate::ledger::Ledger;
use crate::link::{FrameError, LinkError, frames};

/// A console or screen that is there opens in milliseconds; the orchestrator's client waits meanwhile.
const OPEN_SECONDS_MAX: Duration = Duration::from_secs(8);
/// An agent in the guest that answers does so in seconds, also where its processor is translated.
const PASSWORD_SECONDS_MAX: Duration = Duration::from_secs(25);
/// The orchestrator ends idle tunnels sooner; this is for one that forgot.
const IDLE: Duration = Duration::from_secs(3600);
/// A side that takes nothing for so long is gone.
const WRITE_SECONDS_MAX: Duration = Duration::from_secs(60);
/// Read at once, each way.
const CHUNK_BYTES: usize = 8 * 1024;

/// All that tunnels work with.
#[derive(Debug)]
pub(crate) struct Tunnels<D> {
    engines: Engines<D>,
    ledger: Arc<Ledger>,
    /// Of the open consoles.
    sizes: Mutex<BTreeMap<TunnelId, watch::Sender<TerminalSize>>>,
}

impl<D: Driver> Tunnels<D> {
    pub(crate) fn new(engines: Engines<D>, ledger: Arc<Ledger>) -> Self {
        Self { engines, ledger, sizes: Mutex::default() }
    }

    fn driver(&self, vps: VpsId) -> Result<Arc<D>, DriverError> {
        let gone = || DriverError::lasting(format!("VPS {vps} is not on this host (any more)"));
        let spec = self.ledger.desired().spec.ok_or_else(gone)?;
        let engine = spec.vps.get(&vps).ok_or_else(gone)?.engine;
        let missing = || DriverError::lasting(format!("this host does not have the engine {engine}"));
        self.engines.get(engine).cloned().ok_or_else(missing)
    }

    /// Enters a console until the guard is dropped.
    fn enter(
        self: &Arc<Self>,
        tunnel: TunnelId,
        size: TerminalSize,
    ) -> (Entry<D>, watch::Receiver<TerminalSize>) {
        let (sender, receiver) = watch::channel(size);
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).insert(tunnel, sender);
        (Entry { tunnels: Arc::clone(self), tunnel }, receiver)
    }

    async fn set_password(&self, vps: VpsId, user: &str, password: &Secret) -> Result<(), DriverError> {
        let driver = self.driver(vps)?;
        within(PASSWORD_SECONDS_MAX, driver.set_password(vps, user, password)).await
    }

    fn resize(&self, tunnel: TunnelId, size: TerminalSize) -> Result<(), DriverError> {
        let sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = sizes.get(&tunnel).ok_or_else(|| DriverError::lasting("that console is closed"))?;
        sender.send_replace(size);
        Ok(())
    }
}

/// An open console in the map; out of it when dropped.
struct Entry<D> {
    tunnels: Arc<Tunnels<D>>,
    tunnel: TunnelId,
}

impl<D> Drop for Entry<D> {
    fn drop(&mut self) {
        self.tunnels.sizes.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.tunnel);
    }
}

/// Serves the tunnels of one connection until it ends; they end with it.
pub(crate) async fn run<D: Driver>(
    tunnels: &Arc<Tunnels<D>>,
    connection: &Connection,
    standing: Standing,
) -> Result<Infallible, LinkError> {
    let mut open = JoinSet::new();
    loop {
        tokio::select! { // both arms are cancel-safe
            accepted = connection.accept_bi() => {
                let (out, back) = accepted?;
                let tunnels = Arc::clone(tunnels);
                open.spawn(async move {
                    if let Err(error) = serve(&tunnels, out, back, standing).await {
                        debug!(error = %Chain(&error), "a tunnel broke");
                    }
                });
            }
            Some(_) = open.join_next() => {}
        }
    }
}

async fn serve<D: Driver>(
    tunnels: &Arc<Tunnels<D>>,
    mut out: SendStream,
    mut back: RecvStream,
    standing: Standing,
) -> Result<(), FrameError> {
    let request: TunnelRequest = frames::due(&mut back).await?;
    if standing != Standing::Managed {
        let problem = "this host may only report: it is out of the fleet, quarantined or on hold";
        return answer(&mut out, Err(DriverError::lasting(problem))).await;
    }
    match request {
        TunnelRequest::Console { tunnel, vps, size } => {
            let (_entry, size) = tunnels.enter(tunnel, size);
            let opened = match tunnels.driver(vps) {
                Ok(driver) => within(OPEN_SECONDS_MAX, driver.console(vps, size)).await,
                Err(error) => Err(error),
            };
            pass(vps, "console", opened, out, back).await
        }
        TunnelRequest::Vnc { vps } => {
            let opened = match tunnels.driver(vps) {
                Ok(driver) => within(OPEN_SECONDS_MAX, driver.screen(vps)).await,
                Err(error) => Err(error),
            };
            pass(vps, "screen", opened, out, back).await
        }
        TunnelRequest::Resize { tunnel, size } => answer(&mut out, tunnels.resize(tunnel, size)).await,
        TunnelRequest::SetPassword { vps, user, password } => {
            let set = tunnels.set_password(vps, &user, &password).await;
            info!(%vps, user, done = set.is_ok(), "a password was to be set");
            answer(&mut out, set).await
        }
    }
}

async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, DriverError>>,
) -> Result<T, DriverError> {
    let late = || DriverError::passing(format!("the engine did not answer within {} s", deadline.as_secs()));
    timeout(deadline, work).await.unwrap_or_else(|_| Err(late()))
}

/// The one answer of a tunnel without bytes.
async fn answer(out: &mut SendStream, outcome: Result<(), DriverError>) -> Result<(), FrameError> {
    let reply = match outcome {
        Ok(()) => TunnelReply::Done,
        Err(DriverError { problem, retryable }) => TunnelReply::Refused { problem, retryable },
    };
    frames::send(out, &reply).await?;
    let _ = out.finish(); // fails only on a stream that is closed
    Ok(())
}

/// Says that it is open, and passes bytes on until either side ends.
async fn pass(
    vps: VpsId,
    what: &'static str,
    opened: Result<Box<dyn Pipe>, DriverError>,
    mut out: SendStream,
    mut back: RecvStream,
) -> Result<(), FrameError> {
    let pipe = match opened {
        Ok(pipe) => pipe,
        Err(error) => return answer(&mut out, Err(error)).await,
    };
    frames::send(&mut out, &TunnelReply::Opened).await?;
    info!(%vps, what, "opened");
    let (mut from_guest, mut to_guest) = tokio::io::split(pipe);
    let moved = AtomicU64::new(0);
    let outward = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = from_guest.read(&mut chunk).await {
            moved.fetch_add(1, Ordering::Relaxed);
            if !matches!(timeout(WRITE_SECONDS_MAX, out.write_all(&chunk[..count])).await, Ok(Ok(()))) {
                return "the orchestrator takes nothing";
            }
        }
        "the guest's side ended"
    };
    let inward = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(Some(count)) = back.read(&mut chunk).await {
            moved.fetch_add(1, Ordering::Relaxed);
            if !matches!(timeout(WRITE_SECONDS_MAX, to_guest.write_all(&chunk[..count])).await, Ok(Ok(()))) {
                return "the guest takes nothing";
            }
        }
        "the orchestrator's side ended"
    };
    let why = tokio::select! {
        why = outward => why,
        why = inward => why,
        () = idle(&moved) => "nothing was said for an hour",
    };
    let _ = out.finish(); // fails only on a stream that is closed
    info!(%vps, what, why, "closed");
    Ok(())
}

/// Waits until nothing was moved for [`IDLE`].
async fn idle(moved: &AtomicU64) {
    loop {
        let before = moved.load(Ordering::Relaxed);
        tokio::time::sleep(IDLE).await;
        if moved.load(Ordering::Relaxed) == before {
            return;
        }
    }
}
