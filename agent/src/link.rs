//! The agent's connection to its orchestrator: dials, says who it is, pulls what should be, reports what is. Decides nothing
//! about VPSs; what comes goes to the ledger, what goes comes from the status and the spools.

mod backoff;
mod control;
mod endpoint;
pub(crate) mod frames;
mod pull;
mod reports;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use chom_certs::{Identity, IdentityError, TlsError};
use chom_protocol::host::HostStatus;
use chom_protocol::link::{Close, Standing, ToAgent, ToOrchestrator};
use chom_protocol::vps::Sha256;
use chom_protocol::{BootId, Bytes, HostId, InstanceId};
use quinn::{Connection, ConnectionError, RecvStream};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::chain::Chain;
use crate::driver::Driver;
use crate::ledger::{Ledger, LedgerError};
use crate::shelf::Shelves;
use crate::spool::SpoolError;
use crate::tunnel::{self, Tunnels};
use backoff::Backoff;
pub(crate) use endpoint::{Dialled, dial};
pub use frames::FrameError;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No address to dial.
    #[error("no orchestrator is known; enrol this host again with the line of `chomctl host add`")]
    Nowhere,
    /// Not now.
    #[error("there is no connection to an orchestrator now")]
    Apart,
    /// The build.
    #[error("the TLS configuration cannot be used for QUIC")]
    Cipher,
    /// The host's identity.
    #[error("the host's identity cannot be used")]
    Identity(#[source] IdentityError),
    /// TLS.
    #[error("the host's TLS configuration cannot be made")]
    Tls(#[source] TlsError),
    /// No UDP socket.
    #[error("cannot open a UDP socket")]
    Socket(#[source] io::Error),
    /// No such name.
    #[error("cannot find the address of `{address}`; check its name and this host's DNS")]
    Resolve {
        /// Which.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be dialled.
    #[error("cannot dial `{address}`")]
    Dial {
        /// Which.
        address: String,
        /// Why.
        #[source]
        source: quinn::ConnectError,
    },
    /// It did not take us.
    #[error("no connection to `{address}`")]
    Refused {
        /// Which.
        address: String,
        /// Why.
        #[source]
        source: ConnectionError,
    },
    /// It does not answer.
    #[error("`{address}` does not answer; check that UDP reaches it and that the orchestrator runs")]
    Silent {
        /// Which.
        address: String,
    },
    /// The connection ended.
    #[error("the connection ended")]
    Connection(#[from] ConnectionError),
    /// A stream of it.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A part of this agent is gone.
    #[error("a part of the agent ended")]
    Internal,
}

/// What is known of the connection.
#[derive(Debug, Clone, Default)]
pub struct Contact {
    /// The live connection.
    pub(crate) connection: Option<Connection>,
    /// What the orchestrator said we may do, while connected.
    pub standing: Option<Standing>,
    /// To whom.
    pub address: Option<String>,
    /// When we were first welcomed in this run.
    pub first_at: Option<Instant>,
    /// How often we were welcomed in this run.
    pub welcomes: u64,
    /// What went wrong last, while not connected.
    pub problem: Option<String>,
}

impl Contact {
    /// Whether there is a connection now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }
}

/// All that the link works with.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) host: HostId,
    pub(crate) instance: InstanceId,
    pub(crate) boot: BootId,
    pub(crate) identity: Arc<Mutex<Identity>>,
    pub(crate) state_folder: PathBuf,
    pub(crate) addresses: watch::Sender<Vec<String>>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) shelves: Arc<Shelves>,
    pub(crate) status: watch::Receiver<Option<Arc<HostStatus>>>,
    pub(crate) contact: watch::Sender<Contact>,
}

/// How a session ended.
enum Ended {
    /// Dial again at once.
    Again,
    /// It broke, or never came about.
    Broken(LinkError),
}

/// Keeps a connection until asked to stop.
pub(crate) async fn run<D: Driver>(link: Link, tunnels: Arc<Tunnels<D>>, stop: CancellationToken) {
    let mut backoff = Backoff::default();
    loop {
        let round = tokio::select! {
            () = stop.cancelled() => break,
            round = round(&link, &tunnels, &mut backoff) => round,
        };
        let random = u64::from_be_bytes(random_bytes());
        let pause = match round {
            Ended::Again => continue,
            Ended::Broken(error) => {
                let pause = if needs_patience(&error) { backoff.long(random) } else { backoff.next(random) };
                warn!(error = %Chain(&error), pause_ms = pause.as_millis(), "not connected");
                set_contact(&link, |contact| contact.problem = Some(Chain(&error).to_string()));
                pause
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    let connection = link.contact.borrow().connection.clone();
    if let Some(connection) = connection {
        connection.close(Close::Done.code().into(), b"the agent is stopping");
    }
}

fn random_bytes() -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[..8]);
    // Version and variant bits of a UUID sit in its bytes 6 and 8: byte 6 is replaced by one that is all random.
    bytes[6] = uuid::Uuid::new_v4().as_bytes()[0];
    bytes
}

/// Tries each address in turn; serves the first that answers until the session ends.
async fn round<D: Driver>(link: &Link, tunnels: &Arc<Tunnels<D>>, backoff: &mut Backoff) -> Ended {
    let addresses = link.addresses.borrow().clone();
    let mut last = LinkError::Nowhere;
    for address in addresses {
        let tls = match chom_certs::client_config(&*link.identity.lock().await) {
            Ok(tls) => tls,
            Err(error) => return Ended::Broken(LinkError::Tls(error)),
        };
        let Dialled { connection, endpoint } = match dial(&address, tls).await {
            Ok(dialled) => dialled,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let began = Instant::now();
        let ended = session(link, tunnels, &connection, &address).await;
        backoff.held(began.elapsed());
        set_contact(link, |contact| {
            (contact.connection, contact.standing, contact.address) = (None, None, None);
        });
        // What the other side said when it closed says more than the stream that broke by it.
        let close = connection.close_reason();
        connection.close(Close::Done.code().into(), b"");
        drop(endpoint); // sends what is left and goes
        return match (ended, close) {
            (Ok(()), _) => Ended::Again,
            (Err(_), Some(reason)) if code(&reason) == Some(Close::Standing) => Ended::Again,
            (Err(_), Some(reason)) => Ended::Broken(LinkError::Connection(reason)),
            (Err(error), None) => Ended::Broken(error),
        };
    }
    Ended::Broken(last)
}

fn code(error: &ConnectionError) -> Option<Close> {
    match error {
        ConnectionError::ApplicationClosed(close) => Close::from_code(close.error_code.into_inner()),
        _ => None,
    }
}

/// Whether dialling again soon would only be a nuisance.
fn needs_patience(error: &LinkError) -> bool {
    let (LinkError::Connection(reason) | LinkError::Refused { source: reason, .. }) = error else {
        return false;
    };
    match code(reason) {
        Some(Close::Identity | Close::Revoked | Close::Cloned | Close::Protocol) => true,
        Some(
            Close::Done | Close::Shutdown | Close::Slow | Close::Replaced | Close::Standing | Close::Busy,
        )
        | None => false,
    }
}

fn set_contact(link: &Link, change: impl FnOnce(&mut Contact)) {
    link.contact.send_modify(change);
}

/// One connection, from Hello to its end. `Ok` asks for another one at once.
async fn session<D: Driver>(
    link: &Link,
    tunnels: &Arc<Tunnels<D>>,
    connection: &Connection,
    address: &str,
) -> Result<(), LinkError> {
    let control = control::open(link, connection).await?;
    let standing = control.standing;
    info!(address, ?standing, "connected");
    set_contact(link, |contact| {
        contact.connection = Some(connection.clone());
        contact.standing = Some(standing);
        contact.address = Some(address.to_owned());
        contact.first_at.get_or_insert_with(Instant::now);
        contact.welcomes += 1;
        contact.problem = None;
    });
    let pulls = matches!(standing, Standing::Managed | Standing::Hold);
    let reports = standing != Standing::RenewOnly;
    // All lanes are futures of this one task: together they end, and a connection costs one task.
    tokio::select! {
        ended = control::run(link, control) => ended,
        Err(error) = pull::run(connection, &link.ledger), if pulls => Err(error),
        Err(error) = reports::status(connection, &link.ledger, link.status.clone()), if reports => Err(error),
        Err(error) = reports::results(connection, &link.shelves), if reports => Err(error),
        Err(error) = reports::samples(connection, &link.shelves), if reports => Err(error),
        Err(error) = tunnel::run(tunnels, connection, standing) => Err(error),
        reason = connection.closed() => Err(LinkError::Connection(reason)),
    }
}

/// Fetches blobs over whatever connection there is.
#[derive(Debug, Clone)]
pub struct Blobs(pub(crate) watch::Receiver<Contact>);

impl Blobs {
    /// Asks for a blob from `offset` on: its whole size, and the stream of what is left.
    pub(crate) async fn fetch(&self, sha256: Sha256, offset: u64) -> Result<(u64, RecvStream), LinkError> {
        let connection = self.0.borrow().connection.clone().ok_or(LinkError::Apart)?;
        let opening = timeout(frames::ANSWER_SECONDS_MAX, connection.open_bi()).await;
        let (mut out, mut back) = opening.map_err(|_| FrameError::Slow)??;
        frames::send(&mut out, &ToOrchestrator::Fetch { sha256, offset: Bytes(offset) }).await?;
        let _ = out.finish(); // fails only on a stream that is closed, and then so does the next line
        match frames::answer(&mut back).await? {
            ToAgent::Blob { size } => Ok((size.0, back)),
            ToAgent::Problem { problem } => Err(FrameError::Problem { problem }.into()),
            _ => Err(FrameError::Unexpected { stream: "fetch" }.into()),
        }
    }
}

/// Joins a fleet: one question, one answer, on a connection of its own.
pub(crate) async fn enrol(
    address: &str,
    tls: rustls::ClientConfig,
    message: ToOrchestrator,
) -> Result<ToAgent, LinkError> {
    let Dialled { connection, endpoint } = dial(address, tls).await?;
    let asked = async {
        let (mut out, mut back) = connection.open_bi().await?;
        frames::send(&mut out, &message).await?;
        let _ = out.finish(); // fails only on a stream that is closed, and then so does the next line
        Ok(frames::answer(&mut back).await?)
    };
    let answer: Result<ToAgent, LinkError> = asked.await;
    connection.close(Close::Done.code().into(), b"");
    // Bounded: an orchestrator that is gone answers nothing.
    let _ = timeout(std::time::Duration::from_secs(1), endpoint.wait_idle()).await;
    answer
}
