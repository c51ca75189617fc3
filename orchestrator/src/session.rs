//! The agents' QUIC connections: who they are, what they say, what they are told. Decides nothing about the fleet: what
//! comes in goes to `fleet`, `history` and `images`, and so does every question.
//!
//! ```text
//! accept ── enrol (ALPN chom-enrol/1): one request, then closed
//!    └───── connection (ALPN chom/1): Hello, admitted by the newest rows ── control   FleetInfo, renewals, ledger
//!                                                                     ├─── pull      desired state when it changes
//!                                                                     └─── requests  status, results, samples, fetch
//! ```
//!
//! Memory per agent is what counts here: three small tasks, no channels, and no buffer but for a message on its way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chom_certs::{AuthorityError, CertificateError, TlsError};
use chom_protocol::link::Close;
use chom_supervise::Supervisor;
use quinn::{Endpoint, Incoming};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::fleet::Fleet;
use crate::history::History;
use crate::images::ImageFolder;

mod admission;
mod clones;
mod connection;
mod control;
mod endpoint;
mod enrolment;
mod frames;
mod pull;
mod registry;
mod requests;
mod tunnel;

#[cfg(test)]
mod tests;

pub use registry::Sessions;
pub use tunnel::{Tunnel, TunnelError, Tunnels};

/// Connections at once: twice the fleet we build for.
pub const CONNECTIONS_MAX: usize = 20_000;
/// Handshakes at once. A handshake takes under a millisecond of a core; more than this wait in the endpoint's queue.
pub const HANDSHAKES_MAX: usize = 1024;
/// With so many handshakes under way, peers must first prove their address (QUIC Retry), which costs them a round trip.
const RETRY_HANDSHAKES_MIN: usize = 512;
/// Blobs and images on their way at once: each takes some 300 KiB while it lasts.
pub const FETCHES_MAX: usize = 128;
/// `wait_idle` can take three probe timeouts; systemd would wait no longer either.
const CLOSE_SECONDS_MAX: Duration = Duration::from_secs(3);

/// What the link needs to know of the rest.
#[derive(Clone)]
pub struct Link {
    pub(crate) fleet: Fleet,
    pub(crate) history: Arc<History>,
    pub(crate) images: Arc<ImageFolder>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) fetches: Arc<Semaphore>,
    pub(crate) supervisor: Supervisor,
}

/// How the link is set up.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Where to listen (UDP).
    pub listen: SocketAddr,
    /// A connection on which nothing came for so long is over.
    pub idle_timeout: Duration,
    /// Names and addresses in the server's certificate.
    pub server_names: Vec<String>,
    /// The same after every restart, so that agents notice one at once (RFC 9000, section 10.3).
    pub reset_key: [u8; 32],
}

/// Why agents cannot be listened to.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The server's certificate.
    #[error("cannot make the link's certificate")]
    Certificate(#[source] AuthorityError),
    /// When it ends.
    #[error("the link's certificate cannot be read")]
    Validity(#[source] CertificateError),
    /// The TLS configuration.
    #[error("cannot set up TLS for the link")]
    Tls(#[source] TlsError),
    /// TLS without what QUIC needs; a mistake in the build.
    #[error("the TLS configuration cannot be used for QUIC")]
    Quic(#[source] quinn::crypto::rustls::NoInitialCipherSuite),
    /// The socket.
    #[error(
        "cannot listen for agents on {address} (UDP); is another orchestrator running, or `listen_link` not an address of this machine?"
    )]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Link {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        fleet: Fleet,
        history: Arc<History>,
        images: Arc<ImageFolder>,
        supervisor: Supervisor,
    ) -> Self {
        let (sessions, fetches) = (Arc::default(), Arc::new(Semaphore::new(FETCHES_MAX)));
        Self { fleet, history, images, sessions, fetches, supervisor }
    }

    /// Begins to listen for agents, until the supervisor stops. Gives the address, with its real port.
    ///
    /// # Errors
    /// When the certificate cannot be made or the address not be listened on.
    pub fn serve(&self, options: &LinkOptions) -> Result<SocketAddr, LinkError> {
        let (endpoint, made) = endpoint::open(options, &self.fleet.authorities())?;
        let address =
            endpoint.local_addr().map_err(|source| LinkError::Bind { address: options.listen, source })?;
        info!(%address, "listening for agents");
        let tls = endpoint::keep_tls(
            endpoint.clone(),
            options.clone(),
            self.fleet.authority_changes(),
            made,
            self.supervisor.stop(),
        );
        self.supervisor.service("link-tls", tls);
        self.supervisor.service("link", accept(self.clone(), endpoint, self.supervisor.stop()));
        Ok(address)
    }

    /// Who is connected.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }
}

async fn accept(link: Link, endpoint: Endpoint, stop: CancellationToken) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            incoming = endpoint.accept() => match incoming { // cancel-safe
                Some(incoming) => take(&link, &endpoint, &handshakes, incoming),
                None => break,
            },
        }
    }
    endpoint.close(Close::Shutdown.code().into(), b"the orchestrator is going down");
    // Bounded: a peer that is gone answers nothing.
    if tokio::time::timeout(CLOSE_SECONDS_MAX, endpoint.wait_idle()).await.is_err() {
        debug!("not all agents confirmed the end of their connection");
    }
}

fn take(link: &Link, endpoint: &Endpoint, handshakes: &Arc<Semaphore>, incoming: Incoming) {
    if endpoint.open_connections() >= CONNECTIONS_MAX {
        incoming.refuse();
        return;
    }
    let under_way = HANDSHAKES_MAX - handshakes.available_permits();
    if under_way >= RETRY_HANDSHAKES_MIN && incoming.may_retry() {
        // Fails only when it was validated already, which was just asked.
        let _ = incoming.retry();
        return;
    }
    match Arc::clone(handshakes).try_acquire_owned() {
        Ok(permit) => {
            let link = link.clone();
            link.supervisor.clone().spawn(connection::run(link, incoming, permit));
        }
        // The agent tries again, with jitter.
        Err(_) => incoming.refuse(),
    }
}
