//! The UDP socket and the QUIC settings. Every figure here was measured (see the notes on dependencies in the design).

use std::sync::Arc;
use std::time::Duration;

use chom_certs::renew::two_thirds;
use chom_protocol::UnixMillis;
use chom_protocol::link::tunnel::TUNNELS_PER_HOST_MAX;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{LinkError, LinkOptions};
use crate::clock;
use crate::fleet::authority::Authorities;

/// Streams of one agent at once: control, pull, and one or two each of status, results, samples and fetch.
const STREAMS_PER_AGENT_MAX: u32 = 8;
/// Unread bytes of one stream that are buffered.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Unread bytes of one connection that are buffered: every stream's, so that a screen which nobody reads holds up no report.
const RECEIVE_WINDOW_BYTES: u32 = (STREAMS_PER_AGENT_MAX + TUNNELS_PER_HOST_MAX as u32) * STREAM_WINDOW_BYTES;
/// Unsent bytes of one connection that are buffered; with 20 ms to a host that is 12 MB/s for an image.
const SEND_WINDOW_BYTES: u64 = 256 * 1024;
/// TLS messages of one handshake; a certificate chain of ours has under 2 KiB.
const CRYPTO_BUFFER_BYTES: usize = 16 * 1024;
/// What the kernel keeps of 2,000 agents that all come at once.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Connections that wait to be taken; beyond it they are refused and come again.
const INCOMING_MAX: usize = 4096;
/// How often it is looked whether the certificate is to be renewed: its last third is months.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Between two resets: after a restart 2,000 agents hear of it within seconds, and two endpoints that answer each other's
/// resets stay harmless.
const RESET_INTERVAL: Duration = Duration::from_millis(1);

/// Opens the socket. Gives the endpoint, and when its certificate is to be renewed.
pub(super) fn open(
    options: &LinkOptions,
    authorities: &Authorities,
) -> Result<(Endpoint, UnixMillis), LinkError> {
    let (server, renew_at) = server_config(options, authorities)?;
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &options.reset_key);
    let id_key = connection_id_key(&reset_key);
    let bind = || {
        let socket = socket(options.listen)?;
        let mut config = EndpointConfig::new(Arc::new(reset_key));
        config.min_reset_interval(RESET_INTERVAL);
        // An endpoint answers with a reset only for connections whose ids it could have given itself; the key of those ids
        // is random by default, so that a restarted one would stay silent.
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
        Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))
    };
    let endpoint = bind().map_err(|source| LinkError::Bind { address: options.listen, source })?;
    Ok((endpoint, renew_at))
}

/// Makes the TLS configuration anew when the fleet's CAs change and before the certificate ends, until stopped. Connections
/// that are open stay as they are.
pub(super) async fn keep_tls(
    endpoint: Endpoint,
    options: LinkOptions,
    mut authorities: watch::Receiver<Arc<Authorities>>,
    mut renew_at: UnixMillis,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => false,
            changed = authorities.changed() => match changed { // cancel-safe
                Ok(()) => true,
                Err(_) => return, // the fleet is gone: everything stops
            },
        };
        if !changed && clock::now() < renew_at {
            continue;
        }
        let newest = Arc::clone(&authorities.borrow_and_update());
        match server_config(&options, &newest) {
            Ok((config, at)) => {
                endpoint.set_server_config(Some(config));
                renew_at = at;
                info!("the link has a new certificate");
            }
            Err(error) => {
                let error = crate::chain(&error);
                error!(error, "the link's certificate cannot be made anew; the earlier one stays in use");
            }
        }
    }
}

/// Follows from the reset key: the same after every restart.
fn connection_id_key(reset_key: &ring::hmac::Key) -> u64 {
    let tag = ring::hmac::sign(reset_key, b"chom connection ids");
    let first = tag.as_ref().iter().take(size_of::<u64>());
    first.fold(0, |key, byte| key << 8 | u64::from(*byte))
}

/// The configuration with a certificate just made, and when that is to be renewed.
fn server_config(
    options: &LinkOptions,
    authorities: &Authorities,
) -> Result<(ServerConfig, UnixMillis), LinkError> {
    let serving = authorities.serving();
    let certificate =
        serving.sign_server(&options.server_names, clock::now()).map_err(LinkError::Certificate)?;
    let tls = chom_certs::server_config(&certificate, authorities.bundle()).map_err(LinkError::Tls)?;
    let quic = QuicServerConfig::try_from(Arc::new(tls)).map_err(LinkError::Quic)?;
    let mut config = ServerConfig::with_crypto(Arc::new(quic));
    config.transport_config(Arc::new(transport(options)));
    config.max_incoming(INCOMING_MAX);
    let (from, to) = certificate.validity().map_err(LinkError::Validity)?;
    Ok((config, two_thirds(from, to)))
}

fn transport(options: &LinkOptions) -> TransportConfig {
    let mut transport = TransportConfig::default();
    // More than QUIC can say means never; the configuration counts in seconds of 32 bits, which it can.
    let idle = IdleTimeout::try_from(options.idle_timeout).unwrap_or(IdleTimeout::from(VarInt::MAX));
    transport
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(None)
        .max_concurrent_bidi_streams(STREAMS_PER_AGENT_MAX.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(RECEIVE_WINDOW_BYTES.into())
        .send_window(SEND_WINDOW_BYTES)
        .crypto_buffer_size(CRYPTO_BUFFER_BYTES)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        // With it each connection keeps a buffer of twenty packets, 27 KiB: more than all the rest of it. Without it an
        // image costs one system call for each packet.
        .enable_segmentation_offload(false);
    transport
}

fn socket(address: std::net::SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // Whether `[::]` takes IPv4 too is a setting of the machine (bindv6only); here it always does.
        socket.set_only_v6(false)?;
    }
    for (what, result) in [
        ("receive", socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)),
        ("send", socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)),
    ] {
        if let Err(error) = result {
            warn!(%error, "cannot enlarge the {what} buffer of the link's socket; a burst of agents may lose packets");
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
