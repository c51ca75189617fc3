//! Consoles and screens that are open, and what opens them: tunnels to hosts, shared by viewers. Decides nothing about VPSs;
//! `fleet` says who may and notes what was done, `api` speaks with viewers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chom_protocol::api::console::ConsoleTicket;
use chom_protocol::link::tunnel::{Secret, TerminalSize, TunnelRequest};
use chom_protocol::{HostId, TunnelId, VpsId};
use ring::rand::SecureRandom;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock;
use crate::fleet::{Caller, Fleet, FleetError};
use crate::session::{Sessions, Tunnel, TunnelError, Tunnels};
use chom_supervise::Supervisor;

mod hub;
mod seats;
mod tickets;

use hub::Hub;
pub use hub::{Happened, Viewer};
use tickets::Tickets;

/// A host opens a console in milliseconds; its agent gives its engine 8 s.
const OPEN_SECONDS_MAX: Duration = Duration::from_secs(8);
/// An agent gives the guest 25 s; the API answers within 30 s.
const PASSWORD_SECONDS_MAX: Duration = Duration::from_secs(25);
/// The same for a resize: nobody waits for it.
const RESIZE_SECONDS_MAX: Duration = Duration::from_secs(5);
/// Viewers of all consoles and screens together; each holds up to some 100 KiB.
const VIEWERS_MAX: usize = 256;
/// A viewer that sends nothing to a screen for so long does not look any more.
pub const SCREEN_IDLE: Duration = hub::IDLE;
/// Bytes of a ticket: 256 bits, not to be guessed within a minute or ever.
const TICKET_BYTES: usize = 32;
/// What passwords are made of: no letters that are taken for others. A power of two, so that each is as likely.
const PASSWORD_LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Letters of a password: 100 bits.
const PASSWORD_LENGTH: usize = 20;

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// Not for this VPS, or not now.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// Not on its host.
    #[error("the VPS cannot be reached: {0}")]
    Tunnel(#[from] TunnelError),
    /// Too many viewers.
    #[error("too many viewers: at most 16 of one console and {VIEWERS_MAX} together; close one")]
    Full,
    /// No randomness.
    #[error("the system gives no randomness")]
    Random,
}

/// All consoles and screens. Clones are handles to the same.
#[derive(Clone)]
pub struct Consoles(Arc<Inner>);

struct Inner {
    fleet: Fleet,
    sessions: Arc<Sessions>,
    tunnels: Tunnels,
    tasks: Supervisor,
    hubs: Mutex<BTreeMap<VpsId, Arc<OnceCell<Arc<Hub>>>>>,
    tickets: Mutex<Tickets>,
    room: Arc<Semaphore>,
}

/// How somebody comes to a console.
#[derive(Debug, Clone, Copy, Default)]
pub struct Coming {
    /// Only to watch.
    pub view: bool,
    /// To write at once, whoever does now.
    pub take: bool,
    /// The terminal it comes with.
    pub size: TerminalSize,
}

/// A viewer's place among all.
pub struct Place(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl Consoles {
    /// None open yet. What is opened is a task of `tasks`.
    #[must_use]
    pub fn new(fleet: Fleet, sessions: Arc<Sessions>, tasks: Supervisor) -> Self {
        Self(Arc::new(Inner {
            fleet,
            sessions,
            tunnels: Tunnels::default(),
            tasks,
            hubs: Mutex::default(),
            tickets: Mutex::default(),
            room: Arc::new(Semaphore::new(VIEWERS_MAX)),
        }))
    }

    /// Where viewers' tasks belong.
    #[must_use]
    pub fn tasks(&self) -> &Supervisor {
        &self.0.tasks
    }

    /// Cancelled when everything goes down.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.0.tasks.stop()
    }

    /// A place for one more viewer.
    ///
    /// # Errors
    /// When there is none left.
    pub fn place(&self) -> Result<Place, ConsoleError> {
        Arc::clone(&self.0.room).try_acquire_owned().map(Place).map_err(|_| ConsoleError::Full)
    }

    /// Joins the console of a VPS, and opens it for the first; gives also what it said last.
    ///
    /// # Errors
    /// When it cannot be opened, or is full.
    pub async fn join(&self, vps: VpsId, coming: Coming) -> Result<(Viewer, Vec<u8>), ConsoleError> {
        let host = self.host(vps)?;
        let cell = Arc::clone(self.hubs().entry(vps).or_default());
        let hub = match cell.get_or_try_init(|| self.open(vps, host, coming.size)).await {
            Ok(hub) => Arc::clone(hub),
            Err(error) => {
                self.forget(vps, &cell);
                return Err(error);
            }
        };
        if let Some(joined) = hub.join(!coming.view, coming.take) {
            if joined.0.role().0 {
                joined.0.resize(coming.size);
            }
            return Ok(joined);
        }
        if !hub.is_over() {
            return Err(ConsoleError::Full);
        }
        // It ended this moment, and whoever pumps it is about to take it out: the next try opens another.
        self.forget(vps, &cell);
        Err(TunnelError::Broken.into())
    }

    async fn open(&self, vps: VpsId, host: HostId, size: TerminalSize) -> Result<Arc<Hub>, ConsoleError> {
        let tunnel = TunnelId::new(Uuid::new_v4());
        let request = TunnelRequest::Console { tunnel, vps, size };
        let opened = self.0.tunnels.open(&self.0.sessions, host, &request, OPEN_SECONDS_MAX).await?;
        let (hub, typed) = Hub::new(host, tunnel, size);
        let hub = Arc::new(hub);
        let (consoles, pumped) = (self.clone(), Arc::clone(&hub));
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = pumped.pump(opened, typed, consoles.stop()) => {}
                () = consoles.resizes(&pumped) => {}
            }
            consoles.hubs().retain(|_, cell| !cell.get().is_some_and(|hub| Arc::ptr_eq(hub, &pumped)));
        });
        Ok(hub)
    }

    /// Tells the host of every new size. Never ends before the hub.
    async fn resizes(&self, hub: &Hub) {
        let mut sizes = hub.size.subscribe();
        while sizes.changed().await.is_ok() {
            let request = TunnelRequest::Resize { tunnel: hub.tunnel, size: *sizes.borrow_and_update() };
            let told = self.0.tunnels.have_done(&self.0.sessions, hub.host, &request, RESIZE_SECONDS_MAX);
            if let Err(error) = told.await {
                tracing::debug!(%error, "a terminal was not resized");
            }
        }
    }

    /// Opens the screen of a VPS: the RFB protocol (RFC 6143), for this viewer alone.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn screen(&self, vps: VpsId) -> Result<Tunnel, ConsoleError> {
        let host = self.host(vps)?;
        let request = TunnelRequest::Vnc { vps };
        Ok(self.0.tunnels.open(&self.0.sessions, host, &request, OPEN_SECONDS_MAX).await?)
    }

    /// Sets a new password inside a VPS and gives it; it is kept nowhere.
    ///
    /// # Errors
    /// When it could not be set.
    pub async fn new_password(&self, vps: VpsId, user: &str) -> Result<Secret, ConsoleError> {
        let host = self.host(vps)?;
        let letters = random::<PASSWORD_LENGTH>()?.map(|byte| PASSWORD_LETTERS[usize::from(byte % 32)]);
        let password = Secret::new(letters.into_iter().map(char::from).collect());
        let request = TunnelRequest::SetPassword { vps, user: user.to_owned(), password: password.clone() };
        self.0.tunnels.have_done(&self.0.sessions, host, &request, PASSWORD_SECONDS_MAX).await?;
        Ok(password)
    }

    /// A ticket for one look into one VPS.
    ///
    /// # Errors
    /// When there is no such VPS, or too many tickets wait.
    pub fn ticket(&self, vps: VpsId, caller: &Caller) -> Result<ConsoleTicket, ConsoleError> {
        self.0.fleet.console_host(vps)?;
        let ticket = data_encoding::BASE64URL_NOPAD.encode(&random::<TICKET_BYTES>()?);
        let expires_at = self.tickets().issue(&ticket, vps, caller.clone(), clock::now());
        let expires_at = clock::rfc3339(expires_at.ok_or(ConsoleError::Full)?);
        let path = |what: &str| format!("/api/vps-servers/{vps}/{what}?ticket={ticket}");
        Ok(ConsoleTicket { console: path("console"), vnc: path("vnc"), expires_at, ticket })
    }

    /// Who was given a ticket, which is used up by this.
    #[must_use]
    pub fn redeem(&self, ticket: &str, vps: VpsId) -> Option<Caller> {
        self.tickets().redeem(ticket, vps, clock::now())
    }

    /// The host of a VPS, seen lately: nobody waits for another.
    fn host(&self, vps: VpsId) -> Result<HostId, ConsoleError> {
        Ok(self.0.fleet.console_host(vps)?.ok_or(TunnelError::Away)?)
    }

    fn forget(&self, vps: VpsId, cell: &Arc<OnceCell<Arc<Hub>>>) {
        let mut hubs = self.hubs();
        if hubs.get(&vps).is_some_and(|other| Arc::ptr_eq(other, cell)) {
            hubs.remove(&vps);
        }
    }

    fn hubs(&self) -> MutexGuard<'_, BTreeMap<VpsId, Arc<OnceCell<Arc<Hub>>>>> {
        self.0.hubs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.0.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], ConsoleError> {
    let mut bytes = [0; BYTES];
    ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| ConsoleError::Random)?;
    Ok(bytes)
}
