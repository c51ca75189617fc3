//! One connection from its handshake to its end.

use std::sync::Arc;
use std::time::Duration;

use chom_certs::{ALPN_ENROL, ALPN_LINK};
use chom_protocol::link::{Close, Standing, ToOrchestrator};
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Incoming, RecvStream, SendStream};
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, info, warn};

use super::admission::{self, Admitted};
use super::frames::{FrameError, FrameReader};
use super::registry::end;
use super::{Link, control, enrolment, pull, requests};

/// From the first packet to Hello: a few round trips and a millisecond of work on both sides. Peers that dawdle hold one of
/// the places for handshakes.
const HANDSHAKE_SECONDS_MAX: Duration = Duration::from_secs(10);

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// We end it.
    #[error("{reason}")]
    Close {
        /// With this code.
        close: Close,
        /// For this reason.
        reason: String,
    },
    /// A frame that cannot be.
    #[error("a stream broke")]
    Frame(#[from] FrameError),
    /// It is over.
    #[error("the connection ended")]
    Connection(#[from] quinn::ConnectionError),
}

impl Ended {
    pub(super) fn protocol(reason: impl Into<String>) -> Self {
        Self::Close { close: Close::Protocol, reason: reason.into() }
    }
}

/// A session of an admitted host.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) link: Link,
    pub(super) connection: Connection,
    pub(super) admitted: Arc<Admitted>,
}

/// Serves one connection until it ends.
pub(super) async fn run(link: Link, incoming: Incoming, permit: OwnedSemaphorePermit) {
    let address = incoming.remote_address();
    let stop = link.supervisor.stop();
    let begin = async {
        let connection = incoming.accept()?.await?;
        Ok::<_, quinn::ConnectionError>(connection)
    };
    let connection = tokio::select! {
        () = stop.cancelled() => return,
        begun = tokio::time::timeout(HANDSHAKE_SECONDS_MAX, begin) => match begun {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                debug!(%address, %error, "a handshake failed");
                return;
            }
            Err(_) => {
                debug!(%address, "a handshake took too long");
                return;
            }
        },
    };
    let served = match alpn(&connection).as_deref() {
        // Boxed: else the task of every agent would be as large as an enrolment.
        Some(ALPN_ENROL) => Box::pin(enrolment::run(&link, &connection, HANDSHAKE_SECONDS_MAX)).await,
        Some(ALPN_LINK) => serve(&link, &connection, permit).await,
        _ => Err(Ended::protocol("the peer speaks neither chom/1 nor chom-enrol/1")),
    };
    if let Err(ended) = served {
        report(&connection, &ended);
    }
}

/// Tells the peer why, if it is we who end it, and the log.
fn report(connection: &Connection, ended: &Ended) {
    let address = connection.remote_address();
    let close = match ended {
        _ if connection.close_reason().is_some() => None,
        Ended::Close { close, .. } => Some(*close),
        Ended::Frame(error) => Some(error.close().unwrap_or(Close::Protocol)),
        Ended::Connection(_) => None,
    };
    let cause = crate::chain(ended);
    match close {
        Some(close) => {
            info!(%address, ?close, cause, "closing a connection");
            end(connection, close, &cause);
        }
        None => debug!(%address, cause, "a connection ended"),
    }
}

fn alpn(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

async fn serve(link: &Link, connection: &Connection, permit: OwnedSemaphorePermit) -> Result<(), Ended> {
    let peer = admission::identify(connection, &link.fleet)?;
    let greeting = async {
        let (send, receive) = connection.accept_bi().await?;
        let mut reader = FrameReader::new(receive);
        match reader.first().await? {
            Some(ToOrchestrator::Hello(hello)) => Ok((hello, send, reader)),
            _ => Err(Ended::protocol("the first word of a connection must be Hello, on the control stream")),
        }
    };
    let greeting = tokio::time::timeout(HANDSHAKE_SECONDS_MAX, Box::pin(greeting)).await;
    let (hello, send, reader) = greeting.map_err(|_| Ended::Close {
        close: Close::Slow,
        reason: format!("no Hello within {} s", HANDSHAKE_SECONDS_MAX.as_secs()),
    })??;
    let admitted = Box::pin(admission::admit(link, connection, peer, hello)).await?;
    drop(permit);
    let (host, instance) = (admitted.peer.host, admitted.hello.instance);
    debug!(%host, %instance, standing = ?admitted.standing, version = admitted.hello.agent_version, "an agent connected");
    link.fleet.connected(host, instance, &admitted.peer.serial);
    let session =
        Session { link: link.clone(), connection: connection.clone(), admitted: Arc::new(admitted) };
    let control = session.clone();
    link.supervisor.spawn(async move {
        if let Err(ended) = control::run(&control, send, reader).await {
            report(&control.connection, &ended);
        }
    });
    let ended = streams(&session).await;
    if let Err(ended) = &ended {
        report(connection, ended);
    }
    if link.sessions.end(host, connection) {
        debug!(%host, "an agent is gone");
        if let Err(error) = Box::pin(link.fleet.disconnected(host, instance)).await {
            warn!(%host, %error, "cannot store when a host was last seen");
        }
    }
    Ok(())
}

/// Takes streams until the connection ends. Their number is bounded by the transport's settings.
async fn streams(session: &Session) -> Result<(), Ended> {
    loop {
        let (send, receive) = session.connection.accept_bi().await?;
        if session.admitted.standing == Standing::RenewOnly {
            return Err(Ended::protocol(
                "this host's certificate has expired: it may renew, and nothing else",
            ));
        }
        let own = session.clone();
        session.link.supervisor.spawn(async move {
            if let Err(ended) = stream(&own, send, receive).await {
                report(&own.connection, &ended);
            }
        });
    }
}

async fn stream(session: &Session, send: SendStream, receive: RecvStream) -> Result<(), Ended> {
    let mut reader = FrameReader::new(receive);
    let served = match reader.first().await {
        Ok(Some(ToOrchestrator::Pull { have })) => pull::run(session, send, reader, have).await,
        Ok(Some(request)) => match requests::run(session, send, request).await {
            Ok(()) => reader.end().await.map_err(Ended::from),
            broken => broken,
        },
        Ok(None) => return Err(Ended::protocol("a stream ended without a request")),
        Err(error) => Err(error.into()),
    };
    match served {
        // The agent gave this stream up; that is its right.
        Err(Ended::Frame(
            FrameError::Read(quinn::ReadError::Reset(_)) | FrameError::Write(quinn::WriteError::Stopped(_)),
        )) => Ok(()),
        other => other,
    }
}
