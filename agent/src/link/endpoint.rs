//! Dials an orchestrator: names to addresses, TLS, QUIC's settings. Keeps nothing.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use chom_protocol::link::tunnel::TUNNELS_PER_HOST_MAX;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, IdleTimeout, TransportConfig, VarInt};
use tokio::time::timeout;

use super::LinkError;

/// A dial that takes longer is given up: the next address may answer.
const DIAL_SECONDS_MAX: Duration = Duration::from_secs(10);
/// Keeps NAT mappings alive; a quarter of the idle timeout, so that three lost packets do not end a connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A connection on which nothing came for so long is over.
const IDLE_MS_MAX: u32 = 60_000;
/// One frame's worth in flight per stream is plenty for an agent.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Images come with this much in flight: 1 MiB at 100 ms is 10 MiB/s.
const RECEIVE_WINDOW_BYTES: u32 = 1024 * 1024;
/// What may be sent and not yet acknowledged.
const SEND_WINDOW_BYTES: u64 = 256 * 1024;
/// Our certificates are small.
const CRYPTO_BUFFER_BYTES: usize = 16 * 1024;
/// Streams that the orchestrator may open: tunnels, and a resize beside them. Small, so the cast loses nothing.
const STREAMS_FROM_ORCHESTRATOR_MAX: u32 = TUNNELS_PER_HOST_MAX as u32 + 2;

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_FROM_ORCHESTRATOR_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .crypto_buffer_size(CRYPTO_BUFFER_BYTES)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS_MAX))));
    transport
}

/// A connection, and the endpoint that must live as long.
pub(crate) struct Dialled {
    pub(crate) connection: Connection,
    pub(crate) endpoint: Endpoint,
}

/// Dials `address` (host:port).
pub(crate) async fn dial(address: &str, tls: rustls::ClientConfig) -> Result<Dialled, LinkError> {
    let crypto = QuicClientConfig::try_from(tls).map_err(|_| LinkError::Cipher)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    let resolve = |source| LinkError::Resolve { address: address.to_owned(), source };
    let candidates = timeout(DIAL_SECONDS_MAX, tokio::net::lookup_host(address))
        .await
        .map_err(|_| LinkError::Silent { address: address.to_owned() })?
        .map_err(resolve)?;
    let mut last = LinkError::Silent { address: address.to_owned() };
    for candidate in candidates {
        match dial_one(candidate, config.clone(), address).await {
            Ok(dialled) => return Ok(dialled),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial_one(to: SocketAddr, config: ClientConfig, address: &str) -> Result<Dialled, LinkError> {
    let from: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let endpoint = Endpoint::client(from).map_err(LinkError::Socket)?;
    let connecting = endpoint
        .connect_with(config, to, chom_certs::SERVER_NAME)
        .map_err(|source| LinkError::Dial { address: address.to_owned(), source })?;
    match timeout(DIAL_SECONDS_MAX, connecting).await {
        Ok(Ok(connection)) => Ok(Dialled { connection, endpoint }),
        Ok(Err(source)) => Err(LinkError::Refused { address: address.to_owned(), source }),
        Err(_) => Err(LinkError::Silent { address: address.to_owned() }),
    }
}
