//! Tunnels to agents: opens one on a host's live connection, or says at once why not. Waits for no host that is away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chom_protocol::HostId;
use chom_protocol::link::codec::{HEADER_BYTES, decode, encode, payload_length};
use chom_protocol::link::tunnel::{TUNNELS_PER_HOST_MAX, TunnelReply, TunnelRequest};
use quinn::{Connection, RecvStream, SendStream};
use tokio::time::timeout;

use super::frames::{FrameError, send_bytes};
use super::registry::Sessions;

/// What an answer of an agent's own takes: milliseconds, or the host is as good as away.
const REFUSAL_SECONDS_SPARE: Duration = Duration::from_secs(2);

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// Nobody is there.
    #[error("its host is not connected now; look at the host, and try again when it is back")]
    Away,
    /// Somebody is there and says nothing.
    #[error("its host did not answer in time; look at the host, and try again")]
    Silent,
    /// Too many.
    #[error("its host has {TUNNELS_PER_HOST_MAX} consoles and screens open, as many as it takes; close one")]
    Busy,
    /// The agent says no.
    #[error("{problem}")]
    Refused {
        /// In its words.
        problem: String,
        /// Whether the same may go through later.
        retryable: bool,
    },
    /// The link broke, or the agent does not speak as it should.
    #[error("the connection to its host broke; try again when it is back")]
    Broken,
}

impl From<FrameError> for TunnelError {
    fn from(_: FrameError) -> Self {
        Self::Broken
    }
}

/// How many tunnels each host has open.
#[derive(Debug, Clone, Default)]
pub struct Tunnels(Arc<Mutex<BTreeMap<HostId, usize>>>);

/// An open tunnel; raw bytes from here on.
#[derive(Debug)]
pub struct Tunnel {
    /// To the guest.
    pub out: SendStream,
    /// From the guest.
    pub back: RecvStream,
    _slot: Slot,
}

impl Tunnels {
    /// Opens a tunnel of bytes.
    ///
    /// # Errors
    /// When the host is away, has too many open, or says no.
    pub async fn open(
        &self,
        sessions: &Sessions,
        host: HostId,
        request: &TunnelRequest,
        patience: Duration,
    ) -> Result<Tunnel, TunnelError> {
        match self.ask(sessions, host, request, patience).await? {
            (TunnelReply::Opened, tunnel) => Ok(tunnel),
            _ => Err(TunnelError::Broken),
        }
    }

    /// Has something done.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn have_done(
        &self,
        sessions: &Sessions,
        host: HostId,
        request: &TunnelRequest,
        patience: Duration,
    ) -> Result<(), TunnelError> {
        match self.ask(sessions, host, request, patience).await? {
            (TunnelReply::Done, _) => Ok(()),
            _ => Err(TunnelError::Broken),
        }
    }

    async fn ask(
        &self,
        sessions: &Sessions,
        host: HostId,
        request: &TunnelRequest,
        patience: Duration,
    ) -> Result<(TunnelReply, Tunnel), TunnelError> {
        let connection = sessions.connection(host).ok_or(TunnelError::Away)?;
        let slot = self.enter(host).ok_or(TunnelError::Busy)?;
        let asked = timeout(patience + REFUSAL_SECONDS_SPARE, exchange(&connection, request)).await;
        let (reply, out, back) = asked.map_err(|_| TunnelError::Silent)??;
        match reply {
            TunnelReply::Refused { problem, retryable } => Err(TunnelError::Refused { problem, retryable }),
            reply => Ok((reply, Tunnel { out, back, _slot: slot })),
        }
    }

    fn enter(&self, host: HostId) -> Option<Slot> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(host).or_default();
        if *count >= TUNNELS_PER_HOST_MAX {
            return None;
        }
        *count += 1;
        Some(Slot { tunnels: self.clone(), host })
    }
}

async fn exchange(
    connection: &Connection,
    request: &TunnelRequest,
) -> Result<(TunnelReply, SendStream, RecvStream), TunnelError> {
    let frame = encode(request).map_err(FrameError::from)?;
    let (mut out, mut back) = connection.open_bi().await.map_err(|_| TunnelError::Away)?;
    send_bytes(&mut out, &frame).await?;
    let mut header = [0; HEADER_BYTES];
    back.read_exact(&mut header).await.map_err(|_| TunnelError::Broken)?;
    let mut payload = vec![0; payload_length::<TunnelReply>(header).map_err(FrameError::from)?];
    back.read_exact(&mut payload).await.map_err(|_| TunnelError::Broken)?;
    Ok((decode(&payload).map_err(FrameError::from)?, out, back))
}

/// A tunnel's place among those of its host.
#[derive(Debug)]
struct Slot {
    tunnels: Tunnels,
    host: HostId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.tunnels.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.host);
            }
        }
    }
}
